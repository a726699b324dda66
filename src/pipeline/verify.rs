//! Asks the registry whether everything on a receipt is still there, unchanged.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::documents::{MoveOutcome, Receipt, SCHEMA};
use crate::error::Failure;
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
    /// What was found.
    pub outcome: VerifyOutcome,
    /// Every image of the receipt that was pushed.
    pub images: Vec<VerifiedImage>,
}

/// Whether the registry still holds what the receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum VerifyOutcome {
    /// Everything is there, unchanged.
    Intact,
    /// An immutable tag changed, or something is gone.
    Drifted,
}

/// One image and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct VerifiedImage {
    /// The image.
    pub name: String,
    /// Its immutable tag, or a moving one that the receipt put there.
    pub tag: Tag,
    /// The receipt's digest.
    pub expected: Digest,
    /// The registry's; `None` when the tag or any content of the image is gone.
    pub found: Option<Digest>,
}

impl VerifiedImage {
    pub(crate) fn has_drifted(&self) -> bool {
        let immutable = crate::manifest::template::is_immutable(&self.tag);
        match &self.found {
            None => true,
            Some(found) => immutable && *found != self.expected,
        }
    }
}

/// Compares the registry with a receipt: tags, manifests, and all content of the images on it. A moving tag that has
/// moved on is not drift; one that is gone is.
pub(crate) fn verify(site: &Site, receipt: &Receipt) -> Result<Outcome<Verification>, Failure> {
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
    let mut found = Vec::with_capacity(asked.len());
    for answer in answers {
        found.push(answer?.map(|descriptor| descriptor.digest));
    }
    let gone = gone(client, &asked, &found)?;
    let images: Vec<VerifiedImage> = asked
        .into_iter()
        .zip(found)
        .map(|(asked, found)| {
            let found = found.filter(|found| !gone.contains(&(asked.1.path().clone(), found.clone())));
            VerifiedImage { name: asked.0, tag: asked.2, expected: asked.3, found }
        })
        .collect();
    let drifted: Vec<&VerifiedImage> = images.iter().filter(|i| i.has_drifted()).collect();
    let failure = (!drifted.is_empty()).then(|| {
        let names: Vec<String> = drifted.iter().map(|i| format!("{}:{}", i.name, i.tag)).collect();
        Failure::failed(format!("the registry has drifted from the receipt: {}", names.join(", ")))
    });
    let outcome = if failure.is_none() { VerifyOutcome::Intact } else { VerifyOutcome::Drifted };
    Ok(Outcome { document: Verification { schema: SCHEMA, outcome, images }, failure })
}

/// Image, repository, tag and the receipt's digest.
type Asked = (String, ImageRepository, Tag, Digest);
/// Content of a repository.
type Place = (ImageName, Content);

/// The manifests of the receipt that stand under their tags, and lack any of their content. Each content is asked for once,
/// level by level: an index, its manifests (attestations too), their configs and layers.
fn gone(
    client: &Registry,
    asked: &[Asked],
    found: &[Option<Digest>],
) -> Result<BTreeSet<(ImageName, Digest)>, RegistryError> {
    let roots: BTreeSet<Place> = asked
        .iter()
        .zip(found)
        .filter(|((.., expected), found)| found.as_ref() == Some(expected))
        .map(|((_, repository, _, digest), _)| (repository.path().clone(), Content::Manifest(digest.clone())))
        .collect();
    let mut parents: BTreeMap<Place, BTreeSet<Place>> = BTreeMap::new();
    let mut level: Vec<Place> = roots.iter().cloned().collect();
    let mut seen: BTreeSet<Place> = roots.clone();
    let mut missing: Vec<Place> = Vec::new();
    while !level.is_empty() {
        let answers = parallel::map(REGISTRY_THREADS, &level, |(repository, content)| match content {
            Content::Manifest(digest) => {
                Ok(client.get_manifest(repository, digest)?.map(|manifest| manifest.references()))
            }
            Content::Blob(digest) => Ok(client.has_blob(repository, digest)?.then(Vec::new)),
        });
        let mut next = Vec::new();
        for (place, answer) in level.into_iter().zip(answers) {
            match answer {
                Ok(Some(references)) => {
                    for content in references {
                        let below = (place.0.clone(), content);
                        parents.entry(below.clone()).or_default().insert(place.clone());
                        if seen.insert(below.clone()) {
                            next.push(below);
                        }
                    }
                }
                // Content that is not what its digest says is gone too.
                Ok(None) | Err(RegistryError { kind: RegistryErrorKind::DigestMismatch, .. }) => {
                    missing.push(place)
                }
                Err(error) => return Err(error),
            }
        }
        level = next;
    }
    let (mut gone, mut marked) = (BTreeSet::new(), BTreeSet::new());
    while let Some(place) = missing.pop() {
        if !marked.insert(place.clone()) {
            continue;
        }
        missing.extend(parents.get(&place).into_iter().flatten().cloned());
        if let (true, (repository, Content::Manifest(digest))) = (roots.contains(&place), place) {
            gone.insert((repository, digest));
        }
    }
    Ok(gone)
}
