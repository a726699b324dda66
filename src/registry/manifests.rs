//! Reading and writing manifests, and the labels of the images that they name.

use ureq::http::header;

use crate::model::{Digest, ImageName};

use super::client::{Answer, Request};
use super::error::RegistryError;
use super::manifest::{
    Contents, Descriptor, ImageConfig, MAX_BYTES, MEDIA_TYPES, Manifest, Reference, digest_of, labels, shown,
};
use super::token::Scope;
use super::{Registry, repository_path};

/// An index in an index in an index is nobody's image.
const MAX_DEPTH: usize = 3;

impl Registry {
    fn manifest_request(&self, repository: &ImageName, reference: Reference<'_>, doing: &str) -> Request {
        let path = repository_path(&self.shared, repository);
        let separator = match reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        let at = format!("{doing} the manifest {repository}{separator}{reference}");
        let mut request = Request::get(format!("/v2/{path}/manifests/{reference}"), at, Scope::pull(&path));
        request.accept = Some(MEDIA_TYPES.join(", "));
        request
    }

    /// What a tag or digest names now, without its bytes; `None` when it names nothing.
    pub fn head_manifest<'a>(
        &self,
        repository: &ImageName,
        reference: impl Into<Reference<'a>>,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let reference = reference.into();
        let answer = self.send(&self.manifest_request(repository, reference, "asking for").method("HEAD"))?;
        match answer.status {
            200 => {}
            404 => return Ok(None),
            _ => return Err(answer.failure()),
        }
        let Some(digest) = content_digest(&answer)? else {
            // The header is optional in the spec: the bytes say it too.
            let manifest = self.get_manifest(repository, reference)?;
            return Ok(manifest.map(|m| Descriptor {
                digest: m.digest,
                media_type: m.media_type,
                size: m.bytes.len() as u64,
            }));
        };
        if let Reference::Digest(expected) = reference {
            self.same(&answer, expected, &digest)?;
        }
        let size = answer.header(header::CONTENT_LENGTH).and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok(Some(Descriptor { digest, media_type: media_type(&answer), size }))
    }

    /// A manifest's bytes; `None` when the tag or digest names nothing. Its digest is computed from the bytes, and
    /// must be what the registry says and what was asked for.
    pub fn get_manifest<'a>(
        &self,
        repository: &ImageName,
        reference: impl Into<Reference<'a>>,
    ) -> Result<Option<Manifest>, RegistryError> {
        let reference = reference.into();
        let answer = self.send(&self.manifest_request(repository, reference, "reading"))?;
        match answer.status {
            200 => {}
            404 => return Ok(None),
            _ => return Err(answer.failure()),
        }
        let found = digest_of(&answer.body);
        if let Some(said) = content_digest(&answer)? {
            self.same(&answer, &said, &found)?;
        }
        if let Reference::Digest(expected) = reference {
            self.same(&answer, expected, &found)?;
        }
        let media_type = media_type(&answer);
        if !MEDIA_TYPES.contains(&media_type.as_str()) {
            let what = shown(&media_type);
            return Err(answer.protocol(format!("its type `{what}` is not a manifest's that swanci reads")));
        }
        let manifest = Manifest { bytes: answer.body, media_type, digest: found };
        self.shared.remembered.keep_manifest(repository, &manifest);
        Ok(Some(manifest))
    }

    /// The bytes of a manifest that was read before, under whatever name; asked for if it was not. They are for
    /// writing: a manifest that went away meanwhile is still remembered.
    pub fn recall_manifest(
        &self,
        repository: &ImageName,
        digest: &Digest,
    ) -> Result<Option<Manifest>, RegistryError> {
        match self.shared.remembered.manifest(repository, digest) {
            Some(manifest) => Ok(Some(manifest)),
            None => self.get_manifest(repository, digest),
        }
    }

    /// Writes a manifest's bytes under a tag (or its digest) and returns the digest, which the registry has to confirm.
    /// Everything that the manifest refers to must be in the repository already.
    pub fn put_manifest<'a>(
        &self,
        repository: &ImageName,
        reference: impl Into<Reference<'a>>,
        manifest: &Manifest,
    ) -> Result<Digest, RegistryError> {
        let reference = reference.into();
        let mut request = self.manifest_request(repository, reference, "writing").method("PUT");
        request.scope = Scope::push(&repository_path(&self.shared, repository));
        request.accept = None;
        request.content_type = Some(manifest.media_type.clone());
        request.body = manifest.bytes.clone();
        let answer = self.send(&request)?;
        if answer.status != 201 {
            return Err(answer.failure());
        }
        let found = match content_digest(&answer)? {
            Some(said) => said,
            None => match self.head_manifest(repository, reference)? {
                Some(descriptor) => descriptor.digest,
                None => return Err(answer.protocol("took the manifest, and does not have it")),
            },
        };
        self.same(&answer, &manifest.digest, &found)?;
        Ok(found)
    }

    /// The labels of an image, and its config's digest; of an index, those of its first image (attestations are none).
    pub fn image_labels(
        &self,
        repository: &ImageName,
        manifest: &Manifest,
    ) -> Result<ImageConfig, RegistryError> {
        self.labels_at_depth(repository, manifest, MAX_DEPTH)
    }

    fn labels_at_depth(
        &self,
        repository: &ImageName,
        manifest: &Manifest,
        depth: usize,
    ) -> Result<ImageConfig, RegistryError> {
        let wrong = |detail: String| self.wrong_manifest(repository, manifest, detail);
        match manifest.contents().map_err(wrong)? {
            Contents::Image { config } => {
                if config.size > MAX_BYTES {
                    return Err(RegistryError::TooLarge {
                        host: self.shared.host.clone(),
                        at: format!("reading the config {repository}@{}", config.digest),
                        limit: MAX_BYTES,
                    });
                }
                let bytes = match self.shared.remembered.config(&config.digest) {
                    Some(bytes) => bytes,
                    None => {
                        let bytes = self.read_blob(repository, &config.digest, "config")?;
                        self.shared.remembered.keep_config(&config.digest, &bytes);
                        bytes
                    }
                };
                Ok(ImageConfig { labels: labels(&bytes).map_err(wrong)?, digest: config.digest })
            }
            Contents::Index(entries) => {
                let first = entries.iter().find(|entry| entry.is_image());
                let first = first.ok_or_else(|| wrong("it lists no image".to_owned()))?;
                if depth == 0 {
                    return Err(wrong("its indexes are nested too deeply".to_owned()));
                }
                let inner = self.required_manifest(repository, &first.digest)?;
                self.labels_at_depth(repository, &inner, depth - 1)
            }
        }
    }

    /// A manifest that another one refers to.
    pub(super) fn required_manifest(
        &self,
        repository: &ImageName,
        digest: &Digest,
    ) -> Result<Manifest, RegistryError> {
        self.get_manifest(repository, digest)?.ok_or_else(|| RegistryError::NotFound {
            host: self.shared.host.clone(),
            at: format!("reading the manifest {repository}@{digest}"),
            detail: "an index refers to it, and the registry does not have it".to_owned(),
        })
    }

    /// An error about what stands in a manifest.
    pub(super) fn wrong_manifest(
        &self,
        repository: &ImageName,
        manifest: &Manifest,
        detail: String,
    ) -> RegistryError {
        RegistryError::Protocol {
            host: self.shared.host.clone(),
            at: format!("reading the manifest {repository}@{}", manifest.digest),
            detail,
        }
    }

    /// `Err` unless both digests are one.
    pub(super) fn same(
        &self,
        answer: &Answer,
        expected: &Digest,
        found: &Digest,
    ) -> Result<(), RegistryError> {
        if expected == found {
            return Ok(());
        }
        Err(RegistryError::DigestMismatch {
            host: self.shared.host.clone(),
            at: answer.at.clone(),
            expected: expected.clone(),
            found: found.clone(),
        })
    }
}

/// The type without parameters, as `application/json` of `application/json; charset=utf-8`.
fn media_type(answer: &Answer) -> String {
    let value = answer.header(header::CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

/// The digest that the registry says; a malformed one is an error.
fn content_digest(answer: &Answer) -> Result<Option<Digest>, RegistryError> {
    let value = answer.header("docker-content-digest");
    value.map(|v| v.parse().map_err(|e| answer.protocol(format!("Docker-Content-Digest: {e}")))).transpose()
}
