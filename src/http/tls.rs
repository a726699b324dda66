//! Which certificates swanci trusts, and what is wrong with one that it does not.

use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

/// The authorities of the system (also by `SSL_CERT_FILE` and `SSL_CERT_DIR`), and those of a `ca_file` besides.
#[derive(Debug, Clone)]
pub(crate) struct Trust(Arc<[Certificate<'static>]>);

impl Trust {
    /// # Errors
    /// A sentence that says what is wrong with the PEM text.
    pub(crate) fn new(ca_pem: Option<&[u8]>) -> Result<Trust, String> {
        // A system has a hundred files of them. What cannot be read is not trusted; a connection that needs it says so.
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

/// Answers that it is a later time than it is.
#[derive(Debug)]
struct Ahead(Duration);

impl TimeProvider for Ahead {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + self.0))
    }
}

/// How long each step of looking at a certificate may take.
const LOOK: Duration = Duration::from_secs(5);

impl Trust {
    /// The day on which the certificate of this server ends, if that is within `time`: a handshake with a clock that is
    /// so far ahead tells.
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
            addresses.iter().find_map(|address| TcpStream::connect_timeout(address, LOOK).ok())?;
        stream.set_read_timeout(Some(LOOK)).ok()?;
        stream.set_write_timeout(Some(LOOK)).ok()?;
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
    /// Its time is over.
    Expired,
    /// Its time has not begun.
    NotYetValid,
    /// It does not hold the name under which the server was asked.
    WrongName,
    /// No trusted authority signed it.
    UnknownAuthority,
    /// An authority's own certificate is used by a server.
    AuthorityAsServer,
    /// The server speaks plain HTTP where TLS was tried.
    PlainHttp,
    /// The server speaks TLS where plain HTTP was tried.
    TlsExpected,
    /// Anything else.
    Other,
}

/// A [`TlsCause`] with a sentence about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFault {
    pub(crate) cause: TlsCause,
    pub(crate) detail: String,
}

/// The fault of this server's TLS, if that is what failed.
#[expect(clippy::wildcard_enum_match_arm, reason = "ureq's enum grows; the rest is not TLS")]
pub(super) fn fault(error: &ureq::Error, server: &str) -> Option<TlsFault> {
    match error {
        ureq::Error::Rustls(e) => Some(explain(e, server)),
        ureq::Error::Tls(e) => {
            Some(TlsFault { cause: TlsCause::Other, detail: format!("TLS with {server} failed: {e}") })
        }
        ureq::Error::Io(e) => e.get_ref()?.downcast_ref::<rustls::Error>().map(|e| explain(e, server)),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls's enum grows; it explains the rest itself")]
fn explain(error: &rustls::Error, server: &str) -> TlsFault {
    use rustls::CertificateError as C;
    use rustls::Error as E;
    let about =
        |cause, text: String| TlsFault { cause, detail: format!("the certificate of {server} {text}") };
    match error {
        // A bad signature: an authority of the same name is trusted, and did not sign it.
        E::InvalidCertificate(C::UnknownIssuer | C::BadSignature) => {
            about(TlsCause::UnknownAuthority, "is not signed by an authority that swanci trusts".to_owned())
        }
        E::InvalidCertificate(C::Expired) => about(TlsCause::Expired, "has expired".to_owned()),
        E::InvalidCertificate(C::ExpiredContext { not_after, .. }) => {
            about(TlsCause::Expired, format!("expired on {}", date(*not_after)))
        }
        E::InvalidCertificate(C::NotValidYet) => about(TlsCause::NotYetValid, "is not valid yet".to_owned()),
        E::InvalidCertificate(C::NotValidYetContext { not_before, .. }) => {
            about(TlsCause::NotYetValid, format!("is not valid yet; it begins on {}", date(*not_before)))
        }
        E::InvalidCertificate(C::NotValidForName) => {
            about(TlsCause::WrongName, "is for another name".to_owned())
        }
        E::InvalidCertificate(C::NotValidForNameContext { presented, .. }) => {
            let names = match &presented[..] {
                [] => "it holds no subjectAltName, and a CN does not count".to_owned(),
                names => names
                    .iter()
                    .take(5)
                    .map(|n| crate::escape::shortened(n, 100))
                    .collect::<Vec<_>>()
                    .join(", "),
            };
            about(TlsCause::WrongName, format!("is for another name: {names}"))
        }
        // rustls passes on webpki's own error, and not its type.
        E::InvalidCertificate(C::Other(e)) if format!("{e:?}").contains("CaUsedAsEndEntity") => about(
            TlsCause::AuthorityAsServer,
            "is an authority's own; a server needs one that an authority signed".to_owned(),
        ),
        E::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => TlsFault {
            cause: TlsCause::PlainHttp,
            detail: format!("{server} speaks plain HTTP on this port, not TLS"),
        },
        other => TlsFault { cause: TlsCause::Other, detail: format!("TLS with {server} failed: {other}") },
    }
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let day = jiff::Timestamp::from_second(seconds).map(|t| t.strftime("%Y-%m-%d").to_string());
    day.unwrap_or_else(|_| "a day that cannot be shown".to_owned())
}
