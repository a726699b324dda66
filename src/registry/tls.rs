//! Whom swanci trusts: exactly the given authority, or the system's.

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// The trust for one registry; an error says what is wrong with the PEM text.
pub(super) fn trust(ca_pem: Option<&[u8]>) -> Result<TlsConfig, String> {
    let roots = match ca_pem {
        None => RootCerts::PlatformVerifier,
        Some(pem) => {
            let mut certificates = Vec::new();
            for item in parse_pem(pem) {
                match item.map_err(|e| format!("ca_file is no PEM text: {e}"))? {
                    PemItem::Certificate(certificate) => certificates.push(certificate),
                    PemItem::PrivateKey(_) => {
                        return Err("ca_file holds a private key; give it the certificate alone".to_owned());
                    }
                    _ => {}
                }
            }
            if certificates.is_empty() {
                return Err("ca_file holds no certificate (`-----BEGIN CERTIFICATE-----`)".to_owned());
            }
            RootCerts::from(certificates)
        }
    };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

/// What is wrong with the server's certificate or its TLS, if that is what failed.
#[expect(clippy::wildcard_enum_match_arm, reason = "ureq's enum grows; what is not TLS is not ours here")]
pub(super) fn problem(error: &ureq::Error) -> Option<String> {
    match error {
        ureq::Error::Rustls(e) => Some(explain(e)),
        ureq::Error::Tls(e) => Some((*e).to_owned()),
        ureq::Error::Io(e) => e.get_ref()?.downcast_ref::<rustls::Error>().map(explain),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum grows; it explains the rest itself")]
fn explain(error: &rustls::Error) -> String {
    use rustls::CertificateError as C;
    match error {
        rustls::Error::InvalidCertificate(C::UnknownIssuer) => {
            "the registry's certificate is not signed by an authority that swanci trusts".to_owned()
        }
        rustls::Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. }) => {
            "the registry's certificate has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(C::NotValidYet | C::NotValidYetContext { .. }) => {
            "the registry's certificate is not valid yet (is the clock right?)".to_owned()
        }
        rustls::Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "the registry's certificate is for another name (a subjectAltName is needed, a CN does not count)"
                .to_owned()
        }
        // webpki's own error, and not its type, is what rustls passes on here.
        rustls::Error::InvalidCertificate(C::Other(e)) if format!("{e:?}").contains("CaUsedAsEndEntity") => {
            "the registry's certificate is an authority's own; a server needs one that an authority signed \
             (`scripts/gen-certs` makes both)"
                .to_owned()
        }
        rustls::Error::InvalidMessage(_) => "the registry does not speak TLS on this port".to_owned(),
        other => format!("TLS failed: {other}"),
    }
}
