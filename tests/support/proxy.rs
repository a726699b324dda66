//! An HTTP proxy in front of a plain registry, on a real socket, which injects faults and records requests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// The time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// The first byte of a TLS connection (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// An answer of the proxy.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn new(status: u16) -> Reply {
        Reply { status, headers: Vec::new(), body: String::new() }
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    #[must_use]
    pub fn body(mut self, body: impl Into<String>) -> Reply {
        self.body = body.into();
        self
    }
}

/// The effect of a rule on a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The proxy answers instead of the registry.
    Reply(Reply),
    /// The proxy closes the connection after this many bytes of the registry's answer.
    CutAfter(usize),
    /// The proxy sends nothing after this many bytes of the registry's answer, and keeps the connection open.
    StallAfter(usize),
    /// The request waits until the test releases it.
    Hold(Gate),
    /// A redirect to the same path on another server.
    Redirect(String),
    /// This answer replaces a 404 of the registry.
    InsteadOf404(Reply),
}

/// Synchronises a request with the test.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<(bool, bool)>, Condvar)>);

impl Gate {
    /// Waits until a request arrives at the gate.
    pub fn wait_reached(&self) {
        let (lock, changed) = &*self.0;
        let state = lock.lock().unwrap();
        let (_state, late) = changed.wait_timeout_while(state, PATIENCE, |state| !state.0).unwrap();
        assert!(!late.timed_out(), "no request arrived at the gate");
    }

    /// Opens it permanently.
    pub fn open(&self) {
        let (lock, changed) = &*self.0;
        lock.lock().unwrap().1 = true;
        changed.notify_all();
    }

    fn pass(&self) {
        let (lock, changed) = &*self.0;
        let mut state = lock.lock().unwrap();
        state.0 = true;
        changed.notify_all();
        drop(changed.wait_timeout_while(state, PATIENCE, |state| !state.1).unwrap());
    }
}

/// A fault for the requests `from` to `to` (counted from 1) of those with this method and a path like this.
#[derive(Debug)]
struct Rule {
    method: String,
    path: String,
    from: usize,
    to: usize,
    seen: usize,
    fault: Fault,
}

/// A recorded request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The number of its connection, from 0.
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// Called for each request before the rules: a reply replaces the registry's answer.
pub type Hook = Box<dyn Fn(&Seen) -> Option<Reply> + Send + Sync>;

struct Shared {
    upstream: SocketAddr,
    hook: Option<Hook>,
    rules: Mutex<Vec<Rule>>,
    seen: Mutex<Vec<Seen>>,
    /// Both ends of the open connections, to close when the proxy ends; `None` after that.
    sockets: Mutex<Option<Vec<TcpStream>>>,
    connections: Mutex<usize>,
}

/// A running proxy; it ends, with its connections, when this is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A proxy in front of `upstream`, without rules.
    pub fn start(upstream: SocketAddr) -> Proxy {
        Proxy::launch(upstream, None)
    }

    /// A proxy that calls `hook` for each request.
    pub fn with_hook(upstream: SocketAddr, hook: Hook) -> Proxy {
        Proxy::launch(upstream, Some(hook))
    }

    fn launch(upstream: SocketAddr, hook: Option<Hook>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            hook,
            rules: Mutex::default(),
            seen: Mutex::default(),
            sockets: Mutex::new(Some(Vec::new())),
            connections: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if !accepting.keep(&client) {
                    return; // dropped: the last connection only wakes this loop
                }
                let number = {
                    let mut count = accepting.connections.lock().unwrap();
                    *count += 1;
                    *count - 1
                };
                let shared = Arc::clone(&accepting);
                thread::spawn(move || drop(shared.serve(client, number)));
            }
        });
        Proxy { address, shared }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The `nth` request (from 1, counted from now) with this method (`*` is any) whose path contains `path`.
    pub fn on(&self, method: &str, path: &str, nth: usize, fault: Fault) {
        self.rule(method, path, nth, nth, fault);
    }

    /// Every such request from now on.
    pub fn always(&self, method: &str, path: &str, fault: Fault) {
        self.rule(method, path, 1, usize::MAX, fault);
    }

    /// Replaces 404, like registries that hide which content is absent.
    pub fn instead_of_404(&self, method: &str, path: &str, reply: Reply) {
        self.always(method, path, Fault::InsteadOf404(reply));
    }

    fn rule(&self, method: &str, path: &str, from: usize, to: usize, fault: Fault) {
        let (method, path) = (method.to_owned(), path.to_owned());
        self.shared.rules.lock().unwrap().push(Rule { method, path, from, to, seen: 0, fault });
    }

    /// Removes all rules.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The number of requests with this method whose path contains `path`.
    pub fn count(&self, method: &str, path: &str) -> usize {
        self.seen().iter().filter(|s| s.method == method && s.path.contains(path)).count()
    }

    /// The number of connections to the proxy.
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for socket in self.shared.sockets.lock().unwrap().take().into_iter().flatten() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address); // wakes the accept loop, so that it ends
    }
}

impl Shared {
    /// Stores a socket; `false` if the proxy has ended.
    fn keep(&self, socket: &TcpStream) -> bool {
        let mut sockets = self.sockets.lock().unwrap();
        sockets.as_mut().is_some_and(|all| {
            all.push(socket.try_clone().unwrap());
            true
        })
    }

    fn fault(&self, seen: &Seen) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let mut found = None;
        for rule in rules.iter_mut() {
            if (rule.method == "*" || rule.method == seen.method) && seen.path.contains(&rule.path) {
                rule.seen += 1;
                if found.is_none() && (rule.from..=rule.to).contains(&rule.seen) {
                    found = Some(rule.fault.clone());
                }
            }
        }
        found
    }

    /// Serves one connection until either side closes it.
    fn serve(&self, mut client: TcpStream, number: usize) -> io::Result<()> {
        client.set_nodelay(true)?;
        let mut reader = BufReader::new(client.try_clone()?);
        if reader.fill_buf()?.first() == Some(&TLS_HANDSHAKE) {
            // The usual answer of a plain HTTP server; without an answer, an engine would wait for 10 s.
            client.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")?;
            return client.shutdown(Shutdown::Both);
        }
        let mut upstream: Option<BufReader<TcpStream>> = None;
        while let Some((head, lines)) = read_head(&mut reader)? {
            let mut words = lines[0].split(' ');
            let (method, path) =
                (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
            let headers = headers(&lines);
            let body = read_body(&mut reader, &headers)?;
            let seen = Seen { method, path, headers, body, connection: number };
            self.seen.lock().unwrap().push(seen.clone());
            if let Some(reply) = self.hook.as_ref().and_then(|hook| hook(&seen)) {
                send_reply(&mut client, &seen, &reply)?;
                continue;
            }
            let (mut limit, mut hiding) = (None, None);
            match self.fault(&seen) {
                None => {}
                Some(Fault::Reply(reply)) => {
                    send_reply(&mut client, &seen, &reply)?;
                    continue;
                }
                Some(Fault::Redirect(server)) => {
                    let to = format!("{server}{}", seen.path);
                    send_reply(&mut client, &seen, &Reply::new(307).header("Location", to))?;
                    if wants_close(&seen) {
                        break;
                    }
                    continue;
                }
                Some(Fault::Hold(gate)) => gate.pass(),
                Some(Fault::InsteadOf404(reply)) => hiding = Some(reply),
                Some(Fault::CutAfter(n)) => limit = Some((n, true)),
                Some(Fault::StallAfter(n)) => limit = Some((n, false)),
            }
            let up = match &mut upstream {
                Some(up) => up,
                None => {
                    let socket = TcpStream::connect(self.upstream)?;
                    socket.set_nodelay(true)?;
                    if !self.keep(&socket) {
                        break;
                    }
                    upstream.insert(BufReader::new(socket))
                }
            };
            up.get_mut().write_all(&[&head[..], &seen.body].concat())?;
            let Some((mut answer, lines)) = read_head(up)? else {
                break;
            };
            let answer_headers = self::headers(&lines);
            let status = lines[0].split(' ').nth(1).unwrap_or("").to_owned();
            if seen.method != "HEAD" && status != "204" && status != "304" {
                answer.extend(read_body(up, &answer_headers)?);
            }
            if let (Some(reply), "404") = (hiding, status.as_str()) {
                send_reply(&mut client, &seen, &reply)?;
                continue;
            }
            match limit {
                None => {
                    client.write_all(&answer)?;
                    if wants_close(&seen) {
                        break;
                    }
                }
                Some((n, cut)) => {
                    client.write_all(&answer[..n.min(answer.len())])?;
                    if cut {
                        break;
                    }
                    // Send nothing until the client gives up or the proxy ends.
                    let _ = reader.read(&mut [0; 1]);
                    break;
                }
            }
        }
        client.shutdown(Shutdown::Both)
    }
}

fn wants_close(seen: &Seen) -> bool {
    seen.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
}

/// A message head with its last empty line, and its lines; `None` at the end of the connection.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<(Vec<u8>, Vec<String>)>> {
    let (mut raw, mut lines) = (Vec::new(), Vec::new());
    loop {
        let start = raw.len();
        if reader.read_until(b'\n', &mut raw)? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8_lossy(&raw[start..]).trim_end().to_owned();
        if line.is_empty() {
            return Ok((!lines.is_empty()).then_some((raw, lines)));
        }
        lines.push(line);
    }
}

fn headers(lines: &[String]) -> Vec<(String, String)> {
    let pairs = lines[1..].iter().filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
}

/// A body as sent on the wire (a chunked one with its chunk lines).
fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let of = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if of("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let start = body.len();
            reader.read_until(b'\n', &mut body)?;
            let size = String::from_utf8_lossy(&body[start..]).trim().to_owned();
            let size = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
            let end = body.len() + size + 2;
            let start = body.len();
            body.resize(end, 0);
            reader.read_exact(&mut body[start..])?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = of("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    body.resize(length, 0);
    reader.read_exact(&mut body)?;
    Ok(body)
}

fn send_reply(client: &mut TcpStream, seen: &Seen, reply: &Reply) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {} Injected\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    if seen.method != "HEAD" {
        text.push_str(&reply.body);
    }
    client.write_all(text.as_bytes())
}
