//! Limits on what clients may use, and on the descriptors that this needs.

use std::time::Duration;

use super::head::MAX_HEADERS;
use super::server::LINKS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits of a listener. Tests shorten the times.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a request line and its headers, with the empty line; above this, 431.
    pub max_head: usize,
    /// Headers of one request, at most 100; above this, 431.
    pub max_headers: usize,
    /// Bytes of one (decoded) body; above this, 413.
    pub max_body: u64,
    /// Total bytes of all bodies in memory; above this, the largest unfinished one gets 503.
    pub body_budget: usize,
    /// From the connection to the end of the head.
    pub head_time: Duration,
    /// From the end of the head to the end of the body.
    pub body_time: Duration,
    /// From the complete request to its response; after this, 503.
    pub answer_time: Duration,
    /// For each write to a client.
    pub write_time: Duration,
    /// How long to read and discard the rest of a refused request, so that the client receives the response.
    pub linger_time: Duration,
    /// Time for open requests after the listener was stopped.
    pub drain_time: Duration,
    /// Concurrent connections, each with a thread; fewer if the limit of descriptors requires it.
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
    /// The same limits, reduced to what `nofile` descriptors allow.
    pub(super) fn within(mut self, nofile: u64) -> Limits {
        let nofile = usize::try_from(nofile).unwrap_or(usize::MAX);
        self.links = self.links.min((nofile / 32).max(2));
        // Each link needs three: the gate's end, and tiny_http's two.
        let connections = nofile.saturating_sub(3 * self.links + RESERVE);
        self.max_connections = self.max_connections.min(connections).max(4);
        self.max_headers = self.max_headers.min(MAX_HEADERS);
        self
    }
}

/// Descriptors for the rest of the process: about 18 for the database, logs and signals, and 32 for one image's job at
/// its peak, with children, locks and connections to the registry.
const RESERVE: usize = 50;

/// Raises the soft limit of descriptors to the hard one and returns it. Children inherit it, which is harmless for git
/// and docker.
pub fn raise_nofile() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // Fails only in a sandbox that forbids it; then the soft limit remains.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_leave_room_for_clients_and_children() {
        let limits = Limits::default().within(64);
        assert_eq!((limits.links, limits.max_connections), (2, 8));
        assert_eq!(Limits::default().within(1).max_connections, 4);
    }

    #[test]
    fn many_descriptors_do_not_raise_the_limit() {
        let limits = Limits::default().within(u64::MAX);
        assert_eq!((limits.links, limits.max_connections), (3, 256));
    }
}
