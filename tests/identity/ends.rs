//! Images whose base fails, and build secrets.

use serde_json::json;

use super::{Two, busybox};
use crate::support::engine::{file_of, unique};
use crate::support::swanci::{Scene, image};

#[test]
fn an_image_on_a_failed_base_is_not_tried_and_has_the_bases_code() {
    for (said, code) in [
        ("ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?", 6),
        ("ERROR: failed to solve: write /x: no space left on device", 6),
        ("ERROR: failed to solve: target stage \"x\" could not be found", 1),
    ] {
        let mut scene = Scene::new();
        let (base, middle, top) = (unique("base"), unique("middle"), unique("top"));
        scene.repository.image(&base, "base").image("alone", "1");
        scene.repository.write(&format!("{middle}/Dockerfile"), format!("FROM {base}:1\n"));
        scene
            .repository
            .write(&format!("{top}/Dockerfile"), format!("FROM scratch\nCOPY --from={middle} /file /\n"));
        let names = [&top, &middle, &base, "alone"].map(str::to_owned);
        scene.repository.images(&names.map(|n| json!({"service_name": n, "version": "1"})));
        let commit = scene.repository.commit("chain");
        let tried = scene.swanci.work().join("tried");
        scene.swanci.docker_that(&format!(
            "if [ $building ]; then echo \"$*\" >>{}; case \"$*\" in *{base}:sha-*) echo '{said}' >&2; exit 1 ;; esac; fi",
            tried.display()
        ));
        let document = scene.run(&commit, &[]).ended(code).json();
        for name in [&middle, &top] {
            let entry = image(&document, name);
            assert_eq!(entry["status"], "failed");
            assert!(entry["error"].as_str().unwrap().contains("not tried"), "{entry}");
        }
        assert_eq!(image(&document, "alone")["status"], "built");
        let tried = std::fs::read_to_string(&tried).unwrap();
        assert!(
            !tried.contains(&format!("/{middle}:sha-")) && !tried.contains(&format!("/{top}:sha-")),
            "{tried}"
        );
    }
}

#[test]
fn a_build_secret_is_limited_to_its_repository_and_never_shown() {
    let two = Two::new();
    let values = ["canary-first-line-5f1c", "canary-second-line-77aa"];
    let file = two.scene.swanci.file("npm", values.join("\n"));
    two.configure(&format!("secrets = {{ npm = \"{}\" }}", file.display()), "");
    let show = |end: &str| {
        let script =
            format!("/bin/busybox cat /run/secrets/npm; /bin/busybox cat /run/secrets/npm >&2; {end}");
        let run = json!(["/bin/busybox", "sh", "-c", script]);
        format!("FROM scratch\nCOPY busybox /bin/busybox\nRUN --mount=type=secret,id=npm {run}\n")
    };
    for (name, repository) in [("a", &two.scene.repository), ("b", &two.other)] {
        busybox(repository, name);
        repository.images(&[json!({"service_name": name, "version": "1"})]);
    }
    let clean = |ran: &crate::support::swanci::Ran| {
        for value in values {
            assert!(!ran.stderr.contains(value) && !ran.stdout.contains(value), "{}", ran.stderr);
        }
    };
    for (end, code) in [("exit 0", 0), ("exit 3", 1)] {
        two.scene.repository.write("a/Dockerfile", show(end));
        let commit = two.scene.repository.commit(end);
        let ran = two.scene.run(&commit, &["-v", "--no-cache"]).ended(code);
        clean(&ran);
        assert!(ran.stderr.contains("***"), "{}", ran.stderr);
    }
    // The other repository has no such secret, although its step mounts it.
    two.other.write("b/Dockerfile", show("[ ! -s /run/secrets/npm ]"));
    let commit = two.other.commit("theirs");
    let ran = two.run_other(&commit, &["-v", "--no-cache"]);
    clean(&ran);
    assert!(!ran.stderr.contains("***"), "{}", ran.stderr);
}

#[test]
fn a_layer_built_with_a_secret_is_limited_to_its_repository() {
    let two = Two::new();
    let value = unique("secret-in-a-layer");
    let file = two.scene.swanci.file("npm", &value);
    two.configure(&format!("secrets = {{ npm = \"{}\" }}", file.display()), "");
    let script = "/bin/busybox cp /run/secrets/npm /out || /bin/busybox touch /out";
    let run = json!(["/bin/busybox", "sh", "-c", script]);
    let dockerfile = format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nENV RUN={value}\nRUN --mount=type=secret,id=npm {run}\n"
    );
    for (name, repository) in [("a", &two.scene.repository), ("b", &two.other)] {
        busybox(repository, name);
        repository.write(&format!("{name}/Dockerfile"), &dockerfile);
        repository.images(&[json!({"service_name": name, "version": "1"})]);
    }
    let own = two.scene.repository.commit("with the secret");
    two.scene.run(&own, &[]).ended(0);
    let other = two.other.commit("without it");
    two.run_other(&other, &[]).ended(0);
    let out = |name: &str, commit: &str| {
        file_of(&two.scene.image_name(name, &format!("sha-{commit}")), "/out").unwrap()
    };
    assert_eq!(out("a", &own), value.as_bytes());
    assert_eq!(out("b", &other), b"", "the layer of another repository");
}
