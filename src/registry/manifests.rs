//! Reading and writing manifests, and the labels of the images that they name.

use ureq::http::header;

use crate::model::{Digest, ImageName};

use super::client::{Answer, Redirects, Request};
use super::error::RegistryError;
use super::manifest::{
    Contents, Descriptor, ImageConfig, MAX_BYTES, MEDIA_TYPES, Manifest, Reference, digest_of, image_config,
};
use super::token::Scope;
use super::{Registry, repository_path};

/// docker's first format, as registry 2.8 still hands it out.
const SIGNED_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

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
        if let Reference::Digest(_) = reference {
            request.redirects = Redirects::Anywhere;
        }
        request
    }

    /// What a tag or digest names now, without its bytes; `None` when it names nothing.
    pub fn head_manifest<'a>(
        &self,
        repository: &ImageName,
        reference: impl Into<Reference<'a>>,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let reference = reference.into();
        let request = self.manifest_request(repository, reference, "asking for").method("HEAD");
        let answer = match self.send(&request) {
            // Not every registry knows HEAD.
            Ok(answer) if matches!(answer.status, 405 | 501) => None,
            Err(RegistryError::Server { status: 501, .. }) => None,
            answer => match self.present_manifest(repository, reference, answer)? {
                None => return Ok(None),
                Some(answer) => content_digest(&answer).map(|digest| (answer, digest)),
            },
        };
        let Some((answer, digest)) = answer else {
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

    /// A manifest's bytes, whatever its type; `None` when the tag or digest names nothing. Its digest is computed from
    /// the bytes, and must be what the registry says and what was asked for.
    pub fn get_manifest<'a>(
        &self,
        repository: &ImageName,
        reference: impl Into<Reference<'a>>,
    ) -> Result<Option<Manifest>, RegistryError> {
        let reference = reference.into();
        let answer = self.send(&self.manifest_request(repository, reference, "reading"));
        let Some(answer) = self.present_manifest(repository, reference, answer)? else { return Ok(None) };
        let media_type = media_type(&answer);
        if answer.is_web_page() {
            return Err(answer.protocol("answers with a web page, not with a manifest"));
        }
        let (computed, said) = (digest_of(&answer.body), content_digest(&answer));
        let digest = match said {
            // The digest of docker's schema 1 leaves out the signatures that the bytes hold.
            Some(said) if media_type == SIGNED_SCHEMA_1 => said,
            Some(said) => {
                self.same(&answer, &said, &computed)?;
                computed
            }
            None => computed,
        };
        if let Reference::Digest(expected) = reference {
            self.same(&answer, expected, &digest)?;
        }
        let manifest = Manifest { bytes: answer.body, media_type, digest };
        self.shared.memory.keep_manifest(repository, &manifest);
        Ok(Some(manifest))
    }

    /// An answer about a manifest; `None` when there is none. Registries that do not tell who may know what exists
    /// refuse to answer instead of 404 (Quay, GitLab, Harbor, Artifactory, Nexus); others refuse to hand out an image
    /// that exists, because a scanner found something in it. The list of tags tells the two apart, so that a tag that is
    /// there never counts as absent.
    fn present_manifest(
        &self,
        repository: &ImageName,
        reference: Reference<'_>,
        answer: Result<Answer, RegistryError>,
    ) -> Result<Option<Answer>, RegistryError> {
        let refusal = match &answer {
            Ok(answer) if matches!(answer.status, 400 | 401 | 403) => Some((answer.status, answer.said())),
            Err(error) if error.is_refusal() => Some((403, error.to_string())),
            Ok(_) | Err(_) => None,
        };
        let present = self.present(answer)?;
        let (None, Some((status, said))) = (&present, refusal) else { return Ok(present) };
        let tags = self.list_tags(repository)?;
        let there = match reference {
            Reference::Tag(tag) => tags.contains(tag),
            Reference::Digest(_) => !tags.is_empty(),
        };
        if !there {
            return Ok(None);
        }
        Err(RegistryError::Rejected {
            host: self.shared.host.clone(),
            at: format!("reading the manifest {repository}, {reference}"),
            status,
            detail: format!("it is there, and may not be read: {said}"),
        })
    }

    /// The bytes of a manifest that was read before, under whatever name; asked for if it was not. They are for
    /// writing: a manifest that went away meanwhile is still remembered.
    pub fn recall_manifest(
        &self,
        repository: &ImageName,
        digest: &Digest,
    ) -> Result<Option<Manifest>, RegistryError> {
        match self.shared.memory.manifest(repository, digest) {
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
        if !matches!(answer.status, 200..=202) {
            let refused = matches!(answer.status, 400 | 415)
                && (answer.has_code("MANIFEST_INVALID")
                    || answer.has_code("UNSUPPORTED")
                    || answer.status == 415);
            if refused && manifest.media_type.starts_with("application/vnd.docker.") {
                let (host, at, detail) = (answer.host.clone(), answer.at.clone(), answer.said());
                return Err(RegistryError::OciOnly { host, at, detail });
            }
            return Err(answer.failure());
        }
        let found = match content_digest(&answer) {
            Some(said) => said,
            None => match self.head_manifest(repository, reference)? {
                Some(descriptor) => descriptor.digest,
                None => return Err(answer.protocol("took the manifest, and does not have it")),
            },
        };
        self.same(&answer, &manifest.digest, &found)?;
        Ok(found)
    }

    /// Labels, platform and config digest of an image; of an index, those of its first image (attestations are none).
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
            Contents::Image { config, .. } => {
                if config.size > MAX_BYTES {
                    return Err(RegistryError::TooLarge {
                        host: self.shared.host.clone(),
                        at: format!("reading the config {repository}@{}", config.digest),
                        limit: MAX_BYTES,
                    });
                }
                let bytes = match self.shared.memory.config(repository, &config.digest) {
                    Some(bytes) => bytes,
                    None => {
                        let bytes = self.read_blob(repository, &config.digest, "config")?;
                        self.shared.memory.keep_config(repository, &config.digest, &bytes);
                        bytes
                    }
                };
                image_config(config.digest, &bytes).map_err(wrong)
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

/// The digest that the registry says, if it is one that swanci knows.
fn content_digest(answer: &Answer) -> Option<Digest> {
    answer.header("docker-content-digest")?.trim().parse().ok()
}
