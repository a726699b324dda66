//! Where a change is cloned from, and which repository it is.
//!
//! Both come from the configuration and the full name. No URL of a payload is used.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Failure, Kind};
use crate::escape::shortened;
use crate::git::{Access, Remote, RemoteError, Transport};
use crate::model::{BranchName, Change, Digest, ForgeName, ImageName, ImageRepository, RepoName};

use super::{RepositoryRule, Site};

/// Where a change is cloned from, and what its images are called.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    /// The remote that git is given.
    pub remote: Remote,
    /// The `source` label of its images.
    pub source: String,
    /// Earlier values of the `source` label.
    former: Vec<String>,
    /// The prefix of its image names.
    pub namespace: Option<ImageName>,
    /// Prefixes of image names that the configuration reserves for other repositories.
    reserved: Vec<ImageName>,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// Build secrets: id → file.
    pub(super) secrets: BTreeMap<String, PathBuf>,
}

/// What a person named instead of a payload.
#[derive(Debug, Clone)]
pub(crate) struct ByHand {
    /// A URL or a path.
    pub repository: String,
    /// A commit id, full or abbreviated.
    pub commit: Option<String>,
    /// A branch.
    pub branch: Option<BranchName>,
}

impl Origin {
    /// A change of a forge is found by its forge and full name; what a person typed is taken as it is.
    pub(crate) fn of<C>(site: &Site, change: &Change<C>) -> Result<Origin, Failure> {
        let (rules, name) = (&site.repositories, &change.repository);
        let Some(kind) = change.forge else {
            let url = change.clone_url.as_deref().unwrap_or_default();
            let typed = match &site.typed {
                Some(typed) if typed.as_git_url() == url => typed.clone(),
                Some(_) | None => typed(site, url).map_err(refused)?,
            };
            let rule = allowed(rules, name, rule_of(rules, &typed))?;
            return match rule {
                Some(rule) => {
                    let itself = is_known(rule, &typed);
                    Origin::new(site, Some(rule), &rule.name, typed, itself.then_some(rule.forge.as_str()))
                }
                None => Origin::new(site, None, name, typed, None),
            };
        };
        let forge = forge_of(site, kind, change.forge_url.as_deref())?;
        let known = rules.iter().find(|rule| rule.name.same_as(name) && rule.forge == forge);
        match allowed(rules, name, known)? {
            Some(rule) => Origin::of_rule(site, rule),
            None => {
                let remote = Remote::of_forge(kind, forge, name).map_err(refused)?;
                Origin::new(site, None, name, remote, Some(forge))
            }
        }
    }

    /// A configured repository.
    pub(super) fn of_rule(site: &Site, rule: &RepositoryRule) -> Result<Origin, Failure> {
        let remote = match &rule.clone_url {
            Some(url) => Remote::typed(url).map_err(|error| {
                Failure::new(Kind::BadInput, error).context(format!("clone_url of `{}`", rule.name))
            })?,
            None => rule.on_its_forge().map_err(refused)?,
        };
        Origin::new(site, Some(rule), &rule.name, remote, Some(&rule.forge))
    }

    /// `forge` is where the repository lives, for one that is its forge's and not only called so.
    fn new(
        site: &Site,
        rule: Option<&RepositoryRule>,
        name: &RepoName,
        remote: Remote,
        forge: Option<&str>,
    ) -> Result<Origin, Failure> {
        let itself = forge.is_some();
        let source = forge.map_or_else(|| remote.source(), |forge| source_of(forge, name));
        let mut secrets = rule.filter(|_| itself).map(|rule| rule.secrets.clone()).unwrap_or_default();
        secrets.extend(site.secrets.clone());
        let namespace = rule.and_then(|rule| rule.namespace.clone());
        let others = site.repositories.iter().filter(|other| rule.is_none_or(|rule| rule.name != other.name));
        Ok(Origin {
            remote,
            source,
            former: rule
                .zip(forge)
                .into_iter()
                .flat_map(|(rule, forge)| rule.former_names.iter().map(|former| source_of(forge, former)))
                .collect(),
            reserved: others
                .filter_map(|other| other.namespace.clone())
                .filter(|n| Some(n) != namespace.as_ref())
                .collect(),
            namespace,
            submodules: rule.is_some_and(|rule| rule.submodules),
            secrets,
        })
    }

    /// Separates what BuildKit caches for this repository where its cache does not look at the content: secrets, and cache
    /// mounts.
    pub(super) fn cache_scope(&self) -> String {
        let hash = Digest::of(self.source.as_bytes());
        format!("swanci-{}", hash.as_str().trim_start_matches("sha256:").get(..16).unwrap_or_default())
    }

    /// Whether an image with this `source` label is of this repository.
    pub(super) fn is_source(&self, label: &str) -> bool {
        let label = label.trim_end_matches('/').trim_end_matches(".git");
        std::iter::once(&self.source).chain(&self.former).any(|name| name.eq_ignore_ascii_case(label))
    }

    /// The image path belongs to the repository `source`.
    pub(super) fn refusal(&self, repository: &ImageRepository, source: &str) -> Failure {
        let shown = crate::escape::shortened(source, 120);
        Failure::refused(format!("{repository} belongs to another repository, {shown}")).hint(format!(
            "give {} a namespace; after a rename add the old name to its former_names; or overwrite with --take-over",
            self.source
        ))
    }

    /// Refuses an image path under a namespace that is reserved for another repository.
    pub(super) fn check_namespace(
        &self,
        repository: &ImageRepository,
        below: Option<&ImageName>,
    ) -> Result<(), Failure> {
        let path = repository.path().as_str();
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

/// What a person typed. Plain http only below the `url` of a forge that is configured so.
pub(super) fn typed(site: &Site, text: &str) -> Result<Remote, RemoteError> {
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

/// The `url` of the forge of a change. A document names one that is configured, or the public instance of its kind.
fn forge_of<'s>(site: &'s Site, kind: ForgeName, stated: Option<&str>) -> Result<&'s str, Failure> {
    let mut configured =
        site.access.iter().filter(|access| access.kind == kind).map(|access| access.forge.as_str());
    let url = match (stated, kind.public_url()) {
        (Some(stated), public) => configured.chain(public).find(|url| *url == stated),
        (None, Some(public)) => match (configured.next(), configured.next()) {
            (Some(only), None) => Some(only),
            (_, _) => Some(public),
        },
        (None, None) => configured.next().filter(|_| configured.next().is_none()),
    };
    url.ok_or_else(|| {
        let at = stated.map(|url| format!(" at {}", shortened(url, 120))).unwrap_or_default();
        Failure::refused(format!("it is not known which {}{at} the change is on", kind.title()))
            .hint(format!("add a [[forge]] with kind = \"{kind}\" and its url to the configuration"))
    })
}

/// With a configured allow-list, the entry that was found for this repository.
pub(super) fn allowed<'r>(
    rules: &[RepositoryRule],
    repository: &RepoName,
    found: Option<&'r RepositoryRule>,
) -> Result<Option<&'r RepositoryRule>, Failure> {
    if found.is_none() && !rules.is_empty() {
        return Err(Failure::refused(format!("the repository `{repository}` is not on the allow-list"))
            .hint("add a [[repository]] with its name to the configuration"));
    }
    Ok(found)
}

/// The entry for a repository that a person typed: by its clone URL, else by the full name at the end of its path.
pub(super) fn rule_of<'r>(rules: &'r [RepositoryRule], remote: &Remote) -> Option<&'r RepositoryRule> {
    let known = rules.iter().find(|rule| is_known(rule, remote));
    known.or_else(|| rules.iter().find(|rule| remote.is_named(&rule.name)))
}

/// Whether a remote that a person typed is the configured repository itself: its clone URL, its URL on its forge, or a
/// clone on this machine. A server that only uses the same name is not.
fn is_known(rule: &RepositoryRule, remote: &Remote) -> bool {
    let configured = rule.clone_url.as_deref().and_then(|url| Remote::typed(url).ok());
    configured.is_some_and(|configured| configured.source() == remote.source())
        || rule.on_its_forge().is_ok_and(|own| own.source().eq_ignore_ascii_case(&remote.source()))
        || (remote.transport() == Transport::File && remote.is_named(&rule.name))
}

fn refused(error: RemoteError) -> Failure {
    Failure::new(Kind::Refused, error)
}
