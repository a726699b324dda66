//! The common start of all commands: configuration, display, and the site of the pipeline.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ColorChoice;
use secrecy::{ExposeSecret as _, SecretString};

use crate::cancel::Cancel;
use crate::ci::Actions;
use crate::cli::{Global, SiteArgs};
use crate::config::{Config, Environment, ForgeConfig, read_secret_file};
use crate::docker::Docker;
use crate::error::{Classify as _, Failure, Kind};
use crate::events::{Consumer, Events};
use crate::git::Access;
use crate::model::RegistryAddress;
use crate::pipeline::Site;
use crate::progress::{Bars, Detail, Lines, write_stderr};
use crate::redact;
use crate::registry::{Login, Registry, Settings};

pub(crate) struct Session {
    /// The configuration, without the flags.
    pub config: Config,
    pub events: Events,
    pub quiet: bool,
    /// Whether `--json` was given.
    pub json: bool,
    pub cancel: Cancel,
    /// The surrounding CI job.
    pub actions: Option<Actions>,
}

impl Session {
    pub(crate) fn open(global: &Global, cancel: &Cancel) -> Result<Session, Failure> {
        let environment = Environment::of_process();
        let actions = Actions::detect(&environment);
        // First, so that the runner masks every secret before swanci reads it.
        if let Some(actions) = &actions {
            actions.take_over();
        }
        let events = Session::display(global, actions.is_some());
        let config = Config::load(global.config.as_deref(), global.state_dir.as_deref(), &environment)?;
        for warning in &config.warnings {
            events.warn(warning);
        }
        let (quiet, json, cancel) = (global.quiet, global.json, cancel.clone());
        Ok(Session { config, events, quiet, json, cancel, actions })
    }

    fn display(global: &Global, in_actions: bool) -> Events {
        let color = match global.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => console::colors_enabled_stderr(),
        };
        console::set_colors_enabled_stderr(color);
        let detail = match (global.quiet, in_actions, global.verbose) {
            (true, _, _) => Detail::Quiet,
            (false, true, _) => Detail::Groups,
            (false, false, 0) => Detail::Steps,
            (false, false, _) => Detail::Verbose,
        };
        let has_bars =
            detail == Detail::Steps && global.color != ColorChoice::Never && std::io::stderr().is_terminal();
        Events::to(vec![if has_bars {
            Arc::new(Bars::new()) as Arc<dyn Consumer>
        } else {
            Arc::new(Lines::to(detail, write_stderr))
        }])
    }

    /// The site of a command that builds or pushes: flags override the configuration.
    pub(crate) fn site(&self, flags: &SiteArgs) -> Result<Site, Failure> {
        site(&self.config, flags, &self.events, &self.cancel)
    }
}

pub(super) fn site(
    config: &Config,
    flags: &SiteArgs,
    events: &Events,
    cancel: &Cancel,
) -> Result<Site, Failure> {
    let address = flags.registry.clone().or_else(|| config.registry.clone());
    let client = address.as_ref().map(|address| connect(config, address, events, cancel)).transpose()?;
    let builder = flags.builder.as_deref().or(config.build.builder.as_deref());
    crate::state_dir::create(&config.state_dir)
        .classify(Kind::Environment, || {
            format!("cannot make the state directory {}", config.state_dir.display())
        })
        .map_err(|f| f.hint("choose another with --state-dir or SWANCI_STATE_DIR"))?;
    // An unreadable file fails only the builds of its own repository.
    for path in config.repositories.iter().flat_map(|r| r.secrets.values()) {
        let _ = redact::register_file(path);
    }
    Ok(Site {
        state_dir: state_dir(config)?,
        repositories: config.repositories.clone(),
        registry: address,
        client,
        docker: Docker::new(&config.build.docker, builder),
        access: config.forges.iter().map(|forge| access(config, forge)).collect::<Result<_, _>>()?,
        typed: None,
        jobs: flags.jobs.map_or(config.build.jobs, usize::from),
        timeout: flags.timeout.unwrap_or(config.build.timeout),
        tags: Some(flags.tag.clone()).filter(|tags| !tags.is_empty()),
        default_tags: config.build.tags.clone(),
        secrets: BTreeMap::new(),
        keep_local: config.build.keep_local,
        events: events.clone(),
        cancel: cancel.clone(),
    })
}

/// Absolute, because git and docker run in other directories.
pub(super) fn state_dir(config: &Config) -> Result<PathBuf, Failure> {
    std::path::absolute(&config.state_dir)
        .classify(Kind::Environment, || "the state directory has no absolute path")
}

/// Access to the repositories of this forge.
fn access(config: &Config, forge: &ForgeConfig) -> Result<Access, Failure> {
    let login = login(config, forge)?;
    let (login, token) = login.map(|(user, token, _)| (user, Some(token))).unwrap_or_default();
    Ok(Access { kind: forge.kind, forge: forge.url.clone(), login, token, ca_file: forge.ca_file.clone() })
}

/// The configured token of a forge: `TOKEN` or `USER:TOKEN`.
fn token_text(config: &Config, forge: &ForgeConfig) -> Result<Option<SecretString>, Failure> {
    let owner = config.forge_of_git_token();
    match (config.git_token.as_ref().filter(|_| owner.is_some_and(|o| o.url == forge.url)), &forge.token_file)
    {
        (Some(token), _) => Ok(Some(token.clone())),
        (None, Some(path)) => read_secret_file(path)
            .map(Some)
            .map_err(|failure| failure.context(format!("token_file of the forge {}", forge.url))),
        (None, None) => Ok(None),
    }
}

/// The configured user and token of a forge, and whether the user is configured too.
pub(super) fn login(
    config: &Config,
    forge: &ForgeConfig,
) -> Result<Option<(String, SecretString, bool)>, Failure> {
    let Some(text) = token_text(config, forge)? else { return Ok(None) };
    let (user, token) = config.login(forge.kind, &text)?;
    Ok(Some((user, token, text.expose_secret().contains(':'))))
}

pub(super) fn ca_pem(forge: &ForgeConfig) -> Result<Option<Vec<u8>>, Failure> {
    let read = |path: &PathBuf| {
        std::fs::read(path).classify(Kind::BadInput, || {
            format!("cannot read ca_file of the forge {}: {}", forge.url, path.display())
        })
    };
    forge.ca_file.as_ref().map(read).transpose()
}

/// The secrets of `--secret`; an unreadable file fails before any build.
pub(super) fn typed_secrets(typed: &[(String, PathBuf)]) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut secrets = BTreeMap::new();
    for (id, path) in typed {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        redact::register_file(&path)
            .classify(Kind::BadInput, || format!("--secret {id}: cannot read {}", path.display()))?;
        if secrets.insert(id.clone(), path).is_some() {
            return Err(Failure::usage(format!("--secret {id} is given twice")));
        }
    }
    Ok(secrets)
}

fn connect(
    config: &Config,
    address: &RegistryAddress,
    events: &Events,
    cancel: &Cancel,
) -> Result<Registry, Failure> {
    let mut settings = Settings::new(address.clone());
    settings.plain_http = config.plain_http;
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path)
            .classify(Kind::BadInput, || format!("cannot read registry.ca_file {}", path.display()))
            .map_err(|failure| {
                failure.hint("it is relative to the file that names it; `swanci init --certs` makes one")
            })?;
        settings.ca_pem = Some(pem);
    }
    let login = Login::Docker(crate::docker::config_dir());
    let registry = Registry::connect(settings, login, cancel.clone())?;
    let events = events.clone();
    Ok(registry.with_retry_notice(move |text| events.warn(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_forge_has_its_own_token_and_paths() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("swanci.toml");
        std::fs::write(folder.path().join("one"), "\u{feff}deploy:token-of-one\n").unwrap();
        std::fs::write(folder.path().join("two"), "token-of-two\n").unwrap();
        let text = "[[forge]]\nkind='gitbucket'\nurl='http://one:8080/scm/'\ntoken_file='one'\nca_file='ca.crt'\n\
                    [[forge]]\nkind='bitbucket-server'\nurl='https://two'\ntoken_file='two'\n\
                    [[forge]]\nkind='gitlab'\n\
                    [[repository]]\nname='a/b'\nforge='http://one:8080/scm'\n\
                    [[repository]]\nname='PRJ/c'\nforge='https://two'\n\
                    [[repository]]\nname='group/sub/d'\nforge='https://gitlab.com'\n";
        std::fs::write(&file, text).unwrap();
        let environment = [("HOME", "/home/u"), ("SWANCI_GIT_TOKEN", "token-of-gitlab")];
        let environment: Environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let config = Config::load(Some(&file), None, &environment).unwrap();
        let found: Vec<_> = config.forges.iter().map(|forge| access(&config, forge).unwrap()).collect();
        let logins: Vec<_> = found
            .iter()
            .map(|a| (a.forge.as_str(), a.login.as_str(), a.token.as_ref().unwrap().expose_secret()))
            .collect();
        assert_eq!(
            logins,
            [
                ("http://one:8080/scm", "deploy", "token-of-one"),
                ("https://two", "x-token-auth", "token-of-two"),
                ("https://gitlab.com", "oauth2", "token-of-gitlab"),
            ]
        );
        assert_eq!(found[0].ca_file.as_deref(), Some(&*folder.path().join("ca.crt")));
        let urls: Vec<_> = config
            .repositories
            .iter()
            .map(|r| {
                crate::git::Remote::of_forge(r.forge_kind, &r.forge, &r.name).unwrap().as_git_url().to_owned()
            })
            .collect();
        assert_eq!(
            urls,
            [
                "http://one:8080/scm/git/a/b.git",
                "https://two/scm/PRJ/c.git",
                "https://gitlab.com/group/sub/d.git"
            ]
        );
        std::fs::remove_file(folder.path().join("two")).unwrap();
        let failure = access(&config, &config.forges[1]).unwrap_err();
        assert_eq!(failure.kind, Kind::BadInput);
        assert!(failure.render().contains("token_file of the forge https://two"), "{}", failure.render());
    }
}
