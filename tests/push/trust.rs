//! Registries with a login, with a right or wrong certificate, and unreachable registries.

use serde_json::json;

use crate::support::engine::{self, Cleanup};
use crate::support::proxy::{Proxy, Reply};
use crate::support::registry::{Ca, RegistryServer};
use crate::support::repository::Repository;
use crate::support::swanci::{Scene, Swanci, image, outcome};
use crate::support::token_server::TokenRegistry;

/// A scene with this registry at the address `host`.
fn scene(registry: RegistryServer, host: &str) -> (Scene, String) {
    engine::needed();
    let mut images = Cleanup::new(&registry.host());
    images.also(host);
    let scene = Scene {
        registry,
        repository: Repository::new(),
        swanci: Swanci::new(),
        name: "acme/shop".into(),
        images,
    };
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.configure_for(host, "");
    (scene, commit)
}

fn docker_login(host: &str, user: &str, password: &str) -> String {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    json!({"auths": {host: {"auth": auth}}}).to_string()
}

#[test]
fn basic_credentials_come_from_dockers_own_configuration() {
    let registry = RegistryServer::builder().login("me", "canary-password-1").start();
    let host = registry.host();
    let (scene, commit) = scene(registry, &host);
    scene.run(&commit, &[]).ended(6).saying(&["hint:", "docker login"]);
    scene.swanci.docker_config(&docker_login(&host, "me", "wrong"));
    scene.run(&commit, &[]).ended(6).saying(&["docker login"]);
    scene.swanci.docker_config(&docker_login(&host, "me", "canary-password-1"));
    let ran = scene.run(&commit, &["-v"]).ended(0);
    assert_eq!(outcome(&ran.json(), "a", "1"), "moved");
    assert!(!ran.stderr.contains("canary-password-1"), "{}", ran.stderr);
}

#[test]
fn credentials_come_from_dockers_credential_helpers() {
    let registry = RegistryServer::builder().login("me", "canary-password-2").start();
    let host = registry.host();
    let (mut scene, commit) = scene(registry, &host);
    scene.swanci.program(
        "docker-credential-test",
        "#!/bin/sh\n[ \"$1\" = get ] || exit 1\ncat >/dev/null\n\
         echo '{\"Username\":\"me\",\"Secret\":\"canary-password-2\"}'\n",
    );
    scene.swanci.docker_config(&json!({"credHelpers": {&host: "test"}}).to_string());
    let receipt = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
}

#[test]
fn a_registry_with_bearer_tokens_is_pushed_to() {
    let registry = RegistryServer::plain();
    let front = TokenRegistry::start(registry.address, Some(("me", "canary-password-3")));
    let (scene, commit) = scene(registry, &front.host());
    scene.run(&commit, &[]).ended(6).saying(&["docker login"]);
    scene.swanci.docker_config(&docker_login(&front.host(), "me", "canary-password-3"));
    let receipt = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    assert!(front.given() > 0);
}

#[test]
fn only_the_configured_private_authority_is_trusted() {
    let ca = Ca::new("the registry's");
    let registry = RegistryServer::builder().tls(&ca).start();
    let host = registry.host();
    let (scene, commit) = scene(registry, &host);
    let write = |ca_file: &str| {
        scene.swanci.config(&format!(
            "[registry]\nhost = \"{host}\"\n{ca_file}\n[[repository]]\nname = \"acme/shop\"\nclone_url = \"{}\"\n",
            scene.repository.url()
        ));
    };
    scene.swanci.file("ca.crt", &ca.pem);
    scene.swanci.file("other.crt", Ca::new("another").pem);
    for config in ["", "ca_file = \"other.crt\""] {
        write(config);
        let refused = scene.run(&commit, &[]).ended(6).saying(&["certificate", "hint:", "ca_file"]);
        assert_eq!(refused.stdout, "");
    }
    // The path is relative to the configuration file.
    write("ca_file = \"ca.crt\"");
    let receipt = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(image(&receipt, "a")["status"], "built");
    write("ca_file = \"absent.crt\"");
    scene.run(&commit, &[]).ended(4).saying(&["absent.crt"]);
}

#[test]
fn an_unreachable_registry_is_an_environment_failure() {
    let (mut scene, commit) = Scene::with_one_image();
    let built = scene.build(&commit, &[]).ended(0);
    scene.registry.stop();
    scene.push(&built, &[]).ended(6).saying(&["hint:"]);
    scene.run(&commit, &[]).ended(6);
    scene.registry.start();
    scene.push(&built, &[]).ended(0);
}

#[test]
fn plain_http_must_be_configured_and_is_limited_to_loopback() {
    let (scene, commit) = Scene::with_one_image();
    let proxy = Proxy::start(scene.registry.address);
    scene.swanci.config(&format!(
        "[registry]\nhost = \"{}\"\n[[repository]]\nname = \"acme/shop\"\nclone_url = \"{}\"\n",
        proxy.host(),
        scene.repository.url()
    ));
    scene.run(&commit, &[]).ended(6);
    assert!(proxy.seen().iter().all(|seen| !seen.path.starts_with("/v2/a/")), "plain http was used");
    scene.swanci.config("[registry]\nhost = \"registry.example.org:443\"\nplain_http = true\n");
    scene.run(&commit, &[]).ended(4).saying(&["registry.plain_http"]);
}

#[test]
fn a_helper_and_docker_get_the_users_environment_without_swancis_secrets() {
    let registry = RegistryServer::builder().login("me", "canary-password-4").start();
    let host = registry.host();
    let (mut scene, commit) = scene(registry, &host);
    let seen = scene.swanci.work().join("seen");
    scene.swanci.program(
        "docker-credential-cloud",
        &format!(
            "#!/bin/sh\ncat >/dev/null\nenv >> {}\n[ \"$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI\" = /role ] || exit 1\n\
             echo '{{\"Username\":\"me\",\"Secret\":\"canary-password-4\"}}'\n",
            seen.display()
        ),
    );
    scene.swanci.docker_config(&json!({"credHelpers": {&host: "cloud"}}).to_string());
    for (name, value) in [
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/role"),
        ("PASSWORD_STORE_DIR", "/somewhere"),
        ("SWANCI_SECRET", "canary-secret"),
        ("SWANCI_GIT_TOKEN", "canary-token"),
        ("DOCKER_DEFAULT_PLATFORM", "linux/s390x"),
        ("BUILDX_GIT_LABELS", "full"),
        ("SOURCE_DATE_EPOCH", "1"),
    ] {
        scene.swanci.set(name, value);
    }
    let receipt = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    // Both swanci's and docker's own runs of the helper are recorded.
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.matches("PASSWORD_STORE_DIR=/somewhere").count() >= 2, "{seen}");
    for left_out in ["canary", "SWANCI_", "DOCKER_DEFAULT_PLATFORM", "BUILDX_GIT_LABELS", "SOURCE_DATE_EPOCH"]
    {
        assert!(!seen.contains(left_out), "{left_out}: {seen}");
    }
}

#[test]
fn the_first_push_to_a_registry_that_denies_unknown_names_works() {
    let registry = RegistryServer::builder().login("me", "canary-password-5").start();
    let proxy = Proxy::start(registry.address);
    let (scene, commit) = scene(registry, &proxy.host());
    scene.swanci.docker_config(&docker_login(&proxy.host(), "me", "canary-password-5"));
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;
    for path in ["/v2/a/manifests/", "/v2/a/tags/"] {
        // Not docker's own HEAD for the image that it pushes.
        proxy.instead_of_404("GET", path, Reply::new(403).body(denied));
    }
    let receipt = scene.run(&commit, &[]).ended(0).json();
    assert_eq!(outcome(&receipt, "a", "1"), "moved");
    // A wrong login is not treated as an empty registry.
    scene.swanci.docker_config(&docker_login(&proxy.host(), "me", "wrong"));
    scene.run(&commit, &[]).ended(6).saying(&["docker login"]);
}
