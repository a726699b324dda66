//! Inside a job of GitHub Actions: step outputs, the summary, and masks (docs.github.com, "Workflow commands for GitHub
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

/// What the runner says about the job (docs.github.com, "Default environment variables").
#[derive(Debug, Clone)]
pub(crate) struct Actions {
    output: Option<PathBuf>,
    summary: Option<PathBuf>,
    event_path: Option<PathBuf>,
    event_name: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ended<'a> {
    /// Before there was a document.
    Early,
    /// With nothing to do.
    Skipped(&'a DecisionDocument),
    /// With images that failed to build.
    Built(&'a BuiltDocument),
    /// With a receipt.
    Pushed(&'a Receipt),
}

/// What a run has to report.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    /// How it ended.
    pub ended: Ended<'a>,
    /// Why, in a sentence.
    pub reason: Option<&'a str>,
    /// What failed.
    pub failure: Option<&'a Failure>,
    /// Where the receipt is kept.
    pub receipt: Option<&'a Path>,
}

impl Actions {
    /// The job around this process; `None` outside of GitHub Actions.
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

    /// From now on what is printed is made harmless, and secrets are masked as they become known.
    pub(crate) fn take_over(&self) {
        runner::expect_runner();
        crate::redact::announce(|secret| {
            // Each line by itself: that is how the runner compares.
            for line in secret.lines().filter(|line| !line.trim().is_empty()) {
                write_commands(&[runner::command("add-mask", None, line)]);
            }
        });
    }

    /// The event of this payload, where it is the job's own.
    pub(crate) fn event_of(&self, payload: &Path) -> Option<String> {
        if self.event_path.as_deref() != Some(payload) {
            return None;
        }
        self.event_name.clone()
    }

    /// Writes the step's outputs and its summary, where the runner wants them.
    ///
    /// # Errors
    /// When a file cannot be written: later steps would go on without the outputs.
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

    /// Repository, branch and commit, as far as they are known.
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

/// One image in the output `images`.
#[derive(Serialize)]
struct OutputImage<'a> {
    name: &'a str,
    status: crate::documents::ImageStatus,
    image: Option<String>,
    digest: Option<&'a Digest>,
    /// The moving tags that name it now.
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

/// One output, whose value may have any lines but the delimiter.
fn output(name: &str, value: &str, delimiter: &str) -> String {
    format!("{name}<<{delimiter}\n{value}\n{delimiter}\n")
}

/// What nobody who writes a value can know beforehand.
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
    fn an_output_of_many_lines_ends_at_a_delimiter_that_cannot_be_guessed() {
        let (one, two) = (delimiter().unwrap(), delimiter().unwrap());
        assert_ne!(one, two);
        assert_eq!(output("digests", "a\nb", "D"), "digests<<D\na\nb\nD\n");
    }

    #[test]
    fn the_event_is_told_for_the_jobs_own_payload_alone() {
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
