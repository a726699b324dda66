//! Who swanci is to the registry: what `docker login` left, in docker's config file or its credential helpers.

use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use secrecy::SecretString;

use crate::cancel::{Cancel, Stop};
use crate::model::RegistryAddress;

use super::manifest::shown;

/// A credential helper that is silent for longer is given up: it may be waiting for somebody at a terminal.
const HELPER_TIME: Duration = Duration::from_secs(20);

/// What is sent to a registry that asks who is there.
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

/// Why docker's stored credentials could not be read. That there are none is no error.
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
    #[error("the credential helper for {host} named in {path} failed: {detail}")]
    Helper {
        /// The registry.
        host: String,
        /// The file that names the helper.
        path: String,
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
            CredentialsError::Config { .. } => Some("mend the file, or run `docker login` again".to_owned()),
            CredentialsError::Helper { host, .. } => {
                Some(format!("`docker login {host}` uses the same helper and shows what is wrong with it"))
            }
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

    /// What docker would send to this registry, from `config.json` in `config_dir`: its `auths`, `credHelpers` and
    /// `credsStore`. No file and no entry mean [`Credentials::Anonymous`].
    ///
    /// # Errors
    /// When the file cannot be read, or a helper fails or does not answer within 20 s.
    pub fn from_docker(
        config_dir: &Path,
        address: &RegistryAddress,
        cancel: &Cancel,
    ) -> Result<Credentials, CredentialsError> {
        let path = config_dir.join("config.json");
        for key in keys(address) {
            match File::open(&path) {
                Ok(file) => {
                    if let Some(found) = ask(file, key, address.host(), &path, cancel)? {
                        return Ok(found);
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Credentials::Anonymous),
                Err(e) => {
                    return Err(CredentialsError::Config {
                        path: path.display().to_string(),
                        detail: e.to_string(),
                    });
                }
            }
        }
        Ok(Credentials::Anonymous)
    }
}

/// The names under which docker may have stored the login: as typed, and with or without https's own port, which
/// names the same server. (The crate itself matches `https://host/v1/` forms.)
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

/// Asks the crate, which may run a helper that has no time limit: in a thread of its own, so that the wait has one.
fn ask(
    file: File,
    key: String,
    host: &str,
    path: &Path,
    cancel: &Cancel,
) -> Result<Option<Credentials>, CredentialsError> {
    cancel.check()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(get_credential_from_reader(file, &key)); // nobody waits any more: nothing to tell
    });
    let helper = |detail: String| CredentialsError::Helper {
        host: host.to_owned(),
        path: path.display().to_string(),
        detail,
    };
    let until = Instant::now() + HELPER_TIME;
    let answer = loop {
        cancel.check()?;
        match receiver.recv_timeout(Duration::from_millis(20)) {
            Ok(answer) => break answer,
            Err(RecvTimeoutError::Disconnected) => return Err(helper("it crashed".to_owned())),
            Err(RecvTimeoutError::Timeout) if Instant::now() >= until => {
                return Err(helper(format!("no answer within {} s", HELPER_TIME.as_secs())));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    };
    use CredentialRetrievalError as E;
    match answer {
        Ok(DockerCredential::UsernamePassword(username, password)) => {
            Ok(Some(Credentials::Password { username, password: password.into() }))
        }
        Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Credentials::IdentityToken(token.into()))),
        Err(E::NoCredentialConfigured | E::ConfigNotFound) => Ok(None),
        // A store that holds nothing for this registry says so by failing (docker-credential-helpers, errors.go).
        Err(E::HelperFailure { stdout, stderr, .. })
            if format!("{stdout}{stderr}").contains("credentials not found") =>
        {
            Ok(None)
        }
        // Never its standard output: there the secret would be.
        Err(E::HelperFailure { stderr, .. }) => Err(helper(shown(&stderr))),
        Err(e @ (E::HelperCommunicationError | E::MalformedHelperResponse)) => Err(helper(e.to_string())),
        Err(e @ (E::CredentialDecodingError | E::CredentialMismatchError | E::ConfigReadError)) => {
            Err(CredentialsError::Config { path: path.display().to_string(), detail: e.to_string() })
        }
    }
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
