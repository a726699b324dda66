//! The commented configuration: every key, with unset ones as comments.

use std::path::Path;

use crate::cli::Init;

/// A line that begins with `#` and no space is an unset key.
const TEMPLATE: &str = include_str!("swanci.toml");
const REPOSITORY: &str = "#[[repository]]";

pub(super) fn render(init: &Init, secret_file: &Path) -> String {
    let (before, repository) = TEMPLATE.split_once(REPOSITORY).unwrap_or((TEMPLATE, ""));
    let secret_file = setting("secret_file", secret_file.display());
    let mut settings = Vec::new();
    if let Some(registry) = &init.registry {
        settings.push((r#"#host = "registry.example.org:443""#, setting("host", registry)));
    }
    if init.certs {
        settings.push((r#"#ca_file = "certs/ca.crt""#, setting("ca_file", "certs/ca.crt")));
    }
    match init.forge {
        None => settings.push((r#"#secret_file = "secret""#, secret_file)),
        Some(kind) => settings.extend([
            ("#[[forge]]", "[[forge]]".to_owned()),
            (r#"#kind = "gitea""#, setting("kind", kind.as_str())),
            (r#"#secret_file = "git.example.org.secret""#, secret_file),
        ]),
    }
    if let Some(url) = &init.forge_url {
        settings.push((r#"#url = "https://git.example.org""#, setting("url", url)));
    }
    let mut text = made(before, &settings);
    if init.repository.is_empty() {
        text.push_str(REPOSITORY);
        text.push_str(repository);
    }
    for (i, name) in init.repository.iter().enumerate() {
        text.push_str(if i > 0 { "\n[[repository]]" } else { "[[repository]]" });
        let mut settings = vec![(r#"#name = "acme/shop""#, setting("name", name))];
        if !init.branch.is_empty() {
            let branches: Vec<String> = init.branch.iter().map(string).collect();
            let branches = format!("branches = [{}]", branches.join(", "));
            settings.push((r#"#branches = ["main", "release/*"]"#, branches));
        }
        if let Some(url) = &init.clone_url {
            let commented = r#"#clone_url = "ssh://git@github.com/acme/shop.git""#;
            settings.push((commented, setting("clone_url", url)));
        }
        text.push_str(&made(repository, &settings));
    }
    text
}

fn made(text: &str, settings: &[(&str, String)]) -> String {
    settings.iter().fold(text.to_owned(), |text, (commented, setting)| text.replacen(commented, setting, 1))
}

fn setting(key: &str, value: impl ToString) -> String {
    format!("{key} = {}", string(value))
}

fn string(text: impl ToString) -> String {
    toml::Value::String(text.to_string()).to_string()
}
