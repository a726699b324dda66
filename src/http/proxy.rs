//! Chooses the proxy for a request like docker (Go's `golang.org/x/net/http/httpproxy`).
//!
//! `HTTPS_PROXY` is for https, `HTTP_PROXY` for http, and `ALL_PROXY` (curl's, not Go's) for both otherwise. An empty
//! variable counts as unset, so that its lower-case form applies. Loopback never uses a proxy.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use crate::model::is_loopback;

#[derive(Debug, Clone, Default)]
pub(crate) struct Proxies {
    https: Option<(&'static str, String)>,
    http: Option<(&'static str, String)>,
    exceptions: Vec<Exception>,
}

/// An entry of `NO_PROXY`, with the port that it is limited to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Exception {
    All,
    Network(IpNet, Option<u16>),
    /// Without a leading dot.
    Domain(String, Option<u16>),
    /// Only the subdomains.
    Below(String, Option<u16>),
}

impl Proxies {
    pub(crate) fn of_environment() -> Proxies {
        Proxies::from(&|name| std::env::var(name).ok())
    }

    fn from(variable: &dyn Fn(&str) -> Option<String>) -> Proxies {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| {
                let value = variable(name)?.trim().to_owned();
                (!value.is_empty()).then_some((name, value))
            })
        };
        let all = first(["ALL_PROXY", "all_proxy"]);
        let exceptions = first(["NO_PROXY", "no_proxy"]).map(|(_, list)| list).unwrap_or_default();
        Proxies {
            https: first(["HTTPS_PROXY", "https_proxy"]).or_else(|| all.clone()),
            http: first(["HTTP_PROXY", "http_proxy"]).or(all),
            // Go accepts only commas; curl, and so git, accepts white space too.
            exceptions: exceptions.split([',', ' ', '\t', '\n']).filter_map(Exception::parse).collect(),
        }
    }

    /// The variables and their proxies.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.https.iter().chain(&self.http).map(|(variable, address)| (*variable, address.as_str()))
    }

    /// The proxy for this URL; `None` for a direct connection.
    pub(crate) fn of(&self, url: &Url) -> Option<&str> {
        let (_, proxy) = match url.scheme() {
            "https" => self.https.as_ref()?,
            "http" => self.http.as_ref()?,
            _ => return None,
        };
        let host = url.host()?;
        let port = url.port_or_known_default();
        let direct =
            url.host_str().is_some_and(is_loopback) || self.exceptions.iter().any(|e| e.matches(&host, port));
        (!direct).then_some(proxy)
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Exception> {
        let entry = entry.trim().to_lowercase();
        let address = |text: &str| {
            let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
            text.parse::<IpNet>().ok().or_else(|| Some(text.parse::<IpAddr>().ok()?.into()))
        };
        if entry == "*" {
            return Some(Exception::All);
        }
        if let Some(network) = address(&entry) {
            return Some(Exception::Network(network, None));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Some(network) = address(host) {
            return Some(Exception::Network(network, port));
        }
        let below = host.strip_prefix("*.").or(host.strip_prefix('*')).or(host.strip_prefix('.'));
        let name = below.unwrap_or(host).trim_end_matches('.').to_owned();
        let exception = if below.is_some() { Exception::Below } else { Exception::Domain };
        (!name.is_empty()).then(|| exception(name, port))
    }

    fn matches(&self, host: &Host<&str>, port: Option<u16>) -> bool {
        let of_port = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        let before = |name: &str| match host {
            Host::Domain(host) => host.trim_end_matches('.').strip_suffix(name),
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        };
        match (self, host) {
            (Exception::All, _) => true,
            (Exception::Network(network, port), Host::Ipv4(ip)) => {
                of_port(port) && network.contains(&IpAddr::V4(*ip))
            }
            (Exception::Network(network, port), Host::Ipv6(ip)) => {
                of_port(port) && network.contains(&IpAddr::V6(*ip))
            }
            (Exception::Network(..), Host::Domain(_)) => false,
            (Exception::Domain(name, port), _) => {
                of_port(port) && before(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            (Exception::Below(name, port), _) => {
                of_port(port) && before(name).is_some_and(|rest| rest.ends_with('.'))
            }
        }
    }
}

/// A proxy's address without the login in it.
pub(crate) fn shown(proxy: &str) -> String {
    match proxy.rsplit_once('@') {
        Some((login, host)) => {
            let scheme = login.split_once("://").map(|(scheme, _)| format!("{scheme}://"));
            format!("{}{host}", scheme.unwrap_or_default())
        }
        None => proxy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        Proxies::from(&|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn taken(variables: &[(&str, &str)], url: &str) -> Option<String> {
        proxies(variables).of(&Url::parse(url).unwrap()).map(str::to_owned)
    }

    #[test]
    fn no_proxy_means_the_same_as_for_docker_curl_and_git() {
        for (list, direct, proxied) in [
            (
                "example.org",
                &["https://example.org/", "https://r.example.org:5000/"][..],
                &["https://xexample.org/"][..],
            ),
            (
                ".example.org",
                &["https://r.example.org/", "https://a.b.example.org/"],
                &["https://example.org.evil.net/"],
            ),
            ("*.example.org", &["https://r.example.org/"], &["https://r.example.com/"]),
            (
                "a.test, r.example.org ,b.test",
                &["https://r.example.org/", "https://b.test/"],
                &["https://c.test/"],
            ),
            ("a.test b.test", &["https://b.test/"], &["https://c.test/"]),
            ("R.Example.ORG", &["https://r.example.org/"], &[]),
            (
                "r.example.org:5000",
                &["https://r.example.org:5000/"],
                &["https://r.example.org/", "https://r.example.org:5001/"],
            ),
            ("r.example.org:443", &["https://r.example.org/"], &["https://r.example.org:5000/"]),
            ("10.0.0.0/8", &["https://10.1.2.3:5000/"], &["https://11.1.2.3/", "https://r.example.org/"]),
            ("10.1.2.3", &["https://10.1.2.3:5000/"], &["https://10.1.2.4/"]),
            ("10.1.2.3:5000", &["https://10.1.2.3:5000/"], &["https://10.1.2.3/"]),
            (
                "fd00::/8,2001:db8::1,[2001:db8::2]:5000",
                &["https://[fd00::1]/", "https://[2001:db8::1]:1/", "https://[2001:db8::2]:5000/"],
                &["https://[2001:db8::2]/", "https://[2001:db8::3]/"],
            ),
            ("*", &["https://r.example.org/", "https://10.0.0.1/"], &[]),
            ("example.org.", &["https://r.example.org/"], &[]),
            (",, ,:5000,[,r:x", &[], &["https://r.example.org/"]),
        ] {
            let set = [("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", list)];
            for url in direct {
                assert_eq!(taken(&set, url), None, "{url} with {list}");
            }
            for url in proxied {
                assert_eq!(taken(&set, url).as_deref(), Some("http://proxy:3128"), "{url} with {list}");
            }
        }
    }

    #[test]
    fn each_scheme_has_its_proxy_and_an_empty_variable_counts_as_unset() {
        let url = "https://r.example.org/";
        assert_eq!(taken(&[("http_proxy", "http://p:1")], url), None);
        assert_eq!(
            taken(&[("http_proxy", "http://p:1")], "http://r.example.org/").as_deref(),
            Some("http://p:1")
        );
        assert_eq!(taken(&[("https_proxy", "http://p:2")], url).as_deref(), Some("http://p:2"));
        assert_eq!(
            taken(&[("HTTPS_PROXY", " "), ("https_proxy", "http://p:2")], url).as_deref(),
            Some("http://p:2")
        );
        let beside = [("HTTPS_PROXY", "http://p:1"), ("NO_PROXY", ""), ("no_proxy", "r.example.org")];
        assert_eq!(taken(&beside, url), None);
        assert_eq!(taken(&[("ALL_PROXY", "socks5h://p:3")], url).as_deref(), Some("socks5h://p:3"));
        assert_eq!(taken(&[("HTTPS_PROXY", "")], url), None);
    }

    #[test]
    fn loopback_never_uses_a_proxy() {
        let set = [("HTTPS_PROXY", "http://p:1"), ("HTTP_PROXY", "http://p:1")];
        for url in ["http://127.0.0.1:5000/", "https://localhost/", "http://[::1]:5000/", "http://127.9.9.9/"]
        {
            assert_eq!(taken(&set, url), None, "{url}");
        }
    }

    #[test]
    fn the_login_of_a_proxy_is_not_shown() {
        assert_eq!(shown("http://user:p@ss@proxy:3128"), "http://proxy:3128");
        assert_eq!(shown("user:pass@proxy:3128"), "proxy:3128");
        assert_eq!(shown("http://proxy:3128"), "http://proxy:3128");
    }
}
