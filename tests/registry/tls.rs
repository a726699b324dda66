//! The certificates that swanci trusts.

use swanci::cancel::Cancel;
use swanci::error::{Failure, Kind};
use swanci::model::RegistryAddress;
use swanci::registry::{Credentials, Registry, RegistryError, RegistryErrorKind, Settings};

use super::{image, tag};
use crate::support::proxy::{Fault, Proxy};
use crate::support::registry::{Ca, RegistryServer, settings};
use crate::support::tls_front;

fn connect(settings: Settings) -> Result<Registry, RegistryError> {
    Registry::connect(settings, Credentials::Anonymous, Cancel::new())
}

/// The error of a ping, which must be about TLS and must not have been retried.
fn refused(settings: Settings) -> String {
    let error = connect(settings).unwrap().ping().unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Tls(_)), "{error:?}");
    assert_eq!(error.kind(), Kind::Environment);
    Failure::from(error).render()
}

#[test]
fn a_private_authority_is_trusted_when_it_is_configured() {
    let ca = Ca::new("ours");
    let server = RegistryServer::builder().tls(&ca).login("swan", "secret").start();
    let digest = server.push_sample_image("a", "1.0", &[]);
    let registry = server.client();
    registry.ping().unwrap();
    assert_eq!(registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap(), digest);
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_with_a_hint() {
    let (ours, other) = (Ca::new("same name"), Ca::new("same name"));
    let server = RegistryServer::builder().tls(&other).start();
    let mut settings = server.settings();
    settings.ca_pem = Some(ours.pem.into_bytes());
    let text = refused(settings);
    assert!(text.contains("certificate") && text.contains("`ca_file`"), "{text}");
    assert!(text.contains(&server.host()), "{text}");
}

#[test]
fn a_private_authority_is_not_trusted_by_default() {
    let server = RegistryServer::builder().tls(&Ca::new("ours")).start();
    let mut settings = server.settings();
    settings.ca_pem = None;
    let text = refused(settings);
    assert!(text.contains("certificate") && text.contains("`ca_file`"), "{text}");
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let ca = Ca::new("ours");
    let server = RegistryServer::builder().tls_for(&ca, &["registry.example.org"]).start();
    let text = refused(server.settings());
    assert!(text.contains("another name") && text.contains("registry.example.org"), "{text}");
    assert!(!text.contains("ca_file"), "{text}");
}

#[test]
fn an_expired_or_not_yet_valid_certificate_is_refused_with_its_date() {
    let ca = Ca::new("ours");
    for (from, to, words) in [
        ((2020, 1, 1), (2021, 2, 3), "expired on 2021-02-03"),
        ((2090, 1, 1), (2091, 1, 1), "it begins on 2090-01-01"),
    ] {
        let server = RegistryServer::builder().tls_between(&ca, from, to).start();
        let text = refused(server.settings());
        assert!(text.contains(words) && text.contains("clock") && !text.contains("ca_file"), "{text}");
    }
}

#[test]
fn plain_http_to_a_port_with_tls_is_explained() {
    let server = RegistryServer::builder().tls(&Ca::new("ours")).start();
    let mut settings = server.settings();
    settings.plain_http = true;
    let text = refused(settings);
    assert!(text.contains("speaks TLS") && text.contains("plain_http"), "{text}");
    assert!(!text.contains("ca_file"), "{text}");
}

#[test]
fn the_systems_authorities_stay_trusted_with_a_ca_file() {
    // SSL_CERT_FILE sets the system's authorities, which a test must not change for other tests in the process.
    const TEST: &str = "registry::tls::the_systems_authorities_stay_trusted_with_a_ca_file";
    if let Some(hosts) = std::env::var_os("SWANCI_TEST_STORAGE") {
        let hosts = hosts.into_string().unwrap();
        let (registry_host, ca) = hosts.split_once(' ').unwrap();
        let settings = settings(registry_host, Some(&std::fs::read_to_string(ca).unwrap()));
        let registry = connect(settings).unwrap();
        let manifest = registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
        registry.image_labels(&image("a"), &manifest).unwrap();
        return;
    }
    let (ours, systems) = (Ca::new("ours"), Ca::new("the system's"));
    let storage = RegistryServer::builder().tls(&systems).start();
    storage.push_sample_image("a", "1.0", &[]);
    let inner = RegistryServer::plain();
    inner.push_sample_image("a", "1.0", &[]);
    let proxy = Proxy::start(inner.address);
    proxy.always("*", "/v2/a/blobs/", Fault::Redirect(format!("https://{}", storage.host())));
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = ours.server(&["127.0.0.1"]);
    let at = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let port = tls_front::start(
        &at("crt", &certificate),
        &at("key", &key),
        proxy.address.port(),
        tempfile::tempdir().unwrap(),
    );
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env("SWANCI_TEST_STORAGE", format!("127.0.0.1:{port} {}", at("ours.crt", &ours.pem).display()))
        .env("SSL_CERT_FILE", at("system.crt", &systems.pem))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
fn an_authority_used_as_a_server_certificate_is_explained() {
    // A certificate like that of `openssl req -x509`; docker accepts it, rustls does not.
    let server = RegistryServer::builder().self_signed().start();
    let text = refused(server.settings());
    assert!(text.contains("an authority's own") && text.contains("swanci certs"), "{text}");
}

#[test]
fn a_port_without_tls_is_refused_without_falling_back_to_plain_http() {
    let server = RegistryServer::plain();
    let mut settings = server.settings();
    settings.plain_http = false;
    settings.ca_pem = Some(Ca::new("ours").pem.into_bytes());
    let text = refused(settings);
    assert!(text.contains("speaks plain HTTP") && !text.contains("ca_file"), "{text}");
}

#[test]
fn plain_http_is_allowed_only_on_loopback() {
    for host in ["registry.example.org:5000", "10.0.0.1:5000", "127.0.0.1.example.org:5000"] {
        let mut settings = Settings::new(host.parse::<RegistryAddress>().unwrap());
        settings.plain_http = true;
        let error = connect(settings).unwrap_err();
        assert_eq!(error.kind, RegistryErrorKind::Settings, "{host}: {error:?}");
        assert_eq!(error.kind(), Kind::BadInput);
    }
}

#[test]
fn a_ca_file_without_a_certificate_is_refused() {
    let key = Ca::new("x").server(&["x"]).1;
    for (pem, why) in [("", "no certificate"), ("nonsense", "no certificate"), (key.as_str(), "private key")]
    {
        let mut settings = Settings::new("127.0.0.1:1".parse::<RegistryAddress>().unwrap());
        settings.ca_pem = Some(pem.as_bytes().to_vec());
        let text = connect(settings).unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
        assert!(!text.contains("BEGIN PRIVATE"), "{text}");
    }
}
