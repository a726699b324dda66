//! The pages that people read, held to the program: links lead somewhere, and nothing that can be typed or set is missing.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The targets of `[text](target)` outside of code.
fn links(page: &str) -> Vec<&str> {
    page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut followed = 0;
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs/tutorial.md",
        "docs/clients.md",
        "compose/README.md",
        "examples/systemd/README.md",
        "scripts/README.md",
        "certs/README.md",
    ] {
        let folder = root.join(page).parent().unwrap().to_owned();
        let text = read(page);
        for link in links(&text).into_iter().filter(|link| !link.starts_with("http")) {
            let path = link.split('#').next().unwrap();
            assert!(path.is_empty() || folder.join(path).exists(), "{page}: {link} is not there");
            followed += 1;
        }
    }
    assert!(followed > 10, "only {followed} links were found");
}

#[test]
fn every_variable_of_the_configuration_stands_in_the_readme() {
    let (source, readme) = (read("src/config/environment.rs"), read("README.md"));
    let list = source.split_once("const KNOWN").unwrap().1.split_once("];").unwrap().0;
    let known: Vec<&str> = list.split('"').filter(|word| word.starts_with("SWANCI_")).collect();
    assert!(known.len() > 15, "the list in the source has another form: {known:?}");
    // Another name of SWANCI_REGISTRY, for those who go by the rule.
    for name in known.into_iter().filter(|name| *name != "SWANCI_REGISTRY_HOST") {
        assert!(readme.contains(&format!("`{name}`")), "README.md does not name {name}");
    }
}

#[test]
fn every_command_and_exit_code_stands_in_the_readme() {
    let readme = read("README.md");
    for command in swanci::command_line().get_subcommands() {
        let name = command.get_name();
        assert!(readme.contains(&format!("swanci {name}")), "README.md does not show `swanci {name}`");
    }
    for code in ["| 0 |", "| 1 |", "| 2 |", "| 3 |", "| 4 |", "| 5 |", "| 6 |", "| 130, 143 |"] {
        assert!(readme.contains(code), "README.md does not explain the exit code {code}");
    }
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        append_sources(&root.join(folder), &mut sources);
    }
    let page = read("SECURITY.md");
    let is_a_claim = |word: &&str| word.matches('_').count() > 2 && !word.contains(['/', '.', ' ']);
    let names: Vec<&str> = page.split('`').skip(1).step_by(2).filter(is_a_claim).collect();
    assert!(names.len() > 20, "only these were found: {names:?}");
    for name in names {
        assert!(sources.contains(&format!("fn {name}(")), "SECURITY.md: there is no test {name}");
    }
}

fn append_sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            append_sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}
