//! `swanci init`: asks, or takes flags, and writes a new installation down.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::str::FromStr;

use dialoguer::{Confirm, Input};
use serde::Serialize;

use crate::cancel::{Cancel, Stop};
use crate::ci::Actions;
use crate::cli::{Global, Init};
use crate::config::Environment;
use crate::error::{Classify as _, Failure, Kind};
use crate::init::{self, Answers, Written};
use crate::model::{RegistryAddress, RepoName};

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
    let progress = Session::display(global, Actions::detect(&Environment::of_process()).is_some());
    let mut answers = Answers {
        dir: args.dir.clone(),
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
        progress.warn(&format!("keep {} out of git: add it to .gitignore", written.secret.display()));
    }
    let next = next(&answers, &written);
    let mut text: String = written.files.iter().map(|path| format!("wrote {}\n", path.display())).collect();
    if written.secret_kept {
        text.push_str(&format!("kept {}\n", written.secret.display()));
    }
    text.push_str("next:\n");
    next.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
    if args.json {
        let document = Document {
            schema: 1,
            config: &written.config,
            secret_file: &written.secret,
            written: &written.files,
            next: &next,
        };
        return super::documents_io::write(out, &document);
    }
    out.write_all(text.as_bytes())
        .classify(Kind::Failed, || "everything is written, but standard output is closed")
}

/// Asks for what no flag said.
fn ask(answers: &mut Answers, cancel: &Cancel) -> Result<(), Failure> {
    if answers.registry.is_none() {
        answers.registry =
            optional::<RegistryAddress>("Registry, as registry.example.org:443 (empty: none)", cancel)?;
    }
    if answers.repositories.is_empty() {
        let mut prompt = "Repository whose merges are built, as owner/name (empty: none)";
        while let Some(name) = optional::<RepoName>(prompt, cancel)? {
            answers.repositories.push(name);
            prompt = "Another repository (empty: no more)";
        }
    }
    if answers.branches.is_empty() && !answers.repositories.is_empty() {
        let branches =
            optional::<String>("Branches to build, as main, release/* (empty: every branch)", cancel)?;
        let branches = branches.unwrap_or_default();
        answers.branches = branches.split([',', ' ']).filter(|b| !b.is_empty()).map(str::to_owned).collect();
    }
    if let (false, Some(registry)) = (answers.certificates, &answers.registry) {
        let prompt = format!("Make a certificate authority and a certificate for {}", registry.host());
        let asked = Confirm::new().with_prompt(prompt).default(false).interact();
        answers.certificates = answered(asked, cancel)?;
    }
    Ok(())
}

/// One line, parsed; asked again until it is well formed; `None` when it is empty.
fn optional<T: FromStr>(prompt: &str, cancel: &Cancel) -> Result<Option<T>, Failure>
where
    T::Err: std::fmt::Display,
{
    let asked = Input::<String>::new()
        .with_prompt(prompt)
        .allow_empty(true)
        .validate_with(|text: &String| {
            if text.trim().is_empty() {
                return Ok(());
            }
            text.trim().parse::<T>().map(|_| ()).map_err(|error| error.to_string())
        })
        .interact_text();
    let text = answered(asked, cancel)?;
    Ok(text.trim().parse().ok()).map(|parsed: Option<T>| if text.trim().is_empty() { None } else { parsed })
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
    let at_home = answers.dir == Path::new(".");
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
    std::path::absolute(dir).is_ok_and(|dir| dir.ancestors().any(|dir| dir.join(".git").exists()))
}
