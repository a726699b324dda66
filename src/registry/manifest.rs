//! Manifests as bytes with a type and a digest, and what is read out of them. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::model::{Digest, Tag};

/// A manifest or a config blob larger than this is not read (OCI distribution spec 1.1, pushing manifests: 4 MiB).
pub(super) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// The types that swanci reads and asks for: without them registry 2.8 converts, and answers with another digest.
pub(super) const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
];

/// Names a manifest in its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reference<'a> {
    /// By a name that may move.
    Tag(&'a Tag),
    /// By its content.
    Digest(&'a Digest),
}

impl fmt::Display for Reference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

impl<'a> From<&'a Tag> for Reference<'a> {
    fn from(tag: &'a Tag) -> Reference<'a> {
        Reference::Tag(tag)
    }
}

impl<'a> From<&'a Digest> for Reference<'a> {
    fn from(digest: &'a Digest) -> Reference<'a> {
        Reference::Digest(digest)
    }
}

/// What a registry says about a manifest without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
}

/// A manifest exactly as the registry holds it: writing these bytes under another tag keeps the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// One of docker's or OCI's manifest and index types.
    pub media_type: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
}

/// The part of an image's config that swanci reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// The config blob's digest: what docker calls the image's id.
    pub digest: Digest,
    /// The image's labels.
    pub labels: BTreeMap<String, String>,
}

/// SHA-256 of bytes as a digest.
pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    #[expect(clippy::expect_used, reason = "64 lower-case hex digits are a digest by construction")]
    text.parse().expect("a digest")
}

impl Manifest {
    /// A manifest of these bytes; the digest is computed from them.
    pub fn new(bytes: Vec<u8>, media_type: impl Into<String>) -> Manifest {
        Manifest { digest: digest_of(&bytes), bytes, media_type: media_type.into() }
    }

    /// Whether it lists manifests (an index, docker's manifest list) instead of being one image's.
    pub fn is_index(&self) -> bool {
        self.media_type == MEDIA_TYPES[1] || self.media_type == MEDIA_TYPES[3]
    }

    /// Whether it is the manifest of the image that an engine knows by this Id: the digest of the image's config, or, in
    /// a containerd store, the manifest's own.
    pub fn is_of_image(&self, id: &Digest) -> bool {
        self.digest == *id
            || matches!(self.contents(), Ok(Contents::Image { config }) if config.digest == *id)
    }

    /// What it refers to, or why that cannot be read.
    pub(super) fn contents(&self) -> Result<Contents, String> {
        if !MEDIA_TYPES.contains(&self.media_type.as_str()) {
            return Err(format!(
                "its type `{}` is not a manifest's that swanci reads",
                shown(&self.media_type)
            ));
        }
        let wire: Wire =
            serde_json::from_slice(&self.bytes).map_err(|e| format!("it is no manifest: {e}"))?;
        // One document must not be two things to two readers (CVE-2021-41190).
        if wire.media_type.as_deref().is_some_and(|own| own != self.media_type) {
            return Err("it calls itself by another media type than the registry does".to_owned());
        }
        if self.is_index() {
            if wire.config.is_some() || wire.layers.is_some() {
                return Err("it is an index and an image at once".to_owned());
            }
            return Ok(Contents::Index(wire.manifests.unwrap_or_default()));
        }
        match (wire.config, wire.manifests) {
            (Some(config), None) => Ok(Contents::Image { config }),
            (None, _) => Err("it has no config".to_owned()),
            (Some(_), Some(_)) => Err("it is an index and an image at once".to_owned()),
        }
    }
}

/// What a manifest refers to.
#[derive(Debug)]
pub(super) enum Contents {
    /// One image, by its config.
    Image { config: Entry },
    /// Several manifests.
    Index(Vec<Entry>),
}

/// A descriptor inside a manifest (OCI image spec, descriptor).
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    /// The content's digest.
    pub(super) digest: Digest,
    /// The content's length.
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    media_type: Option<String>,
    config: Option<Entry>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<Vec<Entry>>,
}

impl Entry {
    /// Whether this is something that runs, and not BuildKit's attestation beside it (platform unknown/unknown).
    pub(super) fn is_image(&self) -> bool {
        !self.annotations.contains_key("vnd.docker.reference.type")
            && self.platform.as_ref().is_none_or(|p| p.os != "unknown" || p.architecture != "unknown")
    }
}

/// The labels in a config blob (OCI image spec, config: `config.Labels`); none for a config of another kind.
pub(super) fn labels(config: &[u8]) -> Result<BTreeMap<String, String>, String> {
    #[derive(Deserialize)]
    struct Config {
        config: Option<Inner>,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "Labels")]
        labels: Option<BTreeMap<String, String>>,
    }
    let config: Config =
        serde_json::from_slice(config).map_err(|e| format!("the image's config cannot be read: {e}"))?;
    Ok(config.config.and_then(|inner| inner.labels).unwrap_or_default())
}

/// What a server said, made safe for a terminal and short.
pub(super) fn shown(text: &str) -> String {
    let mut safe: String = text.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > 200 {
        safe.push('…');
    }
    safe.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn one_document_cannot_be_an_index_and_an_image() {
        let both = format!(r#"{{"config":{{"digest":"{D}"}},"manifests":[]}}"#);
        for media_type in MEDIA_TYPES {
            assert!(Manifest::new(both.clone().into_bytes(), media_type).contents().is_err());
        }
    }

    #[test]
    fn a_manifest_that_calls_itself_something_else_is_refused() {
        let bytes =
            format!(r#"{{"mediaType":"{}","config":{{"digest":"{D}"}}}}"#, MEDIA_TYPES[0]).into_bytes();
        assert!(Manifest::new(bytes.clone(), MEDIA_TYPES[0]).contents().is_ok());
        assert!(Manifest::new(bytes.clone(), MEDIA_TYPES[2]).contents().is_err());
        assert!(Manifest::new(bytes, "text/html").contents().is_err());
    }

    #[test]
    fn attestations_are_no_images() {
        let entry = |rest: &str| {
            serde_json::from_str::<Entry>(&format!(r#"{{"digest":"{D}"{rest}}}"#)).unwrap().is_image()
        };
        assert!(entry(""));
        assert!(entry(r#","platform":{"os":"linux","architecture":"amd64"}"#));
        assert!(!entry(r#","platform":{"os":"unknown","architecture":"unknown"}"#));
        assert!(!entry(r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#));
    }

    #[test]
    fn labels_are_read_and_their_absence_is_no_error() {
        assert_eq!(labels(br#"{"config":{"Labels":{"a":"b"}}}"#).unwrap()["a"], "b");
        for empty in ["{}", r#"{"config":{}}"#, r#"{"config":{"Labels":null}}"#, r#"{"config":null}"#] {
            assert!(labels(empty.as_bytes()).unwrap().is_empty());
        }
        assert!(labels(b"[").is_err());
    }
}
