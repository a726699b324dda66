use std::time::{Duration, Instant};

use super::*;
use crate::cancel::Stop;

fn sh(script: &str) -> Tool {
    Tool::new("sh").args(["-c", script])
}

#[test]
fn lines_arrive_and_output_is_captured() {
    let mut seen = Vec::new();
    let done = sh("echo one; echo two >&2; printf three")
        .stream(&Cancel::new(), &mut |stream, line| seen.push((stream, line.to_owned())))
        .unwrap();
    assert_eq!(done.stdout, b"one\nthree");
    assert!(done.tail.contains(&"two".to_owned()));
    assert!(seen.contains(&(Stream::Stdout, "three".into())));
}

#[test]
fn a_failure_keeps_the_last_lines() {
    let error = sh("for i in $(seq 60); do echo line$i >&2; done; exit 3").run(&Cancel::new()).unwrap_err();
    assert_eq!(error.tail().len(), TAIL_LINES);
    assert!(error.to_string().contains("code 3") && error.to_string().contains("line60"), "{error}");
}

#[test]
fn a_secret_is_redacted_from_a_command_line_that_is_cut_within_it() {
    crate::redact::register(&"secret-of-a-command-line".into());
    let tool = Tool::new("sh").arg("x".repeat(60)).arg("secret-of-a-command-line");
    assert_eq!(format!("{tool:?}"), format!("sh {} ***", "x".repeat(60)));
}

#[test]
fn a_missing_program_is_named() {
    let error = Tool::new("swanci-no-such-tool").run(&Cancel::new()).unwrap_err();
    assert!(error.is_not_found(), "{error:?}");
}

#[test]
fn a_timeout_ends_grandchildren_too() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("(trap '' TERM; sleep 600) & echo $! > {}; sleep 600", file.path().display());
    let cancel = Cancel::new().child(Some(Duration::from_millis(300)));
    let error = sh(&script).run(&cancel).unwrap_err();
    assert!(matches!(error, CommandError::Stopped { stop: Stop::TimedOut, .. }));
    let grandchild: i32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    assert!(gone, "the grandchild {grandchild} still runs");
}

#[test]
fn a_grandchild_that_holds_the_pipe_does_not_hold_the_caller() {
    let begun = Instant::now();
    let done = sh("sleep 600 & echo done").run(&Cancel::new()).unwrap();
    assert_eq!(done.text(), "done");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[test]
fn the_environment_is_explicit() {
    let done = sh("env").env("GIT_X", "1").run(&Cancel::new()).unwrap().text();
    assert!(done.contains("GIT_X=1") && done.contains("PATH="));
    assert!(!done.contains("CARGO_"), "{done}");
}

#[test]
fn output_that_is_not_captured_may_be_of_any_length() {
    let mut count = 0;
    let tool = Tool { cap: Some(1000), ..sh("yes | head -n 10000") };
    let done = tool.uncaptured().stream(&Cancel::new(), &mut |_, _| count += 1).unwrap();
    assert_eq!((count, done.stdout.len()), (10_000, 0));
}

#[test]
fn output_beyond_the_cap_is_an_error() {
    let error = Tool { cap: Some(1000), ..sh("yes") }.run(&Cancel::new()).unwrap_err();
    assert!(matches!(error, CommandError::TooMuchOutput { cap: 1000, .. }), "{error:?}");
}
