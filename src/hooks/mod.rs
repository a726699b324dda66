//! The forge's side of a webhook: made, checked and redelivered through its API, and the tunnel's public address from
//! ngrok's local one (ngrok.com/docs/agent/api).

mod deliveries;
pub(crate) mod installed;
mod ngrok;
mod webhook;

pub(crate) use deliveries::{Delivery, DeliveryState, unresolved};
pub(crate) use ngrok::public_url;
pub(crate) use webhook::{Hook, HookId, Webhooks};

use url::Url;

use crate::http::shown;

/// Where the ngrok agent answers, where no other address is named.
pub(crate) const NGROK_API: &str = "http://127.0.0.1:4040";
/// The path that `serve` takes deliveries on.
pub(crate) const WEBHOOK_PATH: &str = "/webhook";
/// The same, as the program before swanci had it.
pub(crate) const ORIGINAL_PATH: &str = "/ciserver/repository/merged";

/// The webhook's URL under a public address: the address itself when it has a path already, else with
/// [`WEBHOOK_PATH`].
///
/// # Errors
/// A sentence when no forge could deliver to it.
pub(crate) fn webhook_url(address: &str) -> Result<Url, String> {
    let mut url = Url::parse(address).map_err(|e| format!("`{}` is not a URL: {e}", shown(address)))?;
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
