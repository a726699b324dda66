//! Processes a change: checkout → plan → build → push → promote → receipt.
//!
//! Each step takes a [`Site`] (settings and clients) and a document, and returns the next document.

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
mod survey;

pub(crate) mod catchup;
pub(crate) mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::cancel::Cancel;
use crate::config::RepositoryConfig;
use crate::docker::Docker;
use crate::error::{Failure, Kind};
use crate::events::Events;
use crate::git::{Access, Remote};
use crate::manifest::Template;
use crate::model::RegistryAddress;
use crate::registry::Registry;

pub(crate) use build::{BuildOptions, build};
pub(crate) use checkout::resolve_by_hand;
pub(crate) use landed::landed;
pub(crate) use origin::{ByHand, Origin};
pub(crate) use push::{PushOptions, push};
pub(crate) use run::{Ran, run};

/// The settings and clients of a command.
#[derive(Clone)]
pub(crate) struct Site {
    pub state_dir: PathBuf,
    /// The allow-list; empty allows every repository.
    pub repositories: Vec<RepositoryConfig>,
    /// The target registry; `None` builds local names.
    pub registry: Option<RegistryAddress>,
    pub client: Option<Registry>,
    pub docker: Docker,
    /// How to read private repositories of each configured forge.
    pub access: Vec<Access>,
    /// The typed repository, with the login from its URL, which no document contains.
    pub typed: Option<Remote>,
    pub jobs: usize,
    /// The limit for each build and each push of an image.
    pub timeout: Duration,
    /// Tags for every image, from the command line.
    pub tags: Option<Vec<Template>>,
    /// Tags for images that list none, from the configuration.
    pub default_tags: Option<Vec<Template>>,
    /// Build secrets from the command line: id → file.
    pub secrets: BTreeMap<String, PathBuf>,
    /// How many of the newest local images of each name to keep.
    pub keep_local: usize,
    pub events: Events,
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

/// A document and its failure, if any: a failed push also has a receipt.
#[derive(Debug)]
pub(crate) struct Outcome<T> {
    pub document: T,
    pub failure: Option<Failure>,
}

/// The first failure of the kind that decides the exit code.
fn worst(failures: Vec<Failure>) -> Option<Failure> {
    let kind = failures.iter().map(|failure| failure.kind).reduce(Kind::and)?;
    failures.into_iter().find(|failure| failure.kind == kind)
}

/// Threads for registry requests; each keeps a connection.
const REGISTRY_THREADS: usize = 8;

/// The current UTC time, to the second: the `started` and `finished` of documents.
fn now() -> String {
    let second = jiff::Timestamp::now().as_second();
    jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

/// Seconds, rounded to milliseconds, for documents.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
