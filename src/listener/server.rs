//! tiny_http behind the gate: a server on a private Unix socket, its worker threads, and the connections to it.
//!
//! tiny_http has no timeouts and no limits. It panics when it cannot spawn a thread or duplicate a descriptor, and its
//! accept loop ends with the first error. So the gate opens all connections at startup and keeps them: afterwards
//! tiny_http neither accepts nor spawns. It receives only requests that the gate has written.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Server};

use super::answer::{Refusal, Reply};
use super::body::BodyBytes;
use super::head::Head;
use super::routes::{Routes, Side};

/// Worker threads, and connections to tiny_http. tiny_http keeps four threads; with three connections one is always
/// idle, so it starts no other. One of the three workers may wait for docker (`/readyz`).
pub(super) const LINKS: usize = 3;
/// Time for tiny_http's threads to start, and to notice the end of a connection.
const SETTLE: Duration = Duration::from_millis(20);
/// Time limit for the first response on a connection.
const START_TIME: Duration = Duration::from_secs(5);
/// Names the side. Only the gate sets it: it forwards only the client headers that the routes read.
const SIDE: &str = "Swanci-Side";

pub(super) struct TinyHttp {
    server: Arc<Server>,
    listener: UnixListener,
    retired: Arc<AtomicBool>,
    links: Mutex<Links>,
    free: Condvar,
}

struct Links {
    idle: Vec<UnixStream>,
    /// Idle connections and those in use.
    alive: usize,
}

impl TinyHttp {
    /// Starts the server and opens `links` connections to it; each has returned one response.
    pub(super) fn start(routes: &Arc<Routes>, links: usize) -> io::Result<TinyHttp> {
        // 0700: no other user can reach the socket, even before its own mode is set. Removed at the end of this
        // function.
        let directory = tempfile::Builder::new().prefix("swanci-").tempdir()?;
        let path = directory.path().join("gate");
        let socket = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        let listener = socket.try_clone()?;
        let server = catch_unwind(|| Server::from_listener(socket, None))
            .map_err(|_| io::Error::other("tiny_http could not start its thread"))?
            .map_err(io::Error::other)?;
        let links_of = Links { idle: Vec::new(), alive: links };
        let tiny_http = TinyHttp {
            server: Arc::new(server),
            listener,
            retired: Arc::default(),
            links: Mutex::new(links_of),
            free: Condvar::new(),
        };
        for _ in 0..LINKS {
            let (server, retired) = (Arc::clone(&tiny_http.server), Arc::clone(&tiny_http.retired));
            let routes = Arc::clone(routes);
            let thread = std::thread::Builder::new().name("answer".to_owned());
            thread.spawn(move || answer_all(&server, &retired, &routes))?;
        }
        // If tiny_http adds a thread because its own are still starting, that thread lives as long as its connection.
        std::thread::sleep(SETTLE);
        probe(&UnixStream::connect(&path)?)?;
        std::thread::sleep(SETTLE);
        for _ in 0..links {
            let link = UnixStream::connect(&path)?;
            probe(&link)?;
            tiny_http.give_back(Some(link));
        }
        Ok(tiny_http)
    }

    /// The complete response of tiny_http.
    ///
    /// Calls `on_late` after `limit`, but still waits for the response, because the next request on that connection
    /// would receive it.
    pub(super) fn ask(
        &self,
        side: Side,
        head: &Head,
        body: &[u8],
        limit: Duration,
        on_late: &mut dyn FnMut(),
    ) -> Result<Vec<u8>, Refusal> {
        let began = Instant::now();
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = |links: &mut Links| links.idle.is_empty();
        let waited = self.free.wait_timeout_while(links, limit, busy);
        let mut links = waited.unwrap_or_else(PoisonError::into_inner).0;
        let link = links.idle.pop().ok_or(Refusal::Overloaded)?;
        drop(links);
        // A HEAD response has no body; the gate itself removes it.
        let method = if head.method == "HEAD" { "GET" } else { &head.method };
        let mut text = format!("{method} {} HTTP/1.1\r\n{SIDE}: {}\r\n", head.path, side.as_str());
        for (name, value) in &head.headers {
            // tiny_http accepts ASCII only, and a GitLab secret may be any UTF-8.
            text.push_str(&format!("{name}: {}\r\n", hex::encode(value)));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
        let left = limit.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
        let answer = exchange(&link, text.as_bytes(), body, left, on_late);
        self.give_back(answer.is_ok().then_some(link));
        answer.map_err(|_| Refusal::Overloaded)
    }

    /// Whether no connection is left, so that no request can be answered.
    pub(super) fn is_dead(&self) -> bool {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).alive == 0
    }

    fn give_back(&self, link: Option<UnixStream>) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        match link {
            Some(link) => links.idle.push(link),
            None => links.alive -= 1,
        }
        drop(links);
        self.free.notify_one();
    }
}

impl Drop for TinyHttp {
    fn drop(&mut self) {
        self.retired.store(true, Ordering::SeqCst);
        // Ends the accept thread. The first worker that wakes forwards this to the next.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        self.server.unblock();
    }
}

fn probe(link: &UnixStream) -> io::Result<()> {
    let mut late = false;
    exchange(link, b"GET /healthz HTTP/1.1\r\n\r\n", &[], START_TIME, &mut || {
        late = true;
        let _ = link.shutdown(std::net::Shutdown::Both);
    })?;
    if late { Err(io::Error::other("tiny_http does not answer")) } else { Ok(()) }
}

/// Sends one request and reads the response.
fn exchange(
    link: &UnixStream,
    head: &[u8],
    body: &[u8],
    limit: Duration,
    on_late: &mut dyn FnMut(),
) -> io::Result<Vec<u8>> {
    link.set_read_timeout(Some(limit))?;
    link.set_write_timeout(Some(limit))?;
    let mut on_late = Some(on_late);
    let mut wait_on = |error: io::Error| {
        if error.kind() == ErrorKind::Interrupted {
            return Ok(());
        }
        if !is_timeout(&error) {
            return Err(error);
        }
        if let Some(on_late) = on_late.take() {
            on_late();
        }
        link.set_read_timeout(None)?;
        link.set_write_timeout(None)
    };
    for mut part in [head, body] {
        while !part.is_empty() {
            match (&*link).write(part) {
                Ok(written) => part = part.get(written..).unwrap_or_default(),
                Err(error) => wait_on(error)?,
            }
        }
    }
    let (mut answer, mut piece) = (Vec::new(), [0; 8 * 1024]);
    loop {
        match (&*link).read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => answer.extend_from_slice(piece.get(..read).unwrap_or_default()),
            Err(error) => wait_on(error)?,
        }
        if answer_length(&answer)?.is_some_and(|length| answer.len() >= length) {
            return Ok(answer);
        }
    }
}

/// The two errors of a socket's timeout (socket(7)).
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Length of a complete response; `None` while its head is incomplete.
fn answer_length(data: &[u8]) -> io::Result<Option<usize>> {
    let mut buffer = [httparse::EMPTY_HEADER; 16];
    let mut answer = httparse::Response::new(&mut buffer);
    let httparse::Status::Complete(head) = answer.parse(data).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let length = answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    Ok(Some(head + length.ok_or_else(|| io::Error::other("an answer without a length"))?))
}

/// The response for the client: without tiny_http's `Server` header, and with `Connection: close`.
pub(super) fn for_client(answer: &[u8], head_only: bool) -> Vec<u8> {
    const SERVER: &[u8] = b"Server:";
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 2);
    let (head, rest) = answer.split_at(end);
    let mut out = Vec::with_capacity(answer.len() + 20);
    for line in head.split_inclusive(|byte| *byte == b'\n').filter(|line| !line.starts_with(SERVER)) {
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"Connection: close\r\n");
    out.extend_from_slice(if head_only { b"\r\n" } else { rest });
    out
}

fn answer_all(server: &Server, retired: &AtomicBool, routes: &Routes) {
    while !retired.load(Ordering::SeqCst) {
        // An error means that tiny_http's accept loop has ended. Open connections remain.
        let Ok(mut request) = server.recv() else { continue };
        let reply = catch_unwind(AssertUnwindSafe(|| answer(&mut request, routes)));
        // An error means that the connection is closed, so the request is lost too.
        let _ = request.respond(reply.unwrap_or_else(|_| Reply::panicked()).response());
    }
    server.unblock();
}

fn answer(request: &mut Request, routes: &Routes) -> Reply {
    let is_admin =
        |header: &Header| header.field.equiv(SIDE) && header.value.as_str() == Side::Admin.as_str();
    let side = if request.headers().iter().any(is_admin) { Side::Admin } else { Side::Public };
    let decoded = |value: &str| String::from_utf8(hex::decode(value).ok()?).ok();
    let headers = request.headers().iter();
    let headers = headers.filter_map(|h| Some((h.field.to_string(), decoded(h.value.as_str())?))).collect();
    let head = Head { method: request.method().to_string(), path: request.url().to_owned(), headers };
    let length = request.body_length().unwrap_or(0);
    let (mut body, mut piece) = (BodyBytes::default(), [0; 16 * 1024]);
    loop {
        match request.as_reader().read(&mut piece) {
            Ok(0) => return routes.answer(side, &head, body.as_slice()),
            Ok(read) if body.extend(piece.get(..read).unwrap_or_default(), length) => {}
            Ok(_) => return Refusal::Overloaded.reply(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Refusal::BadRequest.reply(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_at_its_last_byte_and_not_before() {
        let data = b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: y\r\nContent-Length: 2\r\n\r\nok";
        let head = data.len() - 2;
        for end in 0..data.len() {
            assert_eq!(answer_length(&data[..end]).unwrap(), (end >= head).then_some(data.len()), "{end}");
        }
        assert!(answer_length(b"nonsense\r\n\r\n").is_err());
        let shown = for_client(data, false);
        let expected = b"HTTP/1.1 200 OK\r\nDate: y\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
        assert_eq!(shown, expected);
        assert_eq!(for_client(data, true), expected[..expected.len() - 2]);
    }
}
