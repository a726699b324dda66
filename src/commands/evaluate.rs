//! `swanci evaluate`: decides offline whether a payload is a merge to build.

use std::path::Path;
use std::time::SystemTime;

use crate::cli::PayloadArgs;
use crate::config::{Config, ForgeConfig, RepositoryConfig, read_secret_file};
use crate::decide::{self, BranchGlobs};
use crate::documents::{DecisionDocument, DecisionWord};
use crate::error::{Failure, Kind};
use crate::forge::signature::{self, WebhookSecret};
use crate::forge::{self, Delivery, Encoding, Headers};
use crate::model::ForgeName;

use super::Session;
use super::documents_io::{name_of, read_bytes, write};
use super::summary;

/// Prints the decision; a skip exits with 3.
pub(super) fn command(session: &Session, args: &PayloadArgs) -> Result<(), Failure> {
    let document = evaluate(&session.config, args)?;
    write(session, &document, || {
        summary::decision(&document, Some(&summary::typed(std::env::args(), "| swanci build -")))
    })?;
    match document.decision {
        DecisionWord::Build => Ok(()),
        DecisionWord::Skip => Err(Failure::new(Kind::NothingToBuild, anyhow::anyhow!("{}", document.reason))),
    }
}

/// Makes the decision for the command line's payload.
pub(super) fn evaluate(config: &Config, args: &PayloadArgs) -> Result<DecisionDocument, Failure> {
    let body = read_bytes(&args.payload)?;
    if let (Some(file), Some(signature)) = (&args.secret_file, &args.signature) {
        let forge = args.forge.or_else(|| forge::recognize(&body).ok()).unwrap_or(ForgeName::Github);
        verify(forge, file, signature, &body)?;
    }
    let headers = Headers { event: args.event.as_deref(), encoding: Encoding::Detect, forge: args.forge };
    let delivery = forge::parse(&body, headers).map_err(|failure| {
        failure.context(format!("the payload in {} cannot be read", name_of(&args.payload)))
    })?;
    let repository = configured(config, &delivery)?;
    let branches = match repository {
        Some(repository) if args.branch.is_empty() => repository.branches.clone(),
        Some(_) | None => BranchGlobs::new(&args.branch)
            .map_err(|error| Failure::usage(error).context("a branch pattern is malformed"))?,
    };
    let sender = delivery.forge;
    let decision = decide::decide(delivery, &branches);
    let forge = repository.and_then(|repository| config.forge_of(repository));
    let decision = match forge.filter(|forge| forge.kind.is_like(sender)) {
        Some(forge) => decision.on(forge.kind, &forge.url),
        None => decision,
    };
    Ok(decision.into_document(decide::payload_sha256(&body), args.explain))
}

/// Verifies a signature that was saved with a payload.
fn verify(forge: ForgeName, file: &Path, signature: &str, body: &[u8]) -> Result<(), Failure> {
    let secret = WebhookSecret::new(vec![read_secret_file(file)?])
        .map_err(|failure| failure.context(format!("the secret file {}", file.display())))?;
    if forge == ForgeName::Gitlab && signature.starts_with("v1,") {
        let text = "a webhook-signature of GitLab is also over its webhook-id and webhook-timestamp, which --signature does not hold";
        return Err(Failure::usage(text)
            .hint("verify the delivery's X-Gitlab-Token, or let `swanci serve` take the delivery"));
    }
    let header = forge.signature_header(&|_| None);
    let headers = |name: &str| (name == header).then_some(signature);
    signature::verify(forge, &headers, body, Encoding::Detect, &secret, SystemTime::now()).map_err(|_| {
        Failure::refused("the signature does not match the payload and the secret")
            .hint("the signature covers the raw bytes: the payload must be saved exactly as it was sent")
    })
}

/// The configuration of the delivery's repository, on a forge of its kind.
fn configured<'c>(config: &'c Config, delivery: &Delivery) -> Result<Option<&'c RepositoryConfig>, Failure> {
    let Some(name) = &delivery.repository else { return Ok(None) };
    let kind_of = |entry: &RepositoryConfig| config.forge_of(entry).map(|forge| forge.kind);
    let same = |entry: &RepositoryConfig| kind_of(entry) == Some(delivery.forge);
    let alike = |entry: &RepositoryConfig| kind_of(entry).is_some_and(|kind| kind.is_like(delivery.forge));
    // With only clone URLs and no forge configured, the kind of forge may be omitted.
    let only_github = matches!(&config.forges[..], [only] if only.url == ForgeConfig::default().url);
    let cloned = |entry: &RepositoryConfig| only_github && entry.clone_url.is_some();
    let entries = |rule: &dyn Fn(&RepositoryConfig) -> bool| -> Vec<&RepositoryConfig> {
        config.repositories_named(name).filter(|entry| rule(entry)).collect()
    };
    let found = [entries(&same), entries(&alike), entries(&cloned)];
    let found = found.into_iter().find(|found| !found.is_empty()).unwrap_or_default();
    let [_, _, ..] = &found[..] else { return Ok(found.first().copied()) };
    let forges = found.iter().map(|entry| entry.forge.as_str()).collect::<Vec<_>>().join(", ");
    Err(Failure::bad_input(format!("`{name}` is configured on several forges of this kind: {forges}")).hint(
        "the payload does not say which of them sent it; use a configuration with one of them (--config)",
    ))
}
