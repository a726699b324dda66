//! The certificates that swanci trusts, and why it rejects one.

use std::net::TcpStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::{HttpError, HttpErrorKind};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use ureq::tls::{Certificate, PemItem, parse_pem};
use url::Url;

/// The authorities of the system (or of `SSL_CERT_FILE` and `SSL_CERT_DIR`), and those of a `ca_file`. The error
/// describes what is wrong with the PEM text.
pub(super) fn authorities(ca_pem: Option<&[u8]>) -> Result<Arc<[Certificate<'static>]>, String> {
    // Read once, from a hundred files. What cannot be read is not trusted; a connection that needs it fails.
    static SYSTEM: LazyLock<Vec<Certificate<'static>>> = LazyLock::new(|| {
        let system = rustls_native_certs::load_native_certs().certs;
        system.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
    });
    let mut authorities = ca_pem.map(certificates).transpose()?.unwrap_or_default();
    authorities.extend(SYSTEM.iter().cloned());
    Ok(authorities.into())
}

/// A clock that is ahead of time.
#[derive(Debug)]
struct Ahead(Duration);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + self.0))
    }
}

/// For each step.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The day on which a server's certificate expires, if that is within `time`: a handshake with a clock that is ahead by
/// `time` fails with that reason.
pub(super) fn certificate_ends_within(
    authorities: &[Certificate<'static>],
    url: &Url,
    time: Duration,
) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.iter().map(|c| CertificateDer::from(c.der())));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_details(provider, Arc::new(Ahead(time)))
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = url.host_str()?.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(name).ok()?;
    let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
    let connect = |address| TcpStream::connect_timeout(&address, INSPECT_TIMEOUT).ok();
    let mut stream = url.socket_addrs(|| None).ok()?.into_iter().find_map(connect)?;
    stream.set_read_timeout(Some(INSPECT_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(INSPECT_TIMEOUT)).ok()?;
    let error = connection.complete_io(&mut stream).err()?;
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    if let rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) = error {
        return Some(date(*not_after));
    }
    None
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item.map_err(|e| format!("ca_file is not PEM text: {e}"))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            PemItem::PrivateKey(_) => {
                return Err("ca_file contains a private key; it must contain only certificates".to_owned());
            }
            _ => {}
        }
    }
    if certificates.is_empty() {
        return Err("ca_file contains no certificate (`-----BEGIN CERTIFICATE-----`)".to_owned());
    }
    Ok(certificates)
}

/// The failure of TLS in an error, with a hint, in which `{}` is the server's name in the configuration.
#[expect(clippy::wildcard_enum_match_arm, reason = "ureq's enum grows; the rest is not TLS")]
pub(super) fn explain(error: &ureq::Error, server: &str) -> Option<HttpError> {
    let (hint, detail) = match error {
        ureq::Error::Rustls(e) => explain_rustls(e, server),
        ureq::Error::Tls(e) => (OTHER, format!("TLS with {server} failed: {e}")),
        ureq::Error::Io(e) => explain_rustls(e.get_ref()?.downcast_ref::<rustls::Error>()?, server),
        _ => return None,
    };
    Some(HttpError { kind: HttpErrorKind::Tls(hint), detail })
}

const OTHER: &str = "`openssl s_client -connect {}` shows what the server offers";

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum grows; it explains the rest itself")]
fn explain_rustls(error: &rustls::Error, server: &str) -> (&'static str, String) {
    use CertificateError as C;
    let error = match error {
        rustls::Error::InvalidCertificate(error) => error,
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            let hint = "check the port; set `plain_http = true` under [registry] for a registry on this machine; any \
                        other needs a certificate";
            return (hint, format!("{server} speaks plain HTTP on this port, not TLS"));
        }
        other => return (OTHER, format!("TLS with {server} failed: {other}")),
    };
    let (hint, text) = match error {
        // A bad signature: an authority with the same name is trusted, and did not sign it.
        C::UnknownIssuer | C::BadSignature => (
            "set `ca_file` under [registry] to the certificate of the authority that signed the registry's; swanci never \
             continues without a valid certificate",
            "is not signed by an authority that swanci trusts".to_owned(),
        ),
        C::ExpiredContext { not_after, .. } => (
            "renew the certificate of {}; if it is valid, check this machine's clock (`date`)",
            format!("expired on {}", date(*not_after)),
        ),
        C::NotValidYetContext { not_before, .. } => (
            "check this machine's clock (`date`), and the dates of the certificate",
            format!("is not valid yet; it begins on {}", date(*not_before)),
        ),
        C::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> =
                presented.iter().take(5).map(|name| crate::escape::shortened(name, 100)).collect();
            let names = match &names[..] {
                [] => "it has no subjectAltName, and a CN does not count".to_owned(),
                names => names.join(", "),
            };
            (
                "use the registry's name from its certificate, or give it one for {} (a subjectAltName; a CN does not count)",
                format!("is for another name: {names}"),
            )
        }
        // rustls wraps webpki's own error without its type.
        C::Other(e) if format!("{e:?}").contains("CaUsedAsEndEntity") => (
            "`swanci certs` makes an authority and a certificate that it signed",
            "is an authority's own; a server needs one that an authority signed".to_owned(),
        ),
        other => {
            let other = rustls::Error::InvalidCertificate(other.clone());
            return (OTHER, format!("TLS with {server} failed: {other}"));
        }
    };
    (hint, format!("the certificate of {server} {text}"))
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let day = jiff::Timestamp::from_second(seconds).map(|t| t.strftime("%Y-%m-%d").to_string());
    day.unwrap_or_else(|_| "a day that cannot be shown".to_owned())
}
