//! `kill -9` at random moments: every acknowledged merge results in images.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::support::{LONG, Merge, World, until, until_within};

/// Delivers to a listener that may be killed at any moment; returns whether it answered 202 or 200.
fn deliver(address: SocketAddr, merge: &Merge) -> bool {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&merge.delivery())?;
        let mut text = Vec::new();
        let mut piece = [0; 1024];
        while !text.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read(&mut piece)? {
                0 => break,
                n => text.extend_from_slice(&piece[..n]),
            }
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    answer().is_ok_and(|text| text.starts_with("HTTP/1.1 202") || text.starts_with("HTTP/1.1 200"))
}

#[test]
fn twenty_kills_lose_no_acknowledged_merge_and_move_no_tag_back() {
    const KILLS: usize = 20;
    let world = World::new();
    let merges: Vec<Merge> = (0..8).map(|n| world.merge_page(&format!("page {n}"))).collect();
    let mut acknowledged = vec![false; merges.len()];
    let mut digests: BTreeMap<&str, String> = BTreeMap::new();
    let mut newest = 0;
    for round in 0..KILLS {
        let mut serve = world.serve();
        let address = serve.address;
        let end = Instant::now() + Duration::from_millis(fastrand::u64(0..1500));
        let number = round % merges.len();
        acknowledged[number] |= deliver(address, &merges[number]);
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        serve.kill();
        // No immutable tag ever changes, and the moving tag never moves to an older merge.
        for merge in &merges {
            if let Some(now) = world.digest("httpd", &format!("sha-{}", merge.commit)) {
                let before = digests.insert(&merge.commit, now.clone());
                assert!(before.is_none_or(|before| before == now), "sha-{} has changed", merge.commit);
            }
        }
        if let Some(moving) = world.digest("httpd", "1.0") {
            let at = merges.iter().rposition(|m| digests.get(m.commit.as_str()) == Some(&moving));
            let at = at.expect("the moving tag is one of the immutable ones");
            assert!(at >= newest, "1.0 moved back from page {newest} to page {at}");
            newest = at;
        }
    }
    assert!(
        acknowledged.iter().filter(|a| **a).count() >= 4,
        "too few merges were acknowledged: {acknowledged:?}"
    );
    let serve = world.serve();
    // If another test removes a cached step during a build, that costs an attempt and a delay.
    until_within(3 * LONG, "nothing is queued or running", &mut || {
        let jobs = world.jobs();
        assert!(jobs.iter().all(|j| j["state"] != "failed"), "{jobs:?}");
        jobs.iter().all(|j| j["state"] == "succeeded").then_some(())
    });
    let jobs = world.jobs();
    for (merge, _) in merges.iter().zip(&acknowledged).filter(|(_, acknowledged)| **acknowledged) {
        assert_eq!(jobs.iter().filter(|job| job["commit"] == merge.commit.as_str()).count(), 1);
        let now = world
            .digest("httpd", &format!("sha-{}", merge.commit))
            .expect("an acknowledged merge has its image");
        assert!(digests.get(merge.commit.as_str()).is_none_or(|before| *before == now));
    }
    let newest = merges.iter().zip(&acknowledged).rev().find(|(_, a)| **a).unwrap().0;
    assert_eq!(world.digest("httpd", "1.0"), world.digest("httpd", &format!("sha-{}", newest.commit)));
    assert_eq!(serve.stop(), 0);
}

#[test]
fn processes_of_a_killed_serve_are_stopped_and_the_job_resumes_within_seconds() {
    let world = World::new();
    let merge = world.merge_page("one");
    world.hold_builds();
    let mut serve = world.serve();
    let job = serve.deliver(&merge);
    let mark = world.path("docker-that-waits").display().to_string();
    let before = until("the build has begun", || {
        Some(super::support::processes_with(&mark)).filter(|p| !p.is_empty())
    });
    serve.kill();
    assert_eq!(world.job(job)["state"], "running", "the killed serve could not update the state");
    let _serve = world.serve();
    let resumed = Instant::now();
    until_within(Duration::from_secs(10), "it is running again", &mut || {
        let now = super::support::processes_with(&mark);
        (!now.is_empty() && now.iter().all(|pid| !before.contains(pid))).then_some(())
    });
    let took = resumed.elapsed();
    world.release_builds();
    let done = world.wait_for(job, "succeeded");
    assert_eq!(done["attempts"], 1, "{done}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
