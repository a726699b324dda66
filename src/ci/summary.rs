//! The step's summary in Markdown. Text from outside is escaped.

use crate::documents::{Image, MoveOutcome};
use crate::error::Failure;

use super::Report;

/// Characters; longer values are cut.
const LONGEST: usize = 300;

pub(super) fn markdown(report: &Report, failure: Option<&Failure>) -> String {
    let [repository, _, commit] = &report.place;
    let place = if repository.is_empty() {
        String::new()
    } else {
        let commit = commit.get(..12).unwrap_or_default();
        format!(" {} {}", code(repository), if commit.is_empty() { String::new() } else { code(commit) })
    };
    let mut text = format!("### swanci: {}{}\n\n", report.outcome, place.trim_end());
    if !report.reason.is_empty() {
        text.push_str(&format!("{}\n\n", escaped(&report.reason)));
    }
    if let Some(failure) = failure {
        text.push_str(&preformatted(&Failure::render(failure)));
    }
    if !report.images.is_empty() {
        text.push_str("| image | status | digest | tags |\n|---|---|---|---|\n");
        report.images.iter().for_each(|image| text.push_str(&row(image)));
        text.push('\n');
    }
    if report.outcome == "succeeded" {
        let pushed = report.images.iter().filter(|image| image.digest.is_some());
        let pulls = pushed.filter_map(|image| {
            let name = image.repository.as_ref()?.tagged(image.immutable_tag.as_ref()?);
            Some(format!("docker pull {name}"))
        });
        text.push_str(&preformatted(&pulls.collect::<Vec<_>>().join("\n")));
    }
    text
}

fn row(image: &Image) -> String {
    let status = image.status.as_str();
    let why = [&image.error, &image.reason, &image.note].into_iter().flatten().next();
    let why = why.map(|text| format!(": {}", escaped(text))).unwrap_or_default();
    let seconds = image.seconds.map(|s| format!(" ({s:.1} s)")).unwrap_or_default();
    let digest = image.digest.as_ref().map(|d| code(&d.to_string())).unwrap_or_default();
    let tags: Vec<String> = image
        .moved
        .iter()
        .flatten()
        .map(|moved| {
            let outcome = match moved.outcome {
                MoveOutcome::Moved => "moved",
                MoveOutcome::Already => "already there",
                MoveOutcome::Superseded => "superseded",
                MoveOutcome::Restored => "put back",
                MoveOutcome::Left => "left",
            };
            format!("{} {outcome}", code(&moved.tag.to_string()))
        })
        .collect();
    format!("| {} | {status}{seconds}{why} | {digest} | {} |\n", code(&image.name), tags.join(", "))
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(text))
}

/// Only `</pre>` ends such a block (CommonMark, "HTML blocks", kind 1).
fn preformatted(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let text = crate::progress::shown(text);
    format!("<pre>{}</pre>\n\n", text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
}

/// One line without markup: punctuation becomes character references (CommonMark, "Entity and numeric character
/// references").
fn escaped(text: &str) -> String {
    let text = crate::progress::shown(text);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut out = String::with_capacity(text.len());
    for c in text.chars().take(LONGEST) {
        if c.is_ascii_punctuation() {
            out.push_str(&format!("&#{};", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_cannot_become_markup() {
        let hostile = "<img src=x> | [a](http://b) ``` **c** \n# d @e &amp;";
        let text = escaped(hostile);
        let special = |c: char| c.is_ascii_punctuation() && !matches!(c, '&' | '#' | ';');
        assert!(!text.contains(special) && !text.contains('\n'), "{text}");
        assert_eq!(escaped("a|b"), "a&#124;b");
        assert_eq!(escaped("é 日本"), "é 日本");
        assert_eq!(escaped(&"x".repeat(400)).chars().count(), 301);
    }

    #[test]
    fn preformatted_text_cannot_leave_its_block() {
        assert_eq!(preformatted("a\n\n</pre><b>"), "<pre>a\n\n&lt;/pre&gt;&lt;b&gt;</pre>\n\n");
    }
}
