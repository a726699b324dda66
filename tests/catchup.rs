//! `swanci catchup` builds the commits that the registry lacks, and no others.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails loudly")]

mod support;

use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Place, Ran, expected, images_json, outcomes};

const DOCKERFILE: &str = "FROM scratch\nCOPY content /\n";

/// A repository with one image, `app`, on its first commit.
fn one_image() -> (Place, String) {
    let mut place = Place::new();
    let first = place.push(&[
        ("images.json", Some(&images_json(&["app"]))),
        ("app/Dockerfile", Some(DOCKERFILE)),
        ("app/content", Some("first")),
    ]);
    (place, first)
}

#[test]
fn a_lost_merge_between_two_others_is_built_and_moves_no_tag_back() {
    let (mut place, first) = one_image();
    let lost = place.merge(&[("app/content", Some("lost"))]);
    let last = place.merge(&[("app/content", Some("last"))]);
    place.deliver(&first);
    place.deliver(&last);
    let newest = place.digest("app", "1.0").unwrap();

    let document = place.catchup(&[]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&first, "present"), (&lost, "built"), (&last, "present")]));
    assert_eq!(place.digest("app", "1.0"), Some(newest.clone()));
    assert_eq!(place.digest("app", &format!("sha-{last}")), Some(newest.clone()));
    let built = place.digest("app", &format!("sha-{lost}")).unwrap();
    assert_ne!(built, newest);

    let receipt = &document["commits"][1]["receipt"];
    assert_eq!(receipt["outcome"], "succeeded");
    assert_eq!(receipt["images"][0]["digest"], built.as_str());
    assert_eq!(receipt["images"][0]["moved"][0]["outcome"], "superseded");
    assert_eq!(receipt["change"]["commit"], lost.as_str());
    assert_eq!(receipt["change"]["branch"], "main");
    assert!(receipt["change"]["pull_request"].is_null());
    assert!(document["commits"][0]["receipt"].is_null());

    // Everything is present now: a second run does nothing.
    let receipts = place.receipts();
    let document = place.catchup(&[]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&first, "present"), (&lost, "present"), (&last, "present")]));
    assert_eq!(place.receipts(), receipts);
    assert_eq!(place.digest("app", "1.0"), Some(newest));
}

#[test]
fn merges_of_an_outage_are_built_oldest_first_and_the_tags_follow() {
    let (mut place, first) = one_image();
    place.deliver(&first);
    let one = place.merge(&[("app/content", Some("one"))]);
    let two = place.push(&[("app/content", Some("two"))]);
    // The commit does not change the image, but the image gets its tag.
    let three = place.merge(&[("README", Some("three"))]);

    let document = place.catchup(&[]).ended(0);
    assert_eq!(
        outcomes(&document),
        expected(&[(&first, "present"), (&one, "built"), (&two, "built"), (&three, "built")])
    );
    let status = |n: usize| document["commits"][n]["receipt"]["images"][0]["status"].clone();
    assert_eq!((status(1), status(2), status(3)), ("built".into(), "built".into(), "unchanged".into()));
    let moved = |n: usize| document["commits"][n]["receipt"]["images"][0]["moved"][0]["outcome"].clone();
    assert_eq!((moved(1), moved(2), moved(3)), ("moved".into(), "moved".into(), "already".into()));
    assert_eq!(place.digest("app", "1.0"), place.digest("app", &format!("sha-{two}")));
    assert_eq!(place.digest("app", "1.0"), place.digest("app", &format!("sha-{three}")));
    assert_ne!(place.digest("app", "1.0"), place.digest("app", &format!("sha-{one}")));
}

#[test]
fn an_empty_registry_gets_only_the_newest_commit() {
    let (mut place, _) = one_image();
    place.merge(&[("app/content", Some("second"))]);
    let newest = place.merge(&[("app/content", Some("third"))]);
    assert_eq!(outcomes(&place.catchup(&[]).ended(0)), expected(&[(&newest, "built")]));
    assert_eq!(place.tags("app"), ["1.0".to_owned(), format!("sha-{newest}")]);
}

#[test]
fn since_a_commit_builds_all_later_commits_also_in_an_empty_registry() {
    let (mut place, first) = one_image();
    let second = place.merge(&[("app/content", Some("second"))]);
    let third = place.push(&[("app/content", Some("third"))]);
    let document = place.catchup(&["--since", &first]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&second, "built"), (&third, "built")]));
    assert_eq!(place.digest("app", "1.0"), place.digest("app", &format!("sha-{third}")));
    assert_eq!(place.digest("app", &format!("sha-{first}")), None);
}

#[test]
fn since_a_date_uses_the_time_of_landing_and_a_slow_clock_hides_no_commit() {
    // One commit a day, starting on November 1.
    let (mut place, _) = one_image();
    let second = place.merge(&[]);
    let slow = place.push_with_a_slow_clock();
    let fourth = place.push(&[]);
    let planned = |since: &str| outcomes(&place.catchup(&["--since", since, "--dry-run"]).ended(0));
    let after_the_second = expected(&[(&second, "planned"), (&slow, "planned"), (&fourth, "planned")]);
    assert_eq!(planned("2026-11-02"), after_the_second);
    assert_eq!(planned("2026-11-02T01:00:00+01:00"), after_the_second);
    assert_eq!(planned("2026-11-02T00:00:01Z"), expected(&[(&fourth, "planned")]));
    assert_eq!(planned("2026-11-30"), []);

    let ran = place.catchup(&["--since", "yesterday"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("is not a full commit id, or a date"), "{}", ran.stderr);
}

#[test]
fn since_a_commit_of_another_branch_is_refused() {
    let (place, _) = one_image();
    place.git(&["checkout", "--quiet", "--orphan", "elsewhere"]);
    place.git(&["commit", "--quiet", "--allow-empty", "-m", "elsewhere"]);
    let other = place.git(&["rev-parse", "HEAD"]);
    for unknown in [other, "1".repeat(40)] {
        let ran = place.catchup(&["--since", &unknown]);
        assert_eq!((ran.code, ran.stdout.as_str()), (5, ""), "{}", ran.stderr);
        assert!(ran.stderr.contains("is not on the branch `main`"), "{}", ran.stderr);
    }
}

#[test]
fn max_limits_the_commits_and_a_dry_run_changes_nothing() {
    let (mut place, first) = one_image();
    let mut all = vec![first];
    all.extend((0..5).map(|_| place.merge(&[])));
    place.mark("app", &all[3]);
    let (before, writes) = (place.tags("app"), place.requests("http.request.method=PUT"));
    assert!(writes > 0, "the registry logs writes");

    let document = place.catchup(&["--dry-run", "--max", "4"]).ended(0);
    assert_eq!(
        outcomes(&document),
        expected(&[(&all[2], "planned"), (&all[3], "present"), (&all[4], "planned"), (&all[5], "planned")])
    );
    let document = place.catchup(&["--dry-run", "--since", &all[1], "--max", "1"]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&all[5], "planned")]));
    assert_eq!(place.tags("app"), before);
    assert_eq!(place.receipts(), 0);
    assert_eq!(place.requests("http.request.method=PUT"), writes);
}

#[test]
fn commits_without_images_and_malformed_ones_do_not_fail_the_run() {
    let mut place = Place::new();
    let empty = place.push(&[("README", Some("nothing to build yet"))]);
    let nothing_for_docker =
        place.push(&[("images.json", Some(r#"{"images":[{"service_name":"vm","type":"AMI"}]}"#))]);
    let good = place.push(&[
        ("images.json", Some(&images_json(&["app"]))),
        ("app/Dockerfile", Some(DOCKERFILE)),
        ("app/content", Some("good")),
    ]);
    let malformed = place.push(&[("images.json", Some("{"))]);
    let no_folder = place.push(&[("images.json", Some(&images_json(&["app", "gone"])))]);
    let no_images = place.push(&[("images.json", Some(r#"{"images":[]}"#))]);
    let root = place.push(&[("images.json", None), ("Dockerfile", Some("FROM scratch\nCOPY README /\n"))]);
    place.mark("app", &good);

    let document = place.catchup(&[]).ended(0);
    assert_eq!(
        outcomes(&document),
        expected(&[
            (&empty, "empty"),
            (&nothing_for_docker, "empty"),
            (&good, "present"),
            (&malformed, "invalid"),
            (&no_folder, "invalid"),
            (&no_images, "empty"),
            (&root, "built"),
        ])
    );
    assert!(document["commits"][3]["error"].as_str().unwrap().contains("images.json"));
    assert!(document["commits"][4]["error"].as_str().unwrap().contains("`gone`"));
    // An image at the root is named after the repository, and without a version its tag is the branch.
    assert_eq!(place.tags("shop"), ["main".to_owned(), format!("sha-{root}")]);
}

#[test]
fn a_commit_is_complete_only_with_all_of_its_images() {
    let mut place = Place::new();
    let content = |name: &str| (format!("{name}/Dockerfile"), format!("{name}/content"));
    let ((a_file, a), (b_file, b)) = (content("a"), content("b"));
    let half = place.push(&[
        ("images.json", Some(&images_json(&["a", "b"]))),
        (&a_file, Some(DOCKERFILE)),
        (&a, Some("a")),
        (&b_file, Some(DOCKERFILE)),
        (&b, Some("b")),
    ]);
    let whole = place.merge(&[]);
    for image in ["a", "b"] {
        place.mark(image, &whole);
    }
    place.mark("a", &half);
    let document = place.catchup(&["--dry-run"]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&half, "planned"), (&whole, "present")]));
}

#[test]
fn a_failed_commit_fails_the_run_but_does_not_stop_the_others() {
    let (mut place, first) = one_image();
    place.mark("app", &first);
    let broken = place.merge(&[("app/Dockerfile", Some("FROM scratch\nCOPY nothing-here /\n"))]);
    let mended = place.merge(&[("app/Dockerfile", Some(DOCKERFILE)), ("app/content", Some("mended"))]);

    let ran = place.catchup(&[]);
    assert!(ran.stderr.contains("1 of 2 commits failed"), "{}", ran.stderr);
    let document = ran.ended(1);
    assert_eq!(
        outcomes(&document),
        expected(&[(&first, "present"), (&broken, "failed"), (&mended, "built")])
    );
    assert!(document["commits"][1]["error"].as_str().unwrap().contains("app"));
    assert!(document["commits"][1]["receipt"].is_null());
    assert_eq!(place.digest("app", "1.0"), place.digest("app", &format!("sha-{mended}")));
    assert_eq!(place.digest("app", &format!("sha-{broken}")), None);
}

#[test]
fn present_commits_cost_one_request_for_each_image_and_not_for_each_commit() {
    let names: Vec<String> = (0..6).map(|n| format!("image{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut place = Place::new();
    let mut commits = vec![place.push(&[("images.json", Some(&images_json(&names)))])];
    commits.extend((1..12).map(|n| place.push(&[("count", Some(&n.to_string()))])));
    for commit in &commits {
        for name in &names {
            place.mark(name, commit);
        }
    }
    let (all, lists) = (place.requests(""), place.requests("tags/list"));
    let document = place.catchup(&[]).ended(0);
    let present: Vec<_> = commits.iter().map(|c| (c, "present")).collect();
    assert_eq!(outcomes(&document), expected(&present));
    assert_eq!(place.requests("tags/list") - lists, names.len());
    assert!(place.requests("") - all <= names.len() + 1, "{}", place.registry.log());
}

#[test]
fn a_second_catchup_at_the_same_time_exits_as_busy() {
    let (place, first) = one_image();
    // A registry that does not answer: the first catchup waits while it holds its lock.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    place.use_registry(&silent.local_addr().unwrap().to_string());
    let mut waiting = place.catchup_command(&[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let (mut asked, _) = silent.accept().unwrap();
    asked.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    assert!(asked.read(&mut [0; 64]).unwrap() > 0, "the first catchup asks the registry");

    let ran = place.catchup(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "{\"schema\":1,\"busy\":true,\"commits\":[]}\n"));

    waiting.kill().unwrap();
    waiting.wait().unwrap();
    place.use_registry(&place.registry.host());
    assert_eq!(outcomes(&place.catchup(&["--dry-run"]).ended(0)), expected(&[(&first, "planned")]));
}

#[test]
fn catchup_and_deliveries_of_the_same_commits_run_in_parallel_with_one_digest_each() {
    let (mut place, first) = one_image();
    place.configure(&format!(
        "[[repository]]\nname = \"team/shop\"\nclone_url = \"{}\"",
        place.repository().display()
    ));
    let commits: Vec<String> =
        ["one", "two", "three"].iter().map(|text| place.merge(&[("app/content", Some(text))])).collect();
    let piped = |mut command: Command| command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut at_once = vec![piped(place.catchup_command(&["--since", &first]))];
    // The first commit, with which the catchup begins, is delivered three times.
    let deliveries = [0, 0, 0, 1, 2].map(|n| place.run_command(&commits[n]));
    at_once.extend(deliveries.map(piped));
    let mut documents = at_once
        .into_iter()
        .map(|child| Ran::of(child.wait_with_output().unwrap()).ended(0))
        .collect::<Vec<_>>();

    let caught_up = documents.remove(0);
    let receipts = caught_up["commits"].as_array().unwrap().iter().map(|c| &c["receipt"]);
    for receipt in receipts.filter(|r| !r.is_null()).chain(&documents) {
        let image = &receipt["images"][0];
        let there = place.digest("app", image["immutable_tag"].as_str().unwrap()).unwrap();
        assert_eq!(image["digest"], there.as_str(), "{receipt}");
    }
    assert_eq!(place.digest("app", "1.0"), place.digest("app", &format!("sha-{}", commits[2])));
    let present: Vec<_> = commits.iter().map(|c| (c, "present")).collect();
    assert_eq!(outcomes(&place.catchup(&["--since", &first]).ended(0)), expected(&present));
}

#[test]
fn an_unreachable_registry_or_repository_is_an_environment_failure() {
    let (mut place, _) = one_image();
    place.registry.stop();
    let ran = place.catchup(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (6, ""), "{}", ran.stderr);
    place.registry.start();
    std::fs::rename(place.repository(), place.repository().with_extension("away")).unwrap();
    let ran = place.catchup(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (6, ""), "{}", ran.stderr);
}

#[test]
fn the_allow_list_applies_and_sets_the_repositorys_name_and_namespace() {
    let (place, first) = one_image();
    place.configure("[[repository]]\nname = \"team/other\"");
    let ran = place.catchup(&[]);
    assert_eq!(ran.code, 5, "{}", ran.stderr);
    let url = place.repository();
    place.configure(&format!(
        "[[repository]]\nname = \"team/shop\"\nclone_url = \"{}\"\nnamespace = \"team\"",
        url.display()
    ));
    let document = place.catchup(&[]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&first, "built")]));
    assert_eq!(document["commits"][0]["receipt"]["change"]["repository"], "team/shop");
    assert_eq!(place.tags("team/app"), ["1.0".to_owned(), format!("sha-{first}")]);
    assert_eq!(outcomes(&place.catchup(&[]).ended(0)), expected(&[(&first, "present")]));
}

#[test]
fn an_interrupted_catchup_reports_its_progress() {
    let (mut place, first) = one_image();
    place.mark("app", &first);
    let second = place.merge(&[("app/content", Some("second"))]);
    let third = place.merge(&[("app/content", Some("third"))]);
    let docker = place.docker_that_hangs_when_it_builds();
    let child = place.catchup_command(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    docker.wait_for_build();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let document = Ran::of(child.wait_with_output().unwrap()).ended(143);
    assert_eq!(
        outcomes(&document),
        expected(&[(&first, "present"), (&second, "failed"), (&third, "planned")])
    );
}

#[test]
fn tags_that_need_a_pull_request_are_a_configuration_error() {
    let (place, _) = one_image();
    place.configure("[build]\ntags = [\"pr-{number}\"]");
    let ran = place.catchup(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (4, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("{number}"), "{}", ran.stderr);
    let document = place.catchup(&["--tag", "by-{branch}"]).ended(0);
    assert_eq!(document["commits"][0]["receipt"]["images"][0]["moved"][0]["tag"], "by-main");
}

#[test]
fn without_arguments_every_branch_of_every_configured_repository_is_caught_up() {
    let (mut place, first) = one_image();
    place.git(&["branch", "release/1"]);
    place.git(&["branch", "other"]);
    let second = place.merge(&[("app/content", Some("second"))]);
    place.configure(&format!(
        "[[repository]]\nname = \"team/shop\"\nclone_url = \"{}\"\nbranches = [\"main\", \"release/*\"]\n\
         [[repository]]\nname = \"team/away\"\nclone_url = \"/nowhere/team/away\"",
        place.repository().display()
    ));
    let ran = place.catchup_configured(&[]);
    assert!(ran.stderr.contains("team/away could not be caught up"), "{}", ran.stderr);
    let document = ran.ended(6);
    let seen: Vec<[&str; 4]> = document["commits"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| ["repository", "branch", "commit", "outcome"].map(|key| c[key].as_str().unwrap()))
        .collect();
    let shop = |branch, commit, outcome| ["team/shop", branch, commit, outcome];
    assert_eq!(
        seen,
        [shop("main", second.as_str(), "built"), shop("release/1", first.as_str(), "built")],
        "the newest of each branch"
    );
    let only = place.catchup_configured(&["--repository", "TEAM/shop"]).ended(0);
    assert!(only["commits"].as_array().unwrap().iter().all(|c| c["outcome"] == "present"), "{only}");
    assert_eq!(place.catchup_configured(&["--repository", "team/unknown"]).code, 5);
}

#[test]
fn a_failed_commit_is_retried_only_with_retry_failed() {
    let (mut place, first) = one_image();
    place.mark("app", &first);
    let broken = place.merge(&[("app/Dockerfile", Some("FROM scratch\nCOPY nothing-here /\n"))]);
    let outcome = |code, arguments: &[&str]| {
        let document = place.catchup(arguments).ended(code);
        document["commits"].as_array().unwrap().last().unwrap()["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(outcome(1, &[]), "failed");
    assert_eq!(outcome(0, &[]), "failed-before");
    assert_eq!(outcome(0, &["--dry-run"]), "failed-before");
    assert_eq!(outcome(1, &["--retry-failed"]), "failed");
    assert_eq!(place.digest("app", &format!("sha-{broken}")), None);
}

#[test]
fn a_run_that_failed_while_moving_tags_is_finished() {
    let (mut place, first) = one_image();
    assert_eq!(outcomes(&place.catchup(&[]).ended(0)), expected(&[(&first, "built")]));
    let second = place.merge(&[("app/content", Some("second"))]);
    // The tag could not be moved.
    let image = place.digest("app", "1.0").unwrap();
    assert_eq!(outcomes(&place.catchup(&[]).ended(0)), expected(&[(&first, "present"), (&second, "built")]));
    let moved = place.digest("app", "1.0").unwrap();
    place.tag("app", &image, "1.0");
    let planned = place.catchup(&["--dry-run"]).ended(0);
    assert_eq!(outcomes(&planned), expected(&[(&first, "present"), (&second, "planned")]));
    let document = place.catchup(&[]).ended(0);
    assert_eq!(outcomes(&document), expected(&[(&first, "present"), (&second, "finished")]));
    assert_eq!(place.digest("app", "1.0"), Some(moved));
    assert_eq!(document["commits"][1]["receipt"]["outcome"], "succeeded");
    assert_eq!(
        outcomes(&place.catchup(&[]).ended(0)),
        expected(&[(&first, "present"), (&second, "present")])
    );
}

#[test]
fn a_run_that_cannot_be_finished_fails() {
    let (mut place, first) = one_image();
    let secret = place.state().with_file_name("npm");
    std::fs::write(&secret, "s3cret").unwrap();
    place.configure(&format!(
        "[[repository]]\nname = 'acme/shop'\nclone_url = '{}'\nsecrets = {{ npm = '{}' }}",
        place.repository().display(),
        secret.display()
    ));
    place.catchup(&[]).ended(0);
    let image = place.digest("app", "1.0").unwrap();
    let second = place.merge(&[("app/content", Some("second"))]);
    place.catchup(&[]).ended(0);
    place.tag("app", &image, "1.0");
    std::fs::remove_file(&secret).unwrap();
    let document = place.catchup(&[]).ended(4);
    assert_eq!(outcomes(&document), expected(&[(&first, "present"), (&second, "failed")]));
    assert_eq!(place.digest("app", "1.0"), Some(image));
}
