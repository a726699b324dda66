//! Valid and invalid HTTP requests to the listener.

use std::sync::atomic::Ordering;

use serde_json::json;

use crate::listener::{SECRET, Served};
use crate::support::http::{chunked, delivery, get, signed_head};

#[test]
fn invalid_http_is_refused_and_the_next_client_is_served() {
    let served = Served::new();
    let header = |name: &str| format!("GET /healthz HTTP/1.1\r\nHost: t\r\n{name}\r\n\r\n");
    let cases: Vec<(Vec<u8>, u16)> = vec![
        (b"GET / HTTP/2.0\r\n\r\n".to_vec(), 505),
        (b"GET /healthz HTTP/1.2\r\nHost: t\r\n\r\n".to_vec(), 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 505),
        (b"GET /healthz\r\n\r\n".to_vec(), 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n".to_vec(), 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        (header("no colon").into_bytes(), 400),
        (header("Bad Name: x").into_bytes(), 400),
        (header("X: a\0b").into_bytes(), 400),
        (header("Host: other").into_bytes(), 400),
        (
            header("X-GitHub-Event: \0")
                .into_bytes()
                .into_iter()
                .map(|b| if b == 0 { 0xfc } else { b })
                .collect(),
            400,
        ),
        (header("Expect: a-cup-of-tea").into_bytes(), 417),
        (header(&"X: y\r\n".repeat(100)).into_bytes(), 431),
        (header(&format!("X: {}", "y".repeat(16 * 1024))).into_bytes(), 431),
        (format!("GET /{} HTTP/1.1\r\n", "y".repeat(17 * 1024)).into_bytes(), 431),
    ];
    for (request, status) in &cases {
        let mut client = served.client();
        client.send(request);
        let shown = String::from_utf8_lossy(request);
        let answered = client.answer().unwrap_or_else(|| panic!("no answer to {shown:?}"));
        assert_eq!(answered.status, *status, "{:?}", shown.chars().take(80).collect::<String>());
        assert_eq!(answered.header("connection"), Some("close"));
        assert!(client.is_closed());
        assert_eq!(served.ask(get("/healthz")).status, 200);
    }
    // Empty lines before a request are allowed, as are bare line feeds.
    assert_eq!(served.ask("\r\n\r\nGET /healthz HTTP/1.1\r\nHost: t\r\n\r\n").status, 200);
    assert_eq!(served.ask("GET /healthz HTTP/1.1\nHost: t\n\n").status, 200);
}

#[test]
fn a_request_with_ambiguous_framing_is_refused() {
    let served = Served::new();
    let inside = delivery(SECRET, "queued", b"{}");
    let head = signed_head(SECRET, "skip", b"{}");
    for framing in [
        format!("Content-Length: 2\r\nContent-Length: {}\r\n", inside.len()),
        "Content-Length: 2\r\nContent-Length: 2\r\n".into(),
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n".into(),
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n".into(),
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n".into(),
        "Transfer-Encoding: xchunked\r\n".into(),
        "Transfer-Encoding: chunked, identity\r\n".into(),
        "Transfer-Encoding:\x0bchunked\r\n".into(),
        "Transfer-Encoding : chunked\r\n".into(),
        " Transfer-Encoding: chunked\r\n".into(),
        "Content-Length: -1\r\n".into(),
        "Content-Length: +2\r\n".into(),
        "Content-Length: 2, 2\r\n".into(),
        "Content-Length: 0x2\r\n".into(),
        "Content-Length: 2_0\r\n".into(),
        "Content-Length: \r\n".into(),
    ] {
        let mut client = served.client();
        let _ = client.send_anyway([format!("{head}{framing}\r\n{{}}").as_bytes(), &inside].concat());
        let answered = client.expect();
        assert_eq!((answered.status, answered.header("connection")), (400, Some("close")), "{framing:?}");
        assert!(client.is_closed(), "{framing:?}: the smuggled request got an answer");
    }
    for body in [
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "-2\r\n{}\r\n",
        "2;\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
    ] {
        let mut client = served.client();
        let head = format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}");
        let _ = client.send_anyway([head.as_bytes(), &inside].concat());
        assert_eq!(client.expect().status, 400, "{body:?}");
        assert!(client.is_closed(), "{body:?}: the smuggled request got an answer");
    }
    let mut one_oh = served.client();
    one_oh.send(format!("{}Transfer-Encoding: chunked\r\n\r\n", head.replace("HTTP/1.1", "HTTP/1.0")));
    assert_eq!(one_oh.expect().status, 400);
    assert_eq!(served.app.seen.load(Ordering::SeqCst), 0);
}

#[test]
fn chunked_bodies_and_http_1_0_work_and_each_connection_has_one_request() {
    let served = Served::new();
    let body = vec![b'y'; 3_000];
    let head = signed_head(SECRET, "skip", &body);
    for size in [1, 7, 4_000] {
        let mut client = served.client();
        client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
        client.send(chunked(&body, size));
        assert_eq!(client.expect().json()["reason"], "3000 bytes", "in chunks of {size}");
    }
    // A request in single bytes.
    let mut client = served.client();
    for byte in delivery(SECRET, "ping", b"{}") {
        client.send([byte]);
    }
    assert_eq!(client.expect().json(), json!({"decision": "pong"}));

    // One request on each connection: of several, only the first is answered, with `Connection: close`.
    let mut client = served.client();
    let several: Vec<u8> =
        ["queued", "skip", "ping"].iter().flat_map(|e| delivery(SECRET, e, b"{}")).collect();
    client.send([several, get("/healthz").into_bytes()].concat());
    let answered = client.expect();
    assert_eq!(
        (answered.json()["decision"].as_str(), answered.header("connection")),
        (Some("build"), Some("close"))
    );
    assert!(client.is_closed());
    // A client that has closed its sending side still gets an answer.
    let mut client = served.client();
    client.send(delivery(SECRET, "ping", b"{}"));
    client.finish_sending();
    assert_eq!(client.expect().status, 200);
    assert!(client.is_closed());

    let mut old = served.client();
    old.send("GET /healthz HTTP/1.0\r\n\r\n");
    assert_eq!(old.expect().header("connection"), Some("close"));
    assert!(old.is_closed());
    let mut old = served.client();
    old.send("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(old.expect().header("connection"), Some("close"));
    assert!(old.is_closed());
    let mut last = served.client();
    last.send("GET /healthz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    assert_eq!(last.expect().header("connection"), Some("close"));
    assert!(last.is_closed());
}

#[test]
fn a_client_that_expects_100_continue_is_refused_before_it_sends_the_body() {
    let served = Served::new();
    let body = vec![b'z'; 100_000];
    let head = signed_head(SECRET, "skip", &body);
    let expect = format!("{head}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n", body.len());
    let mut client = served.client();
    client.send(&expect);
    assert_eq!(client.expect().status, 100);
    client.send(&body);
    assert_eq!(client.expect().json()["reason"], "100000 bytes");
    // A client that does not wait may get no 100.
    let mut client = served.client();
    client.send([expect.as_bytes(), &body].concat());
    let first = client.expect();
    assert!(first.status == 200 || (first.status == 100 && client.expect().status == 200));
    for (from, to, status) in [
        ("/webhook", "/elsewhere", 404),
        ("POST /webhook", "PUT /webhook", 405),
        ("Content-Length: 100000", "Content-Length: 99999999999", 413),
        ("application/json", "text/plain", 415),
        ("X-Hub-Signature-256", "X-Hub-Signature", 401),
    ] {
        assert_eq!(served.ask(expect.replace(from, to)).status, status, "{to}");
    }
}
