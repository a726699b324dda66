//! `swanci trust`: installs a registry's certificate authority for docker.

use std::path::PathBuf;

use base64::Engine as _;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::cli::{Global, Trust};
use crate::error::{Classify as _, Failure, Kind};

use super::documents_io::show;

pub(super) fn command(global: &Global, args: &Trust) -> Result<(), Failure> {
    let host = args.registry.host();
    // docker uses the folder with the host as typed in the image name, and HOST is the same as HOST:443.
    let other = match host.strip_suffix(":443") {
        Some(bare) => Some(bare.to_owned()),
        None if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => None,
        None => Some(format!("{host}:443")),
    };
    let files: Vec<PathBuf> = std::iter::once(host.to_owned())
        .chain(other)
        .map(|folder| args.dir.join(folder).join("ca.crt"))
        .collect();
    let shown: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    if args.remove {
        for file in &files {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(denied(error, file));
                }
                Ok(()) | Err(_) => {}
            }
            // Only if it is empty: it may also contain a client certificate.
            let _ = file.parent().map(std::fs::remove_dir);
        }
        let text = || format!("docker no longer trusts it for {host}\n");
        return show(global.json, &json!({"schema": 1, "removed": shown}), text);
    }
    let pem = std::fs::read_to_string(&args.ca)
        .classify(Kind::BadInput, || format!("cannot read {}", args.ca.display()))
        .map_err(|failure| failure.hint("copy ca.crt from the registry's machine, and name it with --ca"))?;
    let fingerprint = fingerprint(&pem).map_err(|problem| {
        Failure::bad_input(format!("{} {problem}", args.ca.display())).hint("give ca.crt")
    })?;
    for file in &files {
        let folder = file.parent().unwrap_or(&args.dir);
        let installed = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(file, &pem));
        installed.map_err(|error| denied(error, file))?;
    }
    let text = format!(
        "wrote {}\ncompare on the registry's machine: SHA-256 {fingerprint}\n",
        shown.join("\nwrote ")
    );
    show(global.json, &json!({"schema": 1, "written": shown, "sha256": fingerprint}), || text)
}

fn denied(error: std::io::Error, file: &std::path::Path) -> Failure {
    let is_denied = error.kind() == std::io::ErrorKind::PermissionDenied;
    let failure = Failure::new(Kind::Environment, error).context(format!("cannot change {}", file.display()));
    if is_denied { failure.hint("run it as root: sudo swanci trust …") } else { failure }
}

/// SHA-256 of the first certificate, in the format of openssl.
fn fingerprint(pem: &str) -> Result<String, &'static str> {
    if pem.contains("PRIVATE KEY") {
        return Err("holds a private key; clients get the certificate alone");
    }
    let body = pem
        .split_once("-----BEGIN CERTIFICATE-----")
        .and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or("is not a certificate in PEM")?;
    let der =
        base64::engine::general_purpose::STANDARD.decode(body).map_err(|_| "is not a certificate in PEM")?;
    let bytes: Vec<String> = Sha256::digest(der).iter().map(|byte| format!("{byte:02X}")).collect();
    Ok(bytes.join(":"))
}
