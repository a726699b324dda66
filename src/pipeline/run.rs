//! Build and push in one, pushes overlapping builds.

use std::fs::File;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use crate::documents::{BuiltDocument, Image, Receipt};
use crate::error::{Classify as _, Failure, Kind};
use crate::lock;
use crate::model::{Change, CommitSha};

use super::build::{BuildOptions, build};
use super::push::{PushOptions, Standing, UPLOADS, finish, needs_push, push_image};
use super::{Outcome, Site, housekeeping};

/// What a run has to show.
#[derive(Debug)]
pub enum Ran {
    /// Images failed to build; nothing was promoted.
    Built(BuiltDocument),
    /// It was pushed, or the push failed.
    Pushed(Receipt),
}

/// Builds a change and pushes it. An image is uploaded under its immutable tag as soon as it is built; the moving tags
/// wait for all of them.
pub fn run(
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    build_options: &BuildOptions,
    push_options: &PushOptions,
) -> Result<Outcome<Ran>, Failure> {
    site.registry_and_client()?;
    let _turn = take_turn(site, &change.commit)?;
    std::thread::scope(|beside| {
        let mut built_at = Instant::now();
        let pushed: Mutex<Vec<(String, Result<Image, Failure>)>> = Mutex::new(Vec::new());
        let (ready, to_push) = mpsc::channel::<(Image, Standing)>();
        let to_push = Mutex::new(to_push);
        let ready = Mutex::new(Some(ready));
        let push = |image: &Image, standing: Standing| {
            let result = push_image(site, &change.commit, image, standing, push_options);
            pushed.lock().unwrap_or_else(PoisonError::into_inner).push((image.name.clone(), result));
        };
        let built = std::thread::scope(|scope| {
            for _ in 0..UPLOADS {
                scope.spawn(|| {
                    loop {
                        let next = to_push.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((image, standing)) = next else { return };
                        push(&image, standing);
                    }
                });
            }
            let on_ready = |image: &Image, standing: Standing| match standing {
                Standing::JustBuilt(_) => {
                    if let Some(ready) = &*ready.lock().unwrap_or_else(PoisonError::into_inner) {
                        // The receivers live until the sender is gone.
                        let _ = ready.send((image.clone(), standing));
                    }
                }
                // One small request, while what was seen of the registry is fresh.
                Standing::Untagged(_) | Standing::Tagged | Standing::Unknown => push(image, standing),
            };
            // Also when the build panics: or its pushers would wait for ever.
            let close = Close(&ready);
            let built = build(site, change, payload_sha256, build_options, &on_ready);
            built_at = Instant::now();
            // No more images: the pushers end when the last one is up.
            drop(close);
            if let Ok(Outcome { document, failure: None }) = &built {
                // The builds are over, and the engine has time for it while the last image goes up and the tags move.
                let images = document.images.clone();
                beside.spawn(move || housekeeping::remove_old_images(site, &images));
            }
            built
        })?;
        if let Some(failure) = built.failure {
            return Ok(Outcome { document: Ran::Built(built.document), failure: Some(failure) });
        }
        let mut pushed = pushed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let in_order = built
            .document
            .images
            .iter()
            .map(|image| {
                if !needs_push(image) {
                    return Ok(None);
                }
                match pushed.iter().position(|(name, _)| *name == image.name) {
                    // The Id was asked for while the image went up.
                    Some(at) => pushed
                        .swap_remove(at)
                        .1
                        .map(|up| Some(Image { image_id: image.image_id.clone(), ..up })),
                    None => Err(Failure::failed(format!("the image {} was not pushed", image.name))),
                }
            })
            .collect();
        let receipt = finish(site, built.document, in_order, push_options, built_at)?;
        Ok(Outcome { document: Ran::Pushed(receipt.document), failure: receipt.failure })
    })
}

/// Closes the way to the pushers.
struct Close<'a>(&'a Mutex<Option<mpsc::Sender<(Image, Standing)>>>);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// One run of a commit at a time: two builds would give one name of the engine to two images, and the push of the
/// first would find the other's. Whoever waited finds the commit in the registry, and builds nothing.
fn take_turn(site: &Site, commit: &CommitSha) -> Result<File, Failure> {
    let path = lock::path_of(&site.state_dir, "run", commit.as_str());
    let doing = || format!("cannot lock {}", path.display());
    let file = lock::open(&path).classify(Kind::Environment, doing)?;
    if file.try_lock().is_err() {
        site.progress.say(&format!("commit {}: waiting for another run to end", commit.short()));
        lock::exclusive(&file, &site.cancel)?.classify(Kind::Environment, doing)?;
    }
    Ok(file)
}
