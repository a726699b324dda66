//! A real registry for the test (plain, with TLS, with a login), and sample images.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stderr, reason = "a harness fails loudly")]
#![allow(dead_code, unreachable_pub, reason = "a harness offers more than each test of the crate uses")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use sha2::Digest as _;
use swanci::cancel::Cancel;
use swanci::model::{Digest, RegistryAddress};
use swanci::registry::{Credentials, Registry, Retry, Settings};
use tempfile::TempDir;

/// A certificate authority made for one test.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Ca {
    pub fn new(name: &str) -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    /// Certificate and key (PEM) for a server with these names.
    pub fn server(&self, names: &[&str]) -> (String, String) {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.sign(CertificateParams::new(names).unwrap())
    }

    fn sign(&self, mut params: CertificateParams) -> (String, String) {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// The settings of a registry.
#[derive(Default)]
pub struct Builder {
    tls: Option<(String, String, String)>,
    login: Option<(String, String)>,
    storage: Option<PathBuf>,
}

impl Builder {
    /// TLS with a certificate of `ca` for `localhost` and `127.0.0.1`.
    pub fn tls(self, ca: &Ca) -> Builder {
        self.tls_for(ca, &["localhost", "127.0.0.1"])
    }

    /// TLS with a certificate of `ca` for these names.
    pub fn tls_for(mut self, ca: &Ca, names: &[&str]) -> Builder {
        let (certificate, key) = ca.server(names);
        self.tls = Some((ca.pem.clone(), certificate, key));
        self
    }

    /// TLS with a certificate of `ca` that is valid between these dates.
    pub fn tls_between(mut self, ca: &Ca, from: (i32, u8, u8), to: (i32, u8, u8)) -> Builder {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
        params.not_after = rcgen::date_time_ymd(to.0, to.1, to.2);
        let (certificate, key) = ca.sign(params);
        self.tls = Some((ca.pem.clone(), certificate, key));
        self
    }

    /// TLS with one self-signed certificate that is both authority and server.
    pub fn self_signed(mut self) -> Builder {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        self.tls = Some((pem.clone(), pem, key.serialize_pem()));
        self
    }

    /// Basic auth with this one user (htpasswd).
    pub fn login(mut self, user: &str, password: &str) -> Builder {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Stores the images in this directory, for example on a small file system.
    pub fn storage(mut self, directory: &Path) -> Builder {
        self.storage = Some(directory.to_owned());
        self
    }

    pub fn start(self) -> RegistryServer {
        let dir = tempfile::tempdir().unwrap();
        let storage = self.storage.unwrap_or_else(|| dir.path().join("data"));
        let mut tls_yaml = String::new();
        let mut auth_yaml = String::new();
        let ca_pem = self.tls.map(|(ca, certificate, key)| {
            let (cert_file, key_file) = (dir.path().join("server.crt"), dir.path().join("server.key"));
            fs::write(&cert_file, certificate).unwrap();
            fs::write(&key_file, key).unwrap();
            tls_yaml =
                format!(", tls: {{certificate: {}, key: {}}}", cert_file.display(), key_file.display());
            ca
        });
        if let Some((user, password)) = &self.login {
            let file = dir.path().join("htpasswd");
            // Cost 4 is bcrypt's minimum, because the registry checks the password with each request.
            let made = Command::new("htpasswd").args(["-nbB", "-C", "4", user, password]).output();
            let made =
                made.expect("htpasswd is missing: apt-get install apache2-utils (scripts/test does it)");
            fs::write(&file, made.stdout).unwrap();
            auth_yaml = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", file.display());
        }
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n{auth_yaml}\
             http: {{secret: test, addr: 'ADDRESS'{tls_yaml}}}\n",
            storage.display()
        );
        let mut server = RegistryServer {
            child: None,
            address: "127.0.0.1:0".parse().unwrap(),
            config,
            ca_pem,
            login: self.login,
            dir,
        };
        server.start();
        server
    }
}

/// The registry under test: Debian's package, or the one in the environment.
fn program() -> OsString {
    std::env::var_os("SWANCI_TEST_REGISTRY").unwrap_or_else(|| "docker-registry".into())
}

/// A running registry; it stops when this is dropped.
pub struct RegistryServer {
    child: Option<Child>,
    pub address: SocketAddr,
    config: String,
    /// The authority of its certificate, if it has TLS.
    pub ca_pem: Option<String>,
    login: Option<(String, String)>,
    dir: TempDir,
}

impl RegistryServer {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Plain http, no login.
    pub fn plain() -> RegistryServer {
        Builder::default().start()
    }

    /// Starts it, or restarts it on the same port.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "it is already running");
        let (config, log) = (self.dir.path().join("config.yml"), self.dir.path().join("log"));
        fs::write(&config, self.config.replace("ADDRESS", &self.address.to_string())).unwrap();
        let out = fs::File::create(&log).unwrap();
        let child = Command::new(program())
            .args(["serve".as_ref(), config.as_os_str()])
            .env_clear()
            // registry 3 sends its traces to a collector otherwise
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("the registry is missing: apt-get install docker-registry (scripts/test does it)");
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(&log).unwrap();
            let address = text.split("listening on ").nth(1).and_then(|rest| rest.split(['"', ',']).next());
            if let Some(address) = address.and_then(|a| a.parse().ok()) {
                self.address = address;
                return;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "the registry did not start:\n{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the process; [`RegistryServer::start`] starts it again with its images.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The program's log, for a failing test.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn settings(&self) -> Settings {
        settings(&self.host(), self.ca_pem.as_deref())
    }

    pub fn credentials(&self) -> Credentials {
        self.login.as_ref().map_or(Credentials::Anonymous, |(user, password)| Credentials::Password {
            username: user.clone(),
            password: password.clone().into(),
        })
    }

    /// swanci's own client for it.
    pub fn client(&self) -> Registry {
        Registry::connect(self.settings(), self.credentials(), Cancel::new()).unwrap()
    }

    /// An uploader for sample images.
    pub fn uploader(&self) -> Uploader {
        let mut uploader = Uploader::new(&self.host(), self.ca_pem.as_deref());
        uploader.authorization =
            self.login.as_ref().map(|(user, password)| http_auth::basic::encode_credentials(user, password));
        uploader
    }

    /// Uploads a tiny image by plain HTTP requests (no docker) and returns its manifest's digest.
    pub fn push_sample_image(&self, repository: &str, tag: &str, labels: &[(&str, &str)]) -> Digest {
        self.uploader().image(repository, tag, labels)
    }

    /// Uploads an index of an attestation (first) and a tiny image; returns the index's digest.
    pub fn push_sample_index(&self, repository: &str, tag: &str, labels: &[(&str, &str)]) -> Digest {
        self.uploader().index(repository, tag, labels)
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the registry {}\n{}", self.address, self.log());
        }
        self.stop();
    }
}

/// Settings for a registry of the harness (or a proxy in front of it), with short timeouts and delays.
pub fn settings(host: &str, ca_pem: Option<&str>) -> Settings {
    let mut settings = Settings::new(host.parse::<RegistryAddress>().unwrap());
    settings.plain_http = ca_pem.is_none();
    settings.ca_pem = ca_pem.map(|pem| pem.as_bytes().to_vec());
    settings.retry = Retry { first_delay: Duration::from_millis(10), ..Retry::default() };
    settings
}

/// Docker's layer for an image without files: a gzipped empty tar, and the digest of the tar.
const EMPTY_LAYER: &str = "1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000";
const EMPTY_DIFF_ID: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// Uploads with plain HTTP, without the code under test.
pub struct Uploader {
    base: String,
    agent: ureq::Agent,
    pub authorization: Option<String>,
}

impl Uploader {
    pub fn new(host: &str, ca_pem: Option<&str>) -> Uploader {
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(20)));
        if let Some(pem) = ca_pem {
            let certificate = ureq::tls::Certificate::from_pem(pem.as_bytes()).unwrap();
            let roots = ureq::tls::RootCerts::from([certificate]);
            config = config.tls_config(ureq::tls::TlsConfig::builder().root_certs(roots).build());
        }
        let scheme = if ca_pem.is_some() { "https" } else { "http" };
        Uploader {
            base: format!("{scheme}://{host}"),
            agent: config.build().new_agent(),
            authorization: None,
        }
    }

    fn call(
        &self,
        method: &str,
        url: &str,
        media_type: &str,
        body: &[u8],
    ) -> ureq::http::Response<ureq::Body> {
        let url = if url.starts_with('/') { format!("{}{url}", self.base) } else { url.to_owned() };
        let mut request =
            ureq::http::Request::builder().method(method).uri(url).header("content-type", media_type);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.agent.run(request.body(body).unwrap()).unwrap()
    }

    /// Uploads one blob.
    pub fn blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        let octets = "application/octet-stream";
        let opened = self.call("POST", &format!("/v2/{repository}/blobs/uploads/"), octets, b"");
        assert_eq!(opened.status(), 202, "opening an upload to {repository}");
        let location = opened.headers()["location"].to_str().unwrap();
        let separator = if location.contains('?') { '&' } else { '?' };
        let done = self.call("PUT", &format!("{location}{separator}digest={digest}"), octets, bytes);
        assert_eq!(done.status(), 201, "uploading a blob to {repository}");
        digest
    }

    /// Writes a manifest under a tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let done = self.call("PUT", &path, media_type, bytes);
        assert_eq!(done.status(), 201, "writing {repository}:{reference}");
        digest_of(bytes)
    }

    fn image_manifest(&self, repository: &str, labels: &[(&str, &str)], oci: bool) -> Vec<u8> {
        let labels: BTreeMap<_, _> = labels.iter().copied().collect();
        let layer = hex::decode(EMPTY_LAYER).unwrap();
        let config = serde_json::to_vec(&serde_json::json!({
            "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
            "config": {"Labels": labels, "Cmd": ["/true"]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "test"}],
            "rootfs": {"type": "layers", "diff_ids": [EMPTY_DIFF_ID]},
        }))
        .unwrap();
        let (own, config_type, layer_type) = if oci {
            (
                OCI_MANIFEST,
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            )
        } else {
            (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        };
        serde_json::to_vec_pretty(&serde_json::json!({
            "schemaVersion": 2, "mediaType": own,
            "config": {"mediaType": config_type, "size": config.len(), "digest": self.blob(repository, &config)},
            "layers": [{"mediaType": layer_type, "size": layer.len(), "digest": self.blob(repository, &layer)}],
        }))
        .unwrap()
    }

    /// A tiny image in docker's format.
    pub fn image(&self, repository: &str, tag: &str, labels: &[(&str, &str)]) -> Digest {
        let bytes = self.image_manifest(repository, labels, false);
        self.manifest(repository, tag, DOCKER_MANIFEST, &bytes)
    }

    /// An OCI index of an attestation (first, because readers must not rely on the order) and a tiny image.
    pub fn index(&self, repository: &str, tag: &str, labels: &[(&str, &str)]) -> Digest {
        let image = self.image_manifest(repository, labels, true);
        let attestation = self.image_manifest(repository, &[("attestation", "yes")], true);
        let mut entries = Vec::new();
        for (bytes, os, architecture) in [(&attestation, "unknown", "unknown"), (&image, "linux", "amd64")] {
            let digest = self.manifest(repository, digest_of(bytes).as_str(), OCI_MANIFEST, bytes);
            entries.push(serde_json::json!({
                "mediaType": OCI_MANIFEST, "digest": digest, "size": bytes.len(),
                "platform": {"os": os, "architecture": architecture},
            }));
        }
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.manifest(repository, tag, OCI_INDEX, &serde_json::to_vec(&index).unwrap())
    }
}

pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub fn digest_of(bytes: &[u8]) -> Digest {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes))).parse().unwrap()
}
