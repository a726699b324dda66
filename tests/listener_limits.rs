//! The listener's limits: it runs in a separate process, whose threads, descriptors and memory are read from `/proc`, and
//! whose resource limits differ from the test's.
#![allow(clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use swanci::listener::{Limits, Listener, Metrics, bind, inherited, raise_nofile};
use swanci::queue::QueueStats;

use crate::listener::{FakeApp, SECRET};
use crate::support::http::{Client, PATIENCE, ask, delivery};

/// Makes this test binary a listener with this number of descriptors.
const NOFILE: &str = "SWANCI_TEST_LISTENER_NOFILE";

/// The listener in a separate process; killed when the test ends.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(nofile: u64) -> Process {
        Process::from(Process::command(nofile).stdin(Stdio::piped()))
    }

    fn command(nofile: u64) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(Process::arguments()).env(NOFILE, nofile.to_string());
        command
    }

    fn arguments() -> [&'static str; 4] {
        ["listener_limits::a_listener_in_a_separate_process", "--exact", "--nocapture", "--test-threads=1"]
    }

    fn from(command: &mut Command) -> Process {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map(|line| line.unwrap())
            .find_map(|line| line.split_once("listening on ").map(|(_, address)| address.parse().unwrap()))
            .expect("the listener prints its address");
        Process { child, address }
    }

    /// Sends the child an order of `serve_orders`.
    fn order(&mut self, order: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{order}").unwrap();
    }

    fn status(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn threads(&self) -> usize {
        self.status("Threads")
    }

    fn resident_kb(&self) -> usize {
        self.status("VmRSS")
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn post(&self) -> u16 {
        ask(self.address, delivery(SECRET, "queued", b"{}")).status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `done`, and fails the test after a time limit.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// With the variable set, this is the child process of the other tests; without it, it tests their harness.
#[test]
fn a_listener_in_a_separate_process() {
    if let Ok(nofile) = std::env::var(NOFILE) {
        return serve_orders(nofile.parse().unwrap());
    }
    let mut process = Process::start(512);
    assert_eq!(process.post(), 202);
    process.order("stop");
    assert!(process.child.wait().unwrap().success());
}

fn serve_orders(nofile: u64) {
    setrlimit(Resource::Nofile, Rlimit { current: Some(nofile / 2), maximum: Some(nofile) }).unwrap();
    let mut sockets = inherited().unwrap();
    if sockets.is_empty() {
        sockets.push(bind("127.0.0.1:0").unwrap());
    }
    let app = Arc::new(FakeApp::default());
    let listener =
        Listener::new(sockets, None, Limits::default(), app, Metrics::new(QueueStats::default)).unwrap();
    assert_eq!(raise_nofile(), nofile, "the soft limit is raised to the hard one");
    println!("listening on {}", listener.local_addrs()[0]);
    let stopper = listener.stopper();
    std::thread::spawn(move || {
        for order in std::io::stdin().lines() {
            match order.unwrap().as_str() {
                "stop" => stopper.stop(),
                other => panic!("no such order: {other}"),
            }
        }
    });
    let ended = listener.run(None, &mut || {});
    // Not with a panic, so that the parent can distinguish this exit.
    std::process::exit(ended.map_or_else(|failure| i32::from(failure.kind.code()), |()| 0));
}

#[test]
fn two_thousand_slow_connections_use_few_resources_and_delay_no_others() {
    raise_nofile();
    let process = Process::start(16_384);
    let mut slow: Vec<TcpStream> = (0..2_000).map(|_| TcpStream::connect(process.address).unwrap()).collect();
    let head = concat!(
        "POST /webhook HTTP/1.1\r\nHost: slow\r\nContent-Type: application/json\r\nX-Hub-Signature-256: sha256=0\r\n",
        "Content-Length: 1000000\r\n\r\n"
    );
    let mut served = 0;
    let (mut memory, mut threads) = (0, 0);
    // Each sends a byte between two normal posts: some are in their heads, some in their bodies.
    for round in 0..4 {
        for (at, stream) in slow.iter_mut().enumerate() {
            let byte = &head.as_bytes()[round..=round];
            let piece = if at % 2 == 0 {
                byte
            } else if round == 0 {
                head.as_bytes()
            } else {
                b"x"
            };
            let _ = stream.write_all(piece);
        }
        for _ in 0..50 {
            assert_eq!(process.post(), 202);
            served += 1;
        }
        memory = memory.max(process.resident_kb());
        threads = threads.max(process.threads());
    }
    assert_eq!(served, 200);
    assert!(process.threads() > 200, "too few of the slow connections are served");
    assert!(memory <= 32 * 1024, "{memory} kB resident");
    assert!(threads <= 300, "{threads} threads");
}

#[test]
fn with_64_descriptors_200_connections_do_not_block_a_new_client() {
    let process = Process::start(64);
    let before = process.descriptors();
    let mut crowd = VecDeque::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(process.address).unwrap();
        let _ = stream.write_all(b"POST /webhook HTTP/1.1\r\n");
        crowd.push_back(stream);
        if crowd.len() % 10 == 0 {
            assert_eq!(process.post(), 202, "with {} connections", crowd.len());
        }
    }
    assert!(process.descriptors() <= 40, "{} descriptors: children need some", process.descriptors());
    drop(crowd);
    until("the end of the crowd", || process.descriptors() <= before);
    for _ in 0..50 {
        assert_eq!(process.post(), 202);
    }
}

#[test]
fn ten_thousand_malformed_requests_leak_nothing() {
    let process = Process::start(4_096);
    assert_eq!(process.post(), 202);
    let (threads, descriptors) = (process.threads(), process.descriptors());
    let forms: [&[u8]; 10] = [
        b"GET / HTTP/2.0\r\n\r\n",
        b"\0\x01\x02\x03\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n",
        b"POST /webhook HTTP/1.1\r\nHost",
        b"",
    ];
    for round in 0..1_000 {
        for form in forms {
            let mut stream = TcpStream::connect(process.address).unwrap();
            let _ = stream.write_all(form);
            if round % 100 == 0 && !form.is_empty() {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer);
                assert!(!answer.starts_with(b"HTTP/1.1 2"), "{form:?}");
            }
        }
    }
    assert_eq!(process.post(), 202);
    until("the end of the last connections", || process.descriptors() <= descriptors);
    until("the end of the last threads", || process.threads() <= threads);
}

/// A separate user without other processes, and with a limit on its threads.
#[test]
fn with_few_threads_connections_are_closed_and_the_listener_recovers() {
    let binary = std::env::temp_dir().join(format!("swanci-test-{:08x}", fastrand::u32(..)));
    // Copied by another process: a file that this process has open for writing cannot run while a child starts.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&binary).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=54321", "--clear-groups", "prlimit", "--nproc=24"])
        .arg(&binary)
        .args(Process::arguments())
        .env(NOFILE, "1024")
        .env("TMPDIR", "/tmp")
        .stdin(Stdio::piped());
    let process = Process::from(&mut command);
    std::fs::remove_file(&binary).unwrap();
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..60 {
        let mut stream = TcpStream::connect(process.address).unwrap();
        let _ = stream.write_all(b"POST /webhook HTTP/1.1\r\n");
        crowd.push(stream);
    }
    until("the limit is reached", || process.threads() >= 24);
    drop(crowd);
    // Other connections are still in the kernel's backlog, so a post may be closed because no thread is free.
    let is_answered = || {
        let mut client = Client::connect(process.address);
        client.send_anyway(delivery(SECRET, "queued", b"{}"))
            && client.answer().is_some_and(|answer| answer.status == 202)
    };
    until("it has recovered", || is_answered() && process.threads() < 20);
    for _ in 0..20 {
        assert_eq!(process.post(), 202);
    }
}

#[test]
fn all_sockets_from_systemd_are_served() {
    let (first, second) = (bind("127.0.0.1:0").unwrap(), bind("[::1]:0").unwrap());
    let addresses = [first.local_addr().unwrap(), second.local_addr().unwrap()];
    // LISTEN_PID must be the pid of the process that the shell becomes (sd_listen_fds(3)).
    let mut command = Command::new("sh");
    command
        .args(["-c", "exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(Process::arguments())
        .env(NOFILE, "512")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(first)))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(second)))
        .stderr(Stdio::null());
    let process = Process { child: command.spawn().unwrap(), address: addresses[0] };
    for address in addresses {
        for _ in 0..3 {
            assert_eq!(ask(address, delivery(SECRET, "queued", b"{}")).status, 202, "{address}");
        }
    }
    drop(process);
}
