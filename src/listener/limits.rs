//! How much of the machine strangers may use, and how many descriptors that leaves.

use std::num::NonZero;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The bounds of one listener. The defaults are those of the promises; tests shorten the times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request line and its headers, with the empty line; above it 431.
    pub max_head: usize,
    /// Headers of one request; above it 431. At most [`crate::listener::MAX_HEADERS`].
    pub max_headers: usize,
    /// Bytes of one (decoded) body; above it 413.
    pub max_body: u64,
    /// Bytes of strangers that are held at once; above it the largest unfinished request is answered 503.
    pub body_budget: usize,
    /// How long a head may take, from the connection or from the answer before it.
    pub head_time: Duration,
    /// How long a body may take, from the end of the head.
    pub body_time: Duration,
    /// How long a complete request may wait for its answer; after it 503.
    pub answer_time: Duration,
    /// How long a client may take to read an answer.
    pub write_time: Duration,
    /// How long the rest of a refused request is read and thrown away, so that the client sees the answer.
    pub linger_time: Duration,
    /// How long `run` waits, once stopped, for the answers of requests that had arrived.
    pub drain_time: Duration,
    /// How often the inner server is probed, and how long it may take to answer a probe.
    pub probe_every: Duration,
    /// Threads that take requests; fewer where there are few descriptors, or where the share of one could not hold a
    /// body at the cap.
    pub gates: usize,
    /// Connections at once; fewer where the limit of descriptors says so.
    pub max_connections: usize,
    /// Requests on one connection before it is closed.
    pub max_requests: u32,
    /// Requests that may wait for something at once (connections to, and threads of, the inner servers).
    pub workers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_head: 16 * 1024,
            max_headers: 100,
            max_body: 25 * 1024 * 1024,
            body_budget: 128 * 1024 * 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(20),
            answer_time: Duration::from_secs(20),
            write_time: Duration::from_secs(10),
            linger_time: Duration::from_secs(5),
            drain_time: Duration::from_secs(5),
            probe_every: Duration::from_secs(5),
            gates: std::thread::available_parallelism().map_or(1, NonZero::get).min(MOST_GATES),
            max_connections: 2_500,
            max_requests: 1_000,
            workers: 8,
        }
    }
}

impl Limits {
    /// The bounds of the metrics listener: a few scrapers, no bodies worth the name.
    pub fn admin() -> Limits {
        Limits {
            max_body: 64 * 1024,
            body_budget: 1024 * 1024,
            gates: 1,
            max_connections: 64,
            workers: 2,
            ..Limits::default()
        }
    }

    /// The same bounds, cut to what `nofile` descriptors allow.
    pub(crate) fn within(mut self, nofile: u64) -> Limits {
        let nofile = usize::try_from(nofile).unwrap_or(usize::MAX);
        let whole_bodies = self.body_budget as u64 / self.max_body.max(1);
        let most = (nofile / 256).min(usize::try_from(whole_bodies).unwrap_or(usize::MAX));
        self.gates = self.gates.clamp(1, most.max(1));
        // A worker costs three descriptors: the gate's end and tiny_http's two.
        self.workers = self.workers.clamp(self.gates, (nofile / 32).max(2));
        let own = 3 * self.workers + DESCRIPTORS_OF_A_GATE * (self.gates - 1);
        let connections = nofile.saturating_sub(own + reserve(nofile));
        self.max_connections = self.max_connections.min(connections).max(4);
        self.max_headers = self.max_headers.min(super::MAX_HEADERS);
        self
    }

    /// The share of one gate.
    pub(crate) fn of_one_gate(&self) -> Limits {
        Limits {
            gates: 1,
            body_budget: self.body_budget / self.gates,
            max_connections: self.max_connections.div_ceil(self.gates),
            workers: self.workers.div_ceil(self.gates),
            ..self.clone()
        }
    }
}

/// Gates that one listener has at most, on however many cores: each takes tens of thousands of deliveries a second.
const MOST_GATES: usize = 4;

/// The listening socket, the gate's epoll and bell, and the inner server's sockets.
const DESCRIPTORS_OF_A_GATE: usize = 6;

/// Descriptors that are not the listener's to use: about 18 for the database, logs and signals, and 32 for the job
/// of one image at its busiest, with children, locks and connections to the registry.
fn reserve(nofile: usize) -> usize {
    (nofile / 4).clamp(50, 512)
}

/// Raises the soft limit of descriptors to the hard one and returns it. Children inherit it, which git and docker
/// do not mind.
pub fn raise_nofile() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Refused only where a sandbox forbids it; then the soft limit stays, and is what counts.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_still_leave_room_for_clients_and_children() {
        let limits = Limits::default().within(64);
        assert_eq!((limits.gates, limits.workers), (1, 2));
        assert!((8..=16).contains(&limits.max_connections), "{}", limits.max_connections);
        assert!(limits.max_connections + 3 * limits.workers + 50 <= 64);
    }

    #[test]
    fn many_descriptors_do_not_lift_the_cap() {
        let limits = Limits::default().within(u64::MAX);
        assert_eq!((limits.max_connections, limits.workers), (2_500, 8));
        assert_eq!(Limits::default().within(1).max_connections, 4);
    }

    #[test]
    fn gates_share_what_the_listener_may_use() {
        let limits = Limits { gates: 3, ..Limits::default() };
        let one = limits.clone().within(u64::MAX).of_one_gate();
        assert_eq!((one.max_connections, one.workers, one.body_budget), (834, 3, limits.body_budget / 3));
        // Each has a worker of its own, however few there are.
        let few = Limits { workers: 1, ..limits.clone() }.within(1024);
        assert_eq!((few.gates, few.workers), (3, 3));
        let large = Limits { max_body: 60 * 1024 * 1024, ..limits };
        assert_eq!(large.within(u64::MAX).gates, 2);
    }
}
