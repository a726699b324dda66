//! The state directory and its files are private, independent of the umask.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Names that identify a state directory; one of an earlier version may be readable for others.
const MARKS: [&str; 5] = ["queue.db", "serve.lock", "locks", "mirrors", "receipts"];

/// Creates the state directory. An existing one becomes private only if it is empty or swanci's, so that a mistaken path,
/// such as `/tmp`, keeps its permissions.
pub(crate) fn create(dir: &Path) -> io::Result<()> {
    create_below(dir)?;
    let shared = dir.metadata()?.permissions().mode() & 0o077 != 0;
    if shared && (MARKS.iter().any(|mark| dir.join(mark).exists()) || fs::read_dir(dir)?.next().is_none()) {
        fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Creates a directory in the state directory, with missing parents.
pub(crate) fn create_below(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_becomes_private_and_others_do_not_change() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let above = tempfile::tempdir().unwrap();
        let (new, empty, old, other) = ("new/deep", "empty", "old", "other");
        for dir in [empty, old, other] {
            fs::create_dir(above.path().join(dir)).unwrap();
            fs::set_permissions(above.path().join(dir), Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir(above.path().join(old).join("locks")).unwrap();
        fs::write(above.path().join(other).join("document"), "").unwrap();
        let modes = [new, empty, old, other].map(|dir| {
            create(&above.path().join(dir)).unwrap();
            mode(&above.path().join(dir))
        });
        assert_eq!(modes, [0o700, 0o700, 0o700, 0o755]);
    }
}
