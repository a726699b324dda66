//! `swanci push`: pushes the built images, then moves the tags.

use crate::cli::{Push, PushArgs, SiteArgs};
use crate::documents::{BuiltDocument, Receipt};
use crate::error::Failure;
use crate::pipeline::{self, PushOptions};

use super::Session;
use super::documents_io::{read_step, wants_json, write_outcome};
use super::summary;

/// Prints the receipt; a skip passes through.
pub(super) fn command(session: &Session, args: Push) -> Result<(), Failure> {
    let what = "the document of `swanci build`";
    let Some(built) = read_step::<BuiltDocument>(session, &args.built, what)? else { return Ok(()) };
    // The document names its registry; the configuration is only a fallback.
    let registry = args.registry.or_else(|| built.registry.clone());
    let site = session.site(&SiteArgs { registry, timeout: args.timeout, ..SiteArgs::default() })?;
    let pushed = pipeline::push(&site, built, &push_options(&args.options))?;
    if pushed.failure.is_none() {
        say_pulls(session, &pushed.document);
    }
    let shown = || summary::receipt(&pushed.document);
    write_outcome(session, &pushed.document, shown, pushed.failure)
}

pub(super) fn push_options(args: &PushArgs) -> PushOptions {
    PushOptions { strict: args.strict, allow_rollback: args.allow_rollback, take_over: args.take_over }
}

/// If the result is JSON, the log contains the pull commands.
pub(super) fn say_pulls(session: &Session, receipt: &Receipt) {
    let pulls = summary::pulls(receipt);
    if wants_json(session) && !pulls.is_empty() {
        let (count, commit) = (summary::images(pulls.len()), receipt.change.commit.short());
        session.events.note(&format!("{count} of {commit} in the registry:\n  {}", pulls.join("\n  ")));
    }
}
