//! The real docker engine: whether it answers, how a program finds it, and the removal of the tests' images.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

/// Runs the docker client in the test's own environment.
pub fn docker(args: &[&str]) -> Output {
    Command::new("docker")
        .args(args)
        .output()
        .expect("docker is missing: apt-get install docker.io docker-cli")
}

/// The output of docker, which must succeed.
pub fn docker_text(args: &[&str]) -> String {
    let out = docker(args);
    assert!(out.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

/// Fails with a hint if no engine answers.
pub fn needed() {
    static ANSWERS: OnceLock<bool> = OnceLock::new();
    let answers =
        *ANSWERS.get_or_init(|| docker(&["version", "--format", "{{.Server.Version}}"]).status.success());
    assert!(
        answers,
        "the docker engine does not answer: start dockerd (scripts/test installs and starts it)"
    );
}

/// The variables of this environment that a program under test needs to find the engine.
pub fn environment() -> BTreeMap<String, String> {
    let variables = ["PATH", "DOCKER_HOST"].map(|name| (name.to_owned(), std::env::var(name)));
    variables.into_iter().filter_map(|(name, value)| Some((name, value.ok()?))).collect()
}

/// Makes a folder with a docker configuration that has only the plugins of this environment.
pub fn docker_config(at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    std::fs::write(at.join("config.json"), "{}").unwrap();
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let own = own.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker")));
    let plugins =
        own.map(|config| config.join("cli-plugins")).and_then(|plugins| plugins.canonicalize().ok());
    if let Some(plugins) = plugins {
        std::os::unix::fs::symlink(plugins, at.join("cli-plugins")).unwrap();
    }
}

/// A name that no other test of this or another run uses, valid as an image name.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}x{}-{name}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Removes every local image with this prefix when it is dropped.
pub struct Cleanup(Vec<String>);

impl Cleanup {
    pub fn new(prefix: &str) -> Cleanup {
        Cleanup(vec![prefix.to_owned()])
    }

    pub fn also(&mut self, prefix: &str) {
        self.0.push(prefix.to_owned());
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let listed = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let mine: Vec<&str> =
            listed.lines().filter(|name| self.0.iter().any(|prefix| name.starts_with(prefix))).collect();
        if !mine.is_empty() {
            // Not by force, which would also remove the name that another test gives to the same image.
            docker(&[&["image", "rm"], &mine[..]].concat());
        }
    }
}

/// `docker image inspect` of one image.
pub fn inspect(name: &str) -> Value {
    let text = docker_text(&["image", "inspect", "--", name]);
    serde_json::from_str::<Value>(&text).unwrap()[0].take()
}

/// Whether the engine has this image.
pub fn has(name: &str) -> bool {
    docker(&["image", "inspect", "--", name]).status.success()
}

/// One file of an image, read without running it.
pub fn file_of(image: &str, path: &str) -> Option<Vec<u8>> {
    let id = docker_text(&["create", "--", image, "/none"]);
    let out = docker(&["cp", &format!("{id}:{path}"), "-"]);
    docker(&["rm", &id]);
    if !out.status.success() {
        return None;
    }
    // One tar entry: a header block with the size in octal, then the content (POSIX ustar).
    let size = std::str::from_utf8(&out.stdout[124..135]).unwrap();
    let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).unwrap();
    Some(out.stdout[512..512 + size].to_vec())
}

/// All bytes of an image and its history, from `docker save` and `docker history`.
pub fn everything_of(image: &str) -> Vec<u8> {
    let mut bytes = docker(&["save", image]).stdout;
    assert!(!bytes.is_empty());
    bytes.extend(docker(&["history", "--no-trunc", image]).stdout);
    bytes
}
