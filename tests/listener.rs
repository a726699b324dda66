//! The listener's documented responses and its limits, tested over real connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;
use swanci::error::Failure;
use swanci::forge::Encoding;
use swanci::listener::{
    Answer, App, Delivered, DeliveryLine, Limits, Listener, Metrics, RawDelivery, Stopper, Verdict, bind,
};

use swanci::queue::{JobState, QueueStats};

use crate::support::http::{Client, PATIENCE, ask, chunked, delivery, get, sign, signed_head};

pub(crate) const SECRET: &str = "It's a Secret to Everybody";

/// Gives the answer that the event header selects.
#[derive(Default)]
pub(crate) struct FakeApp {
    /// Deliveries with a valid signature.
    pub(crate) seen: AtomicUsize,
    /// Waiting deliveries of the event `block`.
    blocked: AtomicUsize,
    open: Mutex<bool>,
    bell: Condvar,
    log: Mutex<Vec<String>>,
}

impl FakeApp {
    fn release(&self) {
        *self.open.lock().unwrap() = true;
        self.bell.notify_all();
    }
}

impl App for FakeApp {
    fn deliver(&self, delivery: RawDelivery<'_>) -> Delivered {
        if (delivery.headers)("x-hub-signature-256") != Some(&sign(SECRET, delivery.body)) {
            return Answer::unauthorized().into();
        }
        self.seen.fetch_add(1, Ordering::SeqCst);
        let reason = format!("{} bytes", delivery.body.len());
        match delivery.event.unwrap_or("none") {
            "queued" => Answer::of_job(Verdict::Queued, 17, reason),
            "duplicate" => Answer::of_job(Verdict::Duplicate, 17, reason),
            "unavailable" => Answer::new(Verdict::Unavailable, "the queue cannot be written"),
            "skip" => Answer::new(Verdict::Skip, reason),
            "ping" => Answer::new(Verdict::Pong, "the webhook works"),
            "not-allowed" => Answer::new(Verdict::NotAllowed, "evil/repo is not on the allow-list"),
            "malformed" => Answer::new(Verdict::Malformed, "pull_request.merged: expected a boolean"),
            "long" => Answer::new(Verdict::Skip, String::from_utf8(delivery.body.to_vec()).unwrap()),
            "form" => Answer::new(Verdict::Skip, format!("{:?}", delivery.encoding)),
            "id" => Answer::new(Verdict::Skip, delivery.delivery_id.unwrap_or("none")),
            "panic" => panic!("the app fails, as a test asked it to"),
            "block" => {
                self.blocked.fetch_add(1, Ordering::SeqCst);
                let open = self.open.lock().unwrap();
                drop(self.bell.wait_timeout_while(open, PATIENCE, |open| !*open).unwrap());
                Answer::new(Verdict::Skip, reason)
            }
            other => panic!("no such event: {other}"),
        }
        .into()
    }

    fn ready(&self) -> Result<(), String> {
        if *self.open.lock().unwrap() { Err("the app is released".into()) } else { Ok(()) }
    }

    fn log(&self, line: &DeliveryLine<'_>) {
        let answer = &line.delivered.answer;
        self.log.lock().unwrap().push(format!("{:?} {:?} {}", line.id, line.event, answer.label()));
    }
}

/// A listener in a separate thread, stopped when the test ends.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    pub(crate) app: Arc<FakeApp>,
    metrics: Metrics,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), Failure>>>,
}

impl Served {
    pub(crate) fn new() -> Served {
        Served::with(Limits::default())
    }

    fn with(limits: Limits) -> Served {
        let waiting = || QueueStats { jobs: [(JobState::Queued, 5)].into(), ..QueueStats::default() };
        let (app, metrics) = (Arc::new(FakeApp::default()), Metrics::new(waiting));
        let (public, admin) = (bind("127.0.0.1:0").unwrap(), bind("127.0.0.1:0").unwrap());
        let listener =
            Listener::new(vec![public], Some(admin), limits, app.clone(), metrics.clone()).unwrap();
        let (addresses, stopper) = (listener.local_addrs(), listener.stopper());
        let thread = Some(std::thread::spawn(|| listener.run(None, &mut || {})));
        Served { address: addresses[0], admin: addresses[1], app, metrics, stopper, thread }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    pub(crate) fn ask(&self, bytes: impl AsRef<[u8]>) -> crate::support::http::Answered {
        ask(self.address, bytes)
    }

    fn metric(&self, line: &str) -> bool {
        self.metrics.render().unwrap().lines().any(|shown| shown == line)
    }

    fn stop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.stop();
        }
    }
}

#[test]
fn every_delivery_gets_the_documented_answer() {
    let served = Served::new();
    let table = [
        ("queued", 202, json!({"decision": "build", "job": 17, "reason": "2 bytes"})),
        ("duplicate", 200, json!({"decision": "duplicate", "job": 17, "reason": "2 bytes"})),
        ("skip", 200, json!({"decision": "skip", "reason": "2 bytes"})),
        ("ping", 200, json!({"decision": "pong"})),
        ("not-allowed", 403, json!({"error": "evil/repo is not on the allow-list"})),
        ("malformed", 400, json!({"error": "pull_request.merged: expected a boolean"})),
        ("unavailable", 503, json!({"error": "the queue cannot be written"})),
    ];
    for (event, status, body) in &table {
        let answered = served.ask(delivery(SECRET, event, b"{}"));
        assert_eq!((answered.status, answered.json()), (*status, body.clone()), "{event}");
        assert_eq!(answered.header("connection"), Some("close"));
        assert_eq!(answered.header("content-type"), Some("application/json"));
        assert_eq!(answered.header("retry-after").is_some(), *status == 503, "{event}");
        assert!(answered.header("date").is_some() && answered.header("server").is_none());
    }
    assert_eq!(served.app.seen.load(Ordering::SeqCst), table.len());
    let log = served.app.log.lock().unwrap().clone();
    assert_eq!(log.len(), table.len(), "one line for each delivery: {log:?}");
    assert_eq!(log[0], "Some(\"72d3162e-cc78-11e3-81ab-4c9367dc0958\") Some(\"queued\") queued");
    let original = String::from_utf8(delivery(SECRET, "queued", b"{}")).unwrap();
    assert_eq!(served.ask(original.replace("/webhook", "/ciserver/repository/merged?x=1")).status, 202);
    assert_eq!(served.ask(original.replace("/webhook", "http://test:80/webhook")).status, 202);
    assert!(served.metric("swanci_deliveries_total{verdict=\"queued\"} 3"));
}

#[test]
fn a_missing_and_a_wrong_signature_get_the_same_bytes() {
    let served = Served::new();
    let right = String::from_utf8(delivery(SECRET, "queued", b"{}")).unwrap();
    let signature = sign(SECRET, b"{}");
    let line = format!("X-Hub-Signature-256: {signature}\r\n");
    let wrong = [
        right.replace(&line, ""),
        right.replace(&line, "X-Hub-Signature-256: \r\n"),
        right.replace(&line, "X-Hub-Signature: sha1=7d38cdd689735b008b3c702edd92eea23791c5f6\r\n"),
        right.replace(&signature, &sign("another secret", b"{}")),
        right.replace(&signature, "sha256="),
    ];
    for request in &wrong {
        let answered = served.ask(request);
        assert_eq!(
            (answered.status, answered.body.as_str()),
            (401, "{\"error\":\"the signature is missing or wrong\"}\n")
        );
        let names: Vec<&str> = answered.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["date", "content-type", "content-length", "connection"]);
    }
    assert_eq!(served.app.seen.load(Ordering::SeqCst), 0);
    assert_eq!(served.ask(right).status, 202);
}

#[test]
fn paths_methods_and_content_types_are_checked() {
    let served = Served::new();
    let health = served.ask(get("/healthz"));
    assert_eq!((health.status, health.json()), (200, json!({"status": "alive"})));
    for path in ["/", "/webhook//", "/Webhook", "/metrics", "/readyz", "/../webhook", "*", "/web\u{fc}"] {
        assert_eq!(served.ask(get(path)).status, 404, "{path}");
    }
    for path in ["/webhook/", "/ciserver/repository/merged/"] {
        let request = String::from_utf8(delivery(SECRET, "skip", b"{}")).unwrap();
        assert_eq!(served.ask(request.replace("/webhook", path)).status, 200, "{path}");
    }
    for (request, allow) in [
        (get("/webhook"), "POST"),
        (get("/ciserver/repository/merged"), "POST"),
        ("DELETE /healthz HTTP/1.1\r\nHost: t\r\n\r\n".into(), "GET, HEAD"),
    ] {
        let answered = served.ask(&request);
        assert_eq!((answered.status, answered.header("allow")), (405, Some(allow)), "{request:?}");
    }
    let mut head = served.client();
    head.send("HEAD /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut head.stream, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\r\n\r\n"), "{text:?}");
    assert!(text.contains("\r\nContent-Length: 19\r\n"), "{text:?}");

    let json = String::from_utf8(delivery(SECRET, "form", b"payload=%7B%7D")).unwrap();
    let form = json.replace("application/json", "application/x-www-form-urlencoded");
    assert_eq!(served.ask(form).json()["reason"], format!("{:?}", Encoding::Form));
    let charset = json.replace("application/json", "application/json; charset=utf-8");
    assert_eq!(served.ask(charset).json()["reason"], format!("{:?}", Encoding::Json));
    for other in ["text/plain", "application/jsonp", "multipart/form-data; boundary=x", ""] {
        assert_eq!(served.ask(json.replace("application/json", other)).status, 415, "{other:?}");
    }
    assert_eq!(served.ask(json.replace("Content-Type: application/json\r\n", "")).status, 415);
    let id = served.ask(delivery(SECRET, "id", b"{}")).json();
    assert_eq!(id["reason"], "72d3162e-cc78-11e3-81ab-4c9367dc0958");
}

#[test]
fn a_body_over_the_limit_is_refused_and_one_at_the_limit_is_accepted() {
    const CAP: usize = 25 * 1024 * 1024;
    let served = Served::new();
    let body = vec![b'x'; CAP];
    let answered = served.ask(delivery(SECRET, "skip", &body));
    assert_eq!((answered.status, answered.json()["reason"].as_str()), (200, Some("26214400 bytes")));
    let head = signed_head(SECRET, "skip", &body);
    let mut client = served.client();
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
    client.send(chunked(&body, 1_000_003));
    assert_eq!(client.expect().json()["reason"], "26214400 bytes");

    // A client that sends everything before it reads still gets the answer.
    let mut client = served.client();
    client.send(format!("{head}Content-Length: {}\r\n\r\n", CAP + 1));
    client.send(&body);
    client.send("x");
    let answered = client.expect();
    assert_eq!((answered.status, answered.json()), (413, json!({"error": "the body is too large"})));
    assert!(client.is_closed());
    // The answer does not wait for the body.
    for length in ["26214401", "99999999999999999999", "18446744073709551616"] {
        let answered = served.ask(format!("{head}Content-Length: {length}\r\n\r\n"));
        assert_eq!((answered.status, answered.header("connection")), (413, Some("close")), "{length}");
    }
    let mut client = served.client();
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n1900000\r\n"));
    client.send(&body);
    client.send("\r\n1\r\nx\r\n0\r\n\r\n");
    assert_eq!(client.expect().status, 413);
    // Path and method come before size, size before the content type.
    assert_eq!(served.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 26214401\r\n\r\n").status, 404);
    assert_eq!(
        served.ask("POST /webhook HTTP/1.1\r\nHost: t\r\nContent-Length: 26214401\r\n\r\n").status,
        413
    );
    assert_eq!(served.app.seen.load(Ordering::SeqCst), 2);
}

#[test]
fn slow_heads_and_bodies_time_out_while_others_are_served() {
    let limits = Limits {
        head_time: Duration::from_millis(400),
        body_time: Duration::from_millis(400),
        linger_time: Duration::from_millis(400),
        ..Limits::default()
    };
    let served = Served::with(limits);
    let mut heads: Vec<Client> = (0..20).map(|_| served.client()).collect();
    let mut bodies: Vec<Client> = (0..20).map(|_| served.client()).collect();
    let mut silent = served.client();
    for (at, client) in heads.iter_mut().enumerate() {
        client.send(&delivery(SECRET, "skip", b"{}")[..10 + at]);
    }
    for client in &mut bodies {
        client.send(format!("{}Content-Length: 50\r\n\r\n{{", signed_head(SECRET, "skip", b"{}")));
    }
    for _ in 0..20 {
        assert_eq!(served.ask(delivery(SECRET, "queued", b"{}")).status, 202);
    }
    for client in heads.iter_mut().chain(&mut bodies) {
        let answered = client.expect();
        assert_eq!((answered.status, answered.header("connection")), (408, Some("close")));
        assert!(client.is_closed());
    }
    assert!(silent.is_closed());
    // Sending single bytes does not extend the time limit.
    let mut drip = served.client();
    let mut sent = 0;
    while sent < 16_000 && drip.send_anyway(if sent == 0 { "GET /healthz HTTP/1.1\r\nX: " } else { "y" }) {
        sent += 1;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(sent < 16_000, "the connection was never closed");
    assert!(served.metric("swanci_gate_rejections_total{reason=\"timeout\"} 41"));
}

#[test]
fn when_the_memory_budget_is_spent_the_largest_unfinished_body_is_dropped() {
    let served = Served::with(Limits { body_budget: 1024 * 1024, ..Limits::default() });
    let head = |length| format!("{}Content-Length: {length}\r\n\r\n", signed_head(SECRET, "skip", b"{}"));
    let mut large = served.client();
    large.send(head(2_000_000));
    large.send(vec![b'x'; 900_000]);
    // Served from the rest of the budget, then from the budget of the dropped body.
    assert_eq!(served.ask(delivery(SECRET, "skip", &vec![b'x'; 20_000])).status, 200);
    let mut second = served.client();
    second.send(head(800_000));
    second.send(vec![b'x'; 799_999]);
    let answered = large.expect();
    assert_eq!((answered.status, answered.header("retry-after")), (503, Some("30")));
    second.send("x");
    assert_eq!(second.expect().status, 401, "the body is complete, but its signature is wrong");
    // A body over the budget.
    let mut alone = served.client();
    alone.send(head(2_000_000));
    let _ = alone.send_anyway(vec![b'x'; 2_000_000]);
    assert_eq!(alone.expect().status, 503);
    // The whole budget is free again.
    let body = vec![b'x'; 1_000_000];
    for _ in 0..5 {
        assert_eq!(served.ask(delivery(SECRET, "skip", &body)).status, 200);
    }
}

/// Heads and data after a request also use memory, so they have separate limits.
#[test]
fn data_after_a_waiting_request_is_not_read() {
    let served = Served::with(Limits { body_budget: 1024 * 1024, ..Limits::default() });
    let mut waits = delivery(SECRET, "block", b"{}");
    waits.extend_from_slice(&[b'y'; 12_000]);
    let mut waiting: Vec<Client> = (0..100).map(|_| served.client()).collect();
    for client in &mut waiting {
        client.send(&waits);
    }
    while served.app.blocked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    served.app.release();
    for client in &mut waiting {
        assert_eq!(client.expect().status, 200);
        assert!(client.is_closed(), "the extra data got an answer");
    }
}

#[test]
fn an_app_that_panics_fails_one_request_only() {
    let served = Served::new();
    for _ in 0..40 {
        assert_eq!(served.ask(delivery(SECRET, "panic", b"{}")).status, 500);
    }
    assert_eq!(served.ask(delivery(SECRET, "queued", b"{}")).status, 202);
}

#[test]
fn clients_of_a_hanging_app_get_503_until_it_recovers() {
    let limits = Limits { answer_time: Duration::from_secs(1), ..Limits::default() };
    let served = Served::with(limits);
    let mut stuck: Vec<Client> = (0..5).map(|_| served.client()).collect();
    for client in &mut stuck {
        client.send(delivery(SECRET, "block", b"{}"));
    }
    for client in &mut stuck {
        let answered = client.expect();
        assert_eq!((answered.status, answered.header("connection")), (503, Some("close")));
    }
    served.app.release();
    assert_eq!(served.ask(delivery(SECRET, "queued", b"{}")).status, 202);
}

#[test]
fn a_stop_answers_received_requests_and_accepts_no_new_ones() {
    let mut served = Served::new();
    let mut waiting = served.client();
    waiting.send(delivery(SECRET, "block", b"{}"));
    let mut idle = served.client();
    let mut half = served.client();
    half.send("POST /webhook HTTP/1.1\r\n");
    while served.app.blocked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    served.stopper.stop();
    assert!(idle.is_closed());
    assert_eq!(half.expect().status, 408);
    assert!(std::net::TcpStream::connect(served.address).is_err(), "the address still accepts connections");
    served.app.release();
    let answered = waiting.expect();
    assert_eq!((answered.status, answered.header("connection")), (200, Some("close")));
    drop(half);
    served.stop();
}

#[test]
fn a_stop_has_a_time_limit() {
    let limits = Limits { drain_time: Duration::from_millis(200), ..Limits::default() };
    let mut served = Served::with(limits);
    let mut stuck = served.client();
    stuck.send(delivery(SECRET, "block", b"{}"));
    while served.app.blocked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    served.stop();
    assert!(stuck.is_closed());
    served.app.release();
}

#[test]
fn readiness_and_metrics_are_only_on_the_admin_address() {
    let served = Served::new();
    assert_eq!(served.ask(delivery(SECRET, "ping", b"{}")).status, 200);
    let shown = ask(served.admin, get("/metrics"));
    assert_eq!(shown.status, 200);
    assert!(shown.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    for line in
        ["swanci_deliveries_total{verdict=\"pong\"} 1", "swanci_queue_depth 5", "swanci_ack_seconds_count 1"]
    {
        assert!(shown.body.lines().any(|l| l == line), "{line} is missing in\n{}", shown.body);
    }
    assert_eq!(ask(served.admin, get("/readyz")).status, 200);
    served.app.release();
    let ready = ask(served.admin, get("/readyz"));
    assert_eq!((ready.status, ready.json()), (503, json!({"error": "the app is released"})));
    for path in ["/webhook", "/healthz", "/"] {
        assert_eq!(ask(served.admin, get(path)).status, 404, "{path}");
    }
    assert_eq!(ask(served.admin, delivery(SECRET, "ping", b"{}")).status, 404);
    // A client cannot select the admin address with a header.
    for request in [get("/metrics"), get("/readyz")] {
        let request = request.replace("Host: test", "Host: test\r\nSwanci-Side: admin");
        assert_eq!(served.ask(request).status, 404);
    }
    let method = ask(served.admin, "DELETE /readyz HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!((method.status, method.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn an_answer_of_a_megabyte_arrives_completely() {
    let served = Served::new();
    // A skip's reason is the only answer whose size a test can choose.
    let form = "x".repeat(1_000_000);
    let request = delivery(SECRET, "long", form.as_bytes());
    assert_eq!(served.ask(request).json()["reason"].as_str().map(str::len), Some(1_000_000));
}

#[test]
fn an_address_in_use_is_reported() {
    let taken = bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let failure = bind(&address).unwrap_err();
    assert!(failure.render().starts_with(&format!("error: cannot listen on {address}\ncaused by: ")));
    assert_eq!(failure.kind.code(), 6);
}

#[test]
fn a_waiting_delivery_does_not_block_others() {
    let served = Served::new();
    let mut stuck = served.client();
    stuck.send(delivery(SECRET, "block", b"{}"));
    while served.app.blocked.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    for _ in 0..20 {
        assert_eq!(served.ask(delivery(SECRET, "skip", b"{}")).status, 200);
    }
    served.app.release();
    assert_eq!(stuck.expect().status, 200);
}
