//! `catchup` finishes a run that failed between its phases.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::proxy::{Fault, Gate, Proxy, Reply};
use crate::support::swanci::{Scene, image};

fn two_images() -> (Scene, Proxy) {
    let mut scene = Scene::new();
    let proxy = Proxy::start(scene.registry.address);
    scene.images.also(&proxy.host());
    scene.configure_for(&proxy.host(), "");
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    (scene, proxy)
}

fn catchup(scene: &Scene, code: i32) -> Vec<Value> {
    let url = scene.repository.url();
    let ran = scene.swanci.run(&["catchup", "--repo", &url, "--branch", "main"]).ended(code);
    ran.json()["commits"].as_array().unwrap().clone()
}

fn in_place(scene: &Scene, commit: &str) -> bool {
    ["a", "b"].iter().all(|n| {
        let own = scene.digest(n, &format!("sha-{commit}"));
        own.is_some() && own == scene.digest(n, "1")
    })
}

#[test]
fn the_next_catchup_repeats_failed_moves() {
    for (broken_one, first_too) in [("a", false), ("b", false), ("a", true)] {
        let (scene, proxy) = two_images();
        let first = scene.repository.commit("first");
        if first_too {
            scene.run(&first, &[]).ended(0);
        }
        scene.repository.write("a/file", "2");
        let second = scene.repository.commit("second");
        let broken = Fault::Reply(Reply::new(500));
        proxy.always("PUT", &format!("/v2/{broken_one}/manifests/1"), broken);
        scene.run(&second, &[]).ended(6);
        assert!(!in_place(&scene, &second));
        let before = scene.digest(broken_one, "1");
        // Nothing has changed yet, so it fails again with an error.
        let commits = catchup(&scene, 6);
        assert_eq!(commits.last().unwrap()["outcome"], "failed", "{commits:?}");
        assert_eq!(scene.digest(broken_one, "1"), before);
        proxy.heal();
        let commits = catchup(&scene, 0);
        let last = commits.last().unwrap();
        assert_eq!((&last["outcome"], &last["commit"]), (&json!("finished"), &json!(second)), "{commits:?}");
        assert_eq!(image(&last["receipt"], "b")["status"], "unchanged");
        assert!(in_place(&scene, &second));
        let commits = catchup(&scene, 0);
        assert_eq!(commits.last().unwrap()["outcome"], "present");
    }
}

#[test]
fn the_next_catchup_completes_moves_that_a_kill_interrupted() {
    let (scene, proxy) = two_images();
    let commit = scene.repository.commit("first");
    let gate = Gate::default();
    proxy.on("PUT", "/v2/b/manifests/1", 1, Fault::Hold(gate.clone()));
    let payload = scene.swanci.file("payload.json", scene.payload(&commit)).display().to_string();
    let run = scene.swanci.start(&["run", &payload]);
    gate.wait_reached();
    run.signal(Signal::KILL);
    run.wait();
    assert_eq!(scene.digest("b", "1"), None);
    let commits = catchup(&scene, 0);
    assert_eq!(commits.last().unwrap()["outcome"], "finished");
    assert!(in_place(&scene, &commit));
    gate.open();
}
