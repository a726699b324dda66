//! A bare mirror for each repository in the state directory: locked, fetched incrementally, and cloned again if it is
//! broken.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use super::remote::{Remote, Transport};
use super::{Access, GitError, GitErrorKind, git, http_config, run, version};
use crate::cancel::Cancel;
use crate::error::Failure;
use crate::model::{BranchName, CommitSha};
use crate::process::{Finished, Tool};

/// Exists only in a completely set up mirror.
const COMPLETE: &str = "swanci-mirror";

/// Folder name prefix of a mirror in creation.
const HALF_MADE: &str = ".new-";

/// The refs of commits that were fetched by id.
const KEPT: &str = "refs/swanci/";

const ALL_BRANCHES: &str = "+refs/heads/*:refs/heads/*";

/// Fetches exactly what is named; the remote and refspecs follow.
const FETCH: [&str; 6] = [
    "fetch",
    "--quiet",
    "--no-tags",
    "--no-write-fetch-head",
    "--no-recurse-submodules",
    "--no-auto-maintenance",
];

/// The mirror of one remote. It contains every commit of the fetched branches.
pub struct Mirror<'a> {
    remote: &'a Remote,
    dir: PathBuf,
    access: Option<&'a Access>,
    cancel: &'a Cancel,
}

impl<'a> Mirror<'a> {
    /// The mirror of `remote` under `state_dir/mirrors`; created on the first fetch.
    pub fn of(state_dir: &Path, remote: &'a Remote, access: &'a [Access], cancel: &'a Cancel) -> Mirror<'a> {
        let key = hex::encode(Sha256::digest(remote.as_git_url()));
        let dir = state_dir.join("mirrors").join(format!("{}.git", &key[..24]));
        Mirror { remote, dir, access: Access::to(remote, access), cancel }
    }

    pub fn remote(&self) -> &Remote {
        self.remote
    }

    pub(super) fn cancel(&self) -> &Cancel {
        self.cancel
    }

    pub(super) fn run(&self, tool: Tool) -> Result<Finished, GitError> {
        run(tool, self.cancel)
    }

    pub fn fetch_branch(&self, branch: &BranchName) -> Result<CommitSha, GitError> {
        self.fetch_branch_and(branch, None)
    }

    /// Updates a branch, and the refs below this folder, which the forge keeps for one pull request.
    pub fn fetch_branch_and(&self, branch: &BranchName, folder: Option<&str>) -> Result<CommitSha, GitError> {
        let folder = folder.map(|folder| format!("{folder}/*"));
        let refs = [branch.full_ref()].into_iter().chain(folder);
        let refspecs: Vec<String> = refs.map(|name| format!("+{name}:{name}")).collect();
        let refspecs: Vec<&str> = refspecs.iter().map(String::as_str).collect();
        self.fetch(&refspecs, &format!("branch `{branch}`"))?;
        let tip = self.commit_of(&branch.full_ref())?;
        tip.ok_or_else(|| GitError::unexpected(format!("no branch {branch} after its fetch")))
    }

    /// Fetches a commit by id. Servers return commits of any origin, so this proves nothing about it.
    pub fn fetch_commit(&self, commit: &CommitSha) -> Result<(), GitError> {
        version(self.cancel)?;
        // An unreadable mirror is fetched, which repairs it.
        match self.has_commit(commit) {
            Ok(true) if self.dir.join(COMPLETE).exists() => return Ok(()),
            Err(error) if error.kind == GitErrorKind::NotACommit => return Err(error),
            Ok(_) | Err(_) => {}
        }
        match self.fetch(&[ALL_BRANCHES], "branch") {
            Ok(()) if self.has_commit(commit)? => return Ok(()),
            Err(error) if error.kind != GitErrorKind::NoSuchRef => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.fetch(&[&format!("{commit}:{KEPT}{commit}")], &format!("commit {commit}"))?;
        self.has_commit(commit).map(drop)
    }

    /// The commit on the remote's branches that the prefix refers to.
    ///
    /// # Errors
    /// Also for several commits, and for none.
    pub fn resolve_abbreviation(&self, abbreviated: &str) -> Result<CommitSha, GitError> {
        let abbreviated = abbreviated.to_ascii_lowercase();
        let unknown = || GitError::no_such_ref(self.remote.as_git_url(), &format!("commit {abbreviated}"));
        let is_hex = abbreviated.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex || !(4..=40).contains(&abbreviated.len()) {
            return Err(unknown());
        }
        self.fetch(&[ALL_BRANCHES], "branch")?;
        let objects = self.disambiguate(&abbreviated)?;
        let commits = objects.iter().filter(|(_, kind)| kind == "commit").map(|(id, _)| id.as_str());
        let commits: Vec<&str> = commits.collect();
        match (commits.as_slice(), objects.first()) {
            ([commit], _) => commit.parse().map_err(|_| unknown()),
            ([], Some((id, kind))) => Err(GitError::not_a_commit(id, kind)),
            ([], None) => Err(unknown()),
            (several, _) => {
                let count = several.len();
                let failure = Failure::bad_input(format!(
                    "`{abbreviated}` is ambiguous: {count} commits begin with it"
                ));
                let shown = several[..count.min(5)].join(", ");
                Err(GitError::new(GitErrorKind::Other, failure.hint(format!("name one of them: {shown}"))))
            }
        }
    }

    /// One fetch under the mirror's lock; repairs or recreates the mirror if necessary.
    fn fetch(&self, refspecs: &[&str], wanted: &str) -> Result<(), GitError> {
        let _lock = self.lock()?;
        if self.dir.join(COMPLETE).exists() {
            self.remove_stale_locks();
            match self.fetch_locked(refspecs, wanted) {
                Err(error) if error.kind == GitErrorKind::Local => {}
                outcome => return outcome,
            }
        }
        self.make_anew(refspecs, wanted)
    }

    fn fetch_locked(&self, refspecs: &[&str], wanted: &str) -> Result<(), GitError> {
        let url = self.remote.as_git_url();
        let done = self
            .networked()?
            .args(FETCH)
            // Also removes refs of the pull request that the forge no longer has.
            .args((refspecs.len() > 1).then_some("--prune"))
            .args(["--end-of-options", url])
            .args(refspecs)
            .run(self.cancel)
            .map_err(|error| GitError::of_remote(url, wanted, error))?;
        if let Some(error) = GitError::shallow(url, &done.tail) {
            return Err(error);
        }
        let complete = File::open(self.dir.join(COMPLETE));
        let _ = complete.and_then(|file| file.set_modified(SystemTime::now()));
        Ok(())
    }

    pub fn default_branch(&self) -> Result<Option<BranchName>, GitError> {
        let text = self.ls_remote(&["--symref"], &["HEAD"])?;
        let name = |line: &str| line.strip_prefix("ref: refs/heads/")?.split('\t').next()?.parse().ok();
        Ok(text.lines().find_map(name))
    }

    pub(crate) fn branches(&self) -> Result<Vec<BranchName>, GitError> {
        let text = self.ls_remote(&["--heads"], &[])?;
        let name = |line: &str| line.split_once("\trefs/heads/")?.1.parse().ok();
        Ok(text.lines().filter_map(name).collect())
    }

    fn ls_remote(&self, options: &[&str], refs: &[&str]) -> Result<String, GitError> {
        let url = self.remote.as_git_url();
        let tool = self.reaching()?.arg("ls-remote").args(options).args(["--end-of-options", url]).args(refs);
        let listed = tool.run(self.cancel).map_err(|error| GitError::of_remote(url, "HEAD", error))?;
        Ok(listed.text())
    }

    /// A git that may access the remote.
    fn reaching(&self) -> Result<Tool, GitError> {
        version(self.cancel)?;
        let mut config = vec![("remote.origin.url".to_owned(), self.remote.as_git_url().to_owned())];
        config.extend(http_config(self.remote, self.access));
        let mut tool = git(self.remote.transports(), &config);
        if self.access.is_some_and(|access| access.ca_file.is_some()) {
            // It would override the forge's own authority for every host (git-config(1), `http.sslCAInfo`).
            tool = tool.without("GIT_SSL_CAINFO");
        }
        if self.remote.transport() != Transport::File {
            return Ok(tool);
        }
        // git-upload-pack and git-lfs do not pass environment configuration to the git that reads the other repository,
        // and safe.directory counts there only in the user's file (git-config(1)).
        let home = self.dir.with_extension("home");
        let file = home.join(".gitconfig");
        let quoted = |path: String| path.replace('\\', "\\\\").replace('"', "\\\"");
        let safe = self.remote.safe_directories().into_iter();
        let lines = safe.map(|path| format!("\tdirectory = \"{}\"\n", quoted(path)));
        let text = format!("[safe]\n{}", lines.collect::<String>());
        let write = || {
            crate::state_dir::create_below(&home)?;
            let temporary = tempfile::NamedTempFile::new_in(&home)?;
            fs::write(temporary.path(), &text)?;
            temporary.persist(&file).map_err(|error| error.error)
        };
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            write().map_err(|e| self.io_error(e))?;
        }
        Ok(tool.env("GIT_CONFIG_GLOBAL", file).env("HOME", home).without("XDG_CONFIG_HOME"))
    }

    /// A git in this mirror that may access the remote.
    pub(super) fn networked(&self) -> Result<Tool, GitError> {
        Ok(self.reaching()?.arg(format!("--git-dir={}", self.dir.display())))
    }

    /// A git in this mirror that may not access the network.
    pub(super) fn local(&self) -> Tool {
        git("none", &[]).arg(format!("--git-dir={}", self.dir.display()))
    }

    /// Fetches into an empty mirror, and replaces the existing one. Keeps what other jobs may be using: every ref of
    /// the old mirror or, if it is unreadable, every branch and every commit fetched by id.
    fn make_anew(&self, refspecs: &[&str], wanted: &str) -> Result<(), GitError> {
        let made = tempfile::Builder::new()
            .prefix(HALF_MADE)
            .tempdir_in(self.folder()?)
            .map_err(|e| self.io_error(e))?;
        let fresh = Mirror { dir: made.path().join("git"), ..*self };
        self.run(git("none", &[]).args(["init", "--quiet", "--bare"]).arg(&fresh.dir))?;
        if self.dir.exists() {
            let old = git("file", &[]).arg(format!("--git-dir={}", fresh.dir.display())).args(FETCH);
            let kept = old.arg("--end-of-options").arg(&self.dir).arg("+refs/*:refs/*").run(self.cancel);
            if kept.is_err() {
                self.cancel.check()?;
                fresh.fetch_locked(&[ALL_BRANCHES], wanted)?;
                for commit in self.kept_commits() {
                    // The server may no longer return it.
                    let _ = fresh.fetch_locked(&[&format!("{commit}:{KEPT}{commit}")], wanted);
                }
            }
        }
        let fetched = fresh.fetch_locked(refspecs, wanted);
        if fetched.as_ref().is_err_and(|error| error.kind != GitErrorKind::NoSuchRef) {
            return fetched;
        }
        fs::write(fresh.dir.join(COMPLETE), self.remote.as_git_url()).map_err(|e| self.io_error(e))?;
        if self.dir.exists() {
            fs::rename(&self.dir, made.path().join("old")).map_err(|e| self.io_error(e))?;
        }
        fs::rename(&fresh.dir, &self.dir).map_err(|e| self.io_error(e))?;
        fetched
    }

    fn kept_commits(&self) -> Vec<CommitSha> {
        let packed = fs::read_to_string(self.dir.join("packed-refs")).unwrap_or_default();
        let packed = packed.lines().filter_map(|line| line.split_once(KEPT)?.1.parse().ok());
        let loose = fs::read_dir(self.dir.join(KEPT)).into_iter().flatten().flatten();
        let loose = loose.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        packed.chain(loose).collect()
    }

    /// The folder of all mirrors, private regardless of the umask.
    fn folder(&self) -> Result<&Path, GitError> {
        let folder = self.dir.parent().unwrap_or(Path::new("."));
        crate::state_dir::create_below(folder).map(|()| folder).map_err(|e| self.io_error(e))
    }

    fn lock(&self) -> Result<File, GitError> {
        let file = crate::lock::open(&self.dir.with_extension("lock")).map_err(|e| self.io_error(e))?;
        crate::lock::exclusive(&file, self.cancel)?.map_err(|e| self.io_error(e))?;
        Ok(file)
    }

    /// A killed git leaves lock files, which make the next fetch fail. Under the mirror's own lock, no other process
    /// owns one.
    fn remove_stale_locks(&self) {
        let mut dirs = vec![self.dir.clone(), self.dir.join("objects/info"), self.dir.join("refs")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if dir.starts_with(self.dir.join("refs")) && path.is_dir() {
                    dirs.push(path);
                } else if path.extension().is_some_and(|e| e == "lock") {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }

    /// Repacks when there are more than 19 packs or about 500 loose objects (git-gc(1), gc.autoPackLimit and gc.auto).
    pub fn maintain(&self) -> Result<(), GitError> {
        let limits = ["-c", "gc.autoDetach=false", "-c", "gc.auto=512", "-c", "gc.autoPackLimit=19"];
        let lock = crate::lock::open(&self.dir.with_extension("lock")).map_err(|e| self.io_error(e))?;
        // A push does not wait for the fetch of another job: the next one packs.
        if !self.dir.join(COMPLETE).exists() || lock.try_lock().is_err() {
            return Ok(());
        }
        self.run(self.local().args(limits).args(["gc", "--auto", "--quiet"])).map(drop)
    }

    fn io_error(&self, source: std::io::Error) -> GitError {
        GitError::io(&self.dir, source)
    }
}

/// Creating a mirror takes less; an older folder is from a killed process.
const MADE_WITHIN: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes mirrors that were not fetched for `age`, and incomplete ones. Returns how many.
pub fn remove_unused_mirrors(state_dir: &Path, age: Duration, now: SystemTime) -> usize {
    let mut removed = 0;
    for entry in fs::read_dir(state_dir.join("mirrors")).into_iter().flatten().flatten() {
        let dir = entry.path();
        let older_than = |age, time: std::io::Result<SystemTime>| {
            time.is_ok_and(|time| now.duration_since(time).is_ok_and(|since| since > age))
        };
        if entry.file_name().as_encoded_bytes().starts_with(HALF_MADE.as_bytes()) {
            if older_than(MADE_WITHIN, entry.metadata().and_then(|m| m.modified())) {
                let _ = fs::remove_dir_all(&dir);
            }
            continue;
        }
        if dir.extension().is_none_or(|e| e != "git") {
            continue;
        }
        let unused = older_than(age, fs::metadata(dir.join(COMPLETE)).and_then(|m| m.modified()));
        let free = File::create(dir.with_extension("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if unused && free && fs::remove_dir_all(&dir).is_ok() {
            let _ = fs::remove_dir_all(dir.with_extension("home"));
            removed += 1;
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_and_incomplete_mirrors_are_removed() {
        let state = tempfile::tempdir().unwrap();
        let (now, day) = (SystemTime::now(), Duration::from_secs(24 * 60 * 60));
        let folder = |name: &str, days: u32| {
            let folder = state.path().join("mirrors").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(COMPLETE), "").unwrap();
            for path in [folder.join(COMPLETE), folder.clone()] {
                File::open(path).unwrap().set_modified(now - day * days).unwrap();
            }
            folder
        };
        let go = [folder("unused.git", 91), folder(".new-left", 2)];
        let stay = [folder("used.git", 89), folder("fetching.git", 91), folder(".new-begun", 0)];
        let lock = File::create(stay[1].with_extension("lock")).unwrap();
        lock.try_lock().unwrap();
        assert_eq!(remove_unused_mirrors(state.path(), day * 90, now), 1);
        assert!(go.iter().all(|gone| !gone.exists()));
        for stays in stay {
            assert!(stays.exists(), "{} is gone", stays.display());
        }
    }
}
