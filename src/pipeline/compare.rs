//! Reads what the registry has under the paths of a commit's images.

use std::collections::BTreeMap;

use crate::error::Failure;
use crate::model::{CommitSha, Digest, ImageName, ImageRepository, Tag};
use crate::parallel;
use crate::plan::{Held, Holdings};
use crate::registry::{Manifest, Registry, RegistryError};

use super::{REGISTRY_THREADS, Site};

pub(super) const SOURCE_LABEL: &str = "org.opencontainers.image.source";
pub(super) const REVISION_LABEL: &str = "org.opencontainers.image.revision";
pub(super) const INPUTS_LABEL: &str = "io.swanci.inputs";

/// How many other images of a path to read if those of the commit, its parent and its moving tags name no owner.
const OTHERS: usize = 8;

pub(super) struct Asked<'a> {
    pub(super) repository: &'a ImageRepository,
    pub(super) own: &'a Tag,
    pub(super) parent: Option<&'a Tag>,
    pub(super) moving: &'a [Tag],
}

/// What the registry has under each path, in the order given.
pub(super) fn ask(site: &Site, asked: &[Asked<'_>]) -> Result<Vec<Holdings>, Failure> {
    let (_, client) = site.registry_and_client()?;
    let tags: Vec<(usize, &Tag)> = asked
        .iter()
        .enumerate()
        .flat_map(|(i, a)| [a.own].into_iter().chain(a.parent).chain(a.moving).map(move |tag| (i, tag)))
        .collect();
    let found = read(client, &tags.iter().map(|(i, tag)| (asked[*i].repository, *tag)).collect::<Vec<_>>())?;
    let mut holdings: Vec<Holdings> = asked.iter().map(|_| Holdings::default()).collect();
    for ((i, tag), (is_taken, held)) in tags.iter().zip(found) {
        let (holdings, asked) = (&mut holdings[*i], &asked[*i]);
        holdings.own_is_taken |= is_taken && *tag == asked.own;
        let Some(held) = held else { continue };
        if *tag == asked.own {
            holdings.own = Some(held);
        } else if Some(*tag) == asked.parent {
            holdings.parent = Some(held);
        } else {
            holdings.moving.push(held);
        }
    }
    confirm(client, asked, &mut holdings)?;
    look_at_others(client, asked, &mut holdings)?;
    Ok(holdings)
}

/// Whether the image of the first moving tag also has the `sha-` tag of its revision.
fn confirm(client: &Registry, asked: &[Asked<'_>], holdings: &mut [Holdings]) -> Result<(), RegistryError> {
    let mut doubtful: Vec<(usize, Tag, Digest)> = Vec::new();
    for (i, holdings) in holdings.iter_mut().enumerate() {
        let first = holdings.moving.first().filter(|held| Some(&held.tag) == asked[i].moving.first());
        let Some(Held { digest, revision: Some(revision), .. }) = first else { continue };
        let tag = revision.immutable_tag();
        let known = [&holdings.own, &holdings.parent].into_iter().flatten().find(|held| held.tag == tag);
        match known {
            Some(held) => holdings.confirmed = held.digest == *digest,
            None if holdings.parent.as_ref().is_none_or(|parent| parent.digest != *digest) => {
                doubtful.push((i, tag, digest.clone()));
            }
            // The parent's image is the same one, and its tag is immutable.
            None => {}
        }
    }
    let answers =
        parallel::map(REGISTRY_THREADS, &doubtful, |(i, tag, digest)| -> Result<bool, RegistryError> {
            let there = client.head_manifest(asked[*i].repository.path(), tag);
            Ok(absent_if_unreadable(there)?.is_some_and(|there| there == *digest))
        });
    for ((i, ..), confirmed) in doubtful.iter().zip(answers) {
        holdings[*i].confirmed = confirmed?;
    }
    Ok(())
}

/// Reads some other images of the paths whose owner is still unknown.
fn look_at_others(
    client: &Registry,
    asked: &[Asked<'_>],
    holdings: &mut [Holdings],
) -> Result<(), RegistryError> {
    let names_no_owner = |held: &Holdings| {
        held.own.iter().chain(&held.parent).chain(&held.moving).all(|held| held.source.is_none())
    };
    let unknown: Vec<usize> = (0..asked.len()).filter(|i| names_no_owner(&holdings[*i])).collect();
    let lists = parallel::map(REGISTRY_THREADS, &unknown, |i| client.list_tags(asked[*i].repository.path()));
    let mut tags: Vec<(usize, Tag)> = Vec::new();
    for (i, list) in unknown.into_iter().zip(lists) {
        let (immutable, other): (Vec<Tag>, Vec<Tag>) =
            list?.into_iter().partition(crate::manifest::template::is_immutable);
        tags.extend(immutable.into_iter().rev().chain(other).take(OTHERS).map(|tag| (i, tag)));
    }
    let places: Vec<_> = tags.iter().map(|(i, tag)| (asked[*i].repository, tag)).collect();
    for ((i, _), (_, held)) in tags.iter().zip(read(client, &places)?) {
        holdings[*i].others.extend(held);
    }
    Ok(())
}

/// Whether each of these tags exists, and its image, if readable. Content that two tags share is read once.
fn read(
    client: &Registry,
    tags: &[(&ImageRepository, &Tag)],
) -> Result<Vec<(bool, Option<Held>)>, RegistryError> {
    let answers = parallel::map(REGISTRY_THREADS, tags, |(repository, tag)| {
        client.get_manifest(repository.path(), *tag)
    });
    let is_taken: Vec<bool> = answers.iter().map(|answer| !matches!(answer, Ok(None))).collect();
    let manifests: Vec<Option<Manifest>> =
        answers.into_iter().map(absent_if_unreadable).collect::<Result<_, _>>()?;
    let mut distinct: BTreeMap<(&ImageName, &Digest), &Manifest> = BTreeMap::new();
    for ((repository, _), manifest) in tags.iter().zip(&manifests) {
        distinct.extend(manifest.as_ref().map(|m| ((repository.path(), &m.digest), m)));
    }
    let distinct: Vec<_> = distinct.into_iter().collect();
    let labels = parallel::map(REGISTRY_THREADS, &distinct, |((path, _), manifest)| {
        absent_if_unreadable(client.image_labels(path, manifest).map(Some))
    });
    let mut by_digest = BTreeMap::new();
    for ((key, _), labels) in distinct.iter().zip(labels) {
        by_digest.insert(*key, labels?);
    }
    let held = |((repository, tag), manifest): (&(&ImageRepository, &Tag), &Option<Manifest>)| {
        let manifest = manifest.as_ref()?;
        let labels = by_digest.get(&(repository.path(), &manifest.digest))?.as_ref()?;
        Some(Held {
            tag: (*tag).clone(),
            digest: manifest.digest.clone(),
            source: labels.get(SOURCE_LABEL).cloned(),
            revision: labels.get(REVISION_LABEL).and_then(|r| r.parse::<CommitSha>().ok()),
            inputs: labels.get(INPUTS_LABEL).and_then(|inputs| inputs.parse().ok()),
        })
    };
    Ok(is_taken.into_iter().zip(tags.iter().zip(&manifests).map(held)).collect())
}

/// An unreadable image counts as absent; a registry that does not respond is an error.
pub(super) fn absent_if_unreadable<T>(
    answer: Result<Option<T>, RegistryError>,
) -> Result<Option<T>, RegistryError> {
    match answer {
        Err(error) if error.is_about_content() => Ok(None),
        answer => answer,
    }
}
