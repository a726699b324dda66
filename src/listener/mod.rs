//! The HTTP listener in front of the queue.
//!
//! ```text
//! TCP or systemd sockets → gate (limits, framing) → tiny_http on a private Unix socket → routes → App
//! ```

mod answer;
mod body;
mod gate;
mod head;
mod intake;
mod limits;
mod metrics;
mod request;
mod routes;
mod server;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub use answer::{Answer, Refusal, Reply, Verdict};
pub use intake::{ForgeRules, Intake};
pub use limits::{Limits, raise_nofile};
pub use metrics::Metrics;
pub use routes::{App, Delivered, DeliveryLine, RawDelivery};

use gate::{Gate, PAUSE};
use routes::{Routes, Side};
use server::TinyHttp;

use crate::error::{Classify as _, Failure, Kind};

/// Connections that the kernel queues while the listener is at its limit.
const BACKLOG: i32 = 1024;

/// Bound sockets with a gate and tiny_http behind them; [`Listener::run`] serves.
pub struct Listener {
    sockets: Vec<(TcpListener, Side)>,
    gate: Arc<Gate>,
    stopper: Stopper,
    woken: UnixStream,
}

/// Stops a [`Listener`] from any thread, also from within [`App::deliver`].
#[derive(Debug, Clone)]
pub struct Stopper {
    stopped: Arc<AtomicBool>,
    wake: Arc<UnixStream>,
}

impl Stopper {
    /// Stops accepting; [`Listener::run`] returns when open requests are done, or after `drain_time`.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Makes [`Listener::run`] call its `woken`.
    pub fn wake(&self) {
        // A full pipe wakes it as well.
        let _ = (&*self.wake).write(&[0]);
    }
}

/// The sockets that systemd passed (sd_listen_fds(3)), in the unit's order; none without socket activation.
pub fn inherited() -> Result<Vec<TcpListener>, Failure> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..passed.len() {
        let socket = passed.take_tcp_listener(at).classify(Kind::Environment, || {
            "an inherited socket is not a TCP listener: give the unit ListenStream= with an address and a port"
        })?;
        sockets.extend(socket);
    }
    Ok(sockets)
}

/// Binds a TCP address, such as `127.0.0.1:8080` or `localhost:0`.
pub fn bind(address: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).classify(Kind::Environment, || format!("cannot listen on {address}")).map_err(
        |failure| {
            failure.hint("another program may listen there, or the address may not belong to this machine")
        },
    )
}

impl Listener {
    /// A listener for deliveries on `public` and for readiness and metrics on `admin`. Raises the limit of descriptors.
    /// The kernel accepts connections from now on, but responses need [`Listener::run`].
    pub fn new(
        public: Vec<TcpListener>,
        admin: Option<TcpListener>,
        limits: Limits,
        app: Arc<dyn App>,
        metrics: Metrics,
    ) -> Result<Listener, Failure> {
        let start = || -> io::Result<Listener> {
            let limits = limits.within(raise_nofile());
            let public = public.into_iter().map(|socket| (socket, Side::Public));
            let sockets: Vec<_> = public.chain(admin.map(|socket| (socket, Side::Admin))).collect();
            for (socket, _) in &sockets {
                socket.set_nonblocking(true)?;
                // Accepted connections inherit it. Responses are small and written in one call.
                rustix::net::sockopt::set_tcp_nodelay(socket, true)?;
                rustix::net::listen(socket, BACKLOG)?;
            }
            let routes = Arc::new(Routes::new(app, metrics.clone()));
            let tiny_http = TinyHttp::start(&routes, limits.links)?;
            let gate = Arc::new(Gate::new(limits, routes, metrics, tiny_http));
            let (woken, wake) = UnixStream::pair()?;
            woken.set_nonblocking(true)?;
            wake.set_nonblocking(true)?;
            let stopper = Stopper { stopped: Arc::default(), wake: Arc::new(wake) };
            Ok(Listener { sockets, gate, stopper, woken })
        };
        start().classify(Kind::Environment, || "cannot start the listener")
    }

    /// The addresses that clients connect to, the admin ones last.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(socket, _)| socket.local_addr().ok()).collect()
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Like [`Stopper::wake`], for a signal handler: any written byte wakes it.
    pub fn waker(&self) -> io::Result<UnixStream> {
        self.stopper.wake.try_clone()
    }

    /// Serves until it is stopped or `until` has passed. Calls `woken` at the start and on every event. After an error
    /// no request can be answered; a supervisor should restart the process.
    pub fn run(self, until: Option<Instant>, woken: &mut dyn FnMut()) -> Result<(), Failure> {
        let over = || until.is_some_and(|until| Instant::now() >= until);
        loop {
            let mut piece = [0; 64];
            while matches!((&self.woken).read(&mut piece), Ok(read) if read > 0) {}
            woken();
            if self.stopper.stopped.load(Ordering::SeqCst) || over() {
                break;
            }
            for (socket, side) in &self.sockets {
                self.accept(socket, *side);
            }
            if self.gate.tiny_http.is_dead() {
                return Err(Failure::environment("tiny_http no longer answers"));
            }
            self.wait(until);
        }
        drop(self.sockets);
        self.gate.drain();
        Ok(())
    }

    /// Waits for a connection or a wake-up.
    fn wait(&self, until: Option<Instant>) {
        let mut wanted = vec![PollFd::new(&self.woken, PollFlags::IN)];
        wanted.extend(self.sockets.iter().map(|(socket, _)| PollFd::new(socket, PollFlags::IN)));
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        if poll(&mut wanted, left.as_ref()).is_err_and(|error| error != rustix::io::Errno::INTR) {
            // ENOMEM is temporary.
            std::thread::sleep(PAUSE);
        }
    }

    fn accept(&self, socket: &TcpListener, side: Side) {
        // A few at a time, so that the other sockets get their turn.
        for _ in 0..8 {
            if !self.gate.has_capacity() {
                return;
            }
            match socket.accept() {
                Ok((stream, _)) => self.gate.admit(stream, side),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // EMFILE, ENFILE, ENOBUFS, ENOMEM, or an error of the network below: all temporary.
                Err(_) => return self.gate.free_descriptors(),
            }
        }
    }
}
