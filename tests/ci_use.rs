//! `swanci run` inside a job of GitHub Actions.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::engine::{self, Cleanup};
use crate::support::program::{Ran, swanci};
use crate::support::registry::RegistryServer;

const TOKEN: &str = "ghs_canaryTokenOfTheJob000";

/// A job with the environment of a runner.
struct Job {
    dir: TempDir,
}

impl Job {
    fn new(payload: &Value) -> Job {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("event.json"), payload.to_string()).unwrap();
        engine::docker_config(&dir.path().join(".docker"));
        // The runner creates both files; earlier steps may have written to them.
        std::fs::write(dir.path().join("output"), "earlier=step\n").unwrap();
        std::fs::write(dir.path().join("summary"), "").unwrap();
        Job { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, event: &str, arguments: &[&str]) -> Ran {
        let [output, summary, payload] =
            ["output", "summary", "event.json"].map(|n| self.path(n).display().to_string());
        let environment = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_OUTPUT", output.as_str()),
            ("GITHUB_STEP_SUMMARY", summary.as_str()),
            ("GITHUB_EVENT_PATH", payload.as_str()),
            ("GITHUB_EVENT_NAME", event),
            ("SWANCI_GIT_TOKEN", TOKEN),
        ];
        swanci(self.dir.path(), &environment, &[&["run", payload.as_str()], arguments].concat())
    }

    /// Parses the outputs like the runner: `name=value`, or `name<<delimiter` up to that line.
    fn outputs(&self) -> BTreeMap<String, String> {
        let text = self.text("output");
        let mut lines = text.lines();
        let mut outputs = BTreeMap::new();
        while let Some(line) = lines.next() {
            match (line.split_once("<<"), line.split_once('=')) {
                (Some((name, end)), _) => {
                    let value: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
                    outputs.insert(name.to_owned(), value.join("\n"));
                }
                (None, Some((name, value))) => drop(outputs.insert(name.to_owned(), value.to_owned())),
                (None, None) => panic!("the runner would refuse {line:?} in {text}"),
            }
        }
        outputs
    }
}

/// The workflow commands in a log, by the runner's rules.
fn commands(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.trim_start().starts_with("::") || line.contains("##[")).collect()
}

fn merged(title: &str, branch: &str, commit: &str) -> Value {
    let text = include_str!("data/payloads/merged.json");
    let mut payload: Value = serde_json::from_str(text).unwrap();
    payload["pull_request"]["title"] = title.into();
    payload["pull_request"]["base"]["ref"] = branch.into();
    payload["pull_request"]["merge_commit_sha"] = commit.into();
    payload
}

#[test]
fn a_job_with_nothing_to_build_reports_it_in_its_outputs() {
    let job = Job::new(&merged("t", "develop", &"a".repeat(40)));
    let ran = job.run("push", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    // The event's name comes from the job, and is not that of a pull request.
    assert_eq!(ran.json()["decision"], "skip", "{ran:?}");
    let outputs = job.outputs();
    assert_eq!((outputs["outcome"].as_str(), outputs["images"].as_str()), ("skipped", "[]"));
    assert_eq!(outputs["earlier"], "step");
    assert!(job.text("summary").starts_with("### swanci: skipped"), "{}", job.text("summary"));
}

#[test]
fn outside_of_a_ci_job_no_ci_output_is_written() {
    let job = Job::new(&merged("t", "develop", &"a".repeat(40)));
    let (output, payload) =
        (job.path("output").display().to_string(), job.path("event.json").display().to_string());
    let environment = [("GITHUB_OUTPUT", output.as_str()), ("SWANCI_GIT_TOKEN", TOKEN)];
    let ran = swanci(job.dir.path(), &environment, &["run", &payload, "--event", "push"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(job.text("output"), "earlier=step\n");
    assert!(commands(&ran.err).is_empty() && !ran.err.contains(TOKEN), "{ran:?}");
}

#[test]
fn a_failed_job_also_has_outputs_and_a_reason() {
    let job = Job::new(&merged("t", "develop", &"a".repeat(40)));
    let ran = job.run("pull_request_target", &[]);
    assert_eq!(ran.code, 2, "there is no registry: {ran:?}");
    let outputs = job.outputs();
    assert_eq!(outputs["outcome"], "failed");
    assert!(outputs["reason"].contains("no registry"), "{outputs:?}");
    assert!(job.text("summary").contains("<pre>error: there is no registry"), "{}", job.text("summary"));

    std::fs::write(job.path("event.json"), "no json").unwrap();
    std::fs::write(job.path("output"), "").unwrap();
    assert_eq!(job.run("pull_request", &[]).code, 4);
    assert_eq!(job.outputs()["outcome"], "failed");
}

#[test]
fn outputs_that_cannot_be_written_fail_the_step() {
    let job = Job::new(&merged("t", "develop", &"a".repeat(40)));
    std::fs::remove_file(job.path("output")).unwrap();
    std::fs::create_dir(job.path("output")).unwrap();
    let ran = job.run("push", &[]);
    assert_eq!(ran.code, 6);
    assert_eq!(ran.json()["decision"], "skip");
    assert!(ran.err.contains("outputs cannot be written"), "{ran:?}");
}

fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn a_job_that_pushes_groups_its_log_masks_its_token_and_escapes_tool_output() {
    let registry = RegistryServer::plain();
    let _images = Cleanup::new(&registry.host());
    let repository = tempfile::tempdir().unwrap();
    git(repository.path(), &["init", "-q", "-b", "develop"]);
    std::fs::create_dir(repository.path().join("httpd")).unwrap();
    let hostile = "FROM scratch\nCOPY Dockerfile /##[add-mask]e\nCOPY Dockerfile /::add-mask::e\n";
    std::fs::write(repository.path().join("httpd/Dockerfile"), hostile).unwrap();
    let list = r#"{"images":[{"service_name":"httpd","version":"1.0","type":"Docker"}]}"#;
    std::fs::write(repository.path().join("images.json"), list).unwrap();
    git(repository.path(), &["add", "."]);
    git(repository.path(), &["commit", "-qm", "one"]);
    let commit = git(repository.path(), &["rev-parse", "HEAD"]);

    let job = Job::new(&merged("</pre><img src=x> ##[add-mask]e\n::error::x", "develop", &commit));
    let name =
        serde_json::from_str::<Value>(&job.text("event.json")).unwrap()["repository"]["full_name"].clone();
    let config = format!(
        "state_dir = \"state\"\n[registry]\nhost = \"{}\"\nplain_http = true\n[[repository]]\nname = {name}\nclone_url = \"{}\"\n",
        registry.host(),
        repository.path().display()
    );
    std::fs::write(job.path("swanci.toml"), config).unwrap();
    let ran = job.run("pull_request", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");

    // Standard output is one document with the same content and without workflow commands.
    assert_eq!(ran.out.lines().count(), 1);
    assert!(commands(&ran.out).is_empty(), "{}", ran.out);
    let receipt = ran.json();
    assert_eq!(receipt["change"]["pull_request"]["title"], "</pre><img src=x> ##[add-mask]e\n::error::x");

    // The token is masked first, and appears nowhere else.
    let log: Vec<&str> = ran.err.lines().collect();
    assert_eq!(log[0], format!("::add-mask::{TOKEN}"));
    assert_eq!(ran.err.matches(TOKEN).count(), 1, "{}", ran.err);
    // Every command is from swanci, and groups come in pairs.
    let mut open = false;
    for command in commands(&ran.err) {
        match command.split("::").nth(1).unwrap_or("").split(' ').next().unwrap() {
            "add-mask" => assert!(log.iter().position(|l| *l == command).unwrap() < 2, "{command}"),
            "group" => assert!(!std::mem::replace(&mut open, true), "{}", ran.err),
            "endgroup" => assert!(std::mem::replace(&mut open, false), "{}", ran.err),
            _ => panic!("not from swanci: {command} in {}", ran.err),
        }
    }
    assert!(!open && ran.err.contains("::group::build httpd"), "{}", ran.err);
    assert!(ran.err.contains("## [add-mask]e"), "the tool's output is shown: {}", ran.err);

    let outputs = job.outputs();
    assert_eq!((outputs["outcome"].as_str(), outputs["commit"].as_str()), ("succeeded", commit.as_str()));
    let digest = receipt["images"][0]["digest"].as_str().unwrap();
    assert_eq!(outputs["digests"], format!("{}/httpd@{digest}", registry.host()));
    let images: Value = serde_json::from_str(&outputs["images"]).unwrap();
    let image = format!("{}/httpd:sha-{commit}", registry.host());
    let expected =
        json!([{"name": "httpd", "status": "built", "image": image, "digest": digest, "tags": ["1.0"]}]);
    assert_eq!(images, expected);
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(&outputs["receipt"]).unwrap()).unwrap();
    assert_eq!(kept, receipt);

    let summary = job.text("summary");
    assert!(summary.starts_with("### swanci: succeeded") && summary.contains("docker pull"), "{summary}");
    assert!(!summary.contains("<img") && !summary.contains("::error"), "{summary}");
    assert_eq!(summary.matches("</pre>").count(), 1, "{summary}");
}
