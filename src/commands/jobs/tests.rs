use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn job(id: i64, state: JobState) -> JobRecord {
    JobRecord {
        id: JobId(id),
        state,
        forge: "github".to_owned(),
        repository: "acme/shop".to_owned(),
        branch: "main".to_owned(),
        commit: Some(COMMIT.to_owned()),
        pull_request: Some(5),
        event: "pull_request".to_owned(),
        delivery_id: Some("d-1".to_owned()),
        created: at("10:00:00"),
        queued: at("10:00:00"),
        started: Some(at("10:00:01")),
        finished: Some(at("10:02:04")),
        attempts: 1,
        interruptions: 0,
        next_attempt: None,
        error: None,
        exit_code: None,
        cancel_requested: false,
        owner: None,
        lease_expires: None,
        document: String::new(),
        outcome: None,
    }
}

#[test]
fn the_list_fits_80_columns() {
    let long = JobRecord {
        repository: format!("a-long-organisation/{}", "x".repeat(80)),
        pull_request: None,
        error: Some(format!("build httpd: {}", "y".repeat(200))),
        ..job(123_456, JobState::Failed)
    };
    let jobs = [
        JobRecord { finished: None, ..job(3, JobState::Running) },
        JobRecord { started: None, finished: None, ..job(2, JobState::Queued) },
        job(1, JobState::Succeeded),
        long,
    ];
    let text = listed(&jobs, true, at("13:00:03"));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "  JOB  STATE        PR        AGE    TOOK  REPOSITORY",
            "    3  running      #5         3h   3h00m  acme/shop",
            "    2  queued       #5         3h          acme/shop",
            "    1  succeeded    #5         3h   2m03s  acme/shop",
        ]
    );
    assert!(lines[4].starts_with("123456  failed                  3h   2m03s  a-long"), "{text}");
    assert!(lines[5].starts_with("       build httpd: yy"), "{text}");
    assert!(lines.iter().all(|line| console::measure_text_width(line) <= 80), "{text}");
    // Without a `serve` nothing runs.
    let text = listed(&jobs[..1], false, at("13:00:03"));
    assert!(text.contains("    3  interrupted  #5         3h          acme/shop\n"), "{text}");
    assert_eq!(listed(&[], true, at("13:00:03")), "no jobs\n");
}

#[test]
fn ages_are_short() {
    for (now, expected) in [("10:00:00", "0s"), ("10:00:59", "59s"), ("10:59:59", "59m"), ("11:00:00", "1h")]
    {
        assert_eq!(age(at("10:00:00"), at(now)), expected);
    }
    assert_eq!(age(at("10:00:00"), at("10:00:00") + std::time::Duration::from_secs(3 * 86_400)), "3d");
    assert_eq!(age(at("10:00:01"), at("10:00:00")), "0s", "a clock that was set back");
}

#[test]
fn a_job_is_shown_with_title_images_and_next_step() {
    let decision: DecisionDocument = serde_json::from_value(json!({"schema": 1, "decision": "build", "reason": "x",
        "payload_sha256": "x", "change": {"forge": "github", "repository": "acme/shop", "clone_url": null,
        "commit": COMMIT, "branch": "main",
        "pull_request": {"number": 5, "title": "Fix \u{1b}[2Jit", "author": "octocat", "url": "https://h/5"}}}))
    .unwrap();
    let digest = format!("sha256:{}", "1".repeat(64));
    let receipt: Receipt = serde_json::from_value(json!({"schema": 1, "outcome": "succeeded", "registry": null,
        "change": {"forge": "github", "repository": "acme/shop", "clone_url": "u", "commit": COMMIT, "branch": "main"},
        "payload_sha256": null, "started": "x", "finished": "x", "seconds": {}, "images": [
            {"name": "httpd", "status": "built",
             "moved": [{"tag": "1.0", "from": null, "to": digest, "outcome": "moved"}]},
            {"name": "vm", "status": "skipped", "reason": "its type is `AMI`"}]}))
    .unwrap();
    let now = at("10:05:00");
    let text = shown(&job(17, JobState::Succeeded), Some(&decision), Some(&receipt), "/s/17.log", true, now);
    assert_eq!(
        text,
        format!(
            "job           17\nstate         succeeded\nrepository    acme/shop\n\
             pull request  #5 Fix \\u{{1b}}[2Jit (octocat)\n              https://h/5\nbranch        main\n\
             commit        {COMMIT}\ndelivery      d-1\nqueued        2026-01-01T10:00:00Z (5m ago)\n\
             started       2026-01-01T10:00:01Z (4m ago)\nfinished      2026-01-01T10:02:04Z (2m ago)\n\
             took          2m03s\nimages        httpd built 1.0\n              vm skipped its type is `AMI`\n\
             log           /s/17.log\nnext: swanci jobs log 17\n"
        )
    );
    let failed = JobRecord {
        error: Some("build httpd: exit code 1".to_owned()),
        exit_code: Some(1),
        attempts: 3,
        ..job(17, JobState::Failed)
    };
    let text = shown(&failed, None, None, "/s/17.log", true, now);
    for line in ["attempts      3\n", "cause         build httpd: exit code 1\n", "exit code     1\n"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(text.ends_with("next: swanci jobs log 17, swanci jobs retry 17\n"), "{text}");
    let running = JobRecord { finished: None, ..job(17, JobState::Running) };
    assert!(
        shown(&running, None, None, "l", false, now).contains("state         interrupted: the next serve")
    );
}
