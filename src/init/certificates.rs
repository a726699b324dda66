//! A small certificate authority and a server certificate: what `scripts/gen-certs` makes with openssl.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Days that the authority is valid.
const CA_DAYS: u32 = 3650;
/// Days that the server's certificate is valid: Apple's clients take no more.
const SERVER_DAYS: u32 = 825;

/// PEM texts.
pub(super) struct Made {
    pub(super) ca: String,
    pub(super) ca_key: String,
    /// With the authority's behind it.
    pub(super) certificate: String,
    pub(super) key: String,
}

/// Makes both for a server of these names, host names or addresses. Keys are ECDSA P-256.
pub(super) fn make(names: &[String], now: jiff::Timestamp) -> anyhow::Result<Made> {
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date();
    let (month, day) = (u8::try_from(today.month())?, u8::try_from(today.day())?);
    // A day ago: a client's clock may be behind.
    let begin = rcgen::date_time_ymd(today.year().into(), month, day) - DAY;

    let ca_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.not_before = begin;
    authority.not_after = begin + DAY * CA_DAYS;
    authority.distinguished_name = rcgen::DistinguishedName::new();
    authority.distinguished_name.push(DnType::OrganizationName, "swanci");
    // Two authorities of one name would be taken for each other.
    let mut random = [0; 4];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("the system gives no random bytes: {e}"))?;
    authority
        .distinguished_name
        .push(DnType::CommonName, format!("swanci registry CA {}", hex::encode(random)));
    let ca = authority.self_signed(&ca_key)?.pem();

    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    server.not_before = begin;
    server.not_after = begin + DAY * SERVER_DAYS;
    server.distinguished_name = rcgen::DistinguishedName::new();
    // At most 64 characters (RFC 5280, ub-common-name); clients look at the subjectAltName only.
    let common: String = names.first().map(|name| name.chars().take(64).collect()).unwrap_or_default();
    server.distinguished_name.push(DnType::CommonName, common);
    let (ca_key_pem, key_pem) = (ca_key.serialize_pem(), key.serialize_pem());
    let certificate = server.signed_by(&key, &Issuer::new(authority, ca_key))?.pem() + &ca;
    Ok(Made { ca, ca_key: ca_key_pem, certificate, key: key_pem })
}
