//! Tag templates: `v{version}`, `{branch}-{short}` → tags.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use crate::escape::{escaped, shortened};
use crate::model::{BranchName, CommitSha, Tag};
use crate::suggest;

/// Distribution spec.
const MAX_TAG: usize = 128;
/// Of the SHA-256 of a branch's name.
const HASH_BYTES: usize = 4;

pub(crate) const VERSION: &str = "{version}";
pub(crate) const NUMBER: &str = "{number}";
const BRANCH: &str = "{branch}";
const WORDS: [&str; 5] = [VERSION, BRANCH, "{commit}", "{short}", NUMBER];

/// A template with valid syntax; whether it makes a tag depends on the values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

#[derive(Debug, Clone, Copy)]
pub struct TemplateValues<'a> {
    pub version: Option<&'a Tag>,
    pub branch: Option<&'a BranchName>,
    pub commit: &'a CommitSha,
    /// Of the pull request.
    pub number: Option<u64>,
}

fn wrong(template: &str, problem: &str) -> String {
    format!("the tag template `{}` {problem}", shortened(template, 150))
}

impl FromStr for Template {
    type Err = String;

    fn from_str(source: &str) -> Result<Template, String> {
        let wrong = |problem: &str| Err(wrong(source, problem));
        if source.is_empty() {
            return wrong("is empty");
        }
        let mut rest = source;
        while !rest.is_empty() {
            let (text, braced) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
            if let Some(c) = text.chars().find(|c| !is_tag_character(*c)) {
                let c = escaped(c.encode_utf8(&mut [0; 4]));
                return wrong(&format!("has `{c}`, which a tag cannot contain"));
            }
            let (word, behind) = braced.split_at(braced.find('}').map_or(0, |end| end + 1));
            if word.is_empty() != braced.is_empty() || word.matches('{').count() != word.matches('}').count()
            {
                return wrong("has unbalanced braces");
            }
            if !word.is_empty() && !WORDS.contains(&word) {
                let nearest = suggest::nearest(word, WORDS).map(|word| format!("; did you mean `{word}`?"));
                let (word, nearest) = (shortened(word, 40), nearest.unwrap_or_default());
                let known = WORDS.join(", ");
                return wrong(&format!("has the unknown word `{word}`{nearest} (the words are {known})"));
            }
            rest = behind;
        }
        Ok(Template(source.to_owned()))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Template {
    /// `{version}`, or `{branch}` for an image without a version.
    pub fn default_list(has_version: bool) -> Vec<Template> {
        vec![Template(if has_version { VERSION } else { BRANCH }.to_owned())]
    }

    pub fn uses(&self, word: &str) -> bool {
        self.0.contains(word)
    }

    /// The tag for these values. A branch is made to fit a tag, see [`fitted`].
    pub fn expand(&self, values: &TemplateValues<'_>) -> Result<Tag, String> {
        let wrong = |problem: &str| wrong(&self.0, problem);
        let number = values.number.map(|n| n.to_string());
        let branch = values.branch.map(BranchName::as_str);
        let mut text = self.0.clone();
        for (word, value) in WORDS.into_iter().zip([
            values.version.map(Tag::as_str),
            branch,
            Some(values.commit.as_str()),
            Some(values.commit.short()),
            number.as_deref(),
        ]) {
            if self.uses(word) {
                let value = value.ok_or_else(|| wrong(&format!("uses {word}, which has no value here")))?;
                // The length that is left for a branch depends on the other values.
                text = if word == BRANCH { text } else { text.replace(word, value) };
            }
        }
        let branches = text.matches(BRANCH).count();
        let fixed = text.len() - branches * BRANCH.len();
        let left = MAX_TAG.saturating_sub(fixed).checked_div(branches).unwrap_or(0);
        let text = text.replace(BRANCH, &fitted(branch.unwrap_or_default(), left, text.starts_with(BRANCH)));
        let tag: Tag = text.parse().map_err(|_| {
            let text = shortened(&text, 150);
            wrong(&format!(
                "makes `{text}`, which is not a valid tag (at most 128 characters; not starting with `.` or `-`)"
            ))
        })?;
        if is_immutable(&tag) {
            let problem = format!("makes `{tag}`; only swanci sets `sha-<commit>`, which never moves");
            return Err(wrong(&problem));
        }
        Ok(tag)
    }

    /// The tags of a list of templates, without duplicates.
    pub fn expand_all(list: &[Template], values: &TemplateValues<'_>) -> Result<Vec<Tag>, String> {
        let mut seen = HashSet::with_capacity(list.len());
        let mut tags = list.iter().map(|template| template.expand(values)).collect::<Result<Vec<_>, _>>()?;
        tags.retain(|tag| seen.insert(tag.clone()));
        Ok(tags)
    }
}

fn is_tag_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')
}

/// A branch's name as a part of a tag, of at most `limit` bytes (or the length of its hash); `first` when the tag starts
/// with it. Invalid characters become `-`, and an invalid start becomes `_`. Unless only `/` was replaced, a hash of the
/// name follows, so that two such branches get different tags.
fn fitted(branch: &str, limit: usize, first: bool) -> String {
    // One ASCII character for each character of the branch, so that it can be cut anywhere.
    let mut text: String = branch.chars().map(|c| if is_tag_character(c) { c } else { '-' }).collect();
    let mut changed = text.len() > limit || branch.chars().any(|c| !is_tag_character(c) && c != '/');
    if first && text.starts_with(['.', '-']) {
        text.replace_range(..1, "_");
        changed = true;
    }
    if changed {
        let hash = hex::encode(&Sha256::digest(branch)[..HASH_BYTES]);
        text.truncate(limit.saturating_sub(hash.len() + 1));
        text.push('-');
        text.push_str(&hash);
    }
    text
}

/// Whether [`CommitSha::immutable_tag`] makes tags of this form.
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
    ) -> Result<Tag, String> {
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
    fn words_are_replaced_by_their_values() {
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
    fn different_branches_get_different_tags() {
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
        // Only `/` is replaced without a hash.
        assert_eq!(expand("{branch}", None, Some("feature/x"), None).unwrap().as_str(), "feature-x");
    }

    #[test]
    fn a_list_of_many_tags_takes_linear_time() {
        let list: Vec<Template> = (0..50_000).map(|i| format!("t{i}").parse().unwrap()).collect();
        let commit = SHA.parse().unwrap();
        let values = TemplateValues { version: None, branch: None, commit: &commit, number: None };
        assert_eq!(Template::expand_all(&list, &values).unwrap().len(), list.len());
    }

    #[test]
    fn a_template_that_makes_no_tag_is_refused_by_name() {
        for (template, word) in [
            ("", "is empty"),
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
            ("a b", "a tag cannot contain"),
            ("a/b", "a tag cannot contain"),
            ("a:{version}", "a tag cannot contain"),
            ("ü", "a tag cannot contain"),
            ("-{short}", "not a valid tag"),
            (".x", "not a valid tag"),
            ("{version}", "uses {version}"),
            ("{number}", "uses {number}"),
            ("{branch}", "uses {branch}"),
            ("sha-{commit}", "never moves"),
            (&"a".repeat(129), "not a valid tag"),
            (&format!("{}{{branch}}", "a".repeat(125)), "not a valid tag"),
        ] {
            let message =
                expand(template, None, if template.len() > 100 { Some("long-branch") } else { None }, None)
                    .unwrap_err()
                    .to_string();
            assert!(message.contains(word) && !message.contains(char::is_control), "{template}: {message:?}");
        }
    }

    #[test]
    fn a_list_makes_each_tag_once_and_the_default_depends_on_the_version() {
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
