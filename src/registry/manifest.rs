//! Parses manifests and configs.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::http::shown;
use crate::model::Digest;

/// Of a manifest or a config blob (OCI distribution spec 1.1, pushing manifests: 4 MiB).
pub(super) const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Sent in `Accept`: without it registry 2.8 converts a manifest, which changes its digest.
pub(super) const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
];

/// The exact bytes of a manifest: writing them under another tag keeps the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub bytes: Vec<u8>,
    pub media_type: String,
    /// SHA-256 of the bytes.
    pub digest: Digest,
}

/// What a manifest refers to in its own repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Content {
    Manifest(Digest),
    Blob(Digest),
}

impl Manifest {
    pub fn new(bytes: Vec<u8>, media_type: impl Into<String>) -> Manifest {
        Manifest { digest: Digest::of(&bytes), bytes, media_type: media_type.into() }
    }

    /// An OCI index or docker's manifest list.
    pub fn is_index(&self) -> bool {
        self.media_type == MEDIA_TYPES[1] || self.media_type == MEDIA_TYPES[3]
    }

    /// Whether an engine gives this image the id `id`: the digest of the config, or, with a containerd store, of the
    /// manifest.
    pub fn is_of_image(&self, id: &Digest) -> bool {
        let config = self.contents().ok().and_then(|contents| contents.config);
        self.digest == *id || config.is_some_and(|config| config.digest == *id)
    }

    /// The content that it needs; nothing for a manifest that cannot be read.
    pub(crate) fn references(&self) -> Vec<Content> {
        let Ok(Contents { config, layers, manifests, .. }) = self.contents() else { return Vec::new() };
        let layers = layers.unwrap_or_default().into_iter().filter(|layer| !layer.is_elsewhere());
        let blobs = config.into_iter().chain(layers).map(|entry| Content::Blob(entry.digest));
        let manifests =
            manifests.unwrap_or_default().into_iter().map(|entry| Content::Manifest(entry.digest));
        blobs.chain(manifests).collect()
    }

    /// An image's have a config, an index's have not.
    pub(super) fn contents(&self) -> Result<Contents, String> {
        if !MEDIA_TYPES.contains(&self.media_type.as_str()) {
            let media_type = shown(&self.media_type);
            return Err(format!("its type `{media_type}` is not a manifest type that swanci reads"));
        }
        let contents: Contents =
            serde_json::from_slice(&self.bytes).map_err(|e| format!("it is not a manifest: {e}"))?;
        // One document must not be two things to two readers (CVE-2021-41190).
        if contents.media_type.as_deref().is_some_and(|own| own != self.media_type) {
            return Err("its own media type differs from the registry's".to_owned());
        }
        let is_image = contents.config.is_some();
        let is_both = match self.is_index() {
            true => is_image || contents.layers.is_some(),
            false => is_image && contents.manifests.is_some(),
        };
        if is_both {
            return Err("it is an index and an image at once".to_owned());
        }
        if !self.is_index() && !is_image {
            return Err("it has no config".to_owned());
        }
        Ok(contents)
    }
}

/// What a manifest consists of (OCI image spec, manifest and index).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Contents {
    media_type: Option<String>,
    pub(super) config: Option<Entry>,
    layers: Option<Vec<Entry>>,
    pub(super) manifests: Option<Vec<Entry>>,
}

/// A descriptor inside a manifest (OCI image spec, descriptor).
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    pub(super) digest: Digest,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default, rename = "mediaType")]
    media_type: String,
    #[serde(default)]
    platform: Value,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Entry {
    /// `false` for BuildKit's attestations (platform unknown/unknown).
    pub(super) fn is_image(&self) -> bool {
        !self.annotations.contains_key("vnd.docker.reference.type")
            && (self.platform["os"] != "unknown" || self.platform["architecture"] != "unknown")
    }

    /// Whether the registry need not hold it (docker's foreign, OCI's non-distributable layers).
    fn is_elsewhere(&self) -> bool {
        self.media_type.contains(".foreign.") || self.media_type.contains(".nondistributable.")
    }
}

/// The labels in a config blob (OCI image spec, config); none in a config of another kind.
pub(super) fn labels_of(config: &[u8]) -> Result<BTreeMap<String, String>, String> {
    let labels = |mut config: Value| {
        Option::deserialize(config.pointer_mut("/config/Labels").map(Value::take).unwrap_or_default())
    };
    let labels = serde_json::from_slice(config).and_then(labels);
    Ok(labels.map_err(|e| format!("the image's config cannot be read: {e}"))?.unwrap_or_default())
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
    fn a_manifest_whose_own_type_differs_is_refused() {
        let bytes =
            format!(r#"{{"mediaType":"{}","config":{{"digest":"{D}"}}}}"#, MEDIA_TYPES[0]).into_bytes();
        assert!(Manifest::new(bytes.clone(), MEDIA_TYPES[0]).contents().is_ok());
        assert!(Manifest::new(bytes.clone(), MEDIA_TYPES[2]).contents().is_err());
        assert!(Manifest::new(bytes, "text/html").contents().is_err());
    }

    #[test]
    fn attestations_are_not_images() {
        let entry = |rest: &str| {
            serde_json::from_str::<Entry>(&format!(r#"{{"digest":"{D}"{rest}}}"#)).unwrap().is_image()
        };
        assert!(entry(""));
        assert!(entry(r#","platform":{"os":"linux","architecture":"amd64"}"#));
        assert!(!entry(r#","platform":{"os":"unknown","architecture":"unknown"}"#));
        assert!(!entry(r#","annotations":{"vnd.docker.reference.type":"attestation-manifest"}"#));
    }

    #[test]
    fn labels_may_be_absent() {
        let read = |text: &str| labels_of(text.as_bytes());
        assert_eq!(read(r#"{"config":{"Labels":{"a":"b"}},"os":"linux"}"#).unwrap()["a"], "b");
        for empty in [
            "{}",
            r#"{"config":{}}"#,
            r#"{"config":{"Labels":null}}"#,
            r#"{"config":null}"#,
            r#"{"config":1}"#,
        ] {
            assert!(read(empty).unwrap().is_empty(), "{empty}");
        }
        for broken in ["[", "", "<html>", r#"{"config":{"Labels":[]}}"#] {
            assert!(read(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_manifest_refers_to_its_config_and_its_distributable_layers() {
        let digest = |c: &str| format!("sha256:{}", c.repeat(64));
        let (a, b, c) = (digest("a"), digest("b"), digest("c"));
        let text = format!(
            r#"{{"config":{{"digest":"{a}"}},"layers":[{{"digest":"{b}","mediaType":"{LAYER}"}},{{"digest":"{c}","mediaType":"{FOREIGN}"}}]}}"#
        );
        let manifest = Manifest::new(text.into_bytes(), MEDIA_TYPES[0]);
        assert_eq!(manifest.references(), [&a, &b].map(|d| Content::Blob(d.parse().unwrap())));
        let index = format!(r#"{{"manifests":[{{"digest":"{c}"}}]}}"#);
        let index = Manifest::new(index.into_bytes(), MEDIA_TYPES[3]);
        assert_eq!(index.references(), [Content::Manifest(c.parse().unwrap())]);
        assert!(Manifest::new(b"[".to_vec(), MEDIA_TYPES[0]).references().is_empty());
    }

    const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
}
