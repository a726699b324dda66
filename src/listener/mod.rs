//! The listener: what stands between strangers and the queue.
//!
//! ```text
//! TCP or systemd socket → gates (limits, framing) → routes → App::judge ─┬─▶ the answer
//!                                                                        └─▶ tiny_http → a worker: App::accept, ready
//! ```
//!
//! tiny_http has no timeouts and no caps, and single requests can stop or abort it (PROMISES.md, "tiny_http as it
//! is"). So a gate takes one whole request within limits and has it judged where its bytes are: whatever they alone
//! decide (a wrong signature, a payload that is no merge) is answered at once, and no unauthenticated delivery goes further.
//! What has to wait (a merge for the disk, `/readyz` for docker) goes to tiny_http's workers, on a private Unix socket,
//! with a request line that the gate wrote; what is left to do goes to the worker in memory. The listener never decides
//! what a payload means: that is the [`App`]'s.

mod admin;
mod answer;
mod body;
mod chunked;
mod client;
mod clients;
mod gate;
mod http_head;
mod inner;
mod intake;
mod limits;
mod metrics;
mod relay;
mod routes;
mod service;
mod wake;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::resume_unwind;
use std::sync::Arc;

pub use answer::{Answer, Refusal, Reply};
pub use intake::{Intake, OnQueued, ReadyCheck, Rules};
pub use limits::{Limits, raise_nofile};
pub use metrics::{Metrics, QueueSnapshot, Step};
pub use routes::{App, ContentKind, Merge, RawDelivery};

use gate::Gate;
use service::Service;
use wake::Wake;

use crate::error::{Classify as _, Failure, Kind};

/// The most headers that a request may have, whatever [`Limits`] say.
pub const MAX_HEADERS: usize = 100;

/// Connections that the kernel may hold for the gate while it is busy.
const BACKLOG: i32 = 1024;

/// A bound listener; [`Listener::run`] serves.
pub struct Listener {
    gates: Vec<Gate>,
    address: SocketAddr,
    stopper: Stopper,
}

/// Stops a [`Listener`] from any thread, also from within [`App::accept`].
#[derive(Debug, Clone)]
pub struct Stopper(Arc<[Wake]>);

impl Stopper {
    /// Stops accepting; [`Listener::run`] returns when what had arrived is answered, or after `drain_time`.
    pub fn stop(&self) {
        self.0.iter().for_each(Wake::stop);
    }
}

/// Stops all gates when one ends, also by a panic: a listener serves whole or not at all.
struct EndOfAll(Stopper);

impl Drop for EndOfAll {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// The sockets that systemd handed in (sd_listen_fds(3)), in the unit's order; none without socket activation.
pub fn inherited() -> Result<Vec<TcpListener>, Failure> {
    let mut passed = listenfd::ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..passed.len() {
        let socket = passed.take_tcp_listener(at).classify(Kind::Environment, || {
            "the inherited socket is no TCP listener: give the unit ListenStream= with an address and a port"
        })?;
        sockets.extend(socket);
    }
    Ok(sockets)
}

/// Binds a TCP address, as `127.0.0.1:8080` or `localhost:0`.
pub fn bind(address: &str) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).classify(Kind::Environment, || format!("cannot listen on {address}")).map_err(
        |failure| failure.hint("is another program listening there, or the address not this machine's?"),
    )
}

impl Listener {
    /// A listener for deliveries on `socket` (of [`bind`] or [`inherited`]). Raises the limit of descriptors. Nothing
    /// is answered before [`Listener::run`], but the kernel already takes connections.
    pub fn new(
        socket: TcpListener,
        limits: Limits,
        app: Arc<dyn App>,
        metrics: Metrics,
    ) -> Result<Listener, Failure> {
        let service: Arc<dyn Service> = Arc::new(routes::Routes::new(app, metrics.clone()));
        Listener::over(socket, limits, service, metrics)
    }

    /// A listener for `GET /metrics`. Its own connections and refusals are not counted.
    pub fn admin(socket: TcpListener, limits: Limits, metrics: Metrics) -> Result<Listener, Failure> {
        let service: Arc<dyn Service> = Arc::new(admin::Admin(metrics));
        Listener::over(socket, limits, service, Metrics::new())
    }

    fn over(
        socket: TcpListener,
        limits: Limits,
        service: Arc<dyn Service>,
        metrics: Metrics,
    ) -> Result<Listener, Failure> {
        let context = || "cannot start the listener";
        let limits = limits.within(raise_nofile());
        let address = socket.local_addr().classify(Kind::Environment, context)?;
        // Accepted connections inherit it. Answers are small and written at once; waiting for more would only delay.
        rustix::net::sockopt::set_tcp_nodelay(&socket, true).classify(Kind::Environment, context)?;
        rustix::net::listen(&socket, BACKLOG).classify(Kind::Environment, context)?;
        let wakes = (0..limits.gates).map(|_| Wake::new()).collect::<io::Result<Vec<_>>>();
        let wakes = wakes.classify(Kind::Environment, context)?;
        let gate = |wake: &Wake| {
            let (own, limits) = (socket.try_clone()?, limits.of_one_gate());
            Gate::new(own, limits, service.clone(), metrics.clone(), wake.clone())
        };
        let gates = wakes.iter().map(gate).collect::<io::Result<Vec<_>>>();
        let gates = gates.classify(Kind::Environment, context)?;
        Ok(Listener { gates, address, stopper: Stopper(wakes.into()) })
    }

    /// The address that clients connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle that stops it.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Serves until stopped. An error means that an inner server failed three times in a row, and that a supervisor
    /// should start the process anew.
    pub fn run(self) -> Result<(), Failure> {
        let Listener { gates, stopper, .. } = self;
        std::thread::scope(|scope| {
            let mut running = Vec::with_capacity(gates.len());
            for gate in gates {
                let end_of_all = EndOfAll(stopper.clone());
                let run = move || {
                    let _end_of_all = end_of_all;
                    gate.run()
                };
                let thread = std::thread::Builder::new().name("swanci-gate".to_owned());
                match thread.spawn_scoped(scope, run) {
                    Ok(thread) => running.push(thread),
                    // What it was given is dropped, and with it ends what already runs.
                    Err(error) => {
                        return Err(
                            Failure::environment(error).context("cannot start the threads of the listener")
                        );
                    }
                }
            }
            running.into_iter().try_for_each(|gate| gate.join().unwrap_or_else(|panic| resume_unwind(panic)))
        })
    }
}
