//! Blobs: reads a config, checks that a layer exists, and whether an upload is allowed. Docker moves layers: its push
//! mounts those that another repository of the registry holds.

use ureq::http::header;

use crate::model::{Digest, ImageName};

use super::answer::Answer;
use super::client::Request;
use super::error::RegistryError;
use super::token::Scope;
use super::{Registry, repository_path};

impl Registry {
    /// Fails unless these credentials may write to the repository: starts an upload and cancels it.
    pub fn check_push(&self, repository: &ImageName) -> Result<(), RegistryError> {
        let path = repository_path(&self.shared, repository);
        let at = format!("starting an upload to {repository}");
        let mut request =
            Request::get(format!("/v2/{path}/blobs/uploads/"), at, Scope::push(&path)).method("POST");
        request.repeat = false; // each one opens a session
        let answer = self.send(&request)?;
        if answer.status != 202 {
            return Err(answer.failure());
        }
        self.cancel_upload(&answer, request.scope);
        Ok(())
    }

    /// The bytes of a small blob, checked against its digest.
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
        answer.same(digest, &Digest::of(&answer.body))?;
        Ok(answer.http.body)
    }

    pub(crate) fn has_blob(&self, repository: &ImageName, digest: &Digest) -> Result<bool, RegistryError> {
        let request = self.blob_request(repository, digest, "asking for", "blob");
        let mut answer = self.send(&request.clone().method("HEAD"))?;
        if matches!(answer.status, 403 | 405) {
            // The storage's URL may be signed for GET only; the first byte is enough.
            let request = Request { range: Some("bytes=0-0"), ..request };
            answer = self.send(&request)?;
        }
        match answer.status {
            200 | 206 => Ok(true),
            404 => Ok(false),
            _ => Err(answer.failure()),
        }
    }

    fn blob_request(&self, repository: &ImageName, digest: &Digest, doing: &str, what: &str) -> Request {
        let path = repository_path(&self.shared, repository);
        let mut request = Request::get(
            format!("/v2/{path}/blobs/{digest}"),
            format!("{doing} the {what} {repository}@{digest}"),
            Scope::pull(&path),
        );
        request.has_digest = true;
        request
    }

    /// Best effort: registries also cancel uploads themselves after a while.
    fn cancel_upload(&self, answer: &Answer, scope: Scope) {
        let Some(location) = answer.header(header::LOCATION) else { return };
        let Ok(url) = self.shared.base.join(location) else { return };
        // A registry behind a proxy may name a wrong scheme or port: only the path is used.
        if url.host() != self.shared.base.host() {
            return;
        }
        let path = &url[url::Position::BeforePath..];
        let mut request = Request::get(path.to_owned(), "cancelling an upload", scope).method("DELETE");
        request.repeat = false;
        drop(self.send(&request));
    }
}
