//! Reads and writes manifests, lists tags, and reads the labels of images.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use ureq::http::header;

use crate::http::next_link;
use crate::model::{Digest, ImageName, Tag};

use super::Registry;
use super::answer::Reply;
use super::auth;
use super::client::Request;
use super::error::{RegistryError, RegistryErrorKind as Kind};
use super::manifest::{Entry, MAX_BYTES, MEDIA_TYPES, Manifest, labels_of};

/// docker's first format, which registry 2.8 still serves.
const SIGNED_SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Of indexes within indexes.
const MAX_DEPTH: usize = 3;

/// Tags in a page; registries may send fewer, and some refuse this number.
const PAGE: usize = 1000;
/// Of all pages: about 700,000 `sha-` tags. Registry 2.8 sends one page of any length.
const MAX_LIST_BYTES: u64 = 32 * 1024 * 1024;
const MAX_PAGES: usize = 1000;

impl Registry {
    fn manifest_request(&self, repository: &ImageName, reference: &str, doing: &str) -> Request {
        let path = self.path_of(repository);
        let has_digest = digest_in(reference).is_some();
        let at =
            format!("{doing} the manifest {repository}{}{reference}", if has_digest { '@' } else { ':' });
        Request {
            headers: vec![(header::ACCEPT, MEDIA_TYPES.join(", "))],
            has_digest,
            ..Request::new("GET", format!("/v2/{path}/manifests/{reference}"), at, auth::pull(&path))
        }
    }

    /// The digest of the manifest behind a tag or digest; `None` when there is none.
    pub fn head_manifest(
        &self,
        repository: &ImageName,
        reference: &dyn fmt::Display,
    ) -> Result<Option<Digest>, RegistryError> {
        let reference = &reference.to_string();
        let mut request = self.manifest_request(repository, reference, "asking for");
        request.method = "HEAD";
        let found = match self.send(&request) {
            // Not every registry supports HEAD.
            Ok(answer) if matches!(answer.status, 405 | 501) => None,
            Err(RegistryError { kind: Kind::Server { status: 501, .. }, .. }) => None,
            answer => match self.present_manifest(repository, reference, answer)? {
                None => return Ok(None),
                Some(answer) => content_digest(&answer).map(|digest| (answer, digest)),
            },
        };
        // The digest header is optional in the spec.
        let Some((answer, digest)) = found else {
            return Ok(self.get_manifest(repository, reference)?.map(|manifest| manifest.digest));
        };
        if let Some(expected) = digest_in(reference) {
            answer.same(&expected, &digest)?;
        }
        Ok(Some(digest))
    }

    /// A manifest's bytes, of any type; `None` when there is none. The digest of the bytes must be the one that the
    /// registry reports and the requested one.
    pub fn get_manifest(
        &self,
        repository: &ImageName,
        reference: &dyn fmt::Display,
    ) -> Result<Option<Manifest>, RegistryError> {
        let reference = &reference.to_string();
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
        if let Some(expected) = digest_in(reference) {
            answer.same(&expected, &digest)?;
        }
        Ok(Some(Manifest { bytes: answer.body, media_type, digest }))
    }

    /// An answer about a manifest; `None` when there is none. Some registries deny access instead of answering 404 (Quay,
    /// GitLab, Harbor, Artifactory, Nexus); others deny access to an image that exists, because a scanner found something
    /// in it. The list of tags tells the two apart, so that an existing tag never counts as absent.
    fn present_manifest(
        &self,
        repository: &ImageName,
        reference: &str,
        answer: Result<Reply, RegistryError>,
    ) -> Result<Option<Reply>, RegistryError> {
        let refusal = match &answer {
            Ok(answer) if matches!(answer.status, 400 | 401 | 403) => Some((answer.status, answer.message())),
            Err(error) if error.is_refusal() => Some((403, error.to_string())),
            Ok(_) | Err(_) => None,
        };
        let present = self.present(answer)?;
        let (None, Some((status, said))) = (&present, refusal) else { return Ok(present) };
        let tags = self.list_tags(repository)?;
        let is_there = |tag: &Tag| digest_in(reference).is_some() || tag.as_str() == reference;
        if !tags.iter().any(is_there) {
            return Ok(None);
        }
        let at = format!("reading the manifest {repository}, {reference}");
        let detail = format!("status {status}: it exists, but reading it is denied: {said}");
        Err(self.error(Kind::Rejected { status }, &at, &detail))
    }

    /// Writes a manifest under a tag (or its digest) and returns the digest that the registry confirms. The content that
    /// the manifest refers to must be in the repository already.
    pub fn put_manifest(
        &self,
        repository: &ImageName,
        reference: &dyn fmt::Display,
        manifest: &Manifest,
    ) -> Result<Digest, RegistryError> {
        let reference = &reference.to_string();
        let answer = self.send(&Request {
            method: "PUT",
            scope: auth::push(&self.path_of(repository)),
            headers: vec![(header::CONTENT_TYPE, manifest.media_type.clone())],
            body: manifest.bytes.clone(),
            ..self.manifest_request(repository, reference, "writing")
        })?;
        if !matches!(answer.status, 200..=202) {
            let refused = matches!(answer.status, 400 | 415)
                && (answer.has_code("MANIFEST_INVALID")
                    || answer.has_code("UNSUPPORTED")
                    || answer.status == 415);
            if refused && manifest.media_type.starts_with("application/vnd.docker.") {
                let detail = format!("the manifest is refused: {}", answer.message());
                return Err(answer.error(Kind::OciOnly, &detail));
            }
            return Err(answer.failure());
        }
        let found = match content_digest(&answer) {
            Some(said) => said,
            None => match self.head_manifest(repository, reference)? {
                Some(digest) => digest,
                None => return Err(answer.protocol("accepted the manifest, but does not have it")),
            },
        };
        answer.same(&manifest.digest, &found)?;
        Ok(found)
    }

    /// The labels of an image; for an index, of its first image that is not an attestation.
    pub fn image_labels(
        &self,
        repository: &ImageName,
        manifest: &Manifest,
    ) -> Result<BTreeMap<String, String>, RegistryError> {
        let mut manifest = manifest.clone();
        for _ in 0..=MAX_DEPTH {
            let at = format!("reading the manifest {repository}@{}", manifest.digest);
            let wrong = |detail: String| self.error(Kind::Protocol, &at, &detail);
            let contents = manifest.contents().map_err(wrong)?;
            if let Some(config) = contents.config {
                return labels_of(&self.read_config(repository, &config)?).map_err(wrong);
            }
            let first = contents.manifests.unwrap_or_default().into_iter().find(Entry::is_image);
            let first = first.ok_or_else(|| wrong("it lists no image".to_owned()))?.digest;
            manifest = self.get_manifest(repository, &first)?.ok_or_else(|| {
                let at = format!("reading the manifest {repository}@{first}");
                let detail = "not found: an index refers to it, but the registry does not have it";
                self.error(Kind::Rejected { status: 404 }, &at, detail)
            })?;
        }
        let at = format!("reading the manifest {repository}@{}", manifest.digest);
        Err(self.error(Kind::Protocol, &at, "its indexes are nested too deeply"))
    }

    fn read_config(&self, repository: &ImageName, config: &Entry) -> Result<Vec<u8>, RegistryError> {
        let request = self.blob_request(repository, &config.digest, "reading the config");
        if config.size > MAX_BYTES {
            let detail = format!("the answer is larger than {MAX_BYTES} bytes");
            return Err(self.error(Kind::Protocol, &request.at, &detail));
        }
        let answer = self.send(&request)?;
        if answer.status != 200 {
            return Err(answer.failure());
        }
        answer.same(&config.digest, &Digest::of(&answer.body))?;
        Ok(answer.body)
    }

    /// All tags of a repository, in the registry's order; none when it does not exist. Invalid names are left out.
    pub fn list_tags(&self, repository: &ImageName) -> Result<Vec<Tag>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            /// `null` in a repository without tags (registry 2.8).
            tags: Option<Vec<String>>,
        }
        let path = self.path_of(repository);
        let list = format!("/v2/{path}/tags/list");
        let at = format!("listing the tags of {repository}");
        let mut request = Request::new("GET", format!("{list}?n={PAGE}"), at, auth::pull(&path));
        request.limit = MAX_LIST_BYTES;
        let (mut tags, mut seen) = (Vec::new(), BTreeSet::new());
        while seen.len() < MAX_PAGES {
            seen.insert(request.path.clone());
            let mut answer = self.send(&request);
            // The registry may have refused the page size (registry 3: `PAGINATION_NUMBER_INVALID`).
            if seen.len() == 1 && answer.as_ref().is_ok_and(|a| matches!(a.status, 400 | 405..=428)) {
                request.path.clone_from(&list);
                answer = self.send(&request);
            }
            let Some(answer) = self.present(answer)? else { return Ok(tags) };
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|e| answer.protocol(&format!("its list of tags cannot be read: {e}")))?;
            request.limit = request.limit.saturating_sub(answer.body.len() as u64);
            tags.extend(page.tags.unwrap_or_default().into_iter().filter_map(|tag| Tag::try_from(tag).ok()));
            let links = answer.headers.get_all(header::LINK);
            let next = links.iter().find_map(|link| next_link(link.to_str().ok()?));
            // Only the path is used: the host may be wrong behind a proxy. A relative link is relative to this page.
            let here = self.shared.base.join(&request.path).ok();
            let Some(next) = next.and_then(|target| here?.join(target).ok()) else { return Ok(tags) };
            request.path = next[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
            if seen.contains(&request.path) {
                return Err(answer.protocol("its list of tags goes in a circle"));
            }
        }
        let detail = format!("its list of tags does not end after {MAX_PAGES} pages");
        Err(self.error(Kind::Protocol, &request.at, &detail))
    }
}

/// The digest in a reference, which is a digest or a tag.
fn digest_in(reference: &str) -> Option<Digest> {
    reference.parse().ok()
}

/// The type without parameters, as `application/json` of `application/json; charset=utf-8`.
fn media_type(answer: &Reply) -> String {
    let value = answer.header(header::CONTENT_TYPE).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_owned()
}

/// The digest in the registry's answer, if swanci supports its algorithm.
fn content_digest(answer: &Reply) -> Option<Digest> {
    answer.header("docker-content-digest")?.trim().parse().ok()
}
