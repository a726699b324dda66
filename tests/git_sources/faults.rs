#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::registry::Ca;
use crate::support::repository::Repository;
use crate::support::swanci::{Ran, Scene, Swanci, find_bytes, image};

/// Plans the build of `main` of the repository at this path.
fn plan(swanci: &Swanci, url: &str) -> Ran {
    swanci.run(&["build", "--repo", url, "--branch", "main", "--dry-run"])
}

fn repository() -> Repository {
    let repository = Repository::new();
    repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    repository.commit("first");
    repository
}

/// Stores an object without checking it.
fn store(repository: &Repository, kind: &str, content: &[u8]) -> String {
    let mut child = Command::new("git")
        .args(["hash-object", "-w", "-t", kind, "--stdin", "--literally"])
        .current_dir(repository.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Adds `tree` (or the current one) to the history of `main`, in a commit with these headers.
fn history(repository: &Repository, tree: Option<&str>, headers: &str) {
    let head = repository.head();
    let present = repository.git(&["rev-parse", "HEAD^{tree}"]);
    let tree = tree.unwrap_or(&present);
    let bad =
        store(repository, "commit", format!("tree {tree}\nparent {head}\n{headers}\n\nold\n").as_bytes());
    let good = "author A <a@b.org> 1700000000 +0000\ncommitter A <a@b.org> 1700000000 +0000";
    let tip =
        store(repository, "commit", format!("tree {present}\nparent {bad}\n{good}\n\nnew\n").as_bytes());
    repository.git(&["update-ref", "refs/heads/main", &tip]);
}

/// A tree object of one entry.
fn tree(repository: &Repository, mode: &str, name: &str) -> String {
    let blob = store(repository, "blob", b"x");
    let id = if mode.contains("40000") { tree(repository, "100644", "x") } else { blob };
    let id: Vec<u8> = (0..20).map(|i| u8::from_str_radix(&id[2 * i..2 * i + 2], 16).unwrap()).collect();
    store(repository, "tree", &[format!("{mode} {name}\0").as_bytes(), &id].concat())
}

fn mirrors(swanci: &Swanci) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(swanci.state().join("mirrors")).unwrap();
    entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "git")).collect()
}

#[test]
fn harmless_faults_in_old_history_are_accepted() {
    let good = "A <a@b.org> 1700000000 +0000";
    let author = |line: &str| format!("author {line}\ncommitter {good}");
    for (what, headers) in [
        ("badTimezone", author("A <a@b.org> 1700000000 +051800")),
        ("missingSpaceBeforeDate", author("A <a@b.org>1700000000 +0000")),
        ("missingEmail", author("A 1700000000 +0000")),
        ("badEmail", author("A <a@b.org 1700000000 +0000")),
        ("badEmail, nested", author("A <<a@b.org>> 1700000000 +0000")),
        ("badName", author("A> <a@b.org> 1700000000 +0000")),
        ("missingSpaceBeforeEmail", author("A<a@b.org> 1700000000 +0000")),
        ("missingNameBeforeEmail", author("<a@b.org> 1700000000 +0000")),
        ("badDate", author("A <a@b.org> yesterday +0000")),
        ("badDateOverflow", author("A <a@b.org> 99999999999999999999 +0000")),
        ("zeroPaddedDate", author("A <a@b.org> 0700000000 +0000")),
        ("multipleAuthors", format!("author {good}\n{}", author(good))),
        ("nothing", author("")),
    ] {
        let (swanci, repository) = (Swanci::new(), repository());
        history(&repository, None, &headers);
        let ran = plan(&swanci, &repository.url());
        assert_eq!(ran.code, 0, "{what}: {ran:?}");
    }
    for mode in ["040000", "0100644", "100664"] {
        let (swanci, repository) = (Swanci::new(), repository());
        let tree = tree(&repository, mode, "x");
        history(&repository, Some(&tree), &author(good));
        let ran = plan(&swanci, &repository.url());
        assert_eq!(ran.code, 0, "{mode}: {ran:?}");
    }
}

#[test]
fn an_object_with_a_dangerous_path_is_refused_by_name_and_the_mirror_is_kept() {
    let (swanci, repository) = (Swanci::new(), repository());
    plan(&swanci, &repository.url()).ended(0);
    let good = "author A <a@b.org> 1700000000 +0000\ncommitter A <a@b.org> 1700000000 +0000";
    let before = std::fs::metadata(&mirrors(&swanci)[0]).unwrap().ino();
    let first = repository.head();
    for (name, says) in [(".git", "hasDotgit"), ("..", "hasDotdot"), (".", "hasDot"), (".GIT", "hasDotgit")] {
        repository.git(&["update-ref", "refs/heads/main", &first]);
        let tree = tree(&repository, "40000", name);
        history(&repository, Some(&tree), good);
        let ran = plan(&swanci, &repository.url()).ended(5).saying(&["git fsck refuses", says, "hint: "]);
        assert!(ran.stderr.contains(&tree), "{}", ran.stderr);
    }
    repository.git(&["update-ref", "refs/heads/main", &first]);
    plan(&swanci, &repository.url()).ended(0);
    assert_eq!(std::fs::metadata(&mirrors(&swanci)[0]).unwrap().ino(), before, "the mirror was replaced");
}

#[test]
fn a_path_of_another_user_is_read_only_if_named_explicitly() {
    let chown = |path: &std::path::Path| {
        let done = Command::new("chown").args(["-R", "1234"]).arg(path).status().unwrap();
        assert!(done.success(), "this test runs as root");
    };
    let scene = Scene::new();
    let _cleanup = crate::support::engine::Cleanup::new(&format!("t{}x", std::process::id()));
    let library = Repository::new();
    library.write("part", "of the submodule");
    library.commit("library");
    let r = &scene.repository;
    r.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = r.commit("first");
    let bare = tempfile::tempdir().unwrap();
    let place = bare.path().join("odd \"name\" #; \u{e9}.git");
    r.git(&["clone", "--quiet", "--bare", &r.url(), place.to_str().unwrap()]);
    r.git(&["submodule", "--quiet", "add", &library.beside(), "a/library"]);
    let with_submodule = r.commit("submodule");
    chown(r.path());
    scene.build(&commit, &["--dry-run"]).ended(0);
    plan(&scene.swanci, &r.url()).ended(0);
    plan(&scene.swanci, &format!("{}/.git", r.url())).ended(0);
    scene.swanci.config("");
    chown(&place);
    plan(&scene.swanci, place.to_str().unwrap()).ended(0);
    plan(&scene.swanci, place.to_str().unwrap().trim_end_matches(".git")).ended(0);
    // git-lfs checks the path too.
    let stored = Repository::new();
    stored.git(&["config", "filter.lfs.clean", "git-lfs clean -- %f"]);
    stored.git(&["config", "filter.lfs.smudge", "cat"]);
    stored.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    stored.image("a", "1").write("a/large.bin", "the content itself");
    stored.images(&[json!({"service_name": crate::support::engine::unique("lfs"), "context": "a"})]);
    stored.commit("with LFS");
    chown(stored.path());
    scene.swanci.run(&["build", "--repo", &stored.url(), "--branch", "main"]).ended(0);
    // The repository, not the user, sets a submodule's path.
    chown(library.path());
    scene.configure("submodules = true");
    scene.build(&with_submodule, &[]).ended(6).saying(&[
        "dubious ownership",
        "belongs to another user",
        "hint: ",
    ]);
    assert!(!scene.swanci.home().join(".gitconfig").exists());
}

#[test]
fn every_remote_fault_has_gits_message_an_exit_code_and_a_hint() {
    let swanci = Swanci::new();
    let repository = repository();
    for n in ["2", "3"] {
        repository.write("README", n);
        repository.commit(n);
    }
    let other = tempfile::tempdir().unwrap();
    let at = |name: &str| other.path().join(name).display().to_string();
    let git = |args: &[&str]| repository.git(args);
    git(&["clone", "--quiet", "--depth", "1", &format!("file://{}", repository.url()), &at("shallow")]);
    git(&["init", "--quiet", "--object-format=sha256", "--initial-branch=main", &at("sha256")]);
    git(&["-C", &at("sha256"), "commit", "--quiet", "--allow-empty", "--message", "first"]);
    for (url, code, says) in [
        (at("shallow"), 5, &["shallow clone", "shallow roots", "--unshallow"][..]),
        (at("sha256"), 4, &["SHA-256", "mismatched algorithms"]),
        (at("none"), 6, &["no git repository", "does not appear to be a git repository"]),
        (
            "git@no-such-host.invalid:a/b".to_owned(),
            6,
            &["has no address", "ssh: Could not resolve hostname no-such-host.invalid"],
        ),
        (
            "ssh://git@127.0.0.1:1/a/b".to_owned(),
            6,
            &["cannot reach", "ssh: connect to host 127.0.0.1 port 1"],
        ),
        ("https://no-such-host.invalid/a/b".to_owned(), 6, &["has no address", "Could not resolve host"]),
        ("https://127.0.0.1:1/a/b".to_owned(), 6, &["cannot reach", "caused by: fatal: unable to access"]),
    ] {
        let ran = plan(&swanci, &url).ended(code).saying(says).saying(&["hint: "]);
        assert!(!ran.stderr.contains("correct access rights"), "{}", ran.stderr);
    }
    // The failed clones leave nothing.
    assert_eq!(mirrors(&swanci), Vec::<PathBuf>::new());
}

#[test]
fn the_id_of_another_object_is_reported_with_its_type() {
    let (swanci, repository) = (Swanci::new(), repository());
    repository.git(&["tag", "--annotate", "--message", "a tag", "v1"]);
    let url = repository.url();
    for (object, kind) in [("v1", "tag"), ("HEAD^{tree}", "tree"), ("HEAD:images.json", "blob")] {
        let id = repository.git(&["rev-parse", object]);
        for more in [&[][..], &["--branch", "main"]] {
            let args = [&["build", "--repo", &url, "--commit", &id, "--dry-run"], more].concat();
            swanci.run(&args).ended(4).saying(&[&format!("the id of a {kind}, not of a commit"), "hint: "]);
        }
    }
}

#[test]
fn a_missing_lfs_object_is_named_and_is_not_an_environment_failure() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.git(&["config", "filter.lfs.clean", "git-lfs clean -- %f"]);
    r.git(&["config", "filter.lfs.smudge", "cat"]);
    r.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    r.write("a/Dockerfile", "FROM scratch\nCOPY . /\n").write("a/large.bin", "the content itself");
    r.images(&[json!({"service_name": "a"})]);
    let commit = r.commit("with LFS");
    std::fs::remove_dir_all(r.file(".git/lfs")).unwrap();
    scene.build(&commit, &[]).ended(1).saying(&["missing in the LFS storage", "large.bin", "git lfs push"]);
}

#[test]
fn a_git_that_is_too_old_is_refused_with_its_version() {
    let mut swanci = Swanci::new();
    let repository = repository();
    for (version, code) in [("2.30.2", 6), ("2.9.0", 6), ("1.99", 6), ("2.31.0-rc1", 0), ("3.0.1 (X)", 0)] {
        swanci.program(
            "git",
            &format!(
                "#!/bin/sh\n[ \"$1\" = --version ] && exec echo git version '{version}'\nexec /usr/bin/git \"$@\"\n"
            ),
        );
        let ran = plan(&swanci, &repository.url()).ended(code);
        if code == 6 {
            ran.saying(&[version, "too old", "2.31", "hint: "]);
            let doctor = swanci.run(&["doctor"]);
            assert!(doctor.stdout.contains(version), "{doctor:?}");
        }
    }
}

#[test]
fn replacing_a_mirror_keeps_the_one_that_other_jobs_use() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let first = r.commit("first");
    r.branch("release").write("a/file", "release");
    let released = r.commit("release");
    r.checkout("main");
    let orphan = r.orphan();
    let by_hand = |args: &[&str]| {
        scene.swanci.run(&[&["build", "--repo", &r.url(), "--dry-run"], args].concat()).ended(0).json()
    };
    for damage in ["config", "objects", "packed-refs"] {
        by_hand(&["--branch", "release"]);
        by_hand(&["--commit", &orphan]);
        let mirror = mirrors(&scene.swanci).remove(0);
        let path = mirror.join(damage);
        match damage {
            "objects" => std::fs::remove_dir_all(&path).unwrap(),
            _ => std::fs::write(&path, "nonsense\n").unwrap(),
        }
        r.write("README", damage);
        r.commit(damage);
        by_hand(&["--branch", "main"]);
        let has = |commit: &str| {
            let asked = format!("{commit}^{{commit}}");
            let dir = format!("--git-dir={}", mirror.display());
            Command::new("git").args([&dir, "cat-file", "-e", &asked]).status().unwrap().success()
        };
        for (what, commit) in [("first", &first), ("release", &released), ("orphan", &orphan)] {
            assert!(has(commit), "{what} is gone after {damage}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(scene.swanci.state().join("mirrors")).unwrap().flatten().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn only_authorities_and_proxies_of_gits_configuration_are_used() {
    let ca = Ca::new("test");
    let repository = repository();
    repository.git(&["update-server-info"]);
    let inner = super::plain_server(repository.path().join(".git"), |_| true);
    let port = super::tls_server(&ca, &["127.0.0.1"], &inner);
    let url = format!("https://127.0.0.1:{port}/acme/shop.git");
    let mut swanci = Swanci::new();
    let file = swanci.file("ca.pem", &ca.pem).display().to_string();
    plan(&swanci, &url).ended(6).saying(&["cannot be verified", "ca_file", "sslCAInfo"]);
    let global = swanci.home().join(".gitconfig");
    let system = swanci.file("system", "").display().to_string();
    swanci.set("GIT_CONFIG_SYSTEM", &system);
    for place in [global.display().to_string(), system] {
        for text in [
            format!("[http]\n\tsslCAInfo = {file}\n"),
            format!("[http \"https://127.0.0.1:{port}\"]\n\tsslCAInfo = {file}\n"),
            format!("[http \"https://127.0.0.1:{port}/acme\"]\n\tsslcainfo = {file}\n"),
        ] {
            std::fs::write(&place, &text).unwrap();
            plan(&swanci, &url).ended(0);
        }
        // The proxy is used too, although nothing answers there.
        for key in ["http", "http \"https://127.0.0.1\"", &format!("http \"https://127.0.0.1:{port}/\"")] {
            let text = format!("[http]\n\tsslCAInfo = {file}\n[{key}]\n\tproxy = http://127.0.0.1:1\n");
            std::fs::write(&place, &text).unwrap();
            let code = if key == "http \"https://127.0.0.1\"" { 0 } else { 6 };
            plan(&swanci, &url).ended(code);
        }
        // A setting that turns the check off is ignored.
        std::fs::write(&place, "[http]\n\tsslVerify = false\n").unwrap();
        plan(&swanci, &url).ended(6);
        std::fs::write(&place, "").unwrap();
    }
    assert_eq!(find_bytes(&swanci.state(), b"sslCAInfo"), None);
}

#[test]
fn every_https_fault_has_a_cause_and_a_hint() {
    let (ca, repository) = (Ca::new("test"), repository());
    repository.git(&["update-server-info"]);
    let inner = super::plain_server(repository.path().join(".git"), |_| true);
    let locked = super::plain_server(repository.path().join(".git"), |_| false);
    let mut swanci = Swanci::new();
    let file = swanci.file("ca.pem", &ca.pem).display().to_string();
    std::fs::write(swanci.home().join(".gitconfig"), format!("[http]\n\tsslCAInfo = {file}\n")).unwrap();
    let good = super::tls_server(&ca, &["127.0.0.1"], &inner);
    let own = |port: u16| format!("https://127.0.0.1:{port}/acme/shop.git");
    plan(&swanci, &own(good)).ended(0);
    let other = super::tls_server(&Ca::new("other"), &["127.0.0.1"], &inner);
    plan(&swanci, &own(other)).ended(6).saying(&["cannot be verified", "ca_file"]);
    let named = super::tls_server(&ca, &["git.example.org"], &inner);
    plan(&swanci, &own(named)).ended(6).saying(&["for another host name", "fatal: ", "does not match"]);
    plan(&swanci, &own(inner.port)).ended(6).saying(&["does not speak TLS", "plain HTTP"]);
    let wants = super::tls_server(&ca, &["127.0.0.1"], &locked);
    plan(&swanci, &own(wants)).ended(6).saying(&["refuses the credentials", "SWANCI_GIT_TOKEN"]);
    plan(&swanci, &own(good).replace("shop.git", "none.git")).ended(6).saying(&["no git repository"]);
    swanci.set("https_proxy", "http://127.0.0.1:1");
    plan(&swanci, &own(good)).ended(6).saying(&["127.0.0.1"]);
    swanci.set("https_proxy", &format!("http://127.0.0.1:{}", locked.port));
    plan(&swanci, &own(good)).ended(6).saying(&["the proxy does not let git through", "https_proxy"]);
}

#[test]
fn an_image_of_many_paths_is_looked_up_in_linear_time() {
    let (swanci, repository) = (Swanci::new(), Repository::new());
    let file = |i: usize| (format!("d{}/f{i}", i % 7), "x");
    for i in 0..7 {
        std::fs::create_dir_all(repository.file(&format!("d{i}"))).unwrap();
    }
    for i in 0..3000 {
        let (path, content) = file(i);
        std::fs::write(repository.file(&path), content).unwrap();
    }
    repository.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    let images: Vec<_> = (0..3000)
        .map(|i| json!({"service_name": format!("i{i}"), "context": format!("d{}", i % 7), "dockerfile": "../Dockerfile"}))
        .collect();
    repository.images(&images);
    repository.commit("many");
    let document = plan(&swanci, &repository.url()).ended(0).json();
    assert_eq!(document["images"].as_array().unwrap().len(), 3000);
    assert_eq!(image(&document, "i2999")["status"], "planned");
}
