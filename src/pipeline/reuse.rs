//! Asks the registry for an image with the same inputs, so that it need not be built.

use crate::error::Failure;
use crate::model::{Digest, ImageRepository, Tag};
use crate::registry::{Registry, RegistryError};

/// The label that carries the hash of the inputs.
pub(super) const INPUTS_LABEL: &str = "io.swanci.inputs";

/// The digest of an image with these inputs under the first of `tags` that has one.
pub(super) fn find(
    client: &Registry,
    repository: &ImageRepository,
    tags: &[&Tag],
    inputs: &Digest,
) -> Result<Option<Digest>, Failure> {
    for tag in tags {
        if let Some(found) = under_tag(client, repository, tag, inputs)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn under_tag(
    client: &Registry,
    repository: &ImageRepository,
    tag: &Tag,
    inputs: &Digest,
) -> Result<Option<Digest>, RegistryError> {
    let Some(manifest) = client.get_manifest(repository.path(), tag)? else { return Ok(None) };
    // An image that cannot be read is not reused; it was somebody else's.
    let labels = match client.image_labels(repository.path(), &manifest) {
        Ok(config) => config.labels,
        Err(RegistryError::Protocol { .. } | RegistryError::TooLarge { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let same = labels.get(INPUTS_LABEL).is_some_and(|label| label == inputs.as_str());
    Ok(same.then_some(manifest.digest))
}
