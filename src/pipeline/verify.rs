//! Asks the registry whether everything on a receipt is still there, unchanged.

use serde::Serialize;

use crate::documents::{MoveOutcome, Receipt, SCHEMA};
use crate::error::Failure;
use crate::model::{Digest, Tag};
use crate::parallel;

use super::{Outcome, REGISTRY_THREADS, Site};

/// The document of `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Always [`SCHEMA`].
    pub schema: u32,
    /// What was found.
    pub outcome: VerifyOutcome,
    /// Every image of the receipt that was pushed.
    pub images: Vec<VerifiedImage>,
}

/// Whether the registry still holds what the receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyOutcome {
    /// Everything is there, unchanged.
    Intact,
    /// An immutable tag changed or is gone.
    Drifted,
}

/// One image and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifiedImage {
    /// The image.
    pub name: String,
    /// Its immutable tag, or a moving one that the receipt put there.
    pub tag: Tag,
    /// The receipt's digest.
    pub expected: Digest,
    /// The registry's.
    pub found: Option<Digest>,
}

impl VerifiedImage {
    fn has_drifted(&self) -> bool {
        let immutable = crate::manifest::template::is_immutable(&self.tag);
        match &self.found {
            None => true,
            Some(found) => immutable && *found != self.expected,
        }
    }
}

/// Compares the registry with a receipt. A moving tag that has moved on is no drift; one that is gone is.
pub fn verify(site: &Site, receipt: &Receipt) -> Result<Outcome<Verification>, Failure> {
    let (address, client) = site.registry_and_client()?;
    if receipt.schema != SCHEMA {
        return Err(Failure::bad_input(format!(
            "the receipt has schema {}; this swanci reads {SCHEMA}",
            receipt.schema
        )));
    }
    let mut asked = Vec::new();
    for image in &receipt.images {
        let (Some(repository), Some(tag), Some(digest)) =
            (&image.repository, &image.immutable_tag, &image.digest)
        else {
            continue;
        };
        if repository.registry() != Some(address.host()) {
            return Err(Failure::bad_input(format!(
                "the receipt's {repository} is not in the registry {}",
                address.host()
            )));
        }
        let mut tags = vec![(tag.clone(), digest.clone())];
        for moved in image.moved.iter().flatten() {
            match moved.outcome {
                MoveOutcome::Moved | MoveOutcome::Already => tags.push((moved.tag.clone(), moved.to.clone())),
                MoveOutcome::Superseded | MoveOutcome::Restored | MoveOutcome::Left => {}
            }
        }
        asked.extend(
            tags.into_iter().map(|(tag, digest)| (image.name.clone(), repository.clone(), tag, digest)),
        );
    }
    let answers = parallel::map(REGISTRY_THREADS, &asked, |(_, repository, tag, _)| {
        client.head_manifest(repository.path(), tag)
    });
    let mut images = Vec::with_capacity(asked.len());
    for ((name, _, tag, expected), answer) in asked.into_iter().zip(answers) {
        images.push(VerifiedImage { name, tag, expected, found: answer?.map(|d| d.digest) });
    }
    let drifted: Vec<&VerifiedImage> = images.iter().filter(|i| i.has_drifted()).collect();
    let failure = (!drifted.is_empty()).then(|| {
        let names: Vec<String> = drifted.iter().map(|i| format!("{}:{}", i.name, i.tag)).collect();
        Failure::failed(format!("the registry has drifted from the receipt: {}", names.join(", ")))
    });
    let outcome = if failure.is_none() { VerifyOutcome::Intact } else { VerifyOutcome::Drifted };
    Ok(Outcome { document: Verification { schema: SCHEMA, outcome, images }, failure })
}
