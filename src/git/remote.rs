//! Remote repositories and their transports.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::Failure;
use crate::escape::shortened;
use crate::model::{ForgeName, RepoName};

/// The supported transports. Others, such as `git://` and remote helpers, are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Https,
    /// `http://`, only to a forge whose configured `url` uses it.
    Http,
    /// `ssh://`, or `user@host:path`.
    Ssh,
    /// A path on this machine, typed or configured.
    File,
}

#[derive(Debug, Clone)]
pub struct Remote {
    /// The URL for git, without a password.
    url: String,
    transport: Transport,
    /// Lower-case host; empty for a path.
    host: String,
    /// The path on the host, without leading slash and `.git`.
    path: String,
    pub(super) userinfo: Option<(String, SecretString)>,
    /// Whether a user typed or configured it; otherwise it comes from a repository's `.gitmodules`.
    is_named_by_a_person: bool,
}

fn malformed(text: &str) -> Failure {
    Failure::refused(format!("`{}` is not a repository URL or path", shortened(text, 200)))
}

impl Remote {
    /// A typed or configured URL or path: used unchanged if its transport is supported.
    pub fn typed(text: &str) -> Result<Remote, Failure> {
        let unsupported = |scheme: &str| {
            let scheme = shortened(scheme, 20);
            Err(Failure::refused(format!("swanci does not clone over `{scheme}`, only over https and ssh")))
        };
        let is_odd = |c: char| c.is_control() || c == '\\';
        if text.is_empty() || text.starts_with('-') || text.chars().any(is_odd) {
            return Err(malformed(text));
        }
        let remote = match (text.split_once("://"), text.split_once(':')) {
            (Some(("file", path)), _) => Remote::path(path),
            (Some(("https", _)), _) => Remote::url(text, Transport::Https),
            (Some(("ssh", _)), _) => Remote::url(text, Transport::Ssh),
            (Some((scheme, _)), _) => return unsupported(scheme),
            (None, _) if text.contains("::") => return unsupported(text.split("::").next().unwrap_or("")),
            // scp syntax, unless a slash precedes the colon (git-clone(1), GIT URLS).
            (None, Some((host, path)))
                if !host.contains('/') && !host.is_empty() && !Path::new(text).exists() =>
            {
                Remote::scp(text, host, path)
            }
            (None, _) => Remote::path(text),
        };
        remote.ok_or_else(|| malformed(text))
    }

    /// A repository of a forge, from the forge's configured `url` and the full name. Plain http if the `url` uses it.
    pub fn of_forge(kind: ForgeName, forge: &str, repository: &RepoName) -> Result<Remote, Failure> {
        let url = format!("{}{}/{repository}.git", forge.trim_end_matches('/'), kind.clone_prefix());
        let is_odd = |c: char| c.is_control() || matches!(c, '\\' | '@');
        let remote = match forge.split_once("://") {
            _ if forge.chars().any(is_odd) || url::Url::parse(forge).is_err() => None,
            Some(("https", _)) => Remote::url(&url, Transport::Https),
            Some(("http", _)) => Remote::url(&url, Transport::Http),
            _ => None,
        };
        remote.ok_or_else(|| malformed(forge))
    }

    fn url(text: &str, transport: Transport) -> Option<Remote> {
        let mut parsed = url::Url::parse(text).ok()?;
        let host = parsed.host_str()?.to_ascii_lowercase();
        if host.starts_with('-') || parsed.query().is_some() || parsed.fragment().is_some() {
            return None;
        }
        // A user without a password is a token for https, but only a user name for ssh.
        let has_password = parsed.password().is_some();
        if transport == Transport::Ssh && (has_password || parsed.username().starts_with('-')) {
            return None;
        }
        let mut userinfo = None;
        if transport != Transport::Ssh && (has_password || !parsed.username().is_empty()) {
            let decode = |s: &str| {
                let pair = format!("v={}", s.replace('+', "%2B"));
                form_urlencoded::parse(pair.as_bytes()).next().map(|(_, v)| v.into_owned())
            };
            let user = decode(parsed.username())?;
            let password = SecretString::from(decode(parsed.password().unwrap_or_default())?);
            if password.expose_secret().is_empty() {
                crate::redact::register(&SecretString::from(user.clone()));
            }
            crate::redact::register_login(&user, &password);
            userinfo = Some((user, password));
            parsed.set_username("").ok()?;
            parsed.set_password(None).ok()?;
        }
        // Default ports are dropped; another port is another server.
        let host = match (transport, parsed.port()) {
            (Transport::Ssh, Some(22)) | (_, None) => host,
            (_, Some(port)) => format!("{host}:{port}"),
        };
        let path = trim_path(parsed.path())?;
        Some(Remote { url: parsed.into(), transport, host, path, userinfo, is_named_by_a_person: true })
    }

    fn scp(text: &str, user_host: &str, path: &str) -> Option<Remote> {
        let host = user_host.rsplit_once('@').map_or(user_host, |(_, host)| host);
        let clean = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.starts_with('-') || !host.chars().all(clean) {
            return None;
        }
        Some(Remote {
            url: text.to_owned(),
            transport: Transport::Ssh,
            host: host.to_ascii_lowercase(),
            path: trim_path(path)?,
            userinfo: None,
            is_named_by_a_person: true,
        })
    }

    fn path(text: &str) -> Option<Remote> {
        // git itself reports a path that does not exist.
        let absolute = std::fs::canonicalize(text).or_else(|_| std::path::absolute(text)).ok()?;
        let url = absolute.to_str()?.trim_end_matches('/').to_owned();
        Some(Remote {
            path: trim_path(&url)?,
            url,
            transport: Transport::File,
            host: String::new(),
            userinfo: None,
            is_named_by_a_person: true,
        })
    }

    /// The URL for git. Safe to print: it has no password.
    pub fn as_git_url(&self) -> &str {
        &self.url
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// `GIT_ALLOW_PROTOCOL` for this remote.
    pub(super) fn transports(&self) -> &'static str {
        match self.transport {
            Transport::Https => "https",
            Transport::Http => "http",
            Transport::Ssh => "ssh",
            Transport::File => "file",
        }
    }

    /// `https://host[:port]/`, the scope of a typed login.
    pub(super) fn http_base(&self) -> Option<String> {
        let is_http = matches!(self.transport, Transport::Https | Transport::Http);
        is_http.then(|| format!("{}://{}/", self.transports(), self.host))
    }

    /// Whether it is below this URL of a forge: same scheme, host and port, and a path below the URL's.
    pub(super) fn is_below(&self, forge: &str) -> bool {
        let (Some(base), Ok(forge)) = (self.http_base(), url::Url::parse(forge)) else { return false };
        let Ok(base) = url::Url::parse(&base) else { return false };
        let prefix = forge.path().trim_matches('/');
        base.origin() == forge.origin()
            && (prefix.is_empty() || self.path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/')))
    }

    /// The `safe.directory` values that let git read a path of another owner; empty for a path from `.gitmodules`.
    pub(super) fn safe_directories(&self) -> Vec<String> {
        // `/*` would match every repository below it (git-config(1), `safe.directory`).
        if self.transport != Transport::File || !self.is_named_by_a_person || self.url.ends_with("/*") {
            return Vec::new();
        }
        // Where git looks for the repository of a path (gitrepository-layout(5)).
        ["", "/.git", ".git", ".git/.git"].map(|end| format!("{}{end}", self.url)).to_vec()
    }

    /// The URL where git-lfs looks for this remote's files (git-lfs, docs/api/server-discovery.md).
    pub(super) fn lfs_url(&self) -> String {
        match self.transport {
            Transport::Https | Transport::Http => {
                let url = self.url.trim_end_matches('/');
                format!("{}.git/info/lfs", url.strip_suffix(".git").unwrap_or(url))
            }
            Transport::Ssh => self.url.clone(),
            Transport::File => format!("file://{}", self.url),
        }
    }

    /// One name per repository, independent of the transport: `https://host/path`, or `file:///path`. It becomes the
    /// `source` label.
    pub fn source(&self) -> String {
        match self.transport {
            Transport::Https | Transport::Ssh => format!("https://{}/{}", self.host, self.path),
            Transport::Http => format!("http://{}/{}", self.host, self.path),
            Transport::File => format!("file:///{}", self.path),
        }
    }

    /// The repository's name for a build by hand: `owner/name` of a URL, or the folder's name of a path.
    pub fn repository_name(&self) -> Option<RepoName> {
        let parts: Vec<&str> = self.path.split('/').collect();
        let take = match self.transport {
            Transport::Https | Transport::Http | Transport::Ssh => parts.len().min(2),
            Transport::File => 1,
        };
        let name: String = parts[parts.len() - take..].join("/");
        let name = if name == "." || name.is_empty() { "repository".to_owned() } else { name };
        name.replace(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/')), "-")
            .trim_start_matches('-')
            .parse()
            .ok()
    }

    /// Whether this remote's path ends in this full name.
    pub fn is_named(&self, repository: &RepoName) -> bool {
        let (path, name) = (self.path.to_ascii_lowercase(), repository.as_str().to_ascii_lowercase());
        path == name || path.ends_with(&format!("/{name}"))
    }

    /// The remote of a submodule from its URL in this repository: absolute, or relative to this remote
    /// (git-submodule(1), `add`). It must be on the same host. For a path, it must be relative and in the folder that
    /// contains this remote.
    pub fn submodule(&self, stated: &str) -> Result<Remote, Failure> {
        let outside = || malformed(stated);
        let relative = stated.starts_with("./") || stated.starts_with("../");
        let url = if relative {
            let mut base: Vec<&str> = self.url.trim_end_matches('/').split('/').collect();
            for part in stated.split('/') {
                match part {
                    "." | "" => {}
                    ".." => {
                        base.pop()
                            .filter(|_| base.len() >= 3 || self.transport == Transport::File)
                            .ok_or_else(outside)?;
                    }
                    part => base.push(part),
                }
            }
            base.join("/")
        } else {
            stated.to_owned()
        };
        let mut remote = match self.transport {
            Transport::File if relative => Remote::path(&url).ok_or_else(outside)?,
            Transport::File => return Err(outside()),
            Transport::Http if url.starts_with("http://") => {
                Remote::url(&url, Transport::Http).ok_or_else(outside)?
            }
            Transport::Https | Transport::Http | Transport::Ssh => Remote::typed(&url)?,
        };
        let stays = match self.transport {
            Transport::File => {
                let folder = Path::new(&self.url).parent().filter(|folder| *folder != Path::new("/"));
                folder.is_some_and(|folder| Path::new(&remote.url).starts_with(folder))
            }
            Transport::Https | Transport::Http | Transport::Ssh => {
                remote.host == self.host && remote.transport != Transport::File
            }
        };
        if !stays {
            return Err(outside());
        }
        if remote.transport == Transport::Https && self.transport == Transport::Https {
            remote.userinfo = remote.userinfo.or_else(|| self.userinfo.clone());
        }
        remote.is_named_by_a_person = false;
        Ok(remote)
    }
}

/// Removes slashes at both ends and `.git`; `None` for an empty path or one with `..`.
fn trim_path(path: &str) -> Option<String> {
    let path = path.trim_matches('/');
    let path = path.strip_suffix("/.git").unwrap_or(path);
    let path = path.strip_suffix(".git").unwrap_or(path).trim_end_matches('/');
    (!path.is_empty() && !path.split('/').any(|p| p == "..")).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_ssh_and_paths_are_supported() {
        for (text, transport) in [
            ("https://github.com/a/b.git", Transport::Https),
            ("ssh://git@github.com/a/b", Transport::Ssh),
            ("git@github.com:a/b.git", Transport::Ssh),
            ("/srv/git/b.git", Transport::File),
            ("./b", Transport::File),
            ("file:///srv/b", Transport::File),
        ] {
            let remote = Remote::typed(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(remote.transport(), transport, "{text}");
        }
        for text in [
            "",
            "--upload-pack=touch x",
            "ext::sh -c x",
            "git://h/a",
            "http://h/a",
            "ftp://h/a",
            "https://",
            "ssh://-oProxyCommand=x/a",
            "-oProxyCommand=x:a",
            "a\nb",
            "https://h/a?x=1",
            "fd::7",
            "ssh://h",
            "https://h\\@evil/a",
        ] {
            assert!(Remote::typed(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn one_repository_has_one_source_over_any_transport() {
        let source = |text: &str| Remote::typed(text).unwrap().source();
        assert_eq!(source("https://github.com/a/b.git"), "https://github.com/a/b");
        assert_eq!(source("git@github.com:a/b.git"), "https://github.com/a/b");
        assert_eq!(source("ssh://git@github.com:22/a/b"), "https://github.com/a/b");
        assert_eq!(source("/srv/a/b.git"), "file:///srv/a/b");
    }

    #[test]
    fn a_typed_password_is_removed_from_the_url() {
        let remote = Remote::typed("https://me:pa%2Fss@h.org/a/b").unwrap();
        assert_eq!(remote.as_git_url(), "https://h.org/a/b");
        assert!(!format!("{remote:?}").contains("pa/ss"));
    }

    #[test]
    fn a_submodule_stays_on_the_host() {
        let base = Remote::typed("https://github.com/a/b.git").unwrap();
        assert_eq!(base.submodule("../c.git").unwrap().as_git_url(), "https://github.com/a/c.git");
        assert_eq!(base.submodule("git@github.com:x/y").unwrap().host, "github.com");
        for bad in ["https://evil.org/x", "../../../../x", "/etc", "file:///etc", "ext::sh"] {
            assert!(base.submodule(bad).is_err(), "{bad} was taken");
        }
    }
}
