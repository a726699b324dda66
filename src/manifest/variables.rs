//! Variables in a Dockerfile's words (docs.docker.com, "Dockerfile reference", environment replacement).

use std::collections::BTreeMap;

/// How deep `${A:-${B:-…}}` is followed.
const MAX_NESTING: usize = 16;

/// A word with quotes removed and `$NAME`, `${NAME}`, `${NAME:-x}`, `${NAME-x}`, `${NAME:+x}`, `${NAME+x}`, `${NAME:?x}`, `${NAME?x}` replaced;
/// `None` when it asks for a value that is not known, or for more than that.
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

/// Where the brace ends that was opened before `text`.
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
    let known = values.get(name);
    let filled = known.filter(|value| !value.is_empty());
    let other = |text: &str| expand_nested(text, values, escape, depth + 1);
    if modifier.is_empty() {
        known.cloned()
    } else if let Some(text) = modifier.strip_prefix(":-") {
        filled.cloned().or_else(|| other(text))
    } else if let Some(text) = modifier.strip_prefix('-') {
        known.cloned().or_else(|| other(text))
    } else if let Some(text) = modifier.strip_prefix(":+") {
        filled.map_or(Some(String::new()), |_| other(text))
    } else if let Some(text) = modifier.strip_prefix('+') {
        known.map_or(Some(String::new()), |_| other(text))
    } else if modifier.starts_with(":?") {
        filled.cloned()
    } else if modifier.starts_with('?') {
        known.cloned()
    } else {
        None
    }
}
