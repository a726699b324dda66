//! A registry with errors, delays, wrong answers and outages.

use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use swanci::cancel::{Cancel, Stop};
use swanci::error::Kind;
use swanci::registry::{Credentials, Registry, RegistryError, RegistryErrorKind, Settings};

use super::{image, nothing, tag};
use crate::support::proxy::{Fault, Proxy, Reply};
use crate::support::registry::{Ca, DOCKER_MANIFEST, RegistryServer, digest_of, settings};

struct Scene {
    /// Dropped with the scene.
    _server: RegistryServer,
    proxy: Proxy,
    registry: Registry,
    notices: Arc<Mutex<Vec<String>>>,
}

/// A registry with `a:1.0` behind a proxy, and a client that records its notices.
fn scene(change: impl FnOnce(&mut Settings)) -> Scene {
    let server = RegistryServer::plain();
    server.push_sample_image("a", "1.0", &[("x", "y")]);
    let proxy = Proxy::start(server.address);
    let mut settings = settings(&proxy.host(), None);
    change(&mut settings);
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&notices);
    let registry = Registry::connect(settings, Credentials::Anonymous, Cancel::new())
        .unwrap()
        .with_retry_notice(move |text| heard.lock().unwrap().push(text.to_owned()));
    Scene { _server: server, proxy, registry, notices }
}

impl Scene {
    fn notices(&self) -> Vec<String> {
        self.notices.lock().unwrap().clone()
    }
}

#[test]
fn a_transient_fault_is_retried_and_reported() {
    for status in [500, 502, 503, 504, 408] {
        let s = scene(|_| {});
        s.proxy.on("PUT", "/v2/a/manifests/", 1, Fault::Reply(Reply::new(status)));
        s.proxy.on("PUT", "/v2/a/manifests/", 2, Fault::CutAfter(0));
        let manifest = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
        assert_eq!(s.registry.put_manifest(&image("a"), &tag("2.0"), &manifest).unwrap(), manifest.digest);
        assert_eq!(s.proxy.count("PUT", ""), 3);
        let notices = s.notices();
        assert_eq!(notices.len(), 2, "{notices:?}");
        assert!(notices[0].contains(&status.to_string()) && notices[0].contains("a:2.0"), "{notices:?}");
    }
}

#[test]
fn a_broken_registry_is_an_error_after_the_last_attempt() {
    let s = scene(|s| s.retry.attempts = 3);
    let body = r#"{"errors":[{"code":"UNAVAILABLE","message":"come \u001b[31mback"}]}"#;
    s.proxy.always("HEAD", "/v2/a/", Fault::Reply(Reply::new(503)));
    s.proxy.always("GET", "/v2/a/", Fault::Reply(Reply::new(503).body(body)));
    let error = s.registry.head_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Server { status: 503, .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Environment);
    assert_eq!(s.proxy.count("HEAD", "/v2/a/"), 3);
    let text = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap_err().to_string();
    assert!(text.contains("UNAVAILABLE: come") && text.contains("503") && text.contains("a:1.0"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn retry_after_is_honoured() {
    let s = scene(|_| {});
    s.proxy.on("HEAD", "/v2/a/", 1, Fault::Reply(Reply::new(429).header("Retry-After", "1")));
    let started = Instant::now();
    s.registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(s.notices()[0].contains("retrying (2/5) in 1 s"), "{:?}", s.notices());

    // A longer pause than the limit is an immediate error.
    s.proxy.always("HEAD", "/v2/a/", Fault::Reply(Reply::new(429).header("Retry-After", "3600")));
    let error = s.registry.head_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Server { status: 429, .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("3600"));
    assert_eq!(s.notices().len(), 1);
}

#[test]
fn permanent_errors_are_not_retried() {
    for (status, kind) in
        [(400, Kind::Failed), (403, Kind::Failed), (507, Kind::Environment), (505, Kind::Environment)]
    {
        let s = scene(|_| {});
        s.proxy.always("HEAD", "/v2/a/", Fault::Reply(Reply::new(status)));
        assert_eq!(s.registry.head_manifest(&image("a"), &tag("1.0")).unwrap_err().kind(), kind);
        assert_eq!((s.proxy.count("HEAD", "/v2/a/"), s.notices().len()), (1, 0));
    }
}

#[test]
fn starting_an_upload_is_not_retried() {
    let s = scene(|_| {});
    s.proxy.always("POST", "/uploads/", Fault::Reply(Reply::new(500)));
    assert!(matches!(s.registry.check_push(&image("a")).unwrap_err().kind, RegistryErrorKind::Server { .. }));
    assert_eq!(s.proxy.count("POST", ""), 1);
}

#[test]
fn a_full_registry_is_reported_as_full() {
    let s = scene(|_| {});
    // The answers of docker-registry 2.8.2 to a POST and a PATCH with its storage on a full tmpfs.
    let bodies = [
        r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"DriverName":"filesystem","Enclosed":{"Op":"write","Path":"/data/docker/registry/v2/repositories/a/_uploads/d5af9fcc-691a-463e-a8df-6d3ee40e1c44/startedat","Err":28}}}]}"#,
        r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":"write /data/docker/registry/v2/repositories/a/_uploads/3df6ae3d-1b34-4ea8-91ab-34efb0e4add1/data: no space left on device"}]}"#,
    ];
    let manifest = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    for (n, body) in bodies.into_iter().enumerate() {
        s.proxy.heal();
        s.proxy.always("PUT", "/manifests/", Fault::Reply(Reply::new(500).body(body)));
        let error = s.registry.put_manifest(&image("a"), &tag("2.0"), &manifest).unwrap_err();
        assert_eq!(error.kind, RegistryErrorKind::NoSpace, "{error:?}");
        assert_eq!(error.kind(), Kind::Environment);
        assert_eq!(s.proxy.count("PUT", ""), n + 1);
    }
}

#[test]
fn a_truncated_answer_is_retried() {
    for bytes in [0, 10, 400] {
        let s = scene(|_| {});
        s.proxy.on("GET", "/v2/a/manifests/", 1, Fault::CutAfter(bytes));
        s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
        assert_eq!((s.proxy.count("GET", "/manifests/"), s.notices().len()), (2, 1), "{bytes}");
    }
}

#[test]
fn a_silent_registry_times_out() {
    // 0: no answer; 400: the head and a part of the body.
    for bytes in [0, 400] {
        let s = scene(|s| s.timeouts.silence = Duration::from_millis(200));
        s.proxy.on("GET", "/v2/a/manifests/", 1, Fault::StallAfter(bytes));
        s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
        let notices = s.notices();
        assert!(notices.len() == 1 && notices[0].contains("timed out"), "{notices:?}");
    }
    let s = scene(|s| {
        s.timeouts.silence = Duration::from_millis(100);
        s.retry.attempts = 2;
    });
    s.proxy.always("GET", "/v2/a/manifests/", Fault::StallAfter(400));
    let error = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Unreachable { .. }), "{error:?}");
    assert_eq!(error.kind(), Kind::Environment);
    // The limit of a whole exchange applies too.
    let s = scene(|s| {
        s.timeouts.silence = Duration::from_secs(3600);
        s.timeouts.exchange = Duration::from_millis(200);
        s.retry.attempts = 1;
    });
    s.proxy.always("GET", "/v2/a/manifests/", Fault::StallAfter(400));
    let error = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
}

#[test]
fn a_stop_ends_the_delay_between_attempts() {
    let s = scene(|s| {
        s.retry.first_delay = Duration::from_secs(8);
        s.retry.total = Duration::from_secs(3600);
    });
    s.proxy.always("HEAD", "/v2/a/", Fault::Reply(Reply::new(503)));
    let cancel = Cancel::new();
    let stopping = cancel.clone();
    let registry = s.registry.with_cancel(cancel).with_retry_notice(move |_| stopping.stop(Stop::Terminated));
    let error = registry.head_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::Stopped(Stop::Terminated));
    assert_eq!(error.kind(), Kind::Terminated);
    assert_eq!(s.proxy.count("HEAD", "/v2/a/"), 1);
    // After an earlier stop, nothing is sent.
    assert!(registry.ping().is_err());
    assert_eq!(s.proxy.count("GET", "/v2/"), 0);
}

#[test]
fn a_registry_is_retried_until_it_is_available_again() {
    let mut server = RegistryServer::plain();
    let digest = server.push_sample_image("a", "1.0", &[]);
    let mut settings = server.settings();
    settings.retry.first_delay = Duration::from_millis(300);
    server.stop();
    let (down, back) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
    let (told, waits) = (Arc::clone(&down), Arc::clone(&back));
    let first = std::sync::Once::new();
    let registry = Registry::connect(settings, Credentials::Anonymous, Cancel::new())
        .unwrap()
        .with_retry_notice(move |text| {
            assert!(text.contains("cannot connect to"), "{text}");
            first.call_once(|| {
                told.wait();
                waits.wait();
            });
        });
    let asking = std::thread::spawn(move || registry.head_manifest(&image("a"), &tag("1.0")));
    down.wait();
    server.start();
    back.wait();
    assert_eq!(asking.join().unwrap().unwrap().unwrap(), digest);
}

#[test]
fn an_unreachable_registry_is_named() {
    let mut server = RegistryServer::plain();
    server.stop();
    let mut settings = server.settings();
    settings.retry.attempts = 2;
    let registry = Registry::connect(settings, Credentials::Anonymous, Cancel::new()).unwrap();
    let error = registry.ping().unwrap_err();
    assert!(matches!(error.kind, RegistryErrorKind::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&server.host()), "{error}");
    assert_eq!(error.kind(), Kind::Environment);
}

#[test]
fn content_that_does_not_match_its_digest_is_refused() {
    let s = scene(|_| {});
    let manifest = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let other = || Reply::new(200).header("Content-Type", DOCKER_MANIFEST).body(r#"{"schemaVersion":2}"#);
    let says = other().header("Docker-Content-Digest", manifest.digest.as_str());
    s.proxy.on("GET", "/v2/a/manifests/", 1, Fault::Reply(says));
    s.proxy.on("GET", "/v2/a/manifests/sha256", 1, Fault::Reply(other()));
    s.proxy.always("GET", "/v2/a/blobs/", Fault::Reply(other()));
    let put = Reply::new(201).header("Docker-Content-Digest", nothing().as_str());
    s.proxy.always("PUT", "/v2/a/manifests/", Fault::Reply(put));
    let repository = image("a");
    let errors = [
        s.registry.get_manifest(&repository, &tag("1.0")).unwrap_err(),
        s.registry.get_manifest(&repository, &manifest.digest).unwrap_err(),
        s.registry.image_labels(&repository, &manifest).unwrap_err(),
        s.registry.put_manifest(&repository, &tag("2.0"), &manifest).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind, RegistryErrorKind::DigestMismatch, "{error:?}");
        assert_eq!(error.kind(), Kind::Failed);
    }
}

#[test]
fn without_a_digest_header_the_digest_is_computed() {
    let s = scene(|_| {});
    let body = r#"{"schemaVersion":2}"#;
    let bare = Reply::new(200).header("Content-Type", format!("{DOCKER_MANIFEST}; charset=utf-8")).body(body);
    s.proxy.always("*", "/v2/a/manifests/", Fault::Reply(bare));
    let head = s.registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!(head, digest_of(body.as_bytes()));
    let manifest = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    assert_eq!((manifest.media_type.as_str(), manifest.digest), (DOCKER_MANIFEST, head));
}

#[test]
fn nonsense_and_endless_answers_are_refused() {
    let s = scene(|_| {});
    let manifest = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let html = Reply::new(200).header("Content-Type", "text/html").body("<html>log in here</html>");
    s.proxy.always("GET", "/v2/a/manifests/", Fault::Reply(html));
    let error = s.registry.get_manifest(&image("a"), &tag("1.0")).unwrap_err();
    assert_eq!(error.kind, RegistryErrorKind::Protocol, "{error:?}");
    let huge = Reply::new(200).body("x".repeat(4 * 1024 * 1024 + 1));
    s.proxy.always("GET", "/v2/a/blobs/", Fault::Reply(huge));
    let error = s.registry.image_labels(&image("a"), &manifest).unwrap_err();
    assert!(error.to_string().contains("the answer is larger than"), "{error}");
    assert_eq!(s.notices().len(), 0);
}

/// Sends the requests of a push of 20 unchanged images, on four threads; returns the time that it took.
fn promote_twenty(registry: &Registry) -> Duration {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if n >= 20 {
                        return;
                    }
                    let repository = image(&format!("app/image-{n}"));
                    let manifest = registry.get_manifest(&repository, &tag("1.0")).unwrap().unwrap();
                    assert_eq!(registry.image_labels(&repository, &manifest).unwrap()["n"], n.to_string());
                    registry.put_manifest(&repository, &tag("sha-1"), &manifest).unwrap();
                }
            });
        }
    });
    started.elapsed()
}

#[test]
fn four_threads_use_four_connections() {
    let server = RegistryServer::plain();
    for n in 0..20 {
        server.push_sample_image(&format!("app/image-{n}"), "1.0", &[("n", &n.to_string())]);
    }
    let proxy = Proxy::start(server.address);
    let registry =
        Registry::connect(settings(&proxy.host(), None), Credentials::Anonymous, Cancel::new()).unwrap();
    promote_twenty(&registry);
    assert_eq!(proxy.seen().len(), 60);
    assert!(proxy.connections() <= 4, "{} connections", proxy.connections());
}

#[test]
fn twenty_unchanged_images_are_promoted_over_tls_with_a_login() {
    let server = RegistryServer::builder().tls(&Ca::new("ours")).login("swan", "secret").start();
    for n in 0..20 {
        server.push_sample_image(&format!("app/image-{n}"), "1.0", &[("n", &n.to_string())]);
    }
    let took = promote_twenty(&server.client());
    println!("20 unchanged images, 60 requests, 4 threads, TLS and htpasswd: {took:?}");
    let registry = server.client();
    for n in 0..20 {
        let repository = image(&format!("app/image-{n}"));
        assert_eq!(registry.list_tags(&repository).unwrap(), ["1.0", "sha-1"].map(tag));
    }
}

#[test]
fn concurrent_retries_are_reported_once() {
    let mut server = RegistryServer::plain();
    server.stop();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let registry = Registry::connect(server.settings(), Credentials::Anonymous, Cancel::new())
        .unwrap()
        .with_retry_notice(move |text| heard.lock().unwrap().push(text.to_owned()));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let registry = registry.with_cancel(Cancel::new());
            scope.spawn(move || {
                let asked = registry.head_manifest(&image(&format!("app/{n}")), &tag("1.0"));
                assert!(
                    matches!(
                        asked,
                        Err(RegistryError { kind: RegistryErrorKind::Unreachable { connected: false }, .. })
                    ),
                    "{asked:?}"
                );
            });
        }
    });
    let line = format!("cannot connect to {}; retrying (2/5)", server.host());
    assert_eq!(*told.lock().unwrap(), [line]);
}

#[test]
fn a_retry_after_date_is_honoured() {
    let s = scene(|_| {});
    let date = (jiff::Timestamp::now() + Duration::from_secs(2)).to_zoned(jiff::tz::TimeZone::UTC);
    let date = date.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    s.proxy.on("HEAD", "/v2/a/", 1, Fault::Reply(Reply::new(503).header("Retry-After", date)));
    s.registry.head_manifest(&image("a"), &tag("1.0")).unwrap().unwrap();
    let notices = s.notices();
    assert!(notices.len() == 1 && notices[0].contains("retrying (2/5) in "), "{notices:?}");
}
