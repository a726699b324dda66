//! A small certificate authority and a server certificate, like those of `scripts/gen-certs`.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_DAYS: u32 = 3650;
/// Apple's clients accept no more.
const SERVER_DAYS: u32 = 825;

/// A certificate or a chain, and its key, as PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Starts yesterday, because a client's clock may be slow.
fn valid_for(days: u32, now: jiff::Timestamp, params: &mut CertificateParams) -> anyhow::Result<()> {
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (month, day) = (u8::try_from(today.month())?, u8::try_from(today.day())?);
    params.not_before = rcgen::date_time_ymd(today.year().into(), month, day) - DAY;
    params.not_after = params.not_before + DAY * days;
    Ok(())
}

pub(crate) fn authority(now: jiff::Timestamp) -> anyhow::Result<Pair> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(CA_DAYS, now, &mut authority)?;
    authority.distinguished_name = rcgen::DistinguishedName::new();
    authority.distinguished_name.push(DnType::OrganizationName, "swanci");
    // Clients would confuse two authorities with the same name.
    let random = super::random::<4>().map_err(|failure| failure.error)?;
    authority.distinguished_name.push(DnType::CommonName, format!("swanci registry CA {random}"));
    Ok(Pair { certificate: authority.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A certificate for these host names and addresses, followed by that of the authority.
pub(crate) fn server(authority: &Pair, names: &[String], now: jiff::Timestamp) -> anyhow::Result<Pair> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    valid_for(SERVER_DAYS, now, &mut server)?;
    server.distinguished_name = rcgen::DistinguishedName::new();
    // At most 64 characters (RFC 5280, ub-common-name); clients look at the subjectAltName only.
    let common: String = names.first().map(|name| name.chars().take(64).collect()).unwrap_or_default();
    server.distinguished_name.push(DnType::CommonName, common);
    let certificate = server.signed_by(&key, &issuer)?.pem() + &authority.certificate;
    Ok(Pair { certificate, key: key.serialize_pem() })
}
