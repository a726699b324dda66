//! `swanci certs`: creates or renews the registry's certificate.

use std::collections::HashSet;
use std::path::Path;

use serde_json::json;

use crate::cli::{Certs, Global};
use crate::error::{Classify as _, Failure, Kind};
use crate::init::certificates::{Pair, authority, server};
use crate::init::{folder_of, names, temporary};

use super::documents_io::show;

pub(super) fn command(global: &Global, args: &Certs) -> Result<(), Failure> {
    let mut seen = HashSet::new();
    let all: Vec<String> =
        args.name.iter().flat_map(names).filter(|name| seen.insert(name.clone())).collect();
    let (crt, key) = (args.dir.join("ca.crt"), args.dir.join("ca.key"));
    let now = jiff::Timestamp::now();
    let (ca, is_new) = match (std::fs::read_to_string(&crt), std::fs::read_to_string(&key)) {
        (Ok(certificate), Ok(key)) => (Pair { certificate, key }, false),
        (Err(_), Err(_)) if !crt.exists() && !key.exists() => {
            (authority(now).classify(Kind::Failed, || "no authority can be made")?, true)
        }
        (Err(error), _) => return Err(half(&crt, error)),
        (_, Err(error)) => return Err(half(&key, error)),
    };
    let made = server(&ca, &all, now).classify(Kind::Failed, || {
        format!("no certificate can be made for {} with {}", all.join(", "), crt.display())
    })?;
    let mut files = vec![("registry.key", &made.key, 0o600), ("registry.crt", &made.certificate, 0o644)];
    if is_new {
        files.extend([("ca.key", &ca.key, 0o600), ("ca.crt", &ca.certificate, 0o644)]);
    }
    let mut written: Vec<String> = Vec::new();
    for (name, text, mode) in files {
        let path = args.dir.join(name);
        replace(&path, text, mode).classify(Kind::Failed, || format!("cannot write {}", path.display()))?;
        written.push(path.display().to_string());
    }
    let next = match is_new {
        true => format!("sudo swanci trust --ca {} {}", crt.display(), args.name[0].host()),
        false => "restart the registry, which reads its certificate at its start".to_owned(),
    };
    let text = format!("wrote {}\nvalid for {}\nnext: {next}\n", written.join("\nwrote "), all.join(", "));
    show(global.json, &json!({"schema": 1, "names": all, "written": written}), || text)
}

fn half(path: &Path, error: std::io::Error) -> Failure {
    Failure::new(Kind::BadInput, error)
        .context(format!("cannot read {}", path.display()))
        .hint("an authority needs ca.crt and ca.key; without both, name another folder with --dir")
}

/// Writes the file atomically.
fn replace(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    std::fs::create_dir_all(folder_of(path))?;
    temporary(path, text, mode)?.persist(path)?;
    Ok(())
}
