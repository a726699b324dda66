//! Removes old local images, unused mirrors and old receipts. Errors here do not fail a push.

use std::time::{Duration, SystemTime};

use crate::documents::{Image, ImageStatus, Receipt};
use crate::git::remove_unused_mirrors;
use crate::model::Tag;

use super::{Origin, Site, receipt};

/// Age of unused mirrors, since their last fetch.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Limit on how long a push spends on removing old images; the next push continues.
const TIDY_UP_TIME: Duration = Duration::from_secs(60);

pub(super) fn after_push(site: &Site, receipt: &Receipt) {
    if let Ok(origin) = Origin::of(site, &receipt.change)
        && let Err(error) = origin.mirror(site).maintain()
    {
        site.events.warn(&format!("the mirror could not be packed: {}", crate::error::Failure::from(error)));
    }
    remove_unused_mirrors(&site.state_dir, UNUSED, SystemTime::now());
    receipt::prune(&site.state_dir);
}

/// Keeps the newest local images of each repository, and images that are not in the registry yet.
pub(super) fn remove_old_images(site: &Site, images: &[Image]) {
    let cancel = site.cancel.child(Some(TIDY_UP_TIME));
    let Some(client) = site.client.as_ref().map(|client| client.with_cancel(cancel.clone())) else { return };
    let built = images.iter().filter(|image| image.status == ImageStatus::Built);
    for repository in built.filter_map(|image| image.repository.as_ref()) {
        let Ok(images) = site.docker.images_by_age(&repository.to_string(), site.keep_local, &cancel) else {
            continue;
        };
        let in_registry = |name: &&String| {
            let tag = name.rsplit_once(':').and_then(|(_, tag)| tag.parse::<Tag>().ok());
            tag.is_some_and(|tag| matches!(client.head_manifest(repository.path(), &tag), Ok(Some(_))))
        };
        let old: Vec<&String> = images.iter().skip(site.keep_local).filter(in_registry).collect();
        if !old.is_empty() {
            // Docker keeps images that a container uses.
            let _ = site.docker.remove(&old.iter().map(|name| name.as_str()).collect::<Vec<_>>(), &cancel);
        }
    }
}
