//! `swanci build`: clones the merged commit and builds its images.

use std::io::Write;

use serde::Deserialize;

use crate::cli::{Build, BuildArgs};
use crate::documents::{DecisionDocument, DecisionWord, ReportedChange, SCHEMA};
use crate::error::Failure;
use crate::pipeline::{self, BuildOptions, ByHand};

use super::Session;
use super::documents_io::{name_of, parse, read_bytes, write, write_outcome};
use super::summary;

/// Prints the built document; a skip passes through.
pub(super) fn command(session: &Session, args: &Build, out: &mut dyn Write) -> Result<(), Failure> {
    let site = || session.site(&args.options.registry, Some(&args.options));
    let (site, change, payload_sha256) = match (&args.change, &args.repo) {
        (Some(path), _) => {
            let bytes = read_bytes(path)?;
            let what = "the document of `swanci evaluate`";
            let word: OnlyDecision = parse(path, &bytes, what)?;
            if word.decision == Some(DecisionWord::Skip) {
                let skip: serde_json::Value = parse(path, &bytes, what)?;
                let reason = skip["reason"].as_str().unwrap_or_default();
                return write(session, out, &skip, || summary::skipped(reason));
            }
            let document: DecisionDocument = parse(path, &bytes, what)?;
            if document.schema != SCHEMA {
                let text =
                    format!("{} has schema {}; this swanci reads {SCHEMA}", name_of(path), document.schema);
                return Err(Failure::bad_input(text));
            }
            let change = change_of(&document).map_err(|failure| failure.context(name_of(path)))?;
            let site = site()?;
            let change = pipeline::landed(&site, change, &[])?;
            (site, change, Some(document.payload_sha256))
        }
        (None, Some(repository)) => {
            let by_hand = ByHand {
                repository: repository.clone(),
                commit: args.commit.clone(),
                branch: args.branch.clone(),
            };
            let (site, change) = pipeline::resolve_by_hand(site()?, &by_hand)?;
            (site, change, None)
        }
        // clap requires one of the two.
        (None, None) => return Err(Failure::usage("give a document, or --repo with --commit or --branch")),
    };
    let options = BuildOptions { dry_run: args.dry_run, ..build_options(&args.options) };
    let built = pipeline::build(&site, &change, payload_sha256.as_deref(), &options, &|_, _| {})?;
    let next = match (&site.registry, args.dry_run, &built.failure) {
        (_, _, Some(_)) => None,
        (_, true, None) => Some(summary::typed(std::env::args(), "").trim_end().to_owned()),
        (Some(_), false, None) => Some(summary::typed(std::env::args(), "| swanci push -")),
        (None, false, None) => {
            Some(summary::typed(std::env::args(), "--registry HOST[:PORT] | swanci push -"))
        }
    };
    let shown = || summary::built(&built.document, next.as_deref());
    write_outcome(session, out, &built.document, shown, built.failure)
}

/// The field that distinguishes a skip from a build.
#[derive(Deserialize)]
struct OnlyDecision {
    decision: Option<DecisionWord>,
}

pub(super) fn build_options(args: &BuildArgs) -> BuildOptions {
    BuildOptions {
        images: args.image.clone(),
        force: args.force,
        pull: args.pull,
        no_cache: args.no_cache,
        dry_run: false,
        pushes: false,
        patience: Vec::new(),
        only_own_paths: false,
    }
}

/// The change of a decision to build.
pub(super) fn change_of(document: &DecisionDocument) -> Result<&ReportedChange, Failure> {
    document.change.as_ref().ok_or_else(|| Failure::bad_input("a decision to build needs a change"))
}
