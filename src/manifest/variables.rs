//! Variables in a Dockerfile (docs.docker.com, "Dockerfile reference", environment replacement).

use std::collections::BTreeMap;

/// Of `${A:-${B:-…}}`.
const MAX_NESTING: usize = 16;

/// Removes quotes and replaces `$NAME`, `${NAME}`, `${NAME:-x}`, `${NAME-x}`, `${NAME:+x}`, `${NAME+x}`, `${NAME:?x}` and
/// `${NAME?x}`; `None` for an unknown value or another modifier.
pub(super) fn expand(word: &str, values: &BTreeMap<String, String>, escape: char) -> Option<String> {
    expand_nested(word, values, escape, 0)
}

fn expand_nested(
    word: &str,
    values: &BTreeMap<String, String>,
    escape: char,
    depth: usize,
) -> Option<String> {
    if depth > MAX_NESTING {
        return None;
    }
    let mut out = String::new();
    let mut rest = word;
    let mut literal = false;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\'' => literal = !literal,
            '"' if !literal => {}
            '$' if !literal => {
                let (value, behind) = match rest.strip_prefix('{') {
                    Some(inner) => {
                        let end = closing_brace(inner)?;
                        (braced(&inner[..end], values, escape, depth)?, &inner[end + 1..])
                    }
                    None => {
                        let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
                        (values.get(&rest[..end])?.clone(), &rest[end..])
                    }
                };
                out.push_str(&value);
                rest = behind;
            }
            c if c == escape && !literal => {
                if let Some(next) = rest.chars().next() {
                    out.push(next);
                    rest = &rest[next.len_utf8()..];
                }
            }
            c => out.push(c),
        }
    }
    Some(out)
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The end of a brace that opened before `text`.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
    }
    None
}

fn braced(inner: &str, values: &BTreeMap<String, String>, escape: char, depth: usize) -> Option<String> {
    let end = inner.find(|c: char| !is_name(c)).unwrap_or(inner.len());
    let (name, modifier) = inner.split_at(end);
    let (colon, modifier) = modifier.strip_prefix(':').map_or((false, modifier), |rest| (true, rest));
    // With a colon an empty value counts as unset.
    let value = values.get(name).filter(|value| !(colon && value.is_empty()));
    let other = || expand_nested(&modifier[1..], values, escape, depth + 1);
    match modifier.chars().next() {
        None if !colon => value.cloned(),
        Some('-') => value.cloned().or_else(other),
        Some('+') => value.map_or(Some(String::new()), |_| other()),
        Some('?') => value.cloned(),
        None | Some(_) => None,
    }
}
