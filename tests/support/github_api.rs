//! A fake of GitHub's REST API of repository webhooks, on a real socket. Requests and answers are checked against GitHub's
//! published OpenAPI description (tests/data/github-openapi-hooks.json).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use tiny_http::{Header, Method, Request, Response, Server};

const DESCRIPTION: &str = include_str!("../data/github-openapi-hooks.json");
/// The only repository.
pub const REPOSITORY: &str = "juanswan13/sd2018b-exam2";
/// The token with all permissions.
pub const TOKEN: &str = "ghp_thisIsTheCanaryTokenOfTheTests00";

/// A received request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub body: Value,
}

/// An answer that replaces the API's own.
#[derive(Debug, Clone)]
pub struct Instead {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

#[derive(Default)]
struct State {
    hooks: Vec<Value>,
    /// Newest first, for each hook.
    deliveries: BTreeMap<u64, Vec<Value>>,
    next_id: u64,
    /// The listener's answer to a ping; with `None`, the ping is never listed.
    ping_status: Option<u16>,
    /// The number of entries on each page of a list, regardless of the request.
    page: Option<usize>,
    instead: Vec<(String, String, Instead)>,
    asked: Vec<Asked>,
    broken: Vec<String>,
}

/// The running server; it ends when this is dropped.
pub struct GitHubApi {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
    state: Arc<Mutex<State>>,
}

impl GitHubApi {
    pub fn start() -> GitHubApi {
        let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
        let state = Arc::new(Mutex::new(State { next_id: 100, ping_status: Some(200), ..State::default() }));
        let (serving, shared) = (Arc::clone(&server), Arc::clone(&state));
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        let thread = std::thread::spawn(move || {
            for request in serving.incoming_requests() {
                answer(&description, &shared, request);
            }
        });
        GitHubApi { server, thread: Some(thread), state }
    }

    /// Under a path, like GitHub Enterprise.
    pub fn url(&self) -> String {
        format!("http://{}/api/v3", self.server.server_addr())
    }

    /// Adds an existing webhook.
    pub fn has_hook(&self, url: &str, events: &[&str]) -> u64 {
        let mut state = self.state.lock().unwrap();
        let config = json!({"url": url, "content_type": "json", "insecure_ssl": "0", "secret": "old-secret"});
        let body = json!({"name": "web", "active": true, "events": events, "config": config});
        state.add_hook(&body)["id"].as_u64().unwrap()
    }

    /// Adds the newest delivery of a webhook.
    pub fn delivered(&self, hook: u64, guid: &str, event: &str, status_code: u16, at: &str) -> u64 {
        self.state.lock().unwrap().deliver(hook, guid, event, status_code, at, false)
    }

    /// Sets the listener's answer to a ping; with `None`, GitHub never lists the ping.
    pub fn pings_end_with(&self, status: Option<u16>) {
        self.state.lock().unwrap().ping_status = status;
    }

    /// Sets the number of entries on each page.
    pub fn pages_of(&self, entries: usize) {
        self.state.lock().unwrap().page = Some(entries);
    }

    /// Replaces the answer to requests with this method and this end of the path.
    pub fn instead(&self, method: &str, path_end: &str, instead: Instead) {
        self.state.lock().unwrap().instead.push((method.to_owned(), path_end.to_owned(), instead));
    }

    /// The webhooks, with their secrets.
    pub fn hooks(&self) -> Vec<Value> {
        self.state.lock().unwrap().hooks.clone()
    }

    /// The requests with this method.
    pub fn asked(&self, method: &str) -> Vec<Asked> {
        self.state.lock().unwrap().asked.iter().filter(|a| a.method == method).cloned().collect()
    }

    /// Differences from GitHub's description.
    pub fn against_the_description(&self) -> Vec<String> {
        self.state.lock().unwrap().broken.clone()
    }

    /// Fails if a request or an answer differs from GitHub's description.
    pub fn assert_kept_to_the_description(&self) {
        let state = self.state.lock().unwrap();
        assert!(state.broken.is_empty(), "against GitHub's description: {:#?}", state.broken);
        assert!(!state.asked.is_empty(), "there was no request");
    }
}

impl Drop for GitHubApi {
    fn drop(&mut self) {
        self.server.unblock();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl State {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn add_hook(&mut self, body: &Value) -> Value {
        let id = self.id();
        let url = format!("https://api.github.com/repos/{REPOSITORY}/hooks/{id}");
        let hook = json!({
            "type": "Repository", "id": id, "name": "web", "active": body["active"], "events": body["events"],
            "config": body["config"], "updated_at": "2026-11-22T12:00:00Z", "created_at": "2026-11-22T12:00:00Z",
            "url": url, "test_url": format!("{url}/test"), "ping_url": format!("{url}/pings"),
            "deliveries_url": format!("{url}/deliveries"),
            "last_response": {"code": null, "status": "unused", "message": null},
        });
        self.hooks.push(hook.clone());
        hook
    }

    fn deliver(&mut self, hook: u64, guid: &str, event: &str, code: u16, at: &str, redelivery: bool) -> u64 {
        let id = self.id();
        let status = if code == 200 { "OK" } else { "failed to connect" };
        let action = (event == "pull_request").then_some("closed");
        let delivery = json!({
            "id": id, "guid": guid, "delivered_at": at, "redelivery": redelivery, "duration": 0.27,
            "status": status, "status_code": code, "event": event, "action": action,
            "installation_id": null, "repository_id": 155000000, "throttled_at": null,
        });
        self.deliveries.entry(hook).or_default().insert(0, delivery);
        id
    }

    fn shown(&self, hook: &Value) -> Value {
        let mut shown = hook.clone();
        if shown["config"]["secret"].is_string() {
            shown["config"]["secret"] = "********".into();
        }
        shown
    }
}

/// An answer before it is sent.
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Option<Value>,
}

impl Reply {
    fn json(status: u16, body: Value) -> Reply {
        Reply { status, headers: Vec::new(), body: Some(body) }
    }
}

fn problem(status: u16, message: &str) -> Reply {
    let url = "https://docs.github.com/rest/repos/webhooks";
    Reply::json(status, json!({"message": message, "documentation_url": url, "status": status.to_string()}))
}

fn answer(description: &Value, state: &Mutex<State>, mut request: Request) {
    let mut body = String::new();
    request.as_reader().read_to_string(&mut body).unwrap();
    let method = request.method().clone();
    let path = request.url().to_owned();
    let mut state = state.lock().unwrap();
    let parsed =
        if body.is_empty() { Value::Null } else { serde_json::from_str(&body).unwrap_or(Value::Null) };
    state.asked.push(Asked { method: method.to_string(), path: path.clone(), body: parsed.clone() });

    let bare = path.split('?').next().unwrap().to_owned();
    let instead = state.instead.iter().find(|(m, end, _)| *m == method.to_string() && bare.ends_with(end));
    if let Some((_, _, instead)) = instead.cloned() {
        let mut response = Response::from_string(instead.body).with_status_code(instead.status);
        for (name, value) in instead.headers {
            response.add_header(Header::from_bytes(name, value).unwrap());
        }
        let _ = request.respond(response);
        return;
    }

    let mut broken = Vec::new();
    let operation = find(description, &method, &bare, &mut broken);
    check_request(&request, operation.as_ref(), &path, &body, &mut broken);
    let reply = if header(&request, "Authorization") == Some(&format!("Bearer {TOKEN}")) {
        match &operation {
            Some(operation) => act(&mut state, operation, &path, &parsed, &base(&request)),
            None => problem(404, "Not Found"),
        }
    } else {
        problem(401, "Bad credentials")
    };
    if let Some(operation) = &operation {
        check_answer(operation, &reply, &mut broken);
    }
    state.broken.extend(broken);
    let text = reply.body.map(|body| body.to_string()).unwrap_or_default();
    let mut response = Response::from_string(text).with_status_code(reply.status);
    for (name, value) in reply.headers {
        response.add_header(Header::from_bytes(name, value).unwrap());
    }
    let _ = request.respond(response);
}

fn header<'r>(request: &'r Request, name: &'static str) -> Option<&'r str> {
    request.headers().iter().find(|h| h.field.equiv(name)).map(|h| h.value.as_str())
}

fn base(request: &Request) -> String {
    format!("http://{}", header(request, "Host").unwrap_or(""))
}

/// An operation of the description, and the parameters in its path.
struct Operation {
    id: String,
    spec: Value,
    parameters: BTreeMap<String, String>,
}

impl Operation {
    fn number(&self, name: &str) -> u64 {
        self.parameters[name].parse().unwrap()
    }
}

fn find(description: &Value, method: &Method, path: &str, broken: &mut Vec<String>) -> Option<Operation> {
    let asked: Vec<&str> = path.strip_prefix("/api/v3")?.split('/').collect();
    for (template, item) in description["paths"].as_object().unwrap() {
        let parts: Vec<&str> = template.split('/').collect();
        let fits = parts.len() == asked.len()
            && parts.iter().zip(&asked).all(|(part, is)| part.starts_with('{') || part == is);
        let Some(spec) = item.get(method.to_string().to_lowercase()).filter(|_| fits) else { continue };
        let parameters = parts.iter().zip(&asked).filter(|(part, _)| part.starts_with('{'));
        let parameters = parameters.map(|(p, is)| (p.trim_matches(['{', '}']).to_owned(), (*is).to_owned()));
        let id = spec["operationId"].as_str().unwrap().to_owned();
        return Some(Operation { id, spec: spec.clone(), parameters: parameters.collect() });
    }
    broken.push(format!("{method} {path} is not in the description"));
    None
}

/// OpenAPI 3.0 has `nullable` instead of JSON Schema's type `null`.
fn as_json_schema(schema: &Value) -> Value {
    match schema {
        Value::Array(list) => list.iter().map(as_json_schema).collect(),
        Value::Object(object) => {
            let mut schema: serde_json::Map<String, Value> =
                object.iter().map(|(key, value)| (key.clone(), as_json_schema(value))).collect();
            let nullable = schema.get("nullable") == Some(&Value::Bool(true));
            if let (true, Some(Value::String(of))) = (nullable, schema.get("type").cloned()) {
                schema.insert("type".to_owned(), json!([of, "null"]));
            }
            Value::Object(schema)
        }
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => plain.clone(),
    }
}

fn hold(schema: &Value, value: &Value, what: &str, broken: &mut Vec<String>) {
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft4)
        .should_validate_formats(true)
        .build(&as_json_schema(schema))
        .unwrap();
    for error in validator.iter_errors(value) {
        broken.push(format!("{what}: {error} at {}", error.instance_path()));
    }
}

fn check_request(
    request: &Request,
    operation: Option<&Operation>,
    path: &str,
    body: &str,
    broken: &mut Vec<String>,
) {
    let accept = header(request, "Accept");
    if accept != Some("application/vnd.github+json") {
        broken.push(format!("Accept is {accept:?}"));
    }
    if header(request, "X-GitHub-Api-Version") != Some("2022-11-28") {
        broken.push("no API version".to_owned());
    }
    // GitHub refuses requests without one.
    if !header(request, "User-Agent").is_some_and(|agent| agent.starts_with("swanci/")) {
        broken.push("no User-Agent".to_owned());
    }
    let Some(operation) = operation else { return };
    let what = &operation.id;
    let described = operation.spec["parameters"].as_array().cloned().unwrap_or_default();
    let mut given: Vec<(String, String, &str)> =
        operation.parameters.iter().map(|(name, value)| (name.clone(), value.clone(), "path")).collect();
    let query = path.split_once('?').map_or("", |(_, query)| query);
    given.extend(
        form_urlencoded::parse(query.as_bytes()).map(|(k, v)| (k.into_owned(), v.into_owned(), "query")),
    );
    for (name, value, place) in given {
        match described.iter().find(|p| p["name"] == *name && p["in"] == place) {
            None => broken.push(format!("{what}: {place} parameter {name} is not in the description")),
            Some(parameter) => {
                let typed = match parameter["schema"]["type"].as_str() {
                    Some("integer") => value.parse::<u64>().map_or(Value::String(value), Value::from),
                    _ => Value::String(value),
                };
                hold(&parameter["schema"], &typed, &format!("{what}: {name}"), broken);
            }
        }
    }
    match operation.spec.get("requestBody") {
        None if body.is_empty() => {}
        None => broken.push(format!("{what} has an unexpected body")),
        Some(described) => {
            if header(request, "Content-Type") != Some("application/json") {
                broken.push(format!("{what}: the content type is {:?}", header(request, "Content-Type")));
            }
            match serde_json::from_str::<Value>(body) {
                Ok(value) => {
                    let schema = &described["content"]["application/json"]["schema"];
                    hold(schema, &value, &format!("{what}: request"), broken);
                    // The description allows any key here; GitHub ignores a wrong one.
                    for (parent, schema, value) in
                        [("", schema, &value), ("config.", &schema["properties"]["config"], &value["config"])]
                    {
                        for key in value.as_object().into_iter().flatten().map(|(key, _)| key) {
                            if schema["properties"].get(key).is_none() {
                                broken.push(format!("{what}: {parent}{key} is not in the description"));
                            }
                        }
                    }
                }
                Err(error) => broken.push(format!("{what}: the body is not JSON: {error}")),
            }
        }
    }
}

fn check_answer(operation: &Operation, reply: &Reply, broken: &mut Vec<String>) {
    // GitHub gives this answer everywhere, but does not describe it.
    if reply.status == 401 {
        return;
    }
    let what = format!("{}: answer {}", operation.id, reply.status);
    let Some(described) = operation.spec["responses"].get(reply.status.to_string()) else {
        broken.push(format!("{what} is not in the description"));
        return;
    };
    match (&reply.body, described["content"]["application/json"].get("schema")) {
        (Some(body), Some(schema)) => hold(schema, body, &what, broken),
        (None, None) => {}
        (Some(_), None) => broken.push(format!("{what} has no body in the description")),
        (None, Some(_)) => broken.push(format!("{what} has a body in the description")),
    }
}

fn act(state: &mut State, operation: &Operation, path: &str, body: &Value, base: &str) -> Reply {
    let repository = format!("{}/{}", operation.parameters["owner"], operation.parameters["repo"]);
    if repository != REPOSITORY {
        return problem(404, "Not Found");
    }
    let hook = operation.parameters.get("hook_id").map(|id| id.parse::<u64>().unwrap());
    let position = hook.and_then(|id| state.hooks.iter().position(|hook| hook["id"] == id));
    if hook.is_some() && position.is_none() {
        return problem(404, "Not Found");
    }
    match (operation.id.as_str(), position) {
        ("repos/list-webhooks", _) => {
            let all: Vec<Value> = state.hooks.iter().map(|hook| state.shown(hook)).collect();
            page(state.page, &all, path, base, "page")
        }
        ("repos/create-webhook", _) => {
            if state.hooks.iter().any(|hook| hook["config"]["url"] == body["config"]["url"]) {
                let errors = json!([{"resource": "Hook", "code": "custom", "message": "Hook already exists on this repository"}]);
                return Reply::json(
                    422,
                    json!({"message": "Validation Failed", "errors": errors,
                    "documentation_url": "https://docs.github.com/rest/repos/webhooks#create-a-repository-webhook"}),
                );
            }
            let hook = state.add_hook(body);
            Reply::json(201, state.shown(&hook))
        }
        ("repos/update-webhook", Some(at)) => {
            for key in ["active", "events", "config"] {
                if let Some(value) = body.get(key) {
                    state.hooks[at][key] = value.clone();
                }
            }
            Reply::json(200, state.shown(&state.hooks[at]))
        }
        ("repos/ping-webhook", Some(_)) => {
            if let Some(status) = state.ping_status {
                let now = jiff::Timestamp::now().to_string();
                let guid = format!("ping-{}", state.next_id);
                state.deliver(operation.number("hook_id"), &guid, "ping", status, &now, false);
            }
            Reply { status: 204, headers: Vec::new(), body: None }
        }
        ("repos/list-webhook-deliveries", Some(_)) => {
            let all = state.deliveries.get(&operation.number("hook_id")).cloned().unwrap_or_default();
            page(state.page, &all, path, base, "cursor")
        }
        ("repos/redeliver-webhook-delivery", Some(_)) => {
            let (hook, id) = (operation.number("hook_id"), operation.number("delivery_id"));
            let all = state.deliveries.get(&hook).cloned().unwrap_or_default();
            let Some(old) = all.iter().find(|delivery| delivery["id"] == id) else {
                return problem(400, "This delivery can no longer be redelivered");
            };
            let (guid, event) = (old["guid"].as_str().unwrap(), old["event"].as_str().unwrap());
            state.deliver(hook, guid, event, 200, &jiff::Timestamp::now().to_string(), true);
            Reply::json(202, json!({}))
        }
        other => panic!("the harness does not answer {other:?}"),
    }
}

/// One page of a list, with its link to the next.
fn page(size: Option<usize>, all: &[Value], path: &str, base: &str, key: &str) -> Reply {
    let (bare, query) = path.split_once('?').unwrap_or((path, ""));
    let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let asked: usize = query.get("per_page").map_or(30, |n| n.parse().unwrap());
    let size = size.unwrap_or(asked).min(asked);
    // Pages are numbered; a cursor is an opaque string.
    let number: usize = match query.get(key) {
        Some(word) => word.trim_start_matches("v1_").parse().unwrap(),
        None => 1,
    };
    let begin = ((number - 1) * size).min(all.len());
    let end = (begin + size).min(all.len());
    let mut reply = Reply::json(200, all[begin..end].to_vec().into());
    if end < all.len() {
        let next = if key == "page" { (number + 1).to_string() } else { format!("v1_{}", number + 1) };
        reply
            .headers
            .push(("Link".to_owned(), format!("<{base}{bare}?per_page={asked}&{key}={next}>; rel=\"next\"")));
    }
    reply
}
