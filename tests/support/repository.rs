//! Real git repositories: commits, all kinds of merges, force pushes, links, submodules.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

/// The committer's time of the first commit; each further one is a minute later.
pub const FIRST_COMMIT: i64 = 1_767_225_600; // 2026-01-01T00:00:00Z

/// A repository with a working copy. Like GitHub, it serves any commit by its id, also commits on no branch.
pub struct Repository {
    dir: TempDir,
    commits: Cell<i64>,
}

impl Repository {
    /// An empty repository whose branch is `main`.
    pub fn new() -> Repository {
        let repository = Repository { dir: tempfile::tempdir().unwrap(), commits: Cell::new(0) };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository.git(&["config", "uploadpack.allowAnySHA1InWant", "true"]);
        repository
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path, as in configuration and command lines.
    pub fn url(&self) -> String {
        self.path().display().to_string()
    }

    /// The URL of this repository as a submodule of another one.
    pub fn beside(&self) -> String {
        format!("../{}", self.path().file_name().unwrap().to_str().unwrap())
    }

    /// Runs git here and returns what it prints.
    pub fn git(&self, args: &[&str]) -> String {
        self.git_with(args, &[])
    }

    fn git_with(&self, args: &[&str], env: &[(&str, &str)]) -> String {
        let out = Command::new("git")
            .args(["-c", "protocol.file.allow=always", "-c", "gc.auto=0"])
            .args(args)
            .current_dir(self.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", "/nonexistent")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_NAME", "A U Thor")
            .env("GIT_AUTHOR_EMAIL", "author@example.org")
            .env("GIT_COMMITTER_NAME", "A U Thor")
            .env("GIT_COMMITTER_EMAIL", "author@example.org")
            .envs(env.iter().copied())
            .output()
            .expect("git is missing: apt-get install git (scripts/test does it)");
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Repository {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    pub fn executable(&self, path: &str, yes: bool) -> &Repository {
        let mode = if yes { 0o755 } else { 0o644 };
        fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn symlink(&self, path: &str, target: &str) -> &Repository {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
        self
    }

    pub fn remove(&self, path: &str) -> &Repository {
        let path = self.path().join(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    /// A folder with a `FROM scratch` image that has one file with this content.
    pub fn image(&self, folder: &str, content: &str) -> &Repository {
        self.write(&format!("{folder}/Dockerfile"), "FROM scratch\nCOPY file /file\nCMD [\"/file\"]\n");
        self.write(&format!("{folder}/file"), content)
    }

    /// images.json with these entries.
    pub fn images(&self, images: &[Value]) -> &Repository {
        self.write("images.json", json!({"images": images}).to_string())
    }

    fn time(&self) -> String {
        let n = self.commits.get();
        self.commits.set(n + 1);
        format!("{} +0000", FIRST_COMMIT + 60 * n)
    }

    fn dated(&self, args: &[&str]) {
        let time = self.time();
        self.git_with(args, &[("GIT_AUTHOR_DATE", &time), ("GIT_COMMITTER_DATE", &time)]);
    }

    pub fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"])
    }

    /// Commits everything in the working copy.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.dated(&["commit", "--quiet", "--allow-empty", "--message", &format!("change: {message}")]);
        self.head()
    }

    /// Creates a branch and switches to it.
    pub fn branch(&self, name: &str) -> &Repository {
        self.git(&["checkout", "--quiet", "-b", name]);
        self
    }

    pub fn checkout(&self, name: &str) -> &Repository {
        self.git(&["checkout", "--quiet", name]);
        self
    }

    /// GitHub's "create a merge commit".
    pub fn merge(&self, branch: &str) -> String {
        self.dated(&["merge", "--quiet", "--no-ff", "--message", "Merge pull request", branch]);
        self.head()
    }

    /// GitHub's "squash and merge".
    pub fn squash(&self, branch: &str) -> String {
        self.git(&["merge", "--quiet", "--squash", branch]);
        self.commit("Squashed")
    }

    /// GitHub's "rebase and merge": new commits on the base; the last one is the merge commit of the payload.
    pub fn rebase(&self, branch: &str) -> String {
        let base = self.git(&["rev-parse", "--abbrev-ref", "HEAD"]);
        self.git(&["checkout", "--quiet", "-b", "rebased", branch]);
        self.dated(&["rebase", "--quiet", "--force-rebase", &base]);
        self.git(&["checkout", "--quiet", &base]);
        self.git(&["merge", "--quiet", "--ff-only", "rebased"]);
        self.git(&["branch", "--quiet", "--delete", "rebased"]);
        self.head()
    }

    /// Moves the current branch, like a force push.
    pub fn reset(&self, to: &str) -> &Repository {
        self.git(&["reset", "--quiet", "--hard", to]);
        self
    }

    /// A commit without a ref.
    pub fn orphan(&self) -> String {
        let tree = self.git(&["rev-parse", "HEAD^{tree}"]);
        self.git(&["commit-tree", "-m", "orphan", &tree])
    }

    pub fn short(commit: &str) -> String {
        commit[..12].to_owned()
    }

    /// The path of a file of the repository.
    pub fn file(&self, path: &str) -> PathBuf {
        self.path().join(path)
    }
}

/// GitHub's payload for a merged pull request.
pub struct Payload(pub Value);

impl Payload {
    /// `commit` landed on `branch` of `repository` (`owner/name`).
    pub fn merged(repository: &str, branch: &str, commit: &str) -> Payload {
        let owner = repository.split('/').next().unwrap();
        let name = repository.split('/').nth(1).unwrap();
        let repo = json!({
            "id": 1, "name": name, "full_name": repository, "private": false,
            "owner": {"login": owner, "id": 2, "type": "User"},
            "html_url": format!("https://github.com/{repository}"),
            "clone_url": format!("https://github.com/{repository}.git"),
            "ssh_url": format!("git@github.com:{repository}.git"),
            "git_url": format!("git://github.com/{repository}.git"),
            "default_branch": "main",
        });
        Payload(json!({
            "action": "closed", "number": 7,
            "pull_request": {
                "url": format!("https://api.github.com/repos/{repository}/pulls/7"),
                "html_url": format!("https://github.com/{repository}/pull/7"),
                "id": 3, "number": 7, "state": "closed", "title": "Change the images",
                "user": {"login": "author", "id": 4},
                "merged": true, "merged_at": "2026-01-02T00:00:00Z", "merge_commit_sha": commit,
                "head": {"label": format!("{owner}:topic"), "ref": "topic",
                         "sha": "1111111111111111111111111111111111111111", "repo": repo},
                "base": {"label": format!("{owner}:{branch}"), "ref": branch,
                         "sha": "2222222222222222222222222222222222222222", "repo": repo},
            },
            "repository": repo,
            "sender": {"login": "author", "id": 4, "type": "User"},
        }))
    }

    /// Sets a field by its JSON pointer.
    #[must_use]
    pub fn set(mut self, pointer: &str, value: Value) -> Payload {
        *self.0.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap()
    }
}
