//! The credentials that `docker login` stored, looked up in docker's order and with its tolerance (docker/cli,
//! `cli/config/configfile` and `cli/config/credentials`).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::cancel::{Cancel, Stop};
use crate::http::shown;
use crate::model::RegistryAddress;
use crate::process::{CommandError, Stream, Tool};
use crate::redact;

use super::error::{RegistryError, RegistryErrorKind as Kind};

/// For a credential helper, which may be waiting for input at a terminal.
const HELPER_TIMEOUT: Duration = Duration::from_secs(20);
/// Secrets of this many bytes are redacted: a shorter one may be an ordinary word.
const REDACTED: usize = 12;

#[derive(Debug, Clone)]
pub enum Credentials {
    Anonymous,
    Password {
        username: String,
        /// Or an access token.
        password: SecretString,
    },
    /// A refresh token for the registry's token server (user `<token>` of a helper).
    IdentityToken(SecretString),
}

/// The credentials, and why their lookup failed.
pub(super) type Looked = (Credentials, Option<RegistryError>);

/// Where the credentials come from. Docker's are looked up when the registry first asks for a login, because a helper is
/// slow and may fail.
#[derive(Debug, Clone)]
pub enum Login {
    Known(Credentials),
    /// The folder of docker's configuration; without one only `DOCKER_AUTH_CONFIG` is read.
    Docker(Option<PathBuf>),
}

impl From<Credentials> for Login {
    fn from(credentials: Credentials) -> Login {
        Login::Known(credentials)
    }
}

impl Credentials {
    pub fn is_anonymous(&self) -> bool {
        matches!(self, Credentials::Anonymous)
    }

    fn password(username: &str, password: &str) -> Option<Credentials> {
        let complete = !username.is_empty() && !password.is_empty();
        complete.then(|| Credentials::Password { username: username.to_owned(), password: password.into() })
    }
}

impl Login {
    /// The credentials that docker would send, and what failed during the lookup. Like docker, swanci ignores a failed
    /// helper; the error is shown if the registry asks for a login.
    ///
    /// # Errors
    /// Only when the work was stopped.
    pub fn look_up(&self, address: &RegistryAddress, cancel: &Cancel) -> Result<Looked, Stop> {
        let mut error = None;
        let credentials = match self {
            Login::Known(credentials) => credentials.clone(),
            Login::Docker(dir) => {
                of_docker(dir.as_deref(), address, cancel, &mut error)?.unwrap_or(Credentials::Anonymous)
            }
        };
        if let Credentials::Password { password: secret, .. } | Credentials::IdentityToken(secret) =
            &credentials
            && secret.expose_secret().len() >= REDACTED
        {
            redact::register(secret);
        }
        Ok((credentials, error))
    }
}

fn of_docker(
    dir: Option<&Path>,
    address: &RegistryAddress,
    cancel: &Cancel,
    error: &mut Option<RegistryError>,
) -> Result<Option<Credentials>, Stop> {
    let host = address.host();
    let keys = keys(host);
    let broken = |path: &str, detail: String| {
        let message = format!("docker's configuration {path} cannot be read: {detail}");
        RegistryError::with_message(Kind::DockerConfig, host, message)
    };
    // docker 28.3 and later prefer it to the file.
    if let Some(text) = std::env::var("DOCKER_AUTH_CONFIG").ok().filter(|text| !text.trim().is_empty()) {
        match Config::parse(text.as_bytes()) {
            Ok(config) => {
                if let Some(found) = keys.iter().find_map(|key| config.entry(key)) {
                    return Ok(Some(found));
                }
            }
            Err(detail) => *error = Some(broken("DOCKER_AUTH_CONFIG", detail)),
        }
    }
    let Some(path) = dir.map(|dir| dir.join("config.json")) else { return Ok(None) };
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(detail) => {
            *error = Some(broken(&path.display().to_string(), detail));
            return Ok(None);
        }
    };
    for key in &keys {
        let found = match config.helper(key) {
            None => config.entry(key),
            Some(helper) => match ask(&helper, key, cancel) {
                Ok(found) => found,
                Err(detail) => {
                    cancel.check()?;
                    let helper = shown(&helper);
                    let message = format!(
                        "the credential helper docker-credential-{helper} for {host} failed: {detail}"
                    );
                    error.get_or_insert(RegistryError::with_message(Kind::CredentialHelper, host, message));
                    config.entry(key)
                }
            },
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The names under which docker may have stored the login: as typed, and with or without the default port of https.
fn keys(host: &str) -> Vec<String> {
    if is_docker_hub(host) {
        return vec!["https://index.docker.io/v1/".to_owned()];
    }
    let other = match host.strip_suffix(":443") {
        Some(name) => Some(name.to_owned()),
        None if host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) => None,
        None => Some(format!("{host}:443")),
    };
    std::iter::once(host.to_owned()).chain(other).collect()
}

pub(super) fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The parts of docker's configuration that name logins. The rest may have any form.
#[derive(Default)]
struct Config {
    auths: Map<String, Value>,
    helpers: Map<String, Value>,
    store: String,
}

impl Config {
    fn read(path: &Path) -> Result<Config, String> {
        match std::fs::read(path) {
            Ok(bytes) => Config::parse(&bytes),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Config::default()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Like Go's decoder: what follows the first value is ignored, an empty file is empty, `null` is absent, and keys are
    /// case-insensitive.
    fn parse(bytes: &[u8]) -> Result<Config, String> {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let root = match serde_json::Deserializer::from_slice(bytes).into_iter::<Value>().next() {
            None | Some(Ok(Value::Null)) => return Ok(Config::default()),
            Some(Ok(Value::Object(root))) => root,
            Some(Ok(_)) => return Err("it is not a JSON object".to_owned()),
            Some(Err(e)) => return Err(format!("it is not JSON: {e}")),
        };
        let object = |name: &str| match field(&root, name) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(entries)) => Ok(entries.clone()),
            Some(_) => Err(format!("`{name}` is not an object")),
        };
        let store = match field(&root, "credsStore") {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(store)) => store.trim().to_owned(),
            Some(_) => return Err("`credsStore` is not a string".to_owned()),
        };
        Ok(Config { auths: object("auths")?, helpers: object("credHelpers")?, store })
    }

    /// The helper for this registry; an empty name in `credHelpers` means none.
    fn helper(&self, key: &str) -> Option<String> {
        let same = |stored: &str| hostname(stored) == hostname(key);
        let alike = || self.helpers.iter().find(|(stored, _)| same(stored)).map(|(_, helper)| helper);
        let name = match self.helpers.get(key).or_else(alike) {
            Some(helper) => helper.as_str().unwrap_or_default().trim(),
            None => &self.store,
        };
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// The login in the file itself.
    fn entry(&self, key: &str) -> Option<Credentials> {
        if let Some(found) = self.auths.get(key).and_then(of_entry) {
            return Some(found);
        }
        let is_hub = key.contains("://");
        let same = |stored: &str| hostname(stored) == key || (is_hub && is_docker_hub(hostname(stored)));
        self.auths.iter().filter(|(stored, _)| same(stored)).find_map(|(_, entry)| of_entry(entry))
    }
}

fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let alike = || object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    object.get(name).or_else(alike)
}

fn text<'a>(object: &'a Map<String, Value>, name: &str) -> &'a str {
    field(object, name).and_then(Value::as_str).unwrap_or_default()
}

/// `host[:port]` of an entry's name, which may be a URL (docker/cli, `ConvertToHostname`).
fn hostname(stored: &str) -> &str {
    let bare = stored.split_once("://").map_or(stored, |(_, rest)| rest);
    bare.split('/').next().unwrap_or_default()
}

/// `None` for an entry that is incomplete or cannot be decoded.
fn of_entry(entry: &Value) -> Option<Credentials> {
    let entry = entry.as_object()?;
    let token = text(entry, "identitytoken").trim();
    if !token.is_empty() {
        return Some(Credentials::IdentityToken(token.into()));
    }
    let auth = text(entry, "auth");
    if auth.trim().is_empty() {
        return Credentials::password(text(entry, "username"), text(entry, "password"));
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let auth: String = auth.chars().filter(|c| !c.is_whitespace()).collect();
    let decoded = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(auth).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Credentials::password(username, password.trim_matches('\0'))
}

/// Runs a credential helper (docker/docker-credential-helpers, `client`): the registry's name on standard input, JSON on
/// standard output. `None` when it has no login for this registry. The error is a text without the helper's standard
/// output, which may hold the secret.
fn ask(helper: &str, key: &str, cancel: &Cancel) -> Result<Option<Credentials>, String> {
    if helper.contains(['/', '\0']) {
        return Err("its name is not that of a program".to_owned());
    }
    let (mut said, mut out) = (Vec::new(), String::new());
    let tool = Tool::of_docker(format!("docker-credential-{helper}")).arg("get").stdin(key);
    let limited = cancel.child(Some(HELPER_TIMEOUT));
    let answer = tool.stream(&limited, &mut |stream, line| match stream {
        Stream::Stderr => said.push(line.trim().to_owned()),
        Stream::Stdout => out.push_str(line),
    });
    const NONE: &str = "credentials not found";
    let none = out.contains(NONE) || said.iter().any(|line| line.contains(NONE));
    let done = match answer {
        Ok(done) => done,
        Err(CommandError::Exit { .. }) if none => return Ok(None),
        Err(CommandError::Exit { code, .. }) => {
            said.retain(|line| !line.is_empty());
            return Err(match code {
                _ if !said.is_empty() => shown(&said.join(" / ")),
                Some(code) => format!("it ended with code {code}"),
                None => "a signal ended it".to_owned(),
            });
        }
        Err(CommandError::Stopped { .. }) => {
            return Err(format!("no answer within {} s", HELPER_TIMEOUT.as_secs()));
        }
        Err(error @ (CommandError::Io { .. } | CommandError::TooMuchOutput { .. })) => {
            return Err(error.to_string());
        }
    };
    let answer = serde_json::from_slice::<Map<String, Value>>(&done.stdout)
        .map_err(|_| "its answer is not the JSON of a credential helper")?;
    let (username, secret) = (text(&answer, "Username"), text(&answer, "Secret"));
    if username == "<token>" && !secret.is_empty() {
        return Ok(Some(Credentials::IdentityToken(secret.into())));
    }
    Ok(Credentials::password(username, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_with_and_without_the_default_port_of_https() {
        assert_eq!(keys("r.example.org:443"), ["r.example.org:443", "r.example.org"]);
        assert_eq!(keys("r.example.org"), ["r.example.org", "r.example.org:443"]);
        assert_eq!(keys("r.example.org:5000"), ["r.example.org:5000"]);
        assert_eq!(keys("[::1]:5000"), ["[::1]:5000"]);
        assert_eq!(keys("docker.io"), ["https://index.docker.io/v1/"]);
    }
}
