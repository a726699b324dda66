//! The tags of a repository.

use std::collections::BTreeSet;

use serde::Deserialize;
use ureq::http::header;

use crate::http::next_link;
use crate::model::{ImageName, Tag};

use super::client::Request;
use super::error::{RegistryError, RegistryErrorKind as Kind};
use super::token::Scope;
use super::{Registry, repository_path};

/// Tags in a page; registries may send fewer, and some refuse this number.
const PAGE: usize = 1000;
/// Of all pages: about 700,000 `sha-` tags. Registry 2.8 sends one page of any length.
const MAX_LIST_BYTES: u64 = 32 * 1024 * 1024;
const MAX_PAGES: usize = 1000;

#[derive(Deserialize)]
struct Page {
    /// `null` in a repository without tags (registry 2.8).
    tags: Option<Vec<String>>,
}

impl Registry {
    /// All tags of a repository, in the registry's order; none when it does not exist. Invalid names are left out.
    pub fn list_tags(&self, repository: &ImageName) -> Result<Vec<Tag>, RegistryError> {
        let path = repository_path(&self.shared, repository);
        let list = format!("/v2/{path}/tags/list");
        let at = format!("listing the tags of {repository}");
        let mut request = Request::get(format!("{list}?n={PAGE}"), at, Scope::pull(&path));
        request.limit = MAX_LIST_BYTES;
        let (mut tags, mut seen) = (Vec::new(), BTreeSet::new());
        while seen.len() < MAX_PAGES {
            seen.insert(request.path.clone());
            let mut answer = self.send(&request);
            if seen.len() == 1 && is_page_too_large(&answer) {
                request.path.clone_from(&list);
                answer = self.send(&request);
            }
            let Some(answer) = self.present(answer)? else { return Ok(tags) };
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|e| answer.protocol(&format!("its list of tags cannot be read: {e}")))?;
            request.limit = request.limit.saturating_sub(answer.body.len() as u64);
            tags.extend(page.tags.unwrap_or_default().into_iter().filter_map(|tag| Tag::try_from(tag).ok()));
            let links = answer.headers.get_all(header::LINK);
            let next = links.iter().filter_map(|link| next_link(link.to_str().ok()?)).next();
            // Only the path is used: the host may be wrong behind a proxy. A relative link is relative to this page.
            let here = self.shared.base.join(&request.path).ok();
            let next = next.and_then(|target| here?.join(target).ok());
            let Some(next) = next else { return Ok(tags) };
            request.path = next[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
            if seen.contains(&request.path) {
                return Err(answer.protocol("its list of tags goes in a circle"));
            }
        }
        let detail = format!("its list of tags does not end after {MAX_PAGES} pages");
        Err(self.error(Kind::Protocol, &request.at, &detail))
    }
}

/// Whether the registry may have refused the page size (registry 3: `PAGINATION_NUMBER_INVALID`).
fn is_page_too_large(answer: &Result<super::answer::Answer, RegistryError>) -> bool {
    matches!(answer, Ok(answer) if matches!(answer.status, 400 | 405..=428))
}
