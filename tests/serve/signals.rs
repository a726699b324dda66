//! SIGTERM, a second one, and SIGHUP.

use std::time::Duration;

use super::support::{LONG, PAGE, World, payload, processes_with, step_runs, until, until_within};
use crate::support::http::delivery;

#[test]
fn sigterm_leaves_the_running_job_queued_and_no_child_behind() {
    let world = World::new();
    let merge = world.merge_page("one");
    world.hold_builds();
    let serve = world.serve();
    let job = serve.deliver(&merge);
    let mark = world.path("docker-that-waits").display().to_string();
    until("the build has begun", || (!processes_with(&mark).is_empty()).then_some(()));
    assert_eq!(world.job(job)["state"], "running");
    assert_eq!(serve.stop(), 0);
    assert_eq!(processes_with(&mark), Vec::<u32>::new(), "children still run");
    let left = world.job(job);
    assert_eq!(
        (&left["state"], &left["attempts"], &left["interruptions"]),
        (&"queued".into(), &0.into(), &1.into())
    );
    world.release_builds();
    let serve = world.serve();
    let job = world.wait_for(job, "succeeded");
    assert_eq!(job["attempts"], 1, "an interrupted attempt does not count: {job}");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn sigterm_during_a_build_also_stops_the_step() {
    let world = World::new();
    let mark = format!("71{:07}", fastrand::u32(..10_000_000));
    let merge = world.merge_run(&format!("/busybox sleep {mark}"));
    let serve = world.serve();
    serve.deliver(&merge);
    until("the step runs", || step_runs(&mark).then_some(()));
    assert_eq!(serve.stop(), 0);
    until_within(Duration::from_secs(5), "the step is gone", &mut || (!step_runs(&mark)).then_some(()));
}

#[test]
fn a_second_signal_ends_serve_immediately() {
    let world = World::new();
    // A docker CLI that ignores SIGTERM, so that the first signal must wait for it.
    let script = world.path("docker-that-stays");
    let text = "#!/bin/sh\ntrap '' TERM INT\ncase \" $* \" in *' build '*) while :; do sleep 0.05; done;; esac\nexec docker \"$@\"\n";
    std::fs::write(&script, text).unwrap();
    std::process::Command::new("chmod").arg("755").arg(&script).status().unwrap();
    world.configure(|s| s.build = format!("docker = \"{}\"", script.display()));
    let merge = world.merge_page("one");
    let mut serve = world.serve();
    let job = serve.deliver(&merge);
    let mark = script.display().to_string();
    until("the build has begun", || (!processes_with(&mark).is_empty()).then_some(()));
    serve.signal("TERM");
    serve.signal("INT");
    let code = serve.wait(Duration::from_secs(20));
    assert!([130, 143].contains(&code), "{code}: {}", serve.said());
    until_within(Duration::from_secs(5), "its children are gone", &mut || {
        processes_with(&mark).is_empty().then_some(())
    });
    // After either end, the next start has the job.
    let again = world.serve_with(&["--jobs", "0"]);
    assert_eq!((&world.job(job)["state"], &world.job(job)["attempts"]), (&"queued".into(), &0.into()));
    drop(again);
}

#[test]
fn sighup_reads_the_configuration_again_and_keeps_the_old_one_when_the_new_one_is_wrong() {
    let world = World::new();
    let serve = world.serve_with(&["--jobs", "0"]);
    let sha = |digit: &str| digit.repeat(40);
    let other = payload("someone/else", 1, &sha("a"), &sha("b"), &sha("c"));
    let deliver = |secret: &str| serve.ask(delivery(secret, "pull_request", &other)).status;
    assert_eq!(deliver("a-secret-of-the-tests"), 403);

    let good = std::fs::read_to_string(world.config_file()).unwrap();
    for (bad, why) in [
        ("state_dir = \n".to_owned(), "line 1"),
        (good.replace("[serve]", "[serve]\nlissten = \"x\""), "lissten"),
        (good.replace("secret_file = \"secret\"", "secret_file = \"nothing-there\""), "nothing-there"),
        (good.replace("[build]", "[build]\ntags = [\"{nonsense}\"]"), "build.tags"),
        (good.split("[[repository]]").next().unwrap().to_owned(), "without a repository"),
    ] {
        assert_ne!(bad, good);
        std::fs::write(world.config_file(), &bad).unwrap();
        let before = serve.said().len();
        serve.signal("HUP");
        until("it reports that the old one is kept", || {
            let said = serve.said();
            said[before..]
                .contains("the old configuration stays")
                .then(|| assert!(said[before..].contains(why), "{why}: {said}"))
        });
        assert_eq!(deliver("a-secret-of-the-tests"), 403, "the old configuration is in use");
    }

    std::fs::write(world.config_file(), format!("{good}\n[[repository]]\nname = \"Someone/Else\"\n"))
        .unwrap();
    std::fs::write(world.path("secret"), "a-new-secret-of-the-tests\n").unwrap();
    serve.signal("HUP");
    serve.wait_said("the configuration was read again");
    assert_eq!(deliver("a-secret-of-the-tests"), 401, "the secret is read again too");
    assert_eq!(deliver("a-new-secret-of-the-tests"), 202);

    let moved = good.replace("127.0.0.1:0", "127.0.0.1:1").replace("[[repository]]", "# [[repository]]");
    let moved = format!(
        "{}\n[[repository]]\nname = \"someone/else\"\n",
        moved.split("# [[repository]]").next().unwrap()
    );
    std::fs::write(world.config_file(), moved).unwrap();
    serve.signal("HUP");
    serve.wait_said("change only at the next start");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn a_job_that_starts_after_sighup_uses_the_new_configuration() {
    let world = World::new();
    let merge = world.merge(&[
        ("images.json", r#"{"images":[{"service_name":"httpd","type":"Docker","version":"1.0"}]}"#),
        ("httpd/Dockerfile", PAGE),
        ("httpd/page", "one"),
    ]);
    let serve = world.serve();
    world.configure(|s| s.build = "tags = [\"v{version}\"]".to_owned());
    serve.signal("HUP");
    serve.wait_said("the configuration was read again");
    let job = serve.deliver(&merge);
    world.wait_for(job, "succeeded");
    assert!(world.digest("httpd", "v1.0").is_some());
    assert!(world.digest("httpd", "1.0").is_none());
    let mut serve = serve;
    serve.signal("INT");
    assert_eq!(serve.wait(LONG), 0, "Ctrl-C ends it as SIGTERM does");
}

#[test]
fn serve_continues_when_its_output_is_not_read() {
    let world = World::new();
    let merge = world.merge_page("one");
    let mut command = world.swanci();
    let mut serve = command.arg("serve").stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(serve.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
    drop(lines);
    let address = line.trim().strip_prefix("listening on http://").unwrap().parse().unwrap();
    let answer = crate::support::http::ask(address, merge.delivery());
    assert_eq!(answer.status, 202);
    world.wait_for(answer.json()["job"].as_i64().unwrap(), "succeeded");
    super::support::signal(serve.id(), "TERM");
    assert_eq!(serve.wait().unwrap().code(), Some(0));
}
