//! Build and push in one step; pushes overlap with builds.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use crate::documents::{BuiltDocument, Image, ImageStatus, Receipt};
use crate::error::{Classify as _, Failure, Kind};
use crate::lock;
use crate::model::{Change, CommitSha};

use super::build::{BuildOptions, build};
use super::push::{Push, PushOptions, UPLOADS};
use super::{Origin, Outcome, Site, housekeeping};

/// An image that waited longer for its upload is checked again, because another build may have taken its name.
const JUST_NOW: Duration = Duration::from_secs(1);

/// The document of a run.
#[derive(Debug)]
pub(crate) enum Ran {
    /// Images failed to build or were only planned; no tag moved.
    Built(BuiltDocument),
    /// The push succeeded or failed.
    Pushed(Receipt),
}

/// Builds and pushes a change. Each image is uploaded under its immutable tag once it is built; the moving tags wait
/// for all images.
pub(crate) fn run(
    site: &Site,
    change: &Change,
    payload_sha256: Option<&str>,
    build_options: &BuildOptions,
    push_options: &PushOptions,
) -> Result<Outcome<Ran>, Failure> {
    let origin = Origin::of(site, change)?;
    let push = Push::new(site, &origin, change, push_options)?;
    let _turn = take_turn(site, &change.commit)?;
    let build_options =
        BuildOptions { only_own_paths: !push_options.take_over, pushes: true, ..build_options.clone() };
    let pushed: Mutex<BTreeMap<String, Result<Image, Failure>>> = Mutex::default();
    let push_image = |image: &Image, just_seen: bool| {
        let result = push.image(image, just_seen);
        pushed.lock().unwrap_or_else(PoisonError::into_inner).insert(image.name.clone(), result);
    };
    let (ready, to_push) = mpsc::channel::<(Image, Instant)>();
    let to_push = Mutex::new(to_push);
    std::thread::scope(|beside| {
        let built = std::thread::scope(|scope| {
            for _ in 0..UPLOADS {
                scope.spawn(|| {
                    loop {
                        let next = to_push.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok((image, built_at)) = next else { return };
                        push_image(&image, built_at.elapsed() < JUST_NOW);
                    }
                });
            }
            // The build owns the sender, so that the uploads end with it, also on a panic.
            let on_ready = move |image: &Image, just_seen: bool| {
                if image.status == ImageStatus::Built {
                    // The receivers outlive the sender.
                    let _ = ready.send((image.clone(), Instant::now()));
                } else {
                    push_image(image, just_seen);
                }
            };
            let built = build(site, change, payload_sha256, &build_options, &on_ready);
            if let Ok(Outcome { document, failure: None }) = &built {
                // The engine is idle while the last image is uploaded and the tags move.
                let images = document.images.clone();
                beside.spawn(move || housekeeping::remove_old_images(site, &images));
            }
            (built, Instant::now())
        });
        let (built, built_at) = (built.0?, built.1);
        if built.failure.is_some() || build_options.dry_run {
            return Ok(Outcome { document: Ran::Built(built.document), failure: built.failure });
        }
        let pushed = std::mem::take(&mut *pushed.lock().unwrap_or_else(PoisonError::into_inner));
        let receipt = push.finish(built.document, pushed, built_at)?;
        Ok(Outcome { document: Ran::Pushed(receipt.document), failure: receipt.failure })
    })
}

/// Allows one run per commit: two builds would give the same engine name to two images. The second run finds the commit
/// in the registry and builds nothing.
fn take_turn(site: &Site, commit: &CommitSha) -> Result<File, Failure> {
    let path = lock::path_of(&site.state_dir, "run", commit.as_str());
    let doing = || format!("cannot lock {}", path.display());
    let file = lock::open(&path).classify(Kind::Environment, doing)?;
    if file.try_lock().is_err() {
        site.events.note(&format!("commit {}: waiting for another run to end", commit.short()));
        lock::exclusive(&file, &site.cancel)?.classify(Kind::Environment, doing)?;
    }
    Ok(file)
}
