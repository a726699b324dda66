//! `swanci push`: two phases, immutable tags, moving tags that never move back, receipts.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

mod faults;
mod moving;
mod trust;

use serde_json::{Value, json};

use crate::support::engine::{self, docker_text};
use crate::support::proxy::{Fault, Proxy, Reply};
use crate::support::swanci::{Ran, Scene, image, outcome};

/// Changes the image and commits.
fn next(scene: &Scene, content: &str) -> String {
    scene.repository.write("a/file", content);
    scene.repository.commit(content)
}

/// The digest of `a` under this commit's immutable tag.
fn digest_of(scene: &Scene, commit: &str) -> String {
    scene.digest("a", &format!("sha-{commit}")).unwrap_or_else(|| panic!("no sha-{commit}"))
}

#[test]
fn the_three_steps_in_a_pipe_are_equivalent_to_run() {
    let (scene, commit) = Scene::with_one_image();
    let script = "\"$1\" evaluate - | \"$1\" build - | \"$1\" push -";
    let payload = scene.swanci.file("payload.json", scene.payload(&commit));
    let payload = std::fs::File::open(payload).unwrap();
    let out = scene.swanci.script(script).stdin(payload).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let receipt: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(receipt["outcome"], "succeeded");
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert_eq!(image(&receipt, "a")["moved"][0]["from"], Value::Null);
    assert_eq!(image(&receipt, "a")["moved"][0]["to"], digest_of(&scene, &commit));
    assert_eq!(scene.digest("a", "1"), Some(digest_of(&scene, &commit)));
    for key in ["started", "finished"] {
        let time = receipt[key].as_str().unwrap();
        assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }
    for key in ["checkout", "build", "push"] {
        assert!(receipt["seconds"][key].is_number(), "{receipt}");
    }
    assert_eq!(scene.swanci.receipts(), std::slice::from_ref(&receipt));

    let again = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(outcome(&again, "a", "1"), "already");
    assert_eq!(image(&again, "a")["digest"], image(&receipt, "a")["digest"]);
    assert_eq!(again["payload_sha256"], receipt["payload_sha256"]);
    assert_eq!(scene.swanci.receipts().len(), 2);
    // The output has the command that pulls the image.
    let name = scene.image_name("a", "1");
    scene.run(&commit, &[]).ended(0).saying(&[&format!("docker pull {name}")]);
    docker_text(&["image", "rm", "--force", &scene.image_name("a", &format!("sha-{commit}"))]);
    docker_text(&["pull", "--quiet", &name]);
    assert_eq!(engine::file_of(&name, "/file").unwrap(), b"1");
}

#[test]
fn a_skip_passes_through_every_step() {
    let (scene, commit) = Scene::with_one_image();
    let open = crate::support::repository::Payload::merged("acme/shop", "main", &commit)
        .set("/pull_request/merged", json!(false));
    let evaluated = scene.swanci.pipe(&["evaluate", "-"], open.bytes()).ended(3);
    for step in ["build", "push"] {
        let passed = scene.swanci.pipe(&[step, "-"], evaluated.stdout.clone()).ended(0);
        assert_eq!(passed.json(), evaluated.json(), "{step}");
    }
    let run = scene.swanci.pipe(&["run", "-"], open.bytes()).ended(0);
    assert_eq!(run.json(), evaluated.json());
    assert!(scene.swanci.receipts().is_empty());
}

#[test]
fn an_immutable_tag_is_never_overwritten() {
    let (scene, commit) = Scene::with_one_image();
    let tag = format!("sha-{commit}");
    let built = scene.build(&commit, &[]).ended(0);
    let labels = [
        ("org.opencontainers.image.source", "https://github.com/acme/shop"),
        ("org.opencontainers.image.revision", commit.as_str()),
    ];
    let theirs = scene.registry.push_sample_image("a", &tag, &labels);
    scene.push(&built, &["--strict"]).ended(1).saying(&["never overwritten"]);
    assert_eq!(scene.digest("a", &tag).as_deref(), Some(theirs.as_str()));
    assert_eq!(scene.digest("a", "1"), None);
    let receipt = scene.push(&built, &[]).ended(0).json();
    assert_eq!(image(&receipt, "a")["digest"], theirs.as_str());
    assert!(image(&receipt, "a")["note"].as_str().unwrap().contains("already"), "{receipt}");
    assert_eq!(scene.digest("a", "1").as_deref(), Some(theirs.as_str()));

    // The same rule applies to an unchanged image.
    scene.repository.write("README", "2");
    let second = scene.repository.commit("nothing in the image");
    let inputs = image(&receipt, "a")["inputs"].as_str().unwrap().to_owned();
    let same = [labels[0], labels[1], ("io.swanci.inputs", &inputs)];
    scene.registry.push_sample_image("a", "1", &same);
    let first = scene.registry.push_sample_image("a", &tag, &same);
    let unchanged = scene.build(&second, &[]).ended(0);
    assert_eq!(image(&unchanged.json(), "a")["status"], "unchanged");
    assert_eq!(image(&unchanged.json(), "a")["digest"], first.as_str());
    let other = [labels[0], ("io.swanci.inputs", &inputs), ("who", "else")];
    let theirs = scene.registry.push_sample_image("a", &format!("sha-{second}"), &other);
    scene.push(&unchanged, &["--strict"]).ended(1);
    let receipt = scene.push(&unchanged, &["--allow-rollback"]).ended(0).json();
    assert_eq!(image(&receipt, "a")["digest"], theirs.as_str());
}

#[test]
fn another_image_under_the_immutable_tag_fails_the_push() {
    let (scene, commit) = Scene::with_one_image();
    let tag = format!("sha-{commit}");
    let ours = ("org.opencontainers.image.source", "https://github.com/acme/shop");
    let other = ("org.opencontainers.image.revision", "0123456789012345678901234567890123456789");
    let uploader = scene.registry.uploader();
    let built = scene.build(&commit, &[]).ended(0);
    for labels in [&[][..], &[ours][..], &[ours, other][..], &[("who", "somebody")][..]] {
        let theirs = uploader.image("a", &tag, labels);
        for arguments in [&[][..], &["--take-over"]] {
            scene.push(&built, arguments).ended(1).saying(&[
                &tag,
                "never overwritten",
                "delete its manifest",
            ]);
        }
        scene.run(&commit, &["--force"]).ended(1).saying(&["never overwritten"]);
        assert_eq!(scene.digest("a", &tag).as_deref(), Some(theirs.as_str()));
        assert_eq!(scene.digest("a", "1"), None);
    }
}

#[test]
fn an_engine_that_lost_the_image_fails_the_push() {
    let (scene, commit) = Scene::with_one_image();
    let built = scene.build(&commit, &[]).ended(0);
    let name = scene.image_name("a", &format!("sha-{commit}"));
    let other = next(&scene, "2");
    scene.build(&other, &[]).ended(0);
    docker_text(&["tag", &scene.image_name("a", &format!("sha-{other}")), &name]);
    scene.push(&built, &[]).ended(1).saying(&["not the", "that was built"]);
    docker_text(&["image", "rm", &name]);
    let receipt = scene.push(&built, &[]).ended(1).saying(&["no longer has", "hint:"]).json();
    assert_eq!(receipt["outcome"], "failed");
    assert_eq!(scene.digest("a", &format!("sha-{commit}")), None);
    assert_eq!(scene.swanci.receipts().len(), 2, "the receipt of a failed push is kept too");
}

#[test]
fn a_layer_of_another_repository_is_mounted_and_not_uploaded() {
    let scene = Scene::new();
    // Large enough to differ from the rest of an image.
    let content = format!("{}\n", "layer ".repeat(20_000));
    scene.repository.write("a/Dockerfile", "FROM scratch\nCOPY file /file\n").write("a/file", &content);
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let first = scene.repository.commit("first");
    scene.run(&first, &[]).ended(0);
    // Another image with the same layer.
    scene
        .repository
        .write("b/Dockerfile", "FROM scratch\nCOPY file /file\nCMD [\"/b\"]\n")
        .write("b/file", &content);
    scene.repository.images(&["a", "b"].map(|name| json!({"service_name": name, "version": "1"})));
    let second = scene.repository.commit("second");
    scene.run(&second, &["-v"]).ended(0).saying(&["Mounted from a"]);
    assert!(scene.digest("b", &format!("sha-{second}")).is_some());
}

#[test]
fn the_digest_that_docker_prints_is_compared_with_the_registrys() {
    let (mut scene, commit) = Scene::with_one_image();
    let proxy = Proxy::start(scene.registry.address);
    scene.images.also(&proxy.host());
    scene.configure_for(&proxy.host(), "");
    let lie = format!("sha256:{}", "0".repeat(64));
    let reply = Reply::new(200)
        .header("Docker-Content-Digest", &lie)
        .header("Content-Type", "application/vnd.docker.distribution.manifest.v2+json");
    let built = scene.build(&commit, &[]).ended(0);
    proxy.always("HEAD", "/v2/a/manifests/sha-", Fault::Reply(reply));
    scene.push(&built, &[]).ended(1).saying(&["docker reports that it pushed", &lie]);
    assert_eq!(scene.digest("a", "1"), None, "a moving tag has moved");
}

#[test]
fn errors_in_documents_have_a_position() {
    let (scene, commit) = Scene::with_one_image();
    let built = scene.build(&commit, &[]).ended(0).json();
    let with = |pointer: &str, value: Value| -> Ran {
        let mut document = built.clone();
        *document.pointer_mut(pointer).unwrap() = value;
        scene.swanci.pipe(&["push", "-"], document.to_string())
    };
    for (pointer, value, said) in [
        ("/schema", json!(2), "schema 2"),
        ("/change/commit", json!("HEAD"), "change.commit"),
        ("/images/0/repository", json!("-x"), "images[0].repository"),
        ("/images/0/status", json!("done"), "images[0].status"),
        ("/images/0/image_id", json!("x"), "images[0].image_id"),
        ("/images/0/tags", json!(["a b"]), "images[0].tags"),
        ("/images/0/immutable_tag", json!("sha-1"), "immutable_tag"),
        ("/images/0/repository", json!("127.0.0.1:9/a"), "127.0.0.1:9"),
        (
            "/images",
            json!([built["images"][0], built["images"][0]]),
            "images[1] (a) has the name of an earlier",
        ),
    ] {
        with(pointer, value).ended(4).saying(&[said]);
    }
    for step in ["evaluate", "build", "push", "verify"] {
        for input in ["", " \n", "{", "[]", "null", "{} {}"] {
            scene.swanci.pipe(&[step, "-"], input).ended(4).saying(&["standard input"]);
        }
        scene.swanci.run(&[step, "absent.json"]).ended(4).saying(&["absent.json"]);
    }
    assert_eq!(scene.digest("a", &format!("sha-{commit}")), None);
}

#[test]
fn old_local_images_are_removed_and_the_newest_are_kept() {
    let scene = Scene::new();
    scene.configure("[build]\nkeep_local = 2");
    scene.repository.image("a", "0").images(&[json!({"service_name": "a", "version": "1"})]);
    let merge = || {
        // Other tests build the same commits, and the engine has one time of the last tag for each image.
        let commit = next(&scene, &engine::unique("content"));
        scene.run(&commit, &[]).ended(0);
        commit
    };
    let commits = [merge(), merge(), merge(), merge()];
    let images = commits.each_ref().map(|commit| scene.image_name("a", &format!("sha-{commit}")));
    assert!(engine::has(&images[2]) && engine::has(&images[3]));
    assert!(!engine::has(&images[0]) && !engine::has(&images[1]));
    for commit in &commits {
        assert!(scene.digest("a", &format!("sha-{commit}")).is_some(), "the registry keeps them all");
    }
}

#[test]
fn an_old_image_in_use_by_a_container_is_kept_and_the_others_are_removed() {
    let scene = Scene::new();
    scene.configure("[build]\nkeep_local = 1");
    scene.repository.image("a", "1").image("b", "1");
    scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1"})));
    // The local names of the built images.
    let merge = || {
        let content = engine::unique("content");
        scene.repository.write("a/file", &content).write("b/file", &content);
        let commit = scene.repository.commit(&content);
        scene.run(&commit, &[]).ended(0);
        ["a", "b"].map(|name| scene.image_name(name, &format!("sha-{commit}")))
    };
    let [used, unused] = merge();
    let container = docker_text(&["create", &used, "x"]);
    let newest = merge();
    assert!(newest.iter().all(|image| engine::has(image)));
    assert!(!engine::has(&unused));
    let used_stays = engine::has(&used);
    docker_text(&["rm", container.trim()]);
    assert!(used_stays, "an image with a container is gone");
    merge();
    assert!(![&[used], &newest[..]].concat().iter().any(|image| engine::has(image)));
}

#[test]
fn built_images_are_kept_until_they_are_pushed() {
    let (scene, first) = Scene::with_one_image();
    scene.configure("[build]\nkeep_local = 1");
    let waiting = scene.build(&first, &[]).ended(0);
    for content in ["2", "3", "4"] {
        scene.run(&next(&scene, content), &[]).ended(0);
    }
    let receipt = scene.push(&waiting, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "superseded");
    assert!(scene.digest("a", &format!("sha-{first}")).is_some());
}

#[test]
fn leftovers_do_not_grow_with_the_number_of_merges() {
    let scene = Scene::new();
    let name = engine::unique("bounded");
    scene.repository.image(&name, "0").images(&[json!({"service_name": name, "version": "1"})]);
    scene.run(&scene.repository.commit("0"), &[]).ended(0);
    let label = format!("label=org.opencontainers.image.title={name}");
    let merge = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            scene.repository.write(&format!("{name}/file"), number.to_string());
            scene.run(&scene.repository.commit(&number.to_string()), &[]).ended(0);
        }
        assert!(scene.swanci.tmp_is_empty());
        // Also images without a name. The engine removes them with a delay.
        let images = docker_text(&["image", "ls", "--all", "--quiet", "--filter", &label]).lines().count();
        let mut state: Vec<String> = Vec::new();
        for folder in ["", "locks", "children", "mirrors"] {
            let entries = std::fs::read_dir(scene.swanci.state().join(folder)).into_iter().flatten();
            state.extend(entries.map(|e| format!("{folder}/{}", e.unwrap().file_name().display())));
        }
        // One lock for each commit and each local name, at most 256 of each kind.
        state.retain(|file| !file.starts_with("locks/run-") && !file.starts_with("locks/image-"));
        state.sort();
        (images, state)
    };
    let few = merge(1..4);
    let many = merge(4..14);
    // keep_local is 2; `until_gone` explains the others.
    assert!((2..=3).contains(&few.0) && (2..=4).contains(&many.0), "{} and {} images", few.0, many.0);
    assert_eq!(many.1, few.1);
}

#[test]
fn verify_detects_drift() {
    let (scene, first) = Scene::with_one_image();
    let receipt = scene.run(&first, &[]).ended(0);
    let verify = |receipt: &Ran| scene.swanci.pipe(&["verify", "-"], receipt.stdout.clone());
    let intact = verify(&receipt).ended(0).json();
    assert_eq!((intact["schema"].as_u64(), intact["outcome"].as_str()), (Some(1), Some("intact")));
    let digest = digest_of(&scene, &first);
    let expected = json!({"name": "a", "tag": format!("sha-{first}"), "expected": digest, "found": digest});
    assert!(intact["images"].as_array().unwrap().contains(&expected), "{intact}");

    // A moving tag that has moved forward is not drift.
    let second = next(&scene, "2");
    scene.run(&second, &[]).ended(0);
    verify(&receipt).ended(0);
    // Without a configured registry, the receipt's registry is used.
    let file = scene.swanci.file("receipt.json", &receipt.stdout).display().to_string();
    scene.swanci.config("[registry]\nplain_http = true\n");
    scene.swanci.run(&["verify", &file]).ended(0);

    let found = scene.registry.push_sample_image("a", &format!("sha-{first}"), &[("x", "y")]);
    let drifted = verify(&receipt).ended(1).saying(&["drifted", &format!("a:sha-{first}")]).json();
    assert_eq!(drifted["outcome"], "drifted");
    assert!(drifted["images"].as_array().unwrap().iter().any(|i| i["found"] == found.as_str()), "{drifted}");

    let mut gone: Value = receipt.json();
    gone["images"][0]["immutable_tag"] = json!(format!("sha-{}", "0".repeat(40)));
    let drifted = scene.swanci.pipe(&["verify", "-"], gone.to_string()).ended(1).json();
    assert!(drifted["images"].as_array().unwrap().iter().any(|i| i["found"].is_null()), "{drifted}");
}
