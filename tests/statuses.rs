//! Posts to a forge by `serve` and `run --status`: the status of a commit and the comment on a pull request.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::serve::support::{REPOSITORY, SECRET, World, until};
use crate::support::forge_api::{Asked, ForgeApi};
use crate::support::http::{delivery, sign};

const TOKEN: &str = "canary-token-of-the-statuses";

/// The used part of GitHub's API: it stores posts, or answers with an error status.
fn github(status: &Arc<AtomicU16>) -> ForgeApi {
    let (status, comment) = (Arc::clone(status), Mutex::new(None::<Value>));
    ForgeApi::start(move |asked: &Asked| {
        let status = status.load(Ordering::SeqCst);
        if status >= 400 {
            return (status, json!({"message": "not now"}));
        }
        let mut comment = comment.lock().unwrap();
        match asked.method.as_str() {
            "GET" if asked.path.ends_with("/user") => (200, json!({"login": "bot"})),
            "GET" if asked.path.contains("/comments") => (200, comment.iter().cloned().collect()),
            "GET" => (200, json!({"permissions": {"push": true}})),
            "POST" | "PATCH" if asked.path.contains("/comments") => {
                let kept = json!({"id": 5, "body": asked.body["body"], "user": {"login": "bot"}});
                *comment = Some(kept.clone());
                (201, kept)
            }
            _ => (201, json!({})),
        }
    })
}

fn answering() -> (Arc<AtomicU16>, ForgeApi) {
    let status = Arc::new(AtomicU16::new(200));
    let api = github(&status);
    (status, api)
}

/// A world whose forge gets statuses and comments.
fn world(api: &ForgeApi) -> World {
    world_of("github", api)
}

fn world_of(kind: &str, api: &ForgeApi) -> World {
    let world = World::new();
    std::fs::write(world.path("token"), format!("{TOKEN}\n")).unwrap();
    let (repository, clone) = (REPOSITORY, world.path("forge.git").display().to_string());
    let url = api.url();
    world.configure(|s| {
        s.serve = "public_url = \"https://ci.example.org/\"".to_owned();
        s.repositories = Some(format!(
            "[[forge]]\nkind = \"{kind}\"\nurl = \"{url}\"\ntoken_file = \"token\"\nstatus = true\ncomment = true\n\
             [[repository]]\nname = \"{repository}\"\nclone_url = \"{clone}\"\n"
        ));
    });
    world
}

/// The statuses of a commit so far: (state, description, link).
fn statuses(api: &ForgeApi, commit: &str) -> Vec<(String, String, Value)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let asked = api.asked().into_iter().filter(|a| a.path.ends_with(&format!("/statuses/{commit}")));
    asked
        .map(|a| (text(&a.body["state"]), text(&a.body["description"]), a.body["target_url"].clone()))
        .collect()
}

fn states(api: &ForgeApi, commit: &str) -> Vec<String> {
    statuses(api, commit).into_iter().map(|(state, _, _)| state).collect()
}

fn comments(api: &ForgeApi) -> Vec<(String, String)> {
    let written = api.asked().into_iter().filter(|a| a.method != "GET" && a.path.contains("/comments"));
    written.map(|a| (a.method.clone(), a.body["body"].as_str().unwrap().to_owned())).collect()
}

#[test]
fn a_merge_is_pending_and_then_has_its_digest_and_a_comment_with_the_pull_command() {
    let (_, api) = answering();
    let world = world(&api);
    let merge = world.merge_page("one");
    let serve = world.serve();
    let job = serve.deliver(&merge);
    world.wait_for(job, "succeeded");
    until("the status is posted", || (statuses(&api, &merge.commit).len() == 2).then_some(()));
    let said = statuses(&api, &merge.commit);
    let digest = world.digest("httpd", "1.0").unwrap();
    assert_eq!(said[0].0, "pending");
    assert_eq!((said[1].0.as_str(), said[1].1.clone()), ("success", format!("1 image; httpd {digest}")));
    assert_eq!(said[1].2, json!(format!("https://ci.example.org/jobs/{job}")));
    until("the comment is posted", || (!comments(&api).is_empty()).then_some(()));
    let (method, text) = comments(&api).remove(0);
    assert_eq!(method, "POST");
    let host = world.registry.host();
    assert!(text.starts_with("<!-- swanci -->\n"), "{text}");
    assert!(text.contains(&format!("\ndocker pull {host}/httpd:1.0\n")) && text.contains(&digest), "{text}");
    assert!(!serve.said().contains(TOKEN));
    assert_eq!(serve.stop(), 0);
}

#[test]
fn a_failed_build_is_a_failure_with_the_end_of_its_log_and_a_later_success_replaces_the_comment() {
    let (_, api) = answering();
    let world = world(&api);
    let merge = world.merge_run("echo the-last-words; test -e /good");
    let serve = world.serve();
    let job = serve.deliver(&merge);
    world.wait_for(job, "failed");
    until("the comment is posted", || (!comments(&api).is_empty()).then_some(()));
    let said = statuses(&api, &merge.commit);
    assert_eq!(said.last().unwrap().0, "failure");
    assert!(said.last().unwrap().1.contains("httpd"), "{said:?}");
    assert!(comments(&api)[0].1.contains("the-last-words"), "{:?}", comments(&api));
    let other = world.merge_page("two");
    let payload = String::from_utf8(other.payload.clone()).unwrap();
    // The same pull request: its comment is updated.
    let again = payload.replace("\"number\":2", "\"number\":1");
    let answer = serve.ask(delivery(SECRET, "pull_request", again.as_bytes()));
    assert_eq!(answer.status, 202, "{answer:?}");
    until("the comment is replaced", || (comments(&api).len() == 2).then_some(()));
    let (method, text) = comments(&api).pop().unwrap();
    assert!(method == "PATCH" && text.contains("docker pull"), "{method} {text}");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn an_unreachable_forge_delays_no_job_and_gets_the_status_after_a_restart() {
    let (status, api) = answering();
    let world = world(&api);
    status.store(502, Ordering::SeqCst);
    let merge = world.merge_page("one");
    let mut serve = world.serve();
    let job = serve.deliver(&merge);
    world.wait_for(job, "succeeded");
    serve.wait_said("was not posted; it is tried again for a day");
    serve.kill();
    status.store(200, Ordering::SeqCst);
    let before = statuses(&api, &merge.commit).len();
    let serve = world.serve();
    until("the status is posted", || (statuses(&api, &merge.commit).len() > before).then_some(()));
    assert_eq!(states(&api, &merge.commit).last().unwrap(), "success", "only the newest is posted");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn a_cancelled_job_is_an_error_also_when_another_process_cancels_it() {
    let (_, api) = answering();
    let world = world(&api);
    let merge = world.merge_page("one");
    let serve = world.serve_with(&["--jobs", "0"]);
    let job = serve.deliver(&merge);
    until("it is pending", || (states(&api, &merge.commit) == ["pending"]).then_some(()));
    assert!(world.run(&["jobs", "cancel", &job.to_string()]).status.success());
    until("it is an error", || (states(&api, &merge.commit) == ["pending", "error"]).then_some(()));
    assert_eq!(statuses(&api, &merge.commit)[1].1, "cancelled");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn a_commit_that_the_forge_does_not_name_is_pending_once_it_is_found() {
    let (_, api) = answering();
    let world = world_of("gitbucket", &api);
    world.hold_builds();
    let merge = world.merge_page("one");
    let mut payload: Value = serde_json::from_slice(&merge.payload).unwrap();
    let head = payload["pull_request"]["head"]["sha"].as_str().unwrap().to_owned();
    let work = world.path("work");
    let push = ["push", "-q", "origin", &format!("{head}:refs/pull/1/head")];
    let pushed = Command::new("git").args(push).current_dir(work).status().unwrap();
    assert!(pushed.success());
    payload["pull_request"].as_object_mut().unwrap().remove("merge_commit_sha");
    payload["repository"]["clone_url"] = json!(format!("{}/git/{REPOSITORY}.git", api.url()));
    let body = payload.to_string();
    let serve = world.serve();
    let answer = serve.ask(format!(
        "POST /webhook HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nX-Github-Event: pull_request\r\n\
         User-Agent: Apache-HttpClient/4.5.14\r\nX-Hub-Signature-256: {}\r\nContent-Length: {}\r\n\r\n{body}",
        sign(SECRET, body.as_bytes()),
        body.len()
    ));
    assert_eq!(answer.status, 202, "{answer:?}");
    until("it is pending", || (states(&api, &merge.commit) == ["pending"]).then_some(()));
    assert_eq!(world.job(1)["commit"], merge.commit, "the job names the commit from then on");
    world.release_builds();
    until("it has succeeded", || (states(&api, &merge.commit) == ["pending", "success"]).then_some(()));
    assert_eq!(serve.stop(), 0);
}

#[test]
fn once_waits_for_the_last_status() {
    let (_, api) = answering();
    let world = world(&api);
    let merge = world.merge_page("one");
    let mut serve = world.serve_with(&["--once"]);
    serve.deliver(&merge);
    assert_eq!(serve.wait(super::serve::support::LONG), 0);
    assert_eq!(states(&api, &merge.commit), ["pending", "success"]);
}

#[test]
fn run_sets_the_status_and_a_refusal_of_the_forge_changes_nothing() {
    let (status, api) = answering();
    let world = world(&api);
    let merge = world.merge_page("one");
    let payload = world.path("payload.json");
    std::fs::write(&payload, &merge.payload).unwrap();
    let run = |world: &World| world.run(&["run", "--status", payload.to_str().unwrap()]);
    let out = run(&world);
    assert!(out.status.success(), "{}", super::serve::support::stderr(&out));
    assert_eq!(states(&api, &merge.commit), ["pending", "success"]);
    assert_eq!(statuses(&api, &merge.commit)[0].2, Value::Null);
    assert!(comments(&api).is_empty());

    status.store(403, Ordering::SeqCst);
    let out = run(&world);
    assert!(out.status.success());
    let said = super::serve::support::stderr(&out);
    assert!(said.contains("warning: the status of") && said.contains("not now"), "{said}");
    assert!(!said.contains(TOKEN));

    let without = world.run(&["run", payload.to_str().unwrap()]);
    assert!(without.status.success());
    assert_eq!(states(&api, &merge.commit).len(), 4, "only --status posts to the forge");
}

#[test]
fn doctor_checks_the_token_of_the_forge() {
    let (status, api) = answering();
    let world = world(&api);
    let check = |world: &World| {
        let out = world.run(&["doctor", "--json"]);
        let document: Value = serde_json::from_slice(&out.stdout).unwrap();
        let checks = document["checks"].as_array().unwrap().clone();
        let plain = checks.iter().find(|check| check["name"] == "forge").unwrap();
        assert!(plain["detail"].as_str().unwrap().contains("plain http"), "{plain}");
        checks.into_iter().find(|check| check["name"] == "forge token").unwrap()
    };
    assert_eq!(check(&world)["health"], "ok");
    status.store(401, Ordering::SeqCst);
    let refused = check(&world);
    assert_eq!(refused["health"], "failed");
    assert!(refused["detail"].as_str().unwrap().contains("does not accept the token"), "{refused}");
    assert!(refused["mend"].as_str().is_some(), "{refused}");
}
