//! `swanci init`: the written files work unchanged, and existing files are never modified.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use secrecy::ExposeSecret as _;
use swanci::config::{Config, Environment, read_secret_file};

use crate::support::program::swanci;

const FULL: &[&str] = &[
    "init",
    "--yes",
    "--registry",
    "registry.example.org:443/team",
    "--repository",
    "acme/shop",
    "--repository",
    "acme/pond",
    "--branch",
    "main",
    "--branch",
    "release/\"*",
    "--certs",
];

fn load(path: &Path) -> Config {
    let home = [("HOME".to_owned(), "/nowhere".to_owned())].into_iter().collect::<Environment>();
    Config::load(Some(path), None, &home).unwrap()
}

/// Every file below a folder, with its content.
fn files(dir: &Path) -> BTreeSet<(String, Vec<u8>)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_written_configuration_loads() {
    let dir = tempfile::tempdir().unwrap();
    let ran = swanci(dir.path(), &[], FULL);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("\nwrote secret\nwrote swanci.toml\n"), "{ran:?}");
    let config = load(&dir.path().join("swanci.toml"));
    assert_eq!(config.registry.unwrap().to_string(), "registry.example.org:443/team");
    let names: Vec<String> = config.repositories.iter().map(|r| r.name.to_string()).collect();
    assert_eq!(names, ["acme/shop", "acme/pond"]);
    assert_eq!(config.repositories[1].branches.globs(), ["main", "release/\"*"]);
    let secret = read_secret_file(&config.forges[0].secret_files[0]).unwrap();
    assert_eq!(hex::decode(secret.expose_secret()).unwrap().len(), 32);
    assert!(config.ca_file.unwrap().exists());
    assert!(
        !ran.out.contains(secret.expose_secret()) && !ran.err.contains(secret.expose_secret()),
        "{ran:?}"
    );
    let next: Vec<&str> = ran.out.lines().skip_while(|line| *line != "next:").skip(1).collect();
    for (i, (line, says)) in next
        .iter()
        .zip([
            "start the registry with certs/registry.crt and certs/registry.key",
            "sudo swanci trust --ca certs/ca.crt registry.example.org:443",
            "docker login registry.example.org:443",
            "commit an images.json to acme/shop",
            "swanci doctor",
            "swanci serve",
            "swanci hook install --repo acme/shop --url https://YOUR-PUBLIC-ADDRESS",
        ])
        .enumerate()
    {
        assert!(line.starts_with(&format!("  {}. {says}", i + 1)) && line.len() <= 80, "{line}");
    }
    assert_eq!(next.len(), 7, "{ran:?}");
}

#[test]
fn in_a_git_repository_secret_and_state_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let git = Command::new("git").args(["init", "-q"]).arg(dir.path()).status().unwrap();
    assert!(git.success());
    std::fs::create_dir(dir.path().join("ops")).unwrap();
    std::fs::write(dir.path().join("ops/.gitignore"), "/state/\nmine").unwrap();
    let ran = swanci(dir.path(), &[], &["init", "--yes", "--dir", "ops"]);
    assert!(ran.code == 0 && ran.out.contains("added /secret to ops/.gitignore\n"), "{ran:?}");
    assert_eq!(
        std::fs::read_to_string(dir.path().join("ops/.gitignore")).unwrap(),
        "/state/\nmine\n/secret\n"
    );
    let ran = swanci(dir.path(), &[], &["init", "--yes"]);
    assert!(ran.out.contains("added /secret and /state/ to .gitignore\n"), "{ran:?}");
    let status =
        Command::new("git").args(["status", "--porcelain", "-uall"]).current_dir(dir.path()).output();
    let status = String::from_utf8(status.unwrap().stdout).unwrap();
    assert!(status.contains("swanci.toml") && !status.contains("secret"), "{status}");
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(swanci(elsewhere.path(), &[], &["init"]).code, 0);
    assert!(!elsewhere.path().join(".gitignore").exists(), "no git, no .gitignore");
}

#[test]
fn another_forge_is_written_with_its_url_and_secret() {
    let dir = tempfile::tempdir().unwrap();
    let gitea = ["--forge", "gitea", "--forge-url", "https://git.example.org/", "--repository", "acme/shop"];
    let ran = swanci(dir.path(), &[], &[&["init", "--yes"], &gitea[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("token_file under [[forge]]\n"), "{ran:?}");
    let config = load(&dir.path().join("swanci.toml"));
    let [forge] = &config.forges[..] else { panic!("{:?}", config.forges) };
    assert_eq!((forge.kind.as_str(), forge.url.as_str()), ("gitea", "https://git.example.org"));
    assert_eq!(forge.secret_files, [dir.path().join("secret")]);
    assert_eq!(config.repositories[0].forge, forge.url);
    for (wrong, says) in [
        (&["--forge", "gitea"][..], "--forge-url"),
        (&["--forge", "gitae"], "did you mean `gitea`?"),
        (&["--forge-url", "https://git.example.org"], "--forge"),
        (&["--forge", "gitea", "--forge-url", "git.example.org"], "not a URL"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let ran = swanci(dir.path(), &[], &[&["init", "--yes"], wrong].concat());
        assert!(ran.code == 2 && ran.err.contains(says), "{wrong:?}: {ran:?}");
        assert!(files(dir.path()).is_empty());
    }
}

#[test]
fn the_written_configuration_loads_also_without_answers() {
    let dir = tempfile::tempdir().unwrap();
    let ran = swanci(dir.path(), &[], &["init"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let config = load(&dir.path().join("swanci.toml"));
    assert!(config.registry.is_none() && config.repositories.is_empty() && config.ca_file.is_none());
    // swanci reads the written file in this folder.
    assert_eq!(swanci(dir.path(), &[], &["hook", "check"]).code, 2);
}

#[test]
fn every_key_is_in_the_file_and_loads_when_uncommented() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swanci.toml");
    assert_eq!(swanci(dir.path(), &[], &["init"]).code, 0);
    let text = std::fs::read_to_string(&path).unwrap();
    // Every key of docs/reference.md, section "Configuration".
    for key in [
        "state_dir",
        "host",
        "ca_file",
        "plain_http",
        "jobs",
        "timeout",
        "tags",
        "secrets",
        "keep_local",
        "builder",
        "docker",
        "listen",
        "secret_file",
        "max_body",
        "retention",
        "admin_listen",
        "name",
        "branches",
        "kind",
        "url",
        "token_file",
        "former_names",
        "clone_url",
        "namespace",
        "submodules",
    ] {
        let stands = text.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = ")));
        assert!(stands, "{key} is missing:\n{text}");
    }
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            Some(_) | None => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&path, uncommented).unwrap();
    let config = load(&path);
    assert_eq!(config.build.jobs, 2);
    assert_eq!(config.repositories.len(), 1);
    assert!(config.serve.admin_listen.is_some());
}

#[test]
fn only_the_owner_can_read_secrets() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(swanci(dir.path(), &[], FULL).code, 0);
    for name in ["secret", "certs/ca.key", "certs/registry.key"] {
        assert_eq!(mode(&dir.path().join(name)), 0o600, "{name}");
    }
    for name in ["swanci.toml", "certs/ca.crt", "certs/registry.crt"] {
        assert_eq!(mode(&dir.path().join(name)), 0o644, "{name}");
    }
    assert_eq!(std::fs::read_to_string(dir.path().join("certs/.gitignore")).unwrap(), "*\n");
}

#[test]
fn clients_accept_the_certificates() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(swanci(dir.path(), &[], FULL).code, 0);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(dir.path().join("certs")).output();
        let output = output.expect("openssl is missing: apt-get install openssl");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for host in ["registry.example.org", "localhost"] {
        openssl(&[
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-verify_hostname",
            host,
            "-CAfile",
            "ca.crt",
            "registry.crt",
        ]);
    }
    openssl(&["verify", "-x509_strict", "-verify_ip", "127.0.0.1", "-CAfile", "ca.crt", "registry.crt"]);
    for pair in ["ca", "registry"] {
        let (certificate, key) = (format!("{pair}.crt"), format!("{pair}.key"));
        let public = openssl(&["x509", "-in", &certificate, "-noout", "-pubkey"]);
        assert_eq!(public, openssl(&["pkey", "-in", &key, "-pubout"]), "{pair}");
    }
    assert!(openssl(&["x509", "-in", "ca.crt", "-noout", "-text"]).contains("CA:TRUE, pathlen:0"));
    assert!(openssl(&["x509", "-in", "registry.crt", "-noout", "-text"]).contains("CA:FALSE"));
}

#[test]
fn certs_renews_the_certificate_with_the_authority_that_clients_trust() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(swanci(dir.path(), &[], FULL).code, 0);
    let read = |name: &str| std::fs::read_to_string(dir.path().join("certs").join(name)).unwrap();
    let (ca, old) = (read("ca.crt"), read("registry.crt"));
    let ran = swanci(dir.path(), &[], &["certs", "registry.example.org:443", "192.0.2.7"]);
    assert!(
        ran.code == 0 && ran.out.contains("valid for registry.example.org, localhost, 127.0.0.1, 192.0.2.7"),
        "{ran:?}"
    );
    assert_eq!(read("ca.crt"), ca);
    assert_ne!(read("registry.crt"), old);
    assert_eq!(mode(&dir.path().join("certs/registry.key")), 0o600);
    for name in [["-verify_hostname", "registry.example.org"], ["-verify_ip", "192.0.2.7"]] {
        let verified = Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver"])
            .args(name)
            .args(["-CAfile", "ca.crt", "registry.crt"])
            .current_dir(dir.path().join("certs"))
            .output()
            .unwrap();
        assert!(verified.status.success(), "{name:?}: {verified:?}");
    }
    // An incomplete authority cannot sign, and is not replaced.
    std::fs::remove_file(dir.path().join("certs/ca.key")).unwrap();
    let ran = swanci(dir.path(), &[], &["certs", "registry.example.org"]);
    assert!(ran.code == 4 && ran.err.contains("ca.key"), "{ran:?}");
    assert_eq!(read("ca.crt"), ca);
    // Without an authority, it is created.
    let ran = swanci(dir.path(), &[], &["certs", "--dir", "new", "registry.example.org", "--json"]);
    assert_eq!(ran.json()["written"].as_array().unwrap().len(), 4, "{ran:?}");
    assert_eq!(swanci(dir.path(), &[], &["certs", "https://x"]).code, 2);
}

#[test]
fn trust_installs_the_authority_for_docker_and_removes_it() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(swanci(dir.path(), &[], FULL).code, 0);
    let ca = std::fs::read_to_string(dir.path().join("certs/ca.crt")).unwrap();
    for (registry, folders) in [
        ("registry.example.org:443", &["registry.example.org", "registry.example.org:443"][..]),
        ("registry.example.org", &["registry.example.org", "registry.example.org:443"]),
        ("registry.example.org:5000/team", &["registry.example.org:5000"]),
    ] {
        let ran = swanci(dir.path(), &[], &["trust", "--dir", "d", registry]);
        assert_eq!(ran.code, 0, "{ran:?}");
        let found = Command::new("openssl")
            .args(["x509", "-in", "certs/ca.crt", "-noout", "-fingerprint", "-sha256"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        let found = String::from_utf8(found.stdout).unwrap();
        assert!(ran.out.contains(found.trim().rsplit('=').next().unwrap()), "{found} {ran:?}");
        let mut there: Vec<_> =
            std::fs::read_dir(dir.path().join("d")).unwrap().map(|e| e.unwrap().file_name()).collect();
        there.sort();
        assert_eq!(there, *folders);
        for folder in folders {
            assert_eq!(
                std::fs::read_to_string(dir.path().join("d").join(folder).join("ca.crt")).unwrap(),
                ca
            );
        }
        assert_eq!(swanci(dir.path(), &[], &["trust", "--remove", "--dir", "d", registry]).code, 0);
        assert_eq!(std::fs::read_dir(dir.path().join("d")).unwrap().count(), 0);
    }
    for (file, says) in
        [("certs/registry.key", "private key"), ("swanci.toml", "not a certificate"), ("x", "cannot read x")]
    {
        let ran = swanci(dir.path(), &[], &["trust", "--dir", "e", "--ca", file, "registry.example.org"]);
        assert!(ran.code == 4 && ran.err.contains(says), "{file}: {ran:?}");
        assert!(!dir.path().join("e").exists());
    }
}

#[test]
fn existing_files_are_not_overwritten_and_no_partial_files_remain() {
    for name in
        ["swanci.toml", "secret", "certs/ca.crt", "certs/ca.key", "certs/registry.crt", "certs/registry.key"]
    {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("certs")).unwrap();
        std::fs::write(dir.path().join(name), "mine").unwrap();
        let before = files(dir.path());
        let ran = swanci(dir.path(), &[], FULL);
        assert_eq!(ran.code, 1, "{name}: {ran:?}");
        assert!(ran.err.contains(name) && ran.err.contains("not overwritten"), "{name}: {ran:?}");
        assert_eq!(files(dir.path()), before, "{name}");
    }
    // Also for a dangling link.
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("elsewhere");
    std::os::unix::fs::symlink(&target, dir.path().join("secret")).unwrap();
    assert_eq!(swanci(dir.path(), &[], &["init"]).code, 1);
    assert!(!target.exists() && !dir.path().join("swanci.toml").exists());
}

#[test]
fn a_second_init_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(swanci(dir.path(), &[], FULL).code, 0);
    let before = files(dir.path());
    assert_eq!(swanci(dir.path(), &[], FULL).code, 1);
    assert_eq!(files(dir.path()), before);
}

#[test]
fn an_existing_secret_file_is_used_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("mine"), "my own secret\n").unwrap();
    let ran = swanci(dir.path(), &[], &["init", "--dir", "new/site", "--secret-file", "mine", "--json"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_eq!(ran.json()["written"], serde_json::json!(["new/site/swanci.toml"]));
    let config = load(&dir.path().join("new/site/swanci.toml"));
    assert_eq!(read_secret_file(&config.forges[0].secret_files[0]).unwrap().expose_secret(), "my own secret");
    std::fs::write(dir.path().join("empty"), "\n").unwrap();
    let ran = swanci(dir.path(), &[], &["init", "--dir", "other", "--secret-file", "empty"]);
    assert_eq!(ran.code, 4);
    assert!(!dir.path().join("other").exists());
}

#[test]
fn invalid_answers_are_refused_before_anything_is_written() {
    for arguments in [
        &["--branch", "main"][..],
        &["--certs"],
        &["--clone-url", "ssh://git@h/x", "--repository", "a/b", "--repository", "c/d"],
        &["--repository", "a/b", "--repository", "A/B"],
        &["--repository", "a/b", "--branch", "release/["],
        &["--repository", "nonsense"],
        &["--registry", "http://x"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let ran = swanci(dir.path(), &[], &[&["init", "--yes"], arguments].concat());
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(files(dir.path()).is_empty(), "{arguments:?}");
    }
}

#[test]
fn on_a_terminal_it_prompts_for_values_without_a_flag() {
    let dir = tempfile::tempdir().unwrap();
    // util-linux's `script` provides a terminal.
    let mut child = Command::new("script")
        .args(["-qec", &format!("{} init --branch main", env!("CARGO_BIN_EXE_swanci")), "/dev/null"])
        .current_dir(dir.path())
        .env("HOME", dir.path())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is missing: apt-get install bsdutils");
    // The registry, a misspelt forge, the forge and its URL, a repository, no other repository, and no certificate.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"registry.example.org:443\rgitae\rgitea\r\racme/shop\r\r\r").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    for question in
        ["Registry, such", "Forge: ", "URL of Gitea", "Repository to build", "Another repository", "Create a"]
    {
        let times = if question == "Forge: " { 2 } else { 1 };
        assert_eq!(said.matches(question).count(), times, "{question}: {said}");
    }
    assert!(said.contains("did you mean `gitea`?"), "{said}");
    let config = load(&dir.path().join("swanci.toml"));
    assert_eq!(config.registry.unwrap().to_string(), "registry.example.org:443", "{said}");
    assert_eq!(config.repositories[0].name.to_string(), "acme/shop");
    assert_eq!(config.repositories[0].branches.globs(), ["main"]);
    assert_eq!(config.forges[0].url, "https://git.example.org");
    assert!(!dir.path().join("certs").exists());
    // Existing files are reported before the first prompt.
    let again = Command::new("script")
        .args(["-qec", &format!("{} init", env!("CARGO_BIN_EXE_swanci")), "/dev/null"])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&again.stdout);
    assert_eq!(again.status.code(), Some(1), "{said}");
    assert!(said.contains("swanci.toml already exists") && !said.contains("Registry"), "{said}");
}
