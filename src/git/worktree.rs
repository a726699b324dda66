//! Working copies that hold only what is asked for, written straight from the mirror's objects.

use std::fs;
use std::path::Path;

use super::mirror::Mirror;
use super::{GitError, run};
use crate::cancel::Cancel;
use crate::model::CommitSha;
use crate::process::Tool;

/// Whether a tree's files have to go through git-lfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LfsUse {
    /// No `.gitattributes` asks for it.
    NotUsed,
    /// One does.
    Used,
}

/// Reads a `.gitattributes` file's content for git-lfs's mark.
pub fn uses_lfs(gitattributes: &[u8]) -> LfsUse {
    let used = gitattributes
        .split(|b| *b == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .any(|line| line.windows(10).any(|w| w == b"filter=lfs"));
    if used { LfsUse::Used } else { LfsUse::NotUsed }
}

/// A submodule that stands in a checked-out tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gitlink {
    /// Where, relative to the root of the commit.
    pub path: String,
    /// The commit that it is pinned to.
    pub commit: CommitSha,
}

impl Mirror<'_> {
    /// Writes these folders of a commit (`.` for all) into `into`, with the `.gitattributes` above them, and returns
    /// the submodules that stand there as empty folders. `tree` may be a commit or a tree id.
    ///
    /// The cost grows with what is written, not with the repository: no index of the whole tree is made.
    pub fn check_out(&self, tree: &str, folders: &[String], into: &Path) -> Result<Vec<Gitlink>, GitError> {
        fs::create_dir_all(into).map_err(|source| self.place_error(into, source))?;
        // Gone before anybody reads the copy.
        let scratch = tempfile::tempdir_in(into).map_err(|source| self.place_error(into, source))?;
        let index = scratch.path().join("index");

        let mut list = self.local().args(["ls-tree", "-r", "-z", "--full-tree", tree]);
        if !folders.iter().any(|f| f == ".") {
            list = list.arg("--").args(with_attributes_above(folders));
        }
        let entries = run(list, self.cancel())?.stdout;
        let (files, gitlinks, lfs) = self.sort_entries(&entries)?;

        let in_copy = |tool: Tool| tool.env("GIT_INDEX_FILE", &index).env("GIT_WORK_TREE", into).dir(into);
        let update = in_copy(self.local()).args(["update-index", "-z", "--index-info"]).stdin(files);
        run(update, self.cancel())?;
        let git = match lfs {
            LfsUse::NotUsed => self.local(),
            LfsUse::Used => self.with_lfs()?,
        };
        run(in_copy(git).args(["checkout-index", "--all", "--force", "--quiet"]), self.cancel())?;
        for link in &gitlinks {
            fs::create_dir_all(into.join(&link.path)).map_err(|source| self.place_error(into, source))?;
        }
        Ok(gitlinks)
    }

    /// Sorts what `ls-tree -r -z` lists (`mode SP type SP id TAB path NUL`) into what the index takes, submodules,
    /// and whether LFS is asked for.
    fn sort_entries(&self, entries: &[u8]) -> Result<(Vec<u8>, Vec<Gitlink>, LfsUse), GitError> {
        let (mut files, mut gitlinks, mut attributes) =
            (Vec::with_capacity(entries.len()), Vec::new(), Vec::new());
        for entry in entries.split(|b| *b == 0).filter(|e| !e.is_empty()) {
            let odd = || GitError::Unexpected(format!("ls-tree: {}", String::from_utf8_lossy(entry)));
            let tab = entry.iter().position(|b| *b == b'\t').ok_or_else(odd)?;
            let (meta, path) = (String::from_utf8_lossy(&entry[..tab]), &entry[tab + 1..]);
            let id = meta.split(' ').nth(2).ok_or_else(odd)?;
            if meta.starts_with("160000") {
                let path = String::from_utf8_lossy(path).into_owned();
                gitlinks.push(Gitlink { path, commit: id.parse().map_err(|_| odd())? });
                continue;
            }
            if path == b".gitattributes" || path.ends_with(b"/.gitattributes") {
                attributes.push(id.to_owned());
            }
            files.extend_from_slice(entry);
            files.push(0);
        }
        let lfs = if attributes.is_empty() {
            LfsUse::NotUsed
        } else {
            let asked = attributes.join("\n") + "\n";
            uses_lfs(&run(self.local().args(["cat-file", "--batch"]).stdin(asked), self.cancel())?.stdout)
        };
        Ok((files, gitlinks, lfs))
    }

    /// A git whose checkout sends files through git-lfs, which may reach the remote for them.
    fn with_lfs(&self) -> Result<Tool, GitError> {
        if !lfs_is_installed(self.cancel()) {
            return Err(GitError::LfsMissing { url: self.remote().as_git_url().to_owned() });
        }
        Ok(self.networked().args([
            "-c",
            "filter.lfs.process=git-lfs filter-process",
            "-c",
            "filter.lfs.required=true",
            "-c",
            // A repository's own .lfsconfig names no other server.
            &format!("lfs.url={}", self.remote().lfs_url()),
        ]))
    }

    fn place_error(&self, place: &Path, source: std::io::Error) -> GitError {
        GitError::Mirror { place: place.display().to_string(), source }
    }
}

/// Whether `git lfs` answers.
pub fn lfs_is_installed(cancel: &Cancel) -> bool {
    Tool::new("git-lfs").arg("version").run(cancel).is_ok()
}

/// The folders, and every `.gitattributes` that holds for them.
fn with_attributes_above(folders: &[String]) -> Vec<String> {
    let mut paths: Vec<String> = folders.to_vec();
    for folder in folders {
        let mut above = Path::new(folder).parent();
        while let Some(dir) = above {
            paths.push(dir.join(".gitattributes").to_string_lossy().into_owned());
            above = dir.parent();
        }
    }
    paths.sort();
    paths.dedup();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_above_a_folder_come_with_it() {
        let paths = with_attributes_above(&["a/b".to_owned(), "c".to_owned()]);
        assert_eq!(paths, [".gitattributes", "a/.gitattributes", "a/b", "c"]);
    }

    #[test]
    fn lfs_is_seen_in_attributes_and_not_in_their_comments() {
        assert_eq!(uses_lfs(b"*.bin filter=lfs diff=lfs merge=lfs -text\n"), LfsUse::Used);
        assert_eq!(uses_lfs(b"# filter=lfs\n*.txt text\n"), LfsUse::NotUsed);
    }
}
