//! The gate's inner side: errands to the inner server, and the watch over its health.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::io::Errno;

use super::Gate;
use crate::error::Failure;
use crate::listener::answer::Refusal;
use crate::listener::client::{Phase, Rules};
use crate::listener::clients::NOT_CLIENTS;
use crate::listener::inner::{Inner, PROBE};
use crate::listener::relay::{Errand, InnerAnswer, Link, Sender};

/// How long a broken inner server waits for its next try.
const REBUILD_REST: Duration = Duration::from_millis(300);
/// Failures of the inner server in a row, with no answered probe between them, that end the gate.
const MAX_FAILURES: u32 = 3;

/// The inner server, its connections, and what is known of its health.
pub(super) struct Watch {
    inner: Option<Inner>,
    links: Vec<Link>,
    /// Counts the servers, so that an event of an old one's link is known as such.
    epoch: u64,
    alive: Arc<AtomicUsize>,
    failures: u32,
    answers: u64,
    probed: Instant,
    unanswered: bool,
    retry_at: Option<Instant>,
}

impl Watch {
    pub(super) fn new(now: Instant) -> Watch {
        Watch {
            inner: None,
            links: Vec::new(),
            epoch: 0,
            alive: Arc::new(AtomicUsize::new(0)),
            failures: 0,
            answers: 0,
            probed: now,
            unanswered: false,
            retry_at: None,
        }
    }

    /// Whether the server said that it cannot go on.
    pub(super) fn is_broken(&self) -> bool {
        self.inner.as_ref().is_some_and(Inner::is_broken)
    }

    /// Whether a broken server waits for its next try.
    pub(super) fn is_down(&self) -> bool {
        self.retry_at.is_some()
    }
}

impl Gate {
    /// Gives waiting requests to idle links.
    pub(super) fn dispatch(&mut self) {
        while let Some(at) = self.watch.links.iter().position(Link::is_idle) {
            let Some((token, work)) = self.queue.pop_front() else { return };
            let Some(client) = self.clients.get(token).filter(|c| matches!(c.phase, Phase::Waiting)) else {
                continue;
            };
            let (Some(link), Some(inner)) = (self.watch.links.get_mut(at), &self.watch.inner) else { return };
            let head = inner.hand_over(at, work, &client.head.request_line());
            if link.start(Errand { sender: Sender::Client(token), head }).is_err() {
                return self.rebuild();
            }
        }
    }

    pub(super) fn on_link(&mut self, name: u64) {
        if name >> 16 != self.watch.epoch {
            return;
        }
        let at = usize::try_from(name & 0xffff).unwrap_or(usize::MAX);
        let Some(link) = self.watch.links.get_mut(at) else { return };
        match link.receive(&mut self.scratch) {
            Ok(None) => {}
            Ok(Some((errand, answer))) => {
                self.watch.answers += 1;
                match errand.sender {
                    Sender::Probe => (self.watch.failures, self.watch.unanswered) = (0, false),
                    Sender::Client(token) => self.relay(token, &answer),
                }
            }
            Err(_) => self.rebuild(),
        }
    }

    pub(super) fn relay(&mut self, token: u64, answer: &[u8]) {
        // A client that has left, or that was told 503 meanwhile, is not waiting any more.
        let Some(client) = self.clients.get(token).filter(|c| matches!(c.phase, Phase::Waiting)) else {
            return;
        };
        let Ok(Some(answer)) = InnerAnswer::parse(answer) else { return };
        client.answer(&answer, &Rules { limits: &self.limits, service: &*self.service, now: self.now });
        self.drive(token);
    }

    pub(super) fn start_inner(&mut self) -> std::io::Result<()> {
        let (inner, streams) = Inner::start(self.limits.workers, &self.wake, &self.watch.alive)?;
        self.watch.epoch += 1;
        let mut links = Vec::with_capacity(streams.len());
        for (at, stream) in streams.into_iter().enumerate() {
            // Not for room to send: a Unix socket announces that after every read of its peer.
            let name = NOT_CLIENTS | self.watch.epoch << 16 | at as u64;
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(name), flags)?;
            links.push(Link::new(stream));
        }
        self.watch.links = links;
        self.watch.inner = Some(inner);
        self.watch.retry_at = None;
        self.watch.unanswered = false;
        self.watch.probed = self.now;
        Ok(())
    }

    /// Lets a broken inner server go, answers those whose requests it had, and starts another.
    pub(super) fn rebuild(&mut self) {
        self.watch.failures += 1;
        self.watch.inner = None;
        for link in std::mem::take(&mut self.watch.links) {
            let Some(errand) = link.errand() else { continue };
            match errand.sender {
                Sender::Probe => {}
                Sender::Client(token) => {
                    if self.clients.get(token).is_some_and(|c| matches!(c.phase, Phase::Waiting)) {
                        self.refuse(token, Refusal::Overloaded);
                    }
                }
            }
        }
        self.metrics.rebuilt();
        if let Err(error) = self.start_inner() {
            if matches!(Errno::from_io_error(&error), Some(Errno::MFILE | Errno::NFILE)) {
                for _ in 0..3 * self.limits.workers {
                    self.let_one_go();
                }
            }
            self.watch.retry_at = Some(self.now + REBUILD_REST);
        }
    }

    pub(super) fn watch_inner(&mut self) -> Result<(), Failure> {
        if self.watch.retry_at.is_some_and(|at| self.now >= at) {
            self.rebuild();
        } else if self.watch.retry_at.is_none()
            && self.now.duration_since(self.watch.probed) >= self.limits.probe_every
        {
            self.probe();
        }
        // Workers that hang are left behind by a rebuild; that too has an end.
        let hanging = self.watch.alive.load(Ordering::SeqCst);
        if self.watch.failures >= MAX_FAILURES || hanging > 4 * self.limits.workers {
            return Err(Failure::environment("the inner HTTP server failed three times in a row"));
        }
        Ok(())
    }

    pub(super) fn probe(&mut self) {
        self.watch.probed = self.now;
        let answers = std::mem::take(&mut self.watch.answers);
        let idle = self.watch.links.iter().position(Link::is_idle);
        if self.watch.unanswered && answers == 0 {
            return self.rebuild();
        }
        let probe = Errand { sender: Sender::Probe, head: PROBE.to_owned() };
        self.watch.unanswered = true;
        if let Some(link) = idle.and_then(|at| self.watch.links.get_mut(at))
            && link.start(probe).is_err()
        {
            self.rebuild();
        }
    }
}
