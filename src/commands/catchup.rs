//! `swanci catchup`: builds the commits of a branch that the registry lacks.

use std::io::Write;

use crate::cli::{BuildArgs, Catchup, RegistryArgs};
use crate::error::Failure;
use crate::pipeline::ByHand;
use crate::pipeline::catchup::{CatchupOptions, catchup};

use super::Session;
use super::documents_io::write_outcome;
use super::summary;

/// Prints the outcome for each commit, also if some failed.
pub(super) fn command(session: &Session, args: &Catchup, out: &mut dyn Write) -> Result<(), Failure> {
    let build = BuildArgs {
        registry: RegistryArgs { registry: args.registry.registry.clone() },
        image: Vec::new(),
        tag: args.tag.clone(),
        force: false,
        pull: false,
        no_cache: false,
        jobs: args.jobs,
        timeout: args.timeout,
        builder: args.builder.clone(),
        secret: Vec::new(),
    };
    let site = session.site(&build.registry, Some(&build))?;
    let options = CatchupOptions {
        by_hand: args.repo.clone().map(|repository| ByHand {
            repository,
            commit: None,
            branch: args.branch.clone(),
        }),
        repositories: args.repository.clone(),
        since: args.since.clone(),
        max: args.max.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
        retry_failed: args.retry_failed,
        dry_run: args.dry_run,
    };
    let caught_up = catchup(&site, &options)?;
    let shown = || summary::catchup(&caught_up.document);
    write_outcome(session, out, &caught_up.document, shown, caught_up.failure)
}
