//! The clone source and the identity of a change's repository.
//!
//! Both come from the configuration and the full name. URLs in payloads are not used.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;

use crate::config::RepositoryConfig;
use crate::error::{Classify as _, Failure, Kind};
use crate::escape::shortened;
use crate::git::{Access, Mirror, Remote, Transport};
use crate::model::{BranchName, Change, Digest, ForgeName, ImageName, ImageRepository, RepoName};
use crate::plan::Holdings;
use crate::redact;

use super::Site;
use super::compare::Asked;

const GITHUB: &str = "https://github.com";

/// The clone source of a change and the names of its images.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub remote: Remote,
    /// The `source` label of its images.
    pub source: String,
    /// Earlier values of the `source` label.
    former: Vec<String>,
    pub namespace: Option<ImageName>,
    /// Prefixes of image names that the configuration reserves for other repositories.
    reserved: Vec<ImageName>,
    pub submodules: bool,
    pub(super) secrets: BTreeMap<String, PathBuf>,
}

/// A change named on the command line.
#[derive(Debug, Clone)]
pub(crate) struct ByHand {
    /// A URL or a path.
    pub repository: String,
    /// A commit id, full or abbreviated.
    pub commit: Option<String>,
    pub branch: Option<BranchName>,
}

impl Origin {
    /// Finds a forge's change by forge and full name; uses a typed repository unchanged.
    pub(crate) fn of<C>(site: &Site, change: &Change<C>) -> Result<Origin, Failure> {
        let name = &change.repository;
        let Some(kind) = change.forge else {
            let url = change.clone_url.as_deref().unwrap_or_default();
            let typed = match &site.typed {
                Some(typed) if typed.as_git_url() == url => typed.clone(),
                Some(_) | None => typed(site, url)?,
            };
            let rule = allowed(&site.repositories, &typed)?;
            return Origin::new(site, rule, Some(typed), name, (ForgeName::Github, GITHUB));
        };
        let forge = forge_of(site, kind, change.forge_url.as_deref());
        if site.repositories.is_empty() {
            return Origin::new(site, None, None, name, forge?);
        }
        let named = || site.repositories.iter().filter(|rule| rule.name.same_as(name));
        let rule = forge.as_ref().ok().and_then(|(_, url)| named().find(|rule| rule.forge == *url));
        // With only clone URLs and no forge configured, the kind of forge may be omitted.
        let unnamed =
            || named().next().filter(|rule| rule.clone_url.is_some() && no_forge_is_configured(site));
        match (rule.or_else(unnamed), forge) {
            (Some(rule), _) => Origin::of_rule(site, rule),
            (None, Err(failure)) if named().next().is_some() => Err(failure),
            (None, _) => Err(not_allowed(name)),
        }
    }

    pub(crate) fn of_rule(site: &Site, rule: &RepositoryConfig) -> Result<Origin, Failure> {
        Origin::new(site, Some(rule), None, &rule.name, (rule.forge_kind, &rule.forge))
    }

    fn new(
        site: &Site,
        rule: Option<&RepositoryConfig>,
        typed: Option<Remote>,
        name: &RepoName,
        forge: (ForgeName, &str),
    ) -> Result<Origin, Failure> {
        let (kind, forge) = rule.map_or(forge, |rule| (rule.forge_kind, rule.forge.as_str()));
        let name = rule.map_or(name, |rule| &rule.name);
        let is_itself = typed.as_ref().is_none_or(|typed| rule.is_some_and(|rule| is_known(rule, typed)));
        let itself = rule.filter(|_| is_itself);
        let remote = match (typed, rule.and_then(|rule| rule.clone_url.as_deref())) {
            (Some(typed), _) => typed,
            (None, Some(url)) => Remote::typed(url).map_err(|error| {
                Failure { kind: Kind::BadInput, ..error }.context(format!("clone_url of `{name}`"))
            })?,
            (None, None) => Remote::of_forge(kind, forge, name)?,
        };
        let source = if is_itself { source_of(forge, name) } else { remote.source() };
        let mut secrets = itself.map(|rule| rule.secrets.clone()).unwrap_or_default();
        secrets.extend(site.secrets.clone());
        let namespace = rule.and_then(|rule| rule.namespace.clone());
        let is_other = |other: &&RepositoryConfig| {
            rule.is_none_or(|rule| (&rule.forge, &rule.name) != (&other.forge, &other.name))
        };
        let others = site.repositories.iter().filter(is_other);
        let reserved = others.filter_map(|other| other.namespace.clone());
        let former = itself.iter().flat_map(|rule| &rule.former_names);
        Ok(Origin {
            remote,
            source,
            former: former.map(|former| source_of(forge, former)).collect(),
            reserved: reserved.filter(|reserved| Some(reserved) != namespace.as_ref()).collect(),
            namespace,
            submodules: rule.is_some_and(|rule| rule.submodules),
            secrets,
        })
    }

    /// Separates this repository's BuildKit cache where the cache ignores content: secrets and cache mounts.
    pub(super) fn cache_scope(&self) -> String {
        format!("swanci-{}", &Digest::of(self.source.as_bytes()).hex()[..16])
    }

    pub(super) fn mirror<'a>(&'a self, site: &'a Site) -> Mirror<'a> {
        Mirror::of(&site.state_dir, &self.remote, &site.access, &site.cancel)
    }

    /// Checks that each secret is readable, and redacts its content, which may have changed since it was first read.
    pub(super) fn check_secrets(&self, repository: &RepoName) -> Result<(), Failure> {
        for (id, path) in &self.secrets {
            redact::register_file(path).classify(Kind::BadInput, || {
                format!("the build secret `{id}` of {repository}: cannot read {}", path.display())
            })?;
        }
        Ok(())
    }

    /// Whether an image with this `source` label belongs to this repository.
    pub(super) fn is_source(&self, label: &str) -> bool {
        let label = label.trim_end_matches('/').trim_end_matches(".git");
        std::iter::once(&self.source).chain(&self.former).any(|name| name.eq_ignore_ascii_case(label))
    }

    /// The failure for an image path that belongs to the repository `source`.
    pub(super) fn refusal(&self, repository: &ImageRepository, source: &str) -> Failure {
        let shown = shortened(source, 120);
        Failure::refused(format!("{repository} belongs to another repository, {shown}")).hint(format!(
            "give {} a namespace; after a rename add the old name to its former_names; or overwrite with --take-over",
            self.source
        ))
    }

    pub(super) fn check_owner(&self, asked: &[Asked<'_>], holdings: &[Holdings]) -> Result<(), Failure> {
        for (asked, holdings) in asked.iter().zip(holdings) {
            if let Some(source) = holdings.owned_by_another(|source| self.is_source(source)) {
                return Err(self.refusal(asked.repository, source));
            }
        }
        Ok(())
    }

    /// Rejects an image path under a namespace that is reserved for another repository.
    pub(super) fn check_namespace(&self, site: &Site, repository: &ImageRepository) -> Result<(), Failure> {
        let path = repository.path().as_str();
        let below = site.registry.as_ref().and_then(|registry| registry.namespace());
        let path =
            below.and_then(|below| path.strip_prefix(below.as_str())?.strip_prefix('/')).unwrap_or(path);
        match self.reserved.iter().find(|n| path.strip_prefix(n.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
            Some(namespace) => Err(Failure::refused(format!(
                "{repository} is in the namespace `{namespace}`, which the configuration reserves for another repository"
            ))
            .hint("rename the image")),
            None => Ok(()),
        }
    }
}

/// Parses a typed repository. Plain http works only below the `url` of a forge that is configured with http.
pub(super) fn typed(site: &Site, text: &str) -> Result<Remote, Failure> {
    let below = |access: &Access| {
        let forge = format!("{}{}/", access.forge.trim_end_matches('/'), access.kind.clone_prefix());
        let path = text.strip_prefix(&forge)?;
        path.strip_suffix(".git").unwrap_or(path).parse::<RepoName>().ok()
    };
    let plain = site.access.iter().filter(|access| access.forge.starts_with("http://"));
    match plain.filter_map(|access| Some((access.kind, &access.forge, below(access)?))).next() {
        Some((kind, forge, name)) => Remote::of_forge(kind, forge, &name),
        None => Remote::typed(text),
    }
}

/// The `source` label of a repository on a forge.
fn source_of(forge: &str, name: &RepoName) -> String {
    format!("{}/{name}", forge.trim_end_matches('/'))
}

/// The forge of an announced change: the one that it names; else the public instance of its kind if no other is
/// configured; else the only one of its kind.
fn forge_of<'s>(site: &'s Site, kind: ForgeName, url: Option<&str>) -> Result<(ForgeName, &'s str), Failure> {
    let configured = site.access.iter().map(|access| (access.kind, access.forge.as_str()));
    if let Some(url) = url {
        return configured.clone().find(|forge| *forge == (kind, url)).ok_or_else(|| {
            let shown = shortened(url, 120);
            Failure::refused(format!("no [[forge]] of kind {kind} with the url {shown} is configured"))
        });
    }
    let same: Vec<_> = configured.clone().filter(|(other, _)| *other == kind).collect();
    let alike: Vec<_> = configured.filter(|(other, _)| other.is_like(kind)).collect();
    let public = kind.public_url().map(|url| (kind, url));
    let among = if same.is_empty() { &alike } else { &same };
    match (&among[..], public) {
        (several, Some(public)) if several.is_empty() || several.contains(&public) => Ok(public),
        ([only], _) => Ok(*only),
        ([], _) => Err(Failure::bad_input(format!(
            "the change is of a repository on {}, and no [[forge]] of kind {kind} is configured",
            kind.title()
        ))
        .hint(format!("add one to the configuration: kind = \"{kind}\", and its url"))),
        (several, _) => {
            let urls = several.iter().map(|(_, url)| *url).collect::<Vec<_>>().join(", ");
            Err(Failure::bad_input(format!("the change names no forge, and several are configured: {urls}"))
                .hint("add the repository to the configuration as a [[repository]] with its forge"))
        }
    }
}

fn no_forge_is_configured(site: &Site) -> bool {
    matches!(&site.access[..], [only] if only.kind == ForgeName::Github && only.forge == GITHUB)
}

fn not_allowed(repository: impl Display) -> Failure {
    Failure::refused(format!("the repository `{repository}` is not on the allow-list"))
        .hint("add a [[repository]] with its name to the configuration")
}

/// The allow-list entry of a typed repository; an error if the list is not empty and lacks it.
pub(super) fn allowed<'r>(
    rules: &'r [RepositoryConfig],
    typed: &Remote,
) -> Result<Option<&'r RepositoryConfig>, Failure> {
    match rule_of(rules, typed) {
        None if !rules.is_empty() => Err(not_allowed(typed.source())),
        rule => Ok(rule),
    }
}

/// The entry of a typed repository: by its clone URL, else by the full name at the end of its path.
pub(super) fn rule_of<'r>(rules: &'r [RepositoryConfig], remote: &Remote) -> Option<&'r RepositoryConfig> {
    let known = rules.iter().find(|rule| is_known(rule, remote));
    known.or_else(|| rules.iter().find(|rule| remote.is_named(&rule.name)))
}

/// Whether a typed remote is the configured repository: its clone URL, its URL on its forge, or a clone on this
/// machine. Another server with the same repository name does not match.
fn is_known(rule: &RepositoryConfig, remote: &Remote) -> bool {
    let configured = rule.clone_url.as_deref().and_then(|url| Remote::typed(url).ok());
    configured.is_some_and(|configured| configured.source() == remote.source())
        || Remote::of_forge(rule.forge_kind, &rule.forge, &rule.name)
            .is_ok_and(|own| own.source().eq_ignore_ascii_case(&remote.source()))
        || (remote.transport() == Transport::File && remote.is_named(&rule.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_secret_is_reported_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let name: RepoName = "owner/name".parse().unwrap();
        let good = folder.path().join("good");
        std::fs::write(&good, "value-of-a-secret\n").unwrap();
        for (path, readable) in
            [(good, true), (folder.path().join("absent"), false), (folder.path().to_owned(), false)]
        {
            let remote = Remote::typed("https://github.com/owner/name").unwrap();
            let origin = Origin {
                source: remote.source(),
                remote,
                former: Vec::new(),
                namespace: None,
                reserved: Vec::new(),
                submodules: false,
                secrets: BTreeMap::from([("npm".to_owned(), path)]),
            };
            let checked = origin.check_secrets(&name);
            assert_eq!(checked.is_ok(), readable);
            if let Err(failure) = checked {
                assert_eq!(failure.kind, Kind::BadInput);
                assert!(failure.render().contains("`npm` of owner/name"), "{}", failure.render());
            }
        }
        assert_eq!(redact::scrub("RUN echo value-of-a-secret"), "RUN echo ***");
    }
}
