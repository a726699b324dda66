//! Checks that the registry still has everything on a receipt, unchanged.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::documents::{MoveOutcome, Receipt, SCHEMA};
use crate::error::Failure;
use crate::manifest::template::is_immutable;
use crate::model::{Digest, ImageName, ImageRepository, Tag};
use crate::parallel;
use crate::registry::{Content, Registry, RegistryError, RegistryErrorKind};

use super::{Outcome, REGISTRY_THREADS, Site};

/// The document of `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Verification {
    /// Always 1.
    pub schema: u32,
    pub outcome: VerifyOutcome,
    /// Every pushed image of the receipt.
    pub images: Vec<VerifiedImage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum VerifyOutcome {
    /// The registry has everything, unchanged.
    Intact,
    /// An immutable tag changed, or something is missing.
    Drifted,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct VerifiedImage {
    pub name: String,
    /// The immutable tag, or a moving one that the receipt set.
    pub tag: Tag,
    /// The receipt's digest.
    pub expected: Digest,
    /// The registry's digest; null when the tag or any content of the image is missing.
    pub found: Option<Digest>,
}

impl VerifiedImage {
    pub(crate) fn has_drifted(&self) -> bool {
        match &self.found {
            None => true,
            Some(found) => is_immutable(&self.tag) && *found != self.expected,
        }
    }
}

/// Compares the registry with a receipt: tags, manifests, and all content of the images. A moving tag that moved later
/// is not drift; a missing one is.
pub(crate) fn verify(site: &Site, receipt: &Receipt) -> Result<Outcome<Verification>, Failure> {
    let (address, client) = site.registry_and_client()?;
    if receipt.schema != SCHEMA {
        let schema = receipt.schema;
        return Err(Failure::bad_input(format!(
            "the receipt has schema {schema}; this swanci reads {SCHEMA}"
        )));
    }
    let mut images = on_receipt(receipt, address.host())?;
    let found = parallel::map(REGISTRY_THREADS, &images, |(repository, image)| {
        client.head_manifest(repository.path(), &image.tag)
    });
    for ((_, image), found) in images.iter_mut().zip(found) {
        image.found = found?;
    }
    let references = references(client, &images)?;
    let mut drifted = Vec::new();
    for (repository, image) in &mut images {
        // A tag that refers to something else is compared by its digest alone.
        let complete = |found: &Digest| {
            *found != image.expected
                || is_complete(&references, repository.path(), Content::Manifest(found.clone()))
        };
        image.found = image.found.take().filter(complete);
        if image.has_drifted() {
            drifted.push(format!("{}:{}", image.name, image.tag));
        }
    }
    let images: Vec<VerifiedImage> = images.into_iter().map(|(_, image)| image).collect();
    let failure = (!drifted.is_empty()).then(|| {
        Failure::failed(format!("the registry has drifted from the receipt: {}", drifted.join(", ")))
    });
    let outcome = if failure.is_none() { VerifyOutcome::Intact } else { VerifyOutcome::Drifted };
    Ok(Outcome { document: Verification { schema: SCHEMA, outcome, images }, failure })
}

/// Every tag that the receipt set, with `found` still empty.
fn on_receipt(receipt: &Receipt, host: &str) -> Result<Vec<(ImageRepository, VerifiedImage)>, Failure> {
    let mut images = Vec::new();
    for image in &receipt.images {
        let (Some(repository), Some(tag), Some(digest)) =
            (&image.repository, &image.immutable_tag, &image.digest)
        else {
            continue;
        };
        if repository.registry() != Some(host) {
            let text = format!("the receipt's {repository} is not in the registry {host}");
            return Err(Failure::bad_input(text));
        }
        let moved = image.moved.iter().flatten().filter(|moved| match moved.outcome {
            MoveOutcome::Moved | MoveOutcome::Already => true,
            MoveOutcome::Superseded | MoveOutcome::Restored | MoveOutcome::Left => false,
        });
        let tags = std::iter::once((tag, digest)).chain(moved.map(|moved| (&moved.tag, &moved.to)));
        images.extend(tags.map(|(tag, expected)| {
            let (name, tag, expected) = (image.name.clone(), tag.clone(), expected.clone());
            (repository.clone(), VerifiedImage { name, tag, expected, found: None })
        }));
    }
    Ok(images)
}

/// What the registry has of the manifests that match their tags, each with the content that it refers to. Each content is
/// requested level by level: indexes, their manifests (including attestations), then configs and layers.
fn references(
    client: &Registry,
    images: &[(ImageRepository, VerifiedImage)],
) -> Result<BTreeMap<(ImageName, Content), Vec<Content>>, RegistryError> {
    let intact = images.iter().filter(|(_, image)| image.found.as_ref() == Some(&image.expected));
    let mut level: BTreeSet<(ImageName, Content)> = intact
        .map(|(repository, image)| (repository.path().clone(), Content::Manifest(image.expected.clone())))
        .collect();
    let mut known = BTreeMap::new();
    while !level.is_empty() {
        let places: Vec<_> = std::mem::take(&mut level).into_iter().collect();
        let answers = parallel::map(REGISTRY_THREADS, &places, |(repository, content)| match content {
            Content::Manifest(digest) => {
                Ok(client.get_manifest(repository, digest)?.map(|manifest| manifest.references()))
            }
            Content::Blob(digest) => Ok(client.has_blob(repository, digest)?.then(Vec::new)),
        });
        for (place, answer) in places.into_iter().zip(answers) {
            match answer {
                Ok(Some(references)) => {
                    level.extend(references.iter().map(|below| (place.0.clone(), below.clone())));
                    known.insert(place, references);
                }
                // Content that does not match its digest counts as missing.
                Ok(None) | Err(RegistryError { kind: RegistryErrorKind::DigestMismatch, .. }) => {}
                Err(error) => return Err(error),
            }
        }
        level.retain(|place| !known.contains_key(place));
    }
    Ok(known)
}

/// Visits each content once: a manifest can be below many others.
fn is_complete(
    known: &BTreeMap<(ImageName, Content), Vec<Content>>,
    repository: &ImageName,
    content: Content,
) -> bool {
    let (mut visited, mut waiting) = (BTreeSet::new(), vec![content]);
    while let Some(content) = waiting.pop() {
        let Some(references) = known.get(&(repository.clone(), content.clone())) else { return false };
        if visited.insert(content) {
            waiting.extend_from_slice(references);
        }
    }
    true
}
