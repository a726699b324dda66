//! Reads and writes manifests, and reads the labels of their images.

use ureq::http::header;

use crate::model::{Digest, ImageName};

use super::answer::Answer;
use super::client::Request;
use super::error::{RegistryError, RegistryErrorKind as Kind};
use super::manifest::{
    Content, Contents, Descriptor, ImageConfig, MAX_BYTES, MEDIA_TYPES, Manifest, Reference, image_config,
};
use super::token::Scope;
use super::{Registry, repository_path};

/// docker's first format, which registry 2.8 still serves.
const SIGNED_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Of indexes within indexes.
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
        request.has_digest = matches!(reference, Reference::Digest(_));
        request
    }

    /// The manifest behind a tag or digest, without its bytes; `None` when there is none.
    pub fn head_manifest<'a>(
        &self,
        repository: &ImageName,
        reference: impl Into<Reference<'a>>,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let reference = reference.into();
        let request = self.manifest_request(repository, reference, "asking for").method("HEAD");
        let answer = match self.send(&request) {
            // Not every registry supports HEAD.
            Ok(answer) if matches!(answer.status, 405 | 501) => None,
            Err(RegistryError { kind: Kind::Server { status: 501, .. }, .. }) => None,
            answer => match self.present_manifest(repository, reference, answer)? {
                None => return Ok(None),
                Some(answer) => content_digest(&answer).map(|digest| (answer, digest)),
            },
        };
        let Some((answer, digest)) = answer else {
            // The digest header is optional in the spec.
            let manifest = self.get_manifest(repository, reference)?;
            return Ok(manifest.map(|m| Descriptor {
                digest: m.digest,
                media_type: m.media_type,
                size: m.bytes.len() as u64,
            }));
        };
        if let Reference::Digest(expected) = reference {
            answer.same(expected, &digest)?;
        }
        let size = answer.header(header::CONTENT_LENGTH).and_then(|v| v.parse().ok()).unwrap_or(0);
        Ok(Some(Descriptor { digest, media_type: media_type(&answer), size }))
    }

    /// A manifest's bytes, of any type; `None` when there is none. The digest of the bytes must be the one that the
    /// registry says and the one that was asked for.
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
        let (computed, said) = (Digest::of(&answer.body), content_digest(&answer));
        let digest = match said {
            // In docker's schema 1 the digest does not cover the signatures.
            Some(said) if media_type == SIGNED_SCHEMA_1 => said,
            Some(said) => {
                answer.same(&said, &computed)?;
                computed
            }
            None => computed,
        };
        if let Reference::Digest(expected) = reference {
            answer.same(expected, &digest)?;
        }
        let manifest = Manifest { bytes: answer.http.body, media_type, digest };
        self.shared.memory.put(repository, Content::Manifest(manifest.digest.clone()), &manifest);
        Ok(Some(manifest))
    }

    /// An answer about a manifest; `None` when there is none. Some registries deny access instead of answering 404 (Quay,
    /// GitLab, Harbor, Artifactory, Nexus); others deny access to an image that exists, because a scanner found something
    /// in it. The list of tags tells the two apart, so that an existing tag never counts as absent.
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
        let at = format!("reading the manifest {repository}, {reference}");
        let detail = format!("status {status}: it exists, but reading it is denied: {said}");
        Err(self.error(Kind::Rejected { status }, &at, &detail))
    }

    /// A manifest from memory, or from the registry if it was not read before. For writing: a manifest that was deleted
    /// meanwhile is still in memory.
    pub fn recall_manifest(
        &self,
        repository: &ImageName,
        digest: &Digest,
    ) -> Result<Option<Manifest>, RegistryError> {
        match self.shared.memory.get(repository, Content::Manifest(digest.clone())) {
            Some(manifest) => Ok(Some(manifest)),
            None => self.get_manifest(repository, digest),
        }
    }

    /// Writes a manifest under a tag (or its digest) and returns the digest that the registry confirms. The content that
    /// the manifest refers to must be in the repository already.
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
                let detail = format!("the manifest is refused: {}", answer.said());
                return Err(answer.error(Kind::OciOnly, &detail));
            }
            return Err(answer.failure());
        }
        let found = match content_digest(&answer) {
            Some(said) => said,
            None => match self.head_manifest(repository, reference)? {
                Some(descriptor) => descriptor.digest,
                None => return Err(answer.protocol("accepted the manifest, but does not have it")),
            },
        };
        answer.same(&manifest.digest, &found)?;
        Ok(found)
    }

    /// Labels, platform and config digest of an image; for an index, of its first image that is not an attestation.
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
        let wrong = |detail: String| {
            let at = format!("reading the manifest {repository}@{}", manifest.digest);
            self.error(Kind::Protocol, &at, &detail)
        };
        match manifest.contents().map_err(wrong)? {
            Contents::Image { config, .. } => {
                if config.size > MAX_BYTES {
                    let at = format!("reading the config {repository}@{}", config.digest);
                    let detail = format!("the answer is larger than {MAX_BYTES} bytes");
                    return Err(self.error(Kind::Protocol, &at, &detail));
                }
                let key = || Content::Blob(config.digest.clone());
                let blob = match self.shared.memory.get(repository, key()) {
                    Some(blob) => blob,
                    None => {
                        let bytes = self.read_blob(repository, &config.digest, "config")?;
                        let blob =
                            Manifest { bytes, media_type: String::new(), digest: config.digest.clone() };
                        self.shared.memory.put(repository, key(), &blob);
                        blob
                    }
                };
                image_config(config.digest, &blob.bytes).map_err(wrong)
            }
            Contents::Index(entries) => {
                let first = entries.iter().find(|entry| entry.is_image());
                let first = first.ok_or_else(|| wrong("it lists no image".to_owned()))?;
                if depth == 0 {
                    return Err(wrong("its indexes are nested too deeply".to_owned()));
                }
                let inner = self.get_manifest(repository, &first.digest)?.ok_or_else(|| {
                    let at = format!("reading the manifest {repository}@{}", first.digest);
                    let detail = "not found: an index refers to it, but the registry does not have it";
                    self.error(Kind::Rejected { status: 404 }, &at, detail)
                })?;
                self.labels_at_depth(repository, &inner, depth - 1)
            }
        }
    }
}

/// The type without parameters, as `application/json` of `application/json; charset=utf-8`.
fn media_type(answer: &Answer) -> String {
    let value = answer.header(header::CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

/// The digest that the registry says, if swanci supports its algorithm.
fn content_digest(answer: &Answer) -> Option<Digest> {
    answer.header("docker-content-digest")?.trim().parse().ok()
}
