//! Asks the registry for an image with the same inputs, so that it need not be built.

use std::time::Instant;

use crate::error::Failure;
use crate::model::{Digest, ImageRepository, Tag};
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

/// The first image with these inputs, as CONTRACT orders the places: the commit's own `sha-` tag, the first moving
/// tag, the first parent's `sha-` tag.
pub(super) fn find(
    client: &Registry,
    repository: &ImageRepository,
    own: &Tag,
    others: &[&Tag],
    inputs: &Digest,
) -> Result<Option<Reused>, Failure> {
    let asked = Instant::now();
    let standing = match under_tag(client, repository, own, inputs)? {
        Under::Same(digest) => return Ok(Some(Reused { digest, standing: Standing::Tagged })),
        Under::Nothing => Standing::Untagged(asked),
        Under::Another => Standing::Unknown,
    };
    for tag in others {
        if let Under::Same(digest) = under_tag(client, repository, tag, inputs)? {
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
