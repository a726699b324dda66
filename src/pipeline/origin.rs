//! From where a change is cloned, and under which name its images know it.

use crate::error::{Failure, Kind};
use crate::git::{Remote, RemoteError, Transport};
use crate::model::{BranchName, Change, CommitSha, ImageName, RepoName};

use super::{RepositoryRule, Site};

/// The one place that a change's repository is cloned from.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The remote that git is given.
    pub remote: Remote,
    /// The `source` label of its images.
    pub source: String,
    /// Other values of the `source` label that mean the same repository.
    aliases: Vec<String>,
    /// In front of its image names.
    pub namespace: Option<ImageName>,
    /// Whether submodules are checked out.
    pub submodules: bool,
}

/// What a person named instead of a payload.
#[derive(Debug, Clone)]
pub struct ByHand {
    /// A URL or a path.
    pub repository: String,
    /// A full commit id.
    pub commit: Option<CommitSha>,
    /// A branch.
    pub branch: Option<BranchName>,
}

impl Origin {
    /// By CONTRACT's rule: the configured clone URL; else the payload's, if it is the forge's own; and what a person
    /// typed as it is.
    pub fn of(site: &Site, change: &Change) -> Result<Origin, Failure> {
        let typed = match (&site.typed, change.forge) {
            (_, Some(_)) => None,
            (Some(typed), None) if typed.as_git_url() == change.clone_url => Some(typed.clone()),
            (_, None) => Some(Remote::typed(&change.clone_url).map_err(refused)?),
        };
        let rule = allowed(&site.repositories, &change.repository, typed.as_ref())?;
        let configured = rule.and_then(|r| r.clone_url.as_deref()).map(Remote::typed).transpose();
        let configured = configured.map_err(|error| {
            Failure::new(Kind::BadInput, error).context(format!("clone_url of `{}`", change.repository))
        })?;
        let remote = match (&typed, &configured, change.forge) {
            (Some(typed), _, _) => typed.clone(),
            (None, Some(configured), _) => configured.clone(),
            (None, None, Some(forge)) => {
                Remote::of_payload(forge, &change.repository, &change.clone_url).map_err(refused)?
            }
            // `typed` is there whenever no forge is named.
            (None, None, None) => {
                return Err(Failure::refused("the change names no forge and no repository"));
            }
        };
        // The payload's own URL names the repository best, even when it is cloned from elsewhere.
        let announced = change.forge.and_then(|_| Remote::typed(&change.clone_url).ok());
        let mut names: Vec<String> =
            [announced, configured, Some(remote.clone())].into_iter().flatten().map(|r| r.source()).collect();
        if let (Some(rule), true) = (rule, remote.transport() == Transport::File) {
            names.push(format!("https://github.com/{}", rule.name));
        }
        // One name, whichever way it was reached: a URL of the forge before a path of this machine.
        let source = names.iter().find(|n| n.starts_with("https://")).unwrap_or(&names[0]).clone();
        Ok(Origin {
            remote,
            source,
            aliases: names,
            namespace: rule.and_then(|r| r.namespace.clone()),
            submodules: rule.is_some_and(|r| r.submodules),
        })
    }

    /// Whether an image with this `source` label is of this repository.
    pub fn is_source(&self, label: &str) -> bool {
        let label = label.trim_end_matches('/').trim_end_matches(".git");
        self.aliases.iter().any(|name| name.eq_ignore_ascii_case(label))
    }
}

/// With a configured allow-list, the entry that this change stands under.
pub(super) fn allowed<'r>(
    rules: &'r [RepositoryRule],
    repository: &RepoName,
    typed: Option<&Remote>,
) -> Result<Option<&'r RepositoryRule>, Failure> {
    if rules.is_empty() {
        return Ok(None);
    }
    let found = match typed {
        None => rules.iter().find(|rule| rule.name.same_as(repository)),
        Some(remote) => rule_of(rules, remote),
    };
    found.map(Some).ok_or_else(|| {
        Failure::refused(format!("the repository `{repository}` is not on the allow-list"))
            .hint("add a [[repository]] with its name to the configuration")
    })
}

/// The entry of a repository that a person typed: by its clone URL, or by the end of its path.
pub(super) fn rule_of<'r>(rules: &'r [RepositoryRule], remote: &Remote) -> Option<&'r RepositoryRule> {
    rules.iter().find(|rule| {
        let configured = rule.clone_url.as_deref().and_then(|url| Remote::typed(url).ok());
        configured.is_some_and(|c| c.source() == remote.source()) || remote.is_named(&rule.name)
    })
}

fn refused(error: RemoteError) -> Failure {
    let hint = match &error {
        RemoteError::NotTheForge { .. } => Some(
            "a repository that lives elsewhere needs its clone_url under [[repository]] in the configuration",
        ),
        RemoteError::Malformed(_) | RemoteError::Transport(_) => None,
    };
    let failure = Failure::new(Kind::Refused, error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
