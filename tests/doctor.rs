//! `swanci doctor`: each check separately, and its hint.

use serde_json::Value;

use crate::support::registry::{Ca, RegistryServer};
use crate::support::swanci::{Scene, Swanci};

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn on_a_healthy_machine_every_check_is_reported_and_the_code_is_0() {
    let scene = Scene::new();
    scene.repository.image("a", "1");
    scene.repository.commit("first");
    let report = scene.swanci.run(&["doctor", "--json"]).ended(0).json();
    assert_eq!(report["healthy"], true);
    for name in [
        "git",
        "docker client",
        "docker engine",
        "builder",
        "registry",
        "registry credentials",
        "registry from docker",
    ] {
        assert_ne!(check(&report, name)["health"], "failed", "{report}");
    }
    let people = scene.swanci.run(&["doctor"]).ended(0);
    assert!(people.stdout.contains("registry") && !people.stdout.starts_with('{'), "{}", people.stdout);
    // doctor leaves nothing in the registry.
    assert_eq!(scene.digest("swanci-doctor", "none"), None);
}

#[test]
fn each_problem_fails_only_its_own_check_with_a_hint() {
    let mut scene = Scene::new();
    scene.registry.stop();
    let report = scene.swanci.run(&["doctor", "--json"]).ended(6).json();
    assert_eq!(report["healthy"], false);
    assert_eq!(check(&report, "registry")["health"], "failed");
    assert!(check(&report, "registry")["mend"].is_string(), "{report}");
    assert_eq!(check(&report, "git")["health"], "ok");
    scene.registry.start();
    scene.swanci.set("SWANCI_BUILD_DOCKER", "no-such-docker");
    let report = scene.swanci.run(&["doctor", "--json"]).ended(6).json();
    assert_eq!(check(&report, "docker client")["health"], "failed");
    assert!(check(&report, "docker client")["mend"].as_str().unwrap().contains("docker"), "{report}");
    assert_eq!(check(&report, "registry")["health"], "ok");
}

#[test]
fn an_untrusted_certificate_differs_from_a_login_without_write_access() {
    let swanci = Swanci::new();
    let registry = RegistryServer::builder().tls(&Ca::new("one")).login("me", "password").start();
    swanci.file("other.crt", Ca::new("another").pem);
    let config = |ca: &str| format!("[registry]\nhost = \"{}\"\nca_file = \"{ca}\"\n", registry.host());
    swanci.config(&config("other.crt"));
    let report = swanci.run(&["doctor", "--json"]).ended(6).json();
    let broken = check(&report, "registry");
    assert!(
        broken["health"] == "failed" && broken["detail"].as_str().unwrap().contains("certificate"),
        "{report}"
    );
    swanci.file("right.crt", registry.ca_pem.as_ref().unwrap());
    swanci.config(&config("right.crt"));
    let report = swanci.run(&["doctor", "--json"]).ended(6).json();
    let credentials = check(&report, "registry credentials");
    assert_eq!(credentials["health"], "failed", "{report}");
    assert!(credentials["mend"].as_str().unwrap().contains("docker login"), "{report}");
}

#[test]
fn an_unreadable_build_secret_is_a_warning_that_names_the_repository() {
    let scene = Scene::new();
    scene.repository.image("a", "1");
    scene.repository.commit("first");
    scene.swanci.file("npm", "a-token-for-npm\n");
    scene.configure("secrets = { npm = \"npm\", pypi = \"absent\" }");
    let report = scene.swanci.run(&["doctor", "--json"]).ended(0).json();
    let warning = check(&report, "build secret");
    assert_eq!(warning["health"], "warning");
    let detail = warning["detail"].as_str().unwrap();
    assert!(detail.contains("`pypi` of acme/shop") && !detail.contains("npm"), "{report}");
}

#[test]
fn a_certificate_that_expires_soon_is_a_warning_with_the_date() {
    let ca = Ca::new("one");
    let day = |days: i64| {
        let day = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24 * days))
            .to_zoned(jiff::tz::TimeZone::UTC);
        (i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs())
    };
    for (days, warned) in [(10, true), (60, false)] {
        let swanci = Swanci::new();
        let registry = RegistryServer::builder().tls_between(&ca, day(-1), day(days)).start();
        swanci.file("ca.crt", &ca.pem);
        swanci.config(&format!("[registry]\nhost = \"{}\"\nca_file = \"ca.crt\"\n", registry.host()));
        let report = swanci.run(&["doctor", "--json"]).json();
        assert_eq!(check(&report, "registry")["health"], "ok", "{report}");
        let certificate =
            report["checks"].as_array().unwrap().iter().find(|c| c["name"] == "registry certificate");
        assert_eq!(certificate.is_some(), warned, "{report}");
        if let Some(certificate) = certificate {
            let (year, month, of_month) = day(days);
            assert_eq!(certificate["health"], "warning");
            let detail = certificate["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("{year}-{month:02}-{of_month:02}")), "{detail}");
        }
    }
}

#[test]
fn an_unresolved_name_is_not_reported_as_checked_by_docker() {
    let mut swanci = Swanci::new();
    swanci.config("[registry]\nhost = \"registry.no-such-name.invalid:5000\"\n");
    let report = swanci.run(&["doctor", "--json"]).ended(6).json();
    for name in ["registry", "registry from docker"] {
        let check = check(&report, name);
        assert_eq!(check["health"], "failed", "{report}");
        assert!(check["detail"].as_str().unwrap().contains("cannot be resolved"), "{report}");
    }
    assert_eq!(check(&report, "proxy")["detail"], "none in the environment");
    swanci.set("HTTPS_PROXY", "http://me:canary@127.0.0.1:1");
    let report = swanci.run(&["doctor", "--json"]).ended(6).json();
    let proxy = check(&report, "proxy")["detail"].as_str().unwrap();
    assert_eq!(proxy, "registry.no-such-name.invalid:5000 through http://127.0.0.1:1");
    assert!(!report.to_string().contains("canary"), "{report}");
}

#[test]
fn each_result_is_printed_immediately() {
    use std::io::{BufRead as _, BufReader};
    let mut swanci = Swanci::new();
    // The docker client is checked after git, and answers after the test has read git's line.
    let go = swanci.work().join("go");
    let script = format!(
        "#!/bin/sh\nn=0\nwhile [ ! -e {} ] && [ $n -lt 150 ]; do sleep 0.1; n=$((n+1)); done\nexit 1\n",
        go.display()
    );
    swanci.program("slow-docker", &script);
    swanci.set("SWANCI_BUILD_DOCKER", "slow-docker");
    let mut child = swanci.command(&["doctor"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(" git ")), "git's line");
    std::fs::write(&go, "").unwrap();
    assert!(lines.any(|line| line.contains("docker client")));
    drop(lines);
    child.wait().unwrap();
}
