//! Finding the commit that landed if the forge does not name it: found and proved, or refused.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use swanci::cancel::Cancel;
use swanci::git::{Merge, Mirror, Remote};

use crate::evaluate_fixtures::collection;
use crate::support::repository::Repository;
use crate::support::swanci::{Ran, Swanci};

/// A merge as reported by its forge.
struct Report {
    forge: &'static str,
    /// The head in the payload.
    head: Option<String>,
    created: Option<i64>,
    merged: Option<i64>,
    /// The commit that landed; `None` if it cannot be determined.
    landed: Option<String>,
}

const PULL: &str = "refs/pull/1/head";

fn document(forge: &str, pull_request: &Value) -> String {
    json!({
        "schema": 1, "decision": "build", "reason": "pull request #1 was merged", "payload_sha256": "0".repeat(64),
        "change": {"forge": forge, "repository": "acme/shop", "clone_url": null, "commit": null, "branch": "main",
                   "default_branch": null, "pull_request": pull_request},
    })
    .to_string()
}

fn configuration(forge: &str, path: &str) -> String {
    format!(
        "[[forge]]\nkind = '{forge}'\nurl = 'https://forge.test'\n[[repository]]\nname = 'acme/shop'\nclone_url = '{path}'\n"
    )
}

/// Plans the build of a change of `acme/shop`, which is in this folder.
fn plan(swanci: &Swanci, forge: &str, repository: &Path, document: &str) -> Ran {
    let path = repository.display();
    swanci.config(&configuration(forge, &path.to_string()));
    swanci.pipe(&["build", "-", "--dry-run"], document)
}

fn planned_commit(ran: Ran) -> String {
    ran.ended(0).json()["change"]["commit"].as_str().unwrap().to_owned()
}

fn refused(ran: Ran) {
    let ran = ran.ended(5).saying(&[
        "matches no commit of the branch",
        "hint: ",
        "swanci build --repo",
        "--commit SHA",
        "catchup",
    ]);
    assert_eq!(ran.stdout, "");
}

fn time_of(repository: &Repository, commit: &str) -> i64 {
    repository.git(&["log", "-1", "--format=%ct", commit]).parse().unwrap()
}

fn lines(changed: &[(usize, &str)]) -> String {
    let line = |n: usize| {
        changed.iter().find(|(at, _)| *at == n).map_or_else(|| n.to_string(), |(_, t)| (*t).to_owned())
    };
    (0..40).map(|n| line(n) + "\n").collect()
}

/// A repository with an image on `main`.
fn repository() -> Repository {
    let repository = Repository::new();
    repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    repository.write("text", lines(&[]));
    repository.commit("first");
    repository
}

/// Commits each change of `text` on the branch `topic` for pull request 1, then switches back to `main`.
fn topic(repository: &Repository, changes: &[&[(usize, &str)]]) -> String {
    repository.branch("topic");
    for (n, change) in changes.iter().enumerate() {
        repository.write("text", lines(change)).commit(&format!("topic {n}"));
    }
    open(repository)
}

/// Makes the current commit the head of pull request 1, then switches back to `main`.
fn open(repository: &Repository) -> String {
    let head = repository.head();
    repository.git(&["update-ref", PULL, &head]);
    repository.checkout("main");
    head
}

fn push(repository: &Repository, file: &str) -> String {
    repository.write(file, file).commit(file)
}

/// The merge of a pull request that was opened right after its head was committed.
fn report(forge: &'static str, repository: &Repository, head: &str, landed: &str) -> Report {
    Report {
        forge,
        head: Some(head.to_owned()),
        created: Some(time_of(repository, head) + 1),
        merged: Some(time_of(repository, landed)),
        landed: Some(landed.to_owned()),
    }
}

/// Creates, with git alone, a forge's test merge under `refs/pull/1/merge`.
fn tried(repository: &Repository) {
    let tree = repository.git(&["rev-parse", &format!("{PULL}^{{tree}}")]);
    let commit = repository.git(&["commit-tree", "-m", "tried", "-p", "main", "-p", PULL, &tree]);
    repository.git(&["update-ref", "refs/pull/1/merge", &commit]);
}

/// A commit on `main` with the committer's date of another one.
fn commit_at(repository: &Repository, like: &str) -> String {
    let date = format!("{} +0000", time_of(repository, like));
    let commit = repository.commit("x");
    let tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    let parent = repository.git(&["rev-parse", "HEAD^"]);
    let out = Command::new("git")
        .args([
            "-c",
            "user.name=A",
            "-c",
            "user.email=a@b.org",
            "commit-tree",
            "-m",
            "y",
            "-p",
            &parent,
            &tree,
        ])
        .current_dir(repository.path())
        .env("GIT_COMMITTER_DATE", &date)
        .env("GIT_AUTHOR_DATE", &date)
        .output()
        .unwrap();
    assert!(out.status.success());
    let made = String::from_utf8(out.stdout).unwrap().trim().to_owned();
    assert_ne!(made, commit);
    repository.reset(&made);
    made
}

const ONE: &[(usize, &str)] = &[(5, "one")];
const TWO: &[(usize, &str)] = &[(5, "one"), (20, "two")];
const THREE: &[(usize, &str)] = &[(5, "one"), (20, "two"), (35, "three")];

/// Ways in which a pull request lands before the branch advances.
type Case = (&'static str, fn(&Repository) -> Report);

const CASES: &[Case] = &[
    ("a merge commit", |r| {
        let head = topic(r, &[ONE, TWO]);
        report("gogs", r, &head, &r.merge("topic"))
    }),
    ("a merge commit, the base has moved", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        report("gitbucket", r, &head, &r.merge("topic"))
    }),
    ("a fast-forward", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.git(&["merge", "--quiet", "--ff-only", "topic"]);
        report("gogs", r, &head, &head)
    }),
    ("a fast-forward, pushed before the pull request was opened", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.git(&["merge", "--quiet", "--ff-only", "topic"]);
        let report = report("gitbucket", r, &head, &head);
        Report {
            created: Some(report.merged.unwrap() + 600),
            merged: Some(report.merged.unwrap() + 601),
            ..report
        }
    }),
    ("a rebase of one", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        report("gogs", r, &head, &r.rebase("topic"))
    }),
    ("a rebase of several, without the time of the opening", |r| {
        let head = topic(r, &[ONE, TWO, THREE]);
        push(r, "moved");
        tried(r);
        Report { created: None, ..report("gogs", r, &head, &r.rebase("topic")) }
    }),
    ("a rebase of several, without any time", |r| {
        let head = topic(r, &[ONE, TWO, THREE]);
        push(r, "moved");
        Report { created: None, merged: None, ..report("gogs", r, &head, &r.rebase("topic")) }
    }),
    ("a rebase onto the same base", |r| {
        let head = topic(r, &[ONE, TWO]);
        tried(r);
        report("gitbucket", r, &head, &r.rebase("topic"))
    }),
    ("a squash of several", |r| {
        let head = topic(r, &[ONE, TWO, THREE]);
        push(r, "moved");
        tried(r);
        report("gitbucket", r, &head, &r.squash("topic"))
    }),
    ("a squash whose lines have moved, under GitBucket's ref", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.write("text", lines(&[(4, "near"), (6, "near")])).commit("near");
        r.git(&["merge", "--quiet", "--squash", "--strategy-option=theirs", "topic"]);
        let landed = r.commit("Squashed");
        r.git(&["update-ref", "refs/pull/1/merge", &landed]);
        Report { merged: None, ..report("gitbucket", r, &head, &landed) }
    }),
    ("a squash of a branch that the base was merged into", |r| {
        topic(r, &[ONE]);
        push(r, "moved");
        r.checkout("topic").merge("main");
        r.write("text", lines(TWO)).commit("after the update");
        let head = open(r);
        push(r, "moved again");
        report("gitbucket", r, &head, &r.squash("topic"))
    }),
    ("a rebase of a branch whose last commit is a merge of the base", |r| {
        topic(r, &[ONE, TWO]);
        push(r, "moved");
        r.checkout("topic").merge("main");
        let head = open(r);
        push(r, "moved again");
        let landed = r.rebase("topic");
        report("gogs", r, &head, &landed)
    }),
    ("a merge of merges", |r| {
        let head = topic(r, &[ONE]);
        r.branch("develop");
        r.merge("topic");
        push(r, "develop");
        r.checkout("main");
        push(r, "moved");
        report("gitbucket", r, &head, &r.merge("develop"))
    }),
    ("an octopus", |r| {
        r.branch("other");
        push(r, "other");
        r.checkout("main");
        let head = topic(r, &[ONE]);
        push(r, "moved");
        r.git(&["merge", "--quiet", "--no-ff", "-m", "octopus", "other", "topic"]);
        assert_eq!(r.git(&["rev-list", "--parents", "-1", "HEAD"]).split(' ').count(), 4);
        report("gogs", r, &head, &r.head())
    }),
    ("a head that was on the branch already", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let first = r.merge("topic");
        push(r, "between");
        let report = report("gitbucket", r, &head, &first);
        Report {
            created: Some(report.merged.unwrap() + 70),
            merged: Some(report.merged.unwrap() + 80),
            ..report
        }
    }),
    ("a pull request on top of another that was merged", |r| {
        topic(r, &[ONE]);
        r.checkout("topic").branch("above");
        r.write("text", lines(TWO)).commit("above");
        let head = open(r);
        push(r, "moved");
        r.merge("topic");
        report("gitbucket", r, &head, &r.squash("above"))
    }),
    ("an equal commit was on the branch, and was reverted, before the pull request was opened", |r| {
        r.branch("topic").write("text", lines(ONE)).commit("topic");
        r.checkout("main");
        r.write("text", lines(ONE)).commit("twin");
        r.write("text", lines(&[])).commit("revert");
        let opened = time_of(r, "main") + 1;
        r.checkout("topic");
        let head = open(r);
        push(r, "moved");
        Report { created: Some(opened), ..report("gitbucket", r, &head, &r.squash("topic")) }
    }),
    ("it is reverted and made again", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let landed = r.rebase("topic");
        let report = report("gogs", r, &head, &landed);
        r.write("text", lines(&[])).commit("revert");
        r.write("text", lines(ONE)).commit("again");
        report
    }),
    ("it is reverted, and the same branch is merged again", |r| {
        let head = topic(r, &[ONE, TWO]);
        push(r, "moved");
        let landed = r.squash("topic");
        let report = report("gitbucket", r, &head, &landed);
        r.write("text", lines(&[])).commit("revert");
        r.merge("topic");
        report
    }),
    ("a squash under GitBucket's ref, and the same branch is merged again", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.write("text", lines(&[(4, "near")])).commit("near");
        r.git(&["merge", "--quiet", "--squash", "--strategy-option=theirs", "topic"]);
        let landed = r.commit("Squashed");
        r.git(&["update-ref", "refs/pull/1/merge", &landed]);
        let report = report("gitbucket", r, &head, &landed);
        r.merge("topic");
        report
    }),
    ("a later push moved it off the first-parent history", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let landed = r.merge("topic");
        let report = report("gogs", r, &head, &landed);
        r.git(&["checkout", "--quiet", "-b", "foxtrot", "main~1"]);
        push(r, "own");
        r.merge("main");
        r.checkout("main").reset("foxtrot");
        report
    }),
    ("the same patch is in it twice", |r| {
        let head = topic(r, &[ONE, &[], ONE]);
        push(r, "moved");
        report("gogs", r, &head, &r.rebase("topic"))
    }),
    ("the last commit was cherry-picked before", |r| {
        let head = topic(r, &[ONE, TWO, THREE]);
        r.write("text", lines(&[(35, "three")])).commit("cherry-picked");
        push(r, "moved");
        r.git(&["merge", "--quiet", "--squash", "--strategy-option=theirs", "topic"]);
        let landed = r.commit("Squashed");
        // Its patch is different now: the time and the file decide.
        report("gogs", r, &head, &landed)
    }),
    ("a file that is not text, and one like it was pushed", |r| {
        r.branch("topic").write("binary", b"\0one").commit("binary");
        let head = open(r);
        r.write("binary", b"\0two").commit("another");
        r.remove("binary").commit("gone");
        let landed = r.rebase("topic");
        Report { merged: None, ..report("gogs", r, &head, &landed) }
    }),
    ("a mode", |r| {
        r.branch("topic").executable("text", true).commit("mode");
        let head = open(r);
        push(r, "moved");
        report("gogs", r, &head, &r.rebase("topic"))
    }),
    ("lines near it have changed: the time decides", |r| {
        let head = topic(r, &[ONE]);
        r.write("text", lines(&[(4, "near")])).commit("near");
        r.write("text", lines(&[(4, "near"), (5, "one")]));
        report("gitbucket", r, &head, &r.commit("Squashed"))
    }),
    ("lines near it have changed, and two commits have that time", |r| {
        let head = topic(r, &[ONE]);
        r.write("text", lines(&[(4, "near")])).commit("near");
        r.write("text", lines(&[(4, "near"), (5, "one")]));
        let landed = r.commit("Squashed");
        r.write("text", lines(&[(4, "near"), (5, "one"), (30, "x")]));
        commit_at(r, &landed);
        Report { landed: None, ..report("gitbucket", r, &head, &landed) }
    }),
    ("the commit with that time changes other files", |r| {
        let head = topic(r, &[ONE]);
        let landed = push(r, "other");
        Report { landed: None, ..report("gitbucket", r, &head, &landed) }
    }),
    ("it has not landed", |r| {
        let head = topic(r, &[ONE, TWO]);
        push(r, "moved");
        let report = report("gogs", r, &head, "main");
        Report { merged: Some(report.merged.unwrap() + 30), landed: None, ..report }
    }),
    ("only its last commit was cherry-picked", |r| {
        let head = topic(r, &[ONE, TWO]);
        let landed = r.write("text", lines(&[(20, "two")])).commit("cherry-picked");
        let report = report("gogs", r, &head, &landed);
        Report { merged: Some(report.merged.unwrap() + 30), landed: None, ..report }
    }),
    ("only commits older than the pull request", |r| {
        let head = topic(r, &[ONE]);
        let twin = r.write("text", lines(ONE)).commit("twin");
        let report = report("gogs", r, &head, &twin);
        Report {
            created: Some(report.merged.unwrap() + 20),
            merged: Some(report.merged.unwrap() + 30),
            landed: None,
            ..report
        }
    }),
    ("two equal commits, and no time", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let landed = r.rebase("topic");
        let report = report("gogs", r, &head, &landed);
        r.write("text", lines(&[])).commit("revert");
        r.write("text", lines(ONE)).commit("again");
        Report { merged: None, landed: None, ..report }
    }),
    ("an equal commit from another time, and a merge that made another commit", |r| {
        let head = topic(r, &[ONE]);
        r.write("text", lines(ONE)).commit("twin");
        push(r, "moved");
        let empty = r.commit("the rebase, which found nothing left to do");
        Report { landed: None, ..report("gitbucket", r, &head, &empty) }
    }),
    ("the head was force-pushed after the merge, to a commit on no branch", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let landed = r.merge("topic");
        let orphan = r.orphan();
        r.git(&["update-ref", PULL, &orphan]);
        report("gogs", r, &head, &landed)
    }),
    ("the same with GitBucket, whose payload is ignored", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let landed = r.merge("topic");
        let orphan = r.orphan();
        r.git(&["update-ref", PULL, &orphan]);
        Report { landed: None, ..report("gitbucket", r, &head, &landed) }
    }),
    ("the head was force-pushed after the merge, to an older commit of the branch", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let landed = r.merge("topic");
        r.git(&["update-ref", PULL, "main~2"]);
        report("gogs", r, &head, &landed)
    }),
    ("the same, after a fast-forward", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.git(&["merge", "--quiet", "--ff-only", "topic"]);
        r.git(&["update-ref", PULL, "main~1"]);
        Report { merged: None, landed: None, ..report("gogs", r, &head, &head) }
    }),
    ("GitBucket's payload names the base instead of the head", |r| {
        topic(r, &[ONE]);
        let base = r.head();
        push(r, "moved");
        let landed = r.merge("topic");
        report("gitbucket", r, &base, &landed)
    }),
    ("a payload with an unknown head", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        let report = report("gogs", r, &head, &r.merge("topic"));
        Report { head: Some("1".repeat(40)), ..report }
    }),
    ("a payload without a head", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        Report { head: None, ..report("gogs", r, &head, &r.merge("topic")) }
    }),
    ("no ref, and the payload's head is on the branch", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        r.git(&["update-ref", "-d", PULL]);
        report("gogs", r, &head, &r.merge("topic"))
    }),
    ("no ref with GitBucket", |r| {
        let head = topic(r, &[ONE]);
        push(r, "moved");
        r.git(&["update-ref", "-d", PULL]);
        Report { landed: None, ..report("gitbucket", r, &head, &r.merge("topic")) }
    }),
    ("neither ref nor head", |r| {
        let head = topic(r, &[ONE]);
        r.git(&["update-ref", "-d", PULL]);
        Report { head: None, landed: None, ..report("gogs", r, &head, &r.merge("topic")) }
    }),
    ("the refs of GitLab", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.git(&["update-ref", "-d", PULL]);
        r.git(&["update-ref", "refs/merge-requests/1/head", &head]);
        push(r, "moved");
        Report { head: None, ..report("gitlab", r, &head, &r.rebase("topic")) }
    }),
    ("the refs of Bitbucket Data Center", |r| {
        let head = topic(r, &[ONE, TWO]);
        r.git(&["update-ref", "-d", PULL]);
        r.git(&["update-ref", "refs/pull-requests/1/from", &head]);
        push(r, "moved");
        Report { head: None, ..report("bitbucket-server", r, &head, &r.squash("topic")) }
    }),
    ("the history of the head has nothing in common with the branch's", |r| {
        r.git(&["checkout", "--quiet", "--orphan", "topic"]);
        r.write("text", lines(ONE)).commit("topic");
        let head = open(r);
        let landed = push(r, "moved");
        Report { landed: None, ..report("gogs", r, &head, &landed) }
    }),
];

#[test]
fn the_commit_that_landed_is_found_or_the_build_is_refused() {
    let some = CASES.len().div_ceil(4);
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = CASES.chunks(some).map(|cases| scope.spawn(|| failures(cases))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn failures(cases: &[Case]) -> Vec<String> {
    let (swanci, mut wrong) = (Swanci::new(), Vec::new());
    for (case, land) in cases {
        let repository = repository();
        let report = land(&repository);
        let moment = |at: Option<i64>| at.map(|at| jiff::Timestamp::from_second(at).unwrap().to_string());
        let mut pull = json!({"number": 1, "title": null, "author": null, "url": null, "head": report.head});
        pull["created_at"] = json!(moment(report.created));
        pull["merged_at"] = json!(moment(report.merged));
        let document = document(report.forge, &pull);
        // The result is the same after the branch has advanced.
        for further in ["", "later"] {
            if !further.is_empty() {
                repository.git(&["checkout", "--quiet", "main"]);
                push(&repository, "later");
                repository.branch("next");
                push(&repository, "next");
                repository.checkout("main").merge("next");
            }
            let ran = plan(&swanci, report.forge, repository.path(), &document);
            let found = (ran.code == 0).then(|| planned_commit(ran.clone()));
            if found.is_none() {
                refused(ran);
            }
            if found != report.landed {
                let history = repository.git(&["log", "--graph", "--oneline", "--all"]);
                wrong.push(format!("{case} {further}: {found:?} for {:?}\n{history}", report.landed));
            }
        }
    }
    wrong
}

/// Random pull requests, direct pushes, cherry-picks and reverts: no wrong commit is ever found.
#[test]
fn on_random_histories_no_wrong_commit_is_found() {
    let seed = std::env::var("SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut asked, mut found) = (0, 0);
    for _ in 0..3 {
        let history = History::new(random.fork());
        for (report, answer) in history.answers() {
            asked += 1;
            found += usize::from(answer.is_some());
            // A later push may have moved the commit off the first-parent history: then the found commit contains it.
            let line = history.repository.git(&["rev-list", "--first-parent", "main"]);
            if let (Some(answer), Some(landed)) = (&answer, &report.landed)
                && !line.contains(landed)
            {
                history.repository.git(&["merge-base", "--is-ancestor", landed, answer]);
                continue;
            }
            let what =
                || format!("SEED={seed}: {} at {:?} became {:?}", report.case, report.merged, report.landed);
            assert!(
                answer.is_none() || answer == report.landed,
                "{}, not {answer:?}\n{}",
                what(),
                history.log()
            );
        }
    }
    println!("{found} of {asked} found");
    assert!(asked > 10 && found * 10 >= asked * 7, "{found} of {asked}");
}

/// Refs that the forge has deleted no longer count.
#[test]
fn refs_that_the_forge_has_removed_are_not_used() {
    let (swanci, repository) = (Swanci::new(), repository());
    let head = topic(&repository, &[ONE]);
    push(&repository, "moved");
    let landed = repository.squash("topic");
    let pull = json!({"number": 1, "title": null, "author": null, "url": null, "head": head});
    let document = document("gitbucket", &pull);
    assert_eq!(planned_commit(plan(&swanci, "gitbucket", repository.path(), &document)), landed);
    repository.git(&["update-ref", "-d", PULL]);
    refused(plan(&swanci, "gitbucket", repository.path(), &document));
}

#[test]
fn an_abbreviated_commit_must_be_unique_on_the_branch() {
    let (swanci, repository) = (Swanci::new(), repository());
    let asked = |prefix: &str| {
        let pull = json!({"number": 1, "title": null, "author": null, "url": null, "head": null, "landed_prefix": prefix});
        plan(&swanci, "bitbucket", repository.path(), &document("bitbucket", &pull))
    };
    topic(&repository, &[ONE]);
    let landed = repository.squash("topic");
    push(&repository, "later");
    assert_eq!(planned_commit(asked(&landed[..12])), landed);
    // The commit is in the mirror, but not on the branch.
    let other = repository.git(&["rev-parse", "topic"]);
    swanci.run(&["build", "--repo", &repository.url(), "--branch", "topic", "--dry-run"]).ended(0);
    let said = |ran: Ran, what: &str| ran.ended(5).saying(&[what, "hint: ", "--commit SHA"]);
    said(asked(&other[..12]), "begins with");
    said(asked("0123456789ab"), "begins with");
    let tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    said(asked(&tree[..12]), "begins with");

    // Enough commits that two of them begin with the same seven digits; their ids are the same in every run.
    let commits = (0..45_000).map(|i| {
        let time = 1_700_000_000 + i;
        format!("commit refs/heads/many\ncommitter A <a@b.org> {time} +0000\ndata 1\nx\n")
    });
    let mut import = Command::new("git")
        .args(["fast-import", "--quiet"])
        .current_dir(repository.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    import.stdin.take().unwrap().write_all(commits.collect::<String>().as_bytes()).unwrap();
    assert!(import.wait().unwrap().success());
    let many = repository.git(&["rev-list", "many"]);
    let mut many: Vec<&str> = many.lines().collect();
    many.sort_unstable();
    let twins = many.windows(2).find(|pair| pair[0][..7] == pair[1][..7]).unwrap();
    repository.git(&["merge", "--quiet", "--allow-unrelated-histories", "-s", "ours", "-m", "many", "many"]);
    said(asked(&twins[0][..7]), "begins with");
}

/// The recordings of a real Gogs and a real GitBucket, with their repositories.
#[test]
fn every_recorded_merge_is_found() {
    let Some(collection) = collection("recorded merges") else { return };
    let mut found = 0;
    for forge in ["gogs", "gitbucket"] {
        let recorded = collection.join("recorded").join(forge);
        let clone = tempfile::tempdir().unwrap();
        let bundle = recorded.join("repository.bundle").display().to_string();
        let path = clone.path().display().to_string();
        let cloned =
            Command::new("git").args(["clone", "--quiet", "--mirror", &bundle, &path]).status().unwrap();
        assert!(cloned.success());
        let swanci = Swanci::new();
        swanci.config(&configuration(forge, &path));
        let index = std::fs::read_to_string(recorded.join("index.csv")).unwrap();
        for line in index.lines() {
            // Only the fourth column may be quoted or contain commas.
            let name = line.split(',').next().unwrap();
            let [_secret, landed, "build"] = line.rsplit(',').take(3).collect::<Vec<_>>()[..] else {
                continue;
            };
            let payload = recorded.join(format!("{name}.body")).display().to_string();
            let decision = swanci.run(&["evaluate", &payload, "--forge", forge]).ended(0);
            assert_eq!(decision.json()["change"]["commit"], Value::Null, "{name}");
            let ran = swanci.pipe(&["build", "-", "--dry-run"], decision.stdout);
            assert_eq!(planned_commit(ran), landed, "{name}");
            found += 1;
        }
    }
    assert_eq!(found, 17);
}

/// A pull request that was merged.
struct Merged {
    number: u64,
    case: &'static str,
    created: i64,
    merged: i64,
    landed: Option<String>,
}

struct History {
    repository: Repository,
    random: fastrand::Rng,
    now: i64,
    merged: Vec<Merged>,
}

impl History {
    fn new(random: fastrand::Rng) -> History {
        let repository = Repository::new();
        for file in ["one", "two", "three"] {
            repository.write(file, lines(&[]));
        }
        repository.commit("first");
        let now = time_of(&repository, "main");
        let mut history = History { repository, random, now, merged: Vec::new() };
        // Open pull requests: number, and time of opening.
        let mut open: Vec<(u64, i64)> = Vec::new();
        for number in 1..40 {
            match history.random.u8(..12) {
                0..5 => open.extend(history.open(number, &open)),
                5..10 if !open.is_empty() => {
                    let (number, created) = open.swap_remove(history.random.usize(..open.len()));
                    history.merge(number, created);
                }
                10 => history.again(&["cherry-pick", "--allow-empty"]),
                11 => history.again(&["revert", "--no-edit"]),
                _ => history.push("main"),
            }
        }
        history
    }

    /// Whether git succeeded.
    fn git(&mut self, args: &[&str]) -> bool {
        self.now += [0, 0, 1, 20, 100][self.random.usize(..5)];
        let date = format!("{} +0000", self.now);
        let mut command = Command::new("git");
        command.args(["-c", "user.name=A", "-c", "user.email=a@b.org", "-c", "core.editor=true"]).args(args);
        command.current_dir(self.repository.path()).env("GIT_COMMITTER_DATE", &date);
        if args[0] != "rebase" && args[0] != "cherry-pick" {
            command.env("GIT_AUTHOR_DATE", &date);
        }
        command.output().unwrap().status.success()
    }

    /// Commits a change of a random line. Files, lines and words are few, so that some changes are equal.
    fn push(&mut self, branch: &str) {
        assert!(self.git(&["checkout", "--quiet", branch]));
        let file = ["one", "two", "three"][self.random.usize(..3)];
        let text = std::fs::read_to_string(self.repository.file(file)).unwrap();
        let (at, word) = (self.random.usize(..8) * 5, self.random.u8(..3));
        let changed = text
            .lines()
            .enumerate()
            .map(|(n, line)| if n == at { format!("w{word}\n") } else { format!("{line}\n") });
        self.repository.write(file, changed.collect::<String>());
        self.git(&["commit", "--quiet", "--all", "--message", "x"]);
    }

    fn open(&mut self, number: u64, open: &[(u64, i64)]) -> Option<(u64, i64)> {
        // Sometimes on top of another pull request, or of an older commit.
        let base = match (self.random.u8(..6), open) {
            (0, [(below, _), ..]) => format!("topic-{below}"),
            (1, _) => "main~1".to_owned(),
            (_, _) => "main".to_owned(),
        };
        let topic = format!("topic-{number}");
        if !self.git(&["checkout", "--quiet", "-b", &topic, &base]) {
            return None;
        }
        for _ in 0..self.random.u8(1..4) {
            self.push(&topic);
        }
        if self.random.u8(..6) == 0 && !self.git(&["merge", "--quiet", "--no-edit", "main"]) {
            self.git(&["merge", "--abort"]);
        }
        let head = self.repository.git(&["rev-parse", "HEAD"]);
        self.git(&["checkout", "--quiet", "main"]);
        if self.repository.git(&["rev-list", &head, "^main"]).is_empty() {
            return None;
        }
        self.repository.git(&["update-ref", &format!("refs/pull/{number}/head"), &head]);
        Some((number, self.now))
    }

    fn merge(&mut self, number: u64, created: i64) {
        let topic = format!("topic-{number}");
        self.now += 1;
        assert!(self.git(&["checkout", "--quiet", "main"]));
        let before = self.repository.head();
        if self.repository.git(&["rev-list", &topic, "^main"]).is_empty() {
            return;
        }
        let case = ["merge", "rebase", "squash", "fast-forward"][self.random.usize(..4)];
        let done = match case {
            "merge" => self.git(&["merge", "--quiet", "--no-ff", "--no-edit", &topic]),
            "fast-forward" => self.git(&["merge", "--quiet", "--ff-only", &topic]),
            "squash" => {
                self.git(&["merge", "--quiet", "--squash", &topic])
                    && self.git(&["commit", "--quiet", "--message", "squash"])
            }
            _ => {
                let rebased = self.git(&["checkout", "--quiet", "-B", "rebased", &topic])
                    && self.git(&["rebase", "--quiet", "--force-rebase", "main"]);
                if !rebased {
                    self.git(&["rebase", "--abort"]);
                }
                self.git(&["checkout", "--quiet", "main"])
                    && rebased
                    && self.git(&["merge", "--quiet", "--ff-only", "rebased"])
            }
        };
        let landed = self.repository.head();
        if !done || landed == before {
            self.git(&["reset", "--quiet", "--hard", &before]);
            return;
        }
        self.now = self.now.max(time_of(&self.repository, &landed));
        if case == "squash" && self.random.bool() {
            self.repository.git(&["update-ref", &format!("refs/pull/{number}/merge"), &landed]);
        }
        let merged = if case == "fast-forward" { self.now } else { time_of(&self.repository, &landed) };
        self.merged.push(Merged { number, case, created, merged, landed: Some(landed) });
    }

    /// Cherry-picks or reverts an existing commit.
    fn again(&mut self, how: &[&str]) {
        assert!(self.git(&["checkout", "--quiet", "main"]));
        let all = self.repository.git(&["rev-list", "--all", "--min-parents=1", "--max-parents=1"]);
        let Some(commit) = self.random.choice(all.lines().collect::<Vec<_>>()) else { return };
        if !self.git(&[how, &[commit]].concat()) {
            self.git(&[how[0], "--abort"]);
        }
    }

    /// The number of merges found.
    fn answers(&self) -> Vec<(&Merged, Option<String>)> {
        let (state, cancel) = (tempfile::tempdir().unwrap(), Cancel::new());
        let remote = Remote::typed(&self.repository.url()).unwrap();
        let mirror = Mirror::of(state.path(), &remote, &[], &cancel);
        let answer = |pull: &Merged| {
            let folder = format!("refs/pull/{}", pull.number);
            let tip = mirror.fetch_branch_and(&"main".parse().unwrap(), Some(&folder)).unwrap();
            let merge = Merge {
                heads: mirror.commit_of(&format!("{folder}/head")).unwrap().into_iter().collect(),
                tried: mirror.commit_of(&format!("{folder}/merge")).unwrap(),
                created_at: Some(pull.created).filter(|_| pull.number.is_multiple_of(2)),
                merged_at: Some(pull.merged),
            };
            mirror.landed(&tip, &merge).unwrap().map(|commit| commit.to_string())
        };
        self.merged.iter().map(|pull| (pull, answer(pull))).collect()
    }

    fn log(&self) -> String {
        self.repository.git(&["log", "--graph", "--format=%H %ct %at %D", "--all"])
    }
}
