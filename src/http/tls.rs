//! The certificates that swanci trusts, and why it rejects one.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// The authorities of the system (or of `SSL_CERT_FILE` and `SSL_CERT_DIR`), and those of a `ca_file`.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<[Certificate<'static>]>);

impl Trust {
    /// The error says what is wrong with the PEM text.
    pub(crate) fn new(ca_pem: Option<&[u8]>) -> Result<Trust, String> {
        // Read once, from a hundred files. What cannot be read is not trusted; a connection that needs it fails.
        static SYSTEM: LazyLock<Vec<Certificate<'static>>> = LazyLock::new(|| {
            let system = rustls_native_certs::load_native_certs().certs;
            system.iter().map(|der| Certificate::from_der(der).to_owned()).collect()
        });
        let mut roots = ca_pem.map(certificates).transpose()?.unwrap_or_default();
        roots.extend(SYSTEM.iter().cloned());
        Ok(Trust(roots.into()))
    }

    pub(super) fn config(&self) -> TlsConfig {
        TlsConfig::builder().root_certs(RootCerts::from(self.0.to_vec())).build()
    }
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

impl Trust {
    /// The day on which the server's certificate expires, if that is within `time`: a handshake with a clock that is ahead
    /// by `time` fails and says so.
    pub(super) fn certificate_ends_within(
        &self,
        host: &str,
        addresses: &[SocketAddr],
        time: Duration,
    ) -> Option<String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(self.0.iter().map(|c| CertificateDer::from(c.der())));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_details(provider, Arc::new(Ahead(time)))
            .with_safe_default_protocol_versions()
            .ok()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).ok()?;
        let mut connection = ClientConnection::new(Arc::new(config), name).ok()?;
        let mut stream =
            addresses.iter().find_map(|address| TcpStream::connect_timeout(address, INSPECT_TIMEOUT).ok())?;
        stream.set_read_timeout(Some(INSPECT_TIMEOUT)).ok()?;
        stream.set_write_timeout(Some(INSPECT_TIMEOUT)).ok()?;
        let error = connection.complete_io(&mut stream).err()?;
        let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
        if let rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) = error {
            Some(date(*not_after))
        } else {
            None
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item.map_err(|e| format!("ca_file is not PEM text: {e}"))? {
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
    Ok(certificates)
}

/// What is wrong with a server's certificate, or with its TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsCause {
    Expired,
    NotYetValid,
    WrongName,
    UnknownAuthority,
    /// A server uses the certificate of an authority.
    AuthorityAsServer,
    /// The server speaks plain HTTP where TLS was tried.
    PlainHttp,
    /// The server speaks TLS where plain HTTP was tried.
    TlsExpected,
    Other,
}

/// The cause and a sentence, when TLS is what failed.
#[expect(clippy::wildcard_enum_match_arm, reason = "ureq's enum grows; the rest is not TLS")]
pub(super) fn explain(error: &ureq::Error, server: &str) -> Option<(TlsCause, String)> {
    match error {
        ureq::Error::Rustls(e) => Some(explain_rustls(e, server)),
        ureq::Error::Tls(e) => Some((TlsCause::Other, format!("TLS with {server} failed: {e}"))),
        ureq::Error::Io(e) => e.get_ref()?.downcast_ref::<rustls::Error>().map(|e| explain_rustls(e, server)),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum grows; it explains the rest itself")]
fn explain_rustls(error: &rustls::Error, server: &str) -> (TlsCause, String) {
    use CertificateError as C;
    let error = match error {
        rustls::Error::InvalidCertificate(error) => error,
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            return (TlsCause::PlainHttp, format!("{server} speaks plain HTTP on this port, not TLS"));
        }
        other => return (TlsCause::Other, format!("TLS with {server} failed: {other}")),
    };
    let (cause, text) = match error {
        // A bad signature: an authority with the same name is trusted, and did not sign it.
        C::UnknownIssuer | C::BadSignature => {
            (TlsCause::UnknownAuthority, "is not signed by an authority that swanci trusts".to_owned())
        }
        C::Expired => (TlsCause::Expired, "has expired".to_owned()),
        C::ExpiredContext { not_after, .. } => {
            (TlsCause::Expired, format!("expired on {}", date(*not_after)))
        }
        C::NotValidYet => (TlsCause::NotYetValid, "is not valid yet".to_owned()),
        C::NotValidYetContext { not_before, .. } => {
            (TlsCause::NotYetValid, format!("is not valid yet; it begins on {}", date(*not_before)))
        }
        C::NotValidForName => (TlsCause::WrongName, "is for another name".to_owned()),
        C::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> =
                presented.iter().take(5).map(|name| crate::escape::shortened(name, 100)).collect();
            let names = match &names[..] {
                [] => "it holds no subjectAltName, and a CN does not count".to_owned(),
                names => names.join(", "),
            };
            (TlsCause::WrongName, format!("is for another name: {names}"))
        }
        // rustls wraps webpki's own error without its type.
        C::Other(e) if format!("{e:?}").contains("CaUsedAsEndEntity") => (
            TlsCause::AuthorityAsServer,
            "is an authority's own; a server needs one that an authority signed".to_owned(),
        ),
        other => {
            let other = rustls::Error::InvalidCertificate(other.clone());
            return (TlsCause::Other, format!("TLS with {server} failed: {other}"));
        }
    };
    (cause, format!("the certificate of {server} {text}"))
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let day = jiff::Timestamp::from_second(seconds).map(|t| t.strftime("%Y-%m-%d").to_string());
    day.unwrap_or_else(|_| "a day that cannot be shown".to_owned())
}
