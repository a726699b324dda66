//! Reads the input documents of commands and writes their results to standard output.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Session;
use super::summary;
use crate::error::{Classify as _, Failure, Kind};
use crate::suggest::{self, Wrong};

/// Limit in bytes, larger than any document and any payload (GitHub's limit is 25 MiB).
const LARGEST: u64 = 32 << 20;

/// The bytes of a file, or of standard input for `-`.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, Failure> {
    let name = name_of(path);
    let mut bytes = Vec::new();
    let read = if is_stdin(path) {
        std::io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes))
    };
    read.classify(Kind::BadInput, || format!("cannot read {name}"))?;
    if bytes.len() as u64 > LARGEST {
        return Err(Failure::bad_input(format!("{name} is larger than {LARGEST} bytes")));
    }
    Ok(bytes)
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Reads what the previous step wrote. A skip is written through: `None`.
pub(super) fn read_step<T: DeserializeOwned>(
    session: &Session,
    path: &Path,
    what: &str,
) -> Result<Option<T>, Failure> {
    let bytes = read_bytes(path)?;
    let document: serde_json::Value = parse(path, &bytes, what)?;
    if document["decision"] != "skip" {
        return parse(path, &bytes, what).map(Some);
    }
    let reason = document["reason"].as_str().unwrap_or_default();
    write(session, &document, || summary::skipped(reason)).map(|()| None)
}

/// The name of the input in messages.
pub(super) fn name_of(path: &Path) -> String {
    if is_stdin(path) { "standard input".to_owned() } else { path.display().to_string() }
}

/// Parses a document; errors contain the file and the JSON path.
pub(super) fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8], what: &str) -> Result<T, Failure> {
    let name = name_of(path);
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Failure::bad_input(format!("{name} is empty; {what} was expected")));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        let place = match path.as_str() {
            "." | "?" => format!(", line {}, column {}", error.line(), error.column()),
            path => format!(", at {}", crate::escape::shortened(path, 120)),
        };
        let problem = match suggest::in_plain_words(&error.to_string(), "an object") {
            Wrong::Other(problem) => problem,
            Wrong::UnknownKey { key, .. } => format!("the key `{key}` is not known"),
        };
        let problem = crate::escape::shortened(&problem, 300);
        let instead = instead(bytes).map(|instead| format!("; {instead}")).unwrap_or_default();
        Failure::bad_input(format!("{name}{place}: {problem}")).hint(format!("{what} was expected{instead}"))
    })?;
    deserializer.end().map_err(|error| {
        Failure::bad_input(format!("{name}: something follows the document: {error}"))
            .hint("exactly one JSON document is read")
    })?;
    Ok(parsed)
}

/// What the input is instead of the expected document, and which command reads it.
fn instead(bytes: &[u8]) -> Option<&'static str> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let has = |key| value.get(key).is_some();
    match (has("schema"), has("decision"), has("images"), has("finished")) {
        (true, true, _, _) => Some("this is one of `swanci evaluate`, which `swanci build` reads"),
        (true, _, true, true) => Some("this is a receipt, which `swanci verify` reads"),
        (true, _, true, false) => Some("this is one of `swanci build`, which `swanci push` reads"),
        (false, false, _, _) if has("repository") || has("repository_url") => {
            Some("this looks like a webhook payload, which `swanci evaluate` reads")
        }
        (_, _, _, _) => None,
    }
}

/// Whether standard output gets JSON: redirected, or requested.
pub(super) fn wants_json(session: &Session) -> bool {
    session.json || !std::io::stdout().is_terminal()
}

/// Writes the result: the document, or its summary on a terminal.
pub(super) fn write(
    session: &Session,
    document: &impl Serialize,
    summary: impl FnOnce() -> String,
) -> Result<(), Failure> {
    show(wants_json(session), document, summary)
}

/// Writes the document as one line of JSON, or its text for a person.
pub(super) fn show(
    json: bool,
    document: &impl Serialize,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    if !json {
        return print(&text());
    }
    let text = serde_json::to_string(document);
    let text = text.classify(Kind::Failed, || "the document cannot be written as JSON")?;
    write_bytes((crate::escape::json(crate::progress::runner::harmless_json(text)) + "\n").as_bytes())
}

pub(super) fn print(text: &str) -> Result<(), Failure> {
    write_bytes(crate::escape::clean(&crate::redact::scrub(text)).as_bytes())
}

pub(super) fn write_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    let written = out.write_all(bytes).and_then(|()| out.flush());
    written.classify(Kind::Failed, || "the work is done, but standard output is closed")
}

/// Writes the result even if the command failed, and returns the first failure.
pub(super) fn write_outcome(
    session: &Session,
    document: &impl Serialize,
    summary: impl FnOnce() -> String,
    failure: Option<Failure>,
) -> Result<(), Failure> {
    let written = write(session, document, summary);
    failure.map_or(written, Err)
}
