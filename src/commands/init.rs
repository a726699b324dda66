//! `swanci init`: prompts, or takes flags, and writes a new installation.

use std::io::{IsTerminal as _, Write};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::cancel::Cancel;
use crate::cli::{Global, Init, full_name};
use crate::config;
use crate::decide::BranchGlobs;
use crate::error::{Failure, Kind};
use crate::init::{self, Answers, Written};
use crate::model::{ForgeName, RegistryAddress};
use crate::progress::{prompt, write_stderr};

use super::summary::shell_word;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    config: &'a Path,
    secret_file: &'a Path,
    written: &'a [std::path::PathBuf],
    next: &'a [String],
}

/// Writes the files and prints the next steps.
pub(super) fn command(
    global: &Global,
    args: &Init,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let mut answers = Answers {
        // The current directory needs no prefix in the output.
        dir: if args.dir == Path::new(".") { std::path::PathBuf::new() } else { args.dir.clone() },
        registry: args.registry.clone(),
        forge: args.forge.map(|kind| (kind, args.forge_url.clone())),
        repositories: args.repository.clone(),
        branches: args.branch.clone(),
        clone_url: args.clone_url.clone(),
        secret_file: args.secret_file.clone(),
        certificates: args.certs,
    };
    // Prompts are printed to standard error.
    if !args.yes && !global.quiet && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        init::is_free(&answers)?;
        ask(&mut answers, cancel)?;
    }
    let written = init::write(&answers)?;
    let next = next(&answers, &written);
    let mut text: String = written.files.iter().map(|path| format!("wrote {}\n", path.display())).collect();
    if written.secret_kept {
        text.push_str(&format!("kept {}\n", written.secret.display()));
    }
    if !written.ignored.is_empty() {
        let file = answers.dir.join(".gitignore");
        text.push_str(&format!("added {} to {}\n", written.ignored.join(" and "), file.display()));
    }
    text.push_str("next:\n");
    for (i, step) in next.iter().enumerate() {
        text.push_str(&format!("  {}. {step}\n", i + 1));
    }
    if global.json {
        let document = Document {
            schema: 1,
            config: &written.config,
            secret_file: &written.secret,
            written: &written.files,
            next: &next,
        };
        return super::documents_io::write_json(out, &document);
    }
    super::documents_io::print(out, &text)
}

/// Prompts for the values that no flag set. Enter accepts the value in brackets.
fn ask(answers: &mut Answers, cancel: &Cancel) -> Result<(), Failure> {
    if answers.registry.is_none() {
        let default = "none, only local names";
        answers.registry = question("Registry, as registry.example.org:443", default, registry, cancel)?;
    }
    if answers.forge.is_none()
        && let Some(kind) =
            question("Forge, as github, gitlab, gitea, bitbucket", "github", str::parse::<ForgeName>, cancel)?
    {
        let url = match kind.public_url() {
            Some(_) => None,
            None => {
                let default = "https://git.example.org";
                let prompt = format!("URL of {}", kind.title());
                Some(question(&prompt, default, config::forge_url, cancel)?.unwrap_or(default.to_owned()))
            }
        };
        answers.forge = (kind != ForgeName::Github).then_some((kind, url));
    }
    if answers.repositories.is_empty() {
        let mut prompt = "Repository to build, as acme/shop";
        let mut default = "none";
        while let Some(name) = question(prompt, default, full_name, cancel)? {
            answers.repositories.push(name);
            (prompt, default) = ("Another repository", "no more");
        }
    }
    if answers.branches.is_empty() && !answers.repositories.is_empty() {
        let prompt = "Branches to build, as main, release/*";
        answers.branches = question(prompt, "all", globs, cancel)?.unwrap_or_default();
    }
    if let (false, Some(registry)) = (answers.certificates, &answers.registry) {
        let prompt = format!("Make a certificate for {}", crate::escape::shortened(registry.host(), 40));
        answers.certificates = question(&prompt, "no", yes_or_no, cancel)?.unwrap_or(false);
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
        |error: std::io::Error| Failure::new(Kind::Failed, error).context("the terminal gives no answer");
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
        return Err(Failure::failed("the terminal gives no answer").hint("try --yes with flags"));
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

fn registry(text: &str) -> Result<RegistryAddress, String> {
    text.parse().map_err(|error| format!("{error}"))
}

/// The remaining steps up to the first image, in order.
fn next(answers: &Answers, written: &Written) -> Vec<String> {
    let at_home = answers.dir.as_os_str().is_empty();
    let path = |path: &Path| shell_word(&path.display().to_string());
    let config = if at_home { String::new() } else { format!(" --config {}", path(&written.config)) };
    let mut steps = Vec::new();
    match &answers.registry {
        None => steps.push("name a registry: host under [registry], in the configuration".to_owned()),
        Some(registry) => {
            if answers.certificates {
                let certs = answers.dir.join("certs");
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
    let repository = answers.repositories.first().map_or("acme/shop", |name| name.as_str());
    if answers.repositories.is_empty() {
        steps.push("name a repository: [[repository]] in the configuration".to_owned());
    }
    steps.push(format!(
        r#"commit an images.json to {repository}: {{"images":[{{"service_name":"FOLDER"}}]}}"#
    ));
    steps.push(format!("swanci doctor{config}"));
    steps.push(format!("swanci serve{config}"));
    if answers.forge.as_ref().is_some_and(|(kind, _)| *kind != ForgeName::Github) {
        steps.push("make a token at the forge, and name its file: token_file under [[forge]]".to_owned());
    }
    let several = answers.repositories.len() != 1;
    let repo = if several { format!(" --repo {repository}") } else { String::new() };
    steps.push(format!("swanci hook install{config}{repo} --url https://YOUR-PUBLIC-ADDRESS"));
    steps
}
