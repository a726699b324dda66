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
fn a_bad_value_names_its_key() {
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
    ] {
        let text = refused(toml).render();
        assert!(text.contains(key), "{toml:?} → {text}");
    }
}

#[test]
fn other_swanci_variables_are_warned_about() {
    let config = load("", &[("SWANCI_REGISTRI", "x"), ("SWANCI_SECRET", "s3cret-value")]).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("SWANCI_REGISTRI"));
    assert!(!format!("{config:?}").contains("s3cret-value"));
}

#[test]
fn the_state_directory_defaults_to_the_xdg_place() {
    let config = Config::load(None, None, &environment(&[("XDG_STATE_HOME", "/x")])).unwrap();
    assert_eq!(config.state_dir, Path::new("/x/swanci"));
    let config = Config::load(None, None, &environment(&[])).unwrap();
    assert_eq!(config.state_dir, Path::new("/home/u/.local/state/swanci"));
}

#[test]
fn an_empty_secret_file_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "\n").unwrap();
    assert_eq!(read_secret_file(file.path()).unwrap_err().kind, Kind::BadInput);
    std::fs::write(file.path(), "abc def\n").unwrap();
    use secrecy::ExposeSecret as _;
    assert_eq!(read_secret_file(file.path()).unwrap().expose_secret(), "abc def");
}
