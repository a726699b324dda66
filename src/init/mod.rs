//! A new installation: configuration, webhook secret and certificates.

pub(crate) mod certificates;
mod template;

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::cli::Init;
use crate::decide::BranchGlobs;
use crate::error::{Classify as _, Failure, Kind};
use crate::model::RegistryAddress;

pub(crate) fn config_path(init: &Init) -> PathBuf {
    init.dir.join("swanci.toml")
}

pub(crate) fn secret_path(init: &Init) -> PathBuf {
    init.secret_file.clone().unwrap_or_else(|| init.dir.join("secret"))
}

/// Prepares every file in memory, then writes all of them or none. Returns the files, and the lines that were added to
/// `.gitignore`. Never overwrites a file.
pub(crate) fn write(init: &Init) -> Result<(Vec<PathBuf>, Vec<String>), Failure> {
    check(init)?;
    let mut files = Vec::new();
    if let (true, Some(registry)) = (init.certs, &init.registry) {
        let certs = init.dir.join("certs");
        let names = names(registry);
        let now = jiff::Timestamp::now();
        let made = certificates::authority(now)
            .and_then(|ca| certificates::server(&ca, &names, now).map(|server| (ca, server)));
        let (ca, server) =
            made.classify(Kind::Failed, || format!("no certificate can be made for {}", names.join(", ")))?;
        for (name, content, mode) in [
            ("ca.key", ca.key, 0o600),
            ("ca.crt", ca.certificate, 0o644),
            ("registry.key", server.key, 0o600),
            ("registry.crt", server.certificate, 0o644),
        ] {
            files.push((certs.join(name), content, mode));
        }
        if !is_there(&certs.join(".gitignore")) {
            files.push((certs.join(".gitignore"), "*\n".to_owned(), 0o644));
        }
    }
    // A file is used as it is only if it was named: another one may belong to something else.
    let secret = secret_path(init);
    if init.secret_file.is_some() && is_there(&secret) {
        crate::config::read_secret_file(&secret)?;
    } else {
        files.push((secret.clone(), random::<32>()? + "\n", 0o600));
    }
    let secret = match &init.secret_file {
        // Relative paths in the file are relative to it.
        Some(_) => std::path::absolute(secret).classify(Kind::Failed, || "no absolute path of the secret")?,
        None => PathBuf::from("secret"),
    };
    files.push((config_path(init), template::render(init, &secret), 0o644));

    if let Some((there, _, _)) = files.iter().find(|(path, _, _)| is_there(path)) {
        return Err(already(there));
    }
    write_all(&files)?;
    let ignored = ignore(init)?;
    Ok((files.into_iter().map(|(path, _, _)| path).collect(), ignored))
}

/// Fails if a file exists whose name is known before the prompts.
pub(crate) fn is_free(init: &Init) -> Result<(), Failure> {
    let secret = init.secret_file.is_none().then(|| secret_path(init));
    let mut wanted = std::iter::once(config_path(init)).chain(secret);
    wanted.find(|path| is_there(path)).map_or(Ok(()), |there| Err(already(&there)))
}

/// In a git repository, adds the secret and the state to `.gitignore`. Returns the added lines.
fn ignore(init: &Init) -> Result<Vec<String>, Failure> {
    let file = init.dir.join(".gitignore");
    let in_git = std::path::absolute(Path::new(".").join(&init.dir))
        .is_ok_and(|dir| dir.ancestors().any(|dir| dir.join(".git").exists()));
    let before = fs::read_to_string(&file).unwrap_or_default();
    let secret = init.secret_file.is_none().then_some("/secret");
    let lines = secret.into_iter().chain(["/state/"]).map(str::to_owned);
    let lines: Vec<String> =
        lines.filter(|line| in_git && !before.lines().any(|known| known.trim() == line)).collect();
    if !lines.is_empty() {
        let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
        let opened = fs::OpenOptions::new().append(true).create(true).open(&file);
        opened
            .and_then(|mut file| writeln!(file, "{newline}{}", lines.join("\n")))
            .classify(Kind::Failed, || format!("cannot write {}", file.display()))?;
    }
    Ok(lines)
}

fn check(init: &Init) -> Result<(), Failure> {
    BranchGlobs::new(&init.branch).map_err(|e| Failure::usage(e).context("--branch"))?;
    for (wrong, problem, hint) in [
        (
            !init.branch.is_empty() && init.repository.is_empty(),
            "--branch is for the repositories, and there is none",
            "add --repository",
        ),
        (
            init.clone_url.is_some() && init.repository.len() != 1,
            "--clone-url is for one repository",
            "give one --repository with it",
        ),
        (
            init.certs && init.registry.is_none(),
            "certificates are made for a registry, and there is none",
            "add --registry",
        ),
    ] {
        if wrong {
            return Err(Failure::usage(problem).hint(hint));
        }
    }
    if let Some(kind) = init.forge.filter(|kind| init.forge_url.is_none() && kind.public_url().is_none()) {
        let problem = format!("{} has no public instance", kind.title());
        return Err(Failure::usage(problem).hint("add --forge-url"));
    }
    for (i, name) in init.repository.iter().enumerate() {
        if init.repository[..i].iter().any(|other| other.same_as(name)) {
            return Err(Failure::usage(format!("the repository {name} is given twice")));
        }
    }
    Ok(())
}

/// The names in a certificate: the registry's own, and those of this machine.
pub(crate) fn names(registry: &RegistryAddress) -> Vec<String> {
    let host = registry.host();
    let bare = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let bare = bare.parse::<IpAddr>().map_or_else(|_| bare.to_lowercase(), |address| address.to_string());
    let mut names = vec![bare];
    for name in ["localhost", "127.0.0.1"] {
        if names[0] != name {
            names.push(name.to_owned());
        }
    }
    names
}

/// `N` random bytes, in hex.
pub(crate) fn random<const N: usize>() -> Result<String, Failure> {
    let mut random = [0; N];
    getrandom::fill(&mut random).classify(Kind::Environment, || "cannot get random bytes")?;
    Ok(hex::encode(random))
}

/// Also true for a broken symbolic link.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn already(path: &Path) -> Failure {
    Failure::failed(format!("{} already exists and is not overwritten", path.display()))
        .hint("nothing was written; move it away, or write elsewhere with --dir")
}

/// Writes every file or none.
fn write_all(files: &[(PathBuf, String, u32)]) -> Result<(), Failure> {
    let mut made = Vec::new();
    let written =
        files.iter().try_for_each(|(path, content, mode)| write_new(path, content, *mode, &mut made));
    if written.is_err() {
        for path in made.iter().rev() {
            // Folders only if they are empty: another program may have used them.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
        }
    }
    written
}

/// Adds every file and folder that it makes to `made`.
fn write_new(path: &Path, content: &str, mode: u32, made: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    let missing: Vec<&Path> = folder_of(path).ancestors().take_while(is_missing).collect();
    for dir in missing.into_iter().rev() {
        fs::create_dir(dir).classify(Kind::Failed, || format!("cannot make the folder {}", dir.display()))?;
        made.push(dir.to_owned());
    }
    let cannot = || format!("cannot write {}", path.display());
    match temporary(path, content, mode).classify(Kind::Failed, cannot)?.persist_noclobber(path) {
        Ok(_) => made.push(path.to_owned()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => return Err(already(path)),
        Err(error) => return Err(error.error).classify(Kind::Failed, cannot),
    }
    Ok(())
}

/// A file in the folder of `path`, synced and ready to be renamed to it.
pub(crate) fn temporary(path: &Path, content: &str, mode: u32) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".swanci-").tempfile_in(folder_of(path))?;
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_has_every_name_of_the_registry() {
        let of = |registry: &str| names(&registry.parse().unwrap());
        assert_eq!(of("swan.example.org:443/team"), ["swan.example.org", "localhost", "127.0.0.1"]);
        assert_eq!(of("127.0.0.1:5000"), ["127.0.0.1", "localhost"]);
        assert_eq!(of("localhost"), ["localhost", "127.0.0.1"]);
    }

    #[test]
    fn a_failure_in_the_middle_leaves_nothing_behind() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        // The second file's folder is a file, which only writing detects.
        let files = ["one", "one/two"].map(|name| (dir.join(name), "x".to_owned(), 0o600));
        assert!(write_all(&files).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_secrets_differ() {
        let (one, two) = (random::<32>().unwrap(), random::<32>().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 64);
    }
}
