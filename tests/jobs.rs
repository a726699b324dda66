//! `swanci jobs` while `serve` runs.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::serve::support::{
    Merge, REPOSITORY, World, processes_with, stderr, step_runs, until, until_within,
};

fn stdout(out: &std::process::Output) -> String {
    assert!(out.status.success(), "{}", stderr(out));
    String::from_utf8(out.stdout.clone()).unwrap()
}

#[test]
fn jobs_are_listed_and_shown_as_text_and_as_json() {
    let world = World::new();
    let out = world.run(&["jobs"]);
    assert_eq!(out.status.code(), Some(6), "no queue yet: {}", stderr(&out));
    let merge = world.merge_page("one");
    let serve = world.serve();
    assert_eq!(stdout(&world.run(&["jobs"])), "no jobs\n");
    let id = serve.deliver(&merge);
    world.wait_for(id, "succeeded");
    let broken = world.merge(&[("images.json", "{}")]);
    let failed = serve.deliver(&broken);
    world.wait_for(failed, "failed");

    let listed = stdout(&world.run(&["jobs", "list"]));
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines[0].contains("STATE") && lines[0].contains("REPOSITORY"), "{listed}");
    assert!(lines[1].contains("failed"), "the newest first: {listed}");
    assert!(lines[2].contains("images.json"), "with the reason: {listed}");
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{listed}");
    assert!(listed.contains("succeeded") && listed.contains("juanswan13/sd2018b-exam2"), "{listed}");
    assert_eq!(stdout(&world.run(&["jobs"])).lines().next(), listed.lines().next(), "listing is the default");
    let json: Value =
        serde_json::from_str(&stdout(&world.run(&["jobs", "--json", "list", "--state", "failed"]))).unwrap();
    assert_eq!(json["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(json["jobs"][0]["id"], failed);
    let other = stdout(&world.run(&["jobs", "list", "--repository", "someone/else"]));
    assert_eq!(other, "no jobs\n");
    assert_eq!(stdout(&world.run(&["jobs", "list", "--limit", "1", "--json"])).matches("\"id\"").count(), 1);

    let shown = stdout(&world.run(&["jobs", "show", &id.to_string()]));
    assert!(shown.contains(&merge.commit) && shown.contains("succeeded"), "{shown}");
    assert!(shown.contains("images        httpd built 1.0\n"), "{shown}");
    let shown_failed = stdout(&world.run(&["jobs", "show", &failed.to_string()]));
    assert!(shown_failed.contains("cause ") && shown_failed.contains("images.json"), "{shown_failed}");
    assert!(shown_failed.ends_with(&format!("next: swanci jobs log {failed}, swanci jobs retry {failed}\n")));
    let json = world.job(id);
    assert_eq!(json["document"]["change"]["commit"], merge.commit.as_str());
    assert_eq!(json["receipt"]["outcome"], "succeeded");
    let log = world.job_log(id);
    assert!(log.contains("httpd"), "{log}");
    for command in ["show", "log", "retry", "cancel"] {
        let out = world.run(&["jobs", command, "4711"]);
        assert!(!out.status.success() && stderr(&out).contains("4711"), "{command}: {}", stderr(&out));
    }
    let out = world.run(&["jobs", "retry", &id.to_string()]);
    assert!(!out.status.success() && stderr(&out).contains("succeeded"), "{}", stderr(&out));
}

#[test]
fn a_running_job_of_a_dead_serve_is_shown_as_interrupted() {
    let world = World::new();
    let mark = format!("75{:07}", fastrand::u32(..10_000_000));
    let merge = world.merge_run(&format!("/busybox sleep {mark}"));
    let mut serve = world.serve();
    let id = serve.deliver(&merge);
    until("the step runs", || step_runs(&mark).then_some(()));
    let listed = stdout(&world.run(&["jobs"]));
    assert!(listed.contains("running") && !listed.contains("interrupted"), "{listed}");
    assert_eq!(world.job(id)["interrupted"], false);
    serve.kill();
    until("it is seen", || stdout(&world.run(&["jobs"])).contains("interrupted").then_some(()));
    assert!(stdout(&world.run(&["jobs", "show", &id.to_string()])).contains("interrupted: the next serve"));
    let job = world.job(id);
    assert_eq!((&job["state"], &job["interrupted"]), (&"running".into(), &true.into()));
    let serve = world.serve();
    until("it runs again", || (world.job(id)["interrupted"] == false).then_some(()));
    stdout(&world.run(&["jobs", "cancel", &id.to_string()]));
    world.wait_for(id, "cancelled");
    drop(serve);
}

#[test]
fn a_followed_log_shows_new_lines_and_ends_with_the_job() {
    let world = World::new();
    let merge = world.merge_run("echo first-$((40+2)); /busybox sleep 3; echo last-$((40+3))");
    let serve = world.serve();
    let id = serve.deliver(&merge);
    let mut follow = world
        .swanci()
        .args(["jobs", "log", &id.to_string(), "-f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut state_at_first = None;
    let mut saw_last = false;
    for line in BufReader::new(follow.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("first-42") {
            state_at_first = Some(world.job(id)["state"].clone());
        }
        saw_last |= line.contains("last-43");
    }
    assert_eq!(state_at_first, Some("running".into()), "the line was printed while the job was running");
    assert!(saw_last, "{}", world.job_log(id));
    assert!(follow.wait().unwrap().success());
    assert_eq!(world.job(id)["state"], "succeeded");
    // A closed standard output is not an error of the queue.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = world.swanci().args(["jobs", "log", &id.to_string()]).stdout(writer).output().unwrap();
    assert_eq!((out.status.code(), stderr(&out).trim()), (Some(1), "error: standard output is closed"));
}

#[test]
fn cancel_stops_all_processes_of_a_running_job_and_retry_queues_it_again() {
    let world = World::new();
    let mark = format!("73{:07}", fastrand::u32(..10_000_000));
    let merge = world.merge_run(&format!("/busybox sleep {mark}"));
    let serve = world.serve();
    let id = serve.deliver(&merge);
    until("the step runs", || step_runs(&mark).then_some(()));
    let name = format!("{}/httpd", world.registry.host());
    assert!(!processes_with(&name).is_empty(), "docker builds");
    let said = stdout(&world.run(&["jobs", "cancel", &id.to_string()]));
    assert!(said.contains("is being stopped"), "{said}");
    let limit = Duration::from_secs(5);
    until_within(limit, "the job is cancelled", &mut || {
        (world.job(id)["state"] == "cancelled").then_some(())
    });
    until_within(limit, "the step is gone", &mut || (!step_runs(&mark)).then_some(()));
    let left: Vec<u32> = processes_with(&name);
    assert_eq!(left, Vec::<u32>::new(), "no docker client is left");
    assert_eq!(serve.get("/healthz").status, 200);

    // A cancelled job is queued again by hand, and cancelled while it waits.
    assert!(stdout(&world.run(&["jobs", "retry", &id.to_string(), "--json"])).contains("\"queued\""));
    until("it runs again", || step_runs(&mark).then_some(()));
    let waiting = world.merge_page("two");
    let second = serve.deliver(&waiting);
    assert_eq!(world.job(second)["state"], "queued", "one at a time");
    let said = stdout(&world.run(&["jobs", "cancel", &second.to_string(), "--json"]));
    assert!(said.contains("\"cancelled\""), "{said}");
    assert_eq!(world.job(second)["state"], "cancelled");
    // A redelivery of a cancelled merge queues it again.
    let again = serve.deliver(&waiting);
    assert_eq!(again, second);
    stdout(&world.run(&["jobs", "cancel", &id.to_string()]));
    world.wait_for(second, "succeeded");
    assert_eq!(world.job(id)["state"], "cancelled");
}

#[test]
fn with_two_jobs_the_merges_of_two_repositories_run_in_parallel() {
    let world = World::new();
    let mark = format!("74{:07}", fastrand::u32(..10_000_000));
    let merge = world.merge_run(&format!("/busybox sleep {mark}"));
    let git = world.path("forge.git").display().to_string();
    world.configure(|settings| {
        settings.repositories = Some(format!(
            "[[repository]]\nname = \"{REPOSITORY}\"\nclone_url = \"{git}\"\n\
             [[repository]]\nname = \"acme/second\"\nclone_url = \"{git}\"\nnamespace = \"second\"\n"
        ));
    });
    let second = String::from_utf8(merge.payload.clone()).unwrap().replace(REPOSITORY, "acme/second");
    let second = Merge { commit: merge.commit.clone(), payload: second.into_bytes() };
    let serve = world.serve_with(&["--jobs", "2"]);
    let ids = [&merge, &second].map(|merge| serve.deliver(merge));
    let running = |id: &i64| world.job(*id)["state"] == "running";
    until("both run", || ids.iter().all(running).then_some(()));
    until("their step runs", || step_runs(&mark).then_some(()));
    for id in ids {
        stdout(&world.run(&["jobs", "cancel", &id.to_string()]));
        until("it is cancelled", || (world.job(id)["state"] == "cancelled").then_some(()));
    }
    until("no step is left", || (!step_runs(&mark)).then_some(()));
}

#[test]
fn secrets_are_redacted_in_the_log_of_a_job_and_never_in_the_queue() {
    let world = World::new();
    let canary = "ghp_CanaryOfTheTests0123456789";
    let password = "SecretOfTheUrl";
    // The build prints the secrets, like a careless Dockerfile.
    let merge = world.merge_run(&format!(
        "echo token {canary}; echo https://user:{password}@example.org/x; echo done-$((1+1))"
    ));
    let mut command = world.swanci();
    command.env("SWANCI_GIT_TOKEN", canary).args(["serve", "--json"]);
    let serve = super::serve::support::Serve::start(command, &world);
    let id = serve.deliver(&merge);
    world.wait_for(id, "succeeded");
    let log = std::fs::read_to_string(world.state().join(format!("logs/{id}.log"))).unwrap();
    assert!(log.contains("done-2") && log.contains("***"), "{log}");
    assert!(!log.contains(canary) && !log.contains(password), "{log}");
    let said = serve.said();
    assert_eq!(serve.stop(), 0);
    assert!(!said.contains(canary) && !said.contains(password), "{said}");
    for file in ["queue.db", "queue.db-wal"] {
        let bytes = std::fs::read(world.state().join(file)).unwrap_or_default();
        assert!(!bytes.windows(canary.len()).any(|w| w == canary.as_bytes()), "{file}");
    }
}

#[test]
fn no_control_character_of_a_tool_reaches_a_log_or_a_terminal() {
    let world = World::new();
    let merge = world.merge_page("one");
    // The engine is down, and the client's message has colours, a C1 control, U+202E and U+2028.
    let script = world.path("docker-in-colours");
    let said = r"\033[31mCannot connect to the Docker daemon\302\2332J\342\200\256\342\200\250!\n";
    std::fs::write(&script, format!("#!/bin/sh\nprintf '{said}' >&2\nexit 1\n")).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.configure(|s| s.build = format!("docker = \"{}\"", script.display()));
    let serve = world.serve();
    let id = serve.deliver(&merge);
    let path = world.state().join(format!("logs/{id}.log"));
    let log = until("the first attempt has failed", || {
        std::fs::read_to_string(&path).ok().filter(|log| log.contains("attempt 1 failed"))
    });
    let listed = stdout(&world.run(&["jobs"]));
    let shown = stdout(&world.run(&["jobs", "show", &id.to_string()]));
    let document = stdout(&world.run(&["jobs", "--json"]));
    for text in [&log, &listed, &shown, &document, &serve.said()] {
        assert!(
            !text.contains(|c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2028}".contains(c))),
            "{text:?}"
        );
    }
    assert!(log.contains("Cannot connect"), "{log}");
}

#[test]
fn a_log_stops_at_its_size_limit_and_the_job_continues() {
    let world = World::new();
    // BuildKit truncates the output of steps, so docker's client prints the text.
    world.docker_first("talkative-docker", &format!("yes {} | head -n 3000 >&2", "x".repeat(4000)));
    let merge = world.merge_page("one");
    let serve = world.serve();
    let id = serve.deliver(&merge);
    world.wait_for(id, "succeeded");
    let log = std::fs::read_to_string(world.state().join(format!("logs/{id}.log"))).unwrap();
    let cap = usize::try_from(swanci::queue::LOG_CAP).unwrap();
    assert!(log.len() > cap - 10_000 && log.len() < cap + 200, "{} bytes", log.len());
    assert_eq!(log.matches("the log ends here").count(), 1);
    assert!(world.digest("httpd", "1.0").is_some());
}
