//! Keeps the disk bounded: old local images, unused mirrors, old receipts. Nothing here can fail a push.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::docker::LocalImage;
use crate::documents::{Image, Receipt};
use crate::git::{Mirror, remove_unused_mirrors};
use crate::lock;
use crate::registry::prune_configs;

use super::{CONFIGS, Origin, Site, receipt};

/// Mirrors that nothing has fetched for so long are removed.
const UNUSED: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Whoever pushes waits no longer for old images to go; the next push goes on with it.
const TIDY_UP_TIME: Duration = Duration::from_secs(60);

/// A build that has just ended leaves its lock for a moment to a process that was being started then (fork(2) copies the
/// open files, and only execve(2) closes them).
const BUILDERS_LEAVE: Duration = Duration::from_millis(100);

/// Images that one call of docker's removes; the lease of each takes a descriptor meanwhile.
const REMOVED_AT_ONCE: usize = 8;

/// Local images that this run needs between their build and their push: nobody's housekeeping may remove them.
#[derive(Clone, Default)]
pub struct ImageLeases(Arc<Mutex<Vec<File>>>);

impl ImageLeases {
    /// Holds an image until the run ends. Without the lock file the image is only protected by its age.
    pub(super) fn hold(&self, site: &Site, name: &str) {
        if let Ok(file) = lock::open(&lease_path(site, name))
            && file.try_lock_shared().is_ok()
        {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(file);
        }
    }
}

fn lease_path(site: &Site, name: &str) -> PathBuf {
    lock::path_of(&site.state_dir, "image", name)
}

pub(super) fn after_push(site: &Site, receipt: &Receipt) {
    if let Ok(origin) = Origin::of(site, &receipt.change) {
        let mirror = Mirror::of(&site.state_dir, &origin.remote, &[], &site.cancel);
        if let Err(error) = mirror.maintain() {
            site.progress.warn(&format!("the mirror could not be packed: {error}"));
        }
    }
    remove_unused_mirrors(&site.state_dir, UNUSED, SystemTime::now());
    receipt::prune(&site.state_dir);
    prune_configs(&site.state_dir.join(CONFIGS));
}

/// Held, shared, while images are built: the classic builder takes cached layers by their ids, and a removal in between
/// would take them away under it.
pub(super) fn builds_lock(site: &Site) -> std::io::Result<File> {
    lock::open(&lock::path_of(&site.state_dir, "builds", ""))
}

/// Of each name that was pushed the newest images stay; an older one goes unless a job holds it between its build and its
/// push.
pub(super) fn remove_old_images(site: &Site, pushed: &[Image]) {
    let cancel = site.cancel.child(Some(TIDY_UP_TIME));
    let built = pushed.iter().filter(|i| i.image_id.is_some()).filter_map(|i| i.repository.as_ref());
    let mut repositories: BTreeMap<String, Vec<LocalImage>> =
        built.map(|repository| (repository.to_string(), Vec::new())).collect();
    if repositories.is_empty() {
        return;
    }
    // The engine's list fails when an image goes away while it is being made.
    let names: Vec<&str> = repositories.keys().map(String::as_str).collect();
    let list = || site.docker.local_images(&names, &cancel);
    let Ok(images) = list().or_else(|_| list()) else { return };
    for image in images.into_iter().filter(|image| image.tag.starts_with("sha-")) {
        if let Some(images) = repositories.get_mut(&image.repository) {
            images.push(image);
        }
    }
    let old: Vec<String> =
        repositories.into_values().flat_map(|images| old_ones(images, site.keep_local)).collect();
    if old.is_empty() {
        return;
    }
    // While anybody builds, the images wait for the next push.
    let Ok(builds) = builds_lock(site) else { return };
    if !matches!(lock::exclusive(&builds, &cancel.child(Some(BUILDERS_LEAVE))), Ok(Ok(()))) {
        return;
    }
    for some in old.chunks(REMOVED_AT_ONCE) {
        let mut leases = BTreeMap::new();
        let free: Vec<&str> =
            some.iter().map(String::as_str).filter(|name| take_lease(site, name, &mut leases)).collect();
        if !free.is_empty() {
            // Somebody may run a container of one; then docker refuses, and it stays.
            let _ = site.docker.remove(&free, &cancel);
        }
    }
}

/// The names of one repository's images but the newest.
fn old_ones(mut images: Vec<LocalImage>, keep: usize) -> Vec<String> {
    images.sort_by(|a, b| b.created.cmp(&a.created));
    images.into_iter().skip(keep).map(|image| format!("{}:{}", image.repository, image.tag)).collect()
}

/// Whether nobody else holds the image of this name. Two names may share a lease file.
fn take_lease(site: &Site, name: &str, leases: &mut BTreeMap<PathBuf, File>) -> bool {
    match leases.entry(lease_path(site, name)) {
        Entry::Occupied(_) => true,
        Entry::Vacant(path) => match lock::open(path.key()) {
            Ok(file) if file.try_lock().is_ok() => {
                path.insert(file);
                true
            }
            Ok(_) | Err(_) => false,
        },
    }
}
