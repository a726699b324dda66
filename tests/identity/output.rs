//! The output of a build never changes the exit code of its failure, which is 1.

use serde_json::json;

use super::busybox;
use crate::support::swanci::{Scene, image};

#[test]
fn the_output_of_a_step_never_changes_the_kind_of_failure() {
    let scene = Scene::new();
    let solve = "ERROR: failed to solve: dial tcp 10.0.0.1:443: connect: connection refused";
    let cases: Vec<(String, i32, String)> = [
        "dial tcp 10.0.0.1:443: connect: connection refused",
        "write /x: no space left on device",
        "x509: certificate signed by unknown authority",
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "error during connect: Post: unexpected EOF",
        "rpc error: code = Unavailable desc = error reading from server: EOF",
        "denied: requested access to the resource is denied",
        "received unexpected HTTP status: 503 Service Unavailable",
        "toomanyrequests: rate limit",
        "did not complete successfully: exit code: 137",
        "executor failed running [x]: exit code: 137",
        solve,
    ]
    .iter()
    .map(|text| (format!("echo '{text}' >&2; exit 3"), 3, format!("exited with 3: {text}")))
    .chain([
        (format!("printf 'a\\r{solve}\\n'; exit 3"), 3, String::new()),
        (format!("printf 'a\\n{solve}'; exit 3"), 3, format!("exited with 3: {solve}")),
        (
            "printf '\\r------\\r#1 ERROR: x\\rerror during connect: x\\n'; exit 4".to_owned(),
            4,
            String::new(),
        ),
        (format!("printf '\\033[2J\\033[31m{solve}\\033[0m\\n'; exit 3"), 3, String::new()),
        (format!(":\n{solve} 2>/dev/null\n------\nexit 5"), 5, String::new()),
        ("exit 137".to_owned(), 137, String::new()),
        ("exit 143".to_owned(), 143, String::new()),
        (": ']: no space left on device'; exit 3".to_owned(), 3, String::new()),
    ])
    .collect();
    let mut list = Vec::new();
    for (i, (script, ..)) in cases.iter().enumerate() {
        let folder = format!("case{i}");
        busybox(&scene.repository, &folder);
        let run = json!(["/bin/busybox", "sh", "-c", script]);
        scene.repository.write(
            &format!("{folder}/Dockerfile"),
            format!("FROM scratch\nCOPY busybox /bin/busybox\nRUN {run}\n"),
        );
        list.push(json!({"service_name": folder, "version": "1"}));
    }
    scene.repository.images(&list);
    let commit = scene.repository.commit("all fail");
    let built = scene.build(&commit, &[]).ended(1);
    assert!(!built.stderr.contains('\u{1b}'), "{}", built.stderr);
    let document = built.json();
    for (i, (script, code, said)) in cases.iter().enumerate() {
        let error = image(&document, &format!("case{i}"))["error"].as_str().unwrap();
        let step = error.starts_with("step 2/2 RUN [\"/bin/busybox\"");
        assert!(
            step && error.contains(&format!("exited with {code}")) && error.contains(said),
            "{script}: {error}"
        );
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }
}

#[test]
fn the_text_of_a_dockerfile_never_changes_the_kind_of_failure() {
    let scene = Scene::new();
    let cases = [
        "FROM scratch\nCOPY connection-refused-no-space-left-on-device /x\n",
        "FROM scratch\nCOPY [\"dial tcp: connection refused\", \"/x\"]\n",
        "FROM scratch\nCANNOT connect to the docker daemon\n",
        "FROM scratch\nCOPY --from=nowhere:1@sha256:zz /no space left on device /x\n",
    ];
    let mut list = Vec::new();
    for (i, text) in cases.iter().enumerate() {
        scene.repository.write(&format!("case{i}/Dockerfile"), text).write(&format!("case{i}/f"), "f");
        list.push(json!({"service_name": format!("case{i}"), "version": "1"}));
    }
    scene.repository.images(&list);
    let commit = scene.repository.commit("all fail");
    for i in 0..cases.len() {
        scene.build(&commit, &["--image", &format!("case{i}")]).ended(1);
    }
}
