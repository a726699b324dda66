//! Summaries on a terminal with 80 columns, and JSON elsewhere.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::io::Read as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::support::engine;
use crate::support::swanci::Scene;

/// The output of a bash command line on a terminal with 80 columns; `$1` is the program.
fn on_a_terminal(scene: &Scene, line: &str, code: i32) -> String {
    let model = scene.swanci.command(&[]);
    let line = format!("stty cols 80 rows 24; set -- {}; {line}", env!("CARGO_BIN_EXE_swanci"));
    // util-linux's script gives the child a terminal.
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &format!("bash -c '{line}' bash"), "/dev/null"])
        .env_clear()
        .envs(model.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("TERM", "xterm")
        .current_dir(scene.swanci.work())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is missing: apt-get install bsdutils");
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(code), "{said}");
    said.replace('\r', "")
}

#[test]
fn a_terminal_gets_summaries_and_a_pipe_gets_json() {
    engine::needed();
    let (scene, commit) = Scene::with_one_image();
    let short = &commit[..12];
    scene.swanci.file("payload.json", scene.payload(&commit));
    let evaluated = on_a_terminal(&scene, "$1 evaluate payload.json", 0);
    assert!(evaluated.starts_with("build: pull request #"), "{evaluated}");
    assert!(evaluated.contains(&format!("\n  acme/shop main {short}\n")), "{evaluated}");
    assert!(evaluated.ends_with("\nnext: swanci evaluate payload.json | swanci build -\n"), "{evaluated}");
    let asked = on_a_terminal(&scene, "$1 evaluate payload.json --json", 0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&asked).unwrap()["decision"], "build");

    let planned = on_a_terminal(&scene, "$1 evaluate payload.json | $1 build - --dry-run", 0);
    assert!(planned.contains("1 to build\n  a  to build  not in the registry\n"), "{planned}");
    let built = on_a_terminal(&scene, "$1 build --repo \"${PWD}/none\" --branch main", 5);
    assert!(built.contains("error: ") && built.contains("not on the allow-list"), "{built}");

    let ran = on_a_terminal(&scene, "$1 run payload.json", 0);
    assert!(ran.contains(&format!("acme/shop main {short}: 1 image in the registry (")), "{ran}");
    let pull = format!("  docker pull {}\n", scene.image_name("a", "1"));
    assert!(ran.ends_with(&pull), "the last line is the pull command: {ran}");
    let verified = on_a_terminal(&scene, "$1 run payload.json 2>/dev/null | $1 verify -", 0);
    assert_eq!(verified, "2 tags of 1 image intact\n");

    let present = on_a_terminal(&scene, "$1 catchup 2>/dev/null", 0);
    assert_eq!(present, "acme/shop main: 1 present\n");
    scene.repository.image("b", "1").images(&[json!({"service_name": "a"}), json!({"service_name": "b"})]);
    let second = scene.repository.commit("second");
    let planned = on_a_terminal(&scene, "$1 catchup --dry-run 2>/dev/null", 0);
    let row = format!("  {}  to build  not in the registry: a, b\n", &second[..12]);
    assert_eq!(planned, format!("acme/shop main: 1 present, 1 to build\n{row}"));
}

#[test]
fn progress_bars_end_with_the_number_of_steps_and_are_removed() {
    engine::needed();
    let (scene, _) = Scene::with_one_image();
    let line = format!("$1 build --repo {} --branch main", scene.repository.url());
    let said = on_a_terminal(&scene, &line, 0);
    assert!(said.contains("2/3"), "two steps of three have ended while it builds: {said:?}");
    let last: Vec<&str> = said.lines().rev().take(3).collect();
    assert!(
        last[0].starts_with("next: swanci build --repo ") && last[0].ends_with(" | swanci push -"),
        "{said}"
    );
    assert!(last[1].starts_with("  a  built  "), "{said}");
    assert!(last[2].contains(": 1 built"), "{said}");
}
