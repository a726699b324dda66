//! The environment of docker, its plugins and its credential helpers.
//!
//! They inherit swanci's: cloud logins (`AWS_*`, `AZURE_*`, `GOOGLE_*`, metadata addresses of ECS and EKS), password
//! stores, proxies, `DOCKER_HOST` and so on. Left out are:
//!
//! | variable | why |
//! |---|---|
//! | `SWANCI_*` | may be secret |
//! | `NOTIFY_SOCKET`, `WATCHDOG_*`, `LISTEN_*`, `CREDENTIALS_DIRECTORY` | systemd's, only for swanci |
//! | `DOCKER_DEFAULT_PLATFORM` | would change the platform; images.json names it |
//! | `DOCKER_BUILDKIT` | would choose the builder; swanci sets it itself |
//! | `DOCKER_CONTENT_TRUST*` | would sign pushes and ask for a passphrase |
//! | `BUILDX_*` except `BUILDX_CONFIG` | another builder (`build.builder` names it), labels from git, attestations, metadata |
//! | `BUILDKIT_*` except `BUILDKIT_HOST` | progress, colours |
//! | `EXPERIMENTAL_BUILDKIT_*` | a source policy would replace base images |
//! | `SOURCE_DATE_EPOCH` | buildx passes it to every build |
//! | `GIT_*` | buildx runs git in the context, and sends `GIT_AUTH_TOKEN` to the builder |
//!
//! `LC_ALL` is set so that messages are English, `DOCKER_CLI_HINTS` so that docker prints no advertisements.
//! `COMPOSE_*` and `OTEL_*` change neither a build nor a push, so they stay.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

const PREFIXES: &[&str] = &[
    "SWANCI_",
    "WATCHDOG_",
    "LISTEN_",
    "DOCKER_CONTENT_TRUST",
    "BUILDX_",
    "BUILDKIT_",
    "EXPERIMENTAL_BUILDKIT_",
    "GIT_",
];
const NAMES: &[&str] = &[
    "NOTIFY_SOCKET",
    "CREDENTIALS_DIRECTORY",
    "DOCKER_DEFAULT_PLATFORM",
    "DOCKER_BUILDKIT",
    "SOURCE_DATE_EPOCH",
];
/// In spite of their prefix: where docker builds.
const KEPT: &[&str] = &["BUILDX_CONFIG", "BUILDKIT_HOST"];

fn is_left_out(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let prefixed = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    (prefixed && !KEPT.contains(&&*name)) || NAMES.contains(&&*name)
}

pub(super) fn for_docker(own: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<OsString, OsString> {
    own.filter(|(name, _)| !is_left_out(name))
        .chain([("LC_ALL".into(), "C.UTF-8".into()), ("DOCKER_CLI_HINTS".into(), "false".into())])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_inherits_everything_except_secrets_and_what_changes_a_build() {
        let kept = [
            "PATH",
            "HOME",
            "AWS_ROLE_ARN",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AZURE_CLIENT_ID",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "VAULT_ADDR",
            "PASSWORD_STORE_DIR",
            "DOCKER_HOST",
            "DOCKER_CONFIG",
            "DOCKER_AUTH_CONFIG",
            "BUILDX_CONFIG",
            "BUILDKIT_HOST",
            "https_proxy",
            "GITHUB_ACTIONS",
        ];
        let left_out = [
            "SWANCI_SECRET",
            "SWANCI_GIT_TOKEN",
            "SWANCI_ANYTHING",
            "DOCKER_DEFAULT_PLATFORM",
            "DOCKER_BUILDKIT",
            "DOCKER_CONTENT_TRUST",
            "DOCKER_CONTENT_TRUST_SERVER",
            "BUILDX_BUILDER",
            "BUILDX_GIT_LABELS",
            "BUILDX_NO_DEFAULT_ATTESTATIONS",
            "BUILDKIT_PROGRESS",
            "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY",
            "SOURCE_DATE_EPOCH",
            "GIT_DIR",
            "GIT_AUTH_TOKEN",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "CREDENTIALS_DIRECTORY",
        ];
        let own = kept.iter().chain(&left_out).map(|name| (OsString::from(name), OsString::from("x")));
        let given = for_docker(own);
        for name in kept {
            assert!(given.contains_key(OsStr::new(name)), "{name}");
        }
        for name in left_out {
            assert!(!given.contains_key(OsStr::new(name)), "{name}");
        }
        assert_eq!(given[OsStr::new("LC_ALL")], "C.UTF-8");
    }
}
