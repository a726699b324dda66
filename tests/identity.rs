//! Images have the content of their commit and belong to their repository: two repositories on one engine and one registry.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

mod content;
mod ends;
mod finish;
mod labels;
mod names;
mod output;
mod ownership;

use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::engine::{docker_text, file_of};
use crate::support::http::{ask, delivery};
use crate::support::proxy::Proxy;
use crate::support::repository::{Payload, Repository};
use crate::support::swanci::{Ran, Scene, Started, Swanci, eventually};

const SOURCE: &str = "org.opencontainers.image.source";
const REVISION: &str = "org.opencontainers.image.revision";
const INPUTS: &str = "io.swanci.inputs";

/// Two repositories that share one registry, one engine and one configuration.
struct Two {
    scene: Scene,
    /// `acme/other`.
    other: Repository,
}

impl Two {
    fn new() -> Two {
        let two = Two { scene: Scene::new(), other: Repository::new() };
        two.configure("", "");
        two
    }

    /// Writes the configuration, with lines for each of the repositories.
    fn configure(&self, ours: &str, others: &str) {
        self.scene.configure(&self.tables(ours, others));
    }

    fn tables(&self, ours: &str, others: &str) -> String {
        let url = self.other.url();
        format!("{ours}\n[[repository]]\nname = \"acme/other\"\nclone_url = \"{url}\"\n{others}")
    }

    /// The same through a proxy that records the requests.
    fn proxy(&mut self) -> Proxy {
        let proxy = Proxy::start(self.scene.registry.address);
        self.scene.images.also(&proxy.host());
        self.scene.configure_for(&proxy.host(), &self.tables("", ""));
        proxy
    }

    /// `run` of a merge of the other repository.
    fn run_other(&self, commit: &str, args: &[&str]) -> Ran {
        self.start_other(&self.scene.swanci, commit, args).wait()
    }

    fn start_other(&self, swanci: &Swanci, commit: &str, args: &[&str]) -> Started {
        let payload = Payload::merged("acme/other", "main", commit).bytes();
        let payload = swanci.file("other.json", payload).display().to_string();
        swanci.start(&[&["run", &payload], args].concat())
    }

    /// A swanci with a separate state directory and the same configuration.
    fn elsewhere(&self) -> Swanci {
        let swanci = Swanci::new();
        swanci.config(&std::fs::read_to_string(self.scene.swanci.work().join("swanci.toml")).unwrap());
        swanci
    }
}

/// Adds an image with one file to a repository.
fn one_image(repository: &Repository, name: &str, content: &str) -> String {
    repository.image(name, content).images(&[json!({"service_name": name, "version": "1"})]);
    repository.commit(content)
}

/// Imports an image with one file into the engine under this name, without a build.
fn import(name: &str, content: &str) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), content).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-c", "file"]).current_dir(folder.path()).stdout(Stdio::piped());
    let mut tar = tar.spawn().unwrap();
    let out = Command::new("docker")
        .args(["import", "-", name])
        .stdin(tar.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(
        tar.wait().unwrap().success() && out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// The names and Ids of the engine's images with this prefix, sorted.
fn names_in_engine(prefixes: &[&str]) -> Vec<String> {
    let listed = docker_text(&["image", "ls", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    let ours = listed.lines().filter(|line| prefixes.iter().any(|prefix| line.starts_with(prefix)));
    let mut names: Vec<String> = ours.filter(|line| !line.contains(":<none>")).map(str::to_owned).collect();
    names.sort();
    names
}

fn content(image: &str, path: &str) -> String {
    file_of(image, path).map_or("nothing".to_owned(), |bytes| String::from_utf8(bytes).unwrap())
}

/// Copies busybox into a folder; its `RUN` steps are `["/bin/busybox", …]`.
fn busybox(repository: &Repository, folder: &str) {
    let busybox = std::fs::read("/bin/busybox").expect("apt-get install busybox-static");
    repository.write(&format!("{folder}/busybox"), busybox).executable(&format!("{folder}/busybox"), true);
}

/// Runs `serve --once` with this delivery; returns its exit code, which is the job's.
fn serve_once(swanci: &Swanci, payload: &[u8]) -> i32 {
    const SECRET: &str = "a-secret-of-the-tests";
    let secret = swanci.file("secret", SECRET);
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let log = swanci.work().join("serve.log");
    let mut serve =
        swanci.command(&["serve", "--once", "--listen", "127.0.0.1:0", "--secret-file", "secret"]);
    let file = std::fs::File::create(&log).unwrap();
    let mut serve = serve.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    let mut address = None;
    eventually("serve listens", || {
        let text = std::fs::read_to_string(&log).unwrap();
        let rest = text.split_once("listening on http://").map(|(_, rest)| rest.to_owned());
        let end = |c: char| !c.is_ascii_digit() && !matches!(c, '.' | ':');
        address = rest.and_then(|rest| rest.split(end).next()?.parse().ok());
        assert!(serve.try_wait().unwrap().is_none(), "{text}");
        address.is_some()
    });
    let answered = ask(address.unwrap(), delivery(SECRET, "pull_request", payload));
    assert_eq!(answered.status, 202, "{}", answered.body);
    let code = serve.wait().unwrap().code().unwrap();
    println!("{}", std::fs::read_to_string(&log).unwrap());
    code
}
