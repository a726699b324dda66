//! An image contains exactly what its commit defines, regardless of names, links and attributes, and of the configuration of
//! the user who runs swanci.

mod contexts;
mod faults;
mod late;
mod tokens;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::support::registry::Ca;
use crate::support::tls_front;

/// A server of git's plain-file protocol (gitprotocol-http(5), "dumb") that records the heads of all requests. Every
/// path that ends in `/shop.git` is the repository.
struct PlainServer {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

fn plain_server(git_dir: PathBuf, allowed: impl Fn(&str) -> bool + Send + Sync + 'static) -> PlainServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::new((git_dir, allowed, Arc::clone(&seen)));
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                let (git_dir, allowed, seen) = &*shared;
                answer(&mut connection, git_dir, allowed, seen);
            });
        }
    });
    PlainServer { port, seen }
}

fn answer(
    connection: &mut TcpStream,
    git_dir: &Path,
    allowed: &dyn Fn(&str) -> bool,
    seen: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|n| n == 1) {
        head.push(byte[0]);
        // The first byte of a TLS handshake (RFC 8446, 5.1).
        if head == [22] {
            let _ = connection.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            return;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .to_lowercase()
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap().parse().unwrap());
    let _ = connection.read_exact(&mut vec![0; length]);
    let path = head.split([' ', '?']).nth(1).unwrap_or("").split_once("/shop.git/").map(|(_, p)| p);
    let (status, body) = match path.and_then(|path| std::fs::read(git_dir.join(path)).ok()) {
        _ if !allowed(&head) => ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", Vec::new()),
        Some(body) => ("200 OK", body),
        None => ("404 Not Found", Vec::new()),
    };
    seen.lock().unwrap().push(head);
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/vnd.git-lfs+json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    let _ = connection.write_all(&[answer.as_bytes(), &body].concat());
}

/// TLS in front of a [`PlainServer`] with a certificate of `ca` for these names. Returns the port.
fn tls_server(ca: &Ca, names: &[&str], inner: &PlainServer) -> u16 {
    let (certificate, key) = ca.server(names);
    let dir = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (dir.path().join("crt"), dir.path().join("key"));
    std::fs::write(&cert_file, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    tls_front::start(&cert_file, &key_file, inner.port, dir)
}
