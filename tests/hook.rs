//! `swanci hook` against a server that follows GitHub's published API description, and against one like ngrok's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::forge_api::{Asked, ForgeApi};
use crate::support::github_api::{GitHubApi, Instead, REPOSITORY, TOKEN};
use crate::support::program::{Ran, swanci};
use crate::support::registry::Ca;
use crate::support::tls_front;

const SECRET: &str = "the-webhook-secret-of-the-tests";
const URL: &str = "https://ci.example.org/webhook";

/// A folder with a configuration like that of `init`.
fn site() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let config = format!(
        "state_dir = \"state\"\n[serve]\nsecret_file = \"secret\"\n[[repository]]\nname = \"{REPOSITORY}\"\n"
    );
    std::fs::write(dir.path().join("swanci.toml"), config).unwrap();
    dir
}

fn hook(dir: &Path, api: &GitHubApi, arguments: &[&str]) -> Ran {
    let url = api.url();
    let all = [&["hook"], arguments, &["--api-url", &url]].concat();
    let ran = swanci(dir, &[("GITHUB_TOKEN", TOKEN)], &all);
    assert!(!ran.out.contains(TOKEN) && !ran.err.contains(TOKEN), "the token is shown: {ran:?}");
    assert!(!ran.out.contains(SECRET) && !ran.err.contains(SECRET), "the secret is shown: {ran:?}");
    ran
}

fn ago(hours: i64) -> String {
    let second = jiff::Timestamp::now().as_second() - hours * 3600;
    jiff::Timestamp::from_second(second).unwrap().to_string()
}

fn gives(status: u16, headers: &[(&str, &str)], body: &str) -> Instead {
    let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Instead { status, headers, body: body.to_owned() }
}

#[test]
fn installing_creates_the_webhook_that_serve_expects() {
    let (dir, api) = (site(), GitHubApi::start());
    let ran = hook(dir.path(), &api, &["install", "--url", URL, "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["outcome"], "created");
    let hooks = api.hooks();
    assert_eq!(hooks.len(), 1);
    assert_eq!(hooks[0]["events"], json!(["pull_request"]));
    assert_eq!(hooks[0]["active"], true);
    let config = json!({"url": URL, "content_type": "json", "insecure_ssl": "0", "secret": SECRET});
    assert_eq!(hooks[0]["config"], config);
    api.assert_kept_to_the_description();
}

#[test]
fn the_test_server_detects_requests_that_github_does_not_describe() {
    for (method, path, body, says) in [
        ("POST", "hooks", r#"{"name":"web","events":"pull_request"}"#, "is not of type"),
        ("POST", "hooks", r#"{"config":{"uri":"https://x/webhook"},"events":[]}"#, "config.uri is not in"),
        ("POST", "hooks", r#"{"config":{"url":"no url"},"events":[]}"#, "is not a \"uri\""),
        ("GET", "hooks?per_page=many", "", "is not of type"),
        ("GET", "hooks?limit=1", "", "parameter limit is not in"),
        ("GET", "hooks/7/pings", "", "is not in the description"),
        ("PUT", "hooks", "", "is not in the description"),
    ] {
        let api = GitHubApi::start();
        let address: std::net::SocketAddr = api.url().split('/').nth(2).unwrap().parse().unwrap();
        let mut client = crate::support::http::Client::connect(address);
        client.send(format!(
            "{method} /api/v3/repos/{REPOSITORY}/{path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: swanci/0\r\n\
             Accept: application/vnd.github+json\r\nX-GitHub-Api-Version: 2022-11-28\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.answer().unwrap();
        let against = api.against_the_description();
        assert!(against.len() == 1 && against[0].contains(says), "{method} {path} {body}: {against:?}");
    }
}

#[test]
fn installing_twice_leaves_one_webhook() {
    let (dir, api) = (site(), GitHubApi::start());
    let first = hook(dir.path(), &api, &["install", "--url", URL, "--json"]).json();
    let before = api.hooks();
    let second = hook(dir.path(), &api, &["install", "--url", URL, "--json"]).json();
    assert_eq!((&second["outcome"], &second["id"]), (&json!("updated"), &first["id"]));
    assert_eq!(api.hooks(), before);
    api.assert_kept_to_the_description();
}

#[test]
fn a_new_tunnel_address_updates_the_installed_webhook() {
    let (dir, api) = (site(), GitHubApi::start());
    hook(dir.path(), &api, &["install", "--url", "https://one.ngrok.app"]);
    let ran = hook(dir.path(), &api, &["install", "--url", "https://two.ngrok.app/other/path"]);
    assert!(ran.out.contains("before, it delivered to https://one.ngrok.app/webhook"), "{ran:?}");
    // Another machine has no state, and recognises the webhook by its path and events.
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    hook(dir.path(), &api, &["install", "--url", "https://three.ngrok.app/other/path"]);
    let hooks = api.hooks();
    assert_eq!(hooks.len(), 1, "{hooks:?}");
    assert_eq!(hooks[0]["config"]["url"], "https://three.ngrok.app/other/path");
    api.assert_kept_to_the_description();
}

#[test]
fn other_webhooks_are_not_changed() {
    let (dir, api) = (site(), GitHubApi::start());
    api.has_hook("https://chat.example.org/webhook", &["push", "pull_request"]);
    api.has_hook("https://other.example.org/hooks/1", &["pull_request"]);
    let before = api.hooks();
    assert_eq!(hook(dir.path(), &api, &["install", "--url", URL]).code, 0);
    let after = api.hooks();
    assert_eq!(after.len(), 3);
    assert_eq!(after[..2], before[..]);
}

#[test]
fn an_ambiguous_webhook_is_not_changed_without_an_id() {
    let (dir, api) = (site(), GitHubApi::start());
    api.has_hook("https://a.example.org/webhook", &["pull_request"]);
    let second = api.has_hook("https://b.example.org/webhook", &["pull_request"]);
    let ran = hook(dir.path(), &api, &["install", "--url", URL]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("https://a.example.org/webhook") && ran.err.contains("--id"), "{ran:?}");
    assert!(api.asked("PATCH").is_empty() && api.asked("POST").is_empty());
    let ran = hook(dir.path(), &api, &["install", "--url", URL, "--id", &second.to_string()]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(api.hooks()[1]["config"]["url"], URL);
    assert_eq!(api.hooks()[0]["config"]["url"], "https://a.example.org/webhook");
}

#[test]
fn the_webhook_is_found_on_a_later_page() {
    let (dir, api) = (site(), GitHubApi::start());
    for i in 0..5 {
        api.has_hook(&format!("https://other.example.org/{i}"), &["push"]);
    }
    let ours = api.has_hook(URL, &["pull_request"]);
    api.pages_of(2);
    let ran = hook(dir.path(), &api, &["install", "--url", URL, "--json"]);
    assert_eq!(ran.json()["id"], ours, "{ran:?}");
    assert_eq!(api.asked("GET").len(), 3);
    api.assert_kept_to_the_description();
}

#[test]
fn the_token_is_sent_only_to_the_api() {
    let (dir, api, trap) = (site(), GitHubApi::start(), GitHubApi::start());
    let elsewhere = format!("{}/repos/{REPOSITORY}/hooks", trap.url());
    api.instead("GET", "/hooks", gives(301, &[("Location", &elsewhere)], ""));
    let ran = hook(dir.path(), &api, &["install", "--url", URL]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("moved") && ran.err.contains("renamed"), "{ran:?}");

    let api = GitHubApi::start();
    let next = format!("<{elsewhere}?page=2>; rel=\"next\"");
    api.instead("GET", "/hooks", gives(200, &[("Link", &next)], "[]"));
    let ran = hook(dir.path(), &api, &["install", "--url", URL]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the next page is elsewhere"), "{ran:?}");
    assert!(trap.asked("GET").is_empty(), "the other server got a request");

    let ran = swanci(
        dir.path(),
        &[("GITHUB_TOKEN", TOKEN)],
        &["hook", "install", "--url", URL, "--api-url", "http://ghe.example.org/api/v3"],
    );
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("plain text"), "{ran:?}");
}

#[test]
fn every_refusal_has_a_hint() {
    let message = |text: &str| json!({"message": text}).to_string();
    let unprocessable = json!({"message": "Validation Failed", "errors": [
        {"resource": "Hook", "code": "custom", "message": "url is not supported because it isn't reachable over the public Internet (localhost)"}]});
    for (status, headers, body, code, says) in [
        (401, vec![], message("Bad credentials"), 6, vec!["Bad credentials", "GITHUB_TOKEN"]),
        (
            403,
            vec![],
            message("Resource not accessible by personal access token"),
            6,
            vec!["Webhooks: write", "admin:repo_hook"],
        ),
        (404, vec![], message("Not Found"), 6, vec!["owner/name", "admin:repo_hook"]),
        (422, vec![], unprocessable.to_string(), 1, vec!["isn't reachable", "--url"]),
        (
            403,
            vec![("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1795348800")],
            message("API rate limit exceeded"),
            6,
            vec!["too many requests", "try again after 2026-11-22"],
        ),
        (429, vec![("Retry-After", "17")], message("secondary rate limit"), 6, vec!["try again in 17 s"]),
        (500, vec![], "<html>".to_owned(), 6, vec!["500"]),
        (200, vec![], "<html>".to_owned(), 1, vec!["an unexpected answer"]),
    ] {
        let (dir, api) = (site(), GitHubApi::start());
        api.instead("POST", "/hooks", gives(status, &headers, &body));
        let ran = hook(dir.path(), &api, &["install", "--url", URL]);
        assert_eq!(ran.code, code, "{status}: {ran:?}");
        assert!(says.iter().all(|words| ran.err.contains(words)), "{status}: {ran:?}");
        assert!(ran.out.is_empty(), "{ran:?}");
        assert_eq!(api.asked("POST").len(), 1, "a POST is not repeated");
    }
}

#[test]
fn a_transient_failure_of_a_list_is_retried() {
    let (dir, api) = (site(), GitHubApi::start());
    api.instead("GET", "/hooks", gives(502, &[], ""));
    assert_eq!(hook(dir.path(), &api, &["install", "--url", URL]).code, 6);
    assert_eq!(api.asked("GET").len(), 3);
}

#[test]
fn a_missing_token_secret_repository_or_api_is_named() {
    let (dir, api) = (site(), GitHubApi::start());
    let install = ["hook", "install", "--url", URL, "--api-url", &api.url()];
    let ran = swanci(dir.path(), &[], &install);
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("GITHUB_TOKEN") && ran.err.contains("admin:repo_hook"), "{ran:?}");
    let bare = tempfile::tempdir().unwrap();
    let ran = swanci(bare.path(), &[("GH_TOKEN", TOKEN)], &install);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("secret"), "{ran:?}");
    let ran = swanci(bare.path(), &[("GH_TOKEN", TOKEN), ("SWANCI_SECRET", SECRET)], &install);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--repo"), "{ran:?}");
    assert!(api.asked("GET").is_empty());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = swanci(
        dir.path(),
        &[("GH_TOKEN", TOKEN)],
        &["hook", "check", "--api-url", &format!("http://{closed}")],
    );
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("cannot be reached"), "{ran:?}");
}

#[test]
fn a_check_pings_and_shows_the_recent_deliveries() {
    let (dir, api) = (site(), GitHubApi::start());
    let id = api.has_hook(URL, &["pull_request"]);
    api.delivered(id, "one", "pull_request", 502, &ago(3));
    api.delivered(id, "one", "pull_request", 200, &ago(2));
    // An older failed ping, from the setup, is not an error.
    api.delivered(id, "two", "ping", 502, &ago(1));
    let ran = hook(dir.path(), &api, &["check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("pull_request closed") && ran.out.contains("502 failed to connect"), "{ran:?}");
    assert_eq!(api.asked("POST").len(), 1);
    api.assert_kept_to_the_description();
    let document = hook(dir.path(), &api, &["check", "--json"]).json();
    assert_eq!(document["healthy"], true);
    assert_eq!(document["ping"]["status_code"], 200);
    assert_eq!(document["deliveries"].as_array().unwrap().len(), 5);
}

#[test]
fn a_check_fails_if_the_ping_or_the_last_deliveries_failed() {
    let (dir, api) = (site(), GitHubApi::start());
    let id = api.has_hook(URL, &["pull_request"]);
    api.pings_end_with(Some(401));
    let ran = hook(dir.path(), &api, &["check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the ping failed: 401") && ran.err.contains("another secret"), "{ran:?}");

    api.pings_end_with(None);
    let ran = hook(dir.path(), &api, &["check", "--wait", "300ms"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("GitHub shows no ping within 300ms"), "{ran:?}");

    api.pings_end_with(Some(200));
    let lost = api.delivered(id, "lost", "pull_request", 502, &ago(1));
    let ran = hook(dir.path(), &api, &["check", "--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["failed"][0]["id"], lost);
    assert!(ran.err.contains("1 event never arrived") && ran.err.contains("hook redeliver"), "{ran:?}");
    api.assert_kept_to_the_description();
}

#[test]
fn a_check_finds_different_settings() {
    let (dir, api) = (site(), GitHubApi::start());
    let shown = json!([{
        "type": "Repository", "id": 7, "name": "web", "active": false, "events": ["pull_request"],
        "config": {"url": URL, "content_type": "json", "insecure_ssl": "1"},
    }]);
    api.instead("GET", "/hooks", gives(200, &[], &shown.to_string()));
    api.instead("GET", "/deliveries", gives(200, &[], "[]"));
    let ran = hook(dir.path(), &api, &["check", "--no-ping"]);
    assert_eq!(ran.code, 1);
    for problem in ["switched off", "no secret", "does not check the listener's certificate", "hook install"]
    {
        assert!(ran.err.contains(problem), "{problem}: {ran:?}");
    }
    assert!(api.asked("POST").is_empty());
}

#[test]
fn a_check_without_a_webhook_prints_how_to_create_it() {
    let (dir, api) = (site(), GitHubApi::start());
    let ran = hook(dir.path(), &api, &["check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains(&format!("swanci hook install --repo {REPOSITORY}")), "{ran:?}");
}

#[test]
fn failed_deliveries_are_sent_again_once_and_oldest_first() {
    let (dir, api) = (site(), GitHubApi::start());
    let id = api.has_hook(URL, &["pull_request"]);
    api.delivered(id, "too-old", "pull_request", 502, &ago(100));
    let first = api.delivered(id, "a", "pull_request", 502, &ago(50));
    api.delivered(id, "b", "pull_request", 502, &ago(40));
    api.delivered(id, "c", "pull_request", 502, &ago(30));
    api.delivered(id, "ping", "ping", 502, &ago(20));
    let again = api.delivered(id, "b", "pull_request", 504, &ago(10));
    api.delivered(id, "c", "pull_request", 200, &ago(5));
    api.pages_of(2);

    let plan = hook(dir.path(), &api, &["redeliver", "--dry-run"]);
    assert!(plan.out.contains("would send again") && api.asked("POST").is_empty(), "{plan:?}");
    let ran = hook(dir.path(), &api, &["redeliver", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let sent: Vec<Value> =
        ran.json()["redelivered"].as_array().unwrap().iter().map(|d| d["id"].clone()).collect();
    assert_eq!(sent, [json!(first), json!(again)]);
    let asked: Vec<String> = api.asked("POST").into_iter().map(|asked| asked.path).collect();
    let attempt =
        |delivery: u64| format!("/api/v3/repos/{REPOSITORY}/hooks/{id}/deliveries/{delivery}/attempts");
    assert_eq!(asked, [attempt(first), attempt(again)]);
    // The server delivered them, so nothing remains.
    let ran = hook(dir.path(), &api, &["redeliver"]);
    assert!(ran.code == 0 && ran.out.contains("nothing to send again"), "{ran:?}");
    assert_eq!(api.asked("POST").len(), 2);
    api.assert_kept_to_the_description();
}

#[test]
fn only_deliveries_younger_than_since_are_sent_again() {
    let (dir, api) = (site(), GitHubApi::start());
    let id = api.has_hook(URL, &["pull_request"]);
    api.delivered(id, "a", "pull_request", 502, &ago(5));
    let young = api.delivered(id, "b", "pull_request", 502, &ago(1));
    let ran = hook(dir.path(), &api, &["redeliver", "--since", "2h", "--json"]);
    assert_eq!(ran.json()["redelivered"].as_array().unwrap().len(), 1, "{ran:?}");
    assert_eq!(ran.json()["redelivered"][0]["id"], young);
}

#[test]
fn a_refused_redelivery_does_not_stop_the_others_but_a_rate_limit_does() {
    let (dir, api) = (site(), GitHubApi::start());
    let id = api.has_hook(URL, &["pull_request"]);
    let first = api.delivered(id, "a", "pull_request", 502, &ago(2));
    api.delivered(id, "b", "pull_request", 502, &ago(1));
    let end = format!("/{first}/attempts");
    api.instead("POST", &end, gives(422, &[], &json!({"message": "too old"}).to_string()));
    let ran = hook(dir.path(), &api, &["redeliver", "--json"]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.json()["refused"][0]["delivery"]["id"], first, "{ran:?}");
    assert_eq!(ran.json()["redelivered"].as_array().unwrap().len(), 1);
    assert!(ran.err.contains("catchup"), "{ran:?}");

    let api = GitHubApi::start();
    let id = api.has_hook(URL, &["pull_request"]);
    api.delivered(id, "a", "pull_request", 502, &ago(2));
    api.delivered(id, "b", "pull_request", 502, &ago(1));
    api.instead("POST", "/attempts", gives(429, &[("Retry-After", "60")], ""));
    let ran = hook(dir.path(), &api, &["redeliver"]);
    assert_eq!(ran.code, 6);
    assert_eq!(api.asked("POST").len(), 1);
}

/// An agent like ngrok's, with these tunnels: (public address, local address).
fn ngrok(tunnels: &[(&str, &str)]) -> (String, Arc<tiny_http::Server>, std::thread::JoinHandle<()>) {
    let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
    let tunnels: Vec<Value> = tunnels
        .iter()
        .map(|(public, addr)| {
            json!({"ID": "1", "name": "command_line", "uri": "/api/tunnels/command_line", "public_url": public,
                "proto": "https", "config": {"addr": addr, "inspect": true}, "metrics": {}})
        })
        .collect();
    let body = json!({"tunnels": tunnels, "uri": "/api/tunnels"}).to_string();
    let serving = Arc::clone(&server);
    let thread = std::thread::spawn(move || {
        for request in serving.incoming_requests() {
            let found = request.url() == "/api/tunnels";
            let answer = tiny_http::Response::from_string(if found { &body } else { "" });
            let _ = request.respond(answer.with_status_code(if found { 200 } else { 404 }));
        }
    });
    (format!("http://{}", server.server_addr()), server, thread)
}

fn with_ngrok(tunnels: &[(&str, &str)], test: impl FnOnce(&str)) {
    let (url, server, thread) = ngrok(tunnels);
    test(&url);
    server.unblock();
    thread.join().unwrap();
}

#[test]
fn the_public_address_comes_from_ngrok() {
    let dir = site();
    with_ngrok(&[("https://swan.ngrok.app", "http://localhost:8080")], |ngrok| {
        let ran = swanci(dir.path(), &[], &["hook", "url", "--ngrok-api", ngrok]);
        assert_eq!((ran.code, ran.out.as_str()), (0, "https://swan.ngrok.app/webhook\n"), "{ran:?}");
        let ran = swanci(dir.path(), &[], &["hook", "url", "--json", "--ngrok-api", ngrok]);
        assert_eq!(ran.json(), json!({"schema": 1, "url": "https://swan.ngrok.app/webhook"}));
        let api = GitHubApi::start();
        let ran = hook(dir.path(), &api, &["install", "--ngrok-api", ngrok]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(api.hooks()[0]["config"]["url"], "https://swan.ngrok.app/webhook");
    });
    let two =
        [("https://web.ngrok.app", "http://localhost:3000"), ("https://ci.ngrok.app", "http://swanci:8080")];
    with_ngrok(&two, |ngrok| {
        let ran = swanci(dir.path(), &[], &["hook", "url", "--ngrok-api", ngrok]);
        assert_eq!(ran.out, "https://ci.ngrok.app/webhook\n", "{ran:?}");
    });
}

#[test]
fn without_a_tunnel_it_prints_how_to_open_one() {
    let dir = site();
    with_ngrok(&[], |ngrok| {
        let ran = swanci(dir.path(), &[], &["hook", "url", "--ngrok-api", ngrok]);
        assert_eq!(ran.code, 6);
        assert!(ran.err.contains("no tunnel") && ran.err.contains("ngrok http 8080"), "{ran:?}");
    });
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = swanci(dir.path(), &[], &["hook", "url", "--ngrok-api", &format!("http://{closed}")]);
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("is ngrok running?"), "{ran:?}");
}

// ---- the other forges, against their published APIs

const FORGE_TOKEN: &str = "canary-token-of-another-forge";

/// A forge that stores webhooks in the format of its API.
fn keeps_hooks(kind: &'static str) -> ForgeApi {
    let mut hooks: Vec<Value> = Vec::new();
    let mut next = 40;
    ForgeApi::start(move |asked: &Asked| {
        let path = asked.path.split('?').next().unwrap();
        let id = path.rsplit('/').next().unwrap().to_owned();
        let id_of = |hook: &Value| match &hook["uuid"] {
            Value::String(uuid) => uuid.replace('{', "%7B").replace('}', "%7D"),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                hook["id"].to_string()
            }
        };
        match asked.method.as_str() {
            "GET" if path.ends_with("/events") => {
                let event = |id: u64, status: &str| {
                    json!({"id": id, "url": URL, "trigger": "merge_request_hooks",
                        "request_headers": {"Idempotency-Key": format!("key-{id}")}, "request_data": {},
                        "response_status": status, "execution_duration": 0.2})
                };
                (200, json!([event(9, "200"), event(8, "internal error"), event(7, "502")]))
            }
            "GET" if kind.starts_with("bitbucket") => (200, json!({"values": hooks, "isLastPage": true})),
            "GET" => (200, hooks.clone().into()),
            "POST" if path.ends_with("/resend") => (201, json!({})),
            "POST" if path.ends_with("/webhooks/test") => (200, json!({"response": {"statusCode": 401}})),
            "POST" => {
                next += 1;
                let mut hook = asked.body.clone();
                if kind == "bitbucket" {
                    hook["uuid"] = json!(format!("{{0f-{next}}}"));
                } else {
                    hook["id"] = json!(next);
                }
                hooks.push(hook.clone());
                (201, hook)
            }
            "DELETE" => {
                hooks.retain(|hook| id_of(hook) != id);
                (204, Value::Null)
            }
            _ => {
                let hook = hooks.iter_mut().find(|hook| id_of(hook) == id).unwrap();
                for (key, value) in asked.body.as_object().unwrap() {
                    hook[key] = value.clone();
                }
                // Gitea and Gogs keep the old secret when a webhook is edited.
                (200, hook.clone())
            }
        }
    })
}

/// A folder whose configuration has only this forge, with two secrets.
fn site_of(kind: &str, url: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("new"), SECRET).unwrap();
    std::fs::write(dir.path().join("old"), "the-secret-that-is-being-replaced").unwrap();
    std::fs::write(dir.path().join("token"), FORGE_TOKEN).unwrap();
    let config = format!(
        "state_dir = \"state\"\n[[forge]]\nkind = \"{kind}\"\nurl = \"{url}\"\ntoken_file = \"token\"\n\
         secret_file = [\"new\", \"old\"]\n[[repository]]\nname = \"swan/shop\"\n"
    );
    std::fs::write(dir.path().join("swanci.toml"), config).unwrap();
    dir
}

fn forge_hook(dir: &Path, arguments: &[&str]) -> Ran {
    // GitHub's token is sent to no other forge.
    let environment = [("GITHUB_TOKEN", TOKEN), ("GITHUB_API_URL", "http://127.0.0.1:1")];
    let ran = swanci(dir, &environment, &[&["hook"], arguments].concat());
    for secret in [TOKEN, FORGE_TOKEN, SECRET] {
        assert!(!ran.out.contains(secret) && !ran.err.contains(secret), "a secret is shown: {ran:?}");
    }
    ran
}

#[test]
fn every_forge_gets_one_webhook_with_the_first_secret() {
    let config = json!({"url": URL, "content_type": "json", "secret": SECRET});
    let typed =
        |kind: &str| json!({"type": kind, "active": true, "events": ["pull_request"], "config": config});
    let replaced =
        |base: &str| vec![format!("POST {base}"), format!("POST {base}"), format!("DELETE {base}/41")];
    let edited =
        |method: &str, base: &str, id: &str| vec![format!("POST {base}"), format!("{method} {base}/{id}")];
    for (kind, body, changes, event) in [
        ("gitea", typed("gitea"), replaced("/api/v1/repos/swan/shop/hooks"), "pull_request"),
        ("forgejo", typed("forgejo"), replaced("/api/v1/repos/swan/shop/hooks"), "pull_request"),
        ("gogs", typed("gogs"), replaced("/api/v1/repos/swan/shop/hooks"), "pull_request"),
        (
            "gitbucket",
            json!({"name": "web", "active": true, "events": ["pull_request"],
                "config": {"url": URL, "content_type": "json", "insecure_ssl": "0", "secret": SECRET}}),
            edited("PATCH", "/api/v3/repos/swan/shop/hooks", "41"),
            "pull_request",
        ),
        (
            "gitlab",
            json!({"url": URL, "token": SECRET, "push_events": false, "merge_requests_events": true,
                "enable_ssl_verification": true}),
            edited("PUT", "/api/v4/projects/swan%2Fshop/hooks", "41"),
            "merge_requests_events",
        ),
        (
            "bitbucket",
            json!({"description": "swanci", "url": URL, "active": true, "secret": SECRET,
                "events": ["pullrequest:fulfilled"]}),
            edited("PUT", "/2.0/repositories/swan/shop/hooks", "%7B0f-41%7D"),
            "pullrequest:fulfilled",
        ),
        (
            "bitbucket-server",
            json!({"name": "swanci", "url": URL, "active": true, "events": ["pr:merged"],
                "configuration": {"secret": SECRET}, "sslVerificationRequired": true}),
            edited("PUT", "/rest/api/latest/projects/swan/repos/shop/webhooks", "41"),
            "pr:merged",
        ),
    ] {
        let api = keeps_hooks(kind);
        let dir = site_of(kind, &api.url());
        let ran = forge_hook(dir.path(), &["install", "--url", URL]);
        assert_eq!(ran.code, 0, "{kind}: {ran:?}");
        assert!(ran.out.contains(&format!("of swan/shop: {event} events to {URL}")), "{kind}: {ran:?}");
        // Another machine has no state, and finds the webhook by its URL.
        std::fs::remove_dir_all(dir.path().join("state")).unwrap();
        let again = forge_hook(dir.path(), &["install", "--url", URL, "--json"]);
        assert_eq!(again.json()["outcome"], "updated", "{kind}: {again:?}");
        let asked: Vec<Asked> = api.asked().into_iter().filter(|asked| asked.method != "GET").collect();
        assert_eq!(asked.iter().map(Asked::line).collect::<Vec<_>>(), changes, "{kind}");
        assert!(
            asked.iter().all(|asked| asked.method == "DELETE" || asked.body == body),
            "{kind}: {asked:?}"
        );
        let checked = forge_hook(dir.path(), &["check", "--no-ping", "--json"]);
        assert_eq!(checked.json()["url"], URL, "{kind}: {checked:?}");
    }
}

#[test]
fn without_a_redelivery_api_it_prints_what_to_click() {
    for (kind, says) in [
        ("gitea", "/swan/shop/settings/hooks/41"),
        ("forgejo", "Replay"),
        ("gogs", "Redelivery"),
        ("gitbucket", "/swan/shop/settings/hooks"),
        ("bitbucket", "Resend request"),
        ("bitbucket-server", "/plugins/servlet/webhooks/projects/swan/repos/shop"),
    ] {
        let api = keeps_hooks(kind);
        let dir = site_of(kind, &api.url());
        assert_eq!(forge_hook(dir.path(), &["install", "--url", URL]).code, 0, "{kind}");
        let ran = forge_hook(dir.path(), &["redeliver"]);
        assert_eq!(ran.code, 1, "{kind}: {ran:?}");
        assert!(ran.err.contains("cannot send deliveries again"), "{kind}: {ran:?}");
        assert!(ran.err.contains(says) && ran.err.contains("catchup"), "{kind}: {ran:?}");
    }
}

#[test]
fn a_check_names_the_page_of_deliveries_that_the_api_does_not_list() {
    let api = keeps_hooks("gitea");
    let dir = site_of("gitea", &api.url());
    forge_hook(dir.path(), &["install", "--url", URL]);
    let ran = forge_hook(dir.path(), &["check"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("/swan/shop/settings/hooks/41"), "{ran:?}");
    assert_eq!(api.lines().iter().filter(|line| line.starts_with("POST")).count(), 1, "{:?}", api.lines());

    let api = keeps_hooks("bitbucket-server");
    let dir = site_of("bitbucket-server", &api.url());
    forge_hook(dir.path(), &["install", "--url", URL]);
    let ran = forge_hook(dir.path(), &["check"]);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("the ping failed: 401") && ran.err.contains("another secret"), "{ran:?}");
}

#[test]
fn failed_events_of_gitlab_are_sent_again() {
    let api = keeps_hooks("gitlab");
    let dir = site_of("gitlab", &api.url());
    forge_hook(dir.path(), &["install", "--url", URL]);
    let ran = forge_hook(dir.path(), &["redeliver", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let sent = ran.json();
    let ids: Vec<&Value> = sent["redelivered"].as_array().unwrap().iter().map(|d| &d["id"]).collect();
    assert_eq!(ids, [7, 8]);
    let resends: Vec<String> = api.lines().into_iter().filter(|line| line.ends_with("/resend")).collect();
    let resend = |id: u64| format!("POST /api/v4/projects/swan%2Fshop/hooks/41/events/{id}/resend");
    assert_eq!(resends, [resend(7), resend(8)]);
}

#[test]
fn the_forge_is_the_repositorys_or_the_selected_one() {
    let api = keeps_hooks("gitea");
    let dir = site_of("gitea", &api.url());
    let install = ["install", "--url", URL, "--repo", "swan/other"];
    for forge in ["gitea", &api.url()] {
        let ran = forge_hook(dir.path(), &[&install[..], &["--forge", forge]].concat());
        assert_eq!(ran.code, 0, "{forge}: {ran:?}");
    }
    for (forge, says) in [
        ("forgejo", "no forge of kind forgejo is configured"),
        ("https://elsewhere.example.org", "neither a kind nor the url"),
    ] {
        let ran = forge_hook(dir.path(), &[&install[..], &["--forge", forge]].concat());
        assert!(ran.code == 2 && ran.err.contains(says), "{forge}: {ran:?}");
    }
}

#[test]
fn a_forge_with_a_private_authority_is_trusted_only_with_its_ca_file() {
    let api = keeps_hooks("gitea");
    let inner = api.url().rsplit(':').next().unwrap().parse().unwrap();
    let ca = Ca::new("test");
    let (certificate, key) = ca.server(&["127.0.0.1"]);
    let files = tempfile::tempdir().unwrap();
    let (crt, key_file) = (files.path().join("crt"), files.path().join("key"));
    std::fs::write(&crt, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let port = tls_front::start(&crt, &key_file, inner, files);
    let dir = site_of("gitea", &format!("https://127.0.0.1:{port}"));
    let ran = forge_hook(dir.path(), &["check"]);
    assert!(ran.code == 6 && ran.err.contains("certificate"), "{ran:?}");
    assert!(api.asked().is_empty());
    std::fs::write(dir.path().join("ca.crt"), &ca.pem).unwrap();
    let config = std::fs::read_to_string(dir.path().join("swanci.toml")).unwrap();
    let config = config.replace("token_file", "ca_file = \"ca.crt\"\ntoken_file");
    std::fs::write(dir.path().join("swanci.toml"), config).unwrap();
    let ran = forge_hook(dir.path(), &["check"]);
    assert!(ran.code == 1 && ran.err.contains("has no webhook of swanci's"), "{ran:?}");
    assert_eq!(api.lines(), ["GET /api/v1/repos/swan/shop/hooks?limit=50"]);
}
