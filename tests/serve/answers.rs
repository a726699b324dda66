//! Every documented response to a delivery; verdicts match those of `evaluate`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::{Value, json};

use super::support::{REPOSITORY, SECRET, World, payload};
use crate::support::http::{delivery, get, sign};

fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    [text.as_bytes(), b"\r\n", body].concat()
}

#[test]
fn every_request_gets_the_documented_answer() {
    let world = World::new();
    world.configure(|s| s.serve = "max_body = \"64KiB\"".to_owned());
    let serve = world.serve_with(&["--jobs", "0"]);
    let sha = |digit: &str| digit.repeat(40);
    let merge = payload(REPOSITORY, 1, &sha("a"), &sha("b"), &sha("c"));

    let queued = serve.ask(delivery(SECRET, "pull_request", &merge));
    assert_eq!((queued.status, &queued.json()["decision"]), (202, &json!("build")));
    assert!(queued.json()["job"].is_i64() && queued.json()["reason"].is_string());
    assert_eq!(queued.header("content-type"), Some("application/json"));
    let job = queued.json()["job"].clone();

    let again = serve.ask(delivery(SECRET, "pull_request", &merge));
    assert_eq!(
        (again.status, &again.json()["decision"], &again.json()["job"]),
        (200, &json!("duplicate"), &job)
    );

    // On the predecessor's path, form-encoded, with the repository's name in capitals, it is the same merge.
    let shouted = payload(&REPOSITORY.to_uppercase(), 1, &sha("a"), &sha("b"), &sha("c"));
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", std::str::from_utf8(&shouted).unwrap())
        .finish();
    let signature = sign(SECRET, form.as_bytes());
    let form_type = ("Content-Type", "application/x-www-form-urlencoded");
    let signed = [form_type, ("X-Hub-Signature-256", signature.as_str()), ("X-GitHub-Event", "pull_request")];
    let answer = serve.ask(post("/ciserver/repository/merged", &signed, form.as_bytes()));
    assert_eq!(
        (answer.status, &answer.json()["decision"], &answer.json()["job"]),
        (200, &json!("duplicate"), &job)
    );

    let mut opened: Value = serde_json::from_slice(&merge).unwrap();
    opened["action"] = json!("opened");
    let skip = serve.ask(delivery(SECRET, "pull_request", opened.to_string().as_bytes()));
    assert_eq!((skip.status, &skip.json()["decision"]), (200, &json!("skip")));
    assert!(skip.json()["reason"].is_string());

    let mut contradictory: Value = serde_json::from_slice(&merge).unwrap();
    contradictory["pull_request"]["state"] = json!("open");
    let skip = serve.ask(delivery(SECRET, "pull_request", contradictory.to_string().as_bytes()));
    assert_eq!((skip.status, &skip.json()["decision"]), (200, &json!("skip")));
    assert!(skip.json()["reason"].as_str().unwrap().contains("contradicts itself"));
    serve.wait_said("warning: pull request #1");

    let ping = serve.ask(delivery(SECRET, "ping", br#"{"zen":"Design for failure.","hook_id":1}"#));
    assert_eq!((ping.status, ping.json()), (200, json!({"decision": "pong"})));

    let unknown = serve.ask(delivery(SECRET, "star", br#"{"action":"created"}"#));
    assert_eq!(
        (unknown.status, &unknown.json()["decision"]),
        (200, &json!("skip")),
        "no repository, no ping"
    );

    let json_type = ("Content-Type", "application/json");
    let event = ("X-GitHub-Event", "pull_request");
    let right = sign(SECRET, &merge);
    let wrong = sign("another secret", &merge);
    let sha1 = "sha1=0123456789abcdef0123456789abcdef01234567";
    let unsigned = serve.ask(post("/webhook", &[json_type, event], &merge));
    let refused = [
        unsigned.clone(),
        serve.ask(post("/webhook", &[json_type, event, ("X-Hub-Signature-256", &wrong)], &merge)),
        serve.ask(post("/webhook", &[json_type, event, ("X-Hub-Signature-256", "")], &merge)),
        serve.ask(post("/webhook", &[json_type, event, ("X-Hub-Signature", sha1)], &merge)),
        serve.ask(post("/webhook", &[json_type, event, ("X-Hub-Signature-256", &right)], &merge[1..])),
        serve.ask(post("/webhook", &[json_type, event, ("X-Hub-Signature-256", &wrong)], b"{malformed")),
    ];
    for answer in &refused {
        assert_eq!((answer.status, &answer.body), (401, &unsigned.body), "the same answer for all of them");
    }

    let stranger = payload("someone/else", 1, &sha("a"), &sha("b"), &sha("c"));
    assert_eq!(serve.ask(delivery(SECRET, "pull_request", &stranger)).status, 403);
    opened["repository"]["full_name"] = json!("someone/else");
    let skip = serve.ask(delivery(SECRET, "pull_request", opened.to_string().as_bytes()));
    assert_eq!(skip.status, 403, "the repository is checked before the verdict");

    let malformed = serve.ask(delivery(SECRET, "pull_request", b"{\"action\":"));
    assert_eq!(malformed.status, 400);
    let mut typed: Value = serde_json::from_slice(&merge).unwrap();
    typed["pull_request"]["merge_commit_sha"] = json!(17);
    let malformed = serve.ask(delivery(SECRET, "pull_request", typed.to_string().as_bytes()));
    assert_eq!(malformed.status, 400);
    assert!(malformed.body.contains("pull_request.merge_commit_sha"), "the JSON path: {}", malformed.body);

    let large = vec![b' '; 65 * 1024];
    assert_eq!(serve.ask(delivery(SECRET, "pull_request", &large)).status, 413);
    let declared = "POST /webhook HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n";
    assert_eq!(serve.ask(declared).status, 413, "without reading it");
    let text = [("Content-Type", "text/plain"), ("X-Hub-Signature-256", right.as_str())];
    assert_eq!(serve.ask(post("/webhook", &text, &merge)).status, 415);

    assert_eq!(serve.get("/healthz").status, 200);
    assert_eq!(serve.get("/readyz").status, 404, "only on admin_listen");
    assert_eq!(serve.get("/nothing").status, 404);
    let method = serve.ask(get("/webhook"));
    assert_eq!((method.status, method.header("allow")), (405, Some("POST")));
    let method = serve.ask("DELETE /healthz HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((method.status, method.header("allow")), (405, Some("GET, HEAD")));

    assert_eq!(world.jobs().len(), 1, "one merge in all of this");
    assert_eq!(serve.stop(), 0);
}

/// The collection of recorded payloads, if available.
fn collection() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures");
    let places = [
        std::env::var_os("SWANCI_FIXTURES").map(PathBuf::from),
        Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures")),
        Some(beside),
    ];
    places.into_iter().flatten().find(|place| place.join("index.csv").is_file())
}

/// Event header and body of every payload: the samples, and GitHub's payloads of the collection, with and without their
/// header.
fn payloads() -> Vec<(String, Option<String>, Vec<u8>)> {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/payloads");
    let mut all = Vec::new();
    for (name, event) in [
        ("merged", "pull_request"),
        ("merged_sparse", "pull_request"),
        ("closed_unmerged", "pull_request"),
        ("labeled_after_merge", "pull_request"),
        ("review", "pull_request_review"),
        ("ping", "ping"),
        ("push", "push"),
    ] {
        let file = own.join(format!("{name}.json"));
        all.push((name.to_owned(), Some(event.to_owned()), std::fs::read(file).unwrap()));
    }
    let Some(collection) = collection() else {
        let _ = writeln!(std::io::stderr(), "not run: recorded payloads over HTTP (no fixtures available)");
        return all;
    };
    let index = std::fs::read_to_string(collection.join("index.csv")).unwrap();
    let header: Vec<&str> = index.lines().next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|h| *h == name).unwrap();
    let mut files = 0;
    for line in index.lines().skip(1) {
        let fields: Vec<&str> = line.splitn(header.len(), ',').collect();
        if fields[column("forge")] != "github" {
            continue;
        }
        files += 1;
        let body = std::fs::read(collection.join(fields[column("file")])).unwrap();
        for event in fields[column("event_header")].split('|').filter(|e| !e.is_empty()) {
            all.push((fields[column("file")].to_owned(), Some(event.to_owned()), body.clone()));
        }
        all.push((fields[column("file")].to_owned(), None, body));
    }
    assert_eq!(files, 130);
    all
}

#[test]
fn serve_and_evaluate_give_the_same_verdict() {
    let payloads = payloads();
    let world = World::new();
    let mut names = BTreeMap::new();
    for (_, _, body) in &payloads {
        let parsed: Value =
            serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).unwrap_or_default();
        if let Some(name) = parsed["repository"]["full_name"].as_str() {
            names.insert(name.to_ascii_lowercase(), name.to_owned());
        }
    }
    let tables: Vec<String> =
        names.values().map(|name| format!("[[repository]]\nname = \"{name}\"\n")).collect();
    world.configure(|s| s.repositories = Some(tables.concat()));
    let serve = world.serve_with(&["--jobs", "0"]);
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, event, body) in &payloads {
        let mut child = world
            .swanci()
            .args(["evaluate", "-"])
            .args(event.iter().flat_map(|event| ["--event", event]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = child.stdin.take().unwrap().write_all(body);
        let by_hand = child.wait_with_output().unwrap();
        let signature = sign(SECRET, body);
        let mut headers = vec![("Content-Type", "application/json"), ("X-Hub-Signature-256", &signature)];
        headers.extend(event.iter().map(|event| ("X-GitHub-Event", event.as_str())));
        let answer = serve.ask(post("/webhook", &headers, body));
        let at = format!("{file} with {event:?}: {answer:?}");
        if by_hand.status.code() == Some(4) {
            assert_eq!(answer.status, 400, "{at}");
            *seen.entry("malformed").or_default() += 1;
            continue;
        }
        let document: Value = serde_json::from_slice(&by_hand.stdout).unwrap_or_else(|e| panic!("{e}: {at}"));
        let said = answer.json();
        let kind = match (document["decision"].as_str().unwrap(), said["decision"].as_str().unwrap()) {
            ("build", "build") => {
                assert_eq!((answer.status, &said["reason"]), (202, &document["reason"]), "{at}");
                let job = world.job(said["job"].as_i64().unwrap());
                assert_eq!(job["document"], document, "{at}");
                "build"
            }
            ("build", "duplicate") => {
                let job = world.job(said["job"].as_i64().unwrap());
                assert_eq!((answer.status, &job["commit"]), (200, &document["change"]["commit"]), "{at}");
                "duplicate"
            }
            ("skip", "skip") => {
                assert_eq!((answer.status, &said["reason"]), (200, &document["reason"]), "{at}");
                "skip"
            }
            ("skip", "pong") => {
                assert!(
                    answer.status == 200 && document["reason"].as_str().unwrap().contains("ping"),
                    "{at}"
                );
                "pong"
            }
            other => panic!("{other:?}: {at}"),
        };
        *seen.entry(kind).or_default() += 1;
    }
    assert_eq!(seen.values().sum::<usize>(), payloads.len());
    assert!(seen["build"] >= 1 && seen["skip"] >= 3 && seen["pong"] >= 1, "{seen:?}");
    let _ = writeln!(std::io::stderr(), "{} payloads over HTTP: {seen:?}", payloads.len());
}
