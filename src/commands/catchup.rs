//! `swanci catchup`: builds the commits of a branch that the registry lacks.

use crate::cli::Catchup;
use crate::error::Failure;
use crate::pipeline::ByHand;
use crate::pipeline::catchup::{CatchupOptions, catchup};

use super::Session;
use super::documents_io::write_outcome;
use super::summary;

/// Prints the outcome for each commit, also if some failed.
pub(super) fn command(session: &Session, args: Catchup) -> Result<(), Failure> {
    let site = session.site(&args.site)?;
    let branch = args.branch;
    let options = CatchupOptions {
        by_hand: args.repo.map(|repository| ByHand { repository, commit: None, branch }),
        repositories: args.repository,
        since: args.since,
        max: args.max.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
        retry_failed: args.retry_failed,
        dry_run: args.dry_run,
    };
    let caught_up = catchup(&site, &options)?;
    let shown = || summary::catchup(&caught_up.document);
    write_outcome(session, &caught_up.document, shown, caught_up.failure)
}
