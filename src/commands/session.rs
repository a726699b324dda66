//! What every command starts with: configuration, display, and the site that the pipeline works on.

use std::io::IsTerminal as _;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::ci::Actions;
use crate::cli::{BuildArgs, Color, Global, RegistryArgs};
use crate::config::{Config, Environment};
use crate::docker::Docker;
use crate::error::{Classify as _, Failure, Kind};
use crate::git::Access;
use crate::manifest::Template;
use crate::model::RegistryAddress;
use crate::pipeline::{CONFIGS, RepositoryRule, Site};
use crate::progress::{Progress, Style};
use crate::registry::{Credentials, Registry, Settings};

/// A command's configuration, display and cancellation.
pub struct Session {
    /// The configuration below the flags.
    pub config: Config,
    /// Where progress goes.
    pub progress: Progress,
    /// Signals.
    pub cancel: Cancel,
    /// The CI job around it.
    pub actions: Option<Actions>,
}

impl Session {
    /// Reads the configuration and sets up the display.
    pub fn open(global: &Global, cancel: &Cancel) -> Result<Session, Failure> {
        let environment = Environment::of_process();
        let actions = Actions::detect(&environment);
        // Before anything is read: no secret is known before the runner masks it.
        if let Some(actions) = &actions {
            actions.take_over();
        }
        let progress = Session::display(global, actions.is_some());
        let config = Config::load(global.config.as_deref(), global.state_dir.as_deref(), &environment)?;
        for warning in &config.warnings {
            progress.warn(warning);
        }
        Ok(Session { config, progress, cancel: cancel.clone(), actions })
    }

    /// The display that the global options ask for.
    pub(super) fn display(global: &Global, in_actions: bool) -> Progress {
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => console::colors_enabled_stderr(),
        };
        console::set_colors_enabled_stderr(color);
        let live = match global.color {
            Color::Never => false,
            Color::Auto | Color::Always => std::io::stderr().is_terminal() && global.verbose == 0,
        };
        Progress::new(match (global.quiet, in_actions, live) {
            (true, _, _) => Style::Quiet,
            (false, true, _) => Style::Groups,
            (false, false, true) => Style::Bars,
            (false, false, false) => Style::Plain { verbose: global.verbose > 0 },
        })
    }

    /// The site of a command that builds or pushes, with the flags on top of the configuration.
    pub fn site(&self, registry: &RegistryArgs, build: Option<&BuildArgs>) -> Result<Site, Failure> {
        site(&self.config, registry, build, &self.progress, &self.cancel)
    }
}

const GITHUB: &str = "https://github.com";

/// A [`Site`] of this configuration.
pub(super) fn site(
    config: &Config,
    registry: &RegistryArgs,
    build: Option<&BuildArgs>,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Site, Failure> {
    let address = registry.registry.clone().or_else(|| config.registry.clone());
    let client = address.as_ref().map(|address| connect(config, address, progress, cancel)).transpose()?;
    let default_tags = config.build.tags.as_ref().map(|tags| templates(tags)).transpose()?;
    let builder = build.and_then(|b| b.builder.as_deref()).or(config.build.builder.as_deref());
    std::fs::create_dir_all(&config.state_dir)
        .classify(Kind::Environment, || {
            format!("cannot make the state directory {}", config.state_dir.display())
        })
        .map_err(|f| f.hint("choose another with --state-dir or SWANCI_STATE_DIR"))?;
    Ok(Site {
        // git runs in other directories, so every path is made absolute.
        state_dir: std::path::absolute(&config.state_dir)
            .classify(Kind::Environment, || "the state directory has no absolute path")?,
        repositories: config
            .repositories
            .iter()
            .map(|r| RepositoryRule {
                name: r.name.clone(),
                clone_url: r.clone_url.clone(),
                namespace: r.namespace.clone(),
                submodules: r.submodules,
                forge: GITHUB.to_owned(),
                former_names: Vec::new(),
                secrets: config.build.secrets.clone(),
            })
            .collect(),
        registry: address,
        client,
        docker: Docker::new(&config.build.docker, builder),
        access: vec![Access {
            forge: GITHUB.to_owned(),
            login: "x-access-token".to_owned(),
            token: config.git_token.clone(),
            ca_file: None,
        }],
        typed: None,
        jobs: build.and_then(|b| b.jobs).map_or(config.build.jobs, usize::from),
        timeout: build.and_then(|b| b.timeout).unwrap_or(config.build.timeout),
        tags: build.map(|b| b.tag.clone()).filter(|tags| !tags.is_empty()),
        default_tags,
        secrets: config.build.secrets.clone(),
        keep_local: config.build.keep_local,
        progress: progress.clone(),
        cancel: cancel.clone(),
    })
}

fn templates(tags: &[String]) -> Result<Vec<Template>, Failure> {
    tags.iter()
        .map(|tag| {
            tag.parse().map_err(|error| {
                Failure::new(Kind::BadInput, error).context("build.tags of the configuration")
            })
        })
        .collect()
}

/// A client of the registry, with docker's own credentials and the pinned certificate authority.
pub(super) fn connect(
    config: &Config,
    address: &RegistryAddress,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Registry, Failure> {
    let mut settings = Settings::new(address.clone());
    settings.plain_http = config.plain_http;
    settings.configs = Some(config.state_dir.join(CONFIGS));
    if let Some(path) = &config.ca_file {
        let pem = std::fs::read(path)
            .classify(Kind::BadInput, || format!("cannot read registry.ca_file {}", path.display()))
            .map_err(|failure| {
                failure.hint("it is relative to the file that names it; `swanci init --certs` makes one")
            })?;
        settings.ca_pem = Some(pem);
    }
    let credentials = match crate::docker::config_dir() {
        Some(dir) => Credentials::from_docker(&dir, address, cancel).map_err(|error| {
            let hint = error.hint();
            let failure = Failure::new(Kind::Environment, error);
            match hint {
                Some(hint) => failure.hint(hint),
                None => failure,
            }
        })?,
        None => Credentials::Anonymous,
    };
    let registry = Registry::connect(settings, credentials, cancel.clone())?;
    let progress = progress.clone();
    Ok(registry.with_retry_notice(Arc::new(move |text: &str| progress.warn(text))))
}
