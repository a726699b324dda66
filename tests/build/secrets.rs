//! Build secrets: which repository gets them, and where their values appear.

use std::fs;

use serde_json::json;

use crate::support::engine::{everything_of, unique};
use crate::support::swanci::{Scene, image};

const CANARY: &str = "canary-of-the-build-secret";
const SECOND_LINE: &str = "second-line-of-the-secret";

/// A repository with one image `a`, whose build prints the secret `npm` and fails without it.
fn scene() -> (Scene, String) {
    let scene = Scene::new();
    let folder = scene.repository.path().join("a");
    fs::create_dir_all(&folder).unwrap();
    fs::copy("/bin/busybox", folder.join("busybox")).expect("apt-get install busybox-static");
    // A different step for each test, because a cached step prints nothing.
    let run = format!("/busybox cat /run/secrets/npm; : {}", unique("secrets"));
    scene.repository.write(
        "a/Dockerfile",
        format!(
            "FROM scratch\nCOPY busybox /busybox\n\
             RUN --mount=type=secret,id=npm,required=true {}\n",
            json!(["/busybox", "sh", "-c", run])
        ),
    );
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.swanci.file("npm", format!("{CANARY}\n{SECOND_LINE}\n"));
    (scene, commit)
}

#[test]
fn a_build_secret_is_available_to_its_repository_and_never_shown() {
    let (scene, commit) = scene();
    scene.configure("secrets = { npm = \"npm\" }");
    let ran = scene.run(&commit, &["--verbose"]).ended(0).saying(&["***"]);
    for value in [CANARY, SECOND_LINE] {
        assert!(!ran.stderr.contains(value) && !ran.stdout.contains(value), "{}", ran.stderr);
        let bytes = everything_of(&scene.image_name("a", &format!("sha-{commit}")));
        assert!(!bytes.windows(value.len()).any(|window| window == value.as_bytes()));
    }
}

#[test]
fn a_build_secret_of_another_repository_is_not_available() {
    let (scene, commit) = scene();
    scene.configure("[[repository]]\nname = \"acme/other\"\nsecrets = { npm = \"npm\" }");
    let document = scene.build(&commit, &[]).ended(1).json();
    assert_eq!(image(&document, "a")["status"], "failed");
}

#[test]
fn a_secret_on_the_command_line_overrides_the_configured_one() {
    let (scene, commit) = scene();
    scene.configure("secrets = { npm = \"not-there\" }");
    scene.build(&commit, &["--secret", "npm=npm"]).ended(0);
}

#[test]
fn an_unreadable_secret_is_code_4_for_its_repository_only() {
    let (scene, commit) = scene();
    scene.configure("secrets = { npm = \"not-there\" }");
    scene.build(&commit, &[]).ended(4).saying(&["`npm` of acme/shop", "not-there"]);
    scene.build(&commit, &["--dry-run"]).ended(0);
    scene.build(&commit, &["--secret", "npm=absent"]).ended(4).saying(&["--secret npm", "absent"]);
    scene.configure("[[repository]]\nname = \"acme/other\"\nsecrets = { npm = \"not-there\" }");
    scene.build(&commit, &["--secret", "npm=npm"]).ended(0);
    for wrong in ["npm", "npm=", "=npm", "n p m=npm"] {
        scene.build(&commit, &["--secret", wrong]).ended(2);
    }
}
