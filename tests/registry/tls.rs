//! Whom swanci trusts.

use swanci::cancel::Cancel;
use swanci::error::{Failure, Kind};
use swanci::model::RegistryAddress;
use swanci::registry::{Credentials, Registry, RegistryError, Settings};

use super::{image, tag};
use crate::support::registry::{Ca, RegistryServer};

fn connect(settings: Settings) -> Result<Registry, RegistryError> {
    Registry::connect(settings, Credentials::Anonymous, Cancel::new())
}

/// The error of a ping, which has to be about the certificate and must not have been repeated.
fn refused(settings: Settings) -> String {
    let error = connect(settings).unwrap().ping().unwrap_err();
    assert!(matches!(error, RegistryError::Tls { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Environment);
    Failure::from(error).render()
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named() {
    let ca = Ca::new("ours");
    let server = RegistryServer::builder().tls(&ca).login("swan", "secret").start();
    let digest = server.push_sample_image("a", "1.0", &[]);
    let registry = server.client();
    registry.ping().unwrap();
    assert_eq!(registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap().digest, digest);
}

#[test]
fn a_certificate_of_another_authority_is_refused_with_a_way_out() {
    let (ours, other) = (Ca::new("same name"), Ca::new("same name"));
    let server = RegistryServer::builder().tls(&other).start();
    let mut settings = server.settings();
    settings.ca_pem = Some(ours.pem.into_bytes());
    let text = refused(settings);
    assert!(text.contains("certificate") && text.contains("`ca_file`"), "{text}");
    assert!(text.contains(&server.host()), "{text}");
}

#[test]
fn a_private_authority_is_not_trusted_unless_it_is_named() {
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
    assert!(text.contains("another name"), "{text}");
}

#[test]
fn a_self_signed_certificate_that_is_its_own_authority_is_explained() {
    // What `openssl req -x509` makes in one step; docker takes it, rustls does not.
    let server = RegistryServer::builder().self_signed().start();
    let text = refused(server.settings());
    assert!(text.contains("an authority's own") && text.contains("gen-certs"), "{text}");
}

#[test]
fn a_port_without_tls_is_refused_and_not_asked_in_plain_text() {
    let server = RegistryServer::plain();
    let mut settings = server.settings();
    settings.plain_http = false;
    settings.ca_pem = Some(Ca::new("ours").pem.into_bytes());
    let text = refused(settings);
    assert!(text.contains("does not speak TLS"), "{text}");
}

#[test]
fn plain_http_is_for_loopback_alone() {
    for host in ["registry.example.org:5000", "10.0.0.1:5000", "127.0.0.1.example.org:5000"] {
        let mut settings = Settings::new(host.parse::<RegistryAddress>().unwrap());
        settings.plain_http = true;
        let error = connect(settings).unwrap_err();
        assert!(matches!(error, RegistryError::Settings { .. }), "{host}: {error:?}");
        assert_eq!(error.kind(), Kind::BadInput);
    }
}

#[test]
fn a_file_that_holds_no_certificate_is_said_to_hold_none() {
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
