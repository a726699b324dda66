//! Blobs: reading a config, and moving what one repository holds into another without uploading it.

use ureq::http::header;

use crate::model::{Digest, ImageName};

use super::client::{Answer, Request};
use super::error::RegistryError;
use super::manifest::{Contents, Manifest, Reference, digest_of};
use super::token::Scope;
use super::{Registry, repository_path};

/// Whether a manifest could be brought into another repository without moving layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Copied {
    /// It stands there now, under this digest.
    Done(Digest),
    /// The registry would not mount this blob: it has to be pushed.
    NotMounted(Digest),
}

impl Registry {
    /// Whether a repository holds a blob.
    pub fn blob_exists(&self, repository: &ImageName, digest: &Digest) -> Result<bool, RegistryError> {
        let answer =
            self.send(&self.blob_request(repository, digest, "asking for", "blob").method("HEAD"))?;
        match answer.status {
            200 => Ok(true),
            404 => Ok(false),
            _ => Err(answer.failure()),
        }
    }

    /// Makes a blob of one repository known in another (OCI distribution spec, mounting a blob); `false` when the
    /// registry would rather have it uploaded, as when it does not have it either.
    pub fn mount_blob(
        &self,
        from: &ImageName,
        to: &ImageName,
        digest: &Digest,
    ) -> Result<bool, RegistryError> {
        let (source, target) = (repository_path(&self.shared, from), repository_path(&self.shared, to));
        // Mounting twice is the same as once; at worst an upload session that nobody uses is left to expire.
        let request = Request::get(
            format!("/v2/{target}/blobs/uploads/?mount={digest}&from={source}"),
            format!("mounting the blob {digest} of {from} in {to}"),
            Scope::mount(&source, &target),
        );
        let answer = self.send(&request.method("POST"))?;
        match answer.status {
            201 => Ok(true),
            202 => {
                self.cancel_upload(&answer, Scope::push(&target));
                Ok(false)
            }
            _ => Err(answer.failure()),
        }
    }

    /// Whether these credentials may write here: starts an upload and cancels it.
    pub fn check_push(&self, repository: &ImageName) -> Result<(), RegistryError> {
        let path = repository_path(&self.shared, repository);
        let at = format!("starting an upload to {repository}");
        let mut request =
            Request::get(format!("/v2/{path}/blobs/uploads/"), at, Scope::push(&path)).method("POST");
        request.repeat = false; // each one opens another session
        let answer = self.send(&request)?;
        if answer.status != 202 {
            return Err(answer.failure());
        }
        self.cancel_upload(&answer, request.scope);
        Ok(())
    }

    /// Brings a manifest, with everything that it refers to, from one repository into another of the same registry
    /// under `reference`. An index comes with all of its manifests.
    pub fn copy_manifest<'a>(
        &self,
        from: &ImageName,
        to: &ImageName,
        manifest: &Manifest,
        reference: impl Into<Reference<'a>>,
    ) -> Result<Copied, RegistryError> {
        self.copy_at_depth(from, to, manifest, reference.into(), 3)
    }

    fn copy_at_depth(
        &self,
        from: &ImageName,
        to: &ImageName,
        manifest: &Manifest,
        reference: Reference<'_>,
        depth: usize,
    ) -> Result<Copied, RegistryError> {
        if from != to {
            let wrong = |detail| self.wrong_manifest(from, manifest, detail);
            match manifest.contents().map_err(wrong)? {
                Contents::Image { config, layers } => {
                    let stored = layers.iter().filter(|layer| layer.urls.is_empty());
                    for blob in std::iter::once(&config).chain(stored) {
                        if !self.mount_blob(from, to, &blob.digest)? {
                            return Ok(Copied::NotMounted(blob.digest.clone()));
                        }
                    }
                }
                Contents::Index(_) if depth == 0 => {
                    return Err(wrong("its indexes are nested too deeply".to_owned()));
                }
                Contents::Index(entries) => {
                    for entry in &entries {
                        let inner = self.required_manifest(from, &entry.digest)?;
                        let by_digest = Reference::Digest(&entry.digest);
                        match self.copy_at_depth(from, to, &inner, by_digest, depth - 1)? {
                            Copied::Done(_) => {}
                            Copied::NotMounted(digest) => return Ok(Copied::NotMounted(digest)),
                        }
                    }
                }
            }
        }
        self.put_manifest(to, reference, manifest).map(Copied::Done)
    }

    /// The bytes of a small blob, which have to be what their digest says.
    pub(super) fn read_blob(
        &self,
        repository: &ImageName,
        digest: &Digest,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let answer = self.send(&self.blob_request(repository, digest, "reading", what))?;
        if answer.status != 200 {
            return Err(answer.failure());
        }
        self.same(&answer, digest, &digest_of(&answer.body))?;
        Ok(answer.body)
    }

    fn blob_request(&self, repository: &ImageName, digest: &Digest, doing: &str, what: &str) -> Request {
        let path = repository_path(&self.shared, repository);
        let mut request = Request::get(
            format!("/v2/{path}/blobs/{digest}"),
            format!("{doing} the {what} {repository}@{digest}"),
            Scope::pull(&path),
        );
        request.follow = true;
        request
    }

    /// Ends an upload that will not be used. Registries end it themselves after a while, so nothing depends on it.
    fn cancel_upload(&self, answer: &Answer, scope: Scope) {
        let Some(location) = answer.header(header::LOCATION) else { return };
        let Ok(url) = self.shared.base.join(location) else { return };
        // A registry behind a proxy may misname its scheme or port; its path is asked at the address that we know.
        if url.host() != self.shared.base.host() {
            return;
        }
        let path = &url[url::Position::BeforePath..];
        let mut request = Request::get(path.to_owned(), "cancelling an upload", scope).method("DELETE");
        request.repeat = false;
        drop(self.send(&request));
    }
}
