//! `serve --once`: a listener for one merge.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use super::support::{LONG, PAGE, World, stderr};

#[test]
fn once_runs_queued_jobs_then_one_merge_and_exits_with_its_code() {
    let world = World::new();
    let (queued, delivered, late) =
        (world.merge_page("one"), world.merge_page("two"), world.merge_page("three"));
    let serve = world.serve_with(&["--jobs", "0"]);
    let first = serve.deliver(&queued);
    assert_eq!(serve.stop(), 0);

    let mut serve = world.serve_with(&["--once"]);
    assert_eq!(world.job(first)["state"], "succeeded", "queued jobs run before it listens");
    let skipped = serve.ask(crate::support::http::delivery(super::support::SECRET, "ping", b"{}"));
    assert_eq!(skipped.status, 200, "a delivery that queues nothing does not end it");
    assert_eq!(serve.ask(queued.delivery()).status, 200, "a duplicate does not end it either");
    let second = serve.deliver(&delivered);
    assert_eq!(serve.wait(LONG), 0, "{}", serve.said());
    assert_eq!(world.job(second)["state"], "succeeded");
    assert_eq!(world.jobs().len(), 2);
    assert!(world.digest("httpd", &format!("sha-{}", late.commit)).is_none());
}

#[test]
fn once_exits_with_the_code_of_a_failed_job() {
    let world = World::new();
    for (files, code) in [
        (vec![("images.json", "{}")], 4),
        (
            vec![
                ("images.json", r#"{"images":[{"service_name":"httpd","version":"1.0","type":"Docker"}]}"#),
                ("httpd/Dockerfile", "FROM scratch\nCOPY missing /missing\n"),
            ],
            1,
        ),
    ] {
        let merge = world.merge(&files);
        let mut serve = world.serve_with(&["--once"]);
        let job = serve.deliver(&merge);
        assert_eq!(serve.wait(LONG), code, "{}", serve.said());
        assert_eq!(
            (&world.job(job)["state"], &world.job(job)["exit_code"]),
            (&"failed".into(), &code.into())
        );
    }
    // A job whose commit is on another branch is refused.
    let orphan = world.merge_unpushed(&[("httpd/Dockerfile", PAGE)]);
    world.configure(|s| s.serve = "timeout = \"10m\"".to_owned());
    let mut serve = world.serve_with(&["--once"]);
    serve.deliver(&orphan);
    assert_eq!(serve.wait(LONG), 5, "{}", serve.said());
}

#[test]
fn once_gives_up_when_nothing_is_delivered() {
    let world = World::new();
    let mut serve = world.serve_with(&["--once", "--once-timeout", "300ms"]);
    assert_eq!(serve.wait(Duration::from_secs(20)), 6, "{}", serve.said());
    assert!(serve.said().contains("--once-timeout"), "{}", serve.said());
    let out = world.run(&["serve", "--once", "--jobs", "0"]);
    assert_eq!(out.status.code(), Some(2), "{}", stderr(&out));
    let out = world.run(&["serve", "--once-timeout", "1s"]);
    assert_eq!(out.status.code(), Some(2), "only with --once: {}", stderr(&out));
}

#[test]
fn once_accepts_no_second_merge() {
    let world = World::new();
    let (one, two) = (world.merge_page("one"), world.merge_page("two"));
    world.hold_builds();
    let mut serve = world.serve_with(&["--once"]);
    serve.deliver(&one);
    // The other merge is refused, gets a 503, or is dropped unread.
    let answer = std::net::TcpStream::connect(serve.address).and_then(|mut stream| {
        stream.set_read_timeout(Some(LONG))?;
        stream.write_all(&two.delivery())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    });
    assert!(
        answer.as_ref().map_or(true, |text| text.is_empty() || text.starts_with("HTTP/1.1 503")),
        "{answer:?}"
    );
    assert_eq!(world.jobs().len(), 1);
    world.release_builds();
    assert_eq!(serve.wait(LONG), 0, "{}", serve.said());
}
