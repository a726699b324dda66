//! Paths inside a repository, as text. Symlinks are for whoever opens them.

use std::fmt;

use crate::escape::shortened;

/// A path from the root of a repository, that does not leave it: components joined by `/`, `.` for the root itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RelPath(String);

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("the path is empty (the root is `.`)")]
    Empty,
    #[error("`{0}` is absolute; paths start at the root of the repository")]
    Absolute(String),
    #[error("`{0}` leaves the repository")]
    Leaves(String),
    #[error("`{0}` has a backslash or a control character; folders are separated by `/`")]
    Character(String),
    #[error("it is a folder, not a Dockerfile")]
    NoFile,
    #[error("the path is longer than 4096 bytes")]
    Long,
}

impl RelPath {
    /// The root of the repository.
    pub(crate) fn root() -> RelPath {
        RelPath(".".to_owned())
    }

    /// Reads a path from the root.
    pub(super) fn parse(path: &str) -> Result<RelPath, PathError> {
        RelPath::root().join(path)
    }

    /// The path that `path` is from here. `..` is followed as text, and may not climb out of the root.
    pub(super) fn join(&self, path: &str) -> Result<RelPath, PathError> {
        let shown = || shortened(path, 80);
        if path.is_empty() {
            return Err(PathError::Empty);
        }
        if path.len() > 4096 {
            return Err(PathError::Long);
        }
        if path.starts_with('/') {
            return Err(PathError::Absolute(shown()));
        }
        if path.chars().any(|c| c == '\\' || c.is_control()) {
            return Err(PathError::Character(shown()));
        }
        let mut parts: Vec<&str> = self.components().collect();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| PathError::Leaves(shown()))?;
                }
                part => parts.push(part),
            }
        }
        Ok(if parts.is_empty() { RelPath::root() } else { RelPath(parts.join("/")) })
    }

    /// The text of the path; `.` for the root.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root of the repository.
    pub(crate) fn is_root(&self) -> bool {
        self.0 == "."
    }

    /// Its components, none for the root.
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
    fn a_path_is_tidied_and_never_leaves_the_repository() {
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
