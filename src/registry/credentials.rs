//! Who swanci is to the registry: what `docker login` left, looked up in docker's order and with its tolerance
//! (docker/cli, `cli/config/configfile` and `cli/config/credentials`).

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use crate::cancel::{Cancel, Stop};
use crate::model::RegistryAddress;
use crate::process::{CommandError, Stream, Tool};
use crate::redact;

use super::manifest::shown;

/// A credential helper that is silent for longer is ended: it may be waiting for somebody at a terminal.
const HELPER_TIME: Duration = Duration::from_secs(20);
/// A secret of this length is nobody's word, bytes.
const LONG: usize = 12;
/// docker's own configuration has a few thousand bytes.
const MAX_CONFIG: u64 = 4 << 20;

/// What is sent to a registry that wants a login.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Nothing.
    Anonymous,
    /// A user and a password (or an access token in its place).
    Password {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// A refresh token for the registry's token server, as some helpers keep (user `<token>`).
    IdentityToken(SecretString),
}

/// Where the credentials for a registry come from. Docker's are looked up when the registry first wants a login, because
/// a helper costs a process and may fail where none is wanted.
#[derive(Debug, Clone)]
pub enum Login {
    /// These.
    Known(Credentials),
    /// Docker's own, from this folder of its configuration; without one only `DOCKER_AUTH_CONFIG` is read.
    Docker(Option<PathBuf>),
}

impl From<Credentials> for Login {
    fn from(credentials: Credentials) -> Login {
        Login::Known(credentials)
    }
}

/// Why docker's stored credentials could not be read. It is not an error that there are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// The config file is there and cannot be read.
    #[error("docker's configuration {path} cannot be read: {detail}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// A credential helper failed.
    #[error("the credential helper {helper} for {host} failed: {detail}")]
    Helper {
        /// The registry.
        host: String,
        /// The helper's program.
        helper: String,
        /// What it said.
        detail: String,
    },
    /// The work was stopped.
    #[error(transparent)]
    Stopped(#[from] Stop),
}

impl CredentialsError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            CredentialsError::Config { .. } => {
                Some("repair the file, or run `docker login` again".to_owned())
            }
            CredentialsError::Helper { host, .. } => Some(format!(
                "`docker login {host}` uses the same helper and shows what is wrong with it; it runs as the user that \
                 runs swanci"
            )),
            CredentialsError::Stopped(_) => None,
        }
    }
}

impl Credentials {
    /// Whether there is nothing to send.
    pub fn is_anonymous(&self) -> bool {
        match self {
            Credentials::Anonymous => true,
            Credentials::Password { .. } | Credentials::IdentityToken(_) => false,
        }
    }

    fn password(username: String, password: String) -> Option<Credentials> {
        let complete = !username.is_empty() && !password.is_empty();
        complete.then(|| Credentials::Password { username, password: password.into() })
    }
}

/// What was found, and what went wrong on the way. Like docker, swanci goes on with what it has when a helper fails; the
/// error is shown if the registry then wants a login.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// What there is to send.
    pub credentials: Credentials,
    /// What could not be read.
    pub error: Option<CredentialsError>,
}

impl From<Credentials> for Lookup {
    fn from(credentials: Credentials) -> Lookup {
        Lookup { credentials, error: None }
    }
}

impl Login {
    /// What docker would send to this registry.
    ///
    /// # Errors
    /// Only when the work was stopped.
    pub fn look_up(&self, address: &RegistryAddress, cancel: &Cancel) -> Result<Lookup, Stop> {
        let lookup = match self {
            Login::Known(credentials) => Lookup::from(credentials.clone()),
            Login::Docker(dir) => of_docker(dir.as_deref(), address, cancel)?,
        };
        match &lookup.credentials {
            Credentials::Anonymous => {}
            // A short password may be a word that messages are made of.
            Credentials::Password { password: secret, .. } | Credentials::IdentityToken(secret)
                if secret.expose_secret().len() >= LONG =>
            {
                redact::register(secret);
            }
            Credentials::Password { .. } | Credentials::IdentityToken(_) => {}
        }
        Ok(lookup)
    }
}

fn of_docker(dir: Option<&Path>, address: &RegistryAddress, cancel: &Cancel) -> Result<Lookup, Stop> {
    let keys = keys(address);
    let mut error = None;
    // docker 28.3 and later prefer it to the file.
    if let Some(text) = std::env::var("DOCKER_AUTH_CONFIG").ok().filter(|text| !text.trim().is_empty()) {
        match Config::parse(text.as_bytes()) {
            Ok(config) => {
                if let Some(found) = keys.iter().find_map(|key| config.entry(key)) {
                    return Ok(found.into());
                }
            }
            Err(detail) => {
                error = Some(CredentialsError::Config { path: "DOCKER_AUTH_CONFIG".to_owned(), detail });
            }
        }
    }
    let Some(path) = dir.map(|dir| dir.join("config.json")) else {
        return Ok(Lookup { credentials: Credentials::Anonymous, error });
    };
    let config = match Config::read(&path) {
        Ok(config) => config,
        Err(detail) => {
            let error = CredentialsError::Config { path: path.display().to_string(), detail };
            return Ok(Lookup { credentials: Credentials::Anonymous, error: Some(error) });
        }
    };
    for key in &keys {
        let found = match config.helper(key) {
            None => config.entry(key),
            Some(helper) => match ask(&helper, key, address.host(), cancel) {
                Ok(found) => found,
                Err(CredentialsError::Stopped(stop)) => return Err(stop),
                Err(failed) => {
                    error.get_or_insert(failed);
                    config.entry(key)
                }
            },
        };
        if let Some(credentials) = found {
            return Ok(Lookup { credentials, error });
        }
    }
    Ok(Lookup { credentials: Credentials::Anonymous, error })
}

/// The names under which docker may have stored the login: as typed, and with or without https's own port, which names
/// the same server.
fn keys(address: &RegistryAddress) -> Vec<String> {
    let host = address.host();
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

/// Whether a registry's name means Docker Hub.
pub(super) fn is_docker_hub(host: &str) -> bool {
    matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io")
}

/// The parts of docker's configuration that name logins. Everything else in it may have any form.
#[derive(Default)]
struct Config {
    auths: Map<String, Value>,
    helpers: Map<String, Value>,
    store: String,
}

impl Config {
    fn read(path: &Path) -> Result<Config, String> {
        use std::io::Read as _;
        let file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Config::default()),
            Err(e) => return Err(e.to_string()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_CONFIG).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        Config::parse(&bytes)
    }

    /// As Go decodes it: one value is read and the rest left alone, nothing at all counts as empty, `null` as absent, and
    /// keys are found whatever their case.
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

    /// The helper that is asked about this registry; an empty name in `credHelpers` means none.
    fn helper(&self, key: &str) -> Option<String> {
        let own = self.helpers.get(key).or_else(|| {
            self.helpers
                .iter()
                .find(|(stored, _)| hostname(stored) == hostname(key))
                .map(|(_, helper)| helper)
        });
        let name = match own {
            Some(helper) => helper.as_str().unwrap_or_default().trim(),
            None => &self.store,
        };
        (!name.is_empty()).then(|| name.to_owned())
    }

    /// The login that the file itself holds.
    fn entry(&self, key: &str) -> Option<Credentials> {
        if let Some(found) = self.auths.get(key).and_then(of_entry) {
            return Some(found);
        }
        let same = |stored: &str| {
            hostname(stored) == key || (key.contains("://") && is_docker_hub(&hostname(stored)))
        };
        self.auths.iter().filter(|(stored, _)| same(stored)).find_map(|(_, entry)| of_entry(entry))
    }
}

fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object
        .get(name)
        .or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// `host[:port]` of an entry's name, which may be a URL (docker/cli, `ConvertToHostname`).
fn hostname(stored: &str) -> String {
    let bare = stored.split_once("://").map_or(stored, |(_, rest)| rest);
    bare.split('/').next().unwrap_or_default().to_owned()
}

/// What is incomplete or cannot be decoded is passed over.
fn of_entry(entry: &Value) -> Option<Credentials> {
    let entry = entry.as_object()?;
    let text = |name| field(entry, name).and_then(Value::as_str).unwrap_or_default();
    let token = text("identitytoken").trim();
    if !token.is_empty() {
        return Some(Credentials::IdentityToken(token.to_owned().into()));
    }
    let auth = text("auth");
    if auth.trim().is_empty() {
        return Credentials::password(text("username").to_owned(), text("password").to_owned());
    }
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let auth: String = auth.chars().filter(|c| !c.is_whitespace()).collect();
    let decoded = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(auth).ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (username, password) = decoded.split_once(':')?;
    Credentials::password(username.to_owned(), password.trim_matches('\0').to_owned())
}

/// Asks a credential helper (docker/docker-credential-helpers, `client`): the registry's name on standard input, JSON on
/// standard output. `None`: it knows no login for this registry.
fn ask(
    helper: &str,
    key: &str,
    host: &str,
    cancel: &Cancel,
) -> Result<Option<Credentials>, CredentialsError> {
    let program = format!("docker-credential-{helper}");
    let failed =
        |detail: String| CredentialsError::Helper { host: host.to_owned(), helper: shown(&program), detail };
    if helper.contains(['/', '\0']) {
        return Err(failed("its name is not that of a program".to_owned()));
    }
    // Never its standard output in a message: the secret may be there.
    let (mut said, mut out) = (Vec::new(), String::new());
    let tool = Tool::of_docker(&program).arg("get").stdin(key);
    let limited = cancel.child(Some(HELPER_TIME));
    let answer = tool.stream(&limited, &mut |stream, line| match stream {
        Stream::Stderr => said.push(line.to_owned()),
        Stream::Stdout => out.push_str(line),
    });
    const NONE: &str = "credentials not found";
    let none = out.contains(NONE) || said.iter().any(|line| line.contains(NONE));
    let done = match answer {
        Ok(done) => done,
        Err(CommandError::Exit { .. }) if none => return Ok(None),
        Err(CommandError::Exit { code, .. }) => {
            let ended =
                code.map_or("a signal ended it".to_owned(), |code| format!("it ended with code {code}"));
            let said: Vec<&str> =
                said.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
            let said = if said.is_empty() { ended } else { shown(&said.join(" / ")) };
            return Err(failed(said));
        }
        Err(CommandError::Stopped { .. }) => {
            cancel.check()?;
            return Err(failed(format!("no answer within {} s", HELPER_TIME.as_secs())));
        }
        Err(
            error @ (CommandError::NotFound { .. }
            | CommandError::Spawn { .. }
            | CommandError::TooMuchOutput { .. }),
        ) => {
            return Err(failed(error.to_string()));
        }
    };
    let answer = serde_json::from_slice::<Map<String, Value>>(&done.stdout)
        .map_err(|_| failed("its answer is not the JSON of a credential helper".to_owned()))?;
    let text = |name| field(&answer, name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), SecretString::from(text("Secret")));
    if username == "<token>" && !secret.expose_secret().is_empty() {
        return Ok(Some(Credentials::IdentityToken(secret)));
    }
    Ok(Credentials::password(username, secret.expose_secret().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_with_and_without_the_port_of_https() {
        let of = |host: &str| keys(&host.parse().unwrap());
        assert_eq!(of("r.example.org:443"), ["r.example.org:443", "r.example.org"]);
        assert_eq!(of("r.example.org"), ["r.example.org", "r.example.org:443"]);
        assert_eq!(of("r.example.org:5000"), ["r.example.org:5000"]);
        assert_eq!(of("[::1]:5000"), ["[::1]:5000"]);
        assert_eq!(of("docker.io"), ["https://index.docker.io/v1/"]);
    }
}
