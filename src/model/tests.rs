use super::*;

fn accepts<T: FromStr>(good: &[&str], bad: &[&str]) {
    for value in good {
        assert!(value.parse::<T>().is_ok(), "{value:?} should be accepted");
    }
    for value in bad {
        assert!(value.parse::<T>().is_err(), "{value:?} should be refused");
    }
}

#[test]
fn a_commit_is_a_full_lower_case_id() {
    let sha = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
    accepts::<CommitSha>(
        &[sha],
        &[
            "",
            "8c1c06a",
            "HEAD",
            "--upload-pack=x",
            &sha.to_uppercase(),
            &"0".repeat(40),
            &format!("{sha}\n"),
        ],
    );
}

#[test]
fn a_branch_follows_git_check_ref_format() {
    accepts::<BranchName>(
        &["main", "release/1.x", "feat/ü", "a@b", "x-"],
        &[
            "",
            "-x",
            "--upload-pack=x",
            "a..b",
            "a b",
            "a~1",
            "a:b",
            ".a",
            "a/.b",
            "a.lock",
            "a//b",
            "/a",
            "a/",
            "@",
            "a@{1}",
            "a\\b",
            "a\n",
            "a.",
        ],
    );
}

#[test]
fn a_repository_name_contains_no_parent_folder_and_is_not_an_option() {
    accepts::<RepoName>(
        &["a/b", "A-b/c.d_e", "g/s/r", "one"],
        &["", "a/", "/a", "a/../b", "./a", "-a/b", "a/-b", "a b/c", "a/b?x", "a/b\n", "a/%2e"],
    );
}

#[test]
fn image_names_and_tags_follow_the_reference_grammar() {
    accepts::<ImageName>(
        &["httpd", "a/b", "a-b", "a--b", "a_b", "a__b", "a.b", "0"],
        &["", "A", "a..b", "a___b", "-a", "a-", "a/", "/a", "a:b", "a@b", "ü", "a._b", &"a".repeat(256)],
    );
    accepts::<Tag>(
        &["1.0", "_x", "A", &"a".repeat(128)],
        &["", ".a", "-a", "a/b", "a b", "a:b", &"a".repeat(129)],
    );
}

#[test]
fn a_registry_follows_dockers_rules_for_hosts() {
    accepts::<RegistryAddress>(
        &[
            "swan-registry.icesi.edu.co:443",
            "localhost",
            "localhost:5000/team",
            "127.0.0.1:5000",
            "[::1]:5000",
            "r.example.org/a/b",
        ],
        &[
            "",
            "httpd",
            "https://r.example.org",
            "r.example.org:0",
            "r.example.org:x",
            "r.example.org/",
            "r.example.org/A",
            "-r.org",
            "r..org",
            "a b.org",
        ],
    );
    assert!("127.0.0.1:5000".parse::<RegistryAddress>().is_ok_and(|r| r.is_loopback()));
    assert!("[::1]:5000".parse::<RegistryAddress>().is_ok_and(|r| r.is_loopback()));
    assert!(!"10.0.0.1:5000".parse::<RegistryAddress>().is_ok_and(|r| r.is_loopback()));
}
