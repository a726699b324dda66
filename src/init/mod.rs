//! A new installation: configuration, webhook secret and certificates, all of them or none, never over what is there.

pub(crate) mod certificates;
mod template;

use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::decide::BranchGlobs;
use crate::error::{Classify as _, Failure, Kind};
use crate::model::{ForgeName, RegistryAddress, RepoName};

/// What is to be written down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    /// The folder.
    pub dir: PathBuf,
    /// Where images go.
    pub registry: Option<RegistryAddress>,
    /// The forge that the repositories live on; `None` for github.com.
    pub forge: Option<(ForgeName, Option<String>)>,
    /// Whose merges are built.
    pub repositories: Vec<RepoName>,
    /// Into which branches, for each of them.
    pub branches: Vec<String>,
    /// Where to clone the one repository from.
    pub clone_url: Option<String>,
    /// The webhook's secret, where it is not `secret` in the folder.
    pub secret_file: Option<PathBuf>,
    /// Whether to make certificates.
    pub certificates: bool,
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The configuration.
    pub config: PathBuf,
    /// The webhook's secret.
    pub secret: PathBuf,
    /// Whether the secret was there already and is used as it is.
    pub secret_kept: bool,
    /// Every file that was made, in order.
    pub files: Vec<PathBuf>,
    /// Lines that were added to a `.gitignore`, so that git does not take the secret and the state.
    pub ignored: Vec<String>,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Everybody,
    Owner,
}

struct NewFile {
    path: PathBuf,
    content: Vec<u8>,
    access: Access,
}

/// Checks the answers, makes everything in memory, and then writes it.
///
/// # Errors
/// When an answer is wrong, a file is there already, or it cannot be written. Nothing is left behind.
pub(crate) fn write(answers: &Answers) -> Result<Written, Failure> {
    check(answers)?;
    let config = answers.dir.join("swanci.toml");
    let secret = answers.secret_file.clone().unwrap_or_else(|| answers.dir.join("secret"));
    // Only a file that was named is taken over: a leftover one may be anybody's.
    let secret_kept = answers.secret_file.is_some() && is_there(&secret);
    if secret_kept {
        crate::config::read_secret_file(&secret)?;
    }
    let mut files = Vec::new();
    let (gitignore, ignored) = ignored(answers);
    let certs = answers.dir.join("certs");
    if let (true, Some(registry)) = (answers.certificates, &answers.registry) {
        let names = names(registry);
        let now = jiff::Timestamp::now();
        let made = certificates::authority(now)
            .and_then(|ca| certificates::server(&ca, &names, now).map(|server| (ca, server)));
        let (ca, server) =
            made.classify(Kind::Failed, || format!("no certificate can be made for {}", names.join(", ")))?;
        for (name, content, access) in [
            ("ca.key", ca.key, Access::Owner),
            ("ca.crt", ca.certificate, Access::Everybody),
            ("registry.key", server.key, Access::Owner),
            ("registry.crt", server.certificate, Access::Everybody),
        ] {
            files.push(NewFile { path: certs.join(name), content: content.into_bytes(), access });
        }
        let ignored = certs.join(".gitignore");
        if !is_there(&ignored) {
            files.push(NewFile { path: ignored, content: b"*\n".to_vec(), access: Access::Everybody });
        }
    }
    if !secret_kept {
        files.push(NewFile { path: secret.clone(), content: new_secret()?, access: Access::Owner });
    }
    let secret_for_config = match &answers.secret_file {
        // Relative paths in the file are relative to it.
        Some(path) => {
            std::path::absolute(path).classify(Kind::Failed, || "the secret file has no absolute path")?
        }
        None => PathBuf::from("secret"),
    };
    let text = template::render(answers, &secret_for_config);
    files.push(NewFile { path: config.clone(), content: text.into_bytes(), access: Access::Everybody });

    if let Some(there) = files.iter().find(|file| is_there(&file.path)) {
        return Err(already(&there.path));
    }
    let files = write_all(&files)?;
    if !ignored.is_empty() {
        let append = || -> std::io::Result<()> {
            let before = std::fs::read_to_string(&gitignore).unwrap_or_default();
            let newline = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&gitignore)?;
            writeln!(file, "{newline}{}", ignored.join("\n"))
        };
        append().classify(Kind::Failed, || format!("cannot write {}", gitignore.display()))?;
    }
    Ok(Written { config, secret, secret_kept, files, ignored })
}

/// What stands in the way of the answers that are known so far: asking for the others would be in vain.
pub(crate) fn is_free(answers: &Answers) -> Result<(), Failure> {
    let mut wanted = vec![answers.dir.join("swanci.toml")];
    if answers.secret_file.is_none() {
        wanted.push(answers.dir.join("secret"));
    }
    wanted.iter().find(|path| is_there(path)).map_or(Ok(()), |there| Err(already(there)))
}

/// The lines that a `.gitignore` in the folder lacks, where the folder is in a git repository.
fn ignored(answers: &Answers) -> (PathBuf, Vec<String>) {
    let file = answers.dir.join(".gitignore");
    let in_git = std::path::absolute(Path::new(".").join(&answers.dir))
        .is_ok_and(|dir| dir.ancestors().any(|dir| dir.join(".git").exists()));
    if !in_git {
        return (file, Vec::new());
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    let secret = answers.secret_file.is_none().then_some("/secret");
    let lines = secret.into_iter().chain(["/state/"]).map(str::to_owned);
    (file, lines.filter(|line| !there.lines().any(|known| known.trim() == line)).collect())
}

fn check(answers: &Answers) -> Result<(), Failure> {
    BranchGlobs::new(&answers.branches).map_err(|e| Failure::usage(e).context("--branch"))?;
    if !answers.branches.is_empty() && answers.repositories.is_empty() {
        return Err(
            Failure::usage("--branch is for the repositories, and there is none").hint("add --repository")
        );
    }
    if answers.clone_url.is_some() && answers.repositories.len() != 1 {
        return Err(Failure::usage("--clone-url is for one repository").hint("give one --repository with it"));
    }
    if let Some((kind, None)) = answers.forge
        && kind.public_url().is_none()
    {
        return Err(
            Failure::usage(format!("{} has no public instance", kind.title())).hint("add --forge-url")
        );
    }
    if answers.certificates && answers.registry.is_none() {
        return Err(
            Failure::usage("certificates are made for a registry, and there is none").hint("add --registry")
        );
    }
    for (i, name) in answers.repositories.iter().enumerate() {
        if answers.repositories[..i].iter().any(|other| other.same_as(name)) {
            return Err(Failure::usage(format!("the repository {name} is there twice")));
        }
    }
    Ok(())
}

/// The registry's own name, and those of this machine.
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

/// 32 random bytes, in hex.
fn new_secret() -> Result<Vec<u8>, Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random)
        .map_err(|e| Failure::environment(format!("the system gives no random bytes: {e}")))?;
    Ok((hex::encode(random) + "\n").into_bytes())
}

/// Also for a link that leads nowhere.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn already(path: &Path) -> Failure {
    Failure::failed(format!("{} already exists and is not overwritten", path.display()))
        .hint("nothing was written; move it away, or write elsewhere with --dir")
}

/// Writes every file or none: what was made before a failure is removed again.
fn write_all(files: &[NewFile]) -> Result<Vec<PathBuf>, Failure> {
    let mut undo = Undo::default();
    for file in files {
        let dir = match file.path.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            Some(_) | None => Path::new("."),
        };
        undo.make_dir(dir).classify(Kind::Failed, || format!("cannot make the folder {}", dir.display()))?;
        let write = || -> std::io::Result<tempfile::NamedTempFile> {
            let mut temporary = tempfile::Builder::new().prefix(".swanci-").tempfile_in(dir)?;
            let mode = if file.access == Access::Owner { 0o600 } else { 0o644 };
            temporary.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
            temporary.write_all(&file.content)?;
            temporary.as_file().sync_all()?;
            Ok(temporary)
        };
        let cannot = || format!("cannot write {}", file.path.display());
        let temporary = write().classify(Kind::Failed, cannot)?;
        // Fails where something has come to stand there meanwhile (`RENAME_NOREPLACE`, else a hard link).
        match temporary.persist_noclobber(&file.path) {
            Ok(_) => undo.files.push(file.path.clone()),
            Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(already(&file.path));
            }
            Err(error) => return Err(error.error).classify(Kind::Failed, cannot),
        }
    }
    Ok(undo.keep())
}

/// What has been made so far; removed when it is dropped before [`Undo::keep`].
#[derive(Default)]
struct Undo {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Undo {
    fn make_dir(&mut self, dir: &Path) -> std::io::Result<()> {
        let missing: Vec<&Path> =
            dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists()).collect();
        for dir in missing.into_iter().rev() {
            std::fs::create_dir(dir)?;
            self.dirs.push(dir.to_owned());
        }
        Ok(())
    }

    fn keep(mut self) -> Vec<PathBuf> {
        self.dirs.clear();
        std::mem::take(&mut self.files)
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for file in self.files.iter().rev() {
            let _ = std::fs::remove_file(file);
        }
        for dir in self.dirs.iter().rev() {
            // Only where it is empty: somebody else may have used it.
            let _ = std::fs::remove_dir(dir);
        }
    }
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
        let new = |path: PathBuf| NewFile { path, content: b"x".to_vec(), access: Access::Owner };
        let dir = root.path().join("a/b");
        // The second file's folder is a file: only writing can tell.
        let files = [new(dir.join("one")), new(dir.join("one/two"))];
        assert!(write_all(&files).is_err());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_secrets_differ() {
        let (one, two) = (new_secret().unwrap(), new_secret().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), 65);
    }
}
