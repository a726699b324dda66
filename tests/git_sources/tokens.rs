#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::io::Write as _;

use swanci::cancel::Cancel;
use swanci::error::Failure;
use swanci::git::{Access, GitError, GitErrorKind, Mirror, Remote};
use swanci::model::{ForgeName, RepoName};

use super::{PlainServer, plain_server};
use crate::support::registry::Ca;
use crate::support::repository::Repository;
use crate::support::swanci::Swanci;

const TOKEN: &str = "canary-token-51f0";

fn access(forge: String) -> Access {
    Access {
        kind: ForgeName::Gitlab,
        forge,
        login: "gitlab-ci-token".to_owned(),
        token: Some(TOKEN.to_owned().into()),
        ca_file: None,
    }
}

fn served() -> (Repository, PlainServer) {
    let repository = Repository::new();
    repository.write("file", "1");
    repository.commit("first");
    repository.git(&["update-server-info"]);
    let server = plain_server(repository.path().join(".git"), |_| true);
    (repository, server)
}

fn fetch(remote: &Remote, access: &[Access]) -> Result<String, GitError> {
    let (state, cancel) = (tempfile::tempdir().unwrap(), Cancel::new());
    let mirror = Mirror::of(state.path(), remote, access, &cancel);
    mirror.fetch_branch(&"main".parse().unwrap()).map(|commit| commit.to_string())
}

fn name(text: &str) -> RepoName {
    text.parse().unwrap()
}

#[test]
fn a_token_is_sent_only_to_its_forges_host_port_and_path() {
    use base64::Engine as _;
    let pair = format!("gitlab-ci-token:{TOKEN}");
    let header = format!("Authorization: Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let (repository, server) = served();
    let port = server.port;
    let base = format!("http://127.0.0.1:{port}");
    let sent = |forge: &str, remote: &str| {
        server.seen.lock().unwrap().clear();
        let remote = Remote::of_forge(ForgeName::Gitlab, remote, &name("acme/shop")).unwrap();
        assert_eq!(fetch(&remote, &[access(forge.to_owned())]).unwrap(), repository.head());
        let seen = server.seen.lock().unwrap();
        assert!(!seen.is_empty());
        seen.iter().all(|head| head.contains(&header))
    };
    assert!(sent(&base, &base));
    assert!(sent(&format!("{base}/"), &base));
    assert!(sent(&base, &format!("{base}/prefix")));
    assert!(sent(&format!("{base}/prefix"), &format!("{base}/prefix/")));
    for other in [
        format!("http://127.0.0.1:{}", port ^ 1),
        "http://127.0.0.1".to_owned(),
        format!("https://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        format!("{base}/prefix"),
        format!("{base}/acm"),
        format!("{base}/acme/shop"),
        "not a url".to_owned(),
    ] {
        assert!(!sent(&other, &base), "{other}");
    }
    assert!(!sent(&format!("{base}/pre"), &format!("{base}/prefix")));
}

#[test]
fn lfs_storage_on_another_host_gets_no_token() {
    let repository = Repository::new();
    repository.git(&["config", "filter.lfs.clean", "git-lfs clean -- %f"]);
    repository.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    repository.write("Dockerfile", "FROM scratch\n").write("large.bin", "the content itself");
    let commit = repository.commit("with LFS").parse().unwrap();
    repository.git(&["update-server-info"]);
    let pointer = repository.git(&["show", "HEAD:large.bin"]);
    let oid = pointer.split("sha256:").nth(1).unwrap()[..64].to_owned();
    let storage = tempfile::tempdir().unwrap();
    std::fs::write(storage.path().join(&oid), "the content itself").unwrap();
    let storage = plain_server(storage.keep(), |_| true);
    let batch = serde_json::json!({"transfer": "basic", "objects": [{"oid": oid, "size": 18, "authenticated": true,
        "actions": {"download": {"href": format!("http://127.0.0.1:{}/shop.git/{oid}", storage.port)}}}]});
    repository.write(".git/info/lfs/objects/batch", batch.to_string());
    let server = plain_server(repository.path().join(".git"), |_| true);
    let base = format!("http://127.0.0.1:{}", server.port);
    let remote = Remote::of_forge(ForgeName::Gitlab, &base, &name("acme/shop")).unwrap();
    let (state, cancel, access) = (tempfile::tempdir().unwrap(), Cancel::new(), [access(base)]);
    let mirror = Mirror::of(state.path(), &remote, &access, &cancel);
    mirror.fetch_branch(&"main".parse().unwrap()).unwrap();
    let files = mirror.context_files(&commit, &[(".", "Dockerfile")], false).unwrap().remove(0).unwrap();
    let copy = tempfile::tempdir().unwrap();
    mirror.check_out_context(&files, copy.path()).unwrap();
    assert_eq!(std::fs::read(copy.path().join("large.bin")).unwrap(), b"the content itself");
    let asked = |server: &PlainServer, path: &str| -> Vec<String> {
        server.seen.lock().unwrap().iter().filter(|head| head.contains(path)).cloned().collect()
    };
    let (batch, download) = (asked(&server, "objects/batch"), asked(&storage, &oid));
    assert!(batch.iter().any(|head| head.contains("Authorization: Basic")), "{batch:?}");
    assert!(
        !download.is_empty() && !download.iter().any(|head| head.contains("Authorization")),
        "{download:?}"
    );
}

#[test]
fn a_forges_ca_file_is_trusted_for_that_forge() {
    let (repository, server) = served();
    let ca = Ca::new("test");
    let port = super::tls_server(&ca, &["127.0.0.1"], &server);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &ca.pem).unwrap();
    let forge = format!("https://127.0.0.1:{port}");
    let remote = Remote::of_forge(ForgeName::Gitlab, &forge, &name("acme/shop")).unwrap();
    let with = |ca_file| Access { ca_file, ..access(forge.clone()) };
    assert_eq!(fetch(&remote, &[with(Some(file.path().to_owned()))]).unwrap(), repository.head());
    let error = fetch(&remote, &[with(None)]).unwrap_err();
    assert!(Failure::from(error).to_string().contains("cannot be verified"));
}

#[test]
fn plain_http_is_used_only_for_a_forge_with_an_http_url() {
    let (repository, server) = served();
    let base = format!("http://127.0.0.1:{}", server.port);
    let remote = Remote::of_forge(ForgeName::Gitlab, &base, &name("acme/shop")).unwrap();
    assert_eq!(fetch(&remote, &[]).unwrap(), repository.head());
    assert_eq!(remote.source(), format!("{base}/acme/shop"));
    assert_eq!(remote.submodule("../shop.git").unwrap().as_git_url(), format!("{base}/acme/shop.git"));
    assert!(remote.submodule("http://127.0.0.1:1/x").is_err());
    Remote::typed(&format!("{base}/acme/shop.git")).unwrap_err();
    let secure = Remote::typed("https://127.0.0.1/acme/shop.git").unwrap();
    secure.submodule("http://127.0.0.1/acme/x").unwrap_err();
    for bad in
        ["", "ftp://h", "/srv", "h", "https://u:p@h", "https://u@h", "https://", "https://h\\@x", "ext::x"]
    {
        assert!(Remote::of_forge(ForgeName::Gitlab, bad, &name("acme/shop")).is_err(), "{bad}");
    }
    let prefixed =
        Remote::of_forge(ForgeName::Gitlab, "https://Git.example.org:443/forge/", &name("acme/shop"))
            .unwrap();
    assert_eq!(prefixed.as_git_url(), "https://git.example.org/forge/acme/shop.git");
}

fn import(repository: &Repository, stream: &str) {
    let mut child = std::process::Command::new("git")
        .args(["fast-import", "--quiet"])
        .current_dir(repository.path())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stream.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_abbreviated_commit_is_unique_or_an_error() {
    let repository = Repository::new();
    let (state, cancel) = (tempfile::tempdir().unwrap(), Cancel::new());
    // Enough commits that two of them begin with the same four digits; their ids are the same in every run.
    let commits: String = (0..2000)
        .map(|i| {
            format!("commit refs/heads/main\ncommitter A <a@b.org> {} +0000\ndata 1\nx\n", 1_700_000_000 + i)
        })
        .collect();
    import(&repository, &commits);
    let mut commits: Vec<String> = repository.git(&["rev-list", "main"]).lines().map(str::to_owned).collect();
    commits.sort();
    let pair = commits.windows(2).find(|pair| pair[0][..4] == pair[1][..4]).unwrap();
    let shared = (pair[0].clone(), pair[1].clone());
    let remote = Remote::typed(&repository.url()).unwrap();
    let mirror = Mirror::of(state.path(), &remote, &[], &cancel);
    mirror.fetch_branch(&"main".parse().unwrap()).unwrap();
    for commit in [&shared.0, &shared.1] {
        for length in [12, 20, 40] {
            assert_eq!(mirror.resolve_abbreviation(&commit[..length]).unwrap().as_str(), commit);
        }
        let upper = commit[..12].to_uppercase();
        assert_eq!(mirror.resolve_abbreviation(&upper).unwrap().as_str(), commit);
    }
    let ambiguous = Failure::from(mirror.resolve_abbreviation(&shared.0[..4]).unwrap_err());
    assert!(ambiguous.to_string().contains("ambiguous"), "{ambiguous}");
    assert!(ambiguous.hint.is_some_and(|hint| hint.contains(&shared.0) || hint.matches(", ").count() == 4));
    let tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    assert_eq!(mirror.resolve_abbreviation(&tree[..20]).unwrap_err().kind, GitErrorKind::NotACommit);
    for unknown in ["", "abc", "main", "HEAD", "--all", "@{-1}", "^a", "0000000000000", &"a".repeat(41)] {
        let error = mirror.resolve_abbreviation(unknown).unwrap_err();
        assert_eq!(error.kind, GitErrorKind::NoSuchRef, "{unknown}: {error:?}");
    }
}

/// A private repository of each kind of forge: its path, its login, and the refs of its pull requests.
#[test]
fn a_private_repository_is_read_with_the_login_form_of_its_forge() {
    use base64::Engine as _;
    let own = |user: &str| format!("{user}:{TOKEN}");
    let plain = TOKEN.to_owned();
    let forges = [
        ("github", "", "acme/shop", &plain, "/acme/shop.git", "x-access-token", "refs/pull/1/head"),
        ("gitlab", "", "acme/shop", &plain, "/acme/shop.git", "oauth2", "refs/merge-requests/1/head"),
        (
            "gitlab",
            "/gl",
            "group/sub/shop",
            &plain,
            "/gl/group/sub/shop.git",
            "oauth2",
            "refs/merge-requests/1/head",
        ),
        (
            "gitlab",
            "",
            "g/shop",
            &own("gitlab-ci-token"),
            "/g/shop.git",
            "gitlab-ci-token",
            "refs/merge-requests/1/head",
        ),
        ("gitea", "/git", "acme/shop", &plain, "/git/acme/shop.git", "swanci", "refs/pull/1/head"),
        ("forgejo", "", "acme/shop", &own("ada"), "/acme/shop.git", "ada", "refs/pull/1/head"),
        ("gogs", "", "acme/shop", &own(""), "/acme/shop.git", "", "refs/pull/1/head"),
        ("bitbucket", "", "acme/shop", &plain, "/acme/shop.git", "x-token-auth", ""),
        (
            "bitbucket-server",
            "",
            "PRJ/shop",
            &plain,
            "/scm/PRJ/shop.git",
            "x-token-auth",
            "refs/pull-requests/1/from",
        ),
        (
            "bitbucket-server",
            "/bb",
            "~ada/shop",
            &plain,
            "/bb/scm/~ada/shop.git",
            "x-token-auth",
            "refs/pull-requests/1/from",
        ),
        ("gitbucket", "", "acme/shop", &own("ada"), "/git/acme/shop.git", "ada", "refs/pull/1/head"),
        ("gitbucket", "/git", "acme/shop", &plain, "/git/git/acme/shop.git", "root", "refs/pull/1/head"),
    ];
    for (kind, prefix, name, token, path, login, head) in forges {
        let repository = Repository::new();
        repository.image("a", "1").images(&[serde_json::json!({"service_name": "a", "version": "1"})]);
        repository.commit("first");
        repository.branch("topic").write("a/file", "2").commit("topic");
        if !head.is_empty() {
            repository.git(&["update-ref", head, "topic"]);
        }
        repository.checkout("main").write("other", "x").commit("moved");
        let landed = repository.squash("topic");
        repository.git(&["branch", "--quiet", "-D", "topic"]);
        repository.git(&["update-server-info"]);
        let pair = base64::engine::general_purpose::STANDARD.encode(own(login));
        let wanted = format!("Authorization: Basic {pair}");
        let folder = format!("GET {path}/");
        let server = plain_server(repository.path().join(".git"), move |head| {
            head.starts_with(&folder) && head.contains(&wanted)
        });
        let swanci = Swanci::new();
        swanci.config(&format!(
            "[[forge]]\nkind = '{kind}'\nurl = 'http://127.0.0.1:{}{prefix}'\ntoken_file = 'token'\n\
             [[repository]]\nname = '{name}'\n",
            server.port
        ));
        let prefix = head.is_empty().then(|| landed[..12].to_owned());
        let document = serde_json::json!({
            "schema": 1, "decision": "build", "reason": "", "payload_sha256": "0".repeat(64),
            "change": {"forge": kind, "repository": name, "commit": null, "branch": "main",
                       "pull_request": {"number": 1, "landed_prefix": prefix}},
        });
        let build = || swanci.pipe(&["build", "-", "--dry-run"], document.to_string());
        swanci.file("token", "another");
        let ran = build();
        assert_ne!(ran.code, 0, "{kind}");
        swanci.file("token", format!("{token}\n"));
        let ran = build().ended(0);
        assert_eq!(ran.json()["change"]["commit"], *landed, "{kind} {name}");
        assert!(!ran.stderr.contains(TOKEN) && !ran.stdout.contains(TOKEN));
    }
}
