//! End-to-end tests on a real Gitea: as the forge, with webhook, merges, statuses and comments, and as the registry, with its
//! token server and images below a user's name.
//!
//! `scripts/test registries` starts one and sets SWANCI_TEST_GITEA, SWANCI_TEST_GITEA_USER and SWANCI_TEST_GITEA_TOKEN.

use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use super::serve::support::until;
use crate::support::engine::{Cleanup, docker_text, unique};
use crate::support::repository::Repository;
use crate::support::swanci::{Scene, Started, Swanci, image, outcome};

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    until(what, || done().then_some(()));
}

struct Gitea {
    host: String,
    user: String,
    token: String,
}

impl Gitea {
    fn new() -> Gitea {
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name}: see scripts/test"));
        Gitea {
            host: variable("SWANCI_TEST_GITEA").trim_start_matches("http://").to_owned(),
            user: variable("SWANCI_TEST_GITEA_USER"),
            token: variable("SWANCI_TEST_GITEA_TOKEN"),
        }
    }

    fn login(&self, password: &str) -> String {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{password}", self.user));
        json!({"auths": {&self.host: {"auth": auth}}}).to_string()
    }

    /// A scene with its images below the user's name; also returns their prefix.
    fn scene(&self) -> (Scene, String) {
        let mut scene = Scene::new();
        let place = format!("{}/{}/{}", self.host, self.user, unique("shop"));
        scene.images.also(&place);
        scene.configure_for(&place, "");
        scene.repository.image("a", "one").image("b", "two");
        scene.repository.images(&["a", "b"].map(|n| json!({"service_name": n, "version": "1.0"})));
        (scene, place)
    }
}

fn digest(receipt: &Value, name: &str) -> String {
    image(receipt, name)["digest"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn a_merge_is_built_and_pushed() {
    let gitea = Gitea::new();
    let (scene, place) = gitea.scene();
    scene.swanci.docker_config(&gitea.login(&gitea.token));
    let first = scene.repository.commit("first");
    let ran = scene.run(&first, &["-v"]).ended(0);
    assert!(!ran.stderr.contains(&gitea.token), "{}", ran.stderr);
    let receipt = ran.json();
    assert_eq!(image(&receipt, "a")["repository"], format!("{place}/a"));
    assert_eq!([outcome(&receipt, "a", "1.0"), outcome(&receipt, "b", "1.0")], ["moved", "moved"]);
    let file = scene.swanci.file("receipt.json", &ran.stdout).display().to_string();
    assert_eq!(scene.swanci.run(&["verify", &file]).ended(0).json()["outcome"], "intact");

    // One image changes, the other is only tagged.
    scene.repository.write("a/file", "changed");
    let second = scene.repository.commit("second");
    let receipt = scene.run(&second, &[]).ended(0).json();
    let status = ["a", "b"].map(|name| image(&receipt, name)["status"].as_str().unwrap().to_owned());
    assert_eq!(status, ["built", "unchanged"]);
    let again = scene.run(&second, &[]).ended(0).json();
    assert_eq!([outcome(&again, "a", "1.0"), outcome(&again, "b", "1.0")], ["already", "already"]);
    assert_eq!(digest(&again, "a"), digest(&receipt, "a"));
    let pulled = format!("{place}/b@{}", digest(&receipt, "b"));
    let config = scene.swanci.docker_dir().display().to_string();
    docker_text(&["--config", &config, "pull", "--quiet", &pulled]);

    // An older merge moves nothing back.
    let older = scene.run(&first, &[]).ended(0).json();
    assert_eq!(outcome(&older, "a", "1.0"), "superseded");
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn catchup_builds_missing_commits_and_then_nothing() {
    let gitea = Gitea::new();
    let (scene, _) = gitea.scene();
    scene.swanci.docker_config(&gitea.login(&gitea.token));
    let first = scene.repository.commit("first");
    scene.run(&first, &[]).ended(0);
    scene.repository.write("a/file", "changed");
    let second = scene.repository.commit("second");
    let outcomes = |document: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let commits = document["commits"].as_array().unwrap();
        commits.iter().map(|c| (text(&c["commit"]), text(&c["outcome"]))).collect()
    };
    let catchup = || {
        outcomes(
            &scene
                .swanci
                .run(&["catchup", "--repo", &scene.repository.url(), "--branch", "main"])
                .ended(0)
                .json(),
        )
    };
    let expected = |how: &str| [(first.clone(), "present".to_owned()), (second.clone(), how.to_owned())];
    assert_eq!(catchup(), expected("built"));
    assert_eq!(catchup(), expected("present"));
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn a_missing_and_a_wrong_login_are_code_6() {
    let gitea = Gitea::new();
    let (scene, _) = gitea.scene();
    let commit = scene.repository.commit("first");
    for config in ["{}".to_owned(), gitea.login("wrong")] {
        scene.swanci.docker_config(&config);
        scene.run(&commit, &[]).ended(6).saying(&["hint:", "docker login"]);
    }
}

/// A repository on Gitea, and `swanci serve` on loopback that its webhook delivers to.
struct Shop {
    gitea: Gitea,
    name: String,
    swanci: Swanci,
    repository: Repository,
    /// The prefix of its images in Gitea's own registry.
    place: String,
    port: u16,
    serve: Option<Started>,
    _images: Cleanup,
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Gitea {
    /// Sends a request to the API; returns the status and body of the answer.
    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}/api/v1/{path}", self.host);
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(url)
            .header("Authorization", format!("token {}", self.token))
            .header("Content-Type", "application/json")
            .body(body.to_string())
            .unwrap();
        let mut answer = agent.run(request).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        (answer.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, &Value::Null);
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn change(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }
}

impl Shop {
    fn new(private: bool) -> Shop {
        crate::support::engine::needed();
        let gitea = Gitea::new();
        let short = unique("shop");
        let name = format!("{}/{short}", gitea.user);
        let new = json!({"name": short, "private": private, "default_branch": "main"});
        gitea.change("POST", "user/repos", &new);
        let repository = Repository::new();
        repository.image("a", "0").images(&[json!({"service_name": "a", "version": "1.0"})]);
        repository.commit("first");
        let url = format!("http://{}:{}@{}/{name}.git", gitea.user, gitea.token, gitea.host);
        repository.git(&["remote", "add", "origin", &url]);
        repository.git(&["push", "--quiet", "origin", "main"]);
        let settings = json!({"has_pull_requests": true, "allow_merge_commits": true, "allow_rebase": true,
            "allow_rebase_explicit": true, "allow_squash_merge": true, "allow_fast_forward_only_merge": true,
            "allow_manual_merge": true, "autodetect_manual_merge": true});
        gitea.change("PATCH", &format!("repos/{name}"), &settings);

        let place = format!("{}/{}/{short}", gitea.host, gitea.user);
        let mut swanci = Swanci::new();
        swanci.docker_config(&gitea.login(&gitea.token));
        swanci.file("token", &gitea.token);
        swanci.set("NO_PROXY", "127.0.0.1");
        // A free port, which is used a moment later.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let _images = Cleanup::new(&place);
        let mut shop = Shop { gitea, name, swanci, repository, place, port, serve: None, _images };
        shop.serve("'one'");
        shop.install();
        shop
    }

    /// Starts `serve` (again) with these secrets of the forge; the files `one` and `two` exist.
    fn serve(&mut self, secrets: &str) {
        self.stop();
        self.swanci.file("one", "s3cret-ünï &+%one");
        self.swanci.file("two", "another-secret-two");
        self.swanci.config(&format!(
            "[registry]\nhost = '{}'\nplain_http = true\n[serve]\nlisten = '127.0.0.1:{}'\n\
             public_url = 'https://ci.example.org'\n\
             [[forge]]\nkind = 'gitea'\nurl = 'http://{}'\nsecret_file = {secrets}\ntoken_file = 'token'\n\
             status = true\ncomment = true\n[[repository]]\nname = '{}'\n",
            self.place, self.port, self.gitea.host, self.name
        ));
        let mut serve = self.swanci.command(&["serve"]);
        let log = std::fs::File::create(self.swanci.work().join("serve.log")).unwrap();
        serve.stdout(log.try_clone().unwrap()).stderr(log);
        self.serve = Some(Started::new(serve.spawn().unwrap(), &["serve"]));
        eventually("serve listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    fn stop(&mut self) {
        if let Some(serve) = self.serve.take() {
            serve.signal(rustix::process::Signal::TERM);
            serve.wait();
            println!("{}", self.said());
            assert!(!self.said().contains(&self.gitea.token));
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.swanci.work().join("serve.log")).unwrap_or_default()
    }

    fn install(&self) {
        let url = format!("http://127.0.0.1:{}/webhook", self.port);
        self.swanci.run(&["hook", "install", "--repo", &self.name, "--url", &url]).ended(0);
        let hooks = self.gitea.get(&format!("repos/{}/hooks", self.name));
        assert_eq!(hooks.as_array().unwrap().len(), 1, "{hooks}");
        assert_eq!(hooks[0]["config"]["url"], url, "{hooks}");
    }

    /// Makes the webhook deliver forms, and all events of pull requests.
    fn send_forms_of_everything(&self) {
        let hooks = self.gitea.get(&format!("repos/{}/hooks", self.name));
        let url = &hooks[0]["config"]["url"];
        let path = format!("repos/{}/hooks/{}", self.name, hooks[0]["id"]);
        let config = json!({"url": url, "content_type": "form", "secret": "s3cret-ünï &+%one"});
        let events = ["push", "pull_request", "pull_request_label", "pull_request_comment", "issue_comment"];
        let hook =
            self.gitea.change("PATCH", &path, &json!({"config": config, "events": events, "active": true}));
        assert_eq!(hook["config"]["content_type"], "form", "{hook}");
    }

    /// Commits a change of the image to a new branch, and pushes that.
    fn push_topic(&self, topic: &str) {
        self.repository.git(&["fetch", "--quiet", "origin"]);
        self.repository.git(&["checkout", "--quiet", "-B", topic, "origin/main"]);
        for n in ["1", "2"] {
            self.repository.write("a/file", format!("{topic} {n}")).commit(&format!("{topic} {n}"));
        }
        self.repository.git(&["push", "--quiet", "origin", topic]);
    }

    fn push_to_main(&self, file: &str) {
        self.repository.git(&["fetch", "--quiet", "origin"]);
        self.repository.git(&["checkout", "--quiet", "-B", "main", "origin/main"]);
        self.repository.write(file, file).commit(file);
        self.repository.git(&["push", "--quiet", "origin", "main"]);
    }

    /// Opens a pull request; returns its number.
    fn open(&self, head: &str) -> u64 {
        let path = format!("repos/{}/pulls", self.name);
        let pull = json!({"title": head, "head": head, "base": "main"});
        let mut number = None;
        eventually("the pull request is open", || {
            // 404 until Gitea has processed the push of the branch, which it does after git has ended.
            let (status, answer) = self.gitea.ask("POST", &path, &pull);
            assert!([201, 404].contains(&status), "{status} {answer}");
            number = answer["number"].as_u64();
            number.is_some()
        });
        number.unwrap()
    }

    /// Merges it in this style; returns the commit that landed.
    fn merge(&self, number: u64, style: &str) -> String {
        let path = format!("repos/{}/pulls/{number}/merge", self.name);
        eventually("it is merged", || {
            // 405 while Gitea looks for conflicts.
            let (status, answer) = self.gitea.ask("POST", &path, &json!({"Do": style}));
            assert!([200, 405].contains(&status), "{style}: {status} {answer}");
            status == 200
        });
        self.landed(number)
    }

    fn landed(&self, number: u64) -> String {
        let mut landed = None;
        eventually("it is merged", || {
            let pull = self.gitea.get(&format!("repos/{}/pulls/{number}", self.name));
            landed = pull["merge_commit_sha"].as_str().filter(|_| pull["merged"] == true).map(str::to_owned);
            landed.is_some()
        });
        landed.unwrap()
    }

    /// The commit that landed is also found by Gitea's own ref, without the payload; with `None`, the build is refused.
    fn is_found_without_being_named(&self, number: u64, commit: Option<&String>) {
        let pull = self.gitea.get(&format!("repos/{}/pulls/{number}", self.name));
        let of_pull =
            json!({"number": number, "created_at": pull["created_at"], "merged_at": pull["merged_at"]});
        let change = json!({"forge": "gitea", "forge_url": format!("http://{}", self.gitea.host),
            "repository": self.name, "commit": null, "branch": "main", "pull_request": of_pull});
        let document = json!({"schema": 1, "decision": "build", "reason": "", "change": change,
            "payload_sha256": "0".repeat(64)});
        let ran = self.swanci.pipe(&["build", "-", "--dry-run"], document.to_string());
        match commit {
            Some(commit) => assert_eq!(ran.ended(0).json()["change"]["commit"], *commit),
            None => drop(ran.ended(5)),
        }
    }

    fn jobs(&self) -> Vec<Value> {
        self.swanci.run(&["jobs", "list", "--json"]).ended(0).json()["jobs"].as_array().unwrap().clone()
    }

    /// The pull request's job succeeds, its images are in the registry, its commit has a status, and the pull request has one
    /// comment.
    fn is_built(&self, number: u64, commit: &str) {
        eventually(&format!("the job of #{number} has succeeded"), || {
            let jobs = self.jobs();
            let job = jobs.iter().find(|job| job["commit"] == commit);
            assert!(job.is_none_or(|job| job["state"] != "failed"), "{jobs:?}");
            job.is_some_and(|job| job["state"] == "succeeded")
        });
        let receipts = self.swanci.receipts();
        let receipt = receipts.iter().find(|receipt| receipt["change"]["commit"] == commit).unwrap();
        assert_eq!(receipt["change"]["pull_request"]["number"], number);
        assert_eq!(image(receipt, "a")["repository"], format!("{}/a", self.place));
        let file = self.swanci.file("receipt.json", receipt.to_string()).display().to_string();
        assert_eq!(self.swanci.run(&["verify", &file]).ended(0).json()["outcome"], "intact");

        let digest = digest(receipt, "a");
        eventually("the commit has its status", || {
            let status = self.gitea.get(&format!("repos/{}/commits/{commit}/status", self.name));
            status["state"] == "success"
        });
        let status = self.gitea.get(&format!("repos/{}/commits/{commit}/status", self.name));
        let statuses = status["statuses"].as_array().unwrap();
        assert_eq!(statuses.len(), 1, "{status}");
        assert!(
            statuses[0]["target_url"].as_str().unwrap().starts_with("https://ci.example.org/jobs/"),
            "{status}"
        );
        let comments = format!("repos/{}/issues/{number}/comments", self.name);
        eventually("the pull request has its comment", || {
            let comments = self.gitea.get(&comments);
            let comments: Vec<&str> =
                comments.as_array().unwrap().iter().filter_map(|comment| comment["body"].as_str()).collect();
            comments.len() == 1 && comments[0].contains("docker pull") && comments[0].contains(&digest)
        });
    }
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn a_private_repository_is_built_for_every_merge_style() {
    let shop = Shop::new(true);
    assert_eq!(shop.gitea.get(&format!("repos/{}", shop.name))["private"], true);
    for style in ["merge", "rebase", "rebase-merge", "squash", "fast-forward-only"] {
        shop.push_topic(style);
        let number = shop.open(style);
        if style != "fast-forward-only" {
            shop.push_to_main(&format!("moved-{style}"));
        }
        let commit = shop.merge(number, style);
        shop.is_built(number, &commit);
        // A merge commit on top of rebased commits contains neither the head nor its patch.
        shop.is_found_without_being_named(number, Some(&commit).filter(|_| style != "rebase-merge"));
    }
    // Gitea detects that a push contains a pull request's head.
    shop.push_topic("pushed");
    let number = shop.open("pushed");
    shop.push_to_main("moved-pushed");
    shop.repository.merge("pushed");
    shop.repository.git(&["push", "--quiet", "origin", "main"]);
    let commit = shop.landed(number);
    assert_eq!(commit, shop.repository.head());
    shop.is_built(number, &commit);
    shop.is_found_without_being_named(number, Some(&commit));
    assert_eq!(shop.jobs().len(), 6);
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn a_form_delivery_is_read_and_later_events_are_not_another_merge() {
    let shop = Shop::new(false);
    shop.send_forms_of_everything();
    shop.push_topic("first");
    let number = shop.open("first");
    let commit = shop.merge(number, "squash");
    shop.is_built(number, &commit);
    let label = json!({"name": "late", "color": "#00aabb"});
    let label = shop.gitea.change("POST", &format!("repos/{}/labels", shop.name), &label)["id"].clone();
    let issue = format!("repos/{}/issues/{number}", shop.name);
    shop.gitea.change("POST", &format!("{issue}/labels"), &json!({"labels": [label]}));
    shop.gitea.change("POST", &format!("{issue}/comments"), &json!({"body": "well done"}));
    shop.gitea.change("PATCH", &issue, &json!({"title": "another title"}));
    // Deliveries arrive in order: after this merge the others are answered.
    shop.push_topic("second");
    let number = shop.open("second");
    let commit = shop.merge(number, "merge");
    shop.is_built(number, &commit);
    assert_eq!(shop.jobs().len(), 2, "{:?}", shop.jobs());
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn replacing_a_secret_loses_no_delivery() {
    let mut shop = Shop::new(false);
    shop.push_topic("old");
    let number = shop.open("old");
    // The new secret first, then the old one, which the webhook still uses.
    shop.serve("['two', 'one']");
    let commit = shop.merge(number, "merge");
    shop.is_built(number, &commit);
    shop.install();
    shop.serve("'two'");
    shop.push_topic("new");
    let number = shop.open("new");
    let commit = shop.merge(number, "merge");
    shop.is_built(number, &commit);
    // Deliveries that are signed with the old secret are refused.
    shop.serve("'one'");
    shop.push_topic("refused");
    let number = shop.open("refused");
    shop.merge(number, "merge");
    eventually("the delivery is refused", || shop.said().contains("pull_request: 401 unauthorized"));
    assert_eq!(shop.jobs().len(), 2, "{}", shop.said());
}

#[test]
#[ignore = "needs a Gitea: scripts/test registries"]
fn a_fork_may_be_deleted_after_the_merge() {
    let shop = Shop::new(false);
    let user = unique("bob");
    let password = "a-password-of-the-tests-1";
    let new = json!({"username": user, "email": format!("{user}@swan.test"), "password": password,
        "must_change_password": false});
    shop.gitea.change("POST", "admin/users", &new);
    let short = shop.name.split('/').nth(1).unwrap();
    shop.gitea.change("POST", &format!("repos/{}/forks?sudo={user}", shop.name), &json!({}));
    let fork = format!("http://{user}:{password}@{}/{user}/{short}.git", shop.gitea.host);
    shop.repository.git(&["remote", "add", "fork", &fork]);
    shop.repository.branch("topic").write("a/file", "from a fork").commit("from a fork");
    eventually("the fork exists", || {
        shop.gitea.ask("GET", &format!("repos/{user}/{short}"), &Value::Null).0 == 200
    });
    shop.repository.git(&["push", "--quiet", "fork", "topic"]);
    let number = shop.open(&format!("{user}:topic"));
    shop.send_forms_of_everything();
    let commit = shop.merge(number, "squash");
    // Before the merge this would close the pull request. After it, the payload's head has no repository.
    shop.gitea.change("DELETE", &format!("repos/{user}/{short}"), &Value::Null);
    let issue = format!("repos/{}/issues/{number}", shop.name);
    shop.gitea.change("PATCH", &issue, &json!({"title": "another title"}));
    shop.is_built(number, &commit);
    eventually("the edit is skipped", || {
        shop.said().contains("200 skip: pull request #1 was not closed by this event: its action is edited")
    });
    assert_eq!(shop.jobs().len(), 1);
}
