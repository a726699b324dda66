//! A webhook may be faster than the forge's own git.

use serde_json::{Value, json};

use super::super::serve::support::{PAGE, REPOSITORY, SECRET, World, until};
use crate::support::http::sign;

/// Gogs does not name the commit that landed: the job retries until the forge's git has it.
#[test]
fn a_merge_that_is_not_yet_in_the_forges_git_is_fetched_again() {
    let world = World::new();
    let clone = world.path("forge.git").display().to_string();
    world.configure(|s| {
        s.repositories = Some(format!(
            "[[forge]]\nkind = 'gogs'\nurl = 'https://gogs.test'\nsecret_file = 'secret'\n\
             [[repository]]\nname = '{REPOSITORY}'\nforge = 'https://gogs.test'\nclone_url = '{clone}'\n"
        ));
    });
    let images = json!({"images": [{"service_name": "httpd", "version": "1.0"}]}).to_string();
    let files = [("images.json", images.as_str()), ("httpd/Dockerfile", PAGE), ("httpd/page", "one")];
    let merge = world.merge_unpushed(&files);
    let github: Value = serde_json::from_slice(&merge.payload).unwrap();
    let body = json!({
        "action": "closed", "number": 1,
        "pull_request": {"id": 1, "number": 1, "title": "Change 1", "state": "closed", "merged": true,
            "merged_at": "2026-11-26T12:42:04Z", "merge_commit_sha": github["pull_request"]["head"]["sha"],
            "base_branch": "develop", "head_branch": "change-1", "user": {"login": "juan"}},
        "repository": {"full_name": REPOSITORY, "default_branch": "develop"},
        "sender": {"login": "juan"},
    })
    .to_string();
    let serve = world.serve();
    let head = format!(
        "POST /webhook HTTP/1.1\r\nHost: ci\r\nConnection: close\r\nContent-Type: application/json\r\n\
         X-Gogs-Event: pull_request\r\nX-Gogs-Signature: {}\r\nContent-Length: {}\r\n\r\n{body}",
        sign(SECRET, body.as_bytes()).trim_start_matches("sha256="),
        body.len()
    );
    let answer = serve.ask(head);
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json()["job"].as_i64().unwrap();
    until("it is not there yet", || world.job_log(id).contains("is not on develop yet").then_some(()));
    world.push();
    let job = world.wait_for(id, "succeeded");
    assert_eq!(job["commit"], *merge.commit, "{job}");
    assert!(world.digest("httpd", &format!("sha-{}", merge.commit)).is_some());
}
