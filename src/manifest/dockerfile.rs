//! The stages of a Dockerfile: their names, for `target`, and the images that they start or copy from, for local bases.
//!
//! Lines are cut as BuildKit cuts them (docs.docker.com, "Dockerfile reference"; moby/buildkit
//! `frontend/dockerfile/parser`): parser directives, comments, continuations, here-documents. Whether the
//! instructions make sense is docker's to say. The crates at hand (parse-dockerfile 0.1.9) know a here-document only
//! at the very start of a `RUN`, and would take a `FROM` inside of another for a stage.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use super::variables::expand;
use crate::escape::shortened;

/// The stages of a Dockerfile, and what they are made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DockerfileStages {
    names: Vec<Option<String>>,
    /// The names in lower case, for the question whether a reference means a stage.
    known: HashSet<String>,
    bases: Vec<String>,
    places: Vec<Place>,
    /// The indexes in `lines` of the instructions that mount a secret.
    secrets: Vec<usize>,
    lines: Vec<Line>,
}

/// Where a Dockerfile names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    reference: String,
    /// The index of its instruction in `lines`.
    line: usize,
    /// Where the name is in the instruction, bytes.
    span: Range<usize>,
}

/// A Dockerfile in which no stages can be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DockerfileError {
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
    /// Reads a Dockerfile. `args` are the build arguments, which may be in a `FROM`.
    pub(crate) fn parse(
        text: &str,
        args: &BTreeMap<String, String>,
    ) -> Result<DockerfileStages, DockerfileError> {
        let (lines, escape) = logical_lines(text)?;
        let mut stages = DockerfileStages {
            names: Vec::new(),
            known: HashSet::new(),
            bases: Vec::new(),
            places: Vec::new(),
            secrets: Vec::new(),
            lines: Vec::new(),
        };
        let mut globals: BTreeMap<String, String> = BTreeMap::new();
        for (at, line) in lines.iter().enumerate() {
            let words = words(&line.text, escape);
            let Some(((_, instruction), words)) = words.split_first() else { continue };
            match instruction.to_ascii_uppercase().as_str() {
                "ARG" if stages.names.is_empty() => declare(words, args, &mut globals, escape),
                "FROM" => stages.from(at, words, &globals, escape),
                _ => {}
            }
        }
        // These also mean stages that come later.
        for (at, line) in lines.iter().enumerate() {
            let words = words(&line.text, escape);
            let Some(((_, instruction), words)) = words.split_first() else { continue };
            match instruction.to_ascii_uppercase().as_str() {
                "COPY" | "ADD" => stages.copy(at, words, escape),
                "RUN" => stages.run(at, words),
                _ => {}
            }
        }
        stages.places.sort_by_key(|place| (place.line, place.span.start));
        if stages.names.is_empty() {
            return Err(DockerfileError::NoStage);
        }
        stages.lines = lines;
        let mut seen = HashSet::new();
        stages.bases = stages.places.iter().map(|place| place.reference.clone()).collect();
        stages.bases.retain(|base| seen.insert(base.clone()));
        Ok(stages)
    }

    /// Whether `target` names a stage, ignoring case as docker does.
    pub(crate) fn has_target(&self, target: &str) -> bool {
        self.known.contains(&target.to_ascii_lowercase())
    }

    /// The names of the stages, in order; `None` for one without a name.
    pub(crate) fn names(&self) -> &[Option<String>] {
        &self.names
    }

    /// The references of the images that its stages start or copy from, each once, in order: no stages, no `scratch`,
    /// and none with a variable whose value is not known here.
    pub(crate) fn bases(&self) -> &[String] {
        &self.bases
    }

    /// The Dockerfile (`text`, as it was parsed) with other names for some of its images, and with one more secret, that
    /// no build has, in each instruction that mounts one: BuildKit's cache knows a step by the ids of its secrets, and not
    /// by their values. Every other line stays as it is, and every line keeps its number.
    pub(crate) fn rewritten(&self, text: &str, names: &BTreeMap<String, String>, secret: &str) -> String {
        let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        // From the last place on, so that those before it in the same instruction keep their spans.
        let mut changed: BTreeMap<usize, String> = BTreeMap::new();
        for place in self.places.iter().rev() {
            let Some(name) = names.get(&place.reference) else { continue };
            let instruction =
                changed.entry(place.line).or_insert_with(|| self.lines[place.line].text.clone());
            instruction.replace_range(place.span.clone(), name);
        }
        for line in &self.secrets {
            let instruction = changed.entry(*line).or_insert_with(|| self.lines[*line].text.clone());
            let end = instruction.find(char::is_whitespace).unwrap_or(instruction.len());
            instruction.insert_str(end, &format!(" --mount=type=secret,id={secret}"));
        }
        for (line, instruction) in changed {
            let Some(taken) = lines.get_mut(self.lines[line].lines.clone()) else { continue };
            taken.fill(String::new());
            if let Some(first) = taken.first_mut() {
                *first = instruction;
            }
        }
        lines.join("\n")
    }

    fn from(
        &mut self,
        line: usize,
        words: &[(usize, &str)],
        globals: &BTreeMap<String, String>,
        escape: char,
    ) {
        let mut plain = words.iter().filter(|(_, word)| !word.starts_with("--"));
        let image = plain.next();
        let name = match (plain.next(), plain.next()) {
            (Some((_, word)), Some((_, name))) if word.eq_ignore_ascii_case("as") => {
                Some(name.to_ascii_lowercase())
            }
            _ => None,
        };
        if let Some((at, word)) = image
            && let Some(reference) = expand(word, globals, escape)
            && !reference.eq_ignore_ascii_case("scratch")
        {
            self.base(line, *at..at + word.len(), reference);
        }
        self.known.extend(name.clone());
        self.names.push(name);
    }

    fn copy(&mut self, line: usize, words: &[(usize, &str)], escape: char) {
        for (at, word) in words.iter().take_while(|(_, word)| word.starts_with("--")) {
            let Some(from) = word.strip_prefix("--from=") else { continue };
            // Variables are not known in this place, also to docker.
            if let Some(reference) = expand(from, &BTreeMap::new(), escape)
                && !reference.parse::<usize>().is_ok_and(|index| index < self.names.len())
            {
                self.base(line, at + word.len() - from.len()..at + word.len(), reference);
            }
        }
    }

    fn run(&mut self, line: usize, words: &[(usize, &str)]) {
        for (at, word) in words.iter().take_while(|(_, word)| word.starts_with("--")) {
            let Some(mount) = word.strip_prefix("--mount=") else { continue };
            let mut at = at + word.len() - mount.len();
            for field in mount.split(',') {
                let key = field.trim_start_matches(['"', '\'']);
                let is_secret = key.trim_end_matches(['"', '\'']).eq_ignore_ascii_case("type=secret");
                if is_secret && self.secrets.last() != Some(&line) {
                    self.secrets.push(line);
                }
                if let Some((key, from)) = key.split_once('=')
                    && key.eq_ignore_ascii_case("from")
                {
                    let start = at + field.len() - from.len();
                    let from = from.trim_start_matches(['"', '\'']);
                    let start = start + (field.len() - (start - at)) - from.len();
                    let from = from.trim_end_matches(['"', '\'']);
                    if !from.contains('$') {
                        self.base(line, start..start + from.len(), from.to_owned());
                    }
                }
                at += field.len() + 1;
            }
        }
    }

    fn base(&mut self, line: usize, span: Range<usize>, reference: String) {
        if !reference.is_empty() && !self.known.contains(&reference.to_ascii_lowercase()) {
            self.places.push(Place { reference, line, span });
        }
    }
}

/// An instruction on one line, without comments and here-documents.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    text: String,
    /// The lines of the file that it takes, from 0.
    lines: Range<usize>,
}

/// The instructions, and the escape character.
fn logical_lines(text: &str) -> Result<(Vec<Line>, char), DockerfileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let physical: Vec<&str> = text.lines().collect();
    let escape = escape_directive(&physical);
    let mut logical = Vec::new();
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
            let unfinished =
                || DockerfileError::HereDocument { line: begin + 1, delimiter: shortened(&delimiter, 40) };
            let end = physical.get(at..).and_then(|rest| {
                rest.iter()
                    .position(|l| (if strip_tabs { l.trim_start_matches('\t') } else { l }) == delimiter)
            });
            at += end.ok_or_else(unfinished)? + 1;
        }
        logical.push(Line { text: line.to_owned(), lines });
    }
    Ok((logical, escape))
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

/// The line without its continuation, if it has one: the escape character at its end, blanks and tabs aside.
fn continued(line: &str, escape: char) -> Option<&str> {
    let part = line.trim_end_matches([' ', '\t']).strip_suffix(escape)?;
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

/// Words between white space, each with its place; quotes hold them together and stay in them.
fn words(text: &str, escape: char) -> Vec<(usize, &str)> {
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

/// `ARG NAME`, `ARG NAME=default …` before the first stage.
fn declare(
    words: &[(usize, &str)],
    args: &BTreeMap<String, String>,
    globals: &mut BTreeMap<String, String>,
    escape: char,
) {
    for (_, word) in words {
        let (name, default) = match word.split_once('=') {
            Some((name, default)) => (name, expand(default, globals, escape)),
            None => (*word, None),
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
            ("FROM a\nRUN --mount=type=bind,From='d',target=/d make", &[], &["a", "d"]),
            // A copy may be from a stage that comes later.
            ("FROM a AS x\nCOPY --from=y /f /f\nCOPY --from=1 /f /f\nFROM b AS Y", &[], &["a", "b"]),
            // A form feed ends no continuation.
            ("FROM a\nRUN x \\\x0c\nFROM b", &[], &["a", "b"]),
            ("ARG V=1\nFROM a:${V:?unset}-${V?}", &[], &["a:1-1"]),
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
    fn images_get_other_names_and_nothing_else_changes() {
        for (text, expected) in [
            ("FROM base", "FROM NEW"),
            (
                "from --platform=$P base AS base\nCOPY --from=base a b",
                "from --platform=$P NEW AS base\nCOPY --from=base a b",
            ),
            ("ARG B=base\nFROM ${B}\n", "ARG B=base\nFROM NEW\n"),
            ("FROM \\\n # c\n base \\\n AS x\r\nRUN a\r\n", "FROM  NEW  AS x\n\n\n\nRUN a\r\n"),
            (
                "FROM x\nCOPY --chown=1 --from=base [\"base\", \"base\"]",
                "FROM x\nCOPY --chown=1 --from=NEW [\"base\", \"base\"]",
            ),
            (
                "FROM x\nRUN --mount=type=bind,from=base,target=/b --mount=from=\"base\",target=/c base <<E\nFROM base\nE\n",
                "FROM x\nRUN --mount=type=bind,from=NEW,target=/b --mount=from=\"NEW\",target=/c base <<E\nFROM base\nE\n",
            ),
            ("FROM other\nFROM base:1\nFROM base", "FROM other\nFROM base:1\nFROM NEW"),
        ] {
            let names = BTreeMap::from([("base".to_owned(), "NEW".to_owned())]);
            let read = stages(text, &[]).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.rewritten(text, &names, "S"), expected, "{text}");
            assert_eq!(read.rewritten(text, &BTreeMap::new(), "S"), text);
        }
    }

    #[test]
    fn a_step_with_a_secret_gets_one_more() {
        for (text, expected) in [
            (
                "FROM a\nRUN --mount=type=secret,id=x \\\n  cat /run/secrets/x\nRUN y\n",
                "FROM a\nRUN --mount=type=secret,id=S --mount=type=secret,id=x   cat /run/secrets/x\n\nRUN y\n",
            ),
            (
                "FROM base\nrun --mount=from=base,target=/b --mount=\"TYPE=secret\",id=x z",
                "FROM NEW\nrun --mount=type=secret,id=S --mount=from=NEW,target=/b --mount=\"TYPE=secret\",id=x z",
            ),
            (
                "FROM a\nRUN --mount=type=cache,target=/c echo type=secret",
                "FROM a\nRUN --mount=type=cache,target=/c echo type=secret",
            ),
        ] {
            let names = BTreeMap::from([("base".to_owned(), "NEW".to_owned())]);
            assert_eq!(stages(text, &[]).unwrap().rewritten(text, &names, "S"), expected, "{text}");
        }
    }

    #[test]
    fn many_references_take_no_time_to_speak_of() {
        let many: String = (0..120_000).map(|i| format!("COPY --from=image-{i} /a /a\n")).collect();
        assert_eq!(stages(&format!("FROM a\n{many}"), &[]).unwrap().bases().len(), 120_001);
    }

    #[test]
    fn nesting_is_not_followed_for_ever() {
        let deep = format!("FROM {}a{}", "${A:-".repeat(20_000), "}".repeat(20_000));
        assert_eq!(stages(&deep, &[]).unwrap().bases(), &[] as &[String]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(FROM|ARG|RUN|COPY|#|\\n|\\\\|\\$|\\{|\\}|<<|E|'|\"|=|:-| |`|--from=|.){0,60}") {
            if let Ok(read) = stages(&text, &[]) {
                let names = read.bases().iter().map(|base| (base.clone(), "new".to_owned())).collect();
                let _ = read.rewritten(&text, &names, "S");
            }
        }
    }
}
