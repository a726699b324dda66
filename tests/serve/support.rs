//! The environment for `swanci serve`: a forge's repository, a registry and a configuration.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::engine::{self, Cleanup};
use crate::support::http::{Answered, ask, delivery, get};
use crate::support::registry::RegistryServer;

pub(crate) const SECRET: &str = "a-secret-of-the-tests";
pub(crate) const REPOSITORY: &str = "juanswan13/sd2018b-exam2";

/// Time limit of a merge on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);

/// Waits until `probe` returns a value; fails with `what` after a time limit.
pub(crate) fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    until_within(LONG, what, &mut probe)
}

pub(crate) fn until_within<T>(limit: Duration, what: &str, probe: &mut dyn FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// Sends a signal to a process that the test started.
pub(crate) fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{signal} {pid}");
}

/// Pids of all processes whose command line contains `mark`.
pub(crate) fn processes_with(mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).replace('\0', " ").contains(mark) {
            found.push(pid);
        }
    }
    found
}

/// A merge on the forge: the commit that landed and its payload.
pub(crate) struct Merge {
    pub(crate) commit: String,
    pub(crate) payload: Vec<u8>,
}

impl Merge {
    pub(crate) fn delivery(&self) -> Vec<u8> {
        delivery(SECRET, "pull_request", &self.payload)
    }
}

/// A Dockerfile `FROM scratch` with one file, which builds quickly.
pub(crate) const PAGE: &str = "FROM scratch\nCOPY page /page\nCMD [\"/page\"]\n";

pub(crate) struct World {
    // Dropped before the registry, whose port another test may then use.
    _images: Cleanup,
    pub(crate) dir: TempDir,
    pub(crate) registry: RegistryServer,
    repository: String,
    numbers: Cell<u64>,
    settings: RefCell<Settings>,
}

/// A test's changes to the configuration.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    /// Lines under `[serve]`.
    pub(crate) serve: String,
    /// Lines under `[build]`.
    pub(crate) build: String,
    /// Another state directory.
    pub(crate) state: Option<PathBuf>,
    /// Other `[[repository]]` tables.
    pub(crate) repositories: Option<String>,
}

impl World {
    pub(crate) fn new() -> World {
        World::of(REPOSITORY)
    }

    pub(crate) fn of(repository: &str) -> World {
        let registry = RegistryServer::plain();
        let world = World {
            _images: Cleanup::new(&registry.host()),
            registry,
            dir: tempfile::tempdir().unwrap(),
            repository: repository.to_owned(),
            numbers: Cell::new(1),
            settings: RefCell::default(),
        };
        engine::docker_config(&world.path("home/.docker"));
        fs::create_dir(world.path("work")).unwrap();
        fs::write(world.path("secret"), format!("{SECRET}\n")).unwrap();
        Command::new("chmod").arg("600").arg(world.path("secret")).status().unwrap();
        world.git(&["init", "-q", "-b", "develop"]);
        // Different commits, and so different images, for each world.
        world.git(&["commit", "-q", "--allow-empty", "-m", &format!("Begin {}", world.dir.path().display())]);
        world.git(&["clone", "-q", "--bare", ".", "../forge.git"]);
        world.git(&["remote", "add", "origin", "../forge.git"]);
        world.write_config();
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn state(&self) -> PathBuf {
        let settings = self.settings();
        settings.state.unwrap_or_else(|| self.path("state"))
    }

    fn settings(&self) -> Settings {
        self.settings.borrow().clone()
    }

    pub(crate) fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings.borrow_mut());
        self.write_config();
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.path("swanci.toml")
    }

    pub(crate) fn write_config(&self) {
        let settings = self.settings();
        let own = format!(
            "[[repository]]\nname = \"{}\"\nclone_url = \"{}\"\n",
            self.repository,
            self.path("forge.git").display()
        );
        let text = format!(
            "state_dir = \"{}\"\n[registry]\nhost = \"{}\"\nplain_http = true\n[build]\n{}\n[serve]\n\
             listen = \"127.0.0.1:0\"\nsecret_file = \"secret\"\n{}\n{}",
            self.state().display(),
            self.registry.host(),
            settings.build,
            settings.serve,
            settings.repositories.unwrap_or(own),
        );
        fs::write(self.config_file(), text).unwrap();
    }

    fn git(&self, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(args)
            .current_dir(self.path("work"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs([("GIT_AUTHOR_NAME", "Juan"), ("GIT_AUTHOR_EMAIL", "juan@swan.test")])
            .envs([("GIT_COMMITTER_NAME", "Juan"), ("GIT_COMMITTER_EMAIL", "juan@swan.test")])
            .output()
            .unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Merges a pull request that writes these files, and pushes it to the forge.
    pub(crate) fn merge(&self, files: &[(&str, &str)]) -> Merge {
        let merge = self.merge_unpushed(files);
        self.push();
        merge
    }

    pub(crate) fn push(&self) {
        self.git(&["push", "-q", "origin", "develop"]);
    }

    /// The same without the push: the delivery precedes the commit in the forge's git.
    pub(crate) fn merge_unpushed(&self, files: &[(&str, &str)]) -> Merge {
        let number = self.numbers.replace(self.numbers.get() + 1);
        let branch = format!("change-{number}");
        let base = self.git(&["rev-parse", "develop"]);
        self.git(&["switch", "-q", "-c", &branch]);
        for (name, content) in files {
            let path = self.path("work").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", &format!("Change {number}")]);
        let head = self.git(&["rev-parse", "HEAD"]);
        self.git(&["switch", "-q", "develop"]);
        self.git(&["merge", "-q", "--no-ff", "-m", &format!("Merge pull request #{number}"), &branch]);
        let commit = self.git(&["rev-parse", "HEAD"]);
        let payload = payload(&self.repository, number, &base, &head, &commit);
        Merge { commit, payload }
    }

    /// A merge of one image, whose page is `text`.
    pub(crate) fn merge_page(&self, text: &str) -> Merge {
        self.merge_image("httpd", PAGE, text)
    }

    /// A merge of one image `name` in version 1.0 with this Dockerfile and a file `page`.
    pub(crate) fn merge_image(&self, name: &str, dockerfile: &str, page: &str) -> Merge {
        let images = json!({"images": [{"service_name": name, "version": "1.0", "type": "Docker"}]});
        let (docker, at) = (format!("{name}/Dockerfile"), format!("{name}/page"));
        self.merge(&[("images.json", &images.to_string()), (&docker, dockerfile), (&at, page)])
    }

    /// A merge of an image whose build runs `command` of busybox's shell.
    pub(crate) fn merge_run(&self, command: &str) -> Merge {
        let place = self.path("work").join("httpd");
        fs::create_dir_all(&place).unwrap();
        fs::copy("/bin/busybox", place.join("busybox")).expect("apt-get install busybox-static");
        let run = json!(["/busybox", "sh", "-c", command]);
        let test = self.dir.path().display();
        self.merge_image(
            "httpd",
            // Separates the cached steps of different tests.
            &format!("FROM scratch\nENV TEST={test}\nCOPY busybox /busybox\nRUN {run}\nCOPY page /page\nCMD [\"/page\"]\n"),
            "one",
        )
    }

    /// A docker CLI that waits before each build while the file `hold` exists, then runs the real one.
    pub(crate) fn hold_builds(&self) {
        let hold = self.path("hold");
        fs::write(&hold, "").unwrap();
        let wait = format!("while [ -e {} ]; do sleep 0.05; done", hold.display());
        self.docker_first("docker-that-waits", &wait);
    }

    /// A docker CLI of this name that runs these shell commands before each build, then runs the real one.
    pub(crate) fn docker_first(&self, name: &str, commands: &str) {
        let script = self.path(name);
        let text =
            format!("#!/bin/sh\ncase \" $* \" in *' build '*) {commands};; esac\nexec docker \"$@\"\n");
        fs::write(&script, text).unwrap();
        Command::new("chmod").arg("755").arg(&script).status().unwrap();
        self.configure(|s| s.build = format!("docker = \"{}\"", script.display()));
    }

    pub(crate) fn release_builds(&self) {
        fs::remove_file(self.path("hold")).unwrap();
    }

    /// The binary with this world's configuration, without the machine's.
    pub(crate) fn swanci(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swanci"));
        self.environment(&mut command);
        command.arg("--config").arg(self.config_file());
        command
    }

    pub(crate) fn environment(&self, command: &mut Command) {
        command
            .env_clear()
            .envs(engine::environment())
            .env("HOME", self.path("home"))
            .current_dir(self.dir.path());
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.swanci().args(args).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn serve(&self) -> Serve {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, args: &[&str]) -> Serve {
        let mut command = self.swanci();
        command.arg("serve").args(args);
        Serve::start(command, self)
    }

    /// One job, from `jobs show --json`.
    pub(crate) fn job(&self, id: i64) -> Value {
        let out = self.run(&["jobs", "show", &id.to_string(), "--json"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    pub(crate) fn jobs(&self) -> Vec<Value> {
        let out = self.run(&["jobs", "list", "--json", "--limit", "1000"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        document["jobs"].as_array().unwrap().clone()
    }

    pub(crate) fn job_log(&self, id: i64) -> String {
        let out = self.run(&["jobs", "log", &id.to_string()]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Waits until a job is in a state; if it ends in another state, fails the test with its log.
    pub(crate) fn wait_for(&self, id: i64, state: &str) -> Value {
        until(&format!("job {id} is {state}"), || {
            let job = self.job(id);
            let now = job["state"].as_str().unwrap().to_owned();
            let ended = ["succeeded", "failed", "cancelled"].contains(&now.as_str());
            assert!(now == state || !ended, "job {id} is {now}: {}\n{}", job["error"], self.job_log(id));
            (now == state).then_some(job)
        })
    }

    /// The digest of a tag in the registry, read without swanci.
    pub(crate) fn digest(&self, image: &str, tag: &str) -> Option<String> {
        let request = format!(
            "HEAD /v2/{image}/manifests/{tag} HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\
             Accept: application/vnd.docker.distribution.manifest.v2+json\r\n\
             Accept: application/vnd.oci.image.manifest.v1+json\r\n\r\n"
        );
        let answer = head_of(self.registry.address, &request);
        let status = answer.lines().next().unwrap().split(' ').nth(1).unwrap().to_owned();
        match status.as_str() {
            "200" => {
                let line =
                    answer.lines().find(|l| l.to_ascii_lowercase().starts_with("docker-content-digest:"));
                Some(line.unwrap().split_once(": ").unwrap().1.trim().to_owned())
            }
            "404" => None,
            other => panic!("the registry answered {other}"),
        }
    }
}

fn head_of(address: SocketAddr, request: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

impl Drop for World {
    fn drop(&mut self) {
        // End the processes of a killed `serve` before its images are removed.
        swanci::process::end_stale_children(&self.state().join("children"));
    }
}

/// The payload of a merged pull request into `develop`.
pub(crate) fn payload(repository: &str, number: u64, base: &str, head: &str, commit: &str) -> Vec<u8> {
    let (owner, name) = repository.split_once('/').unwrap();
    let url = format!("https://github.com/{repository}");
    let payload = json!({
        "action": "closed", "number": number,
        "pull_request": {
            "number": number, "state": "closed", "title": format!("Change {number}"),
            "html_url": format!("{url}/pull/{number}"), "user": {"login": owner},
            "merged": true, "merged_at": "2026-11-20T15:04:05Z", "merge_commit_sha": commit,
            "head": {"ref": format!("change-{number}"), "sha": head},
            "base": {"ref": "develop", "sha": base},
        },
        "repository": {
            "id": 1, "name": name, "full_name": repository, "default_branch": "develop",
            "owner": {"login": owner, "id": 1}, "html_url": url, "clone_url": format!("{url}.git"),
        },
    });
    serde_json::to_vec(&payload).unwrap()
}

/// A running `swanci serve`, killed when the test is over.
pub(crate) struct Serve {
    child: Child,
    pub(crate) address: SocketAddr,
    output: PathBuf,
}

impl Serve {
    /// Starts it and waits until it listens.
    pub(crate) fn start(command: Command, world: &World) -> Serve {
        let mut serve = Serve::launch(command, world);
        serve.wait_listening();
        serve
    }

    /// Starts it.
    pub(crate) fn launch(mut command: Command, world: &World) -> Serve {
        let output = world.path(&format!("serve-{:08x}.log", fastrand::u32(..)));
        let file = File::create(&output).unwrap();
        command.stdout(file.try_clone().unwrap()).stderr(file).process_group(0);
        Serve { child: command.spawn().unwrap(), address: "127.0.0.1:0".parse().unwrap(), output }
    }

    pub(crate) fn wait_listening(&mut self) {
        let (output, child) = (self.output.clone(), &mut self.child);
        self.address = until("serve listens", || {
            let text = fs::read_to_string(&output).unwrap();
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "serve ended with {ended:?}:\n{text}");
            let (line, _) =
                text.split_once("listening on http://")?.1.split_once(|c: char| !is_address(c))?;
            line.parse().ok()
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output so far.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    pub(crate) fn wait_said(&self, text: &str) {
        until(&format!("serve says `{text}`; it said\n{}", self.said()), || {
            self.said().contains(text).then_some(())
        });
    }

    pub(crate) fn ask(&self, bytes: impl AsRef<[u8]>) -> Answered {
        ask(self.address, bytes)
    }

    pub(crate) fn get(&self, path: &str) -> Answered {
        self.ask(get(path))
    }

    /// Delivers a merge that must be queued; returns the job's number.
    pub(crate) fn deliver(&self, merge: &Merge) -> i64 {
        let answer = self.ask(merge.delivery());
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json()["decision"], "build");
        answer.json()["job"].as_i64().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits until it exits and returns its code.
    pub(crate) fn wait(&mut self, limit: Duration) -> i32 {
        let child = &mut self.child;
        let status = until_within(limit, "serve ends", &mut || child.try_wait().unwrap());
        status.code().unwrap_or_else(|| panic!("ended by {status}: {}", self.said()))
    }

    /// Sends SIGTERM and returns the exit code.
    pub(crate) fn stop(mut self) -> i32 {
        self.signal("TERM");
        self.wait(Duration::from_secs(30))
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- serve\n{}", self.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_address(c: char) -> bool {
    c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']')
}

/// The lines of standard error.
pub(crate) fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// Whether a build step whose command contains `mark` runs. `docker ps` does not list BuildKit's steps.
pub(crate) fn step_runs(mark: &str) -> bool {
    !processes_with(mark).is_empty()
}
