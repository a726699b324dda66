//! Workflow commands of a GitHub Actions runner, which parses the output of its jobs (docs.github.com, "Workflow commands
//! for GitHub Actions").

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a runner parses the output of this process.
static RUNNER_READS: AtomicBool = AtomicBool::new(false);

pub(crate) fn expect_runner() {
    RUNNER_READS.store(true, Ordering::SeqCst);
}

/// A command, on one line.
pub(crate) fn command(name: &str, title: Option<&str>, value: &str) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let title = title
        .map(|title| format!(" title={}", data(title).replace(':', "%3A").replace(',', "%2C")))
        .unwrap_or_default();
    format!("::{name}{title}::{}", data(value))
}

/// Text from outside, changed so that a runner finds no command in it.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if RUNNER_READS.load(Ordering::SeqCst) { defused(text) } else { Cow::Borrowed(text) }
}

/// The same for JSON, without changing its meaning.
pub(crate) fn harmless_json(json: String) -> String {
    // `##[` can only be inside a string. A line of JSON never begins with `::`.
    if RUNNER_READS.load(Ordering::SeqCst) { json.replace("##[", "\\u0023\\u0023[") } else { json }
}

/// A command is a line that begins with `::` after any white space, or contains `##[`
/// (actions/runner, `ActionCommand.TryParseV2` and `TryParse`).
fn defused(text: &str) -> Cow<'_, str> {
    if !text.contains("::") && !text.contains("##[") {
        return Cow::Borrowed(text);
    }
    let line = |line: &str| {
        let line = line.replace("##[", "## [");
        let begin = line.trim_start();
        match begin.strip_prefix("::") {
            Some(rest) => format!("{}: :{rest}", &line[..line.len() - begin.len()]),
            None => line,
        }
    };
    Cow::Owned(text.split('\n').map(line).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_a_tool_is_a_command() {
        assert_eq!(defused("a\n  ::set-env name=x::y\n::error::z"), "a\n  : :set-env name=x::y\n: :error::z");
        assert_eq!(defused("Step 1 ##[add-mask]e"), "Step 1 ## [add-mask]e");
        assert_eq!(defused("\u{a0}::stop-commands::x"), "\u{a0}: :stop-commands::x");
        assert_eq!(defused("std::fs and a # [x]"), "std::fs and a # [x]");
    }

    #[test]
    fn a_command_stays_on_its_line() {
        assert_eq!(command("error", Some("a:b,c"), "x\n::y % z"), "::error title=a%3Ab%2Cc::x%0A::y %25 z");
        assert_eq!(command("add-mask", None, "s3"), "::add-mask::s3");
    }
}
