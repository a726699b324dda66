//! The status of a merge's commit and the comment on its pull request.

use secrecy::SecretString;

use crate::cancel::Cancel;
use crate::config::{Config, ForgeConfig};
use crate::documents::{Image, Receipt};
use crate::error::Failure;
use crate::escape::{clean, escaped};
use crate::forge::api::{Account, Api, CommitState, LONGEST_DESCRIPTION};
use crate::model::{ForgeName, RepoName};
use crate::redact;

use super::{session, summary};

/// Lines at the end of a log that a comment contains.
const LOG_LINES: usize = 30;
/// Characters of one of these lines.
const LOG_LINE: usize = 300;
/// Images and tags that a comment lists.
const LISTED: usize = 50;

/// The state of a merge.
pub(super) enum MergeState {
    Pending,
    Succeeded(Box<Receipt>),
    Failed {
        /// The exit code; `None` for a cancelled job.
        code: Option<u8>,
        error: String,
    },
}

impl MergeState {
    /// Codes 1 and 4 are failures of the merge itself, except when the time limit of a merge caused code 1.
    pub(super) fn state(&self) -> CommitState {
        match self {
            MergeState::Pending => CommitState::Pending,
            MergeState::Succeeded(_) => CommitState::Success,
            MergeState::Failed { code: Some(1 | 4), error } if !error.starts_with("timed out") => {
                CommitState::Failure
            }
            MergeState::Failed { .. } => CommitState::Error,
        }
    }

    pub(super) fn description(&self) -> String {
        match self {
            MergeState::Pending => "images are being built".to_owned(),
            MergeState::Failed { error, .. } => error.clone(),
            MergeState::Succeeded(receipt) => {
                let images: Vec<&Image> = receipt.images.iter().filter(|i| i.digest.is_some()).collect();
                let mut text = summary::images(images.len());
                for (at, image) in images.iter().enumerate() {
                    let Some(digest) = &image.digest else { continue };
                    let next = format!("{} {} {digest}", if at == 0 { ";" } else { "," }, image.name);
                    if text.len() + next.len() > LONGEST_DESCRIPTION - 3 {
                        text.push_str(", …");
                        break;
                    }
                    text.push_str(&next);
                }
                text
            }
        }
    }

    /// The text of the comment; `None` while a merge is queued or running. `log` is the job's log, `link` its URL.
    pub(super) fn comment(&self, commit: Option<&str>, log: &str, link: Option<&str>) -> Option<String> {
        let of = commit.map(|commit| format!(" of {}", &commit[..commit.len().min(12)])).unwrap_or_default();
        let mut text = match self {
            MergeState::Pending => return None,
            MergeState::Succeeded(receipt) => {
                let mut text = format!("swanci: the images{of} are in the registry.\n\n");
                let images: Vec<&Image> = receipt.images.iter().filter(|i| i.digest.is_some()).collect();
                let pulls: Vec<String> =
                    images.iter().flat_map(|image| summary::pull_commands(image)).collect();
                text.push_str(&fenced(&first(&pulls), "sh"));
                let digests = images.iter().filter_map(|image| {
                    Some(format!("- {}: `{}`", image.repository.as_ref()?, image.digest.as_ref()?))
                });
                text.push_str(&first(&digests.collect::<Vec<_>>()));
                text
            }
            MergeState::Failed { error, .. } => {
                let mut text = format!("swanci: the images{of} were not built.\n\n");
                text.push_str(&fenced(&lines_of(error), "text"));
                if !log.trim().is_empty() {
                    text.push_str("The end of the log:\n\n");
                    text.push_str(&fenced(&lines_of(log), "text"));
                }
                text
            }
        };
        if let Some(link) = link {
            text.push_str(&format!("\n{link}\n"));
        }
        Some(text)
    }
}

fn first(lines: &[String]) -> String {
    let mut text = lines.iter().take(LISTED).map(|line| format!("{line}\n")).collect::<String>();
    if lines.len() > LISTED {
        text.push_str(&format!("# … and {} more\n", lines.len() - LISTED));
    }
    text
}

/// The last lines of a text from outside, without secrets and control characters.
fn lines_of(text: &str) -> String {
    let text = redact::scrub(text);
    let text = clean(&text);
    let lines: Vec<&str> = text.lines().collect();
    let cut = |line: &&str| match line.char_indices().nth(LOG_LINE) {
        Some((end, _)) => format!("{}…\n", escaped(&line[..end])),
        None => format!("{}\n", escaped(line)),
    };
    lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(cut).collect()
}

/// A code block that the text cannot end.
fn fenced(text: &str, language: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}{language}\n{text}{fence}\n\n")
}

pub(super) fn forge_of<'a>(
    config: &'a Config,
    forge: Option<ForgeName>,
    forge_url: Option<&str>,
    repository: &RepoName,
) -> Option<&'a ForgeConfig> {
    let kind = forge?;
    let with_url = |url: &str| config.forges.iter().find(|f| f.kind == kind && f.url == url);
    match forge_url {
        Some(url) => with_url(url),
        None => kind
            .public_url()
            .and_then(with_url)
            .or_else(|| config.repositories_named(repository).find_map(|entry| with_url(&entry.forge))),
    }
}

/// The API of a forge, at `api_url` if given, with `token`, else with the configured token; `None` without any.
pub(super) fn api_of(
    config: &Config,
    forge: &ForgeConfig,
    repository: &RepoName,
    api_url: Option<String>,
    token: Option<SecretString>,
    cancel: &Cancel,
) -> Result<Option<Api>, Failure> {
    token.iter().for_each(redact::register);
    let login = match token {
        Some(token) => Some((None, token)),
        None => session::login(config, forge)?.map(|(user, token, named)| (named.then_some(user), token)),
    };
    let Some((user, token)) = login else { return Ok(None) };
    let (kind, url, ca_pem) = (forge.kind, forge.url.clone(), session::ca_pem(forge)?);
    let account = Account { kind, url, api_url, ca_pem, user, token };
    Ok(Some(Api::new(account, repository.clone(), cancel.clone())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_cannot_end_its_code_block_or_show_a_secret() {
        redact::register(&SecretString::from("canary-of-the-report"));
        let log = "step 1\n```\n````\n@everyone <!-- x -->\u{1b}[31m canary-of-the-report\n";
        let failed = MergeState::Failed { code: Some(1), error: "1 image failed: httpd".to_owned() };
        let text = failed.comment(Some("0123456789abcdef"), log, Some("https://ci/jobs/7")).unwrap();
        assert!(text.contains("`````text\nstep 1\n```\n````\n@everyone <!-- x --> ***\n`````\n"), "{text}");
        assert!(text.contains("of 0123456789ab were not built") && text.ends_with("\nhttps://ci/jobs/7\n"));
        assert!(!text.contains("canary") && !text.contains('\u{1b}'));
    }

    #[test]
    fn only_the_end_of_a_long_log_is_shown() {
        let log: String = (0..500).map(|i| format!("line {i} {}\n", "x".repeat(1000))).collect();
        let text = MergeState::Failed { code: None, error: "cancelled".to_owned() }
            .comment(None, &log, None)
            .unwrap();
        assert!(text.contains("line 499") && text.contains("line 470 ") && !text.contains("line 469 "));
        assert!(text.len() < 12_000, "{}", text.len());
    }

    #[test]
    fn only_codes_1_and_4_are_failures_of_the_merge() {
        let state = |code, error: &str| MergeState::Failed { code, error: error.to_owned() }.state();
        assert_eq!([state(Some(1), "x"), state(Some(4), "x")], [CommitState::Failure; 2]);
        for (code, error) in [(Some(5), "x"), (Some(6), "x"), (None, "x"), (Some(1), "timed out: x")] {
            assert_eq!(state(code, error), CommitState::Error, "{code:?} {error}");
        }
    }

    #[test]
    fn a_description_names_the_digests_that_fit() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let image = |name: &str| serde_json::json!({"name": name, "status": "built", "digest": digest});
        let receipt = |names: &[&str]| -> Box<Receipt> {
            let images: Vec<_> = names.iter().map(|name| image(name)).collect();
            serde_json::from_value(serde_json::json!({
                "schema": 1, "outcome": "succeeded", "registry": null, "images": images, "payload_sha256": null,
                "change": {"repository": "a/b", "commit": "0".repeat(39) + "1", "forge": null, "branch": null},
                "started": "", "finished": "", "seconds": {},
            }))
            .unwrap()
        };
        let one = receipt(&["httpd"]);
        assert_eq!(MergeState::Succeeded(one).description(), format!("1 image; httpd {digest}"));
        let two = receipt(&["httpd", "db"]);
        assert_eq!(MergeState::Succeeded(two).description(), format!("2 images; httpd {digest}, …"));
    }
}
