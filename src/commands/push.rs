//! `swanci push`: pushes the built images, then moves the tags.

use std::io::Write;

use serde::Deserialize;

use crate::cli::{Push, PushArgs, RegistryArgs};
use crate::documents::{BuiltDocument, DecisionWord, Receipt};
use crate::error::Failure;
use crate::pipeline::{self, PushOptions};

use super::Session;
use super::documents_io::{parse, read_bytes, wants_json, write, write_outcome};
use super::summary;

/// Prints the receipt; a skip passes through.
pub(super) fn command(session: &Session, args: &Push, out: &mut dyn Write) -> Result<(), Failure> {
    let bytes = read_bytes(&args.built)?;
    let what = "the document of `swanci build`";
    let word: OnlyDecision = parse(&args.built, &bytes, what)?;
    if word.decision == Some(DecisionWord::Skip) {
        let skip: serde_json::Value = parse(&args.built, &bytes, what)?;
        let reason = skip["reason"].as_str().unwrap_or_default();
        return write(session, out, &skip, || summary::skipped(reason));
    }
    let built: BuiltDocument = parse(&args.built, &bytes, what)?;
    // The document names its registry; the configuration is only a fallback.
    let registry =
        RegistryArgs { registry: args.registry.registry.clone().or_else(|| built.registry.clone()) };
    let mut site = session.site(&registry, None)?;
    if let Some(timeout) = args.timeout {
        site.timeout = timeout;
    }
    let pushed = pipeline::push(&site, built, &push_options(&args.options))?;
    if pushed.failure.is_none() {
        say_pulls(session, &pushed.document);
    }
    let shown = || summary::receipt(&pushed.document);
    write_outcome(session, out, &pushed.document, shown, pushed.failure)
}

#[derive(Deserialize)]
struct OnlyDecision {
    decision: Option<DecisionWord>,
}

pub(super) fn push_options(args: &PushArgs) -> PushOptions {
    PushOptions { strict: args.strict, allow_rollback: args.allow_rollback, take_over: args.take_over }
}

/// If the result is JSON, the log contains the pull commands.
pub(super) fn say_pulls(session: &Session, receipt: &Receipt) {
    let pulls = summary::pulls(receipt);
    if wants_json(session) && !pulls.is_empty() {
        let count = if pulls.len() == 1 { "1 image".to_owned() } else { format!("{} images", pulls.len()) };
        let commit = receipt.change.commit.short();
        session.events.note(&format!("{count} of {commit} in the registry:\n  {}", pulls.join("\n  ")));
    }
}
