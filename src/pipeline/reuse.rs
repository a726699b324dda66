//! Asks the registry for an image with the same inputs, so that it need not be built.

use std::time::Instant;

use crate::error::Failure;
use crate::model::{Digest, ImageRepository, Tag};
use crate::parallel;
use crate::registry::{Registry, RegistryError};

use super::push::Standing;

/// The label that carries the hash of the inputs.
pub(super) const INPUTS_LABEL: &str = "io.swanci.inputs";

/// An image that need not be built.
pub(super) struct Reused {
    pub(super) digest: Digest,
    /// What was seen of the immutable tag on the way.
    pub(super) standing: Standing,
}

/// Where an image may be found: under the commit's own `sha-` tag, the first moving tag, the first parent's `sha-` tag.
pub(super) const PLACES: usize = 3;

/// How the places are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// One after the other, up to the one that answers.
    InTurn,
    /// All at once: a registry far away is waited for once.
    AtOnce,
}

/// The first image with these inputs, in the order of the places.
pub(super) fn find(
    client: &Registry,
    repository: &ImageRepository,
    places: [Option<&Tag>; PLACES],
    inputs: &Digest,
    ask: Ask,
) -> Result<Option<Reused>, Failure> {
    let asked = Instant::now();
    let look = |tag: &Option<&Tag>| match tag {
        Some(tag) => under_tag(client, repository, tag, inputs),
        None => Ok(Under::Nothing),
    };
    let mut at_once: [Option<_>; PLACES] = Default::default();
    if ask == Ask::AtOnce {
        for (slot, answer) in at_once.iter_mut().zip(parallel::map(PLACES, &places, look)) {
            *slot = Some(answer);
        }
    }
    let mut answer = |place: usize| at_once[place].take().unwrap_or_else(|| look(&places[place]));
    let own_is_free = match answer(0)? {
        Under::Same(digest) => return Ok(Some(Reused { digest, standing: Standing::Tagged })),
        Under::Nothing => true,
        Under::Another => false,
    };
    let standing = if own_is_free { Standing::Untagged(asked) } else { Standing::Unknown };
    for place in 1..PLACES {
        if let Under::Same(digest) = answer(place)? {
            return Ok(Some(Reused { digest, standing }));
        }
    }
    Ok(None)
}

/// What stands under a tag.
enum Under {
    Nothing,
    /// An image with other inputs, or one that cannot be read: it was somebody else's.
    Another,
    /// An image with the same inputs.
    Same(Digest),
}

fn under_tag(
    client: &Registry,
    repository: &ImageRepository,
    tag: &Tag,
    inputs: &Digest,
) -> Result<Under, RegistryError> {
    let Some(manifest) = client.get_manifest(repository.path(), tag)? else { return Ok(Under::Nothing) };
    let labels = match client.image_labels(repository.path(), &manifest) {
        Ok(config) => config.labels,
        Err(RegistryError::Protocol { .. } | RegistryError::TooLarge { .. }) => return Ok(Under::Another),
        Err(error) => return Err(error),
    };
    let same = labels.get(INPUTS_LABEL).is_some_and(|label| label == inputs.as_str());
    Ok(if same { Under::Same(manifest.digest) } else { Under::Another })
}
