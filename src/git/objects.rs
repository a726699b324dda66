//! What stands in a commit, read from the mirror's objects: no working copy is needed to know it.

use std::collections::BTreeMap;
use std::fmt::Display;

use super::mirror::Mirror;
use super::{GitError, run};
use crate::model::CommitSha;

/// A tree or blob that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its git object id, hex.
    pub id: String,
    /// Its content; empty unless it was asked for.
    pub content: Vec<u8>,
}

/// What a path in a commit leads to, symbolic links followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file.
    Blob(Object),
    /// A folder.
    Tree(Object),
    /// A submodule.
    Submodule,
    /// Nothing.
    Missing,
    /// A link that leads out of the repository, to here.
    Outside(String),
    /// A link that leads nowhere or in a circle.
    Dangling,
}

/// What is known of a commit itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its first parent.
    pub first_parent: Option<CommitSha>,
    /// The committer's time, seconds since the epoch.
    pub time: i64,
}

/// Links that one path may lead through, as Linux has it (path_resolution(7)).
const MOST_LINKS: usize = 40;

impl Mirror<'_> {
    /// First parent and time of a commit.
    pub fn commit_info(&self, commit: &CommitSha) -> Result<CommitInfo, GitError> {
        let args = ["log", "-1", "--no-show-signature", "--format=%ct %P", commit.as_str()];
        let text = run(self.local().args(args), self.cancel())?.text();
        let mut words = text.split_whitespace();
        let time = words.next().and_then(|t| t.parse().ok());
        Ok(CommitInfo {
            time: time.ok_or_else(|| GitError::Unexpected(format!("log {commit}: {text}")))?,
            first_parent: words.next().and_then(|p| p.parse().ok()),
        })
    }

    /// What these paths lead to, symbolic links followed, in one call. `content` also reads the blobs.
    pub fn look_up(
        &self,
        commit: &CommitSha,
        paths: &[String],
        content: bool,
    ) -> Result<Vec<Found>, GitError> {
        let mut found = self.batch(&in_commit(commit, paths), content, true)?;
        for (found, path) in found.iter_mut().zip(paths) {
            // `git cat-file --follow-symlinks` calls a link whose target holds a `.` component (`./web`) dangling.
            if *found == Found::Dangling
                && let Some(plain) = self.without_links(commit, path)?
                && let Some(there) = self.batch(&in_commit(commit, &[plain]), content, true)?.pop()
            {
                *found = there;
            }
        }
        Ok(found)
    }

    /// The path without symbolic links, resolved one component at a time; `None` where it leaves the repository, ends
    /// nowhere or goes in a circle.
    fn without_links(&self, commit: &CommitSha, path: &str) -> Result<Option<String>, GitError> {
        let mut ahead: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut resolved: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." if resolved.pop().is_some() => continue,
                ".." => return Ok(None),
                _ => resolved.push(part),
            }
            let here = resolved.join("/");
            // `mode SP type SP id TAB path NUL` (git-ls-tree(1)).
            let list = self.local().args(["--literal-pathspecs", "ls-tree", "-z", "--full-tree"]);
            let entry = run(list.args([commit.as_str(), "--", &here]), self.cancel())?.text();
            match entry.split(['\t', ' ']).collect::<Vec<_>>().as_slice() {
                ["120000", _, id, ..] => {
                    links += 1;
                    let target = run(self.local().args(["cat-file", "blob", id]), self.cancel())?.stdout;
                    let Ok(target) = String::from_utf8(target) else { return Ok(None) };
                    if links > MOST_LINKS || target.starts_with('/') {
                        return Ok(None);
                    }
                    resolved.pop();
                    ahead.extend(target.rsplit('/').map(str::to_owned));
                }
                [_, _, _, ..] => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(if resolved.is_empty() { ".".to_owned() } else { resolved.join("/") }))
    }

    /// What one path leads to in each of these commits, symbolic links followed, in one call; no content is read.
    pub fn look_across(&self, commits: &[CommitSha], path: &str) -> Result<Vec<Found>, GitError> {
        let names: Vec<String> = commits.iter().map(|commit| format!("{commit}:{path}")).collect();
        let mut found = self.batch(&names, false, true)?;
        for (found, commit) in found.iter_mut().zip(commits) {
            if *found == Found::Dangling
                && let Some(plain) = self.without_links(commit, path)?
                && let Some(there) = self.batch(&in_commit(commit, &[plain]), false, true)?.pop()
            {
                *found = there;
            }
        }
        Ok(found)
    }

    /// The content of these blobs, in one call.
    pub fn read_blobs(&self, ids: &[String]) -> Result<Vec<Vec<u8>>, GitError> {
        let found = self.batch(ids, true, false)?;
        found
            .into_iter()
            .zip(ids)
            .map(|(found, id)| match found {
                Found::Blob(blob) => Ok(blob.content),
                Found::Tree(_) | Found::Submodule | Found::Missing | Found::Outside(_) | Found::Dangling => {
                    Err(GitError::Unexpected(format!("cat-file: {id} is no blob")))
                }
            })
            .collect()
    }

    /// What stands at these very paths: a symbolic link is the blob that it is.
    pub fn look_at(&self, commit: &CommitSha, paths: &[String]) -> Result<Vec<Found>, GitError> {
        self.batch(&in_commit(commit, paths), false, false)
    }

    /// The same, and what stands there in the commit's first parent (nothing, where it has none), in one call.
    pub fn look_at_with_parent(
        &self,
        commit: &CommitSha,
        paths: &[String],
    ) -> Result<(Vec<Found>, Vec<Found>), GitError> {
        let names = [commit.to_string(), format!("{commit}^")].into_iter().flat_map(|c| in_commit(c, paths));
        let mut found = self.batch(&names.collect::<Vec<_>>(), false, false)?;
        let before = found.split_off(paths.len());
        Ok((found, before))
    }

    /// Asks for objects by their names (gitrevisions(7)).
    fn batch(&self, names: &[String], content: bool, follow: bool) -> Result<Vec<Found>, GitError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let mode = if content { "--batch" } else { "--batch-check" };
        let asked: String = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
        let tool =
            self.local().args(["cat-file", mode]).args(follow.then_some("--follow-symlinks")).stdin(asked);
        let output = run(tool, self.cancel())?.stdout;
        let found =
            parse(&output, content).ok_or_else(|| GitError::Unexpected(format!("cat-file {mode}")))?;
        if found.len() == names.len() {
            Ok(found)
        } else {
            Err(GitError::Unexpected(format!("cat-file answered {} of {} times", found.len(), names.len())))
        }
    }

    /// The URLs that `.gitmodules` states, by the path of the submodule; none where there is no such file.
    pub fn submodule_urls(&self, commit: &CommitSha) -> Result<BTreeMap<String, String>, GitError> {
        match self.look_at(commit, &[".gitmodules".to_owned()])?.as_slice() {
            [Found::Blob(_)] => {}
            _ => return Ok(BTreeMap::new()),
        }
        let blob = format!("{commit}:.gitmodules");
        let args = ["config", "--blob", &blob, "--null", "--get-regexp", r"^submodule\..*\.(path|url)$"];
        let text = run(self.local().args(args), self.cancel())?.stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut named: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
        for (key, value) in text.split('\0').filter_map(|entry| entry.split_once('\n')) {
            match key.rsplit_once('.') {
                Some((name, "path")) => named.entry(name).or_default().0 = Some(value),
                Some((name, "url")) => named.entry(name).or_default().1 = Some(value),
                _ => {}
            }
        }
        let pairs = named.into_values().filter_map(|(path, url)| Some((path?.to_owned(), url?.to_owned())));
        Ok(pairs.collect())
    }

    /// One file's content; `None` when there is no such file.
    pub fn read_file(&self, commit: &CommitSha, path: &str) -> Result<Found, GitError> {
        let mut found = self.look_up(commit, &[path.to_owned()], true)?;
        Ok(found.pop().unwrap_or(Found::Missing))
    }
}

/// The names of paths in a commit (gitrevisions(7)); `.` is its root.
fn in_commit(commit: impl Display, paths: &[String]) -> Vec<String> {
    paths.iter().map(|path| format!("{commit}:{}", if path == "." { "" } else { path })).collect()
}

/// The answers of `git cat-file --batch --follow-symlinks` (git-cat-file(1), BATCH OUTPUT).
fn parse(mut output: &[u8], content: bool) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    while !output.is_empty() {
        let end = output.iter().position(|b| *b == b'\n')?;
        let line = std::str::from_utf8(&output[..end]).ok()?;
        output = &output[end + 1..];
        let mut body = |size: &str| -> Option<Vec<u8>> {
            let size: usize = size.parse().ok()?;
            let body = output.get(..size)?.to_vec();
            output = output.get(size + 1..)?;
            Some(body)
        };
        let words: Vec<&str> = line.rsplitn(3, ' ').collect();
        found.push(match words.as_slice() {
            ["missing" | "ambiguous", ..] => Found::Missing,
            [size, "symlink"] => Found::Outside(String::from_utf8_lossy(&body(size)?).into_owned()),
            [size, "dangling" | "loop" | "notdir"] => {
                body(size)?;
                Found::Dangling
            }
            [size, kind, id] => {
                let object =
                    Object { id: (*id).to_owned(), content: if content { body(size)? } else { Vec::new() } };
                match *kind {
                    "blob" => Found::Blob(object),
                    "tree" => Found::Tree(object),
                    "commit" => Found::Submodule,
                    _ => return None,
                }
            }
            _ => return None,
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_cat_file_is_understood() {
        let id = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
        let output = format!(
            "{id} blob 3\na\nb\n{id} tree 2\nxx\nabc:no such path missing\nsymlink 4\n/etc\ndangling 5\nabc:x\nnotdir 5\nabc:y\n"
        );
        let blob = Object { id: id.to_owned(), content: b"a\nb".to_vec() };
        let tree = Object { id: id.to_owned(), content: b"xx".to_vec() };
        assert_eq!(
            parse(output.as_bytes(), true).unwrap(),
            [
                Found::Blob(blob),
                Found::Tree(tree),
                Found::Missing,
                Found::Outside("/etc".to_owned()),
                Found::Dangling,
                Found::Dangling,
            ]
        );
        assert_eq!(parse(b"deadbeef blob 99\nshort", true), None);
    }
}
