//! The rules of the house: who may spawn, who may print, who may import whom. They are read from the source itself.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file without its tests, comments and strings.
struct Source {
    /// From the root of the package, as `src/git/mirror.rs`.
    path: String,
    code: String,
    lines: usize,
}

/// What a file does that its room does not allow.
#[derive(Debug, PartialEq, Eq)]
struct Offence {
    path: String,
    line: usize,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    walk(&root.join("src"), &mut found);
    found.sort();
    let sources: Vec<Source> = found
        .iter()
        .filter(|path| path.file_stem().is_none_or(|stem| stem != "tests"))
        .map(|path| {
            let text = fs::read_to_string(path).unwrap();
            let path = path.strip_prefix(root).unwrap().display().to_string();
            Source { path, lines: text.lines().count(), code: code_of(&text) }
        })
        .collect();
    assert!(sources.len() > 40, "the scanner found only {} files", sources.len());
    sources
}

/// The code of a file: what follows `#[cfg(test)]` on an inline module is cut, comments and the contents of strings
/// are blanked, lines stay where they are.
fn code_of(text: &str) -> String {
    let text = match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &text[..at],
        None => text,
    };
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '/' if rest.peek() == Some(&'/') => {
                while rest.peek().is_some_and(|c| *c != '\n') {
                    rest.next();
                }
            }
            'r' if matches!(rest.peek(), Some('"' | '#'))
                && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') =>
            {
                let mut hashes = 0;
                while rest.peek() == Some(&'#') {
                    rest.next();
                    hashes += 1;
                }
                if rest.peek() != Some(&'"') {
                    out.push('r'); // a raw identifier
                    continue;
                }
                rest.next();
                let end = format!("\"{}", "#".repeat(hashes));
                let mut body = String::new();
                while !body.ends_with(&end) {
                    let Some(c) = rest.next() else { break };
                    body.push(c);
                }
                out.push_str("\"\"");
                out.extend(body.chars().filter(|c| *c == '\n'));
            }
            '"' => {
                out.push('"');
                while let Some(c) = rest.next() {
                    match c {
                        '\\' if rest.next() == Some('\n') => out.push('\n'),
                        '\\' => {}
                        '"' => break,
                        '\n' => out.push('\n'),
                        _ => {}
                    }
                }
                out.push('"');
            }
            '\'' => {
                // A character, or a lifetime.
                let ahead: Vec<char> = rest.clone().take(2).collect();
                if ahead.first() == Some(&'\\') {
                    rest.next();
                    rest.next();
                    while rest.next_if(|c| *c != '\'').is_some() {}
                    rest.next();
                } else if ahead.get(1) == Some(&'\'') {
                    rest.next();
                    rest.next();
                } else {
                    out.push('\'');
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether `word` stands in the line as a path or name of its own.
fn names(line: &str, word: &str) -> bool {
    let own = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    line.match_indices(word).any(|(at, _)| {
        let starts = !word.starts_with(|c: char| c.is_alphanumeric()) || own(line[..at].chars().next_back());
        let ends =
            !word.ends_with(|c: char| c.is_alphanumeric()) || own(line[at + word.len()..].chars().next());
        starts && ends
    })
}

/// The lines of the files of a room that hold one of these words.
fn offences(sources: &[Source], room: impl Fn(&str) -> bool, words: &[&str]) -> Vec<Offence> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| room(&s.path)) {
        for (n, line) in source.code.lines().enumerate() {
            if words.iter().any(|word| names(line, word)) {
                found.push(Offence { path: source.path.clone(), line: n + 1, text: line.trim().to_owned() });
            }
        }
    }
    found
}

fn in_room(path: &str, room: &str) -> bool {
    path == format!("src/{room}.rs") || path.starts_with(&format!("src/{room}/"))
}

#[test]
fn only_process_spawns() {
    let words = ["process::Command", "duct::", "libc::fork", "CommandExt", "Command::new"];
    assert_eq!(offences(&sources(), |path| !in_room(path, "process"), &words), []);
}

#[test]
fn only_progress_error_and_main_print() {
    let words = ["println!", "print!", "eprintln!", "eprint!", "dbg!", "stdout()", "stderr()"];
    let allowed = |offence: &Offence| {
        // Asking whether an output is a terminal is no print.
        offence.text.contains("is_terminal()")
    };
    let room = |path: &str| !["src/progress.rs", "src/error.rs", "src/main.rs"].contains(&path);
    let found: Vec<Offence> =
        offences(&sources(), room, &words).into_iter().filter(|o| !allowed(o)).collect();
    assert_eq!(found, []);
}

#[test]
fn nothing_below_the_commands_knows_them() {
    let top = |path: &str| in_room(path, "commands") || path == "src/main.rs" || path == "src/lib.rs";
    let words = ["crate::commands", "swanci::commands", "super::commands"];
    assert_eq!(offences(&sources(), |path| !top(path), &words), []);
    // The command line's types are for the commands.
    let words = ["crate::cli", "swanci::cli"];
    assert_eq!(offences(&sources(), |path| !top(path) && path != "src/cli.rs", &words), []);
}

#[test]
fn the_queue_names_no_pipeline_and_the_pure_rooms_touch_nothing() {
    let sources = sources();
    let words = ["crate::pipeline", "crate::git", "crate::docker", "crate::registry", "crate::manifest"];
    assert_eq!(offences(&sources, |path| in_room(path, "queue"), &words), []);
    // Lower layers get the fields that they need, not `Config`.
    let words = ["crate::pipeline", "crate::config", "crate::progress"];
    let lower = |path: &str| ["git", "docker", "registry", "process"].iter().any(|room| in_room(path, room));
    let seconds = |offence: &Offence| offence.text.contains("crate::progress::seconds");
    let found: Vec<Offence> = offences(&sources, lower, &words).into_iter().filter(|o| !seconds(o)).collect();
    assert_eq!(found, []);

    let words = [
        "std::fs",
        "fs::",
        "File::",
        "TcpStream",
        "TcpListener",
        "ToSocketAddrs",
        "std::env",
        "env::",
        "std::process",
        "crate::process",
        "SystemTime",
        "Instant",
        "Timestamp::now",
        "crate::git",
        "crate::docker",
        "crate::registry",
        "ureq",
        "std::thread",
        "fastrand",
    ];
    let pure = |path: &str| ["model", "decide", "manifest", "plan"].iter().any(|room| in_room(path, room));
    assert_eq!(offences(&sources, pure, &words), []);
}

#[test]
fn nothing_is_left_to_do_and_no_file_does_everything() {
    // Comments count here, so the files are read as they are.
    for source in sources() {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(&source.path)).unwrap();
        for word in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!", "dbg!"] {
            assert!(!text.lines().any(|line| names(line, word)), "{} holds {word}", source.path);
        }
        // A little more than the house's measure, so that a test more does not tear a file apart.
        let code = source.code.lines().filter(|line| !line.trim().is_empty()).count();
        assert!(code <= 450, "{} has {code} lines of code ({} in all): split it", source.path, source.lines);
    }
}

#[test]
fn the_scanner_sees_what_breaks_a_rule_and_only_that() {
    let bad = |text: &str| vec![Source { path: "src/bad.rs".into(), code: code_of(text), lines: 0 }];
    let seen = |text: &str, word: &str| offences(&bad(text), |_| true, &[word]).len();
    assert_eq!(seen("fn f() {\n    std::process::Command::new(\"x\");\n}\n", "process::Command"), 1);
    assert_eq!(seen("use crate::commands::Session;\n", "crate::commands"), 1);
    assert_eq!(seen("let a = '\"'; println!(\"x\");\n", "println!"), 1);
    assert_eq!(seen("let a = '\\''; println!(\"x\");\n", "println!"), 1);
    assert_eq!(seen("fn f<'a>(x: &'a str) { dbg!(x) }\n", "dbg!"), 1);
    // Not in comments, strings, tests or longer words.
    assert_eq!(seen("// std::process::Command\n/// println!\n", "process::Command"), 0);
    assert_eq!(
        seen("let a = \"println!\";\nlet b = r#\"println!\"#;\nlet c = \"\\\"println!\";\n", "println!"),
        0
    );
    assert_eq!(
        seen("fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() { println!(\"x\") }\n}\n", "println!"),
        0
    );
    assert_eq!(seen("eprintln!(\"x\");\n", "println!"), 0);
    assert_eq!(seen("let instant_use = 1; Instantly\n", "Instant"), 0);
    // Lines stay where they are.
    let found = offences(&bad("let a = \"x\ny\";\nlet b = r\"\n\";\ndbg!(1);\n"), |_| true, &["dbg!"]);
    assert_eq!(found, [Offence { path: "src/bad.rs".into(), line: 5, text: "dbg!(1);".into() }]);
}
