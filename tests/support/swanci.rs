//! Runs the real binary with the test's own home, state, temporary files and docker configuration.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::engine::{self, Cleanup};
use super::registry::RegistryServer;
use super::repository::{Payload, Repository};

/// The time limit for a command of a test.
const PATIENCE: Duration = Duration::from_secs(120);

/// The environment in which swanci runs.
pub struct Swanci {
    dir: TempDir,
    env: BTreeMap<String, String>,
}

impl Swanci {
    pub fn new() -> Swanci {
        let dir = tempfile::tempdir().unwrap();
        for part in ["home", "tmp", "work"] {
            fs::create_dir(dir.path().join(part)).unwrap();
        }
        engine::docker_config(&dir.path().join("docker"));
        let mut env = engine::environment();
        for (name, part) in
            [("HOME", "home"), ("TMPDIR", "tmp"), ("DOCKER_CONFIG", "docker"), ("SWANCI_STATE_DIR", "state")]
        {
            env.insert(name.to_owned(), dir.path().join(part).display().to_string());
        }
        Swanci { dir, env }
    }

    /// Sets an environment variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    pub fn unset(&mut self, name: &str) {
        self.env.remove(name);
    }

    pub fn docker_dir(&self) -> PathBuf {
        self.dir.path().join("docker")
    }

    /// Writes docker's configuration.
    pub fn docker_config(&self, text: &str) {
        fs::write(self.docker_dir().join("config.json"), text).unwrap();
    }

    /// Writes `swanci.toml` to the working directory, where swanci finds it by default.
    pub fn config(&self, text: &str) -> PathBuf {
        let path = self.work().join("swanci.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// The directory in which commands run.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The directory of its temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    /// Whether the temporary directory is empty.
    pub fn tmp_is_empty(&self) -> bool {
        fs::read_dir(self.tmp()).unwrap().next().is_none()
    }

    /// Writes a file into the working directory.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// An executable script of this name in the first folder of the PATH.
    pub fn program(&mut self, name: &str, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = self.dir.path().join("programs");
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let first = dir.display().to_string();
        let old = self.env["PATH"].clone();
        if !old.starts_with(&first) {
            self.set("PATH", &format!("{first}:{old}"));
        }
        path
    }

    /// A docker client that first runs these lines of bash: `$real` is the real client, `$building` is set for a
    /// build.
    pub fn docker_that(&mut self, lines: &str) {
        self.program(
            "docker",
            &format!(
                "#!/bin/bash\nreal=$(PATH=${{PATH#*:}} command -v docker)\nbuilding=\n\
                 case \" $1 $2 \" in ' build '* | ' buildx build ') building=1 ;; esac\n{lines}\nexec \"$real\" \"$@\"\n"
            ),
        );
    }

    /// The stored receipts, oldest first.
    pub fn receipts(&self) -> Vec<Value> {
        let entries = fs::read_dir(self.state().join("receipts"));
        let mut paths: Vec<PathBuf> = entries.into_iter().flatten().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap()).collect()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swanci"));
        command.args(args).env_clear().envs(&self.env).current_dir(self.work());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A bash script, whose `$1` is the program.
    pub fn script(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", script, "bash", env!("CARGO_BIN_EXE_swanci")]);
        command.env_clear().envs(&self.env).current_dir(self.work());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.start(args).wait()
    }

    /// Runs with these bytes on standard input.
    pub fn pipe(&self, args: &[&str], input: impl Into<Vec<u8>>) -> Ran {
        let mut command = self.command(args);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (mut stdin, input) = (child.stdin.take().unwrap(), input.into());
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let ran = Started::new(child, args).wait();
        writer.join().unwrap();
        ran
    }

    pub fn start(&self, args: &[&str]) -> Started {
        Started::new(self.command(args).spawn().unwrap(), args)
    }
}

/// A running command.
pub struct Started {
    pub child: Child,
    what: String,
    readers: Vec<std::thread::JoinHandle<Vec<u8>>>,
}

impl Started {
    pub fn new(mut child: Child, args: &[&str]) -> Started {
        let readers = [
            child.stdout.take().map(|mut out| read_in_thread(move |b| out.read_to_end(b).map(drop))),
            child.stderr.take().map(|mut err| read_in_thread(move |b| err.read_to_end(b).map(drop))),
        ];
        let readers = readers.into_iter().map(|r| r.unwrap_or_else(|| read_in_thread(|_| Ok(())))).collect();
        Started { child, what: args.join(" "), readers }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until it exits.
    pub fn wait(mut self) -> Ran {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > until {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("swanci {} did not end within {PATIENCE:?}", self.what);
            }
            std::thread::sleep(Duration::from_millis(4));
        };
        let mut said = self.readers.drain(..).map(|r| String::from_utf8(r.join().unwrap()).unwrap());
        Ran {
            code: status.code().unwrap_or(-1),
            stdout: said.next().unwrap(),
            stderr: said.next().unwrap(),
            what: self.what,
        }
    }
}

fn read_in_thread(
    mut read: impl FnMut(&mut Vec<u8>) -> std::io::Result<()> + Send + 'static,
) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = read(&mut bytes);
        bytes
    })
}

/// The result of a command.
#[derive(Debug, Clone)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    what: String,
}

impl Ran {
    /// Fails unless it exited with this code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Ran {
        assert_eq!(
            self.code, code,
            "swanci {}\n--- stdout\n{}\n--- stderr\n{}",
            self.what, self.stdout, self.stderr
        );
        self
    }

    /// Fails unless standard error contains each of these texts.
    #[track_caller]
    pub fn saying(self, texts: &[&str]) -> Ran {
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "swanci {} did not print `{text}`:\n{}",
                self.what,
                self.stderr
            );
        }
        self
    }

    /// The JSON document on standard output, which must be exactly one line.
    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains('\n'), "more than one line: {}", self.stdout);
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {}", self.stdout))
    }
}

/// The images of a document by their names.
pub fn image<'a>(document: &'a Value, name: &str) -> &'a Value {
    let images = document["images"].as_array().unwrap_or_else(|| panic!("no images: {document}"));
    images.iter().find(|i| i["name"] == name).unwrap_or_else(|| panic!("no {name}: {document}"))
}

/// The outcome of a tag's move.
#[track_caller]
pub fn outcome(receipt: &Value, name: &str, tag: &str) -> String {
    let moved = image(receipt, name)["moved"].as_array().cloned().unwrap_or_default();
    let found = moved.iter().find(|m| m["tag"] == tag).unwrap_or_else(|| panic!("no {tag}: {receipt}"));
    found["outcome"].as_str().unwrap().to_owned()
}

/// A repository, a registry, and a swanci configured for both.
pub struct Scene {
    pub registry: RegistryServer,
    pub repository: Repository,
    pub swanci: Swanci,
    /// `owner/name` on the forge.
    pub name: String,
    pub images: Cleanup,
}

impl Scene {
    pub fn new() -> Scene {
        engine::needed();
        let registry = RegistryServer::plain();
        let images = Cleanup::new(&registry.host());
        let scene = Scene {
            registry,
            repository: Repository::new(),
            swanci: Swanci::new(),
            name: "acme/shop".to_owned(),
            images,
        };
        scene.configure("");
        scene
    }

    /// With one image `a` of version 1, and its first commit.
    pub fn with_one_image() -> (Scene, String) {
        let scene = Scene::new();
        scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
        let commit = scene.repository.commit("first");
        (scene, commit)
    }

    /// Writes the configuration: this registry, this repository, and additional lines after `[build]`.
    pub fn configure(&self, more: &str) {
        self.configure_for(&self.registry.host(), more);
    }

    /// The same with another address of the registry, for example of a proxy.
    pub fn configure_for(&self, host: &str, more: &str) {
        let text = format!(
            "[registry]\nhost = \"{host}\"\nplain_http = true\n\
             [[repository]]\nname = \"{}\"\nclone_url = \"{}\"\n{more}\n",
            self.name,
            self.repository.url()
        );
        self.swanci.config(&text);
    }

    /// The full name of an image.
    pub fn image_name(&self, name: &str, tag: &str) -> String {
        format!("{}/{name}:{tag}", self.registry.host())
    }

    /// The payload of a merge of this commit into `main`.
    pub fn payload(&self, commit: &str) -> Vec<u8> {
        Payload::merged(&self.name, "main", commit).bytes()
    }

    /// Evaluates the merge of this commit into `main`.
    #[track_caller]
    pub fn change(&self, commit: &str) -> String {
        self.swanci.pipe(&["evaluate", "-"], self.payload(commit)).ended(0).stdout
    }

    pub fn build(&self, commit: &str, args: &[&str]) -> Ran {
        self.swanci.pipe(&[&["build", "-"], args].concat(), self.change(commit))
    }

    pub fn push(&self, built: &Ran, args: &[&str]) -> Ran {
        self.swanci.pipe(&[&["push", "-"], args].concat(), built.stdout.clone())
    }

    /// Evaluate, build and push in one.
    pub fn run(&self, commit: &str, args: &[&str]) -> Ran {
        self.swanci.pipe(&[&["run", "-"], args].concat(), self.payload(commit))
    }

    /// The digest under a tag of the registry, read by swanci's client.
    pub fn digest(&self, name: &str, tag: &str) -> Option<String> {
        let found = self
            .registry
            .client()
            .head_manifest(&name.parse().unwrap(), &tag.parse::<swanci::model::Tag>().unwrap());
        found.unwrap().map(|digest| digest.to_string())
    }
}

/// Waits until `done`, and fails after a time limit.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < until, "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes whose command line contains this text.
pub fn processes_with(text: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(text) && pid != std::process::id() {
            found.push((pid, line));
        }
    }
    found
}

/// The first file below this folder that contains these bytes.
pub fn find_bytes(folder: &Path, needle: &[u8]) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find_bytes(&path, needle) {
                return Some(found);
            }
        } else if fs::read(&path).is_ok_and(|b| b.windows(needle.len()).any(|w| w == needle)) {
            return Some(path);
        }
    }
    None
}
