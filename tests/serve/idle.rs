//! `serve`: its resources while idle, its log, and the permissions of its files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::support::{REPOSITORY, SECRET, Serve, World, payload};
use crate::support::http::delivery;

#[test]
fn an_idle_serve_has_at_most_twelve_threads() {
    let world = World::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let serve = world.serve_with(&["--admin-listen", &free.to_string()]);
    let threads = || std::fs::read_dir(format!("/proc/{}/task", serve.pid())).unwrap().count();
    // tiny_http ends threads beyond its first four after five seconds.
    super::support::until("at most twelve threads", || (threads() <= 12).then_some(()));
    assert_eq!(serve.get("/healthz").status, 200);
    assert_eq!(serve.stop(), 0);
}

/// The lines of `serve --json` with this event.
fn lines(serve: &Serve, event: &str) -> Vec<Value> {
    let said = serve.said();
    let parsed = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed.filter(|line| line["event"] == event).collect()
}

#[test]
fn every_delivery_and_every_job_is_logged_with_its_subject() {
    let world = World::new();
    let merge = world.merge_page("one");
    let serve = world.serve_with(&["--json"]);
    let job = serve.deliver(&merge);
    world.wait_for(job, "succeeded");
    serve.ask(merge.delivery());
    serve.ask(delivery(SECRET, "ping", b"{}"));
    let mut opened: Value = serde_json::from_slice(&merge.payload).unwrap();
    opened["action"] = json!("opened\u{1b}[31m");
    serve.ask(delivery(SECRET, "pull_request", opened.to_string().as_bytes()));
    for _ in 0..50 {
        serve.ask(delivery("another secret", "pull_request", &merge.payload));
    }
    let told = lines(&serve, "delivery");
    let column = |name: &str| told.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("answer")[..4], ["queued", "duplicate", "pong", "skip"]);
    for (at, line) in told.iter().enumerate() {
        assert_eq!(line["delivery"], "72d3162e-cc78-11e3-81ab-4c9367dc0958", "{line}");
        assert!(line["why"].as_str().is_some_and(|why| !why.is_empty()), "{line}");
        if [0, 1, 3].contains(&at) {
            assert_eq!(
                (&line["repository"], &line["pull_request"]),
                (&json!(REPOSITORY), &json!(1)),
                "{line}"
            );
        }
    }
    let refused = told.iter().filter(|line| line["status"] == 401).count();
    assert!((1..=10).contains(&refused), "{refused} lines for 50 refusals");
    assert!(!serve.said().contains('\u{1b}'), "the output has an escape sequence");
    for event in ["started", "succeeded"] {
        let line = &lines(&serve, event)[0];
        assert_eq!((&line["job"], &line["repository"]), (&json!(job), &json!(REPOSITORY)), "{line}");
        assert_eq!((&line["pull_request"], &line["branch"]), (&json!(1), &json!("develop")), "{line}");
        assert_eq!(line["commit"], merge.commit.as_str(), "{line}");
    }
    assert_eq!(serve.stop(), 0);
    // The same as text.
    let serve = world.serve_with(&["--jobs", "0"]);
    let sha = |digit: &str| digit.repeat(40);
    let merge = payload(REPOSITORY, 9, &sha("a"), &sha("b"), &sha("c"));
    assert_eq!(serve.ask(delivery(SECRET, "pull_request", &merge)).status, 202);
    let line = format!("pull_request, {REPOSITORY} #9: 202 queued (job ");
    serve.wait_said(&line);
    for _ in 0..20 {
        serve.ask(delivery("another secret", "pull_request", &merge));
    }
    std::thread::sleep(std::time::Duration::from_millis(1100));
    serve.ask(delivery("another secret", "pull_request", &merge));
    serve.wait_said("made with another secret or over another body; ");
}

/// Checks all files of the state directory; in `mirrors`, which is private, git sets the modes.
fn look(path: &Path, seen: &mut usize) {
    let mode = std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
    *seen += 1;
    if path.is_dir() && !path.ends_with("mirrors") {
        std::fs::read_dir(path).unwrap().for_each(|entry| look(&entry.unwrap().path(), seen));
    }
}

#[test]
fn stored_files_are_private_regardless_of_the_umask() {
    for by_hand in [true, false] {
        let world = World::new();
        let merge = world.merge_page("one");
        std::fs::write(world.path("payload.json"), &merge.payload).unwrap();
        let mut command = Command::new("sh");
        world.environment(&mut command);
        command.args(["-c", "umask 000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_swanci"), "--config"]);
        command.arg(world.config_file());
        if by_hand {
            let done = command.args(["run", "payload.json"]).stdin(Stdio::null()).output().unwrap();
            assert!(done.status.success(), "{}", super::support::stderr(&done));
        } else {
            command.arg("serve");
            let serve = Serve::start(command, &world);
            let job = serve.deliver(&merge);
            world.wait_for(job, "succeeded");
            assert_eq!(serve.stop(), 0);
        }
        let mut seen = 0;
        look(&world.state(), &mut seen);
        assert!(seen > 5, "{seen} files");
    }
}
