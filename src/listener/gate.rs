//! The gate: for each connection, a blocking thread reads one whole request within limits, forwards it to tiny_http,
//! copies the response back and closes. Threads, connections and bytes are limited across all clients.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::answer::{Refusal, Reply};
use super::head::{Framing, parse};
use super::limits::Limits;
use super::metrics::Metrics;
use super::request::{Incoming, PIECE};
use super::routes::{Routes, Side};
use super::server::{TinyHttp, for_client};

/// Stack of a connection's thread: a read buffer, a head, and some reserve.
const STACK: usize = 128 * 1024;
/// How long to stop accepting at the limit, and after an error.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// Time for unfinished requests after the listener has stopped.
const UNFINISHED_TIME: Duration = Duration::from_millis(500);

pub(super) struct Gate {
    pub(super) limits: Limits,
    pub(super) routes: Arc<Routes>,
    pub(super) metrics: Metrics,
    pub(super) tiny_http: TinyHttp,
    state: Mutex<Connections>,
    changed: Condvar,
}

#[derive(Default)]
struct Connections {
    /// Oldest first.
    open: BTreeMap<u64, OpenConnection>,
    last: u64,
    /// Total bytes of all bodies in memory.
    held: usize,
}

struct OpenConnection {
    stream: Arc<TcpStream>,
    held: usize,
    /// Its request is incomplete, or its response is being sent: closing it loses no work.
    unfinished: bool,
    /// Why its socket was shut down.
    ended_by: Option<Refusal>,
}

impl Gate {
    pub(super) fn new(limits: Limits, routes: Arc<Routes>, metrics: Metrics, tiny_http: TinyHttp) -> Gate {
        Gate { limits, routes, metrics, tiny_http, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Serves a connection on a new thread. If no thread starts, the connection is closed.
    pub(super) fn admit(self: &Arc<Gate>, stream: TcpStream, side: Side) {
        let stream = Arc::new(stream);
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        let open = OpenConnection { stream: Arc::clone(&stream), held: 0, unfinished: true, ended_by: None };
        state.open.insert(id, open);
        drop(state);
        self.metrics.connected();
        let connection = Connection { gate: Arc::clone(self), id, stream, side };
        let thread = std::thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
        if thread.spawn(move || connection.serve()).is_err() {
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether one more connection may be accepted. At the limit, the oldest unfinished one is closed.
    pub(super) fn has_capacity(&self) -> bool {
        let full = |state: &mut Connections| state.open.len() >= self.limits.max_connections;
        let mut state = self.state();
        if full(&mut state) {
            self.close_oldest(&mut state);
            let waited = self.changed.wait_timeout_while(state, PAUSE, full);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        !full(&mut state)
    }

    /// Frees descriptors after a failed accept.
    pub(super) fn free_descriptors(&self) {
        self.close_oldest(&mut self.state());
        std::thread::sleep(PAUSE);
    }

    fn close_oldest(&self, state: &mut Connections) {
        if let Some(oldest) = state.open.values_mut().find(|open| open.unfinished && open.ended_by.is_none())
        {
            oldest.end(Refusal::Evicted, Shutdown::Both);
        }
    }

    /// Finishes open requests: a short time for incomplete ones, `drain_time` for complete ones.
    pub(super) fn drain(&self) {
        let began = Instant::now();
        let wait_while = |more: fn(&mut Connections) -> bool, limit: Duration| {
            let left = limit.saturating_sub(began.elapsed());
            drop(self.changed.wait_timeout_while(self.state(), left, more));
        };
        wait_while(
            |state| state.open.values().any(|open| open.unfinished),
            UNFINISHED_TIME.min(self.limits.drain_time),
        );
        for open in self.state().open.values_mut().filter(|open| open.unfinished) {
            open.end(Refusal::Timeout, Shutdown::Read);
        }
        wait_while(|state| !state.open.is_empty(), self.limits.drain_time);
        for open in self.state().open.values_mut() {
            open.end(Refusal::Evicted, Shutdown::Both);
        }
    }

    fn state(&self) -> MutexGuard<'_, Connections> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnection {
    fn end(&mut self, why: Refusal, how: Shutdown) {
        self.ended_by.get_or_insert(why);
        let _ = self.stream.shutdown(how);
    }
}

struct Connection {
    gate: Arc<Gate>,
    id: u64,
    stream: Arc<TcpStream>,
    side: Side,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Some(open) = state.open.remove(&self.id) {
            state.held -= open.held;
        }
        drop(state);
        self.gate.changed.notify_all();
        self.gate.metrics.disconnected();
    }
}

impl Connection {
    fn serve(&self) {
        let limits = &self.gate.limits;
        let mut incoming = Incoming::new(&self.stream, Instant::now() + limits.head_time);
        let _ = self.stream.set_write_timeout(Some(limits.write_time));
        let complete = match self.exchange(&mut incoming) {
            Ok(complete) => complete,
            Err(refusal) => {
                let ended_by = self.gate.state().open.get(&self.id).and_then(|open| open.ended_by);
                let refusal = ended_by.unwrap_or(refusal);
                // A client that sent nothing gets no response.
                let silent =
                    matches!(refusal, Refusal::Timeout | Refusal::BadRequest) && incoming.is_silent();
                if !silent {
                    self.gate.metrics.refused(refusal);
                }
                if silent || refusal == Refusal::Evicted {
                    return;
                }
                self.send_reply(&refusal.reply(), false);
                false
            }
        };
        self.set_unfinished(true);
        let _ = self.stream.shutdown(Shutdown::Write);
        let unread = rustix::io::ioctl_fionread(&*self.stream).unwrap_or(0);
        if !complete || unread > 0 {
            self.linger();
        }
    }

    /// Whether the request was read to its end.
    fn exchange(&self, incoming: &mut Incoming<'_>) -> Result<bool, Refusal> {
        let Gate { limits, routes, tiny_http, .. } = &*self.gate;
        let bytes = incoming.head(limits)?;
        let parsed = parse(&bytes, limits.max_headers)?.ok_or(Refusal::BadRequest)?;
        let head = parsed.keep(&crate::forge::READ)?;
        let head_only = head.method == "HEAD";
        let too_large = matches!(parsed.framing, Framing::Length(length) if length > limits.max_body);
        if let Err(reply) = routes.check(self.side, &head, too_large) {
            self.send_reply(&reply, head_only);
            return Ok(false);
        }
        incoming.set_deadline(Instant::now() + limits.body_time);
        if parsed.expects_continue && incoming.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        let body = incoming.body(&parsed, limits.max_body, &mut |bytes| self.hold(bytes))?;
        self.set_unfinished(false);
        let mut late = false;
        let mut on_late = || {
            late = true;
            self.send_reply(&Refusal::Overloaded.reply(), head_only);
            let _ = self.stream.shutdown(Shutdown::Both);
        };
        let answer = tiny_http.ask(self.side, &head, body.as_slice(), limits.answer_time, &mut on_late)?;
        if late {
            self.gate.metrics.refused(Refusal::Overloaded);
        } else {
            self.set_unfinished(true);
            self.send(&for_client(&answer, head_only));
        }
        Ok(incoming.is_empty())
    }

    /// Counts bytes of this connection's body. Above the budget, the largest unfinished body is dropped: this one, or
    /// another, after whose end this one continues.
    fn hold(&self, bytes: usize) -> Result<(), Refusal> {
        let gate = &*self.gate;
        let until = Instant::now() + gate.limits.body_time;
        let mut state = gate.state();
        while state.held + bytes > gate.limits.body_budget {
            let own = state.open.get(&self.id).filter(|open| open.ended_by.is_none());
            let own = own.ok_or(Refusal::Overloaded)?.held + bytes;
            let others = state.open.values_mut().filter(|open| open.unfinished && open.held > own);
            let largest = others.max_by_key(|open| open.held).ok_or(Refusal::Overloaded)?;
            largest.end(Refusal::Overloaded, Shutdown::Read);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Refusal::Overloaded);
            }
            state = gate.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.held += bytes;
        if let Some(open) = state.open.get_mut(&self.id) {
            open.held += bytes;
        }
        Ok(())
    }

    fn set_unfinished(&self, unfinished: bool) {
        if let Some(open) = self.gate.state().open.get_mut(&self.id) {
            open.unfinished = unfinished;
        }
    }

    fn send_reply(&self, reply: &Reply, head_only: bool) {
        self.send(&for_client(&reply.to_bytes(), head_only));
    }

    /// A client that does not read its response in time is closed like any other.
    fn send(&self, bytes: &[u8]) {
        let _ = (&*self.stream).write_all(bytes);
    }

    /// Reads and discards the rest of a request: closing a socket with unread bytes resets the connection, and the
    /// client might not receive the response.
    fn linger(&self) {
        let until = Instant::now() + self.gate.limits.linger_time;
        let mut piece = [0; PIECE];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return;
            }
            match (&*self.stream).read(&mut piece) {
                Ok(read) if read > 0 => {}
                _ => return,
            }
        }
    }
}
