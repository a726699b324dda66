//! Carries a change out: checkout → plan → build → push → promote → receipt.
//!
//! A [`Site`] says where and with what; every step takes it, a document, and returns the next document.

mod build;
mod checkout;
mod compare;
mod contexts;
mod housekeeping;
mod landed;
mod origin;
mod promote;
mod push;
mod receipt;
mod run;
mod schedule;
mod scratch;
mod secrets;
mod survey;

pub(crate) mod catchup;
pub(crate) mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::decide::BranchGlobs;
use crate::docker::Docker;
use crate::error::Failure;
use crate::events::Events;
use crate::git::{Access, Remote, RemoteError};
use crate::manifest::Template;
use crate::model::{ForgeName, ImageName, RegistryAddress, RepoName};
use crate::registry::Registry;

pub(crate) use build::{BuildOptions, build};
pub(crate) use checkout::resolve_by_hand;
pub(crate) use landed::landed;
pub(crate) use origin::{ByHand, Origin};
pub(crate) use push::{PushOptions, push};
pub(crate) use run::{Ran, run};

/// A repository that may be built, and how.
#[derive(Debug, Clone)]
pub(crate) struct RepositoryRule {
    /// Full name on the forge.
    pub name: RepoName,
    /// Where to clone from instead of the payload's URL.
    pub clone_url: Option<String>,
    /// In front of its image names.
    pub namespace: Option<ImageName>,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// The forge that it lives on, and its `url`, as `https://github.com`.
    pub forge_kind: ForgeName,
    pub forge: String,
    /// The branches that are built.
    pub branches: BranchGlobs,
    /// Earlier full names: images with these sources are its own.
    pub former_names: Vec<RepoName>,
    /// BuildKit secrets, by id.
    pub secrets: BTreeMap<String, PathBuf>,
}

impl RepositoryRule {
    /// Where the forge itself serves it.
    pub(crate) fn on_its_forge(&self) -> Result<Remote, RemoteError> {
        Remote::of_forge(self.forge_kind, &self.forge, &self.name)
    }
}

/// Where and with what a change is carried out.
#[derive(Clone)]
pub(crate) struct Site {
    /// Mirrors, receipts, locks.
    pub state_dir: PathBuf,
    /// The allow-list; empty restricts nothing.
    pub repositories: Vec<RepositoryRule>,
    /// Where images go; `None` builds local names.
    pub registry: Option<RegistryAddress>,
    /// The same registry, to talk to.
    pub client: Option<Registry>,
    /// The docker CLI.
    pub docker: Docker,
    /// How private repositories of each configured forge are read.
    pub access: Vec<Access>,
    /// The repository that a person typed, with the login that stood in its URL: no document carries that.
    pub typed: Option<Remote>,
    /// Images at once.
    pub jobs: usize,
    /// For each build and each push of an image.
    pub timeout: Duration,
    /// Tags of every image, from the command line.
    pub tags: Option<Vec<Template>>,
    /// Tags of images that name none, from the configuration.
    pub default_tags: Option<Vec<Template>>,
    /// Build secrets from the command line: id → file.
    pub secrets: BTreeMap<String, PathBuf>,
    /// Newest local images of each name that stay.
    pub keep_local: usize,
    pub events: Events,
    /// Whether to go on.
    pub cancel: Cancel,
}

impl Site {
    fn registry_and_client(&self) -> Result<(&RegistryAddress, &Registry), Failure> {
        match (&self.registry, &self.client) {
            (Some(address), Some(client)) => Ok((address, client)),
            (None, _) | (_, None) => Err(Failure::usage("there is no registry to push to")
                .hint("name one: --registry HOST, SWANCI_REGISTRY, or registry.host in the configuration")),
        }
    }
}

/// A document together with how it went: a failed push has a receipt too.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    /// The document.
    pub document: T,
    /// Why the command fails all the same.
    pub failure: Option<Failure>,
}

/// Threads that talk to the registry at once; each keeps a connection.
const REGISTRY_THREADS: usize = 8;

/// Now, in UTC, to the second: the `started` and `finished` of documents.
fn now() -> String {
    let second = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Seconds, to the millisecond, as documents carry them.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
