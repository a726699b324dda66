//! `swanci push`: pushes what was built, then moves the tags.

use std::io::Write;

use serde::Deserialize;

use crate::cli::{Push, PushArgs, RegistryArgs};
use crate::documents::{BuiltDocument, DecisionWord, Receipt};
use crate::error::Failure;
use crate::events::Events;
use crate::pipeline::{self, PushOptions};

use super::Session;
use super::documents_io::{parse, read_bytes, write, write_outcome};

/// Prints the receipt; a skip passes through.
pub(super) fn command(session: &Session, args: &Push, out: &mut dyn Write) -> Result<(), Failure> {
    let bytes = read_bytes(&args.built)?;
    let what = "the document of `swanci build`";
    let word: OnlyDecision = parse(&args.built, &bytes, what)?;
    if word.decision == Some(DecisionWord::Skip) {
        let skip: serde_json::Value = parse(&args.built, &bytes, what)?;
        return write(out, &skip);
    }
    let built: BuiltDocument = parse(&args.built, &bytes, what)?;
    // The document knows where its images are to go; the configuration is only asked when it does not.
    let registry =
        RegistryArgs { registry: args.registry.registry.clone().or_else(|| built.registry.clone()) };
    let mut site = session.site(&registry, None)?;
    if let Some(timeout) = args.timeout {
        site.timeout = timeout;
    }
    let pushed = pipeline::push(&site, built, &push_options(&args.options))?;
    if pushed.failure.is_none() {
        summary(&session.events, &pushed.document);
    }
    write_outcome(out, &pushed.document, pushed.failure)
}

#[derive(Deserialize)]
struct OnlyDecision {
    decision: Option<DecisionWord>,
}

pub(super) fn push_options(args: &PushArgs) -> PushOptions {
    PushOptions { strict: args.strict, allow_rollback: args.allow_rollback, take_over: args.take_over }
}

/// The closing words: how to get what was pushed.
pub(super) fn summary(events: &Events, receipt: &Receipt) {
    let mut lines = Vec::new();
    for image in receipt.images.iter().filter(|i| i.digest.is_some()) {
        let Some(repository) = &image.repository else { continue };
        // The first tag that names this image; else the immutable one.
        let moved = image.moved.iter().flatten().find(|m| m.outcome.stands());
        let tag = moved.map(|m| &m.tag).or(image.immutable_tag.as_ref());
        if let Some(tag) = tag {
            lines.push(format!("  docker pull {}", repository.tagged(tag)));
        }
    }
    if !lines.is_empty() {
        let commit = receipt.change.commit.short();
        events.note(&format!("{} of {commit} in the registry:\n{}", count(lines.len()), lines.join("\n")));
    }
}

fn count(images: usize) -> String {
    if images == 1 { "1 image".to_owned() } else { format!("{images} images") }
}
