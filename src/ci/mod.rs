//! In a job of GitHub Actions: step outputs, the summary, and masks (docs.github.com, "Workflow commands for GitHub
//! Actions").

mod summary;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::Environment;
use crate::documents::Image;
use crate::error::{Classify as _, Failure, Kind};
use crate::init::random;
use crate::model::{Change, CommitSha};
use crate::progress::{runner, write_commands};

/// The job's environment (docs.github.com, "Default environment variables").
#[derive(Debug, Clone)]
pub(crate) struct Actions {
    output: Option<PathBuf>,
    summary: Option<PathBuf>,
    event_path: Option<PathBuf>,
    event_name: Option<String>,
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Report {
    /// `succeeded`, `skipped` or `failed`.
    pub outcome: &'static str,
    /// The reason of the decision; empty without one.
    pub reason: String,
    /// Repository, branch and commit; empty if unknown.
    pub place: [String; 3],
    pub images: Vec<Image>,
    pub receipt: Option<PathBuf>,
}

impl Default for Report {
    fn default() -> Report {
        let (reason, place) = Default::default();
        Report { outcome: "failed", reason, place, images: Vec::new(), receipt: None }
    }
}

impl Report {
    pub(crate) fn is_about<C>(&mut self, change: &Change<C>, commit: Option<&CommitSha>) {
        let branch = change.branch.as_ref().map(ToString::to_string).unwrap_or_default();
        let commit = commit.map(ToString::to_string).unwrap_or_default();
        self.place = [change.repository.to_string(), branch, commit];
    }
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
    pub(crate) fn report(&self, report: &Report, failure: Option<&Failure>) -> Result<(), Failure> {
        if let Some(path) = &self.output {
            append(path, &outputs(report, failure)?, "the step's outputs")?;
        }
        if let Some(path) = &self.summary {
            append(path, &summary::markdown(report, failure), "the step's summary")?;
        }
        Ok(())
    }
}

fn outputs(report: &Report, failure: Option<&Failure>) -> Result<String, Failure> {
    let pushed = |image: &Image| Some(image.repository.as_ref()?.tagged(image.immutable_tag.as_ref()?));
    let standing = |image: &Image| -> Vec<String> {
        let tags = image.moved.iter().flatten().filter(|moved| moved.outcome.is_in_place());
        tags.map(|moved| moved.tag.to_string()).collect()
    };
    let images = report.images.iter().map(|image| {
        json!({
            "name": image.name, "status": image.status, "image": pushed(image), "digest": image.digest,
            "tags": standing(image),
        })
    });
    let images: Value = images.collect();
    let digests = report
        .images
        .iter()
        .filter_map(|image| Some(format!("{}@{}", image.repository.as_ref()?, image.digest.as_ref()?)));
    let digests: Vec<String> = digests.collect();
    let reason = failure.map_or(report.reason.clone(), Failure::one_line);
    let receipt = report.receipt.as_ref().map(|path| path.display().to_string());
    let [repository, branch, commit] = &report.place;
    let mut text = String::new();
    for (name, value) in [
        ("outcome", report.outcome),
        ("reason", &crate::redact::scrub(&reason)),
        ("repository", repository),
        ("branch", branch),
        ("commit", commit),
        ("images", &images.to_string()),
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
    Ok(format!("swanci_{}", random::<16>()?))
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
