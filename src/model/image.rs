//! Where images are: the address of a registry, and the names of images in it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ImageName, InvalidValue, Tag, invalid};

/// The address of a registry: `HOST[:PORT][/NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct RegistryAddress {
    host: String,
    namespace: Option<ImageName>,
}

impl RegistryAddress {
    fn read(value: &str) -> Result<Self, InvalidValue> {
        const EXPECTED: &str =
            "a registry like `registry.example.org:443` or `registry.example.org/team` (no scheme)";
        let (host, namespace) = match value.split_once('/') {
            Some((host, namespace)) => (host, Some(namespace.parse().map_err(|_| invalid(value, EXPECTED))?)),
            None => (value, None),
        };
        if !is_host(host) {
            return Err(invalid(value, EXPECTED));
        }
        Ok(RegistryAddress { host: host.to_owned(), namespace })
    }

    /// `host` or `host:port`, the authority of its URLs and the key of its credentials.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn namespace(&self) -> Option<&ImageName> {
        self.namespace.as_ref()
    }

    /// Whether the host is this machine: plain http is allowed only there.
    pub fn is_loopback(&self) -> bool {
        let name = match self.host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => &self.host,
        };
        is_loopback(name)
    }
}

/// Whether the host of a URL is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|ip| ip.is_loopback())
}

/// A registry's authority by docker's rules: a name with a dot, a port, or `localhost`; docker treats anything else as
/// a namespace on Docker Hub.
fn is_host(s: &str) -> bool {
    let (name, port) = match s.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ip, "")) => (ip, None),
        Some((ip, rest)) => (ip, Some(rest.strip_prefix(':').unwrap_or("x"))),
        None => s.split_once(':').map_or((s, None), |(n, p)| (n, Some(p))),
    };
    let ip6 = name.parse::<std::net::Ipv6Addr>().is_ok() && s.starts_with('[');
    let dns = !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|l| {
            !l.is_empty()
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let marked = ip6 || port.is_some() || name.contains('.') || name == "localhost";
    let port_ok = port.is_none_or(|p| {
        !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n > 0)
    });
    (ip6 || dns) && marked && port_ok
}

from_text!(RegistryAddress);

impl fmt::Display for RegistryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{}/{namespace}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// An image's full name without a tag: docker's term is repository. Local if `registry` is absent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "String", into = "String")]
pub struct ImageRepository {
    /// `host[:port]` of the registry.
    registry: Option<String>,
    /// The path below the host, with its namespace.
    path: ImageName,
}

impl ImageRepository {
    fn read(value: &str) -> Result<Self, InvalidValue> {
        let (registry, path) = match value.split_once('/') {
            Some((host, path)) if is_host(host) => (Some(host.to_owned()), path),
            _ => (None, value),
        };
        let path = path.parse().map_err(|_| invalid(value, "an image repository without a tag"))?;
        Ok(ImageRepository { registry, path })
    }

    /// The repository of an image: below the registry, if any, its namespace, and `namespace`.
    pub fn new(
        registry: Option<&RegistryAddress>,
        namespace: Option<&ImageName>,
        name: &ImageName,
    ) -> Result<ImageRepository, InvalidValue> {
        let Some(registry) = registry else {
            return Ok(ImageRepository { registry: None, path: name.clone() });
        };
        let parts = registry.namespace.iter().chain(namespace).chain([name]).map(ImageName::as_str);
        let path = parts.collect::<Vec<_>>().join("/").parse()?;
        Ok(ImageRepository { registry: Some(registry.host.clone()), path })
    }

    /// The registry's authority; `None` for a local name.
    pub fn registry(&self) -> Option<&str> {
        self.registry.as_deref()
    }

    pub fn path(&self) -> &ImageName {
        &self.path
    }

    /// `repository:tag`, the format of `docker`.
    pub fn tagged(&self, tag: &Tag) -> String {
        format!("{self}:{tag}")
    }
}

from_text!(ImageRepository);

impl fmt::Display for ImageRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.registry {
            Some(registry) => write!(f, "{registry}/{}", self.path),
            None => write!(f, "{}", self.path),
        }
    }
}
