//! In a job of GitHub Actions: step outputs, the summary, and masks (docs.github.com, "Workflow commands for GitHub
//! Actions").

mod summary;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::Environment;
use crate::documents::{BuiltDocument, DecisionDocument, Image, Receipt};
use crate::error::{Classify as _, Failure, Kind};
use crate::model::{Change, Digest, Tag};
use crate::progress::{runner, write_commands};

/// The job's environment (docs.github.com, "Default environment variables").
#[derive(Debug, Clone)]
pub(crate) struct Actions {
    output: Option<PathBuf>,
    summary: Option<PathBuf>,
    event_path: Option<PathBuf>,
    event_name: Option<String>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended<'a> {
    /// Without a document.
    Early,
    Skipped(&'a DecisionDocument),
    /// Some images failed to build.
    Built(&'a BuiltDocument),
    Pushed(&'a Receipt),
}

#[derive(Debug)]
pub(crate) struct Report<'a> {
    pub ended: Ended<'a>,
    pub reason: Option<&'a str>,
    pub failure: Option<&'a Failure>,
    pub receipt: Option<&'a Path>,
}

impl Actions {
    /// `None` outside of GitHub Actions.
    pub(crate) fn detect(environment: &Environment) -> Option<Actions> {
        if environment.get("GITHUB_ACTIONS") != Some("true") {
            return None;
        }
        let path = |name| environment.get(name).map(PathBuf::from);
        Some(Actions {
            output: path("GITHUB_OUTPUT"),
            summary: path("GITHUB_STEP_SUMMARY"),
            event_path: path("GITHUB_EVENT_PATH"),
            event_name: environment.get("GITHUB_EVENT_NAME").map(str::to_owned),
        })
    }

    /// Escapes workflow commands in the output from now on, and masks secrets.
    pub(crate) fn take_over(&self) {
        runner::expect_runner();
        crate::redact::announce(|secret| {
            // Line by line, like the runner.
            for line in secret.lines().filter(|line| !line.trim().is_empty()) {
                write_commands(&[runner::command("add-mask", None, line)]);
            }
        });
    }

    /// The name of the job's own event, if this is its payload.
    pub(crate) fn event_of(&self, payload: &Path) -> Option<String> {
        self.event_name.clone().filter(|_| self.event_path.as_deref() == Some(payload))
    }

    /// Writes the step's outputs and its summary. Fails if a file cannot be written, because later steps need the outputs.
    pub(crate) fn report(&self, report: &Report<'_>) -> Result<(), Failure> {
        if let Some(path) = &self.output {
            append(path, &outputs(report)?, "the step's outputs")?;
        }
        if let Some(path) = &self.summary {
            append(path, &summary::markdown(report), "the step's summary")?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn outcome(&self) -> &'static str {
        match (self.failure, self.ended) {
            (Some(_), _) | (None, Ended::Early | Ended::Built(_)) => "failed",
            (None, Ended::Skipped(_)) => "skipped",
            (None, Ended::Pushed(_)) => "succeeded",
        }
    }

    fn images(&self) -> &[Image] {
        match self.ended {
            Ended::Early | Ended::Skipped(_) => &[],
            Ended::Built(built) => &built.images,
            Ended::Pushed(receipt) => &receipt.images,
        }
    }

    fn change(&self) -> Option<&Change> {
        match self.ended {
            Ended::Early | Ended::Skipped(_) => None,
            Ended::Built(built) => Some(&built.change),
            Ended::Pushed(receipt) => Some(&receipt.change),
        }
    }

    /// Repository, branch and commit; empty if unknown.
    fn place(&self) -> [String; 3] {
        if let Some(change) = self.change() {
            let branch = change.branch.as_ref().map(ToString::to_string).unwrap_or_default();
            return [change.repository.to_string(), branch, change.commit.to_string()];
        }
        let Ended::Skipped(document) = self.ended else { return Default::default() };
        let Some(change) = &document.change else { return Default::default() };
        let branch = change.branch.as_ref().map(ToString::to_string);
        let commit = change.commit.as_ref().map(ToString::to_string);
        [change.repository.to_string(), branch.unwrap_or_default(), commit.unwrap_or_default()]
    }
}

/// In the output `images`.
#[derive(Serialize)]
struct OutputImage<'a> {
    name: &'a str,
    status: crate::documents::ImageStatus,
    image: Option<String>,
    digest: Option<&'a Digest>,
    /// The moving tags that point to the image now.
    tags: Vec<&'a Tag>,
}

fn outputs(report: &Report<'_>) -> Result<String, Failure> {
    let images: Vec<OutputImage<'_>> = report
        .images()
        .iter()
        .map(|image| OutputImage {
            name: &image.name,
            status: image.status,
            image: image
                .repository
                .as_ref()
                .zip(image.immutable_tag.as_ref())
                .map(|(repository, tag)| repository.tagged(tag)),
            digest: image.digest.as_ref(),
            tags: image.moved.iter().flatten().filter(|m| m.outcome.stands()).map(|m| &m.tag).collect(),
        })
        .collect();
    let digests: Vec<String> = report
        .images()
        .iter()
        .filter_map(|image| Some(format!("{}@{}", image.repository.as_ref()?, image.digest.as_ref()?)))
        .collect();
    let images =
        serde_json::to_string(&images).classify(Kind::Failed, || "the images cannot be written as JSON")?;
    let [repository, branch, commit] = report.place();
    let reason = report.failure.map(Failure::one_line).or_else(|| report.reason.map(str::to_owned));
    let receipt = report.receipt.map(|path| path.display().to_string());
    let mut text = String::new();
    for (name, value) in [
        ("outcome", report.outcome()),
        ("reason", &crate::redact::scrub(&reason.unwrap_or_default())),
        ("repository", &repository),
        ("branch", &branch),
        ("commit", &commit),
        ("images", &images),
        ("digests", &digests.join("\n")),
        ("receipt", &receipt.unwrap_or_default()),
    ] {
        text.push_str(&output(name, value, &delimiter()?));
    }
    Ok(text)
}

fn output(name: &str, value: &str, delimiter: &str) -> String {
    format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
}

/// Random, so that no value can contain it.
fn delimiter() -> Result<String, Failure> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|e| Failure::environment(format!("the system gives no random bytes: {e}")))?;
    Ok(format!("swanci_{}", hex::encode(random)))
}

fn append(path: &Path, text: &str, what: &'static str) -> Result<(), Failure> {
    let file = OpenOptions::new().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .classify(Kind::Environment, || format!("{what} cannot be written to {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_of_several_lines_ends_at_a_random_delimiter() {
        let (one, two) = (delimiter().unwrap(), delimiter().unwrap());
        assert_ne!(one, two);
        assert_eq!(output("digests", "a\nb", "D"), "digests<<D\na\nb\nD\n");
    }

    #[test]
    fn only_the_jobs_own_payload_has_its_event() {
        let variables = [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_PATH", "/run/event.json"),
            ("GITHUB_EVENT_NAME", "pull_request_target"),
        ];
        let environment: Environment =
            variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let actions = Actions::detect(&environment).unwrap();
        assert_eq!(actions.event_of(Path::new("/run/event.json")).as_deref(), Some("pull_request_target"));
        assert_eq!(actions.event_of(Path::new("other.json")), None);
        assert!(Actions::detect(&Environment::default()).is_none());
    }
}
