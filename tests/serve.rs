//! The binary `swanci serve`: deliveries over HTTP, real git, the real engine, a real registry.

#![allow(clippy::disallowed_methods, clippy::print_stderr, reason = "tests may spawn and fail loudly")]

mod answers;
mod crowds;
mod faults;
mod idle;
mod kill;
mod once;
mod signals;
pub(crate) mod support;

use serde_json::Value;

use self::support::{SECRET, World, stderr, until};
use crate::support::http::{ask, delivery};

#[test]
fn a_signed_delivery_becomes_images() {
    let world = World::new();
    let images = r#"{"images":[{"service_name":"httpd","version":"1.0","type":"Docker"},
        {"service_name":"postgresql","version":"9.6","type":"Docker"},{"service_name":"vm","type":"AMI"}]}"#;
    let merge = world.merge(&[
        ("images.json", images),
        ("httpd/Dockerfile", support::PAGE),
        ("httpd/page", "one"),
        ("postgresql/Dockerfile", support::PAGE),
        ("postgresql/page", "two"),
    ]);
    let serve = world.serve();
    let job = serve.deliver(&merge);
    let job = world.wait_for(job, "succeeded");
    for (image, tag) in [("httpd", "1.0"), ("postgresql", "9.6")] {
        let immutable = world.digest(image, &format!("sha-{}", merge.commit));
        assert!(immutable.is_some(), "{image} has no immutable tag");
        assert_eq!(world.digest(image, tag), immutable, "{image}:{tag}");
    }
    assert_eq!((&job["attempts"], &job["exit_code"]), (&Value::from(1), &Value::from(0)));
    assert_eq!(job["receipt"]["outcome"], "succeeded");
    let kept: Vec<_> = std::fs::read_dir(world.state().join("receipts")).unwrap().collect();
    assert_eq!(kept.len(), 1, "the receipt is kept, like that of a manual push");
    assert_eq!(serve.stop(), 0);
}

#[test]
fn serve_refuses_to_start_without_a_secret_or_a_repository() {
    let world = World::new();
    world.configure(|s| s.repositories = Some(String::new()));
    let out = world.run(&["serve"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(stderr(&out).contains("without a repository that is allowed"), "{}", stderr(&out));
    assert!(stderr(&out).contains("hint:"), "{}", stderr(&out));
    world.configure(|s| s.repositories = None);
    for (content, why) in [(None, "cannot read"), (Some(""), "empty"), (Some("\n"), "empty")] {
        match content {
            None => std::fs::remove_file(world.path("secret")).unwrap(),
            Some(text) => std::fs::write(world.path("secret"), text).unwrap(),
        }
        let out = world.run(&["serve"]);
        assert_eq!(out.status.code(), Some(4), "{content:?}: {}", stderr(&out));
        assert!(stderr(&out).contains(why), "{content:?}: {}", stderr(&out));
    }
    let config = std::fs::read_to_string(world.config_file()).unwrap();
    std::fs::write(world.config_file(), config.replace("secret_file = \"secret\"", "")).unwrap();
    let out = world.run(&["serve"]);
    assert_eq!(out.status.code(), Some(4));
    assert!(stderr(&out).contains("without a webhook secret"), "{}", stderr(&out));
}

#[test]
fn a_second_serve_on_a_state_directory_refuses_and_names_the_first() {
    let world = World::new();
    let first = world.serve();
    let out = world.run(&["serve"]);
    assert_eq!(out.status.code(), Some(6), "{}", stderr(&out));
    let said = stderr(&out);
    assert!(said.contains(&format!("process {}", first.pid())), "{said}");
    assert!(said.contains(&first.address.to_string()), "{said}");
    assert_eq!(first.get("/healthz").status, 200, "the first continues");
    assert_eq!(first.stop(), 0);
    assert_eq!(world.serve().stop(), 0, "and releases the directory");
}

#[test]
fn jobs_queued_without_workers_run_in_a_later_serve() {
    let world = World::new();
    let (first, second) = (world.merge_page("one"), world.merge_page("two"));
    let serve = world.serve_with(&["--jobs", "0"]);
    let jobs = [serve.deliver(&first), serve.deliver(&second)];
    assert_eq!(serve.stop(), 0);
    assert!(world.jobs().iter().all(|job| job["state"] == "queued" && job["attempts"] == 0));
    let serve = world.serve();
    for job in jobs {
        world.wait_for(job, "succeeded");
    }
    assert_eq!(world.digest("httpd", "1.0"), world.digest("httpd", &format!("sha-{}", second.commit)));
    assert!(world.digest("httpd", &format!("sha-{}", first.commit)).is_some());
    assert_eq!(serve.stop(), 0);
}

#[test]
fn a_superseded_merge_still_gets_its_immutable_tag_and_moves_nothing_back() {
    let world = World::new();
    let (first, second) = (world.merge_page("one"), world.merge_page("two"));
    let serve = world.serve();
    let newer = serve.deliver(&second);
    world.wait_for(newer, "succeeded");
    let moved = world.digest("httpd", "1.0");
    let older = serve.deliver(&first);
    let older = world.wait_for(older, "succeeded");
    assert_eq!(older["receipt"]["images"][0]["moved"][0]["outcome"], "superseded", "{older}");
    assert!(world.digest("httpd", &format!("sha-{}", first.commit)).is_some());
    assert_eq!(world.digest("httpd", "1.0"), moved);
}

#[test]
fn a_hundred_deliveries_of_one_merge_at_once_make_one_job() {
    let world = World::new();
    let merge = world.merge_page("one");
    let serve = world.serve_with(&["--jobs", "0"]);
    let (address, body) = (serve.address, merge.delivery());
    let start = std::sync::Barrier::new(100);
    let answers: Vec<_> = std::thread::scope(|scope| {
        let deliver = || {
            start.wait();
            ask(address, &body)
        };
        let all: Vec<_> = (0..100).map(|_| scope.spawn(deliver)).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|a| a.status == 202).count(), 1);
    let duplicates =
        answers.iter().filter(|a| a.status == 200 && a.json()["decision"] == "duplicate").count();
    assert_eq!(duplicates, 99);
    assert!(answers.iter().all(|a| a.json()["job"] == answers[0].json()["job"]));
    assert_eq!(world.jobs().len(), 1);
}

#[test]
fn a_failed_job_is_queued_again_by_a_redelivery() {
    let world = World::new();
    let merge = world.merge_unpushed(&[("images.json", "{}")]);
    world.push();
    let serve = world.serve();
    let job = serve.deliver(&merge);
    let failed = world.wait_for(job, "failed");
    assert_eq!((&failed["exit_code"], &failed["attempts"]), (&Value::from(4), &Value::from(1)), "{failed}");
    let again = serve.ask(merge.delivery());
    assert_eq!((again.status, &again.json()["job"]), (202, &Value::from(job)), "{again:?}");
    until("it has run twice", || {
        let now = world.job(job);
        (now["state"] == "failed" && now["finished"] != failed["finished"]).then_some(())
    });
    assert_eq!(world.jobs().len(), 1);
}

#[test]
fn a_systemd_socket_is_taken_over() {
    let world = World::new();
    let merge = world.merge_page("one");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // systemd's protocol: the socket is descriptor 3, and LISTEN_PID is the process that gets it.
    let mut command = std::process::Command::new("sh");
    world.environment(&mut command);
    command
        .args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_swanci"))
        .arg("--config")
        .arg(world.config_file())
        .args(["serve", "--once"])
        .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(socket)));
    // The delivery arrives before the listener starts, as with a socket unit.
    let waiting = std::thread::spawn({
        let body = merge.delivery();
        move || ask(address, body)
    });
    let mut serve = support::Serve::start(command, &world);
    assert_eq!(serve.address, address);
    assert_eq!(waiting.join().unwrap().status, 202);
    assert_eq!(serve.wait(support::LONG), 0, "{}", serve.said());
    assert!(world.digest("httpd", "1.0").is_some());
}

#[test]
fn a_commit_that_is_not_yet_available_is_fetched_again() {
    let world = World::new();
    world.merge_page("one");
    let late = world.merge_unpushed(&[("httpd/page", "two")]);
    let serve = world.serve();
    let job = serve.deliver(&late);
    until("the first fetch found no such commit", || {
        world.job_log(job).contains("fetching it again").then_some(())
    });
    assert_eq!(world.job(job)["state"], "running");
    world.push();
    let job = world.wait_for(job, "succeeded");
    assert_eq!(job["attempts"], 1, "it was one attempt");
    assert!(world.digest("httpd", &format!("sha-{}", late.commit)).is_some());
}

#[test]
fn metrics_are_off_without_an_admin_address() {
    let world = World::new();
    let merge = world.merge_page("one");
    let serve = world.serve();
    assert_eq!(serve.get("/metrics").status, 404);
    assert_eq!(serve.stop(), 0);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let serve = world.serve_with(&["--admin-listen", &free.to_string()]);
    let job = serve.deliver(&merge);
    world.wait_for(job, "succeeded");
    serve.ask(merge.delivery());
    serve.ask(delivery("another secret", "ping", b"{}"));
    for path in ["/metrics", "/readyz"] {
        assert_eq!(serve.get(path).status, 404, "not on the address of the webhook");
    }
    assert_eq!(ask(free, crate::support::http::get("/readyz")).status, 200);
    let shown = ask(free, crate::support::http::get("/metrics"));
    assert_eq!(shown.status, 200);
    for line in [
        "swanci_deliveries_total{verdict=\"queued\"} 1",
        "swanci_deliveries_total{verdict=\"duplicate\"} 1",
        "swanci_deliveries_total{verdict=\"unauthorized\"} 1",
        "swanci_queue_depth 0",
        "swanci_jobs{state=\"succeeded\"} 1",
        "swanci_checkout_seconds_count 1",
        "swanci_build_seconds_count 1",
        "swanci_push_seconds_count 1",
        "swanci_job_retries_total 0",
    ] {
        assert!(shown.body.lines().any(|l| l == line), "{line} is missing in\n{}", shown.body);
    }
    for name in
        ["swanci_ack_seconds_bucket", "swanci_queue_oldest_seconds", "swanci_process_resident_memory_bytes"]
    {
        assert!(shown.body.contains(name), "{name} is missing in\n{}", shown.body);
    }
    assert!(!shown.body.contains(SECRET));
}
