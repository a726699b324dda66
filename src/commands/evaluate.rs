//! `swanci evaluate`: decides, offline, whether a payload is a merge to build.

use std::io::Write;

use crate::cli::{Evaluate, PayloadArgs};
use crate::config::{Config, read_secret_file};
use crate::decide::{self, BranchGlobs, Policy};
use crate::documents::{DecisionDocument, DecisionWord};
use crate::error::{Classify as _, Failure, Kind};
use crate::forge::signature::WebhookSecret;
use crate::forge::{self, Delivery, Encoding, Headers};
use crate::model::RepoName;

use super::Session;
use super::documents_io::{name_of, read_bytes, write};
use super::summary;

/// Prints the decision; a skip ends with 3.
pub(super) fn command(session: &Session, args: &Evaluate, out: &mut dyn Write) -> Result<(), Failure> {
    let document = evaluate(&session.config, &args.payload)?;
    write(session, out, &document, || {
        summary::decision(&document, Some(&summary::typed(std::env::args(), "| swanci build -")))
    })?;
    match document.decision {
        DecisionWord::Build => Ok(()),
        DecisionWord::Skip => Err(Failure::new(Kind::NothingToBuild, anyhow::anyhow!("{}", document.reason))),
    }
}

/// From the command line's payload to a decision.
pub(super) fn evaluate(config: &Config, args: &PayloadArgs) -> Result<DecisionDocument, Failure> {
    let body = read_bytes(&args.payload)?;
    if let (Some(file), Some(signature)) = (&args.secret_file, &args.signature) {
        let secret = WebhookSecret::any_of(vec![read_secret_file(file)?])
            .classify(Kind::BadInput, || format!("the secret file {}", file.display()))?;
        if !secret.verifies(&body, Some(signature)) {
            return Err(Failure::refused("the signature does not match the payload and the secret").hint(
                "the signature covers the raw bytes: the payload must be saved exactly as it was sent",
            ));
        }
    }
    let headers = Headers { event: args.event.as_deref(), encoding: Encoding::Detect, forge: args.forge };
    let delivery = forge::parse(&body, headers).map_err(|error| {
        let hint = error.hint();
        let failure = Failure::new(Kind::BadInput, error)
            .context(format!("the payload in {} cannot be read", name_of(&args.payload)));
        Failure { hint, ..failure }
    })?;
    let policy = if args.branch.is_empty() {
        policy_for(config, &delivery)?
    } else {
        Policy { branches: globs(&args.branch).map_err(|f| Failure { kind: Kind::Usage, ..f })? }
    };
    let decision = decide::decide(delivery, &policy);
    Ok(decision.into_document(decide::payload_sha256(&body), args.explain))
}

/// The configured branches of the delivery's repository.
pub(super) fn policy_for(config: &Config, delivery: &Delivery) -> Result<Policy, Failure> {
    policy_of(config, delivery.repository.as_ref())
}

fn policy_of(config: &Config, repository: Option<&RepoName>) -> Result<Policy, Failure> {
    let configured = repository.and_then(|name| config.repository(name));
    let branches = configured.map(|r| globs(&r.branches)).transpose()?.unwrap_or_default();
    Ok(Policy { branches })
}

fn globs(patterns: &[String]) -> Result<BranchGlobs, Failure> {
    BranchGlobs::new(patterns)
        .map_err(|error| Failure::new(Kind::BadInput, error).context("a branch pattern is malformed"))
}
