//! `swanci run`: the exit codes, documents on standard output, and messages on standard error.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::io::Read as _;
use std::process::Stdio;

use serde_json::json;

use crate::support::engine;
use crate::support::repository::Payload;
use crate::support::swanci::{Scene, Started, Swanci};

#[test]
fn wrong_usage_is_code_2() {
    let swanci = Swanci::new();
    for args in [
        &["nonsense"][..],
        &["build"],
        &["build", "x", "--repo", "y"],
        &["build", "--commit", "0123456789012345678901234567890123456789"],
        &["build", "--repo", ".", "--commit", "HEAD"],
        &["build", "--repo", ".", "--branch", "--x"],
        &["build", "--repo", ".", "--branch", "main", "--jobs", "0"],
        &["build", "--repo", ".", "--branch", "main", "--timeout", "soon"],
        &["build", "--repo", ".", "--branch", "main", "--registry", "not a host"],
        &["evaluate"],
        &["evaluate", "-", "--secret-file", "x"],
        &["run", "-", "--forge", "sourceforge"],
        &["push", "-", "--unknown"],
        &["evaluate", "-q", "-v", "-"],
    ] {
        swanci.run(args).ended(2).saying(&["error:"]);
    }
    // No registry, and no repository of that name.
    let commit = "0123456789012345678901234567890123456789";
    swanci
        .pipe(&["run", "-"], Payload::merged("a/b", "main", commit).bytes())
        .ended(2)
        .saying(&["--registry"]);
    for args in [&["--version"][..], &["--help"], &["build", "--help"], &["completions", "bash"]] {
        let ran = swanci.run(args).ended(0);
        assert!(!ran.stdout.is_empty() && ran.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn nothing_to_build_is_code_3_from_evaluate_only() {
    let swanci = Swanci::new();
    let commit = "0123456789012345678901234567890123456789";
    let merged = || Payload::merged("a/b", "main", commit);
    swanci.pipe(&["evaluate", "-", "--branch", "release/*"], merged().bytes()).ended(3);
    let skip = swanci.pipe(&["evaluate", "-"], merged().set("/action", json!("opened")).bytes()).ended(3);
    assert_eq!(skip.json()["decision"], "skip");
    assert_eq!(skip.stderr, "", "a skip is not an error");
    swanci.pipe(&["run", "-", "--branch", "release/*"], merged().bytes()).ended(0);
}

#[test]
fn bad_input_is_code_4_with_file_and_position() {
    let swanci = Swanci::new();
    let commit = "0123456789012345678901234567890123456789";
    let payload = Payload::merged("a/b", "main", commit).set("/pull_request/base/ref", json!(5));
    let file = swanci.file("payload.json", payload.bytes());
    swanci.run(&["evaluate", "payload.json"]).ended(4).saying(&["payload.json", "pull_request.base.ref"]);
    swanci.run(&["run", &file.display().to_string()]).ended(4).saying(&["pull_request.base.ref"]);
    let change = swanci.file("change.json", "{\"schema\":1,\"decision\":\"build\",\"reason\":\"\",\"payload_sha256\":\"\",\"change\":{\"repository\":\"a/b\",\"commit\":\"x\"}}");
    swanci.run(&["build", &change.display().to_string()]).ended(4).saying(&["change.json", "change"]);
}

#[test]
fn a_wrong_signature_is_code_5_and_a_right_one_is_accepted() {
    use hmac::{KeyInit as _, Mac as _};
    let swanci = Swanci::new();
    let body = Payload::merged("a/b", "main", "0123456789012345678901234567890123456789").bytes();
    swanci.file("secret", "a secret\n");
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(b"a secret").unwrap();
    mac.update(&body);
    let right = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
    let with = |signature: &str| {
        swanci.pipe(&["evaluate", "-", "--secret-file", "secret", "--signature", signature], body.clone())
    };
    with(&right).ended(0);
    for wrong in ["", "sha256=", "sha1=00", &right[..70], &right.replace("sha256=", "sha256=0")] {
        let refused = with(wrong).ended(5).saying(&["signature"]);
        assert_eq!(refused.stdout, "");
    }
}

#[test]
fn a_missing_tool_is_code_6_with_a_hint() {
    let (mut scene, commit) = Scene::with_one_image();
    scene.configure("[build]\ndocker = \"no-such-docker\"");
    scene.run(&commit, &[]).ended(6).saying(&["no-such-docker", "hint:", "build.docker"]);
    scene.configure("");
    scene.swanci.set("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    scene.run(&commit, &[]).ended(6).saying(&["docker engine does not answer", "hint:"]);
    scene.swanci.unset("DOCKER_HOST");
    let empty = scene.swanci.work().join("empty");
    std::fs::create_dir(&empty).unwrap();
    scene.swanci.set("PATH", &empty.display().to_string());
    scene.run(&commit, &[]).ended(6).saying(&["`git` is not installed", "apt-get install git"]);
}

#[test]
fn an_unwritable_state_directory_is_code_6() {
    let (mut scene, commit) = Scene::with_one_image();
    let file = scene.swanci.file("a-file", "");
    scene.swanci.set("SWANCI_STATE_DIR", &file.join("state").display().to_string());
    scene.run(&commit, &[]).ended(6).saying(&["state directory", "--state-dir"]);
}

#[test]
fn closing_standard_output_loses_only_the_document() {
    let (scene, commit) = Scene::with_one_image();
    let payload = scene.swanci.file("payload.json", scene.payload(&commit));
    let mut command = scene.swanci.command(&["run", &payload.display().to_string()]);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    drop(reader);
    let child = command.spawn().unwrap();
    drop(command);
    Started::new(child, &["run"]).wait().ended(1).saying(&["standard output is closed"]);
    let receipts = scene.swanci.receipts();
    assert_eq!(receipts.len(), 1, "the receipt is lost");
    assert_eq!(receipts[0]["outcome"], "succeeded");
    assert!(scene.digest("a", "1").is_some());

    // The same for a full disk at standard output.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let child = scene.swanci.command(&["evaluate", "payload.json"]).stdout(full).spawn().unwrap();
    Started::new(child, &["evaluate"]).wait().ended(1);
    // A closed standard error has no effect.
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = scene.swanci.command(&["run", "payload.json"]);
    command.stderr(writer);
    drop(reader);
    let child = command.spawn().unwrap();
    drop(command);
    Started::new(child, &["run"]).wait().ended(0);
}

#[test]
fn standard_output_is_one_document_also_with_verbose_output() {
    let (scene, commit) = Scene::with_one_image();
    for flag in ["-q", "-v", "-vv", "--color=always", "--color=never"] {
        let ran = scene.run(&commit, &[flag]).ended(0);
        assert_eq!(ran.json()["schema"], 1, "{flag}");
        if flag == "-q" {
            assert_eq!(ran.stderr, "");
        }
        if flag == "--color=never" {
            assert!(!ran.stderr.contains('\u{1b}'), "{:?}", ran.stderr);
        }
    }
}

#[test]
fn on_a_terminal_a_summary_and_the_last_lines_of_a_failure_are_shown() {
    let scene = Scene::new();
    scene.repository.write("a/Dockerfile", "FROM scratch\nCOPY missing-file /x\n");
    scene.repository.images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.swanci.file("payload.json", scene.payload(&commit));
    // util-linux's script gives the child a terminal.
    let mut script = std::process::Command::new("script");
    let model = scene.swanci.command(&[]);
    script.env_clear().envs(model.get_envs().filter_map(|(k, v)| Some((k, v?)))).env("TERM", "xterm");
    let line = format!("{} run payload.json", env!("CARGO_BIN_EXE_swanci"));
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]).current_dir(scene.swanci.work());
    let mut child = script
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("script is missing: apt-get install bsdutils");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{said}");
    assert!(said.contains(&format!("acme/shop main {}: 1 failed", &commit[..12])), "{said}");
    assert!(!said.contains("\"schema\""), "{said}");
    assert!(said.contains("missing-file") && said.contains("its last"), "{said}");
    assert!(!engine::has(&scene.image_name("a", &format!("sha-{commit}"))));
}
