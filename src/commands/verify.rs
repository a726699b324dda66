//! `swanci verify`: checks that the registry still has everything on a receipt.

use std::path::Path;

use crate::cli::SiteArgs;
use crate::documents::Receipt;
use crate::error::Failure;
use crate::model::RegistryAddress;
use crate::pipeline::verify;

use super::Session;
use super::documents_io::{parse, read_bytes, write_outcome};
use super::summary;

/// Prints the result; drift exits with 1.
pub(super) fn command(
    session: &Session,
    path: &Path,
    registry: Option<RegistryAddress>,
) -> Result<(), Failure> {
    let receipt: Receipt = parse(path, &read_bytes(path)?, "the receipt of `swanci push`")?;
    // A receipt names its registry; the configuration is only a fallback.
    let registry = registry.or_else(|| receipt.registry.clone());
    let site = session.site(&SiteArgs { registry, ..SiteArgs::default() })?;
    let verified = verify::verify(&site, &receipt)?;
    let shown = || summary::verification(&verified.document);
    write_outcome(session, &verified.document, shown, verified.failure)
}
