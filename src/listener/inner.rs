//! The tiny_http server behind the gate, and its workers.
//!
//! tiny_http gets nothing but the request lines of requests that a gate judged and that have to wait for something, on
//! connections that the gate opened and keeps; its private Unix socket is gone from the file system before the first
//! request comes. What that avoids: it panics when it cannot spawn or duplicate a descriptor, ends its accept loop on
//! the first error, and its `Drop` may block on connecting to itself. Losing any of its connections means building a
//! new one.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::net::Shutdown;
use tiny_http::{Header, Request, Response, Server, StatusCode};

use super::answer::Reply;
use super::service::Work;
use super::wake::Wake;

/// What a probe asks: there is no work for it, so a worker says that it is alive.
pub(crate) const PROBE: &str = "GET /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n";

/// How long a connection may take to answer while the server starts.
const START_TIME: Duration = Duration::from_secs(2);

/// A running inner server; dropping it ends its threads, without waiting for them.
pub(crate) struct Inner {
    server: Arc<Server>,
    listener: UnixListener,
    slots: Slots,
    state: Arc<State>,
}

/// What is left to do for each connection's request. It goes to the workers in memory, so that nothing is read twice.
type Slots = Arc<Vec<Mutex<Option<Work>>>>;

/// The header that names the slot. The gate writes all that goes inside, so no client can send it.
const SLOT: &str = "X-Swanci-Slot";

/// What a server and its workers know of each other.
#[derive(Default)]
struct State {
    /// Nobody asks it any more; its workers end.
    retired: AtomicBool,
    /// tiny_http said that it cannot go on.
    broken: AtomicBool,
}

/// Counts a worker while it lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Alive {
        count.fetch_add(1, Ordering::SeqCst);
        Alive(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Inner {
    /// Starts a server with so many workers and as many connections to it, each of which has answered once.
    pub(crate) fn start(
        workers: usize,
        wake: &Wake,
        alive: &Arc<AtomicUsize>,
    ) -> io::Result<(Inner, Vec<UnixStream>)> {
        // 0700, so the socket is nobody else's even before its own mode is set.
        let directory = tempfile::Builder::new().prefix("swanci-").tempdir()?;
        let path = directory.path().join("gate");
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let listener = socket.try_clone()?;
        let server = catch_unwind(|| Server::from_listener(socket, None))
            .map_err(|_| io::Error::other("tiny_http could not spawn its accept thread"))?
            .map_err(io::Error::other)?;
        let slots = Arc::new((0..workers).map(|_| Mutex::default()).collect());
        let inner = Inner { server: Arc::new(server), listener, slots, state: Arc::default() };
        for _ in 0..workers {
            let worker = Worker {
                server: inner.server.clone(),
                slots: inner.slots.clone(),
                state: inner.state.clone(),
                wake: wake.clone(),
                alive: Alive::new(alive),
            };
            std::thread::Builder::new().name("swanci-answer".into()).spawn(move || worker.run())?;
        }
        let mut links = Vec::with_capacity(workers);
        for _ in 0..workers {
            let mut link = UnixStream::connect(&path)?;
            probe(&mut link)?;
            link.set_nonblocking(true)?;
            links.push(link);
        }
        Ok((inner, links))
    }

    /// Puts work where the worker that gets the request of connection `at` finds it; the head of that request.
    pub(crate) fn hand_over(&self, at: usize, work: Work, request_line: &str) -> String {
        if let Some(slot) = self.slots.get(at) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        }
        format!("{request_line}{SLOT}: {at}\r\nContent-Length: 0\r\n\r\n")
    }

    /// Whether tiny_http said that it cannot go on.
    pub(crate) fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::SeqCst)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.retired.store(true, Ordering::SeqCst);
        // Ends the accept thread; the first worker that wakes passes the word on to the next.
        let _ = rustix::net::shutdown(&self.listener, Shutdown::Both);
        self.server.unblock();
    }
}

/// Asks for a sign of life, so that the accept thread and the connection's own thread are known to be there.
fn probe(link: &mut UnixStream) -> io::Result<()> {
    link.set_read_timeout(Some(START_TIME))?;
    link.write_all(PROBE.as_bytes())?;
    let mut answer = [0u8; 1024];
    let mut filled = 0;
    loop {
        let room = answer.get_mut(filled..).filter(|room| !room.is_empty());
        let read = link.read(room.ok_or_else(|| io::Error::other("the probe's answer is too long"))?)?;
        filled += read;
        let so_far = answer.get(..filled).unwrap_or_default();
        if read == 0 {
            return Err(io::Error::other("the inner server closed a new connection"));
        }
        if super::relay::InnerAnswer::parse(so_far)?.is_some() {
            return Ok(());
        }
    }
}

struct Worker {
    server: Arc<Server>,
    slots: Slots,
    state: Arc<State>,
    wake: Wake,
    alive: Alive,
}

impl Worker {
    fn run(self) {
        loop {
            match self.server.recv() {
                Ok(request) => self.answer(request),
                Err(_) => {
                    if !self.state.retired.load(Ordering::SeqCst) {
                        self.state.broken.store(true, Ordering::SeqCst);
                        self.wake.ring();
                    }
                    // Each call wakes one waiting worker, which does the same.
                    self.server.unblock();
                    drop(self.alive);
                    return;
                }
            }
        }
    }

    fn take_work(&self, slot: &Header) -> Option<Work> {
        let slot = self.slots.get(slot.value.as_str().parse::<usize>().ok()?)?;
        slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn answer(&self, request: Request) {
        let slot = request.headers().iter().find(|header| header.field.as_str() == SLOT);
        let reply = match slot.map(|slot| self.take_work(slot)) {
            Some(Some(work)) => catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Reply::panicked()),
            // Not to be mistaken for an answer: a request whose work is gone was not done.
            Some(None) => Reply::panicked(),
            None => Reply::alive(),
        };
        // An error means that the gate is gone, and with it whoever asked.
        let _ = request.respond(response(&reply));
    }
}

fn response(reply: &Reply) -> Response<&[u8]> {
    let retry_after = reply.retry_after.map(|seconds| seconds.to_string());
    let headers = [
        Some(("Content-Type", reply.content_type)),
        reply.allow.map(|allow| ("Allow", allow)),
        retry_after.as_deref().map(|seconds| ("Retry-After", seconds)),
    ];
    // Header names and values are swanci's own, so they are ASCII and none is lost here.
    let headers = headers
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Header::from_bytes(name, value).ok())
        .collect();
    Response::new(StatusCode(reply.status), headers, reply.body.as_slice(), Some(reply.body.len()), None)
        .with_chunked_threshold(usize::MAX)
}
