use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::{Classify as _, Failure, Kind};
use crate::model::RepoName;
use crate::redact;

/// Checks that each file is readable, and redacts its content, which may have changed since it was first read.
pub(super) fn check(secrets: &BTreeMap<String, PathBuf>, repository: &RepoName) -> Result<(), Failure> {
    for (id, path) in secrets {
        redact::register_file(path).classify(Kind::BadInput, || {
            format!("the build secret `{id}` of {repository}: cannot read {}", path.display())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_secret_is_reported_by_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let name: RepoName = "owner/name".parse().unwrap();
        let good = folder.path().join("good");
        std::fs::write(&good, "value-of-a-secret\n").unwrap();
        for (path, readable) in
            [(good, true), (folder.path().join("absent"), false), (folder.path().to_owned(), false)]
        {
            let checked = check(&BTreeMap::from([("npm".to_owned(), path)]), &name);
            assert_eq!(checked.is_ok(), readable);
            if let Err(failure) = checked {
                assert_eq!(failure.kind, Kind::BadInput);
                assert!(failure.render().contains("`npm` of owner/name"), "{}", failure.render());
            }
        }
        assert_eq!(redact::scrub("RUN echo value-of-a-secret"), "RUN echo ***");
    }
}
