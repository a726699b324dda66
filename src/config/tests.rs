use std::path::Path;

use super::*;

fn environment(vars: &[(&str, &str)]) -> Environment {
    vars.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .chain([("HOME".into(), "/home/u".into())])
        .collect()
}

fn load(toml: &str, vars: &[(&str, &str)]) -> Result<Config, Failure> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swanci.toml");
    std::fs::write(&path, toml).unwrap();
    Config::load(Some(&path), None, &environment(vars))
}

fn refused(toml: &str) -> Failure {
    let failure = load(toml, &[]).unwrap_err();
    assert_eq!(failure.kind, Kind::BadInput);
    failure
}

#[test]
fn the_environment_overrides_the_file_and_a_flag_overrides_both() {
    let toml = "state_dir = 'here'\n[registry]\nhost = 'a.example.org'\n[build]\njobs = 7\ntimeout = '5m'";
    let config =
        load(toml, &[("SWANCI_REGISTRY", "b.example.org:5000/team"), ("SWANCI_BUILD_JOBS", "3")]).unwrap();
    assert_eq!(config.registry.unwrap().to_string(), "b.example.org:5000/team");
    assert_eq!((config.build.jobs, config.build.timeout), (3, Duration::from_secs(300)));
    let flag =
        Config::load(None, Some(Path::new("/flag")), &environment(&[("SWANCI_STATE_DIR", "/env")])).unwrap();
    assert_eq!(flag.state_dir, Path::new("/flag"));
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swanci.toml");
    std::fs::write(&path, "state_dir = 'state'\n[registry]\nca_file = 'certs/ca.crt'").unwrap();
    let config = Config::load(Some(&path), None, &environment(&[])).unwrap();
    assert_eq!(config.state_dir, dir.path().join("state"));
    assert_eq!(config.ca_file.unwrap(), dir.path().join("certs/ca.crt"));
}

#[test]
fn an_unknown_key_names_the_file_the_line_and_the_nearest_key() {
    let failure = refused("[registry]\nhost = 'a.example.org'\nca_fil = 'x'\n");
    let text = failure.render();
    assert!(text.contains("swanci.toml, line 3"), "{text}");
    assert!(text.contains("did you mean `ca_file`?"), "{text}");
    assert!(
        refused("[[repository]]\nname='a/b'\nbranch=['x']").render().contains("did you mean `branches`?")
    );
    assert!(refused("[servr]\njobs=1").render().contains("did you mean `serve`?"));
}

#[test]
fn an_invalid_value_names_its_key() {
    for (toml, key) in [
        ("[build]\ntimeout = 'soon'", "build.timeout"),
        ("[build]\njobs = 0", "build.jobs"),
        ("[serve]\nlisten = 'here'", "serve.listen"),
        ("[serve]\nmax_body = 'big'", "serve.max_body"),
        ("[registry]\nhost = 'https://a.example.org'", "registry.host"),
        ("[registry]\nhost = 'a.example.org'\nplain_http = true", "registry.plain_http"),
        ("[[repository]]\nname = '../x'", "repository[0].name"),
        ("[[repository]]\nname = 'a/b'\n[[repository]]\nname = 'A/B'", "repository[1].name"),
        ("[build]\njobs = 'two'", "line 2"),
        ("[build", "line 1"),
        ("[build]\ntags = ['a', '{vresion}']", "line 2: build.tags[1]"),
        ("[build]\n\njobs = 257", "line 3: build.jobs: 257 is not between 1 and 256"),
        ("[build]\njobs = -1", "line 2: build.jobs"),
        ("[build]\nkeep_local = -1", "line 2: build.keep_local"),
        ("[build]\ntimeout = '0s'", "line 2: build.timeout"),
        ("[build]\njobs = 99999999999999999999", "line 2"),
        ("[serve]\njobs = 65", "line 2: serve.jobs"),
        ("[serve]\nmax_body = '0'", "line 2: serve.max_body"),
        ("[serve]\nmax_body = '1TiB'", "line 2: serve.max_body"),
        ("[serve]\nretention = '0s'", "line 2: serve.retention"),
        ("[serve]\nadmin_listen = ':9090'", "line 2: serve.admin_listen"),
        ("serve.listen = 'here'", "line 1: serve.listen"),
        ("registry = { host = 'no scheme' }", "line 1: registry.host"),
        ("\u{feff}[build]\njobs = 0", "line 2: build.jobs"),
        ("[[repository]]\nname = 'a/b'\nbranches = ['x', '[']", "line 3: repository[0].branches"),
        ("[[repository]]\nname = 'a/b'\nnamespace = 'UP'", "line 3: repository[0].namespace"),
        ("[[repository]]\nname = 'a/b'\nsecrets = { 'a b' = 'f' }", "line 3: repository[0].secrets"),
        ("[[forge]]\nkind = 'gitae'", "line 2: forge[0].kind"),
    ] {
        let text = refused(toml).render();
        assert!(text.contains(key), "{toml:?} → {text}");
    }
}

#[test]
fn an_invalid_environment_value_names_its_variable() {
    for (variable, value) in [
        ("SWANCI_BUILD_JOBS", "0"),
        ("SWANCI_BUILD_TIMEOUT", "soon"),
        ("SWANCI_BUILD_TAGS", "{vresion}"),
        ("SWANCI_REGISTRY", "https://a.example.org"),
        ("SWANCI_SERVE_MAX_BODY", "0"),
    ] {
        let text = load("[build]\njobs = 2\ntimeout = '1m'", &[(variable, value)]).unwrap_err().render();
        assert!(text.contains(variable) && !text.contains("line"), "{text}");
    }
    let both = [("SWANCI_REGISTRY_HOST", "a.example.org"), ("SWANCI_REGISTRY", "https://a.example.org")];
    let text = load("", &both).unwrap_err().render();
    assert!(text.contains("SWANCI_REGISTRY") && !text.contains("SWANCI_REGISTRY_HOST"), "{text}");
}

#[test]
fn a_repository_has_an_owner() {
    let text = refused("[[repository]]\nname = 'shop'").render();
    assert!(text.contains("line 2") && text.contains("OWNER/NAME"), "{text}");
    assert!(load("[[repository]]\nname = 'group/sub/shop'", &[]).is_ok());
}

#[test]
fn build_secrets_belong_to_a_repository() {
    let config = load("[[repository]]\nname='a/b'\nsecrets = { npm = 'token' }", &[]).unwrap();
    assert!(config.repositories[0].secrets["npm"].is_absolute(), "relative to the file");
    assert_eq!(config.unreadable_secrets().len(), 1);
    let text = refused("[build]\nsecrets = { npm = 'token' }").render();
    assert!(text.contains("line 2") && text.contains("[[repository]]"), "{text}");
    assert!(refused("[serve]\nsecrets = 1").render().contains("did you mean `secret_file`?"));
    assert!(refused("[registry]\njobs = 1").render().contains("`jobs` belongs to [build] or [serve]"));
}

#[test]
fn former_names_must_not_be_names_of_other_repositories() {
    let two = |first: &str, second: &str| {
        format!(
            "[[repository]]\nname='a/new'\nformer_names=[{first}]\n[[repository]]\nname='c/d'\nformer_names=[{second}]"
        )
    };
    let config = load(&two("'a/old', 'x/older'", "'c/old'"), &[]).unwrap();
    assert_eq!(config.repositories[0].former_names.len(), 2);
    for (first, second, key) in [
        ("'C/D'", "", "line 3: repository[0].former_names[0]"),
        ("'a/old'", "'x/y', 'A/OLD'", "line 6: repository[1].former_names[1]"),
        ("'a/new'", "", "repository[0].former_names[0]"),
        ("'a/old', 'a/old'", "", "repository[0].former_names[1]"),
        ("'shop'", "", "OWNER/NAME"),
        ("'../x'", "", "repository[0].former_names[0]"),
    ] {
        let text = refused(&two(first, second)).render();
        assert!(text.contains(key), "{first} {second}: {text}");
    }
}

#[test]
fn repositories_without_a_forge_are_on_github() {
    let config = load("[[repository]]\nname='a/b'", &[]).unwrap();
    assert_eq!(config.forges.len(), 1);
    assert_eq!(
        (config.forges[0].kind, config.repositories[0].forge.as_str()),
        (ForgeName::Github, "https://github.com")
    );
}

#[test]
fn a_forge_has_a_kind_and_one_url() {
    let kinds =
        ["github", "gitlab", "gitea", "forgejo", "gogs", "bitbucket", "bitbucket-server", "gitbucket"];
    for kind in kinds {
        let config =
            load(&format!("[[forge]]\nkind='{kind}'\nurl='https://Git.Example.org:443/prefix/'"), &[])
                .unwrap();
        assert_eq!(config.forges[0].kind.as_str(), kind);
        assert_eq!(config.forges[0].url, "https://git.example.org/prefix");
        let public = load(&format!("[[forge]]\nkind='{kind}'"), &[]).is_ok();
        assert_eq!(public, ["github", "gitlab", "bitbucket"].contains(&kind), "{kind}");
    }
    assert_eq!(
        load("[[forge]]\nkind='gogs'\nurl='http://10.0.0.7:3000'", &[]).unwrap().forges[0].url,
        "http://10.0.0.7:3000"
    );
    for (url, word) in [
        ("git.example.org", "not a URL"),
        ("ssh://git@h", "neither https nor http"),
        ("file:///srv", "neither https nor http"),
        ("https://user:pass-word@h", "token_file"),
        ("https://token@h", "token_file"),
        ("https://h/?a=b", "query"),
        ("https://h/#x", "fragment"),
        ("https://h/a%2fb", "path"),
    ] {
        let text = refused(&format!("[[forge]]\nkind='gitea'\nurl='{url}'")).render();
        assert!(text.contains(word) && text.contains("line 3: forge[0].url"), "{url}: {text}");
        assert!(!text.contains("pass-word"), "{text}");
    }
    assert!(refused("[[forge]]\nkind='gitae'\nurl='https://h'").render().contains("did you mean `gitea`?"));
    assert!(refused("[[forge]]\nurl='https://h'").render().contains("kind"));
    assert!(
        refused("[[forge]]\nkind='gitea'\nurl='https://h'\nstatuss=true").render().contains("unknown key")
    );
    let twice = refused("[[forge]]\nkind='gitea'\nurl='https://h'\n[[forge]]\nkind='gogs'\nurl='https://H/'")
        .render();
    assert!(twice.contains("line 6: forge[1].url") && twice.contains("twice"), "{twice}");
}

const TWO_FORGES: &str =
    "[[forge]]\nkind='gitea'\nurl='https://one'\n[[forge]]\nkind='gitea'\nurl='https://two'\n";

#[test]
fn with_several_forges_a_repository_must_name_one() {
    let named = load(&format!("{TWO_FORGES}[[repository]]\nname='a/b'\nforge='https://TWO/'"), &[]).unwrap();
    assert_eq!(named.repositories[0].forge, "https://two");
    let missing = refused(&format!("{TWO_FORGES}[[repository]]\nname='a/b'")).render();
    assert!(
        missing.contains("line 7: repository[0].forge") && missing.contains("https://one, https://two"),
        "{missing}"
    );
    let unknown = refused(&format!("{TWO_FORGES}[[repository]]\nname='a/b'\nforge='https://three'")).render();
    assert!(unknown.contains("line 9: repository[0].forge"), "{unknown}");
    let mut config = load(TWO_FORGES, &[]).unwrap();
    assert_eq!(config.allow(&"a/b".parse().unwrap()).unwrap_err().kind, Kind::Usage);
}

#[test]
fn a_token_from_the_environment_belongs_to_one_forge() {
    let token = ("SWANCI_GIT_TOKEN", "token-of-one-forge");
    let owner = |toml: &str| {
        let config = load(toml, &[token]).unwrap();
        assert_eq!(
            config.forge_of_git_token().is_none(),
            config.warnings.iter().any(|w| w.contains("SWANCI_GIT_TOKEN"))
        );
        config.forge_of_git_token().map(|forge| forge.url.clone())
    };
    assert_eq!(owner("").as_deref(), Some("https://github.com"));
    assert_eq!(
        owner("[[forge]]\nkind='gitea'\nurl='https://one'\ntoken_file='t'").as_deref(),
        Some("https://one")
    );
    assert_eq!(owner(TWO_FORGES), None);
    let with_token = TWO_FORGES.replace("url='https://one'", "url='https://one'\ntoken_file='t'");
    assert_eq!(owner(&with_token).as_deref(), Some("https://two"));
}

#[test]
fn each_forge_gets_its_user_name_for_a_token() {
    let config = load("", &[("CI_JOB_TOKEN", "glcbt-64_job-token")]).unwrap();
    for (kind, text, login, token) in [
        (ForgeName::Github, "abc-def", "x-access-token", "abc-def"),
        (ForgeName::Gitlab, "glpat-x", "oauth2", "glpat-x"),
        (ForgeName::Gitlab, "glcbt-64_job-token", "gitlab-ci-token", "glcbt-64_job-token"),
        (ForgeName::Gitea, "\u{feff} abc-def\r\n", "swanci", "abc-def"),
        (ForgeName::Bitbucket, "abc-def", "x-token-auth", "abc-def"),
        (ForgeName::Bitbucket, "me:abc-def", "me", "abc-def"),
        (ForgeName::Gitbucket, "abc-def", "root", "abc-def"),
        (ForgeName::Gitbucket, "deploy:abc-def", "deploy", "abc-def"),
    ] {
        let (name, secret) = config.login(kind, &text.into()).unwrap();
        assert_eq!((name.as_str(), secret.expose_secret()), (login, token), "{kind} {text:?}");
    }
    for text in ["two words", "two\nlines", "a\0b"] {
        assert_eq!(
            config.login(ForgeName::Github, &text.into()).unwrap_err().kind,
            Kind::BadInput,
            "{text:?}"
        );
    }
}

#[test]
fn the_first_file_that_exists_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a.toml", "b.toml"].map(|name| dir.path().join(name).display().to_string());
    let [a, b] = &paths;
    assert_eq!(first_of(&[a, b]), None);
    std::fs::write(b, "").unwrap();
    assert_eq!(first_of(&[a, b]), Some(b.into()));
    std::fs::write(a, "").unwrap();
    assert_eq!(first_of(&[a, b]), Some(a.into()));
    assert_eq!(DEFAULT_FILES, ["swanci.toml", "/etc/swanci/swanci.toml"]);
}

#[test]
fn the_listener_uses_the_secrets_of_the_github_forge() {
    let config = load(
        "[serve]\nsecret_file='/s/0'\n[[forge]]\nkind='github'\nsecret_file=['/s/1', '/s/2']\n\
         [[forge]]\nkind='gitea'\nurl='https://h'\nsecret_file='/s/3'",
        &[],
    )
    .unwrap();
    assert_eq!(config.forges[0].secret_files, ["/s/0", "/s/1", "/s/2"].map(PathBuf::from));
    assert_eq!(config.forges[1].secret_files, [PathBuf::from("/s/3")]);
}

#[test]
fn unknown_swanci_variables_cause_a_warning() {
    let config = load("", &[("SWANCI_REGISTRI", "x"), ("SWANCI_SECRET", "s3cret-value")]).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("SWANCI_REGISTRI"));
    assert!(!format!("{config:?}").contains("s3cret-value"));
}

#[test]
fn the_state_directory_defaults_to_the_xdg_directory() {
    let config = Config::load(None, None, &environment(&[("XDG_STATE_HOME", "/x")])).unwrap();
    assert_eq!(config.state_dir, Path::new("/x/swanci"));
    let config = Config::load(None, None, &environment(&[])).unwrap();
    assert_eq!(config.state_dir, Path::new("/home/u/.local/state/swanci"));
}

#[test]
fn an_empty_secret_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for text in ["", "\n", " \r\n", "\u{feff}", "\u{feff}\n"] {
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(read_secret_file(file.path()).unwrap_err().kind, Kind::BadInput, "{text:?}");
    }
}

#[test]
fn white_space_around_a_secret_in_its_file_is_removed() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for text in [
        "abc def",
        "abc def\n",
        "abc def\r\n\r\n",
        " \tabc def  \n",
        "\u{feff}abc def\n",
        "\n\u{feff} abc def\u{a0}",
    ] {
        std::fs::write(file.path(), text).unwrap();
        assert_eq!(read_secret_file(file.path()).unwrap().expose_secret(), "abc def", "{text:?}");
    }
    std::fs::write(file.path(), b"\xff\xfea\0b\0").unwrap();
    assert_eq!(read_secret_file(file.path()).unwrap_err().kind, Kind::BadInput, "UTF-16");
}

#[test]
fn serve_secret_file_applies_to_github_or_the_only_forge() {
    let secret = ("SWANCI_SECRET", "s3cret-of-the-environment");
    let owner = |forges: &str| {
        let file = format!("[serve]\nsecret_file='/s/0'\n{forges}");
        let config = load(&file, &[secret])?;
        let with = |has: &dyn Fn(&ForgeConfig) -> bool| {
            let urls: Vec<_> =
                config.forges.iter().filter(|f| has(f)).map(|forge| forge.url.clone()).collect();
            urls.join(" ")
        };
        let by_file = with(&|forge| !forge.secret_files.is_empty());
        assert_eq!(by_file, with(&|forge| forge.secret.is_some()));
        Ok::<_, Failure>(by_file)
    };
    let gitea = "[[forge]]\nkind='gitea'\nurl='https://gitea'\n";
    let enterprise = "[[forge]]\nkind='github'\nurl='https://ghe'\n";
    let public = "[[forge]]\nkind='github'\n";
    for (forges, url) in [
        (String::new(), "https://github.com"),
        (gitea.to_owned(), "https://gitea"),
        (format!("{gitea}{enterprise}"), "https://ghe"),
        (format!("{enterprise}{public}{gitea}"), "https://github.com"),
    ] {
        assert_eq!(owner(&forges).unwrap(), url, "{forges}");
    }
    for forges in [
        format!("{enterprise}[[forge]]\nkind='github'\nurl='https://ghe2'\n"),
        format!("{gitea}[[forge]]\nkind='gogs'\nurl='https://gogs'\n"),
    ] {
        let text = owner(&forges).unwrap_err().render();
        assert!(text.contains("line 2: serve.secret_file") && text.contains("its own secret_file"), "{text}");
        let text = load(&forges, &[secret]).unwrap_err().render();
        assert!(text.contains("SWANCI_SECRET: ") && text.contains("its own secret_file"), "{text}");
        assert!(!text.contains("s3cret-of"), "{text}");
        assert!(load(&forges, &[]).is_ok());
    }
}

#[test]
fn a_flag_replaces_the_secrets_of_the_forge_that_it_applies_to() {
    let gitea = "[[forge]]\nkind='gitea'\nurl='https://gitea'\nsecret_file=['/s/1', '/s/2']\n";
    let mut config = load(gitea, &[("SWANCI_SECRET", "s3cret-value")]).unwrap();
    config.set_secret_file(Path::new("/s/3")).unwrap();
    assert_eq!(config.forges[0].secret_files, [PathBuf::from("/s/3")]);
    assert!(config.forges[0].secret.is_none());
    let mut config = load(TWO_FORGES, &[]).unwrap();
    assert_eq!(config.set_secret_file(Path::new("/s/3")).unwrap_err().kind, Kind::Usage);
}

#[test]
fn two_forges_may_have_repositories_with_the_same_name() {
    let on = |forge: &str, former: &str| {
        format!("[[repository]]\nname='a/b'\nforge='https://{forge}'\nformer_names=['{former}']\n")
    };
    let config = load(&format!("{TWO_FORGES}{}{}", on("one", "x/y"), on("two", "x/y")), &[]).unwrap();
    let name = "A/B".parse().unwrap();
    let urls: Vec<_> =
        config.repositories_named(&name).map(|r| config.forge_of(r).unwrap().url.as_str()).collect();
    assert_eq!(urls, ["https://one", "https://two"]);
    let text = refused(&format!("{TWO_FORGES}{}{}", on("one", "x/y"), on("one", "z/z"))).render();
    assert!(text.contains("line 12: repository[1].name") && text.contains("twice"), "{text}");
}

#[test]
fn statuses_and_comments_need_a_token_and_support_by_the_forge() {
    let config =
        load("[[forge]]\nkind='gogs'\nurl='https://g'\ntoken_file='t'\ncomment=true\n", &[]).unwrap();
    assert_eq!((config.forges[0].status, config.forges[0].comment), (false, true));
    let text = "[[forge]]\nkind='github'\nstatus=true";
    assert!(load(text, &[("SWANCI_GIT_TOKEN", "token-of-github")]).unwrap().forges[0].status);
    for (toml, line, says) in [
        (text, 3, "forge[0].status: needs a token"),
        ("[[forge]]\nkind='gogs'\nurl='https://g'\ncomment=true", 4, "forge[0].comment: needs a token"),
        ("[[forge]]\nkind='gogs'\nurl='https://g'\ntoken_file='t'\nstatus=true", 5, "comment = true"),
    ] {
        let text = refused(toml).render();
        assert!(text.contains(&format!("line {line}")) && text.contains(says), "{text}");
    }
}

#[test]
fn the_public_url_is_a_plain_web_address() {
    let url = |url: &str| load(&format!("[serve]\npublic_url = '{url}'"), &[]);
    assert_eq!(
        url("https://ci.example.org/sub/").unwrap().serve.public_url.unwrap(),
        "https://ci.example.org/sub"
    );
    for wrong in ["ci.example.org", "ftp://ci", "https://u:p@ci", "https://ci?x=1"] {
        assert!(url(wrong).unwrap_err().render().contains("serve.public_url"), "{wrong}");
    }
    let config = load("", &[("SWANCI_SERVE_PUBLIC_URL", "https://ci")]).unwrap();
    assert_eq!(config.serve.public_url.unwrap(), "https://ci");
}
