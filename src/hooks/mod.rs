//! The forge's side of a webhook: creates it, checks it and sends deliveries again through the forge's API. Also the public
//! address of an ngrok tunnel.

mod deliveries;
pub(crate) mod installed;
mod ngrok;
mod webhook;

pub(crate) use deliveries::{Attempt, AttemptState, unresolved};
pub(crate) use ngrok::public_url;
pub(crate) use webhook::{Hook, HookId, Webhooks};

use url::Url;

use crate::http::shown;

/// The default address of the ngrok agent.
pub(crate) const NGROK_API: &str = "http://127.0.0.1:4040";
pub(crate) const WEBHOOK_PATH: &str = "/webhook";
/// The path of swanci's predecessor.
pub(crate) const ORIGINAL_PATH: &str = "/ciserver/repository/merged";

/// The webhook's URL at a public address: with [`WEBHOOK_PATH`], unless the address has a path. An error if no forge could
/// deliver to it.
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
