//! Deliveries of every forge to a listener with the real intake and queue: which are accepted, and with which result.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::Sha256;
use swanci::decide::BranchGlobs;
use swanci::error::Failure;
use swanci::forge::signature::WebhookSecret;
use swanci::listener::{
    App, Delivered, DeliveryLine, ForgeRules, Intake, Limits, Listener, Metrics, RawDelivery, Stopper, bind,
};
use swanci::model::ForgeName;
use swanci::queue::{JobId, QueueStats, ServeLock, Store};
use tempfile::TempDir;

use crate::evaluate_fixtures::{collection, recordings, rows};
use crate::support::http::{Answered, ask, sign};
use crate::support::swanci::Swanci;

const SHA: &str = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
const HEAD: &str = "4964158cdea899629716b4f0c0e2f5ab72e3cb4a";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// One configured forge: kind, URL, secrets, repositories.
type Configured<'a> = (ForgeName, &'a str, &'a [&'a str], &'a [&'a str]);

fn rules(forges: &[Configured<'_>]) -> Vec<ForgeRules> {
    let forges = forges.iter().map(|(kind, url, secrets, repositories)| ForgeRules {
        kind: *kind,
        url: (*url).to_owned(),
        secret: (!secrets.is_empty())
            .then(|| WebhookSecret::new(secrets.iter().map(|s| (*s).into()).collect()).unwrap()),
        repositories: repositories
            .iter()
            .map(|name| (name.parse().unwrap(), BranchGlobs::default()))
            .collect(),
    });
    forges.collect()
}

/// The intake behind the listener, with its log.
struct IntakeApp {
    intake: Intake,
    log: Arc<Mutex<Vec<String>>>,
}

impl App for IntakeApp {
    fn deliver(&self, raw: RawDelivery<'_>) -> Delivered {
        self.intake.deliver(&raw)
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    fn log(&self, line: &DeliveryLine<'_>) {
        let (answer, id, event) = (&line.delivered.answer, line.id, line.event);
        let detail = answer.log.as_deref().unwrap_or_default();
        self.log.lock().unwrap().push(format!("{id:?} {event:?} {} {detail}", answer.label()));
    }
}

struct Served {
    address: SocketAddr,
    queue: Arc<Store>,
    log: Arc<Mutex<Vec<String>>>,
    stopper: Stopper,
    thread: Option<JoinHandle<Result<(), Failure>>>,
    _dir: TempDir,
}

impl Served {
    fn new(forges: &[Configured<'_>]) -> Served {
        Served::with(rules(forges))
    }

    fn with(rules: Vec<ForgeRules>) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let lock = ServeLock::acquire(dir.path()).unwrap();
        let queue = Arc::new(Store::open(lock, Arc::new(Timestamp::now)).unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let app = IntakeApp { intake: Intake::new(rules, queue.clone(), false), log: Arc::clone(&log) };
        let sockets = vec![bind("127.0.0.1:0").unwrap()];
        let listener =
            Listener::new(sockets, None, Limits::default(), Arc::new(app), Metrics::new(QueueStats::default))
                .unwrap();
        let (address, stopper) = (listener.local_addrs()[0], listener.stopper());
        let thread = Some(std::thread::spawn(|| listener.run(None, &mut || {})));
        Served { address, queue, log, stopper, thread, _dir: dir }
    }

    fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Answered {
        let mut head = format!("POST /webhook HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        ask(self.address, [head.as_bytes(), b"\r\n", body].concat())
    }

    fn last_line(&self) -> String {
        self.log.lock().unwrap().last().unwrap().clone()
    }

    fn jobs(&self) -> usize {
        self.queue.list(None, None, 1000).unwrap().len()
    }

    /// The change of the job that a delivery queued.
    fn change(&self, answered: &Answered) -> Value {
        assert_eq!(answered.status, 202, "{answered:?}");
        let id = JobId(answered.json()["job"].as_i64().unwrap());
        let document: Value = serde_json::from_str(&self.queue.get(id).unwrap().document).unwrap();
        document["change"].clone()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

fn hex_of(secret: &str, body: &[u8]) -> String {
    sign(secret, body).trim_start_matches("sha256=").to_owned()
}

/// A merge in the payload format of GitHub and compatible forges.
fn merge(repository: &str, number: u64) -> Vec<u8> {
    json!({
        "action": "closed", "number": number,
        "pull_request": {
            "number": number, "title": "t", "user": {"login": "u"}, "state": "closed", "merged": true,
            "merge_commit_sha": SHA, "base": {"ref": "main"}, "head": {"sha": HEAD},
        },
        "repository": {"full_name": repository, "clone_url": "https://payload.example.org/x/y.git"},
    })
    .to_string()
    .into_bytes()
}

fn gitlab_merge(project: &str, number: u64) -> Vec<u8> {
    json!({
        "object_kind": "merge_request", "project": {"path_with_namespace": project},
        "object_attributes": {
            "iid": number, "action": "merge", "state": "merged", "target_branch": "main",
            "merge_commit_sha": SHA, "last_commit": {"id": HEAD},
        },
    })
    .to_string()
    .into_bytes()
}

fn form(json: &[u8]) -> Vec<u8> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("payload", std::str::from_utf8(json).unwrap()).finish().into_bytes()
}

/// Gitea's headers, which include those of GitHub and Gogs, each with a signature.
fn gitea_headers<'a>(signature: &'a str, prefixed: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("X-GitHub-Event", "pull_request"),
        ("X-GitHub-Delivery", "d-1"),
        ("X-Gogs-Event", "pull_request"),
        ("X-Gogs-Signature", signature),
        ("X-Gitea-Event", "pull_request"),
        ("X-Gitea-Signature", signature),
        ("X-Hub-Signature", "sha1=2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"),
        ("X-Hub-Signature-256", prefixed),
    ]
}

#[test]
fn a_delivery_builds_only_repositories_of_the_forge_whose_secret_verified_it() {
    let served = Served::new(&[
        (ForgeName::Gitea, "https://one.example.org", &["secret-one"], &["acme/shop", "acme/one"]),
        (ForgeName::Gitea, "https://two.example.org", &["secret-two"], &["acme/shop", "acme/two"]),
        (ForgeName::Github, "https://github.com", &["secret-hub"], &["acme/shop"]),
        (ForgeName::Gitlab, "https://gitlab.com", &[], &["acme/silent"]),
    ]);
    let post = |secret: &str, repository: &str| {
        let body = merge(repository, 5);
        let (bare, prefixed) = (hex_of(secret, &body), sign(secret, &body));
        served.post(&[vec![JSON], gitea_headers(&bare, &prefixed)].concat(), &body)
    };
    let one = served.change(&post("secret-one", "acme/shop"));
    assert_eq!((&one["forge"], &one["forge_url"]), (&json!("gitea"), &json!("https://one.example.org")));
    let two = served.change(&post("secret-two", "ACME/shop"));
    assert_eq!(two["forge_url"], json!("https://two.example.org"), "another repository of the same name");
    assert_eq!(post("secret-one", "acme/shop").json()["decision"], "duplicate");
    assert_eq!(post("secret-one", "acme/two").status, 403);
    assert_eq!(post("secret-two", "acme/one").status, 403);
    assert_eq!(post("secret-hub", "acme/shop").status, 401, "Gitea's headers require Gitea's secret");
    assert_eq!(post("another", "acme/shop").status, 401);
    let body = merge("acme/shop", 5);
    let hub = served.post(
        &[JSON, ("X-GitHub-Event", "pull_request"), ("X-Hub-Signature-256", &sign("secret-hub", &body))],
        &body,
    );
    let hub = served.change(&hub);
    assert_eq!((&hub["forge"], hub.get("forge_url")), (&json!("github"), None));
    let silent = gitlab_merge("acme/silent", 1);
    assert_eq!(served.post(&[JSON, ("X-Gitlab-Token", "")], &silent).status, 401);
    assert_eq!(served.post(&[JSON, ("X-Gitlab-Token", "x")], &silent).status, 401);
    assert!(
        served.last_line().contains("https://gitlab.com has no webhook secret"),
        "{}",
        served.last_line()
    );
    let key = [("X-Event-Key", "pr:merged"), ("X-Hub-Signature", "sha256=00"), JSON];
    assert_eq!(served.post(&key, b"{}").status, 401);
    assert!(served.last_line().contains("no [[forge]] of that kind"), "{}", served.last_line());
    assert_eq!(served.jobs(), 3);
}

#[test]
fn gitea_forgejo_and_gogs_sign_the_json_also_inside_a_form() {
    for (kind, names) in [
        (ForgeName::Gitea, ["X-Gitea-Event", "X-Gitea-Signature"]),
        (ForgeName::Forgejo, ["X-Forgejo-Event", "X-Forgejo-Signature"]),
        (ForgeName::Gogs, ["X-Gogs-Event", "X-Gogs-Signature"]),
    ] {
        let secret = "s3cret-ünï &+%";
        let served = Served::new(&[(kind, "https://h", &["new", secret], &["acme/shop"])]);
        let json = merge("acme/shop", 5);
        let signature = hex_of(secret, &json);
        let headers =
            [(names[0], "pull_request"), (names[1], signature.as_str()), ("X-GitHub-Event", "pull_request")];
        let change = served.change(&served.post(&[&[JSON][..], &headers].concat(), &json));
        assert_eq!(change["forge"], json!(kind.as_str()));
        assert_eq!(change["commit"].is_null(), kind == ForgeName::Gogs, "{change}");
        let form_type = ("Content-Type", "application/x-www-form-urlencoded");
        let again = served.post(&[&[form_type][..], &headers].concat(), &form(&json));
        assert_eq!((again.status, &again.json()["decision"]), (200, &json!("duplicate")), "{kind}");
        let over_form = hex_of(secret, &form(&json));
        let headers = [form_type, headers[0], (names[1], over_form.as_str())];
        assert_eq!(served.post(&headers, &form(&json)).status, 401, "{kind}: over the form, as GitHub signs");
        for signature in ["", "00", &signature[1..], &sign("old", &json)] {
            assert_eq!(
                served.post(&[JSON, (names[0], "pull_request"), (names[1], signature)], &json).status,
                401
            );
        }
    }
}

#[test]
fn forgejos_own_signature_takes_precedence() {
    let served = Served::new(&[(ForgeName::Forgejo, "https://h", &["right"], &["acme/shop"])]);
    let body = merge("acme/shop", 5);
    let (right, wrong) = (hex_of("right", &body), hex_of("wrong", &body));
    let post = |forgejo: Option<&str>, gitea: &str| {
        let mut headers = vec![JSON, ("X-Forgejo-Event", "pull_request"), ("X-Gitea-Event", "pull_request")];
        headers.extend(forgejo.map(|value| ("X-Forgejo-Signature", value)));
        headers.push(("X-Gitea-Signature", gitea));
        served.post(&headers, &body).status
    };
    assert_eq!(post(Some(&wrong), &right), 401);
    assert_eq!(post(Some(""), &right), 401);
    assert_eq!(post(None, &wrong), 401);
    assert_eq!(post(Some(&right), &wrong), 202);
    assert_eq!(post(None, &right), 200);
}

#[test]
fn gitlab_sends_its_token_or_a_recent_signature() {
    let key = STANDARD.encode(b"a key of the tests");
    let whsec = format!("whsec_{key}");
    let served = Served::new(&[(
        ForgeName::Gitlab,
        "https://gitlab.example.org/git",
        &["to ken", "g&+%heim\u{fc}", &whsec],
        &["group/sub/shop", "group/shop"],
    )]);
    let body = gitlab_merge("group/sub/shop", 7);
    let event = ("X-Gitlab-Event", "Merge Request Hook");
    let change = served.change(&served.post(&[JSON, event, ("X-Gitlab-Token", "to ken")], &body));
    assert_eq!((&change["repository"], &change["commit"]), (&json!("group/sub/shop"), &json!(SHA)));
    assert_eq!(served.post(&[JSON, event, ("X-Gitlab-Token", "g&+%heim\u{fc}")], &body).status, 200);
    for token in ["", "to ke", "to ken2", "TO KEN", &key] {
        assert_eq!(served.post(&[JSON, event, ("X-Gitlab-Token", token)], &body).status, 401, "{token}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = |id: &str, at: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"a key of the tests").unwrap();
        mac.update([id.as_bytes(), b".", at.as_bytes(), b".", &body].concat().as_slice());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    let post = |id: &str, at: &str, signature: &str| {
        let headers =
            [JSON, event, ("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)];
        served.post(&headers, &body).status
    };
    let at = now.to_string();
    assert_eq!(post("m-1", &at, &signed("m-1", &at)), 200, "a duplicate");
    let several = format!("v1a,xx v1,AAAA {} v2,x", signed("m-1", &at));
    assert_eq!(post("m-1", &at, &several), 200);
    assert_eq!(post("m-2", &at, &signed("m-1", &at)), 401, "another id");
    assert_eq!(post("m-1", &(now - 1).to_string(), &signed("m-1", &at)), 401, "another time");
    for apart in [-290_i64, 290] {
        let at = (now as i64 + apart).to_string();
        assert_eq!(post("m-1", &at, &signed("m-1", &at)), 200, "{apart}");
    }
    for at in [(now - 310).to_string(), (now + 310).to_string(), format!("+{now}"), String::new(), "x".into()]
    {
        assert_eq!(post("m-1", &at, &signed("m-1", &at)), 401, "{at}");
        assert!(served.last_line().contains("five minutes"), "{}", served.last_line());
    }
    // Merges without a commit are compared by number and head.
    let mut moved: Value = serde_json::from_slice(&gitlab_merge("group/shop", 8)).unwrap();
    moved["object_attributes"]["merge_commit_sha"] = Value::Null;
    let system = [JSON, ("X-Gitlab-Event", "System Hook"), ("X-Gitlab-Token", "to ken")];
    let first = served.post(&system, moved.to_string().as_bytes());
    let change = served.change(&first);
    assert_eq!((&change["commit"], &change["pull_request"]["head"]), (&Value::Null, &json!(HEAD)));
    let second = served.post(&system, moved.to_string().as_bytes());
    assert_eq!((second.status, &second.json()["job"]), (200, &first.json()["job"]));
    moved["object_attributes"]["last_commit"]["id"] = json!(SHA);
    assert_eq!(served.post(&system, moved.to_string().as_bytes()).status, 202, "another head");
}

#[test]
fn both_bitbuckets_sign_with_the_same_header() {
    let served = Served::new(&[
        (ForgeName::Bitbucket, "https://bitbucket.org", &["cloud"], &["acme/shop"]),
        (ForgeName::BitbucketServer, "https://dc", &["server"], &["~ada/shop"]),
    ]);
    let cloud = json!({
        "pullrequest": {"id": 3, "state": "MERGED", "merge_commit": {"hash": "006704dbeab2"},
            "destination": {"branch": {"name": "main"}, "repository": {"full_name": "acme/shop"}}, "source": null},
        "repository": {"full_name": "acme/shop"}, "actor": {"display_name": "Ada"},
    })
    .to_string();
    let server = json!({
        "eventKey": "pr:merged",
        "pullRequest": {"id": 4, "state": "MERGED", "properties": {"mergeCommit": {"id": SHA}},
            "fromRef": {"latestCommit": HEAD},
            "toRef": {"id": "refs/heads/release/1.x", "displayId": "release/1.x",
                "repository": {"slug": "shop", "project": {"key": "~ada"}}}},
    })
    .to_string();
    let post = |key: &str, more: (&str, &str), secret: &str, body: &str| {
        let signature = sign(secret, body.as_bytes());
        served.post(&[JSON, ("X-Event-Key", key), more, ("X-Hub-Signature", &signature)], body.as_bytes())
    };
    let (uuid, request) = (("X-Hook-UUID", "u"), ("X-Request-Id", "r-1"));
    let change = served.change(&post("pullrequest:fulfilled", uuid, "cloud", &cloud));
    assert_eq!(change["commit"], Value::Null);
    assert_eq!(change["pull_request"]["landed_prefix"], "006704dbeab2");
    assert_eq!(post("pullrequest:fulfilled", uuid, "cloud", &cloud).json()["decision"], "duplicate");
    assert_eq!(post("pullrequest:fulfilled", uuid, "server", &cloud).status, 401);
    let change = served.change(&post("pr:merged", request, "server", &server));
    assert_eq!((&change["branch"], &change["commit"]), (&json!("release/1.x"), &json!(SHA)));
    assert_eq!(change["repository"], "~ada/shop");
    assert_eq!(post("pr:merged", request, "cloud", &server).status, 401);
    assert!(served.last_line().starts_with("Some(\"r-1\") Some(\"pr:merged\")"), "{}", served.last_line());
    let ping = post("diagnostics:ping", request, "server", r#"{"test":true}"#);
    assert_eq!((ping.status, ping.json()), (200, json!({"decision": "pong"})));
}

#[test]
fn a_sha_1_signature_alone_is_refused_and_logged_with_the_reason() {
    let served = Served::new(&[(ForgeName::Gitbucket, "https://h", &["secret"], &["acme/shop"])]);
    let body = merge("acme/shop", 5);
    let event = ("X-Github-Event", "pull_request");
    let unsigned = served.post(&[JSON, event], &body);
    assert!(served.last_line().contains("it is not signed"), "{}", served.last_line());
    let sha1 = served
        .post(&[JSON, event, ("X-Hub-Signature", "sha1=2fd4e1c67a2d28fced849ee1bb76e7391b93eb12")], &body);
    assert_eq!((unsigned.status, &unsigned.body), (sha1.status, &sha1.body), "the answers must not differ");
    assert!(
        served.last_line().contains("SHA-1") && served.last_line().contains("4.46"),
        "{}",
        served.last_line()
    );
    let right = served.post(&[JSON, event, ("X-Hub-Signature-256", &sign("secret", &body))], &body);
    let change = served.change(&right);
    assert_eq!((&change["commit"], &change["forge"]), (&Value::Null, &json!("gitbucket")));
}

#[test]
fn every_recording_of_a_real_server_is_accepted() {
    let Some(collection) = collection("recorded deliveries through the listener") else { return };
    for (folder, forge) in [("gogs", ForgeName::Gogs), ("gitbucket", ForgeName::Gitbucket)] {
        let recordings = recordings(&collection.join("recorded").join(folder));
        let mut secrets: Vec<&str> = recordings.iter().map(|recording| recording.secret.as_str()).collect();
        secrets.dedup();
        let served = Served::new(&[
            (ForgeName::Github, "https://github.com", &["of-github"], &["acme/shop"]),
            (forge, "http://127.0.0.1:3900", &secrets, &["acme/shop"]),
        ]);
        let mut merged: std::collections::BTreeSet<String> = Default::default();
        for recording in &recordings {
            let headers: Vec<(&str, &str)> = recording
                .headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .filter(|(name, _)| {
                    !["host", "content-length", "connection"].contains(&&*name.to_lowercase())
                })
                .collect();
            let answered = served.post(&headers, &recording.body);
            let at = format!("{}: {answered:?} {}", recording.name, served.last_line());
            let said = answered.json();
            let job = said["job"].to_string();
            let expected = match (recording.merged, merged.contains(&job)) {
                (false, _) => (200, "skip"),
                (true, false) => (202, "build"),
                // As JSON and as a form, and redelivered by hand.
                (true, true) => (200, "duplicate"),
            };
            assert_eq!((answered.status, said["decision"].as_str().unwrap()), expected, "{at}");
            if recording.merged {
                merged.insert(job);
            }
        }
        assert_eq!((merged.len(), served.jobs()), (4, 4), "{folder}: four merges were recorded");
    }
}

/// The headers of an event of this forge, with its signature over `body`.
fn signed_headers(forge: ForgeName, event: &str, secret: &str, body: &[u8]) -> Vec<(String, String)> {
    let (bare, prefixed) = (hex_of(secret, body), sign(secret, body));
    let headers: Vec<(&str, &str)> = match forge {
        ForgeName::Github => vec![("X-GitHub-Event", event), ("X-Hub-Signature-256", &prefixed)],
        ForgeName::Gitbucket => vec![
            ("X-Github-Event", event),
            ("User-Agent", "Apache-HttpClient/4.5.14 (Java/17.0.15)"),
            ("X-Hub-Signature-256", &prefixed),
        ],
        ForgeName::Gitea => vec![("X-Gitea-Event", event), ("X-Gitea-Signature", &bare)],
        ForgeName::Forgejo => {
            vec![("X-Gitea-Event", event), ("X-Forgejo-Event", event), ("X-Forgejo-Signature", &bare)]
        }
        ForgeName::Gogs => vec![("X-Gogs-Event", event), ("X-Gogs-Signature", &bare)],
        ForgeName::Gitlab => vec![("X-Gitlab-Event", event), ("X-Gitlab-Token", secret)],
        ForgeName::Bitbucket => {
            vec![("X-Event-Key", event), ("X-Hook-UUID", "1"), ("X-Hub-Signature", &prefixed)]
        }
        ForgeName::BitbucketServer => {
            vec![("X-Event-Key", event), ("X-Request-Id", "1"), ("X-Hub-Signature", &prefixed)]
        }
    };
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    headers.chain([("Content-Type".to_owned(), "application/json".to_owned())]).collect()
}

#[test]
fn every_recorded_payload_gets_its_answer_with_the_headers_of_its_forge() {
    let Some(collection) = collection("401 recorded payloads through the listener") else { return };
    let rows = rows(&collection);
    let mut forges: Vec<ForgeRules> = Vec::new();
    for kind in ForgeName::ALL {
        let names: Vec<&str> = rows
            .iter()
            .filter(|row| row.forge == kind.as_str() && !row.repository.is_empty())
            .map(|row| row.repository.as_str())
            .collect();
        let url = format!("https://{kind}.example.org");
        forges.extend(rules(&[(kind, &url, &[kind.as_str()], &names)]));
    }
    let served = Served::with(forges);
    let (mut builds, mut answers) = (0, 0);
    for row in &rows {
        let kind: ForgeName = row.forge.parse().unwrap();
        let body = std::fs::read(collection.join(&row.file)).unwrap();
        for event in row.events.iter().flatten() {
            let headers = signed_headers(kind, event, kind.as_str(), &body);
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let answered = served.post(&headers, &body);
            let at = format!("{} {event}: {answered:?}", row.file);
            answers += 1;
            if row.verdict == "build" {
                assert!(answered.status == 202 || answered.json()["decision"] == "duplicate", "{at}");
                builds += 1;
            } else if answered.status == 403 {
                // The index has no repository for these, so the allow-list has none.
                assert_eq!(row.repository, "", "{at}");
            } else {
                assert_eq!(answered.status, 200, "{at}");
                let decision = answered.json()["decision"].clone();
                assert!(decision == "skip" || decision == "pong" && event == "ping", "{at}");
            }
        }
    }
    assert!(answers >= 401 && builds == 20 + 2, "{answers} {builds}");
}

#[test]
fn evaluate_verifies_a_saved_signature_of_every_forge() {
    let swanci = Swanci::new();
    let key = format!("whsec_{}", STANDARD.encode(b"a key of the tests"));
    let secret = swanci.file("secret", "s3cret-ünï &+%\n").display().to_string();
    let whsec = swanci.file("whsec", &key).display().to_string();
    let word = "s3cret-ünï &+%";
    let (github, gitlab) = (merge("acme/shop", 5), gitlab_merge("group/shop", 5));
    let as_form = form(&github);
    let evaluate = |body: &[u8], more: &[&str], signature: &str| {
        let args = [&["evaluate", "-", "--secret-file", &secret, "--signature", signature], more].concat();
        swanci.pipe(&args, body)
    };
    for (forge, body, signature) in [
        ("github", &github, sign(word, &github)),
        ("github", &as_form, sign(word, &as_form)),
        ("gitbucket", &as_form, sign(word, &as_form)),
        ("gitea", &github, hex_of(word, &github)),
        ("forgejo", &as_form, hex_of(word, &github)),
        ("gogs", &as_form, hex_of(word, &github)),
        ("gitlab", &gitlab, word.to_owned()),
    ] {
        evaluate(body, &["--forge", forge], &signature).ended(0);
        evaluate(body, &["--forge", forge], &signature.replace(['3', '4', '5'], "6"))
            .ended(5)
            .saying(&["the signature does not match"]);
        evaluate(body, &["--forge", forge], "").ended(5);
    }
    evaluate(&gitlab, &[], word).ended(0);
    evaluate(&github, &[], &sign(word, &github)).ended(0);
    let standard = ["evaluate", "-", "--secret-file", &whsec, "--signature", "v1,AAAA"];
    swanci.pipe(&standard, gitlab).ended(2).saying(&["webhook-timestamp", "X-Gitlab-Token"]);
}

#[test]
fn evaluate_uses_the_policy_of_the_repository_on_its_forge() {
    let swanci = Swanci::new();
    let two = "[[forge]]\nkind = 'gitea'\nurl = 'https://one'\n[[forge]]\nkind = 'gitlab'\nurl = 'https://two'\n\
               [[repository]]\nname = 'acme/shop'\nforge = 'https://one'\nbranches = ['release']\n\
               [[repository]]\nname = 'acme/shop'\nforge = 'https://two'\nbranches = ['main']\n";
    swanci.config(two);
    let evaluate = |body: Vec<u8>, forge: &str| swanci.pipe(&["evaluate", "-", "--forge", forge], body);
    let skip = evaluate(merge("acme/shop", 5), "gitea").ended(3).json();
    assert_eq!(skip["change"]["forge_url"], "https://one");
    let build = evaluate(gitlab_merge("Acme/Shop", 5), "gitlab").ended(0).json();
    assert_eq!(build["change"]["forge_url"], "https://two");
    // Nothing is configured for GitHub, so there is no filter.
    assert_eq!(evaluate(merge("acme/shop", 5), "github").ended(0).json()["change"].get("forge_url"), None);
    swanci.config(&two.replace("'gitlab'", "'gitea'"));
    evaluate(merge("acme/shop", 5), "gitea").ended(4).saying(&["several forges", "https://one, https://two"]);
}
