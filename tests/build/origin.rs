//! The clone URL of a change, and the proof that its commit was merged.

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::support::repository::{Payload, Repository};
use crate::support::swanci::{Scene, Swanci, image};

#[test]
fn a_commit_that_is_not_on_its_branch_is_refused() {
    let (scene, first) = Scene::with_one_image();
    let repository = &scene.repository;
    let orphan = repository.orphan();
    repository.branch("topic").write("a/file", "fork");
    let head = repository.commit("the head of a pull request");
    repository.git(&["update-ref", "refs/pull/7/head", &head]);
    repository.checkout("main").write("other", "2");
    repository.commit("second");
    // GitHub's own test merge, which is on no branch.
    repository.git(&["checkout", "--quiet", "--detach", "main"]);
    let trial = repository.merge("topic");
    repository.git(&["update-ref", "refs/pull/7/merge", &trial]);
    repository.checkout("main");
    let absent = "0123456789012345678901234567890123456789";
    for (what, commit) in
        [("orphan", orphan.as_str()), ("fork head", &head), ("trial merge", &trial), ("unknown", absent)]
    {
        let ran = scene.build(commit, &[]).ended(5).saying(&["is not on the branch `main`", commit]);
        assert_eq!(ran.stdout, "", "{what}");
        scene.run(commit, &[]).ended(5);
    }
    scene.build(&first, &[]).ended(0);
}

#[test]
fn a_commit_removed_by_a_force_push_is_refused_although_the_mirror_has_it() {
    let (scene, _) = Scene::with_one_image();
    scene.repository.write("a/file", "2");
    let away = scene.repository.commit("second");
    scene.build(&away, &["--dry-run"]).ended(0);
    scene.repository.reset("HEAD^").write("a/file", "3");
    let instead = scene.repository.commit("instead");
    scene.build(&away, &["--dry-run"]).ended(5).saying(&["force-pushed"]);
    scene.build(&instead, &["--dry-run"]).ended(0);
}

#[test]
fn a_force_push_after_the_build_moves_no_tags() {
    let (scene, _) = Scene::with_one_image();
    scene.repository.write("a/file", "2");
    let away = scene.repository.commit("second");
    let built = scene.build(&away, &[]).ended(0);
    scene.repository.reset("HEAD^").write("a/file", "3");
    scene.repository.commit("instead");
    let receipt = scene.push(&built, &[]).ended(5).json();
    assert_eq!(receipt["outcome"], "failed");
    assert_eq!(scene.digest("a", "1"), None);
}

#[test]
fn a_missing_branch_is_refused() {
    let (scene, commit) = Scene::with_one_image();
    let payload = Payload::merged("acme/shop", "gone", &commit).bytes();
    scene.swanci.pipe(&["run", "-"], payload).ended(5).saying(&["no branch `gone`"]);
}

#[test]
fn urls_in_a_payload_are_never_contacted() {
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = trap.local_addr().unwrap().port();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    std::thread::spawn(move || {
        for mut connection in trap.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = connection.read(&mut [0; 64]);
        }
    });
    let swanci = Swanci::new();
    swanci.config("[registry]\nhost = \"127.0.0.1:9\"\nplain_http = true\n");
    let commit = "0123456789012345678901234567890123456789";
    let canary = swanci.work().join("canary");
    for url in [
        format!("https://127.0.0.1:{port}/acme/shop.git"),
        format!("https://localhost:{port}/acme/shop.git"),
        format!("https://github.com@127.0.0.1:{port}/acme/shop.git"),
        format!("http://127.0.0.1:{port}/acme/shop.git"),
        format!("git://127.0.0.1:{port}/acme/shop.git"),
        format!("ssh://git@127.0.0.1:{port}/acme/shop.git"),
        format!("git@127.0.0.1:{port}/acme/shop.git"),
        format!("ext::sh -c 'touch {}'", canary.display()),
        "file:///etc".to_owned(),
        "/etc".to_owned(),
        "https://github.com/other/shop.git".to_owned(),
        "https://github.com/acme/shop/../../other/shop".to_owned(),
        format!("--upload-pack=touch {}", canary.display()),
    ] {
        let payload = Payload::merged("acme/shop", "main", commit).set("/repository/clone_url", json!(url));
        // `evaluate` may refuse the URL; no later step may use it.
        let evaluated = swanci.pipe(&["evaluate", "-"], payload.bytes());
        if evaluated.code == 0 {
            // swanci fetches from the configured forge, which is unreachable here.
            swanci
                .pipe(&["build", "-"], evaluated.stdout)
                .ended(6)
                .saying(&["https://github.com/acme/shop.git"]);
            swanci.pipe(&["run", "-"], payload.bytes()).ended(6);
        } else {
            evaluated.ended(4);
        }
        assert!(!canary.exists(), "{url} was executed");
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0, "swanci connected to a URL of a payload");
}

#[test]
fn the_allow_list_applies_to_payloads_and_manual_builds() {
    let (scene, commit) = Scene::with_one_image();
    let other = Repository::new();
    other.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    other.commit("first");
    let payload = Payload::merged("acme/other", "main", &commit).bytes();
    scene.swanci.pipe(&["run", "-"], payload).ended(5).saying(&["acme/other", "allow-list"]);
    let by_hand = ["build", "--repo", &other.url(), "--branch", "main"];
    scene.swanci.run(&by_hand).ended(5).saying(&["allow-list"]);
    assert!(!scene.swanci.state().join("mirrors").exists(), "something was fetched");
    // The listed repository is recognised by its clone URL, and by its name in any case.
    let hand = ["build", "--repo", &scene.repository.url(), "--branch", "main", "--dry-run"];
    assert_eq!(scene.swanci.run(&hand).ended(0).json()["change"]["repository"], "acme/shop");
    let payload = Payload::merged("ACME/Shop", "main", &commit).bytes();
    scene.swanci.pipe(&["run", "-"], payload).ended(0);
}

#[test]
fn an_unreachable_registry_is_named_and_not_reported_as_cancelled() {
    let (scene, commit) = Scene::with_one_image();
    let ran = scene.run(&commit, &["--registry", "127.0.0.1:1"]).ended(6);
    let ran = ran.saying(&["compare with the registry: FAILED", "127.0.0.1:1", "error: "]);
    assert!(!ran.stderr.contains("cancelled"), "{}", ran.stderr);
}

#[test]
fn a_repository_has_its_own_namespace() {
    let (scene, commit) = Scene::with_one_image();
    scene.configure("namespace = \"team-a/web\"");
    let receipt = scene.run(&commit, &[]).ended(0).json();
    let expected = format!("{}/team-a/web/a", scene.registry.host());
    assert_eq!(image(&receipt, "a")["repository"], expected);
    assert!(scene.digest("team-a/web/a", "1").is_some());
    // The registry's own namespace comes first.
    let host = format!("{}/all", scene.registry.host());
    let receipt = scene.run(&commit, &["--registry", &host]).ended(0).json();
    let expected = format!("{host}/team-a/web/a");
    assert_eq!(image(&receipt, "a")["repository"], expected);
}

#[test]
fn submodules_come_only_from_the_same_host_and_only_when_enabled() {
    let scene = Scene::new();
    let library = Repository::new();
    library.write("part", "from the submodule");
    library.commit("library");
    let repository = &scene.repository;
    repository.write("a/Dockerfile", "FROM scratch\nCOPY . /\n");
    repository.git(&["submodule", "--quiet", "add", &library.beside(), "a/library"]);
    repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let first = repository.commit("with a submodule");
    let file = |commit: &str| {
        crate::support::engine::file_of(&scene.image_name("a", &format!("sha-{commit}")), "/library/part")
    };
    scene.build(&first, &[]).ended(0);
    assert_eq!(file(&first), None, "a submodule was checked out without the setting");
    scene.configure("submodules = true");
    scene.build(&first, &[]).ended(0);
    assert_eq!(file(&first).unwrap(), b"from the submodule");

    let text = std::fs::read_to_string(repository.file(".gitmodules")).unwrap();
    // A path could name any repository of the machine: only those next to the configured one are allowed.
    let file_url = format!("file://{}", library.url());
    for url in [
        "https://127.0.0.1:1/x.git",
        "ext::sh -c x",
        "ssh://git@127.0.0.1/x",
        &library.url(),
        &file_url,
        "/etc",
        "../../etc",
        "../../../../../../srv/git/x",
        "./../../x",
        "../x/../../x",
        "..",
    ] {
        repository.write(".gitmodules", text.replace(&library.beside(), url));
        let commit = repository.commit("elsewhere");
        scene.build(&commit, &[]).ended(5).saying(&["a/library"]);
    }
    // A link next to it cannot lead elsewhere.
    let link = tempfile::Builder::new().prefix(".link").tempdir().unwrap();
    let (inside, name) = (link.path().join("x"), link.path().file_name().unwrap().to_str().unwrap());
    std::os::unix::fs::symlink("/", &inside).unwrap();
    let url = format!("../{name}/x/{}", library.url());
    repository.write(".gitmodules", text.replace(&library.beside(), &url));
    scene.build(&repository.commit("back by a link"), &[]).ended(0);
    repository.write(".gitmodules", text.replace(&library.beside(), &format!("../{name}/x/etc")));
    scene.build(&repository.commit("out by a link"), &["--force"]).ended(5).saying(&["a/library"]);
}

#[test]
fn git_lfs_files_are_in_the_image() {
    let mut scene = Scene::new();
    let repository = &scene.repository;
    // Run git-lfs's filter by hand: git stores a pointer, and the file is stored below .git/lfs.
    repository.git(&["config", "filter.lfs.clean", "git-lfs clean -- %f"]);
    repository.git(&["config", "filter.lfs.smudge", "cat"]);
    repository.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    // The repository names another server, but its own server is used.
    repository.write(".lfsconfig", "[lfs]\n\turl = https://127.0.0.1:1/elsewhere\n");
    repository.write("a/Dockerfile", "FROM scratch\nCOPY large.bin /large.bin\n");
    repository.write("a/large.bin", "the content itself");
    repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = repository.commit("with LFS");
    let stored = repository.git(&["show", "HEAD:a/large.bin"]);
    assert!(
        stored.starts_with("version https://git-lfs"),
        "git-lfs is missing? apt-get install git-lfs: {stored}"
    );
    scene.build(&commit, &[]).ended(0);
    let name = scene.image_name("a", &format!("sha-{commit}"));
    assert_eq!(crate::support::engine::file_of(&name, "/large.bin").unwrap(), b"the content itself");

    // Without git-lfs: a clear error, not a pointer in an image.
    scene.swanci.program("git-lfs", "#!/bin/sh\nexit 127\n");
    scene.build(&commit, &["--force"]).ended(6).saying(&["git LFS", "apt-get install git-lfs"]);
}
