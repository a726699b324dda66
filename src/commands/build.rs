//! `swanci build`: clones the merged commit and builds its images.

use crate::cli::{Build, BuildArgs};
use crate::documents::{DecisionDocument, ReportedChange, SCHEMA};
use crate::error::Failure;
use crate::pipeline::{self, BuildOptions, ByHand, Site};

use super::Session;
use super::documents_io::{name_of, read_step, write_outcome};
use super::{session, summary};

/// Prints the built document; a skip passes through.
pub(super) fn command(session: &Session, args: Build) -> Result<(), Failure> {
    let (site, change, payload_sha256) = match (args.change, args.repo) {
        (Some(path), _) => {
            let what = "the document of `swanci evaluate`";
            let Some(document) = read_step::<DecisionDocument>(session, &path, what)? else { return Ok(()) };
            let (name, schema) = (name_of(&path), document.schema);
            if schema != SCHEMA {
                let text = format!("{name} has schema {schema}; this swanci reads {SCHEMA}");
                return Err(Failure::bad_input(text));
            }
            let change = change_of(&document).map_err(|failure| failure.context(name))?;
            let site = site(session, &args.options)?;
            let change = pipeline::landed(&site, change, &[])?;
            (site, change, Some(document.payload_sha256))
        }
        (None, Some(repository)) => {
            let by_hand = ByHand { repository, commit: args.commit, branch: args.branch };
            let (site, change) = pipeline::resolve_by_hand(site(session, &args.options)?, &by_hand)?;
            (site, change, None)
        }
        // clap requires one of the two.
        (None, None) => return Err(Failure::usage("give a document, or --repo with --commit or --branch")),
    };
    let options = BuildOptions { dry_run: args.dry_run, ..build_options(args.options) };
    let built = pipeline::build(&site, &change, payload_sha256.as_deref(), &options, &|_, _| {})?;
    let typed = |followed_by| summary::typed(std::env::args(), followed_by);
    let next = match (&built.failure, args.dry_run, &site.registry) {
        (Some(_), _, _) => None,
        (None, true, _) => Some(typed("").trim_end().to_owned()),
        (None, false, Some(_)) => Some(typed("| swanci push -")),
        (None, false, None) => Some(typed("--registry HOST[:PORT] | swanci push -")),
    };
    let shown = || summary::built(&built.document, next.as_deref());
    write_outcome(session, &built.document, shown, built.failure)
}

pub(super) fn site(session: &Session, args: &BuildArgs) -> Result<Site, Failure> {
    let site = session.site(&args.site)?;
    Ok(Site { secrets: session::typed_secrets(&args.secret)?, ..site })
}

pub(super) fn build_options(args: BuildArgs) -> BuildOptions {
    BuildOptions {
        images: args.image,
        force: args.force,
        pull: args.pull,
        no_cache: args.no_cache,
        ..BuildOptions::default()
    }
}

/// The change of a decision to build.
pub(super) fn change_of(document: &DecisionDocument) -> Result<&ReportedChange, Failure> {
    document.change.as_ref().ok_or_else(|| Failure::bad_input("a decision to build needs a change"))
}
