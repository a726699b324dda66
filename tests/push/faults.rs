//! Failing registries, killed pushes, concurrent pushes.

use rustix::process::Signal;
use serde_json::json;

use super::{digest_of, next};
use crate::support::engine;
use crate::support::proxy::{Fault, Gate, Proxy, Reply};
use crate::support::swanci::{Scene, Started, Swanci, eventually, image, outcome};

const ERROR: &str = r#"{"errors":[{"code":"UNKNOWN","message":"broken on purpose"}]}"#;

fn broken() -> Fault {
    Fault::Reply(Reply::new(500).body(ERROR))
}

/// A scene that talks to its registry through a proxy.
fn behind_proxy(mut scene: Scene) -> (Scene, Proxy) {
    let proxy = Proxy::start(scene.registry.address);
    scene.images.also(&proxy.host());
    scene.configure_for(&proxy.host(), "");
    (scene, proxy)
}

/// Starts the merge of this commit, and waits until it uploads the manifest of this image.
fn run_until_it_uploads(scene: &Scene, proxy: &Proxy, name: &str, commit: &str) -> (Started, Gate) {
    let gate = Gate::default();
    proxy.on("PUT", &format!("/v2/{name}/manifests/sha-{commit}"), 1, Fault::Hold(gate.clone()));
    let payload = scene.swanci.file(&format!("{commit}.json"), scene.payload(commit));
    let run = scene.swanci.start(&["run", &payload.display().to_string()]);
    gate.wait_reached();
    (run, gate)
}

fn start_push(scene: &Scene, built: &str) -> Started {
    let file = scene.swanci.file(&format!("built-{}.json", built.len() + built.matches('a').count()), built);
    scene.swanci.start(&["push", &file.display().to_string()])
}

#[test]
fn a_failed_move_restores_the_earlier_moves() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let first = scene.repository.commit("first");
    let (scene, proxy) = behind_proxy(scene);
    scene.run(&first, &[]).ended(0);
    let images = ["a", "b"].map(|n| json!({"service_name": n, "version": "1", "tags": ["1", "new"]}));
    scene.repository.images(&images);
    scene.repository.write("b/file", "2");
    let second = next(&scene, "2");
    let built = scene.build(&second, &[]).ended(0);
    let before = (scene.digest("a", "1"), scene.digest("b", "1"));
    proxy.always("PUT", "/v2/b/manifests/1", broken());
    let failed = scene.push(&built, &[]).ended(6).saying(&["put back"]);
    let receipt = failed.json();
    assert_eq!(receipt["outcome"], "failed");
    assert!(receipt["error"].as_str().unwrap().contains("b:1"), "{receipt}");
    assert_eq!(outcome(&receipt, "a", "1"), "restored");
    assert_eq!(outcome(&receipt, "a", "new"), "left");
    assert_eq!((scene.digest("a", "1"), scene.digest("b", "1")), before);
    // Nothing is deleted.
    assert_eq!(proxy.seen().iter().filter(|s| s.method == "DELETE").count(), 0);
    assert_eq!(scene.swanci.receipts().last().unwrap(), &receipt);

    proxy.heal();
    let receipt = scene.push(&built, &[]).ended(0).json();
    for (name, tag) in [("a", "1"), ("b", "1")] {
        assert_eq!(outcome(&receipt, name, tag), "moved");
    }
    assert_eq!(scene.digest("a", "1"), scene.digest("a", &format!("sha-{second}")));
}

#[test]
fn transient_registry_errors_are_retried() {
    let (scene, commit) = Scene::with_one_image();
    let (scene, proxy) = behind_proxy(scene);
    // docker's own manifest, then swanci's.
    proxy.on("PUT", "/manifests/sha-", 1, broken());
    proxy.on("PUT", "/v2/a/manifests/1", 1, Fault::Reply(Reply::new(429)));
    proxy.on("HEAD", "/v2/a/manifests/sha-", 1, Fault::Reply(Reply::new(503)));
    let receipt = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &commit)));
}

#[test]
fn a_registry_that_fails_on_the_third_manifest_moves_no_tag() {
    let scene = Scene::new();
    let names = ["a", "b", "c"];
    for name in names {
        scene.repository.image(name, name);
    }
    scene.repository.images(&names.map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let (scene, proxy) = behind_proxy(scene);
    proxy.always("PUT", "/v2/c/manifests/", broken());
    let receipt = scene.run(&commit, &[]).ended(6).json();
    assert_eq!(receipt["outcome"], "failed");
    assert!(image(&receipt, "c")["error"].as_str().unwrap().contains("push of c"), "{receipt}");
    for name in names {
        assert_eq!(scene.digest(name, "1"), None, "{name}:1 has moved");
    }
    proxy.heal();
    scene.run(&commit, &[]).ended(0);
    for name in names {
        assert!(scene.digest(name, "1").is_some());
    }
}

/// Two images; the first commit is in the registry, and the second changes `b` alone.
fn one_of_two_changes() -> (Scene, Proxy, String) {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let first = scene.repository.commit("first");
    let (scene, proxy) = behind_proxy(scene);
    scene.run(&first, &[]).ended(0);
    scene.repository.write("b/file", "2");
    let second = scene.repository.commit("second");
    (scene, proxy, second)
}

#[test]
fn a_tag_that_moved_during_the_push_is_reported_as_it_is() {
    let (scene, proxy, second) = one_of_two_changes();
    let (run, gate) = run_until_it_uploads(&scene, &proxy, "b", &second);
    // `a` was found under its tag. Now another machine pushes a newer commit that changes it.
    let third = next(&scene, "3");
    let other = Swanci::new();
    other.config(&std::fs::read_to_string(scene.swanci.work().join("swanci.toml")).unwrap());
    other.pipe(&["run", "-"], scene.payload(&third)).ended(0);
    gate.open();
    let receipt = run.wait().ended(0).json();
    for name in ["a", "b"] {
        assert_eq!(outcome(&receipt, name, "1"), "superseded", "{receipt}");
    }
    assert_eq!(image(&receipt, "a")["moved"][0]["from"], digest_of(&scene, &third));
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &third)));
}

#[test]
fn a_tag_that_an_older_commit_moved_meanwhile_is_moved_again() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    scene.repository.write("a/file", "as it was");
    let first = scene.repository.commit("first");
    let (scene, proxy) = behind_proxy(scene);
    scene.run(&first, &[]).ended(0);
    scene.repository.write("a/file", "2");
    let second = scene.repository.commit("second");
    scene.repository.write("a/file", "as it was").write("b/file", "3");
    let third = scene.repository.commit("third, which undoes the second");
    let (run, gate) = run_until_it_uploads(&scene, &proxy, "b", &third);
    // `a` was found unchanged under its tag; now the previous commit moves that tag.
    assert_eq!(outcome(&scene.run(&second, &[]).ended(0).json(), "a", "1"), "moved");
    gate.open();
    let receipt = run.wait().ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved", "{receipt}");
    assert_eq!(scene.digest("a", "1"), scene.digest("a", &format!("sha-{third}")));
}

#[test]
fn an_image_whose_name_was_taken_while_it_waited_is_not_uploaded() {
    let (scene, proxy) = behind_proxy(Scene::new());
    let names = ["a", "b", "c", "d"];
    for name in names {
        scene.repository.image(name, name);
    }
    // `d` is built on the others, so it is built last, and waits for the three uploads.
    let stages = ["a", "b", "c"].map(|base| format!("FROM {}/{base}:1\n", proxy.host())).concat();
    scene.repository.write("d/Dockerfile", format!("{stages}COPY file /d\n"));
    scene.repository.images(&names.map(|n| json!({"service_name": n, "version": "1"})));
    let commit = scene.repository.commit("first");
    let gates = ["b", "c"].map(|name| {
        let gate = Gate::default();
        proxy.on("PUT", &format!("/v2/{name}/manifests/sha-{commit}"), 1, Fault::Hold(gate.clone()));
        gate
    });
    let (run, gate) = run_until_it_uploads(&scene, &proxy, "a", &commit);
    gates.iter().for_each(Gate::wait_reached);
    let local = |name: &str| format!("{}/{name}:sha-{commit}", proxy.host());
    eventually("d is built", || engine::has(&local("d")));
    // Longer than the time for which a built image counts as fresh.
    std::thread::sleep(std::time::Duration::from_secs(3));
    engine::docker_text(&["tag", &local("a"), &local("d")]);
    gate.open();
    gates.iter().for_each(Gate::open);
    let receipt = run.wait().ended(1).saying(&["another build on this engine took the name"]).json();
    assert!(image(&receipt, "d")["error"].as_str().unwrap().contains("push of d"), "{receipt}");
    assert_eq!(scene.digest("d", &format!("sha-{commit}")), None);
    for name in names {
        assert_eq!(scene.digest(name, "1"), None, "{name}:1 has moved");
    }
}

#[test]
fn a_push_that_was_killed_between_its_phases_can_be_repeated() {
    let (scene, commit) = Scene::with_one_image();
    let (scene, proxy) = behind_proxy(scene);
    let built = scene.build(&commit, &[]).ended(0);
    let gate = Gate::default();
    proxy.on("PUT", "/v2/a/manifests/1", 1, Fault::Hold(gate.clone()));
    let push = start_push(&scene, &built.stdout);
    gate.wait_reached();
    push.signal(Signal::KILL);
    push.wait().ended(-1);
    proxy.heal();
    assert!(scene.digest("a", &format!("sha-{commit}")).is_some(), "the first phase was done");
    assert!(scene.swanci.receipts().is_empty());
    let receipt = scene.push(&built, &[]).ended(0).json();
    assert_eq!(receipt["outcome"], "succeeded");
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &commit)));
    gate.open();
    // The request of the killed push, released now, has the same manifest.
    eventually("the held request has gone through", || proxy.count("PUT", "/v2/a/manifests/1") >= 1);
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &commit)));
}

#[test]
fn two_pushes_of_one_tag_run_one_after_the_other() {
    let (scene, first) = Scene::with_one_image();
    let (scene, proxy) = behind_proxy(scene);
    let older = scene.build(&first, &[]).ended(0).stdout;
    let second = next(&scene, "2");
    let newer = scene.build(&second, &[]).ended(0).stdout;
    let gate = Gate::default();
    proxy.on("PUT", "/v2/a/manifests/1", 1, Fault::Hold(gate.clone()));
    let holder = start_push(&scene, &older);
    gate.wait_reached();
    let waiter = scene.swanci.file("newer.json", &newer);
    let waiter = scene.swanci.start(&["push", &waiter.display().to_string()]);
    // The second push has done its first phase, and must not read the tag while the first one holds the lock.
    let immutable = format!("/v2/a/manifests/sha-{second}");
    eventually("the second push is in the registry", || proxy.count("PUT", &immutable) > 0);
    let asked = proxy.count("GET", "/v2/a/manifests/1");
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(proxy.count("GET", "/v2/a/manifests/1"), asked, "the tag was read without its lock");
    gate.open();
    assert_eq!(outcome(&holder.wait().ended(0).json(), "a", "1"), "moved");
    let receipt = waiter.wait().ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert_eq!(image(&receipt, "a")["moved"][0]["from"], digest_of(&scene, &first));
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &second)));
}

#[test]
fn a_push_that_is_terminated_while_moving_tags_restores_them() {
    let scene = Scene::new();
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    let first = scene.repository.commit("first");
    let (scene, proxy) = behind_proxy(scene);
    scene.run(&first, &[]).ended(0);
    scene.repository.write("b/file", "2");
    let second = next(&scene, "2");
    let built = scene.build(&second, &[]).ended(0);
    let before = (scene.digest("a", "1"), scene.digest("b", "1"));
    // `b` never gets an answer; `a` has already moved.
    let gate = Gate::default();
    proxy.on("PUT", "/v2/b/manifests/1", 1, Fault::Hold(gate.clone()));
    let push = start_push(&scene, &built.stdout);
    gate.wait_reached();
    eventually("a has moved", || scene.digest("a", "1") != before.0);
    push.signal(Signal::TERM);
    let ran = push.wait().ended(143);
    let receipt = ran.json();
    assert_eq!(receipt["outcome"], "failed");
    assert_eq!(outcome(&receipt, "a", "1"), "restored");
    assert_eq!(scene.digest("a", "1"), before.0);
    gate.open();
}
