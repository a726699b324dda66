//! Partial working copies, written directly from the mirror's objects.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::mirror::Mirror;
use super::objects::{AttributesFile, ContextFiles, Found, SUBMODULES};
use super::{GitError, GitErrorKind};
use crate::cancel::Cancel;
use crate::error::Failure;
use crate::model::CommitSha;
use crate::process::Tool;

fn uses_lfs(gitattributes: &[u8]) -> bool {
    gitattributes
        .split(|b| *b == b'\n')
        .filter(|line| !line.starts_with(b"#"))
        .any(|line| line.windows(10).any(|w| w == b"filter=lfs"))
}

/// The submodules of a commit: paths from its root, and pinned commits.
pub type Submodules = BTreeMap<String, CommitSha>;

/// The output of `git status` below a folder of a working tree; `None` outside of one, or if git cannot read it.
pub(crate) fn uncommitted(dir: &Path, cancel: &Cancel) -> Option<Vec<String>> {
    let status = ["status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=normal", "--", "."];
    let listed = super::git("none", &[]).dir(dir).args(status).run(cancel).ok()?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    Some(listed.split('\0').filter_map(|entry| entry.get(3..)).map(str::to_owned).collect())
}

impl Mirror<'_> {
    /// The URLs in `.gitmodules`, by submodule path; empty if the file does not exist.
    pub fn submodule_urls(&self, commit: &CommitSha) -> Result<BTreeMap<String, String>, GitError> {
        match self.look(commit, SUBMODULES)? {
            Found::Blob(id) => self.stated_urls(&id),
            Found::Tree(_) | Found::Submodule | Found::Missing | Found::Outside(_) | Found::Dangling => {
                Ok(BTreeMap::new())
            }
        }
    }

    pub(super) fn stated_urls(&self, gitmodules: &str) -> Result<BTreeMap<String, String>, GitError> {
        let blob = format!("--blob={gitmodules}");
        let text = self.run(self.local().args(["config", &blob, "--null", "--list"]))?.stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut named: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
        for (key, value) in text.split('\0').filter_map(|entry| entry.split_once('\n')) {
            match key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.')) {
                Some((name, "path")) => named.entry(name).or_default().0 = Some(value),
                Some((name, "url")) => named.entry(name).or_default().1 = Some(value),
                _ => {}
            }
        }
        let pairs = named.into_values().filter_map(|(path, url)| Some((path?.to_owned(), url?.to_owned())));
        Ok(pairs.collect())
    }

    /// Writes a context into `into`, under its path, with the attributes above it. Returns its submodules.
    pub fn check_out_context(&self, files: &ContextFiles, into: &Path) -> Result<Submodules, GitError> {
        self.check_out(&files.tree, &files.path, &files.attributes, into)
    }

    /// Writes a whole commit into `into`. Returns its submodules.
    pub fn check_out_commit(&self, commit: &CommitSha, into: &Path) -> Result<Submodules, GitError> {
        self.check_out(commit.as_str(), ".", &[], into)
    }

    /// Writes a tree into the folder `path` of `into`. Submodules become empty folders.
    ///
    /// The cost depends on the written files, not on the repository: no index of the whole commit is created.
    fn check_out(
        &self,
        tree: &str,
        path: &str,
        attributes: &[AttributesFile],
        into: &Path,
    ) -> Result<Submodules, GitError> {
        let folder = if path == "." { into.to_owned() } else { into.join(path) };
        let whatever_the_umask = fs::Permissions::from_mode(0o755);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::set_permissions(&folder, whatever_the_umask))
            .map_err(|e| GitError::io(&folder, e))?;
        // Removed before the copy is used.
        let scratch = tempfile::tempdir_in(into).map_err(|e| GitError::io(into, e))?;
        let index = scratch.path().join("index");

        let list = self.local().args(["ls-tree", "-r", "-z", "--full-tree", tree]);
        let listed = self.run(list)?.stdout;
        let (entries, submodules, uses_lfs) = self.read_entries(&listed, path, attributes)?;

        let in_copy = |tool: Tool| tool.env("GIT_INDEX_FILE", &index).env("GIT_WORK_TREE", into).dir(into);
        let update = in_copy(self.local()).args(["update-index", "-z", "--index-info"]).stdin(entries);
        self.run(update)?;
        let write = ["checkout-index", "--all", "--force", "--quiet"];
        if uses_lfs {
            let written = in_copy(self.with_lfs()?).args(write).run(self.cancel());
            written.map_err(|error| GitError::of_remote(self.remote().as_git_url(), "LFS object", error))?;
        } else {
            self.run(in_copy(self.local()).args(write))?;
        }
        Ok(submodules)
    }

    /// Parses the output of `ls-tree -r -z` (`mode SP type SP id TAB path NUL`): the input of `update-index --index-info`, the
    /// submodules, and whether the files need git-lfs.
    fn read_entries(
        &self,
        listed: &[u8],
        folder: &str,
        attributes: &[AttributesFile],
    ) -> Result<(Vec<u8>, Submodules, bool), GitError> {
        let (mut index, mut asked) = (Vec::with_capacity(listed.len()), Vec::new());
        let mut submodules = BTreeMap::new();
        for file in attributes {
            index.extend_from_slice(format!("{} blob {}\t{}\0", file.mode, file.blob, file.path).as_bytes());
            asked.push(file.blob.clone());
        }
        let folder = if folder == "." { String::new() } else { format!("{folder}/") };
        for entry in listed.split(|b| *b == 0).filter(|e| !e.is_empty()) {
            let odd = || GitError::unexpected(format!("ls-tree: {}", String::from_utf8_lossy(entry)));
            let tab = entry.iter().position(|b| *b == b'\t').ok_or_else(odd)?;
            let (meta, path) = (String::from_utf8_lossy(&entry[..tab]), &entry[tab + 1..]);
            let id = meta.split(' ').nth(2).ok_or_else(odd)?;
            if meta.starts_with("160000") {
                let path = format!("{folder}{}", String::from_utf8_lossy(path));
                submodules.insert(path, id.parse().map_err(|_| odd())?);
            }
            if path == b".gitattributes" || path.ends_with(b"/.gitattributes") {
                asked.push(id.to_owned());
            }
            index.extend_from_slice(&entry[..=tab]);
            index.extend_from_slice(folder.as_bytes());
            index.extend_from_slice(path);
            index.push(0);
        }
        asked.sort();
        asked.dedup();
        let uses_lfs = self.read_blobs(&asked)?.iter().any(|file| uses_lfs(file));
        Ok((index, submodules, uses_lfs))
    }

    /// A git whose checkout passes files through git-lfs, which may fetch them from the remote.
    fn with_lfs(&self) -> Result<Tool, GitError> {
        if !lfs_is_installed(self.cancel()) {
            let url = self.remote().as_git_url();
            let text = format!("{url} keeps files in git LFS, and git-lfs is not installed");
            let failure = Failure::environment(text).hint("install it: apt-get install git-lfs");
            return Err(GitError::new(GitErrorKind::Other, failure));
        }
        let url = format!("lfs.url={}", self.remote().lfs_url());
        // The command line overrides a repository's own .lfsconfig, so that it cannot name another server or exclude
        // files (git-lfs-config(5), LFSCONFIG).
        let config = [
            "filter.lfs.process=git-lfs filter-process",
            "filter.lfs.required=true",
            "lfs.fetchinclude=",
            "lfs.fetchexclude=",
            "lfs.skipdownloaderrors=false",
            &url,
        ];
        Ok(self.networked()?.each("-c", config))
    }
}

pub fn lfs_is_installed(cancel: &Cancel) -> bool {
    Tool::new("git-lfs").arg("version").run(cancel).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lfs_is_detected_in_attributes_but_not_in_comments() {
        assert!(uses_lfs(b"*.bin filter=lfs diff=lfs merge=lfs -text\n"));
        assert!(!uses_lfs(b"# filter=lfs\n*.txt text\n"));
    }
}
