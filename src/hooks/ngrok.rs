//! The ngrok agent's local API (ngrok.com/docs/agent/api, "List tunnels").

use serde_json::Value;
use ureq::http;

use crate::forge::api::{ApiError, Problem, Server};
use crate::http::shown;

/// The public https address of the tunnel. With several, the one that ends at `port`, the listener's.
pub(crate) fn public_url(api: &str, port: u16) -> Result<String, ApiError> {
    let server = Server::new(api, true, None)?;
    let at = "asking ngrok for its tunnels";
    let url = server.base.join("api/tunnels").map_err(|e| ApiError::settings(e.to_string()))?;
    let request = http::Request::builder().method("GET").header("Accept", "application/json");
    let answer = server.exchange(request, &url, None, at)?;
    let protocol = |detail: String| server.error(Problem::Protocol, at, detail);
    if answer.status != 200 {
        return Err(protocol(format!("HTTP status {}; is it ngrok's API?", answer.status)));
    }
    let body: Value = serde_json::from_slice(&answer.body).map_err(|e| protocol(e.to_string()))?;
    let tunnels = body["tunnels"].as_array().ok_or_else(|| protocol("no list of tunnels".to_owned()))?;
    choose(tunnels, port).map_err(|detail| ApiError {
        hint: Some("start one with: ngrok http 8080".to_owned()),
        ..ApiError::without_host(Problem::NoTunnel, detail)
    })
}

fn choose(tunnels: &[Value], port: u16) -> Result<String, String> {
    let address = |tunnel: &Value| tunnel["public_url"].as_str().unwrap_or_default().to_owned();
    let public: Vec<&Value> = tunnels.iter().filter(|t| address(t).starts_with("https://")).collect();
    let ours: Vec<&Value> = public.iter().copied().filter(|t| ends_at(&t["config"], port)).collect();
    match (&public[..], &ours[..]) {
        ([], _) if tunnels.is_empty() => Err("ngrok has no tunnel open".to_owned()),
        ([], _) => Err("ngrok has no https tunnel open".to_owned()),
        ([one], _) | (_, [one]) => Ok(address(one)),
        (_, _) => {
            let all: Vec<String> = public.iter().map(|tunnel| shown(&address(tunnel))).collect();
            Err(format!(
                "ngrok has several tunnels open, and not exactly one of them ends at the listener's port {port}: {}; \
                 give the right one as --url",
                all.join(", ")
            ))
        }
    }
}

/// Whether a tunnel ends at this port: `addr` is `http://localhost:8080`, `localhost:8080`, or a port.
fn ends_at(config: &Value, port: u16) -> bool {
    let address = config["addr"].as_str().unwrap_or_default();
    let last = address.trim_end_matches('/').rsplit([':', '/']).next();
    last.and_then(|text| text.parse::<u16>().ok()) == Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(public_url: &str, addr: &str) -> Value {
        serde_json::json!({"public_url": public_url, "config": {"addr": addr}})
    }

    #[test]
    fn the_https_tunnel_to_the_listener_is_taken() {
        let one =
            [tunnel("http://a.ngrok.io", "http://localhost:8080"), tunnel("https://a.ngrok.io", "8080")];
        assert_eq!(choose(&one, 1).unwrap(), "https://a.ngrok.io");
        let two = [tunnel("https://web", "http://localhost:3000"), tunnel("https://ci", "localhost:8080")];
        assert_eq!(choose(&two, 8080).unwrap(), "https://ci");
        assert!(choose(&two, 9).unwrap_err().contains("https://web, https://ci"));
        assert!(choose(&[], 9).is_err());
        assert!(choose(&one[..1], 9).unwrap_err().contains("no https"));
    }
}
