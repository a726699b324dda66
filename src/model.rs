//! Newtypes that are valid by construction. Pure: no file, network, process or clock.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::escape::shortened;
use crate::suggest;

/// An invalid value and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {expected}", shortened(.value, 80))]
pub struct InvalidValue {
    pub value: String,
    /// As a noun phrase.
    pub expected: &'static str,
}

pub(crate) fn invalid(value: &str, expected: &'static str) -> InvalidValue {
    InvalidValue { value: value.to_owned(), expected }
}

/// A wrong value or key in a file that a person writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// Such as `repository[0].name`; empty for the file as a whole.
    pub(crate) key: String,
    pub(crate) problem: String,
    pub(crate) hint: Option<String>,
    /// Line and column, starting at 1.
    pub(crate) at: Option<(usize, usize)>,
}

impl Mistake {
    pub(crate) fn new(key: impl Into<String>, problem: impl Into<String>) -> Mistake {
        Mistake { key: key.into(), problem: problem.into(), hint: None, at: None }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Mistake {
        Mistake { hint: Some(hint.into()), ..self }
    }
}

/// Implements `FromStr`, and what `serde(try_from = "String", into = "String")` needs, by `read` and `Display`.
macro_rules! from_text {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = InvalidValue;
            fn from_str(value: &str) -> Result<Self, InvalidValue> {
                $name::read(value)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidValue;
            fn try_from(value: String) -> Result<Self, InvalidValue> {
                $name::read(&value)
            }
        }
        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.to_string()
            }
        }
    };
}

/// Declares a string newtype that is validated on construction and deserialization.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            fn read(value: &str) -> Result<Self, InvalidValue> {
                if $check(value) { Ok($name(value.to_owned())) } else { Err(invalid(value, $expected)) }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        from_text!($name);
    };
}

checked_string! {
    /// A full git object id of a commit: 40 (SHA-1) or 64 (SHA-256) lower-case hex digits.
    CommitSha, "a full commit id (40 lower-case hex digits)", is_commit_sha
}
checked_string! {
    /// An abbreviated commit id.
    CommitPrefix, "an abbreviated commit id (7 to 64 lower-case hex digits)", is_commit_prefix
}
checked_string! {
    /// A repository's full name on its forge, `owner/name` (or deeper, where a forge has subgroups).
    RepoName, "a repository name like `owner/name`", is_repo_name
}
checked_string! {
    /// A branch name without `refs/heads/`, valid by git-check-ref-format(1).
    BranchName, "a valid branch name", is_branch_name
}
checked_string! {
    /// A content digest, `sha256:` and 64 hex digits (OCI image spec, descriptor, digests).
    Digest, "a digest like `sha256:<64 hex digits>`", is_digest
}
checked_string! {
    /// An image's name below the registry: path components of the distribution reference grammar, ≤ 255 bytes.
    ImageName, "a valid image name (lower-case letters, digits, and single `.`, `_`, `-`, `/` between them)", is_image_name
}
checked_string! {
    /// A tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}` (distribution spec, pulling manifests).
    Tag, "a valid tag (letters, digits, `_`, `.`, `-`; at most 128; not starting with `.` or `-`)", is_tag
}

fn is_lower_hex(s: &str) -> bool {
    s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_commit_sha(s: &str) -> bool {
    matches!(s.len(), 40 | 64) && is_lower_hex(s) && !s.bytes().all(|b| b == b'0')
}

fn is_commit_prefix(s: &str) -> bool {
    (7..=64).contains(&s.len()) && is_lower_hex(s)
}

fn is_digest(s: &str) -> bool {
    s.strip_prefix("sha256:").is_some_and(|h| h.len() == 64 && is_lower_hex(h))
}

fn is_repo_name(s: &str) -> bool {
    // Bitbucket Data Center's personal projects: `~user/name`.
    let user = s.strip_prefix('~').filter(|rest| rest.contains('/'));
    s.len() <= 255
        && user.unwrap_or(s).split('/').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && part != "."
                && part != ".."
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        })
}

/// git-check-ref-format(1), rules 1 to 10, for the part below `refs/heads/`.
fn is_branch_name(s: &str) -> bool {
    !s.is_empty()
        && s.len() <= 244
        && s != "@"
        && !s.starts_with('-')
        && !s.ends_with('.')
        && !s.contains("..")
        && !s.contains("@{")
        && s.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock"))
        && !s.chars().any(|c| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\'))
}

fn is_tag(s: &str) -> bool {
    (1..=128).contains(&s.len())
        && !s.starts_with(['.', '-'])
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// `path-component ['/' path-component]*`, where `path-component := [a-z0-9]+ (('.'|'_'|'__'|'-'+) [a-z0-9]+)*`
/// (distribution/reference, reference.go).
fn is_image_name(s: &str) -> bool {
    s.len() <= 255 && s.split('/').all(is_path_component)
}

fn is_path_component(s: &str) -> bool {
    let alnum = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    s.starts_with(alnum)
        && s.ends_with(alnum)
        && s.split(alnum).all(|sep| matches!(sep, "" | "." | "_" | "__") || sep.bytes().all(|b| b == b'-'))
}

impl CommitSha {
    /// The first 12 digits.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }

    pub fn immutable_tag(&self) -> Tag {
        Tag(format!("sha-{}", self.0))
    }
}

impl Digest {
    /// The digits.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    pub fn from_sha256(sum: [u8; 32]) -> Digest {
        Digest(format!("sha256:{}", hex::encode(sum)))
    }
}

impl RepoName {
    pub fn last(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Whether it contains an owner: always on a forge, not always on disk.
    pub fn has_owner(&self) -> bool {
        self.0.contains('/')
    }

    /// Whether both name the same repository: forges ignore case.
    pub fn same_as(&self, other: &RepoName) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl BranchName {
    /// Cannot be mistaken for an option or another ref.
    pub fn full_ref(&self) -> String {
        format!("refs/heads/{}", self.0)
    }
}

// Below the macros that it uses.
mod image;

pub(crate) use image::is_loopback;
pub use image::{ImageRepository, RegistryAddress};

/// The software or the service that hosts a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ForgeName {
    /// github.com and GitHub Enterprise.
    Github,
    /// gitlab.com and self-managed GitLab.
    Gitlab,
    /// Gitea.
    Gitea,
    /// Forgejo, for example codeberg.org.
    Forgejo,
    /// Gogs.
    Gogs,
    /// Bitbucket Cloud.
    Bitbucket,
    /// Bitbucket Data Center, formerly Server.
    BitbucketServer,
    /// GitBucket.
    Gitbucket,
}

impl ForgeName {
    /// Every forge, in the order of the documentation.
    pub const ALL: [ForgeName; 8] = {
        use ForgeName::*;
        [Github, Gitlab, Gitea, Forgejo, Gogs, Bitbucket, BitbucketServer, Gitbucket]
    };

    /// The name in documents, options and the configuration; the product's name; the public instance, if any; and what
    /// is between the forge's URL and a repository's name in a clone URL.
    const fn facts(self) -> (&'static str, &'static str, Option<&'static str>, &'static str) {
        match self {
            ForgeName::Github => ("github", "GitHub", Some("https://github.com"), ""),
            ForgeName::Gitlab => ("gitlab", "GitLab", Some("https://gitlab.com"), ""),
            ForgeName::Gitea => ("gitea", "Gitea", None, ""),
            ForgeName::Forgejo => ("forgejo", "Forgejo", None, ""),
            ForgeName::Gogs => ("gogs", "Gogs", None, ""),
            ForgeName::Bitbucket => ("bitbucket", "Bitbucket Cloud", Some("https://bitbucket.org"), ""),
            ForgeName::BitbucketServer => {
                ("bitbucket-server", "Bitbucket Data Center (Server)", None, "/scm")
            }
            ForgeName::Gitbucket => ("gitbucket", "GitBucket", None, "/git"),
        }
    }

    pub const fn as_str(self) -> &'static str {
        self.facts().0
    }

    pub const fn title(self) -> &'static str {
        self.facts().1
    }

    pub const fn public_url(self) -> Option<&'static str> {
        self.facts().2
    }

    pub const fn clone_prefix(self) -> &'static str {
        self.facts().3
    }

    /// Whether a payload without headers may come from either: Gitea's and Forgejo's are not always distinguishable.
    pub fn is_like(self, other: ForgeName) -> bool {
        let is_gitea = |forge| matches!(forge, ForgeName::Gitea | ForgeName::Forgejo);
        self == other || is_gitea(self) && is_gitea(other)
    }

    /// Whether a forge of this kind at `url` is not the public instance.
    pub fn is_elsewhere(self, url: &str) -> bool {
        self.public_url() != Some(url)
    }
}

impl FromStr for ForgeName {
    type Err = String;

    fn from_str(text: &str) -> Result<ForgeName, String> {
        ForgeName::ALL.into_iter().find(|forge| forge.as_str() == text).ok_or_else(|| {
            let known = ForgeName::ALL.map(ForgeName::as_str);
            let nearest = suggest::nearest(text, known);
            let nearest = nearest.map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default();
            format!("`{}` is not a known forge{nearest} (known: {})", shortened(text, 40), known.join(", "))
        })
    }
}

impl fmt::Display for ForgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A commit that landed on a branch. `forge` and `pull_request` are absent for a build by hand; `branch` is absent if
/// only a commit was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change<C = CommitSha> {
    /// The forge that announced it.
    pub forge: Option<ForgeName>,
    /// The configured `url` of its forge, unless it is the public instance of its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forge_url: Option<String>,
    /// The repository's full name.
    pub repository: RepoName,
    /// From the payload or the command line; not used for a change from a forge.
    #[serde(default)]
    pub clone_url: Option<String>,
    /// The commit that landed on the branch.
    pub commit: C,
    /// The branch that it landed on.
    pub branch: Option<BranchName>,
    /// The repository's default branch.
    #[serde(default)]
    pub default_branch: Option<BranchName>,
    /// The pull request that was merged.
    #[serde(default)]
    pub pull_request: Option<PullRequest>,
}

impl<C> Change<C> {
    pub fn at<D>(self, commit: D) -> Change<D> {
        let Change { forge, forge_url, repository, clone_url, branch, default_branch, pull_request, .. } =
            self;
        Change { forge, forge_url, repository, clone_url, commit, branch, default_branch, pull_request }
    }
}

/// The pull request of a change, for labels and messages; no decision uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PullRequest {
    /// Its number in the repository.
    pub number: u64,
    /// Written by its author: never print it to a terminal unescaped.
    pub title: Option<String>,
    /// The author's login.
    pub author: Option<String>,
    /// Its page.
    pub url: Option<String>,
    /// The last commit of the source branch.
    pub head: Option<CommitSha>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub created_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub merged_at: Option<Timestamp>,
    /// The start of the id of the commit that landed, if the forge abbreviates it (Bitbucket Cloud: 12 hex digits).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landed_prefix: Option<CommitPrefix>,
}

#[cfg(test)]
mod tests;
