//! The command line of the steps: evaluate, build, push, run and catchup.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{REGISTRY, WHERE_IMAGES_GO};
use crate::manifest::Template;
use crate::model::{BranchName, ForgeName, ImageName, RegistryAddress, RepoName};
use crate::pipeline::catchup::Since;

#[derive(Debug, Args)]
pub(crate) struct PayloadArgs {
    /// The webhook's body: a file, or `-` for standard input
    #[arg(value_name = "PAYLOAD")]
    pub payload: PathBuf,
    /// The event header, such as pull_request [default: detected from the payload]
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// The payload's forge, such as github or gitea [default: detected from the payload]
    #[arg(long, value_name = "KIND")]
    pub forge: Option<ForgeName>,
    /// Verify the signature with the secret in this file
    #[arg(long, value_name = "FILE", requires = "signature")]
    pub secret_file: Option<PathBuf>,
    /// The value of X-Hub-Signature-256
    #[arg(long, value_name = "VALUE", requires = "secret_file")]
    pub signature: Option<String>,
    /// Only merges into a matching branch; repeatable [default: the configuration's]
    #[arg(long, value_name = "GLOB")]
    pub branch: Vec<String>,
    /// Report every rule that was applied
    #[arg(long)]
    pub explain: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").args(["change", "repo"]).required(true)))]
pub(crate) struct Build {
    /// The document of `evaluate`: a file, or `-` for standard input
    #[arg(value_name = "CHANGE")]
    pub change: Option<PathBuf>,
    /// Build this repository: a URL or a path
    #[arg(long, value_name = "URL_OR_PATH")]
    pub repo: Option<String>,
    /// The commit to build, full or abbreviated; without --branch it gets only its sha- tag
    #[arg(long, value_name = "SHA", requires = "repo", value_parser = commit_id)]
    pub commit: Option<String>,
    /// The branch to build, or the branch of the commit
    #[arg(long, value_name = "NAME", requires = "repo")]
    pub branch: Option<BranchName>,
    #[command(flatten)]
    pub options: BuildArgs,
    /// Print what would be built and why, without building
    #[arg(long)]
    pub dry_run: bool,
}

/// What overrides the configuration of a site.
#[derive(Debug, Default, Args)]
pub(crate) struct SiteArgs {
    #[arg(long, value_name = REGISTRY, help = WHERE_IMAGES_GO)]
    pub registry: Option<RegistryAddress>,
    /// A moving tag: {version}, {branch}, {commit}, {short}, {number} (of the pull request); repeatable [default: build.tags of the configuration, else {version}, or {branch} without a version]
    #[arg(long, value_name = "TEMPLATE")]
    pub tag: Vec<Template>,
    /// Concurrent image builds [default: build.jobs of the configuration, else 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Time limit for one image, such as 30m or 90s [default: build.timeout of the configuration, else 30m]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// A buildx builder [default: build.builder of the configuration, else the engine's own]
    #[arg(long, value_name = "NAME")]
    pub builder: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    pub site: SiteArgs,
    /// Only this image; repeatable [default: every image of images.json]
    #[arg(long, value_name = "NAME")]
    pub image: Vec<ImageName>,
    /// Build unchanged images too
    #[arg(long)]
    pub force: bool,
    /// Pull newer base images
    #[arg(long)]
    pub pull: bool,
    /// Do not use the build cache
    #[arg(long)]
    pub no_cache: bool,
    /// A file that RUN --mount=type=secret,id=ID can read; repeatable
    #[arg(long, value_name = "ID=FILE", value_parser = build_secret)]
    pub secret: Vec<(String, PathBuf)>,
}

fn build_secret(text: &str) -> Result<(String, PathBuf), String> {
    let (id, file) = text.split_once('=').ok_or("write ID=FILE")?;
    crate::config::is_secret_id(id)?;
    if file.is_empty() {
        return Err("its file is missing: write ID=FILE".to_owned());
    }
    Ok((id.to_owned(), PathBuf::from(file)))
}

/// A commit id, full or abbreviated.
fn commit_id(text: &str) -> Result<String, String> {
    let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex && (4..=40).contains(&text.len()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a commit id has 4 to 40 hexadecimal digits".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Fail if an immutable tag is already in the registry with another digest
    #[arg(long)]
    pub strict: bool,
    /// Let moving tags move back to an older commit
    #[arg(long)]
    pub allow_rollback: bool,
    /// Overwrite images of another repository
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Push {
    /// The document of `build`: a file, or `-` for standard input
    #[arg(value_name = "BUILT")]
    pub built: PathBuf,
    #[arg(long, value_name = REGISTRY, help = WHERE_IMAGES_GO)]
    pub registry: Option<RegistryAddress>,
    /// Time limit for one image, such as 30m or 90s [default: build.timeout of the configuration, else 30m]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    #[command(flatten)]
    pub options: PushArgs,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    pub payload: PayloadArgs,
    #[command(flatten)]
    pub build: BuildArgs,
    #[command(flatten)]
    pub push: PushArgs,
    /// Set the commit's status on its forge: pending, then the result (needs the forge's token)
    #[arg(long)]
    pub status: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Catchup {
    /// Only this configured repository; repeatable [default: all]
    #[arg(long, value_name = "OWNER/NAME", conflicts_with = "repo")]
    pub repository: Vec<RepoName>,
    /// A repository that is not configured: a URL or a path
    #[arg(long, value_name = "URL_OR_PATH", requires = "branch")]
    pub repo: Option<String>,
    /// The branch of --repo
    #[arg(long, value_name = "NAME", requires = "repo")]
    pub branch: Option<BranchName>,
    /// All commits since a full commit id (exclusive), a YYYY-MM-DD (midnight UTC), or an RFC 3339 time
    #[arg(long, value_name = "COMMIT_OR_DATE")]
    pub since: Option<Since>,
    /// Look at no more than N of the newest commits [default: 50; with --since: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub max: Option<u32>,
    /// Retry commits whose build failed before
    #[arg(long)]
    pub retry_failed: bool,
    /// Print which commits would be built and why, without building
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub site: SiteArgs,
}
