//! `swanci init`: asks, or takes flags, and writes a new installation down.

use std::io::{IsTerminal as _, Write};
use std::path::Path;

use dialoguer::{Confirm, Input};
use serde::Serialize;

use crate::cancel::{Cancel, Stop};
use crate::ci::Actions;
use crate::cli::{Global, Init, full_name};
use crate::config::Environment;
use crate::decide::BranchGlobs;
use crate::error::{Failure, Kind};
use crate::init::{self, Answers, Written};
use crate::model::RegistryAddress;

use super::Session;

#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    config: &'a Path,
    secret_file: &'a Path,
    written: &'a [std::path::PathBuf],
    next: &'a [String],
}

/// Writes, and says the next three commands.
pub(super) fn command(
    global: &Global,
    args: &Init,
    cancel: &Cancel,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let events = Session::display(global, Actions::detect(&Environment::of_process()).is_some());
    let mut answers = Answers {
        // The folder one stands in needs no name in what is printed.
        dir: if args.dir == Path::new(".") { std::path::PathBuf::new() } else { args.dir.clone() },
        registry: args.registry.clone(),
        repositories: args.repository.clone(),
        branches: args.branch.clone(),
        clone_url: args.clone_url.clone(),
        secret_file: args.secret_file.clone(),
        certificates: args.certs,
    };
    // Prompts are drawn on standard error.
    if !args.yes && !global.quiet && std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
        ask(&mut answers, cancel)?;
    }
    let written = init::write(&answers)?;
    if in_git(&answers.dir) && !written.secret_kept {
        events.warn(&format!("keep {} out of git: add it to .gitignore", written.secret.display()));
    }
    let next = next(&answers, &written);
    let mut text: String = written.files.iter().map(|path| format!("wrote {}\n", path.display())).collect();
    if written.secret_kept {
        text.push_str(&format!("kept {}\n", written.secret.display()));
    }
    text.push_str("next:\n");
    next.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
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

/// Asks for what no flag said.
fn ask(answers: &mut Answers, cancel: &Cancel) -> Result<(), Failure> {
    if answers.registry.is_none() {
        answers.registry = optional("Registry, as registry.example.org:443 (empty: none)", registry, cancel)?;
    }
    if answers.repositories.is_empty() {
        let mut prompt = "Repository whose merges are built, as owner/name (empty: none)";
        while let Some(name) = optional(prompt, full_name, cancel)? {
            answers.repositories.push(name);
            prompt = "Another repository (empty: no more)";
        }
    }
    if answers.branches.is_empty() && !answers.repositories.is_empty() {
        let prompt = "Branches to build, as main, release/* (empty: every branch)";
        answers.branches = optional(prompt, globs, cancel)?.unwrap_or_default();
    }
    if let (false, Some(registry)) = (answers.certificates, &answers.registry) {
        let prompt = format!("Make a certificate authority and a certificate for {}", registry.host());
        let asked = Confirm::new().with_prompt(prompt).default(false).interact();
        answers.certificates = answered(asked, cancel)?;
    }
    Ok(())
}

/// One line, parsed; asked again until it is well formed; `None` when it is empty.
fn optional<T>(
    prompt: &str,
    parse: fn(&str) -> Result<T, String>,
    cancel: &Cancel,
) -> Result<Option<T>, Failure> {
    cancel.check()?;
    let asked = Input::<String>::new()
        .with_prompt(prompt)
        .allow_empty(true)
        .validate_with(|text: &String| match text.trim() {
            "" => Ok(()),
            text => parse(text).map(|_| ()),
        })
        .interact_text();
    // Nothing but an empty line is not well formed here.
    Ok(parse(answered(asked, cancel)?.trim()).ok())
}

/// A list of globs; an empty one is none.
fn globs(text: &str) -> Result<Vec<String>, String> {
    let globs: Vec<String> =
        text.split([',', ' ']).filter(|glob| !glob.is_empty()).map(str::to_owned).collect();
    BranchGlobs::new(&globs).map_err(|error| error.to_string())?;
    Ok(globs)
}

fn registry(text: &str) -> Result<RegistryAddress, String> {
    text.parse().map_err(|error| format!("{error}"))
}

fn answered<T>(asked: dialoguer::Result<T>, cancel: &Cancel) -> Result<T, Failure> {
    asked.map_err(|error| {
        let dialoguer::Error::IO(io) = error;
        // The terminal gives Ctrl-C to the prompt, which raises the signal before it gives up.
        match cancel.stopped() {
            Some(stop) => stop.into(),
            None if io.kind() == std::io::ErrorKind::Interrupted => Stop::Interrupted.into(),
            None => Failure::new(Kind::Failed, io)
                .context("the terminal gives no answer")
                .hint("try --yes with flags"),
        }
    })
}

/// The next three commands.
fn next(answers: &Answers, written: &Written) -> Vec<String> {
    let at_home = answers.dir.as_os_str().is_empty();
    let config = if at_home { String::new() } else { format!(" --config {}", quoted(&written.config)) };
    let repository = match &answers.repositories[..] {
        [_] => String::new(),
        [first, ..] => format!(" --repo {first}"),
        [] => " --repo owner/name".to_owned(),
    };
    vec![
        format!("swanci doctor{config}"),
        format!("swanci serve{config}"),
        format!("swanci hook install{config}{repository} --url https://YOUR-PUBLIC-ADDRESS"),
    ]
}

/// A path that a shell reads as one word.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':');
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn in_git(dir: &Path) -> bool {
    std::path::absolute(Path::new(".").join(dir))
        .is_ok_and(|dir| dir.ancestors().any(|dir| dir.join(".git").exists()))
}
