//! A registry front that requires Bearer tokens, and the token server that issues them (docker registry token
//! specification), on one real socket in front of a real registry.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::proxy::{Proxy, Reply, Seen};

/// Settings and state of the token server.
#[derive(Debug, Default)]
struct State {
    /// user → password.
    users: HashMap<String, String>,
    /// Users with read access only.
    readers: Vec<String>,
    refresh_token: Option<String>,
    expires_in: Option<u64>,
    /// The realm of the challenge, if it is not this server.
    realm: Option<String>,
    /// token → its scopes.
    tokens: HashMap<String, Vec<String>>,
    given: usize,
}

/// A front with its token server; both end when this is dropped.
pub struct TokenRegistry {
    /// Records the requests; its rules apply after the check of the token.
    pub proxy: Proxy,
    state: Arc<Mutex<State>>,
}

impl TokenRegistry {
    /// A front of `upstream` for this user; without a user, every client gets a token to read.
    pub fn start(upstream: SocketAddr, user: Option<(&str, &str)>) -> TokenRegistry {
        let users = user.into_iter().map(|(u, p)| (u.to_owned(), p.to_owned())).collect();
        let state = Arc::new(Mutex::new(State { users, ..State::default() }));
        let shared = Arc::clone(&state);
        let proxy = Proxy::with_hook(upstream, Box::new(move |seen| judge(&shared, seen)));
        TokenRegistry { proxy, state }
    }

    pub fn host(&self) -> String {
        self.proxy.host()
    }

    /// Sets the lifetime (in seconds) of new tokens; with `None`, it is not stated.
    pub fn expires_in(&self, seconds: Option<u64>) {
        self.state.lock().unwrap().expires_in = seconds;
    }

    /// This user's tokens never include `push`.
    pub fn read_only(&self, user: &str) {
        self.state.lock().unwrap().readers.push(user.to_owned());
    }

    /// Accepts this refresh token by POST.
    pub fn refresh_token(&self, token: &str) {
        self.state.lock().unwrap().refresh_token = Some(token.to_owned());
    }

    /// Sets another realm for tokens.
    pub fn realm(&self, realm: &str) {
        self.state.lock().unwrap().realm = Some(realm.to_owned());
    }

    /// Invalidates all issued tokens.
    pub fn revoke(&self) {
        self.state.lock().unwrap().tokens.clear();
    }

    /// The number of issued tokens.
    pub fn given(&self) -> usize {
        self.state.lock().unwrap().given
    }
}

fn judge(state: &Mutex<State>, seen: &Seen) -> Option<Reply> {
    let mut state = state.lock().unwrap();
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    if path == "/token" {
        return Some(give(&mut state, seen, query));
    }
    let needed = needed(&seen.method, path);
    let token = seen.header("authorization").and_then(|v| v.strip_prefix("Bearer "));
    let held = token.and_then(|token| state.tokens.get(token));
    if held.is_some_and(|held| needed.as_ref().is_none_or(|needed| covers(held, needed))) {
        return None;
    }
    let own = format!("http://{}/token", seen.header("host").unwrap_or(""));
    let realm = state.realm.clone().unwrap_or(own);
    let scope =
        needed.map(|(name, actions)| format!(",scope=\"repository:{name}:{actions}\"")).unwrap_or_default();
    let error = if held.is_some() { ",error=\"insufficient_scope\"" } else { "" };
    Some(
        Reply::new(401)
            .header("WWW-Authenticate", format!("Bearer realm=\"{realm}\",service=\"test\"{scope}{error}"))
            .header("Content-Type", "application/json")
            .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#),
    )
}

/// The repository and actions that a request needs.
fn needed(method: &str, path: &str) -> Option<(String, String)> {
    let rest = path.strip_prefix("/v2/").filter(|rest| !rest.is_empty())?;
    let end = ["/manifests/", "/blobs/", "/tags/"].iter().find_map(|part| rest.find(part))?;
    let actions = if matches!(method, "GET" | "HEAD") { "pull" } else { "pull,push" };
    Some((rest[..end].to_owned(), actions.to_owned()))
}

fn covers(held: &[String], (name, actions): &(String, String)) -> bool {
    held.iter().any(|scope| {
        scope
            .strip_prefix(&format!("repository:{name}:"))
            .is_some_and(|granted| actions.split(',').all(|a| granted.split(',').any(|g| g == a)))
    })
}

/// The token endpoint.
fn give(state: &mut State, seen: &Seen, query: &str) -> Reply {
    let no = Reply::new(401)
        .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#);
    let fields: Vec<(String, String)> = if seen.method == "POST" {
        form_urlencoded::parse(&seen.body).into_owned().collect()
    } else {
        form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    };
    let field =
        |name: &str| fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
    let mut may_push = true;
    if seen.method == "POST" {
        let refresh = field("refresh_token");
        let known = state.refresh_token.as_deref().is_some_and(|token| refresh == [token]);
        if field("grant_type") != ["refresh_token"] || field("client_id").is_empty() || !known {
            return no;
        }
    } else if state.users.is_empty() {
        may_push = false;
    } else {
        let sent = seen.header("authorization");
        let user = state.users.iter().find(|(user, password)| {
            sent == Some(http_auth::basic::encode_credentials(user, password).as_str())
        });
        let Some((user, _)) = user else { return no };
        may_push = !state.readers.contains(user);
    }
    if field("service") != ["test"] {
        return Reply::new(400);
    }
    // A POST has its scopes in one field, separated by spaces; a GET has a field for each.
    let scopes = field("scope")
        .into_iter()
        .flat_map(|s| s.split(' '))
        .map(|scope| if may_push { scope.to_owned() } else { scope.replace(",push", "") });
    let scopes = scopes.collect();
    state.given += 1;
    let token = format!("token-{}", state.given);
    state.tokens.insert(token.clone(), scopes);
    let mut answer = serde_json::json!({});
    answer[if seen.method == "POST" { "access_token" } else { "token" }] = token.into();
    if let Some(seconds) = state.expires_in {
        answer["expires_in"] = seconds.into();
    }
    Reply::new(200).header("Content-Type", "application/json").body(answer.to_string())
}
