//! `swanci init`: prompts for what the flags omit, and writes a new installation.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde_json::json;

use crate::cancel::Cancel;
use crate::cli::{Global, Init, full_name};
use crate::config;
use crate::decide::BranchGlobs;
use crate::error::{Failure, Kind};
use crate::init;
use crate::model::{ForgeName, RegistryAddress};
use crate::progress::{prompt, write_stderr};

use super::documents_io::show;
use super::summary::shell_word;

/// Writes the files and prints the next steps.
pub(super) fn command(global: &Global, mut args: Init, cancel: &Cancel) -> Result<(), Failure> {
    if args.dir == Path::new(".") {
        // The current directory needs no prefix in the output.
        args.dir = PathBuf::new();
    }
    // Prompts are printed to standard error.
    if !args.yes && !global.quiet && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        init::is_free(&args)?;
        ask(&mut args, cancel)?;
    }
    let (files, ignored) = init::write(&args)?;
    let (config, secret) = (init::config_path(&args), init::secret_path(&args));
    let next = next(&args);
    let shown = |path: &PathBuf| path.display().to_string();
    let mut text: String = files.iter().map(|path| format!("wrote {}\n", path.display())).collect();
    if !files.contains(&secret) {
        text.push_str(&format!("kept {}\n", secret.display()));
    }
    if !ignored.is_empty() {
        let file = args.dir.join(".gitignore");
        text.push_str(&format!("added {} to {}\n", ignored.join(" and "), file.display()));
    }
    text.push_str("next:\n");
    for (i, step) in next.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", i + 1));
    }
    let written: Vec<String> = files.iter().map(shown).collect();
    let document = json!({
        "schema": 1, "config": shown(&config), "secret_file": shown(&secret), "written": written, "next": next,
    });
    show(global.json, &document, || text)
}

/// Prompts for the values that no flag set. Enter accepts the value in brackets.
fn ask(init: &mut Init, cancel: &Cancel) -> Result<(), Failure> {
    if init.registry.is_none() {
        let default = "none, only local names";
        init.registry = question(
            "Registry, such as registry.example.org:443",
            default,
            str::parse::<RegistryAddress>,
            cancel,
        )?;
    }
    if init.forge.is_none()
        && let Some(kind) =
            question("Forge: github, gitlab, gitea, bitbucket, …", "github", str::parse::<ForgeName>, cancel)?
    {
        if kind.public_url().is_none() {
            let (default, prompt) = ("https://git.example.org", format!("URL of {}", kind.title()));
            let url = question(&prompt, default, config::forge_url, cancel)?;
            init.forge_url = Some(url.unwrap_or(default.to_owned()));
        }
        init.forge = Some(kind).filter(|kind| *kind != ForgeName::Github);
    }
    if init.repository.is_empty() {
        let mut prompt = "Repository to build, such as acme/shop";
        let mut default = "none";
        while let Some(name) = question(prompt, default, full_name, cancel)? {
            init.repository.push(name);
            (prompt, default) = ("Another repository", "no more");
        }
    }
    if init.branch.is_empty() && !init.repository.is_empty() {
        let prompt = "Branches to build, such as main, release/*";
        init.branch = question(prompt, "all", globs, cancel)?.unwrap_or_default();
    }
    if let (false, Some(registry)) = (init.certs, &init.registry) {
        let prompt = format!("Create a certificate for {}", crate::escape::shortened(registry.host(), 40));
        init.certs = question(&prompt, "no", yes_or_no, cancel)?.unwrap_or(false);
    }
    Ok(())
}

/// Prompts for one line until it is valid; `None` if it is empty.
fn question<T, E: std::fmt::Display>(
    text: &str,
    default: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    cancel: &Cancel,
) -> Result<Option<T>, Failure> {
    loop {
        prompt(&format!("{text} [{default}]: "));
        let line = read_line(cancel)?;
        match line.trim() {
            "" => return Ok(None),
            line => match parse(line) {
                Ok(value) => return Ok(Some(value)),
                Err(error) => write_stderr(&format!("  {error}")),
            },
        }
    }
}

/// Reads a line from the terminal. A signal interrupts it.
fn read_line(cancel: &Cancel) -> Result<String, Failure> {
    let failed =
        |error: std::io::Error| Failure::new(Kind::Failed, error).context("cannot read from the terminal");
    let stdin = std::io::stdin();
    loop {
        let wait = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        let ready = poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&wait));
        if let Err(stop) = cancel.check() {
            write_stderr("");
            return Err(stop.into());
        }
        match ready {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => break,
            Err(error) => return Err(failed(error.into())),
        }
    }
    let mut line = String::new();
    if stdin.read_line(&mut line).map_err(failed)? == 0 {
        write_stderr("");
        return Err(Failure::failed("standard input ended").hint("try --yes with flags"));
    }
    Ok(line)
}

fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err("answer yes or no"),
    }
}

/// A list of globs, possibly empty.
fn globs(text: &str) -> Result<Vec<String>, String> {
    let globs: Vec<String> =
        text.split([',', ' ']).filter(|glob| !glob.is_empty()).map(str::to_owned).collect();
    BranchGlobs::new(&globs)?;
    Ok(globs)
}

/// The remaining steps up to the first image, in order.
fn next(init: &Init) -> Vec<String> {
    let at_home = init.dir.as_os_str().is_empty();
    let path = |path: &Path| shell_word(&path.display().to_string());
    let config =
        if at_home { String::new() } else { format!(" --config {}", path(&init::config_path(init))) };
    let mut steps = Vec::new();
    match &init.registry {
        None => steps.push("name a registry: host under [registry], in the configuration".to_owned()),
        Some(registry) => {
            if init.certs {
                let certs = init.dir.join("certs");
                steps.push(format!(
                    "start the registry with {0}/registry.crt and {0}/registry.key",
                    certs.display()
                ));
                let ca = path(&certs.join("ca.crt"));
                steps.push(format!("sudo swanci trust --ca {ca} {}", registry.host()));
            }
            steps.push(format!("docker login {}   (where it asks for a password)", registry.host()));
        }
    }
    let repository = init.repository.first().map_or("acme/shop", |name| name.as_str());
    if init.repository.is_empty() {
        steps.push("name a repository: [[repository]] in the configuration".to_owned());
    }
    steps.push(format!(
        r#"commit an images.json to {repository}: {{"images":[{{"service_name":"FOLDER"}}]}}"#
    ));
    steps.push(format!("swanci doctor{config}"));
    steps.push(format!("swanci serve{config}"));
    if init.forge.is_some_and(|kind| kind != ForgeName::Github) {
        steps.push("make a token at the forge, and name its file: token_file under [[forge]]".to_owned());
    }
    let several = init.repository.len() != 1;
    let repo = if several { format!(" --repo {repository}") } else { String::new() };
    steps.push(format!("swanci hook install{config}{repo} --url https://YOUR-PUBLIC-ADDRESS"));
    steps
}
