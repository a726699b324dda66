//! Paths inside a repository. Symlinks are not resolved here.

use std::fmt;

use crate::escape::shortened;

/// A path from the root of a repository that does not leave it: components joined by `/`, or `.` for the root.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RelPath(String);

impl RelPath {
    pub(crate) fn root() -> RelPath {
        RelPath(".".to_owned())
    }

    /// The file `name` at the root.
    pub(super) fn at_root(name: &'static str) -> RelPath {
        RelPath(name.to_owned())
    }

    /// Resolves `path` from here, `..` by its text. The error says what is wrong.
    pub(super) fn join(&self, path: &str) -> Result<RelPath, String> {
        let shown = || shortened(path, 80);
        if path.is_empty() {
            return Err("the path is empty (the root is `.`)".to_owned());
        }
        if path.len() > 4096 {
            return Err("the path is longer than 4096 bytes".to_owned());
        }
        if path.starts_with('/') {
            return Err(format!("`{}` is absolute; paths start at the root of the repository", shown()));
        }
        if path.chars().any(|c| c == '\\' || c.is_control()) {
            let path = shown();
            return Err(format!("`{path}` has a backslash or a control character; the separator is `/`"));
        }
        let mut parts: Vec<&str> = self.components().collect();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| format!("`{}` leaves the repository", shown()))?;
                }
                part => parts.push(part),
            }
        }
        Ok(if parts.is_empty() { RelPath::root() } else { RelPath(parts.join("/")) })
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0 == "."
    }

    /// None for the root.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|part| *part != ".")
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_normalized_and_never_leaves_the_repository() {
        for (from, path, expected) in [
            (".", "httpd", Ok("httpd")),
            (".", "./a//b/./c/", Ok("a/b/c")),
            (".", ".", Ok(".")),
            (".", "a/..", Ok(".")),
            (".", "a/../b", Ok("b")),
            ("a/b", "Dockerfile", Ok("a/b/Dockerfile")),
            ("a/b", "../../Dockerfile", Ok("Dockerfile")),
            ("a", "...", Ok("a/...")),
            (".", "..", Err("leaves")),
            ("a", "../../x", Err("leaves")),
            (".", "a/../../a", Err("leaves")),
            (".", "/etc", Err("absolute")),
            (".", "", Err("empty")),
            (".", "a\\b", Err("backslash")),
            (".", "a\0b", Err("control")),
            (".", "a\u{1b}[2J", Err("control")),
        ] {
            let joined = RelPath(from.to_owned()).join(path);
            match expected {
                Ok(expected) => assert_eq!(joined.unwrap().as_str(), expected, "{from} + {path}"),
                Err(word) => {
                    let message = joined.unwrap_err().to_string();
                    assert!(message.contains(word) && !message.contains(char::is_control), "{message:?}");
                }
            }
        }
    }
}
