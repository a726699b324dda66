//! Many connections to the binary. `listener_limits.rs` has more such tests, of the listener alone.

use std::io::Write as _;
use std::net::TcpStream;
use std::process::Command;

use super::support::{Serve, World};
use crate::support::http::ask;

/// A field of /proc/PID/status, as a number.
fn status(serve: &Serve, field: &str) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/status", serve.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn two_thousand_slow_connections_do_not_prevent_queueing() {
    swanci::listener::raise_nofile();
    let world = World::new();
    let merges: Vec<_> = (0..8).map(|i| world.merge_page(&i.to_string())).collect();
    let serve = world.serve_with(&["--jobs", "0"]);
    let mut slow: Vec<TcpStream> = (0..2_000).map(|_| TcpStream::connect(serve.address).unwrap()).collect();
    let head = "POST /webhook HTTP/1.1\r\nHost: slow\r\nContent-Length: 1000000\r\n\r\n";
    for (round, merge) in merges.iter().enumerate() {
        for (at, stream) in slow.iter_mut().enumerate() {
            let piece =
                if at % 2 == 1 && round == 0 { head.as_bytes() } else { &head.as_bytes()[round..=round] };
            let _ = stream.write_all(piece);
        }
        let answer = ask(serve.address, merge.delivery());
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    let (memory, threads) = (status(&serve, "VmRSS"), status(&serve, "Threads"));
    // The documented limit is 32 MiB; the code of a debug build needs 8 MiB more.
    let limit = if cfg!(debug_assertions) { 40 } else { 32 };
    assert!(memory <= limit * 1024, "{memory} kB resident");
    assert!(threads <= 300, "{threads} threads");
    assert_eq!(world.jobs().len(), merges.len());
}

#[test]
fn with_64_descriptors_and_200_connections_merges_are_queued_and_built() {
    let world = World::new();
    let merge = world.merge_page("one");
    let mut command = Command::new("sh");
    world.environment(&mut command);
    command.args(["-c", "ulimit -n 64 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_swanci"), "--config"]);
    command.arg(world.config_file()).arg("serve");
    let serve = Serve::start(command, &world);
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(serve.address).unwrap();
        let _ = stream.write_all(b"POST /webhook HTTP/1.1\r\n");
        crowd.push(stream);
    }
    let job = serve.deliver(&merge);
    let done = world.wait_for(job, "succeeded");
    assert_eq!(done["attempts"], 1, "{done}");
    drop(crowd);
    assert_eq!(serve.get("/healthz").status, 200);
    assert_eq!(serve.stop(), 0);
}
