//! A fake of any forge's API, on a real socket: it records requests and gives the test's answers. (`github_api.rs` is a fake
//! of GitHub's webhooks that is checked against the published description.)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test uses")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use tiny_http::{Header, Response, Server};

/// A received request.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    /// Path and query.
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Asked {
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Status and body. A string as the body of a 3xx is its target.
pub type Reply = (u16, Value);

pub struct ForgeApi {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl ForgeApi {
    pub fn start(mut answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> ForgeApi {
        let server = Arc::new(Server::http("127.0.0.1:0").unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (serving, record) = (Arc::clone(&server), Arc::clone(&asked));
        let thread = std::thread::spawn(move || {
            for mut request in serving.incoming_requests() {
                let mut body = String::new();
                request.as_reader().read_to_string(&mut body).unwrap();
                let headers = request.headers().iter();
                let asked = Asked {
                    method: request.method().to_string(),
                    path: request.url().to_owned(),
                    headers: headers
                        .map(|h| (h.field.to_string().to_lowercase(), h.value.to_string()))
                        .collect(),
                    body: serde_json::from_str(&body).unwrap_or(Value::Null),
                };
                let (status, body) = answer(&asked);
                record.lock().unwrap().push(asked);
                let mut response = Response::from_string(body.to_string()).with_status_code(status);
                if let (300..=399, Some(location)) = (status, body.as_str()) {
                    response.add_header(Header::from_bytes("Location", location).unwrap());
                }
                let _ = request.respond(response);
            }
        });
        ForgeApi { server, thread: Some(thread), asked }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.server_addr())
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The request lines, for example `GET /path`.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }
}

impl Drop for ForgeApi {
    fn drop(&mut self) {
        self.server.unblock();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
