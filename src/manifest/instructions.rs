//! Splits a Dockerfile into instructions as BuildKit does (docs.docker.com, "Dockerfile reference"; moby/buildkit
//! `frontend/dockerfile/parser`): directives, comments, continuations, here-documents.
//!
//! The crate parse-dockerfile 0.1.9 supports a here-document only at the very start of a `RUN`, and would take a `FROM`
//! inside of another for a stage.

use std::ops::Range;

use crate::escape::shortened;

/// An instruction on one line, without comments and here-documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    pub(super) text: String,
    /// Of the file, from 0.
    pub(super) lines: Range<usize>,
}

/// The instructions, and the escape character.
pub(super) fn parse(text: &str) -> Result<(Vec<Instruction>, char), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text.lines().collect();
    let escape = escape_directive(&physical);
    let mut instructions = Vec::new();
    let mut at = 0;
    while at < physical.len() {
        let begin = at;
        let mut line = String::new();
        while let Some(next) = physical.get(at) {
            at += 1;
            let trimmed = next.trim();
            // Also within a continued instruction.
            if trimmed.starts_with('#') || trimmed.is_empty() {
                if line.is_empty() { break } else { continue }
            }
            match continued(next, escape) {
                Some(part) => line.push_str(part),
                None => {
                    line.push_str(next);
                    break;
                }
            }
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        let lines = begin..at;
        for (delimiter, strip_tabs) in here_documents(line, escape) {
            let end = physical.get(at..).and_then(|rest| {
                rest.iter()
                    .position(|l| (if strip_tabs { l.trim_start_matches('\t') } else { l }) == delimiter)
            });
            at += 1 + end.ok_or_else(|| {
                let delimiter = shortened(&delimiter, 40);
                format!("line {} of the Dockerfile: the here-document `{delimiter}` does not end", begin + 1)
            })?;
        }
        instructions.push(Instruction { text: line.to_owned(), lines });
    }
    Ok((instructions, escape))
}

/// The value of `# escape=`, one of the directives at the top.
fn escape_directive(lines: &[&str]) -> char {
    for line in lines {
        let Some((key, value)) = line.trim().strip_prefix('#').and_then(|rest| rest.split_once('=')) else {
            break;
        };
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            break;
        }
        if key.eq_ignore_ascii_case("escape") && value.trim() == "`" {
            return '`';
        }
    }
    '\\'
}

/// The line without the escape character at its end (before spaces and tabs), if it has one.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
    // It may be escaped itself.
    (!part.ends_with(escape)).then_some(part)
}

fn split_instruction(line: &str) -> (&str, &str) {
    line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim_start()))
}

/// The delimiters of the here-documents that follow a line, and whether leading tabs are stripped: words of the form
/// `[0-9]*<<-?[^<]+`, in the instructions that support them.
fn here_documents(line: &str, escape: char) -> Vec<(String, bool)> {
    let (mut instruction, mut rest) = split_instruction(line);
    if instruction.eq_ignore_ascii_case("onbuild") {
        (instruction, rest) = split_instruction(rest);
    }
    if !["run", "copy", "add"].iter().any(|known| instruction.eq_ignore_ascii_case(known)) {
        return Vec::new();
    }
    words(rest, escape)
        .into_iter()
        .filter_map(|(_, word)| {
            let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
            let (name, strip_tabs) = word.strip_prefix('-').map_or((word, false), |name| (name, true));
            let delimiter: String =
                name.chars().filter(|c| !matches!(c, '"' | '\'') && *c != escape).collect();
            (!name.contains('<') && !delimiter.is_empty()).then_some((delimiter, strip_tabs))
        })
        .collect()
}

/// Splits at white space outside of quotes: the words, with their quotes, and their positions in bytes.
pub(super) fn words(text: &str, escape: char) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if let Some(start) = start.take() {
                    words.push((start, &text[start..at]));
                }
                continue;
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if c == open => quote = None,
            None | Some(_) => {}
        }
        start.get_or_insert(at);
        if c == escape && quote != Some('\'') {
            chars.next();
        }
    }
    if let Some(start) = start {
        words.push((start, &text[start..]));
    }
    words
}
