//! Runs docs/tutorial.md: every `sh` block in order, in one shell. Compares the output of each with the `text` block that
//! follows it.

#![allow(clippy::disallowed_methods)]

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::support::engine;

/// The tutorial takes about ten seconds on two cores, but other tests may run at the same time.
const LIMIT: Duration = Duration::from_secs(300);
/// In a `text` block: any text in a line, or any number of lines if it is a whole line.
const ANYTHING: &str = "…";

/// One `sh` block, and its expected output.
#[derive(Debug, PartialEq)]
struct Step {
    line: usize,
    commands: String,
    expected: Option<String>,
}

/// The fenced blocks of a page. Other languages than `sh` and `text`, and a `text` without a preceding `sh`, are errors, so
/// that every command on the page runs.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| !line.starts_with("```")).collect();
        let body = body.join("\n") + "\n";
        match language {
            "sh" => steps.push(Step { line: at + 1, commands: body, expected: None }),
            "text" => match steps.last_mut() {
                Some(step) if step.expected.is_none() => step.expected = Some(body),
                Some(_) | None => panic!("line {}: this output belongs to no command", at + 1),
            },
            other => panic!("line {}: unexpected block of `{other}`", at + 1),
        }
    }
    steps
}

fn line_matches(expected: &str, found: &str) -> bool {
    let (expected, found) = (expected.trim_end(), found.trim_end());
    let mut parts = expected.split(ANYTHING);
    let Some(mut rest) = parts.next().and_then(|first| found.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn matches(expected: &[&str], found: &[&str]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((&ANYTHING, rest)) => (0..=found.len()).any(|skipped| matches(rest, &found[skipped..])),
        Some((line, rest)) => found
            .split_first()
            .is_some_and(|(first, others)| line_matches(line, first) && matches(rest, others)),
    }
}

/// The running tutorial; dropping it removes everything that the tutorial started and created.
struct Running {
    shell: Child,
    registry: String,
}

impl Running {
    /// Waits for the shell; `None` after the time limit.
    fn wait(&mut self) -> Option<ExitStatus> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.shell.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group exists as long as a background process of the shell runs.
        let group = Pid::from_raw(self.shell.id().cast_signed()).unwrap();
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.shell.wait();
        let leftovers = format!("docker images -q '{}/*' | sort -u | xargs -r docker rmi -f", self.registry);
        let _ = Command::new("bash")
            .args(["-c", &leftovers])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs all blocks in one shell, like a reader. The output of each block goes to a separate file and not to a pipe, because
/// background processes would keep a pipe open.
fn start(steps: &[Step], source: &Path, home: &Path) -> Running {
    let mut script = String::from("set -euo pipefail\n");
    for (i, step) in steps.iter().enumerate() {
        script.push_str(&format!("exec >{}/{i}.out 2>&1\n{}", home.display(), step.commands));
    }
    let script_file = home.join("tutorial.sh");
    fs::write(&script_file, script).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_swanci"));
    engine::docker_config(&home.join(".docker"));
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let port = free_port();
    let mut shell = Command::new("bash");
    shell
        .arg(&script_file)
        .current_dir(source)
        .stdin(Stdio::null())
        .stdout(File::create(home.join("shell.out")).unwrap())
        .stderr(File::create(home.join("shell.err")).unwrap())
        .process_group(0);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("SWANCI_") || name.starts_with("XDG_") || name.to_lowercase().ends_with("_proxy")
        {
            shell.env_remove(&*name);
        }
    }
    shell
        .env("HOME", home)
        .env_remove("DOCKER_CONFIG")
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .env("REGISTRY_PORT", port.to_string())
        .env("LISTEN_PORT", free_port().to_string());
    Running { shell: shell.spawn().unwrap(), registry: format!("localhost:{port}") }
}

#[test]
fn every_command_of_the_tutorial_runs_and_prints_the_documented_output() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let steps = steps(&fs::read_to_string(source.join("docs/tutorial.md")).unwrap());
    assert!(steps.len() > 10, "the tutorial has only {} blocks of commands", steps.len());
    let home = tempfile::Builder::new().prefix("swanci-tutorial-").tempdir().unwrap();
    let mut running = start(&steps, source, home.path());
    let status = running.wait();
    let output = |i: usize| fs::read_to_string(home.path().join(format!("{i}.out"))).ok();
    for (i, step) in steps.iter().enumerate() {
        let at = format!("docs/tutorial.md, line {}", step.line);
        let found = output(i).unwrap_or_else(|| panic!("{at}: was not reached"));
        let is_last_reached = i + 1 < steps.len() && output(i + 1).is_none();
        assert!(!is_last_reached, "{at}: the shell ended here ({status:?}):\n{}{found}", step.commands);
        let expected = step.expected.as_deref().unwrap_or("");
        assert!(
            matches(&expected.lines().collect::<Vec<_>>(), &found.lines().collect::<Vec<_>>()),
            "{at}: prints something else.\n--- expected\n{expected}--- found\n{found}"
        );
    }
    assert!(status.is_some_and(|s| s.success()), "the shell ended with {status:?}");
    assert!(!home.path().join("swanci-tutorial").exists(), "the last step does not remove everything");
}

#[test]
fn only_an_ellipsis_matches_any_output() {
    let cases = [
        ("a\nb", "a\nb", true),
        ("a\nb", "a", false),
        ("a", "a\nb", false),
        ("a …", "a b c", true),
        ("a … c", "a b d", false),
        ("… (…)", "built (0.1s)", true),
        ("a…a", "a", false),
        ("…\nc", "a\nb\nc", true),
        ("…\nc", "a\nb", false),
        ("a\n…", "a", true),
        ("", "a", false),
    ];
    for (expected, found, answer) in cases {
        let lines = |text: &'static str| text.lines().collect::<Vec<_>>();
        assert_eq!(matches(&lines(expected), &lines(found)), answer, "{expected:?} against {found:?}");
    }
}

#[test]
fn a_page_is_parsed_into_commands_and_their_output() {
    let page = "words\n```sh\na\n\nb\n```\nwords\n```text\nx\n```\n```sh\nc\n```\n";
    assert_eq!(
        steps(page),
        [
            Step { line: 2, commands: "a\n\nb\n".to_owned(), expected: Some("x\n".to_owned()) },
            Step { line: 11, commands: "c\n".to_owned(), expected: None },
        ]
    );
}
