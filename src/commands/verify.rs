//! `swanci verify`: checks that the registry still has everything on a receipt.

use std::io::Write;

use crate::cli::{RegistryArgs, Verify};
use crate::documents::Receipt;
use crate::error::Failure;
use crate::pipeline::verify;

use super::Session;
use super::documents_io::{parse, read_bytes, write_outcome};
use super::summary;

/// Prints the result; drift exits with 1.
pub(super) fn command(session: &Session, args: &Verify, out: &mut dyn Write) -> Result<(), Failure> {
    let bytes = read_bytes(&args.receipt)?;
    let receipt: Receipt = parse(&args.receipt, &bytes, "the receipt of `swanci push`")?;
    // A receipt names its registry; the configuration is only a fallback.
    let registry =
        RegistryArgs { registry: args.registry.registry.clone().or_else(|| receipt.registry.clone()) };
    let site = session.site(&registry, None)?;
    let verified = verify::verify(&site, &receipt)?;
    let shown = || summary::verification(&verified.document);
    write_outcome(session, out, &verified.document, shown, verified.failure)
}
