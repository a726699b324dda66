//! What a Dockerfile says about its stages: their names, for `target`, and the images that they start or copy from,
//! for the order of local bases.
//!
//! Lines are cut as BuildKit cuts them (docs.docker.com, "Dockerfile reference"; moby/buildkit
//! `frontend/dockerfile/parser`): parser directives, comments, continuations, here-documents. Whether the
//! instructions make sense is docker's to say. The crates at hand (parse-dockerfile 0.1.9) know a here-document only
//! at the very start of a `RUN`, and would take a `FROM` inside of another for a stage.

use std::collections::BTreeMap;

use super::variables::expand;
use crate::escape::shortened;

/// The stages of a Dockerfile, and what they are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerfileStages {
    names: Vec<Option<String>>,
    bases: Vec<String>,
    escape: char,
    /// Whether the last line goes on after the end of the file.
    ends_open: bool,
}

/// A Dockerfile in which no stages can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DockerfileError {
    /// There is no `FROM`.
    #[error("the Dockerfile has no FROM")]
    NoStage,
    /// A here-document does not end.
    #[error("line {line} of the Dockerfile: the here-document `{delimiter}` does not end")]
    HereDocument {
        /// The line where it begins, from 1.
        line: usize,
        /// Its delimiter, escaped.
        delimiter: String,
    },
}

impl DockerfileStages {
    /// Reads a Dockerfile. `args` are the build arguments, which may stand in a `FROM`.
    ///
    /// # Errors
    /// [`DockerfileError`] when no stages can be told.
    pub fn parse(text: &str, args: &BTreeMap<String, String>) -> Result<DockerfileStages, DockerfileError> {
        let Lines { lines, escape, ends_open } = logical_lines(text)?;
        let mut stages = DockerfileStages { names: Vec::new(), bases: Vec::new(), escape, ends_open };
        let mut globals: BTreeMap<String, String> = BTreeMap::new();
        for line in &lines {
            let (instruction, rest) = split_instruction(line);
            let words = words(rest, escape);
            match instruction.to_ascii_uppercase().as_str() {
                "ARG" if stages.names.is_empty() => declare(&words, args, &mut globals, escape),
                "FROM" => stages.from(&words, &globals, escape),
                "COPY" | "ADD" => stages.copy(&words, escape),
                "RUN" => stages.run(&words),
                _ => {}
            }
        }
        if stages.names.is_empty() { Err(DockerfileError::NoStage) } else { Ok(stages) }
    }

    /// Whether `target` names a stage, ignoring case as docker does.
    pub fn has_target(&self, target: &str) -> bool {
        self.names.iter().flatten().any(|name| name.eq_ignore_ascii_case(target))
    }

    /// The names of the stages, in order; `None` for one without a name.
    pub fn names(&self) -> &[Option<String>] {
        &self.names
    }

    /// The references of the images that its stages start or copy from, each once, in order: no stages, no `scratch`,
    /// and none with a variable whose value is not known here.
    pub fn bases(&self) -> &[String] {
        &self.bases
    }

    /// The Dockerfile's escape character, if an instruction that is appended to its text ends the stage that is built:
    /// `target`, or the last one.
    pub fn escape_to_append(&self, target: Option<&str>) -> Option<char> {
        let last = self.names.last().and_then(Option::as_deref);
        let is_last = target.is_none_or(|target| last.is_some_and(|last| last.eq_ignore_ascii_case(target)));
        (is_last && !self.ends_open).then_some(self.escape)
    }

    fn from(&mut self, words: &[String], globals: &BTreeMap<String, String>, escape: char) {
        let mut plain = words.iter().filter(|word| !word.starts_with("--"));
        let image = plain.next().and_then(|word| expand(word, globals, escape));
        let name = match (plain.next(), plain.next()) {
            (Some(word), Some(name)) if word.eq_ignore_ascii_case("as") => Some(name.to_ascii_lowercase()),
            _ => None,
        };
        if let Some(image) = image
            && !image.eq_ignore_ascii_case("scratch")
        {
            self.base(&image);
        }
        self.names.push(name);
    }

    fn copy(&mut self, words: &[String], escape: char) {
        let flags = words.iter().take_while(|word| word.starts_with("--"));
        for from in flags.filter_map(|word| word.strip_prefix("--from=")) {
            // Variables are not known in this place, also to docker.
            if let Some(from) = expand(from, &BTreeMap::new(), escape)
                && !from.parse::<usize>().is_ok_and(|index| index < self.names.len())
            {
                self.base(&from);
            }
        }
    }

    fn run(&mut self, words: &[String]) {
        let flags = words.iter().take_while(|word| word.starts_with("--"));
        let mounts: Vec<String> = flags
            .filter_map(|word| word.strip_prefix("--mount="))
            .flat_map(|mount| mount.split(','))
            .filter_map(|field| field.strip_prefix("from="))
            .filter(|from| !from.contains('$'))
            .map(|from| from.trim_matches(['"', '\'']).to_owned())
            .collect();
        for from in mounts {
            self.base(&from);
        }
    }

    fn base(&mut self, reference: &str) {
        let stage = self.names.iter().flatten().any(|name| name.eq_ignore_ascii_case(reference));
        if !stage && !reference.is_empty() && !self.bases.iter().any(|known| known == reference) {
            self.bases.push(reference.to_owned());
        }
    }
}

/// The name in an image reference: without `:tag` and `@digest`.
pub fn repository_of(reference: &str) -> &str {
    let name = reference.split_once('@').map_or(reference, |(name, _)| name);
    match name.rfind(':') {
        Some(colon) if !name[colon..].contains('/') => &name[..colon],
        _ => name,
    }
}

/// The instructions, one a line, comments and here-documents left out.
struct Lines {
    lines: Vec<String>,
    escape: char,
    ends_open: bool,
}

fn logical_lines(text: &str) -> Result<Lines, DockerfileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text.lines().collect();
    let escape = escape_directive(&physical);
    let (mut logical, mut ends_open) = (Vec::new(), false);
    let mut at = 0;
    while at < physical.len() {
        let begin = at;
        let mut line = String::new();
        while let Some(next) = physical.get(at) {
            at += 1;
            let trimmed = next.trim();
            // Inside a continued instruction too, comments and empty lines are left out.
            if trimmed.starts_with('#') || trimmed.is_empty() {
                if line.is_empty() { break } else { continue }
            }
            // docker 20.10 lets an escaped escape character continue a line too.
            ends_open = next.trim_end().ends_with(escape);
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
        for (delimiter, strip_tabs) in here_documents(line, escape) {
            let unfinished =
                || DockerfileError::HereDocument { line: begin + 1, delimiter: shortened(&delimiter, 40) };
            let end = physical.get(at..).and_then(|rest| {
                rest.iter()
                    .position(|l| (if strip_tabs { l.trim_start_matches('\t') } else { l }) == delimiter)
            });
            at += end.ok_or_else(unfinished)? + 1;
        }
        logical.push(line.to_owned());
    }
    Ok(Lines { lines: logical, escape, ends_open })
}

/// The `# escape=` among the directives at the top; they end with the first line that is none.
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

/// The line without its continuation, if it has one: the escape character at its end, white space aside.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end().strip_suffix(escape)?;
    // Escaped itself, it continues nothing.
    (!part.ends_with(escape)).then_some(part)
}

fn split_instruction(line: &str) -> (&str, &str) {
    line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim_start()))
}

/// Delimiters of the here-documents that follow a line, and whether leading tabs are stripped: words of the form
/// `[0-9]*<<-?[^<]+`, in those instructions that take them.
fn here_documents(line: &str, escape: char) -> Vec<(String, bool)> {
    let (mut instruction, mut rest) = split_instruction(line);
    if instruction.eq_ignore_ascii_case("onbuild") {
        (instruction, rest) = split_instruction(rest);
    }
    if !["run", "copy", "add"].iter().any(|known| instruction.eq_ignore_ascii_case(known)) {
        return Vec::new();
    }
    words(rest, escape)
        .iter()
        .filter_map(|word| {
            let word = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
            let (name, strip_tabs) = word.strip_prefix('-').map_or((word, false), |name| (name, true));
            let delimiter: String =
                name.chars().filter(|c| !matches!(c, '"' | '\'') && *c != escape).collect();
            (!name.contains('<') && !delimiter.is_empty()).then_some((delimiter, strip_tabs))
        })
        .collect()
}

/// Words between white space; quotes hold them together and stay in them.
fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if c == open => quote = None,
            None | Some(_) => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// `ARG NAME`, `ARG NAME=default …` before the first stage.
fn declare(
    words: &[String],
    args: &BTreeMap<String, String>,
    globals: &mut BTreeMap<String, String>,
    escape: char,
) {
    for word in words {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, expand(default, globals, escape)),
            None => (word.as_str(), None),
        };
        if let Some(value) = args.get(name).cloned().or(default) {
            globals.insert(name.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stages(text: &str, args: &[(&str, &str)]) -> Result<DockerfileStages, DockerfileError> {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        DockerfileStages::parse(text, &args)
    }

    #[test]
    fn bases_are_images_and_not_stages() {
        for (text, args, expected) in [
            ("FROM a", &[][..], &["a"][..]),
            ("from --platform=$BUILDPLATFORM a:1 as B\nFROM b\nFROM scratch", &[], &["a:1"]),
            ("FROM r.example.org:5000/a@sha256:0", &[], &["r.example.org:5000/a@sha256:0"]),
            ("ARG V=1\nARG I=a:$V\nFROM $I", &[], &["a:1"]),
            ("ARG V=1 W=\"2\"\nFROM a:${V}-${W}", &[("V", "9")], &["a:9-2"]),
            ("FROM a:${V:-${W:-3}}", &[("V", "not declared")], &["a:3"]),
            ("ARG V\nFROM a${V:+:$V}", &[("V", "x")], &["a:x"]),
            ("FROM a:$TARGETARCH", &[], &[]),
            ("FROM a AS x\nARG V=1\nFROM b:$V", &[], &["a"]),
            (
                "FROM a AS x\nCOPY --from=x /f /f\nCOPY --chown=1 --from=c:2 /f /\nCOPY --from=0 /f /",
                &[],
                &["a", "c:2"],
            ),
            (
                "FROM a\nRUN --mount=type=bind,from=d,target=/d --mount=type=cache,target=/c make",
                &[],
                &["a", "d"],
            ),
            ("FROM a\nFROM a", &[], &["a"]),
            ("FROM \\\n# a comment\n\n  a \\\n  AS b\nFROM B", &[], &["a"]),
            (
                "\u{feff}# syntax=docker/dockerfile:1\n# escape=`\nFROM `\n a\r\nRUN dir C:\\\nFROM b\r\n",
                &[],
                &["a", "b"],
            ),
            ("# a comment\n# escape=`\nFROM a\nRUN x \\\nFROM b", &[], &["a"]),
        ] {
            let read = stages(text, args).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.bases(), expected, "{text}");
        }
    }

    #[test]
    fn what_stands_in_a_here_document_is_no_instruction() {
        for (text, expected) in [
            ("FROM a\nRUN <<EOF\nFROM x\nEOF\nFROM b", &["a", "b"][..]),
            ("FROM a\nRUN cat <<EOF > /f && b\nFROM x\n EOF\nEOF\nFROM b", &["a", "b"]),
            ("FROM a\nCOPY <<-'E O' <<\"F\" /d/\nFROM x\n\tE O\nFROM y\nF\nFROM b", &["a", "b"]),
            ("FROM a\nRUN python3 3<<EOF \\\n -x\nFROM x\nEOF\nFROM b", &["a", "b"]),
            // None of these begins one.
            ("FROM a\nRUN cat <<<EOF\nFROM b", &["a", "b"]),
            ("FROM a\nRUN echo $((1<<EOF)) \"<<EOF\" << x\nFROM b", &["a", "b"]),
            ("FROM a\nENV X=<<EOF\nLABEL y <<EOF\nFROM b", &["a", "b"]),
        ] {
            let read = stages(text, &[]).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.bases(), expected, "{text}");
        }
        assert_eq!(
            stages("FROM a\nRUN <<EOF\nx", &[]),
            Err(DockerfileError::HereDocument { line: 2, delimiter: "EOF".to_owned() })
        );
    }

    #[test]
    fn a_target_is_a_stage_name_in_any_case_and_no_index() {
        let read = stages("FROM a AS Build\nFROM build AS test\nFROM scratch", &[]).unwrap();
        for (target, expected) in [
            ("build", true),
            ("BUILD", true),
            ("test", true),
            ("2", false),
            ("3", false),
            ("a", false),
            ("", false),
        ] {
            assert_eq!(read.has_target(target), expected, "{target}");
        }
        assert_eq!(stages("# nothing\nARG A=1\n", &[]), Err(DockerfileError::NoStage));
        assert_eq!(stages("", &[]), Err(DockerfileError::NoStage));
    }

    #[test]
    fn an_instruction_is_appended_only_where_it_ends_the_stage_that_is_built() {
        for (text, target, expected) in [
            ("FROM a", None, Some('\\')),
            ("FROM a\nRUN x \\\n y\n", None, Some('\\')),
            ("# escape=`\nFROM a\nRUN x \\\n", None, Some('`')),
            ("FROM a AS b\nFROM b AS C", Some("c"), Some('\\')),
            ("FROM a AS b\nFROM b AS c", Some("b"), None),
            ("FROM a AS b\nFROM b", Some("b"), None),
            ("FROM a\nRUN x \\", None, None),
            ("FROM a\nRUN x \\ \n# y\n\n", None, None),
            ("FROM a\nRUN x \\\\", None, None),
            ("# escape=`\nFROM a\nRUN x `\n", None, None),
        ] {
            assert_eq!(stages(text, &[]).unwrap().escape_to_append(target), expected, "{text}");
        }
    }

    #[test]
    fn a_reference_is_cut_to_its_name() {
        for (reference, expected) in [
            ("a", "a"),
            ("a:1", "a"),
            ("r:5000/a", "r:5000/a"),
            ("r:5000/n/a:1@sha256:0", "r:5000/n/a"),
            ("a@sha256:0", "a"),
        ] {
            assert_eq!(repository_of(reference), expected);
        }
    }

    #[test]
    fn nesting_is_not_followed_for_ever() {
        let deep = format!("FROM {}a{}", "${A:-".repeat(20_000), "}".repeat(20_000));
        assert_eq!(stages(&deep, &[]).unwrap().bases(), &[] as &[String]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(FROM|ARG|RUN|COPY|#|\\n|\\\\|\\$|\\{|\\}|<<|E|'|\"|=|:-| |`|--from=|.){0,60}") {
            let _ = stages(&text, &[]);
        }
    }
}
