//! The gate: one thread that takes whole requests from strangers within limits and has them judged. What its bytes
//! decide is answered at once; what has to wait for a disk goes to the inner server, whose answer is relayed.
//! Edge-triggered epoll(7); nothing in it blocks, so a slow client costs a buffer and no thread. A listener has several
//! gates on one socket, which share nothing else.

mod relaying;

use std::collections::VecDeque;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use super::answer::Refusal;
use super::client::{Client, Fed, Phase, Rules};
use super::clients::{Clients, NOT_CLIENTS};
use super::limits::Limits;
use super::metrics::Metrics;
use super::service::{Service, Work};
use super::wake::Wake;
use crate::error::Failure;
use relaying::Watch;

const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// Bytes that one read takes at most; one buffer of this size serves all connections.
const SCRATCH: usize = 64 * 1024;
/// Reads and requests of one connection before the others have their turn.
const TURN: usize = 4;
/// Connections that a gate accepts before those that it has are served: few, so that other gates get their share.
const ACCEPTS: usize = 2;
/// How long accepting rests after it failed, or when there was no room.
const ACCEPT_REST: Duration = Duration::from_millis(20);
/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long an unfinished request may still take once the gate was stopped.
const LAST_CALL: Duration = Duration::from_millis(500);

/// A gate in front of a service.
pub(crate) struct Gate {
    limits: Limits,
    service: Arc<dyn Service>,
    metrics: Metrics,
    wake: Wake,
    epoll: OwnedFd,
    listener: Option<TcpListener>,
    accept_at: Option<Instant>,
    clients: Clients,
    /// Connections with something left to do that no event will announce.
    again: Vec<u64>,
    /// Requests that wait for a link, each with its client and what is left to do for it.
    queue: VecDeque<(u64, Work)>,
    budget: usize,
    scratch: Vec<u8>,
    now: Instant,
    ticked: Instant,
    watch: Watch,
}

impl Gate {
    /// Starts the inner server; accepting begins with [`Gate::run`].
    pub(crate) fn new(
        listener: TcpListener,
        limits: Limits,
        service: Arc<dyn Service>,
        metrics: Metrics,
        wake: Wake,
    ) -> std::io::Result<Gate> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        listener.set_nonblocking(true)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        let now = Instant::now();
        let mut gate = Gate {
            budget: limits.body_budget,
            limits,
            service,
            metrics,
            wake,
            epoll,
            listener: Some(listener),
            accept_at: None,
            clients: Clients::default(),
            again: Vec::new(),
            queue: VecDeque::new(),
            scratch: vec![0; SCRATCH],
            now,
            ticked: now,
            watch: Watch::new(now),
        };
        gate.start_inner()?;
        Ok(gate)
    }

    /// Serves until it is stopped; then until the requests that had arrived are answered, or `drain_time` is over.
    /// An error means that the inner server failed three times in a row: a supervisor should start anew.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(256);
        let mut drain_until = None;
        loop {
            events.clear();
            let timeout = Timespec::try_from(self.wait_time()).ok();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(Failure::environment(error).context("the listener cannot wait for events"));
                }
            }
            self.now = Instant::now();
            for event in &events {
                self.on_event(event.data.u64(), event.flags);
            }
            for token in std::mem::take(&mut self.again) {
                self.drive(token);
            }
            self.dispatch();
            if self.now.duration_since(self.ticked) >= TICK || self.accept_at.is_some() {
                self.tick()?;
            }
            if self.wake.stopped() {
                let until = *drain_until.get_or_insert_with(|| {
                    self.close_door();
                    self.now + self.limits.drain_time
                });
                if self.clients.len() == 0 || self.now >= until {
                    return Ok(());
                }
            }
        }
    }

    fn wait_time(&self) -> Duration {
        if !self.again.is_empty() {
            Duration::ZERO
        } else if self.accept_at.is_some() {
            ACCEPT_REST
        } else if self.clients.len() > 0 || self.watch.is_down() {
            TICK
        } else {
            self.limits.probe_every
        }
    }

    fn on_event(&mut self, token: u64, flags: epoll::EventFlags) {
        match token {
            LISTENER => self.accept(ACCEPTS),
            WAKE => {
                self.wake.heard();
                if self.watch.is_broken() {
                    self.rebuild();
                }
            }
            token if token >= NOT_CLIENTS => self.on_link(token & !NOT_CLIENTS),
            token => {
                let gone = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
                if let Some(client) = self.clients.get(token) {
                    client.readable |= flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
                    client.half_closed |= flags.contains(epoll::EventFlags::RDHUP);
                    if gone { self.close(token) } else { self.drive(token) }
                }
            }
        }
    }

    fn accept(&mut self, most: usize) {
        for _ in 0..most {
            let full = self.clients.len() >= self.limits.max_connections;
            if full && self.clients.oldest_unfinished().is_none() {
                return self.rest();
            }
            let Some(listener) = &self.listener else { return };
            let stream = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(stream) => stream,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(_) => {
                    // EMFILE, ENFILE, ENOBUFS, ENOMEM, and whatever the network below reports: none of them lasts.
                    self.let_one_go();
                    return self.rest();
                }
            };
            if full {
                self.let_one_go();
            }
            let (token, generation) = self.clients.next();
            let flags = epoll::EventFlags::IN
                | epoll::EventFlags::OUT
                | epoll::EventFlags::RDHUP
                | epoll::EventFlags::ET;
            if epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(token), flags).is_err() {
                self.let_one_go();
                return self.rest();
            }
            self.clients.insert(Client::new(stream, generation, &self.limits, self.now));
            self.metrics.connected();
        }
    }

    fn let_one_go(&mut self) -> bool {
        let oldest = self.clients.oldest_unfinished();
        if let Some(token) = oldest {
            self.metrics.refused(Refusal::Evicted);
            self.close(token);
        }
        oldest.is_some()
    }

    fn rest(&mut self) {
        if let Some(listener) = &self.listener {
            let data = epoll::EventData::new_u64(LISTENER);
            let _ = epoll::modify(&self.epoll, listener, data, epoll::EventFlags::empty());
            self.accept_at = Some(self.now + ACCEPT_REST);
        }
    }

    fn close(&mut self, token: u64) {
        if let Some(client) = self.clients.remove(token) {
            // Closing the descriptor takes it out of epoll: nobody else holds it.
            self.budget += client.charged;
            self.metrics.disconnected();
        }
    }

    /// Takes a connection as far as it goes without waiting.
    fn drive(&mut self, token: u64) {
        let mut steps = 0;
        loop {
            let Some(client) = self.clients.get(token) else { return };
            if !client.out.is_empty() && !self.send(token) {
                return;
            }
            let Some(client) = self.clients.get(token) else { return };
            match client.phase {
                Phase::Waiting => return,
                Phase::Answering => {
                    let rules = Rules { limits: &self.limits, service: &*self.service, now: self.now };
                    let spent = client.half_closed && !client.readable && client.pending.is_empty();
                    if !client.answered(&rules) || (spent && matches!(client.phase, Phase::Head)) {
                        return self.close(token);
                    }
                }
                Phase::Head | Phase::Body(_) | Phase::Lingering => {
                    let untried = matches!(client.phase, Phase::Head) && client.has_untried();
                    if !untried && !client.readable {
                        return;
                    }
                    steps += 1;
                    if steps > TURN {
                        return self.again.push(token);
                    }
                    if untried {
                        self.feed(token, None);
                    } else if !self.read(token) {
                        return;
                    }
                }
            }
        }
    }

    /// Sends what is in the buffer; `false` when the rest has to wait, or the client is gone.
    fn send(&mut self, token: u64) -> bool {
        let Some(client) = self.clients.get(token) else { return false };
        while let Some(rest) = client.out.get(client.sent..).filter(|rest| !rest.is_empty()) {
            match send(&client.stream, rest, SendFlags::NOSIGNAL) {
                Ok(sent) => client.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(_) => {
                    self.close(token);
                    return false;
                }
            }
        }
        client.out.clear();
        client.sent = 0;
        true
    }

    /// Reads once; `false` when there is nothing to do with what came.
    fn read(&mut self, token: u64) -> bool {
        let Some(client) = self.clients.get(token) else { return false };
        let most = client.appetite().min(SCRATCH);
        let Some(room) = self.scratch.get_mut(..most) else { return false };
        let read = match recv(&client.stream, room, RecvFlags::empty()) {
            Ok((_, 0)) => {
                self.close(token);
                return false;
            }
            Ok((_, read)) => read,
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {
                client.readable = false;
                return false;
            }
            Err(_) => {
                self.close(token);
                return false;
            }
        };
        // A short read empties the socket, and the next byte is announced; but the end is announced only once.
        client.readable = read == most || client.half_closed;
        if matches!(client.phase, Phase::Lingering) {
            client.discarded += read as u64;
            if client.discarded > self.limits.max_body + 1024 * 1024 {
                self.close(token);
                return false;
            }
            return true;
        }
        while self.budget < read {
            match self.clients.largest_unfinished() {
                Some(largest) if largest != token => self.refuse(largest, Refusal::Overloaded),
                Some(_) | None => {
                    self.refuse(token, Refusal::Overloaded);
                    return true;
                }
            }
        }
        self.feed(token, Some(read));
        true
    }

    /// Feeds what was just read, or what is pending.
    fn feed(&mut self, token: u64, read: Option<usize>) {
        let Some(client) = self.clients.get(token) else { return };
        let rules = Rules { limits: &self.limits, service: &*self.service, now: self.now };
        let fed = match read {
            Some(read) => client.feed(self.scratch.get(..read).unwrap_or_default(), &rules),
            None => client.feed_pending(&rules),
        };
        // What is held grows by what was read at most, and there was room for that.
        let held = client.holds();
        self.budget = (self.budget + client.charged).saturating_sub(held);
        client.charged = held;
        match fed {
            Fed::More | Fed::Answered(None) => {}
            Fed::Waits(work) => self.queue.push_back((token, work)),
            Fed::Answered(Some(refusal)) => self.metrics.refused(refusal),
        }
    }

    /// Answers a client for the gate, and closes after it.
    fn refuse(&mut self, token: u64, refusal: Refusal) {
        let Some(client) = self.clients.get(token) else { return };
        let rules = Rules { limits: &self.limits, service: &*self.service, now: self.now };
        client.refuse(refusal, &rules);
        self.budget += std::mem::take(&mut client.charged);
        self.metrics.refused(refusal);
        self.again.push(token);
    }

    /// Deadlines, the rest of accepting, and the health of the inner server.
    fn tick(&mut self) -> Result<(), Failure> {
        self.ticked = self.now;
        if self.accept_at.is_some_and(|at| self.now >= at) {
            self.accept_at = None;
            if let Some(listener) = &self.listener {
                let data = epoll::EventData::new_u64(LISTENER);
                let _ = epoll::modify(&self.epoll, listener, data, epoll::EventFlags::IN);
            }
        }
        let late: Vec<u64> =
            self.clients.iter().filter(|(_, c)| self.now >= c.deadline).map(|(token, _)| token).collect();
        for token in late {
            self.late(token);
        }
        self.watch_inner()
    }

    fn late(&mut self, token: u64) {
        let Some(client) = self.clients.get(token) else { return };
        match client.phase {
            Phase::Head if client.pending.is_empty() => self.close(token),
            Phase::Head | Phase::Body(_) => self.refuse(token, Refusal::Timeout),
            Phase::Waiting => self.refuse(token, Refusal::Overloaded),
            Phase::Answering => {
                self.metrics.refused(Refusal::SlowReader);
                self.close(token);
            }
            Phase::Lingering => self.close(token),
        }
    }

    /// Stops accepting. Requests that have begun get a last moment to become whole.
    fn close_door(&mut self) {
        // Connections that the kernel has already shaken hands on are taken in; closing would reset them.
        self.accept(self.limits.max_connections);
        if let Some(listener) = self.listener.take() {
            let _ = epoll::delete(&self.epoll, &listener);
        }
        self.accept_at = None;
        let tokens: Vec<u64> = self.clients.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.drive(token);
            let Some(client) = self.clients.get(token) else { continue };
            client.close_after_answer();
            let last_call = self.now + LAST_CALL;
            if client.is_idle() {
                self.close(token);
            } else if client.is_unfinished() {
                client.deadline = client.deadline.min(last_call);
            }
        }
        self.dispatch();
    }
}
