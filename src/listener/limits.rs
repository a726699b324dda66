//! How much of the machine clients may use, and how many descriptors that leaves.

use std::time::Duration;

use super::head::MAX_HEADERS;
use super::inner::LINKS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The bounds of a listener. Tests shorten the times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request line and its headers, with the empty line; above it 431.
    pub max_head: usize,
    /// Headers of one request, at most 100; above it 431.
    pub max_headers: usize,
    /// Bytes of one (decoded) body; above it 413.
    pub max_body: u64,
    /// Bytes of all bodies that are held at once; above it the largest unfinished one is answered 503.
    pub body_budget: usize,
    /// From the connection to the end of the head.
    pub head_time: Duration,
    /// From the end of the head to the end of the body.
    pub body_time: Duration,
    /// From the whole request to its answer; after it 503.
    pub answer_time: Duration,
    /// For each write to a client.
    pub write_time: Duration,
    /// How long the rest of a refused request is read and discarded, so that the client sees the answer.
    pub linger_time: Duration,
    /// How long requests that had arrived may still take once the listener was stopped.
    pub drain_time: Duration,
    /// Connections at once, and their threads; fewer where the limit of descriptors says so.
    pub max_connections: usize,
    /// Connections to tiny_http.
    pub links: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_head: 16 * 1024,
            max_headers: MAX_HEADERS,
            max_body: 25 * 1024 * 1024,
            body_budget: 128 * 1024 * 1024,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(20),
            answer_time: Duration::from_secs(20),
            write_time: Duration::from_secs(10),
            linger_time: Duration::from_secs(5),
            drain_time: Duration::from_secs(5),
            max_connections: 256,
            links: LINKS,
        }
    }
}

impl Limits {
    /// The same bounds, cut to what `nofile` descriptors allow.
    pub(super) fn within(mut self, nofile: u64) -> Limits {
        let nofile = usize::try_from(nofile).unwrap_or(usize::MAX);
        self.links = self.links.min((nofile / 32).max(2));
        // Each link costs three: the gate's end, and tiny_http's two.
        let connections = nofile.saturating_sub(3 * self.links + RESERVE);
        self.max_connections = self.max_connections.min(connections).max(4);
        self.max_headers = self.max_headers.min(MAX_HEADERS);
        self
    }
}

/// Descriptors for the rest of the process: about 18 for the database, logs and signals, and 32 for the job of one image
/// at its busiest, with children, locks and connections to the registry.
const RESERVE: usize = 50;

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
        assert_eq!((limits.links, limits.max_connections), (2, 8));
        assert_eq!(Limits::default().within(1).max_connections, 4);
    }

    #[test]
    fn many_descriptors_do_not_lift_the_cap() {
        let limits = Limits::default().within(u64::MAX);
        assert_eq!((limits.links, limits.max_connections), (3, 256));
    }
}
