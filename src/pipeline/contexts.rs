//! The build contexts of a commit on disk. Images with the same context share one copy, written at first use.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use crate::error::{Classify as _, Failure, Kind};

use super::build::Work;
use super::checkout;
use super::survey::Surveyed;

impl Work<'_> {
    /// The context and the Dockerfile. The Dockerfile is in a separate folder with its ignore file; `names` replace its
    /// references to local bases.
    pub(super) fn context(
        &self,
        i: usize,
        names: &BTreeMap<String, String>,
    ) -> Result<(PathBuf, PathBuf), Failure> {
        let Surveyed { files, stages, spec, .. } = &self.surveyed[i];
        let content = &files.dockerfile.content;
        let content = match (stages, str::from_utf8(content)) {
            (Some(stages), Ok(text)) => {
                stages.rewritten(text, names, &self.origin.cache_scope()).into_bytes()
            }
            _ if names.is_empty() => content.clone(),
            _ => {
                let text = format!("image `{}`: its Dockerfile is not UTF-8", spec.name);
                return Err(Failure::bad_input(text));
            }
        };
        let folder = self.scratch.join(format!("dockerfile-{i}"));
        let dockerfile = folder.join("Dockerfile");
        let write = || {
            fs::create_dir_all(&folder)?;
            fs::write(&dockerfile, content)?;
            // BuildKit prefers the ignore file named after the Dockerfile over the context's.
            match &files.ignore_file {
                Some(file) => fs::write(folder.join("Dockerfile.dockerignore"), &file.content),
                None => Ok(()),
            }
        };
        write().classify(Kind::Environment, || format!("cannot write to {}", folder.display()))?;
        Ok((self.tree(i)?.join(&files.path), dockerfile))
    }

    fn tree(&self, i: usize) -> Result<PathBuf, Failure> {
        let Surveyed { files, spec, .. } = &self.surveyed[i];
        let same = |image: &Surveyed| image.files.path == files.path;
        let first = self.surveyed.iter().position(same).unwrap_or(i);
        let tree = self.scratch.join(format!("tree-{first}"));
        let mut written = self.written[first].lock().unwrap_or_else(PoisonError::into_inner);
        if !*written {
            let links = self.mirror.check_out_context(files, &tree)?;
            if self.origin.submodules {
                checkout::write_submodules(self.site, self.mirror, &self.change.commit, &links, &tree, 0)?;
            }
            for (what, paths) in placeholders(&tree) {
                let (first, more) = (crate::escape::shortened(&paths[0], 80), paths.len() - 1);
                let more = if more == 0 { String::new() } else { format!(" and {more} more") };
                self.site.events.warn(&format!("{}: {first}{more}: {what}", spec.name));
            }
            *written = true;
        }
        Ok(tree)
    }
}

/// How placeholder files start, and their kind.
const PLACEHOLDERS: [(&[u8], &str); 2] = [
    (b"\0GITCRYPT\0", "encrypted by git-crypt; the image gets it as it is"),
    (
        b"version https://git-lfs.github.com/spec/v1\n",
        "a git LFS pointer that no .gitattributes covers; the image gets the pointer",
    ),
];

/// The placeholder files of a working copy, by kind.
fn placeholders(tree: &Path) -> BTreeMap<&'static str, Vec<String>> {
    let mut found: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    let mut start = Vec::new();
                    let read =
                        File::open(entry.path()).and_then(|file| file.take(64).read_to_end(&mut start));
                    let what = PLACEHOLDERS.iter().find(|(mark, _)| read.is_ok() && start.starts_with(mark));
                    if let (Some((_, what)), Ok(path)) = (what, entry.path().strip_prefix(tree)) {
                        found.entry(what).or_default().push(path.display().to_string());
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholder_files_are_found() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir(tree.path().join("a")).unwrap();
        fs::write(tree.path().join("a/key"), b"\0GITCRYPT\0xyz").unwrap();
        fs::write(tree.path().join("a/big"), b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
            .unwrap();
        fs::write(tree.path().join("a/readme"), b"about git-lfs and GITCRYPT").unwrap();
        std::os::unix::fs::symlink("key", tree.path().join("a/link")).unwrap();
        let found: Vec<Vec<String>> = placeholders(tree.path()).into_values().collect();
        assert_eq!(found, [["a/big"], ["a/key"]]);
    }
}
