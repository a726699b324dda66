//! The webhook that swanci created, in the state directory, so that a new address changes it instead of adding another
//! one. Losing the file does no harm.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::HookId;
use crate::model::RepoName;

fn path(state_dir: &Path, host: &str, repository: &RepoName) -> PathBuf {
    // Repository names ignore case.
    let name = format!("{host}_{repository}").to_lowercase().replace(['/', ':'], "_");
    state_dir.join("hooks").join(format!("{name}.json"))
}

pub(crate) fn recall(state_dir: &Path, host: &str, repository: &RepoName) -> Option<HookId> {
    let bytes = fs::read(path(state_dir, host, repository)).ok()?;
    let mut installed: Value = serde_json::from_slice(&bytes).ok()?;
    serde_json::from_value(installed.get_mut("id")?.take()).ok()
}

pub(crate) fn remember(
    state_dir: &Path,
    host: &str,
    repository: &RepoName,
    id: &HookId,
) -> std::io::Result<()> {
    let path = path(state_dir, host, repository);
    let dir = path.parent().unwrap_or(state_dir);
    crate::state_dir::create_below(dir)?;
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    file.write_all(json!({"id": id}).to_string().as_bytes())?;
    file.persist(&path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_remembered_for_its_repository_and_host() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two): (RepoName, RepoName) = ("Swan/Lake".parse().unwrap(), "swan/pond".parse().unwrap());
        remember(dir.path(), "127.0.0.1:80", &one, &HookId::Number(7)).unwrap();
        assert_eq!(
            recall(dir.path(), "127.0.0.1:80", &"swan/lake".parse().unwrap()),
            Some(HookId::Number(7))
        );
        assert_eq!(recall(dir.path(), "127.0.0.1:80", &two), None);
        assert_eq!(recall(dir.path(), "127.0.0.1:81", &one), None);
    }
}
