//! The ngrok agent's local API (ngrok.com/docs/agent/api, "List tunnels").

use serde::Deserialize;
use ureq::http;

use crate::forge::api::{ApiError, Problem, Server};
use crate::http::shown;

#[derive(Deserialize)]
struct Tunnels {
    tunnels: Vec<Tunnel>,
}

#[derive(Deserialize)]
struct Tunnel {
    public_url: String,
    #[serde(default)]
    config: TunnelConfig,
}

#[derive(Default, Deserialize)]
struct TunnelConfig {
    /// Where the tunnel ends: `http://localhost:8080`, `localhost:8080`, or a port.
    #[serde(default)]
    addr: String,
}

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
    let tunnels: Tunnels = serde_json::from_slice(&answer.body).map_err(|e| protocol(e.to_string()))?;
    choose(&tunnels.tunnels, port).map_err(|detail| ApiError {
        hint: Some("start one with: ngrok http 8080".to_owned()),
        ..ApiError::without_host(Problem::NoTunnel, detail)
    })
}

fn choose(tunnels: &[Tunnel], port: u16) -> Result<String, String> {
    let public: Vec<&Tunnel> = tunnels.iter().filter(|t| t.public_url.starts_with("https://")).collect();
    match public[..] {
        [] if tunnels.is_empty() => Err("ngrok has no tunnel open".to_owned()),
        [] => Err("ngrok has no https tunnel open".to_owned()),
        [one] => Ok(one.public_url.clone()),
        _ => {
            let ours: Vec<&&Tunnel> = public.iter().filter(|t| ends_at(&t.config.addr, port)).collect();
            match ours[..] {
                [one] => Ok(one.public_url.clone()),
                _ => {
                    let all: Vec<String> = public.iter().map(|t| shown(&t.public_url)).collect();
                    Err(format!(
                        "ngrok has several tunnels open, and not one of them alone ends at the \
                         listener's port {port}: {}; give the right one as --url",
                        all.join(", ")
                    ))
                }
            }
        }
    }
}

fn ends_at(address: &str, port: u16) -> bool {
    let last = address.trim_end_matches('/').rsplit([':', '/']).next();
    last.and_then(|text| text.parse::<u16>().ok()) == Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(public_url: &str, addr: &str) -> Tunnel {
        Tunnel { public_url: public_url.to_owned(), config: TunnelConfig { addr: addr.to_owned() } }
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
