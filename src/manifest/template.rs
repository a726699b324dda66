//! Tag templates: `v{version}`, `{branch}-{short}` → tags.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::escape::shortened;
use crate::model::{BranchName, CommitSha, Tag};
use crate::suggest;

/// The longest tag (distribution spec).
const MAX_TAG: usize = 128;
/// Of the SHA-256 of a branch's name.
const HASH_BYTES: usize = 4;

/// A word of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// `{version}`: of the image.
    Version,
    /// `{branch}`: what a tag may not hold becomes `-`.
    Branch,
    /// `{commit}`: the full id.
    Commit,
    /// `{short}`: the first 12 digits of the commit.
    Short,
    /// `{number}`: of the pull request.
    Number,
}

impl Word {
    const ALL: [Word; 5] = [Word::Version, Word::Branch, Word::Commit, Word::Short, Word::Number];

    const fn text(self) -> &'static str {
        match self {
            Word::Version => "version",
            Word::Branch => "branch",
            Word::Commit => "commit",
            Word::Short => "short",
            Word::Number => "number",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.text())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Word(Word),
}

/// A template that can be read; whether it makes a tag depends on the values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

/// Why a template makes no tag: exit code 4.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// There is nothing in it.
    #[error("a tag template is empty")]
    Empty,
    /// Braces that do not pair.
    #[error("the tag template `{0}` has unbalanced braces")]
    Braces(String),
    /// A word that templates do not know.
    #[error(
        "the tag template `{template}` has the unknown word `{{{word}}}`; did you mean `{nearest}`? Known are \
         {{version}}, {{branch}}, {{commit}}, {{short}} and {{number}}"
    )]
    Unknown {
        /// The template.
        template: String,
        /// The word.
        word: String,
        /// The known word most like it.
        nearest: Word,
    },
    /// A character that no tag may hold, outside of braces.
    #[error("the tag template `{template}` has `{character}`, which no tag may hold")]
    Character {
        /// The template.
        template: String,
        /// The character, escaped.
        character: String,
    },
    /// There is no value for a word.
    #[error("the tag template `{template}` asks for {word}, and there is none here")]
    Missing {
        /// The template.
        template: String,
        /// The word.
        word: Word,
    },
    /// The result is not a tag.
    #[error(
        "the tag template `{template}` makes `{tag}`, which is no valid tag (at most 128 characters; not starting with `.` or `-`)"
    )]
    NoTag {
        /// The template.
        template: String,
        /// What comes out.
        tag: String,
    },
    /// The result is an immutable tag, reserved for commits.
    #[error("the tag template `{template}` makes `{tag}`; `sha-<commit>` is set by itself and never moves")]
    Reserved {
        /// The template.
        template: String,
        /// What comes out.
        tag: Tag,
    },
}

/// The values of the words.
#[derive(Debug, Clone, Copy)]
pub struct TemplateValues<'a> {
    /// The image's version.
    pub version: Option<&'a Tag>,
    /// The branch that the commit landed on.
    pub branch: Option<&'a BranchName>,
    /// The commit.
    pub commit: &'a CommitSha,
    /// The pull request's number.
    pub number: Option<u64>,
}

impl FromStr for Template {
    type Err = TemplateError;
    fn from_str(source: &str) -> Result<Template, TemplateError> {
        let shown = || shortened(source, 150);
        if source.is_empty() {
            return Err(TemplateError::Empty);
        }
        let mut parts = Vec::new();
        let mut rest = source;
        while !rest.is_empty() {
            let text = &rest[..rest.find(['{', '}']).unwrap_or(rest.len())];
            if let Some(c) =
                text.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
            {
                let character = shortened(c.encode_utf8(&mut [0; 4]), 1);
                return Err(TemplateError::Character { template: shown(), character });
            }
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            rest = &rest[text.len()..];
            let Some(braced) = rest.strip_prefix('{') else {
                if rest.is_empty() { break } else { return Err(TemplateError::Braces(shown())) }
            };
            let (word, behind) = match braced.split_once('}') {
                Some((word, behind)) if !word.contains('{') => (word, behind),
                _ => return Err(TemplateError::Braces(shown())),
            };
            let known = |word: &str| Word::ALL.into_iter().find(|known| known.text() == word);
            let unknown = || {
                let nearest = suggest::nearest(word, Word::ALL.map(Word::text)).and_then(known);
                let nearest = nearest.unwrap_or(Word::Version);
                TemplateError::Unknown { template: shown(), word: shortened(word, 40), nearest }
            };
            parts.push(Part::Word(known(word).ok_or_else(unknown)?));
            rest = behind;
        }
        Ok(Template { source: source.to_owned(), parts })
    }
}

impl TryFrom<String> for Template {
    type Error = TemplateError;
    fn try_from(source: String) -> Result<Template, TemplateError> {
        source.parse()
    }
}

impl From<Template> for String {
    fn from(template: Template) -> String {
        template.source
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Template {
    /// The templates of an image for which nobody named any: `{version}`, or `{branch}` without one.
    pub fn default_list(has_version: bool) -> Vec<Template> {
        let word = if has_version { Word::Version } else { Word::Branch };
        vec![Template { source: word.to_string(), parts: vec![Part::Word(word)] }]
    }

    /// Whether `word` occurs in it.
    pub fn asks_for(&self, word: Word) -> bool {
        self.parts.contains(&Part::Word(word))
    }

    /// The tag that it makes of these values. A branch is fitted into a tag: what a tag may not hold becomes `-`, a
    /// start that a tag may not have becomes `_`, and it is cut so that the whole fits. When anything but a `/` was
    /// changed, a hash of the branch's name follows, so that two such branches get two tags.
    ///
    /// # Errors
    /// [`TemplateError`] when a value is missing or no tag comes out.
    pub fn expand(&self, values: &TemplateValues<'_>) -> Result<Tag, TemplateError> {
        let number = values.number.map(|n| n.to_string());
        // `None` stands where a branch is to be fitted in.
        let mut pieces: Vec<Option<&str>> = Vec::with_capacity(self.parts.len());
        let mut branch = "";
        for part in &self.parts {
            let missing = |word| TemplateError::Missing { template: self.source.clone(), word };
            pieces.push(match part {
                Part::Text(text) => Some(text),
                Part::Word(word @ Word::Version) => {
                    Some(values.version.ok_or_else(|| missing(*word))?.as_str())
                }
                Part::Word(Word::Commit) => Some(values.commit.as_str()),
                Part::Word(Word::Short) => Some(values.commit.short()),
                Part::Word(word @ Word::Number) => Some(number.as_deref().ok_or_else(|| missing(*word))?),
                Part::Word(word @ Word::Branch) => {
                    branch = values.branch.ok_or_else(|| missing(*word))?.as_str();
                    None
                }
            });
        }
        let fixed: usize = pieces.iter().flatten().map(|piece| piece.len()).sum();
        let branches = pieces.iter().filter(|piece| piece.is_none()).count();
        let room = MAX_TAG.saturating_sub(fixed).checked_div(branches).unwrap_or(0);
        let first = self.parts.first() == Some(&Part::Word(Word::Branch));
        let branch = fitted(branch, room, first);
        let tag: String = pieces.into_iter().map(|piece| piece.unwrap_or(&branch)).collect();
        let tag: Tag = tag
            .parse()
            .map_err(|_| TemplateError::NoTag { template: self.source.clone(), tag: shortened(&tag, 150) })?;
        if is_immutable(&tag) {
            return Err(TemplateError::Reserved { template: self.source.clone(), tag });
        }
        Ok(tag)
    }

    /// The tags of a list of templates, in its order, each once.
    ///
    /// # Errors
    /// The [`TemplateError`] of the first that makes no tag.
    pub fn expand_all(list: &[Template], values: &TemplateValues<'_>) -> Result<Vec<Tag>, TemplateError> {
        let mut tags = Vec::with_capacity(list.len());
        let mut seen = HashSet::with_capacity(list.len());
        for template in list {
            let tag = template.expand(values)?;
            if seen.insert(tag.clone()) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }
}

/// A branch's name as a part of a tag, of at most `room` bytes where its hash fits in; `first` when the tag begins
/// with it.
fn fitted(branch: &str, room: usize, first: bool) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    // One ASCII character for each character of the branch, so that it can be cut anywhere.
    let mut text: String = branch.chars().map(|c| if keep(c) { c } else { '-' }).collect();
    let mut changed = text.len() > room || branch.chars().any(|c| !keep(c) && c != '/');
    if first && text.starts_with(['.', '-']) {
        text.replace_range(..1, "_");
        changed = true;
    }
    if changed {
        let hash = hex::encode(&Sha256::digest(branch)[..HASH_BYTES]);
        text.truncate(room.saturating_sub(hash.len() + 1));
        text.push('-');
        text.push_str(&hash);
    }
    text
}

/// Whether it is a tag of the form that [`CommitSha::immutable_tag`] makes.
pub(crate) fn is_immutable(tag: &Tag) -> bool {
    tag.as_str().strip_prefix("sha-").is_some_and(|id| id.parse::<CommitSha>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA: &str = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";

    fn expand(
        template: &str,
        version: Option<&str>,
        branch: Option<&str>,
        number: Option<u64>,
    ) -> Result<Tag, TemplateError> {
        let (version, branch) = (version.map(|v| v.parse().unwrap()), branch.map(|b| b.parse().unwrap()));
        let commit = SHA.parse().unwrap();
        let values =
            TemplateValues { version: version.as_ref(), branch: branch.as_ref(), commit: &commit, number };
        template.parse::<Template>()?.expand(&values)
    }

    fn hash(branch: &str) -> String {
        hex::encode(Sha256::digest(branch))[..8].to_owned()
    }

    #[test]
    fn words_become_their_values() {
        let long = "a/".repeat(100) + "b";
        for (template, branch, expected) in [
            ("{version}", "main", "1.0"),
            ("latest", "main", "latest"),
            ("v{version}-{short}", "main", "v1.0-8c1c06a1a89e"),
            ("{commit}", "main", SHA),
            ("pr-{number}", "main", "pr-5"),
            ("{branch}", "release/1.x", "release-1.x"),
            ("{branch}", "feat/ü+x", &format!("feat---x-{}", hash("feat/ü+x"))),
            ("{branch}", "üx", &format!("_x-{}", hash("üx"))),
            ("x{branch}", "üx", &format!("x-x-{}", hash("üx"))),
            ("{branch}{branch}", "ab", "abab"),
            ("{branch}-{short}", &long, &format!("{}-{}-8c1c06a1a89e", &"a-".repeat(53), hash(&long))),
            ("{branch}", &long, &format!("{}a-{}", &"a-".repeat(59), hash(&long))),
            ("{branch}", &long[..125], &format!("{}a", "a-".repeat(62))),
        ] {
            assert_eq!(
                expand(template, Some("1.0"), Some(branch), Some(5)).unwrap().as_str(),
                expected,
                "{template}"
            );
        }
    }

    #[test]
    fn branches_that_differ_give_tags_that_differ() {
        let long = "x".repeat(128);
        let names = [
            "修复",
            "发布",
            "-x".trim_start_matches('-'),
            "x",
            "X",
            "a+b",
            "a@b",
            "a-b",
            "a#b",
            "a=b",
            "ü",
            "ö",
            "üü",
            "é",
            "e\u{301}",
            "feat/a,b",
            "feat/a;b",
            "release-1",
            "release_1",
            "release.1",
            &long,
            &format!("{long}1"),
            &format!("{long}2"),
        ];
        for template in ["{branch}", "b-{branch}", "{branch}-{short}", "{branch}.{branch}"] {
            let mut tags = std::collections::BTreeMap::new();
            for name in names {
                let tag = expand(template, None, Some(name), None).unwrap();
                if let Some(other) = tags.insert(tag.clone(), name) {
                    assert_eq!(other, name, "{template} makes {tag} of both");
                }
            }
        }
        // Only a `/` is replaced without a trace.
        assert_eq!(expand("{branch}", None, Some("feature/x"), None).unwrap().as_str(), "feature-x");
    }

    #[test]
    fn a_list_of_many_tags_takes_no_quadratic_time() {
        let list: Vec<Template> = (0..50_000).map(|i| format!("t{i}").parse().unwrap()).collect();
        let commit = SHA.parse().unwrap();
        let values = TemplateValues { version: None, branch: None, commit: &commit, number: None };
        assert_eq!(Template::expand_all(&list, &values).unwrap().len(), list.len());
    }

    #[test]
    fn what_makes_no_tag_is_refused_and_the_template_is_named() {
        for (template, word) in [
            ("", "empty"),
            ("{", "unbalanced"),
            ("}", "unbalanced"),
            ("{version", "unbalanced"),
            ("version}", "unbalanced"),
            ("{{version}}", "unbalanced"),
            ("{}", "unknown word"),
            ("{versoin}", "did you mean `{version}`?"),
            ("{BRANCH}", "did you mean `{branch}`?"),
            ("{Version}", "unknown word"),
            ("{sha}", "unknown word"),
            ("{\u{1b}[2J}", "unknown word"),
            ("a b", "no tag may hold"),
            ("a/b", "no tag may hold"),
            ("a:{version}", "no tag may hold"),
            ("ü", "no tag may hold"),
            ("-{short}", "no valid tag"),
            (".x", "no valid tag"),
            ("{version}", "asks for {version}"),
            ("{number}", "asks for {number}"),
            ("{branch}", "asks for {branch}"),
            ("sha-{commit}", "never moves"),
            (&"a".repeat(129), "no valid tag"),
            (&format!("{}{{branch}}", "a".repeat(125)), "no valid tag"),
        ] {
            let message =
                expand(template, None, if template.len() > 100 { Some("long-branch") } else { None }, None)
                    .unwrap_err()
                    .to_string();
            assert!(message.contains(word) && !message.contains(char::is_control), "{template}: {message:?}");
        }
    }

    #[test]
    fn a_list_makes_each_tag_once_and_the_default_follows_the_version() {
        let commit = SHA.parse().unwrap();
        let (version, branch) = ("1.0".parse().unwrap(), "main".parse().unwrap());
        let values =
            TemplateValues { version: Some(&version), branch: Some(&branch), commit: &commit, number: None };
        let list: Vec<Template> = ["{version}", "1.0", "latest"].iter().map(|t| t.parse().unwrap()).collect();
        let tags = Template::expand_all(&list, &values).unwrap();
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["1.0", "latest"]);
        for (has_version, expected) in [(true, "1.0"), (false, "main")] {
            let tags = Template::expand_all(&Template::default_list(has_version), &values).unwrap();
            assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), [expected]);
        }
    }

    proptest! {
        #[test]
        fn no_template_panics(template in ".{0,200}") {
            let _ = expand(&template, Some("1.0"), Some("main"), Some(5));
        }

        #[test]
        fn the_tag_of_any_branch_is_valid(branch in "[^\\PC ~^:?*\\[\\\\/.@-][^\\PC ~^:?*\\[\\\\/.@]{0,20}(/[a-z]{1,50}){0,2}", template in "(x-)?\\{branch\\}(-\\{short\\}|\\{branch\\})?") {
            prop_assume!(branch.parse::<BranchName>().is_ok());
            let tag = expand(&template, None, Some(&branch), None);
            prop_assert!(tag.is_ok(), "{branch}: {tag:?}");
        }
    }
}
