//! Compares the documentation with the program: links have a target, the reference names every command, option and setting,
//! and no page names one that does not exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Command;
use regex_lite::Regex;
use swanci::config::{Config, Environment};
use swanci::error::Kind;
use swanci::listener::{Answer, Metrics, Refusal};
use swanci::queue::QueueStats;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file of the repository below `folder` for which `wanted` is true.
fn files(folder: &str, wanted: &dyn Fn(&Path) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn pages() -> Vec<PathBuf> {
    files("", &|path| path.extension().is_some_and(|extension| extension == "md"))
}

/// The text of a section, from its heading to the next heading of the same or a higher level.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let start =
        page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("there is no section `{heading}`"));
    let body = &page[start + heading.len() + 2..];
    let level = heading.split(' ').next().unwrap().len();
    let end = (1..=level).filter_map(|level| body.find(&format!("\n{} ", "#".repeat(level)))).min();
    &body[..end.unwrap_or(body.len())]
}

/// The first cells of the tables of a section, without their headings.
fn first_cells(section: &str) -> Vec<&str> {
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split(" | ").next().unwrap())
        .collect()
}

fn matches(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// GitHub's anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn every_link_in_the_pages_has_a_target() {
    let link = Regex::new(r"\]\(([^)\s]+)\)").unwrap();
    let mut followed = 0;
    for page in pages() {
        let text = read(&page);
        for found in link.captures_iter(&text) {
            let (path, fragment) = found[1].split_once('#').unwrap_or((&found[1], ""));
            if path.starts_with("http") {
                continue;
            }
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(target.exists(), "{}: {} does not exist", page.display(), &found[1]);
            if !fragment.is_empty() {
                let anchors: BTreeSet<String> =
                    matches(r"(?m)^#+ (.*)$", &read(&target)).iter().map(|h| anchor(h)).collect();
                assert!(anchors.contains(fragment), "{}: {} has no such heading", page.display(), &found[1]);
            }
            followed += 1;
        }
    }
    assert!(followed > 40, "only {followed} links were found");
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines < 200, "README.md has {lines} lines");
}

/// The long options of a command and its subcommands, without the global ones.
fn options(command: &Command) -> BTreeSet<String> {
    let global = global_options();
    let own = command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned);
    let inner = command.get_subcommands().flat_map(options);
    own.chain(inner).filter(|name| !global.contains(name)).collect()
}

fn global_options() -> BTreeSet<String> {
    let command = swanci::command_line();
    let global = command.get_arguments().filter(|arg| arg.is_global_set()).filter_map(|arg| arg.get_long());
    global.chain(["help", "version"]).map(str::to_owned).collect()
}

#[test]
fn the_reference_names_the_options_of_every_command_and_no_others() {
    let page = read("docs/reference.md");
    let named = |heading: &str| matches(r"--([a-z][a-z-]*)", &first_cells(section(&page, heading)).join(" "));
    let mut global = named("### Global options");
    global.extend(["help", "version"].map(str::to_owned));
    assert_eq!(global, global_options());
    for command in swanci::command_line().get_subcommands() {
        let name = command.get_name();
        let mut named = named(&format!("### {name}"));
        if name == "run" {
            // The page refers to the options of the three steps.
            let not_taken = ["repo", "commit", "dry-run"];
            for step in ["evaluate", "build", "push"] {
                let step = section(&page, &format!("### {step}"));
                let step = matches(r"--([a-z][a-z-]*)", &first_cells(step).join(" "));
                named.extend(step.into_iter().filter(|option| !not_taken.contains(&option.as_str())));
            }
        }
        if name == "verify" || name == "doctor" {
            named.extend(matches(r"--([a-z][a-z-]*)", section(&page, &format!("### {name}"))));
        }
        assert_eq!(named, options(command), "docs/reference.md, ### {name}");
    }
}

#[test]
fn the_reference_lists_every_command() {
    let page = read("docs/reference.md");
    let listed = matches(r"(?m)^\| `swanci ([a-z]+)` ", section(&page, "## Commands"));
    let commands: BTreeSet<String> =
        swanci::command_line().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    assert_eq!(listed, commands);
}

#[test]
fn the_reference_explains_every_exit_code_and_no_others() {
    let page = read("docs/reference.md");
    let explained = matches(r"(?m)^\| ([0-9, ]+) \|", section(&page, "## Exit codes"));
    let explained: BTreeSet<u8> =
        explained.iter().flat_map(|codes| codes.split(", ")).map(|c| c.parse().unwrap()).collect();
    let kinds = [
        Kind::Failed,
        Kind::Usage,
        Kind::NothingToBuild,
        Kind::BadInput,
        Kind::Refused,
        Kind::Environment,
        Kind::Interrupted,
        Kind::Terminated,
    ];
    assert_eq!(explained, kinds.into_iter().map(Kind::code).chain([0]).collect());
}

#[test]
fn the_reference_names_every_metric_and_no_others() {
    let page = read("docs/reference.md");
    let named: BTreeMap<String, String> = first_two_cells(section(&page, "## Metrics"));
    // A metric with labels is shown once it has a value.
    let metrics = Metrics::new(QueueStats::default);
    metrics.delivery(&Answer::unauthorized());
    metrics.refused(Refusal::Timeout);
    let text = metrics.render().unwrap();
    let types = Regex::new(r"(?m)^# TYPE (\S+) (\S+)$").unwrap();
    let known: BTreeMap<String, String> = types
        .captures_iter(&text)
        .map(|found| {
            let suffix = if &found[2] == "counter" { "_total" } else { "" };
            (format!("{}{suffix}", &found[1]), found[2].to_owned())
        })
        .collect();
    assert!(known.len() > 8, "{text}");
    assert_eq!(named, known);
}

fn first_two_cells(section: &str) -> BTreeMap<String, String> {
    let row = Regex::new(r"(?m)^\| `(swanci_[a-z_]+)` \| (\w+) \|").unwrap();
    row.captures_iter(section).map(|found| (found[1].to_owned(), found[2].to_owned())).collect()
}

/// The environment variables of swanci's configuration.
fn variables() -> BTreeSet<String> {
    let source = read("src/config/environment.rs");
    let list = source.split_once("const VARIABLES").unwrap().1.split_once("];").unwrap().0;
    let known = matches(r#""(SWANCI_[A-Z_]+)""#, list);
    assert!(known.len() > 15, "the list in the source has an unexpected form: {known:?}");
    known
}

#[test]
fn the_reference_names_every_variable_and_the_pages_name_no_others() {
    let known = variables();
    assert_eq!(
        matches(r"(SWANCI_[A-Z_]*[A-Z])", section(&read("docs/reference.md"), "## Configuration")),
        known
    );
    let compose_alone = ["SWANCI_IMAGE", "SWANCI_PORT", "SWANCI_CONFIG_FILE"];
    for page in
        pages().into_iter().chain(["action.yml", "compose/docker-compose.yml"].map(|file| root().join(file)))
    {
        for name in matches(r"(SWANCI_[A-Z_]*[A-Z])", &read(&page)) {
            let of_the_tests = name.starts_with("SWANCI_TEST_") || name == "SWANCI_FIXTURES";
            let is_known = known.contains(&name) || compose_alone.contains(&name.as_str()) || of_the_tests;
            assert!(is_known, "{}: there is no variable {name}", page.display());
        }
    }
}

/// The words after `swanci` in each command line of a page. Only code is searched.
fn invocations(page: &str) -> Vec<Vec<&str>> {
    let mut code: Vec<&str> = Vec::new();
    let mut fenced = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            code.push(line);
        } else {
            code.extend(line.split('`').skip(1).step_by(2));
        }
    }
    let separator = Regex::new(r" \| | && |; |\$\(").unwrap();
    code.into_iter()
        .flat_map(|line| separator.split(line).collect::<Vec<_>>())
        .filter_map(|part| {
            let mut words = part.split_whitespace().filter(|word| *word != "$" && *word != "-").peekable();
            let program = words.next()?;
            (program == "swanci" || program == "/usr/bin/swanci")
                .then(|| words.take_while(|word| *word != "#").collect())
        })
        .collect()
}

#[test]
fn every_command_line_in_the_pages_is_valid() {
    let command_line = swanci::command_line();
    let global = global_options();
    let mut checked = 0;
    for page in pages() {
        let text = read(&page);
        for words in invocations(&text) {
            let shown = format!("{}: swanci {}", page.display(), words.join(" "));
            let mut rest = words.iter().copied();
            // Global options may come first, some with a value.
            let name = loop {
                match rest.next() {
                    Some("--config" | "--state-dir" | "--color") => _ = rest.next(),
                    Some(option) if option.starts_with('-') => {}
                    other => break other,
                }
            };
            let Some(name) = name.filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())) else {
                continue;
            };
            let command =
                command_line.find_subcommand(name).unwrap_or_else(|| panic!("{shown}: unknown command"));
            let known = options(command);
            for option in rest.filter_map(|word| word.strip_prefix("--")).filter(|option| !option.is_empty())
            {
                let option = option.split(['=', ')', ']', ',', '|']).next().unwrap();
                assert!(
                    known.contains(option) || global.contains(option),
                    "{shown}: unknown option --{option}"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "only {checked} command lines were found");
}

#[test]
fn the_example_documents_match_their_schemas() {
    let page = read("docs/reference.md");
    let fits = |name: &str, example: &str| {
        let schema = serde_json::from_str(&read(format!("docs/schemas/{name}.schema.json"))).unwrap();
        let example: serde_json::Value = serde_json::from_str(example).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        if let Err(error) = validator.validate(&example) {
            panic!("docs/reference.md: the example of {name}: {error} at {}", error.instance_path());
        }
    };
    let mut examples = section(&page, "## Documents").split("```json\n").skip(1);
    for name in ["decision", "built", "receipt", "verification", "catchup"] {
        fits(name, examples.next().unwrap().split_once("\n```").unwrap().0);
    }
    assert_eq!(examples.next(), None);
    let images = section(&page, "## images.json").split_once("```json\n").unwrap().1;
    fits("images", images.split_once("\n```").unwrap().0);
}

#[test]
fn the_troubleshooting_messages_exist_in_the_program() {
    let mut source = String::new();
    for file in files("src", &|path| path.extension().is_some_and(|extension| extension == "rs")) {
        source.push_str(&read(file));
    }
    let source = Regex::new(r"\\\n\s*").unwrap().replace_all(&source, "").into_owned();
    let page = read("docs/operations.md");
    let mut found = 0;
    for message in first_cells(section(&page, "## Troubleshooting")) {
        for part in message.split('`').next().unwrap().split('…').map(str::trim) {
            if part.len() > 5 {
                let part = part.split(" (").next().unwrap();
                assert!(source.contains(part), "docs/operations.md: no message contains `{part}`");
                found += 1;
            }
        }
    }
    assert!(found > 15, "only {found} messages were found");
}

#[test]
fn every_configuration_in_the_pages_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("swanci.toml");
    let environment: Environment = [("HOME".to_owned(), "/nowhere".to_owned())].into_iter().collect();
    let mut loaded = 0;
    for page in pages() {
        for block in read(&page).split("```toml\n").skip(1) {
            let end = block.find("```").unwrap();
            // Blocks of a list are indented.
            fs::write(&file, block[..end].replace("\n   ", "\n")).unwrap();
            if let Err(failure) = Config::load(Some(&file), None, &environment) {
                panic!("{}: {}\n{}", page.display(), failure.render(), &block[..end]);
            }
            loaded += 1;
        }
    }
    assert!(loaded > 10, "only {loaded} configurations were found");
}

#[test]
fn the_version_is_the_same_everywhere() {
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        read("CHANGELOG.md").contains(&format!("## [{version}]")),
        "CHANGELOG.md has no section of {version}"
    );
    assert!(
        read("docs/tutorial.md").contains(&format!("\nswanci {version}\n")),
        "docs/tutorial.md shows another version"
    );
    assert!(
        read("packaging/changelog").starts_with(&format!("swanci ({version}-")),
        "packaging/changelog has another version"
    );
}

#[test]
fn no_file_names_the_host_of_a_package_registry() {
    // In pieces, so that this file does not name them.
    let hosts = [
        ("deb.debian", "org"),
        ("ftp.debian", "org"),
        ("snapshot.debian", "org"),
        ("archive.ubuntu", "com"),
        ("static.crates", "io"),
        ("registry.npmjs", "org"),
        ("pypi", "org"),
        ("proxy.golang", "org"),
    ]
    .map(|(name, domain)| format!("{name}.{domain}"));
    for file in files("", &|path| !path.ends_with("Cargo.lock")) {
        let bytes = fs::read(&file).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for host in &hosts {
            assert!(!text.contains(host.as_str()), "{} names {host}", file.display());
        }
    }
}

#[test]
fn every_test_that_the_security_page_names_exists() {
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        for file in files(folder, &|path| path.extension().is_some_and(|extension| extension == "rs")) {
            sources.push_str(&read(file));
        }
    }
    let page = read("SECURITY.md");
    let is_a_claim = |word: &&str| word.matches('_').count() > 2 && !word.contains(['/', '.', ' ']);
    let names: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_a_claim).collect();
    assert!(names.len() > 20, "only these were found: {names:?}");
    for name in names {
        assert!(sources.contains(&format!("fn {name}(")), "SECURITY.md: there is no test {name}");
    }
}

#[test]
fn every_source_file_that_the_pages_name_exists() {
    let sources: Vec<String> = ["src", "tests"]
        .into_iter()
        .flat_map(|folder| files(folder, &|path| path.extension().is_some_and(|extension| extension == "rs")))
        .map(|file| file.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    for page in ["SECURITY.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        for name in matches(r"`([a-z_/]+\.rs)`", &read(page)) {
            let is_it = |file: &String| *file == name || file.ends_with(&format!("/{name}"));
            assert!(sources.iter().any(is_it), "{page}: there is no {name}");
        }
    }
}
