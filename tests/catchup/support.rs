//! A repository, a registry, a state directory, and the real program.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use swanci::model::{Digest, ImageName, Tag};
use tempfile::TempDir;

use crate::support::engine::{self, Cleanup};
use crate::support::registry::RegistryServer;

/// The day that the first commit of a test was made; each further commit is a day later.
const FIRST_DAY: i64 = 1_793_491_200; // 2026-11-01T00:00:00Z

/// The environment of a catchup, separate for each test.
pub(super) struct Place {
    // Dropped before the registry, whose port another test may then use.
    _images: Cleanup,
    pub(super) registry: RegistryServer,
    dir: TempDir,
    commits: i64,
}

/// The result of a run of the program.
pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    pub(super) fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The document; fails unless the exit code is this one.
    pub(super) fn ended(self, code: i32) -> Value {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// Each commit's outcome, as `(commit, outcome)`, oldest first.
pub(super) fn outcomes(document: &Value) -> Vec<(String, String)> {
    assert_eq!(document["schema"], 1);
    assert!(document.get("busy").is_none(), "{document}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let commits = document["commits"].as_array().unwrap();
    commits.iter().map(|c| (text(&c["commit"]), text(&c["outcome"]))).collect()
}

/// The expected value of [`outcomes`].
pub(super) fn expected(list: &[(&String, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(commit, outcome)| ((*commit).clone(), (*outcome).to_owned())).collect()
}

impl Place {
    pub(super) fn new() -> Place {
        let registry = RegistryServer::plain();
        let place = Place {
            _images: Cleanup::new(&registry.host()),
            registry,
            dir: tempfile::tempdir().unwrap(),
            commits: 0,
        };
        fs::create_dir_all(place.repository()).unwrap();
        engine::docker_config(&place.dir.path().join(".docker"));
        place.git(&["init", "--quiet", "--initial-branch=main"]);
        place.use_registry(&place.registry.host());
        place
    }

    /// Writes the configuration.
    pub(super) fn use_registry(&self, host: &str) {
        let text = format!("[registry]\nhost = \"{host}\"\nplain_http = true\n");
        fs::write(self.dir.path().join("swanci.toml"), text).unwrap();
    }

    pub(super) fn configure(&self, more: &str) {
        let path = self.dir.path().join("swanci.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}\n{more}\n")).unwrap();
    }

    pub(super) fn repository(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    pub(super) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(super) fn git(&self, args: &[&str]) -> String {
        self.git_at(FIRST_DAY + self.commits * 86_400, args)
    }

    fn git_at(&self, seconds: i64, args: &[&str]) -> String {
        let date = format!("@{seconds} +0000");
        let output = Command::new("git")
            .args(["-c", "user.name=T", "-c", "user.email=t@example.org"])
            .args(args)
            .current_dir(self.repository())
            .envs([("GIT_AUTHOR_DATE", &date), ("GIT_COMMITTER_DATE", &date)])
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Writes files; `None` removes one.
    fn write(&self, files: &[(&str, Option<&str>)]) {
        for (path, content) in files {
            let path = self.repository().join(path);
            match content {
                Some(content) => {
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, content).unwrap();
                }
                None => fs::remove_file(path).unwrap(),
            }
        }
        self.git(&["add", "--all"]);
    }

    /// A direct push to main; returns its id.
    pub(super) fn push(&mut self, files: &[(&str, Option<&str>)]) -> String {
        self.write(files);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "a direct push"]);
        self.commits += 1;
        self.git(&["rev-parse", "HEAD"])
    }

    /// A direct push from a machine whose clock is at 1970.
    pub(super) fn push_with_a_slow_clock(&mut self) -> String {
        self.git_at(1_000, &["commit", "--quiet", "--allow-empty", "-m", "a slow clock"]);
        self.commits += 1;
        self.git(&["rev-parse", "HEAD"])
    }

    /// A pull request of two commits, merged into main; returns the merge commit's id.
    pub(super) fn merge(&mut self, files: &[(&str, Option<&str>)]) -> String {
        self.git(&["checkout", "--quiet", "-b", "topic"]);
        self.write(files);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "on the topic"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "more on the topic"]);
        self.git(&["checkout", "--quiet", "main"]);
        self.git(&["merge", "--quiet", "--no-ff", "-m", "Merge pull request #1", "topic"]);
        self.git(&["branch", "--quiet", "-D", "topic"]);
        self.commits += 1;
        self.git(&["rev-parse", "HEAD"])
    }

    /// The program with the test's configuration, without the user's.
    pub(super) fn swanci(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swanci"));
        command
            .arg("--config")
            .arg(self.dir.path().join("swanci.toml"))
            .arg("--state-dir")
            .arg(self.state())
            .args(args)
            .env_clear()
            .envs(engine::environment())
            .env("HOME", self.dir.path());
        command
    }

    pub(super) fn catchup_command(&self, args: &[&str]) -> Command {
        let repository = self.repository();
        let mut all = vec!["catchup", "--repo", repository.to_str().unwrap(), "--branch", "main"];
        all.extend(args);
        self.swanci(&all)
    }

    pub(super) fn catchup(&self, args: &[&str]) -> Ran {
        Ran::of(self.catchup_command(args).output().unwrap())
    }

    /// A catchup of the configured repositories.
    pub(super) fn catchup_configured(&self, args: &[&str]) -> Ran {
        Ran::of(self.swanci(&[&["catchup"], args].concat()).output().unwrap())
    }

    /// Builds and pushes one commit of main, like a webhook.
    pub(super) fn deliver(&self, commit: &str) {
        let repository = self.repository();
        let built = self.dir.path().join("built.json");
        let args = ["build", "--repo", repository.to_str().unwrap(), "--branch", "main", "--commit", commit];
        let output = Ran::of(self.swanci(&args).output().unwrap());
        assert_eq!(output.code, 0, "{}", output.stderr);
        fs::write(&built, output.stdout).unwrap();
        Ran::of(self.swanci(&["push", built.to_str().unwrap()]).output().unwrap()).ended(0);
    }

    /// Marks a commit's image as delivered, without docker.
    pub(super) fn mark(&self, image: &str, commit: &str) {
        for tag in [&format!("sha-{commit}"), "1.0"] {
            self.registry.push_sample_image(image, tag, &[]);
        }
    }

    /// The real docker, but builds never end.
    pub(super) fn docker_that_hangs_when_it_builds(&self) -> HangingDocker {
        let (path, began) = (self.dir.path().join("docker"), self.dir.path().join("began"));
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n'build '* | 'buildx build'*) : > '{}'; exec sleep 600 ;;\n*) exec docker \"$@\" ;;\nesac\n",
            began.display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.configure(&format!("[build]\ndocker = \"{}\"", path.display()));
        HangingDocker { began }
    }

    /// `swanci run` with the delivery of this commit.
    pub(super) fn run_command(&self, commit: &str) -> Command {
        let payload = serde_json::json!({
            "action": "closed", "number": 1,
            "pull_request": {
                "number": 1, "merged": true, "merge_commit_sha": commit, "title": "a merge",
                "base": {"ref": "main", "repo": {"full_name": "team/shop"}},
            },
            "repository": {"full_name": "team/shop", "clone_url": "https://github.com/team/shop.git"},
        });
        let path = self.dir.path().join(format!("{commit}.json"));
        fs::write(&path, payload.to_string()).unwrap();
        self.swanci(&["run", path.to_str().unwrap(), "--event", "pull_request"])
    }

    /// The digest of a tag in the registry.
    pub(super) fn digest(&self, image: &str, tag: &str) -> Option<Digest> {
        let (image, tag): (ImageName, Tag) = (image.parse().unwrap(), tag.parse().unwrap());
        self.registry.client().head_manifest(&image, &tag).unwrap()
    }

    /// Gives an image of the registry one more tag.
    pub(super) fn tag(&self, image: &str, digest: &Digest, tag: &str) {
        let (image, tag): (ImageName, Tag) = (image.parse().unwrap(), tag.parse().unwrap());
        let client = self.registry.client();
        let manifest = client.get_manifest(&image, digest).unwrap().unwrap();
        client.put_manifest(&image, &tag, &manifest).unwrap();
    }

    /// All tags of an image, sorted.
    pub(super) fn tags(&self, image: &str) -> Vec<String> {
        let tags = self.registry.client().list_tags(&image.parse().unwrap()).unwrap();
        let mut tags: Vec<String> = tags.iter().map(ToString::to_string).collect();
        tags.sort();
        tags
    }

    pub(super) fn receipts(&self) -> usize {
        fs::read_dir(self.state().join("receipts")).map_or(0, Iterator::count)
    }

    /// How many requests of this kind the registry has answered.
    pub(super) fn requests(&self, part: &str) -> usize {
        let log = self.registry.log();
        log.lines().filter(|l| l.contains("response completed") && l.contains(part)).count()
    }
}

/// See [`Place::docker_that_hangs_when_it_builds`].
pub(super) struct HangingDocker {
    began: PathBuf,
}

impl HangingDocker {
    pub(super) fn wait_for_build(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self.began.exists() {
            assert!(Instant::now() < until, "no build began");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// images.json of these images, each with version 1.0.
pub(super) fn images_json(names: &[&str]) -> String {
    let images: Vec<String> = names
        .iter()
        .map(|name| format!(r#"{{"service_name":"{name}","version":"1.0","type":"Docker"}}"#))
        .collect();
    format!(r#"{{"images":[{}]}}"#, images.join(","))
}
