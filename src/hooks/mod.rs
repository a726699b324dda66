//! The forge's side of a webhook: made, checked and redelivered through GitHub's REST API, and the tunnel's public
//! address from ngrok's local one.
//!
//! Formats: docs.github.com, "REST API endpoints for repository webhooks" (version 2022-11-28; the tests hold requests
//! and answers to GitHub's published OpenAPI description), and ngrok.com/docs/agent/api.

mod deliveries;
mod error;
mod github;
mod http;
pub(crate) mod installed;
mod ngrok;

pub(crate) use deliveries::{Delivery, DeliveryState, unresolved};
pub(crate) use error::HookError;
pub(crate) use github::{GitHub, Hook, Wanted};
pub(crate) use ngrok::public_url;

use url::Url;

/// GitHub's API, where none other is named.
pub(crate) const GITHUB_API: &str = "https://api.github.com";
/// Where the ngrok agent answers, where no other address is named.
pub(crate) const NGROK_API: &str = "http://127.0.0.1:4040";
/// The path that `serve` takes deliveries on.
pub(crate) const WEBHOOK_PATH: &str = "/webhook";
/// The same, as the program before swanci had it.
pub(crate) const ORIGINAL_PATH: &str = "/ciserver/repository/merged";
/// The event that announces a merge.
pub(crate) const EVENT: &str = "pull_request";

/// The webhook's URL under a public address: the address itself when it has a path already, else with
/// [`WEBHOOK_PATH`].
///
/// # Errors
/// A sentence when GitHub could not deliver to it.
pub(crate) fn webhook_url(address: &str) -> Result<Url, String> {
    let mut url = Url::parse(address).map_err(|e| format!("`{}` is no URL: {e}", shown(address)))?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Err(format!("`{}` is not an https URL", shown(address)));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the URL holds a user name or password, which everybody who may see the webhook would read; \
                    deliveries are signed instead"
                .to_owned(),
        );
    }
    if url.fragment().is_some() {
        return Err(format!("`{}` has a fragment, which is never sent", shown(address)));
    }
    if url.path() == "/" {
        url.set_path(WEBHOOK_PATH);
    }
    Ok(url)
}

fn shown(text: &str) -> String {
    crate::escape::shortened(&crate::redact::scrub(text), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_becomes_the_webhooks_url() {
        let url = |address| webhook_url(address).map(String::from);
        assert_eq!(url("https://swan.ngrok.app").unwrap(), "https://swan.ngrok.app/webhook");
        assert_eq!(url("https://swan.ngrok.app/").unwrap(), "https://swan.ngrok.app/webhook");
        assert_eq!(
            url("https://ci.example.org:8443/ciserver/repository/merged").unwrap(),
            "https://ci.example.org:8443/ciserver/repository/merged"
        );
        for wrong in ["swan.ngrok.app", "ftp://x/y", "https://", "https://u:p@h/webhook", "https://h/w#f"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }
}
