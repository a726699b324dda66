//! The tags of a repository.

use serde::Deserialize;
use ureq::http::header;
use url::Url;

use crate::model::{ImageName, Tag};

use super::client::Request;
use super::error::RegistryError;
use super::token::Scope;
use super::{Registry, repository_path};

/// Tags asked for at once; registries may send fewer.
const PAGE: usize = 1000;
/// Registry 2.8 sends all tags at once, whatever is asked for: some 700,000 `sha-` tags fit in here.
const MAX_PAGE_BYTES: u64 = 32 * 1024 * 1024;
/// A repository with more pages than this is not read to its end.
const MAX_PAGES: usize = 1000;

#[derive(Deserialize)]
struct Page {
    /// `null` in a repository without tags (registry 2.8).
    tags: Option<Vec<String>>,
}

impl Registry {
    /// All tags of a repository, in the registry's order; none when it does not exist. Names that are no tags by
    /// today's grammar are left out.
    pub fn list_tags(&self, repository: &ImageName) -> Result<Vec<Tag>, RegistryError> {
        let path = repository_path(&self.shared, repository);
        let mut request = Request::get(
            format!("/v2/{path}/tags/list?n={PAGE}"),
            format!("listing the tags of {repository}"),
            Scope::pull(&path),
        );
        request.limit = MAX_PAGE_BYTES;
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let answer = self.send(&request)?;
            match answer.status {
                200 => {}
                404 => return Ok(tags),
                _ => return Err(answer.failure()),
            }
            let page: Page = serde_json::from_slice(&answer.body)
                .map_err(|e| answer.protocol(format!("its list of tags cannot be read: {e}")))?;
            tags.extend(page.tags.unwrap_or_default().into_iter().filter_map(|tag| Tag::try_from(tag).ok()));
            let next = answer.header(header::LINK).and_then(|link| next_page(link, &self.shared.base));
            match next {
                None => return Ok(tags),
                Some(next) if next == request.path => {
                    return Err(answer.protocol("its list of tags goes in a circle"));
                }
                Some(next) => request.path = next,
            }
        }
        Err(RegistryError::Protocol {
            host: self.shared.host.clone(),
            at: request.at,
            detail: format!("its list of tags does not end after {MAX_PAGES} pages"),
        })
    }
}

/// Path and query of `<URL>; rel="next"` (RFC 8288). The page is asked of the registry, whatever host stands there.
fn next_page(link: &str, base: &Url) -> Option<String> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = parameters.split(';').any(|p| matches!(p.trim(), "rel=next" | "rel=\"next\""));
    let url = base.join(target).ok()?;
    next.then(|| url[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_of_the_registry_itself() {
        let base = Url::parse("https://r.example.org/").unwrap();
        let next = |link| next_page(link, &base);
        assert_eq!(
            next(r#"</v2/a/tags/list?last=x&n=2>; rel="next""#).as_deref(),
            Some("/v2/a/tags/list?last=x&n=2")
        );
        assert_eq!(next("<https://evil.example.net/v2/b?n=1>;rel=next").as_deref(), Some("/v2/b?n=1"));
        assert_eq!(next(r#"</v2/a>; rel="prev""#), None);
        assert_eq!(next("nonsense"), None);
    }
}
