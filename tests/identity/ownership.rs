//! An image path belongs to the repository of its images; other repositories are refused.

use serde_json::json;

use super::{INPUTS, REVISION, SOURCE, Two, content, one_image};
use crate::support::proxy::Proxy;
use crate::support::repository::{Payload, Repository};
use crate::support::swanci::{Scene, image, outcome};

const OURS: &str = "https://github.com/acme/shop";
const OTHERS: &str = "https://github.com/acme/other";

/// The number of writes.
fn writes(proxy: &Proxy) -> usize {
    let seen = proxy.seen();
    seen.iter().filter(|seen| !matches!(seen.method.as_str(), "GET" | "HEAD")).count()
}

#[test]
fn no_command_writes_to_a_path_of_another_repository() {
    let mut two = Two::new();
    let proxy = two.proxy();
    let ours = one_image(&two.scene.repository, "a", "ours");
    two.scene.run(&ours, &[]).ended(0);
    let theirs = one_image(&two.other, "a", "theirs");
    let (before, digest) = (writes(&proxy), two.scene.digest("a", "1"));
    let swanci = &two.scene.swanci;
    let url = two.other.url();
    let payload = Payload::merged("acme/other", "main", &theirs).bytes();
    let change = swanci.pipe(&["evaluate", "-"], payload.clone()).ended(0).stdout;
    let built = swanci.pipe(&["build", "-"], change).ended(0).stdout;
    for ran in [
        two.run_other(&theirs, &[]),
        two.run_other(&theirs, &["--force"]),
        two.run_other(&theirs, &["--tag", "other-tag"]),
        two.run_other(&theirs, &["--allow-rollback"]),
        swanci.pipe(&["push", "-"], built.clone()),
        swanci.pipe(&["push", "-", "--strict"], built.clone()),
        swanci.run(&["catchup", "--repo", &url, "--branch", "main"]),
    ] {
        ran.ended(5).saying(&["belongs to another repository", OURS, "--take-over"]);
        assert_eq!(writes(&proxy), before);
    }
    assert_eq!(super::serve_once(swanci, &payload), 5, "a job of serve");
    assert_eq!(writes(&proxy), before);
    assert_eq!(two.scene.digest("a", "1"), digest);
    assert_eq!(two.scene.digest("a", &format!("sha-{theirs}")), None);
    // An option overrides the refusal.
    two.run_other(&theirs, &["--take-over"]).ended(0);
    assert_ne!(two.scene.digest("a", "1"), digest);
}

/// An image of another repository under any tag keeps this repository out.
#[test]
fn the_owner_is_found_under_every_tag() {
    let (scene, first) = Scene::with_one_image();
    scene.repository.write("a/file", "2");
    let commit = scene.repository.commit("second");
    let proxy = Proxy::start(scene.registry.address);
    scene.configure_for(&proxy.host(), "");
    let mut cleanup = crate::support::engine::Cleanup::new(&proxy.host());
    cleanup.also("none");
    let stranger = "0123456789012345678901234567890123456789";
    let (own, parent) = (format!("sha-{commit}"), format!("sha-{first}"));
    let foreign = [(SOURCE, OTHERS)];
    for (tags, labels) in [
        (vec![("1", &foreign[..])], "the moving tag"),
        (vec![(own.as_str(), &foreign[..])], "the commit's own tag"),
        (vec![(parent.as_str(), &foreign[..])], "the parent's tag"),
        (vec![("some-other", &foreign[..])], "another tag"),
        (vec![("0.9", &foreign[..]), ("1", &[][..])], "another tag, and an image without a source"),
        (
            vec![("0.9", &foreign[..]), (parent.as_str(), &[("who", "knows")][..])],
            "another tag, and a parent without",
        ),
    ] {
        // A separate registry for each.
        let fresh = crate::support::registry::RegistryServer::plain();
        let proxy = Proxy::start(fresh.address);
        scene.configure_for(&proxy.host(), "");
        cleanup.also(&proxy.host());
        let revision = (REVISION, stranger);
        for (tag, labels) in &tags {
            fresh.push_sample_image("a", tag, &[&labels[..], &[revision]].concat());
        }
        scene.run(&commit, &[]).ended(5).saying(&[OTHERS]);
        scene.run(&commit, &["--force"]).ended(5).saying(&[OTHERS]);
        assert_eq!(writes(&proxy), 0, "{labels}");
    }
    drop(proxy);
}

#[test]
fn ownership_ignores_case_and_missing_labels() {
    let (scene, commit) = Scene::with_one_image();
    for (source, code) in [
        (Some("https://github.com/ACME/Shop"), 0),
        (Some("https://GitHub.com/acme/shop.git"), 0),
        (Some("https://github.com/acme/shop/"), 0),
        (None, 0),
        (Some("https://github.com/acme/shop2"), 5),
        (Some("https://github.com/acme"), 5),
        (Some("https://git.example.org/acme/shop"), 5),
        (Some("https://github.com/acme/shop/../other"), 5),
        (Some("acme/shop"), 5),
        (Some(""), 5),
    ] {
        let labels: Vec<_> = source.map(|source| (SOURCE, source)).into_iter().collect();
        scene.registry.push_sample_image("a", "1", &labels);
        scene.run(&commit, &["--force"]).ended(code);
    }
    // After a rename, images with the old name belong to this repository only.
    for (line, code) in [("", 5), ("former_names = [\"old/Shop\"]", 0)] {
        scene.configure(line);
        scene.registry.push_sample_image("a", "1", &[(SOURCE, "https://github.com/Old/shop")]);
        scene.run(&commit, &[]).ended(code);
    }
}

#[test]
fn an_image_planted_by_another_repository_does_not_count_as_unchanged() {
    let two = Two::new();
    let ours = one_image(&two.scene.repository, "a", "ours");
    let built = two.scene.build(&ours, &[]).ended(0).json();
    let inputs = image(&built, "a")["inputs"].as_str().unwrap().to_owned();
    // Its own build of the path, and one with all labels of this repository except the source.
    for (tag, args, code) in [("1", &[][..], 5), ("1", &["--take-over"][..], 0)] {
        if code == 5 {
            two.scene.registry.push_sample_image(
                "a",
                tag,
                &[(SOURCE, OTHERS), (INPUTS, &inputs), (REVISION, &ours)],
            );
        }
        let ran = two.scene.run(&ours, args).ended(code);
        if code == 0 {
            let receipt = ran.json();
            assert_eq!(image(&receipt, "a")["status"], "built");
            assert_eq!(outcome(&receipt, "a", "1"), "moved");
        }
    }
    let name = two.scene.image_name("a", &format!("sha-{ours}"));
    assert_eq!(content(&name, "/file"), "ours");
}

#[test]
fn a_fork_that_builds_a_commit_first_cannot_take_a_tag_of_the_original() {
    let two = Two::new();
    let first = one_image(&two.scene.repository, "a", "1");
    two.scene.run(&first, &[]).ended(0);
    // The fork has the same commits, and another one that the original merges later.
    two.other.git(&["pull", "--quiet", &two.scene.repository.url(), "main"]);
    two.other.write("a/file", "2");
    let next = two.other.commit("second");
    let url = two.other.url();
    for (commit, args) in [
        (&next, &[][..]),
        (&next, &["--tag", "2"]),
        (&next, &["--force"]),
        (&first, &[]),
        (&first, &["--force"]),
    ] {
        two.run_other(commit, args).ended(5).saying(&[OURS]);
    }
    two.scene.swanci.run(&["catchup", "--repo", &url, "--branch", "main"]).ended(5).saying(&[OURS]);
    two.other.reset(&first);
    two.scene.swanci.run(&["catchup", "--repo", &url, "--branch", "main"]).ended(5).saying(&[OURS]);
    assert_eq!(two.scene.digest("a", &format!("sha-{next}")), None);
    two.scene.repository.git(&["pull", "--quiet", &url, &next]);
    let receipt = two.scene.run(&next, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
}

#[test]
fn a_namespace_is_reserved_for_its_repository() {
    let two = Two::new();
    for (namespace, name, code) in [
        ("team", "team/a", 5),
        ("team", "team/deep/a", 5),
        ("team/sub", "team/sub/a", 5),
        ("team/sub", "team/a", 0),
        ("team", "teams/a", 0),
    ] {
        two.configure(&format!("namespace = \"{namespace}\""), "");
        two.other.image("x", name).images(&[json!({"service_name": name, "context": "x", "version": "1"})]);
        let commit = two.other.commit(name);
        let ran = two.run_other(&commit, &[]).ended(code);
        if code == 5 {
            ran.saying(&["reserves", namespace]);
            assert_eq!(two.scene.digest(name, "1"), None, "{name}");
        }
    }
}

#[test]
fn a_repositorys_identity_comes_from_the_configuration() {
    let (scene, commit) = Scene::with_one_image();
    let trap = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let elsewhere = format!("https://{}/other/place", trap.local_addr().unwrap());
    let mut payload = Payload::merged("Acme/SHOP", "main", &commit);
    for field in ["clone_url", "html_url", "ssh_url", "git_url"] {
        for at in ["/repository", "/pull_request/base/repo", "/pull_request/head/repo"] {
            payload = payload.set(&format!("{at}/{field}"), json!(elsewhere));
        }
    }
    payload =
        payload.set("/pull_request/html_url", json!(elsewhere)).set("/pull_request/url", json!(elsewhere));
    let receipt = scene.swanci.pipe(&["run", "-"], payload.bytes()).ended(0).json();
    assert_eq!(receipt["outcome"], "succeeded");
    let name = scene.image_name("a", &format!("sha-{commit}"));
    let labels = crate::support::engine::inspect(&name)["Config"]["Labels"].clone();
    assert_eq!(labels[SOURCE], OURS);
    assert!(trap.accept().is_err(), "swanci connected to a URL of the payload");
    // Also in a manual build; a clone of it at another path is the same repository.
    let by_hand = ["build", "--repo", &scene.repository.url(), "--branch", "main", "--force"];
    scene.swanci.run(&by_hand).ended(0);
    assert_eq!(crate::support::engine::inspect(&name)["Config"]["Labels"][SOURCE], OURS);
    // Another clone URL of the same repository: nothing is rebuilt.
    let moved = Repository::new();
    moved.git(&["pull", "--quiet", &scene.repository.url(), "main"]);
    scene.swanci.config(&format!(
        "[registry]\nhost = \"{}\"\nplain_http = true\n[[repository]]\nname = \"acme/shop\"\nclone_url = \"{}\"\n",
        scene.registry.host(),
        moved.url()
    ));
    assert_eq!(image(&scene.run(&commit, &[]).ended(0).json(), "a")["status"], "unchanged");
}
