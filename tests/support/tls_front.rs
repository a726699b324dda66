//! TLS in front of a plain loopback server, with rustls, because openssl's own server is too simple.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

/// Terminates TLS for one request on each connection, and forwards it to `inner`. Returns the port.
pub fn start(certificate: &Path, key: &Path, inner: u16, _files: TempDir) -> u16 {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let config = Arc::clone(&config);
            std::thread::spawn(move || -> std::io::Result<()> {
                let session = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
                let mut tls = rustls::StreamOwned::new(session, client);
                let mut plain = TcpStream::connect(("127.0.0.1", inner))?;
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && tls.read(&mut byte)? == 1 {
                    head.push(byte[0]);
                }
                let end = head.len().saturating_sub(2);
                plain.write_all(&[&head[..end], b"Connection: close\r\n\r\n"].concat())?;
                let mut answer = Vec::new();
                plain.read_to_end(&mut answer)?;
                tls.write_all(&answer)?;
                tls.conn.send_close_notify();
                tls.flush()
            });
        }
    });
    port
}
