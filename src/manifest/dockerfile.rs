//! The stages of a Dockerfile: their names, for `target`, and the images that they start or copy from, for local bases.
//! Docker checks everything else.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::instructions::{self, Instruction};
use super::variables::expand;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DockerfileStages {
    /// How many there are.
    count: usize,
    /// In lower case.
    names: BTreeSet<String>,
    references: Vec<Reference>,
    /// The indexes of the instructions that mount a secret.
    secrets: Vec<usize>,
    instructions: Vec<Instruction>,
}

/// An image's name in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    image: String,
    /// The index of its instruction.
    at: usize,
    /// Bytes in the instruction.
    span: Range<usize>,
}

impl DockerfileStages {
    /// `args` are the build arguments, which a `FROM` may use. The error is a sentence.
    pub(crate) fn parse(text: &str, args: &BTreeMap<String, String>) -> Result<DockerfileStages, String> {
        let (instructions, escape) = instructions::parse(text)?;
        let mut stages = DockerfileStages::default();
        let mut globals: BTreeMap<String, String> = BTreeMap::new();
        let mut later = Vec::new();
        for (at, instruction) in instructions.iter().enumerate() {
            let words = instructions::words(&instruction.text, escape);
            let Some(((_, name), words)) = words.split_first() else { continue };
            match name.to_ascii_uppercase().as_str() {
                "ARG" if stages.count == 0 => declare(words, args, &mut globals, escape),
                "FROM" => stages.from(at, words, &globals, escape),
                name @ ("COPY" | "ADD" | "RUN") => later.push((at, name == "RUN", words.to_vec())),
                _ => {}
            }
        }
        if stages.count == 0 {
            return Err("the Dockerfile has no FROM".to_owned());
        }
        // These may also refer to later stages.
        for (at, is_run, words) in later {
            if is_run { stages.run(at, &words) } else { stages.copy(at, &words, escape) }
        }
        stages.references.sort_by_key(|reference| (reference.at, reference.span.start));
        stages.instructions = instructions;
        Ok(stages)
    }

    /// Ignores case, like docker.
    pub(crate) fn has_target(&self, target: &str) -> bool {
        self.names.contains(&target.to_ascii_lowercase())
    }

    /// The names of the stages.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    /// The images that the stages start or copy from, without duplicates, in order. Stages, `scratch`, and references with
    /// an unknown variable are left out.
    pub(crate) fn bases(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let images = self.references.iter().map(|reference| reference.image.as_str());
        images.filter(|image| seen.insert(*image)).collect()
    }

    /// The Dockerfile (`text`, as it was parsed) with other names for some images, and with one more secret, which no build
    /// has, in each instruction that mounts one: BuildKit's cache key has the ids of a step's secrets, but not their values.
    /// Line numbers stay the same.
    pub(crate) fn rewritten(&self, text: &str, names: &BTreeMap<String, String>, secret: &str) -> String {
        let mut lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        let mut changed: BTreeMap<usize, String> = BTreeMap::new();
        let original = |at: usize| self.instructions[at].text.clone();
        // Backwards, so that the spans of earlier references in the same instruction stay valid.
        for reference in self.references.iter().rev() {
            let Some(name) = names.get(&reference.image) else { continue };
            let instruction = changed.entry(reference.at).or_insert_with(|| original(reference.at));
            instruction.replace_range(reference.span.clone(), name);
        }
        for at in &self.secrets {
            let instruction = changed.entry(*at).or_insert_with(|| original(*at));
            let end = instruction.find(char::is_whitespace).unwrap_or(instruction.len());
            instruction.insert_str(end, &format!(" --mount=type=secret,id={secret}"));
        }
        for (at, instruction) in changed {
            let Some(taken) = lines.get_mut(self.instructions[at].lines.clone()) else { continue };
            taken.fill(String::new());
            if let Some(first) = taken.first_mut() {
                *first = instruction;
            }
        }
        lines.join("\n")
    }

    fn from(&mut self, at: usize, words: &[(usize, &str)], globals: &BTreeMap<String, String>, escape: char) {
        let mut plain = words.iter().filter(|(_, word)| !word.starts_with("--"));
        let image = plain.next();
        let name = match (plain.next(), plain.next()) {
            (Some((_, word)), Some((_, name))) if word.eq_ignore_ascii_case("as") => {
                Some(name.to_ascii_lowercase())
            }
            _ => None,
        };
        if let Some((start, word)) = image
            && let Some(reference) = expand(word, globals, escape)
            && !reference.eq_ignore_ascii_case("scratch")
        {
            self.base(at, *start..start + word.len(), reference);
        }
        self.names.extend(name);
        self.count += 1;
    }

    fn copy(&mut self, at: usize, words: &[(usize, &str)], escape: char) {
        for (start, word) in words.iter().take_while(|(_, word)| word.starts_with("--")) {
            let Some(from) = word.strip_prefix("--from=") else { continue };
            // Docker does not expand variables here.
            if let Some(reference) = expand(from, &BTreeMap::new(), escape)
                && !reference.parse::<usize>().is_ok_and(|index| index < self.count)
            {
                let end = start + word.len();
                self.base(at, end - from.len()..end, reference);
            }
        }
    }

    fn run(&mut self, at: usize, words: &[(usize, &str)]) {
        const QUOTES: [char; 2] = ['"', '\''];
        for (start, word) in words.iter().take_while(|(_, word)| word.starts_with("--")) {
            let Some(mount) = word.strip_prefix("--mount=") else { continue };
            let mut start = start + word.len() - mount.len();
            for field in mount.split(',') {
                let end = start + field.len();
                let field = field.trim_start_matches(QUOTES);
                let is_secret = field.trim_end_matches(QUOTES).eq_ignore_ascii_case("type=secret");
                if is_secret && self.secrets.last() != Some(&at) {
                    self.secrets.push(at);
                }
                if let Some((key, from)) = field.split_once('=')
                    && key.eq_ignore_ascii_case("from")
                {
                    let from = from.trim_start_matches(QUOTES);
                    let begin = end - from.len();
                    let from = from.trim_end_matches(QUOTES);
                    if !from.contains('$') {
                        self.base(at, begin..begin + from.len(), from.to_owned());
                    }
                }
                start = end + 1;
            }
        }
    }

    fn base(&mut self, at: usize, span: Range<usize>, image: String) {
        if !image.is_empty() && !self.has_target(&image) {
            self.references.push(Reference { image, at, span });
        }
    }
}

/// `ARG NAME` and `ARG NAME=default …` before the first stage.
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

    fn stages(text: &str, args: &[(&str, &str)]) -> Result<DockerfileStages, String> {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        DockerfileStages::parse(text, &args)
    }

    #[test]
    fn bases_are_images_but_not_stages() {
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
            // A copy may be from a later stage.
            ("FROM a AS x\nCOPY --from=y /f /f\nCOPY --from=1 /f /f\nFROM b AS Y", &[], &["a", "b"]),
            // A form feed does not end a continuation.
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
    fn a_here_document_holds_no_instructions() {
        for (text, expected) in [
            ("FROM a\nRUN <<EOF\nFROM x\nEOF\nFROM b", &["a", "b"][..]),
            ("FROM a\nRUN cat <<EOF > /f && b\nFROM x\n EOF\nEOF\nFROM b", &["a", "b"]),
            ("FROM a\nCOPY <<-'E O' <<\"F\" /d/\nFROM x\n\tE O\nFROM y\nF\nFROM b", &["a", "b"]),
            ("FROM a\nRUN python3 3<<EOF \\\n -x\nFROM x\nEOF\nFROM b", &["a", "b"]),
            // None of these starts one.
            ("FROM a\nRUN cat <<<EOF\nFROM b", &["a", "b"]),
            ("FROM a\nRUN echo $((1<<EOF)) \"<<EOF\" << x\nFROM b", &["a", "b"]),
            ("FROM a\nENV X=<<EOF\nLABEL y <<EOF\nFROM b", &["a", "b"]),
        ] {
            let read = stages(text, &[]).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(read.bases(), expected, "{text}");
        }
        assert_eq!(
            stages("FROM a\nRUN <<EOF\nx", &[]),
            Err("line 2 of the Dockerfile: the here-document `EOF` does not end".to_owned())
        );
    }

    #[test]
    fn a_target_is_a_stage_name_in_any_case_and_not_an_index() {
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
        for text in ["# nothing\nARG A=1\n", ""] {
            assert_eq!(stages(text, &[]), Err("the Dockerfile has no FROM".to_owned()));
        }
    }

    #[test]
    fn only_the_names_of_images_are_replaced() {
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
    fn a_step_with_a_secret_gets_another_one() {
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
    fn many_references_take_linear_time() {
        let many: String = (0..120_000).map(|i| format!("COPY --from=image-{i} /a /a\n")).collect();
        assert_eq!(stages(&format!("FROM a\n{many}"), &[]).unwrap().bases().len(), 120_001);
    }

    #[test]
    fn the_depth_of_nesting_is_limited() {
        let deep = format!("FROM {}a{}", "${A:-".repeat(20_000), "}".repeat(20_000));
        assert_eq!(stages(&deep, &[]).unwrap().bases(), &[] as &[&str]);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(FROM|ARG|RUN|COPY|#|\\n|\\\\|\\$|\\{|\\}|<<|E|'|\"|=|:-| |`|--from=|.){0,60}") {
            if let Ok(read) = stages(&text, &[]) {
                let names = read.bases().iter().map(|base| ((*base).to_owned(), "new".to_owned())).collect();
                let _ = read.rewritten(&text, &names, "S");
            }
        }
    }
}
