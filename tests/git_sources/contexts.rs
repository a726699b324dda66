use serde_json::{Value, json};

use crate::support::engine::{docker, docker_text, file_of};
use crate::support::repository::Repository;
use crate::support::swanci::{Scene, image};

/// Names with a special meaning in a revision expression, a path pattern, an option or a shell.
const ODD: &[&str] = &[
    "a:b",
    "a*",
    "[ab]",
    "a?",
    "a@{0}",
    "@",
    "HEAD",
    "a^{tree}",
    "a^",
    "a~1",
    "a..b",
    "-dash",
    "--all",
    ":(top)a",
    ":!a",
    ":0:a",
    "!a",
    "#a",
    "$(a)",
    "`a`",
    "\"a\"",
    "'a'",
    "a b",
    " a",
    "a\u{e9}\u{4fee}",
    ".github",
    ".gitx",
    "a.git",
    "refs",
    "x-g",
    "a;b",
    "a|b",
    "{a,b}",
    "a%2fb",
    "...",
];

#[test]
fn an_image_is_built_from_exactly_the_folder_that_it_names() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.write("README", "a commit that a folder's name could mean").write("file", "of the decoy");
    let decoy = r.commit("decoy");
    let mut names: Vec<String> = ODD.iter().map(|name| (*name).to_owned()).collect();
    for digits in [4, 7, 40] {
        names.push(format!("api-g{}", &decoy[..digits]));
        names.push(format!("deep/x-g{}", &decoy[..digits]));
    }
    names.push(decoy.clone());
    let specs = |names: &[String]| -> Vec<Value> {
        let spec = |(i, name): (usize, &String)| json!({"service_name": format!("i{i}"), "context": name});
        names.iter().enumerate().map(spec).collect()
    };
    for (i, name) in names.iter().enumerate() {
        r.image(name, &format!("content {i}"));
    }
    r.images(&specs(&names));
    let commit = r.commit("odd names");
    let document = scene.run(&commit, &["--jobs", "2"]).ended(0).json();
    for (i, name) in names.iter().enumerate() {
        assert_eq!(image(&document, &format!("i{i}"))["status"], "built", "{name}");
        let built = scene.image_name(&format!("i{i}"), &format!("sha-{commit}"));
        assert_eq!(file_of(&built, "/file").unwrap(), format!("content {i}").as_bytes(), "{name}");
    }
    let statuses = |commit: &str| -> Vec<Value> {
        let document = scene.build(commit, &["--dry-run"]).ended(0).json();
        document["images"].as_array().unwrap().iter().map(|image| image["status"].clone()).collect()
    };
    r.write("README", "another file");
    assert!(statuses(&r.commit("nothing of theirs")).iter().all(|status| status == "unchanged"));
    for name in &names {
        r.write(&format!("{name}/file"), "changed");
    }
    assert!(statuses(&r.commit("all of them")).iter().all(|status| status == "planned"));
}

fn spec() -> Value {
    json!({"service_name": "a", "version": "1"})
}

/// The content of a file in `/` of the image of this commit.
fn file(scene: &Scene, name: &str, commit: &str, path: &str) -> Option<Vec<u8>> {
    file_of(&scene.image_name(name, &format!("sha-{commit}")), path)
}

#[test]
fn files_outside_the_context_that_change_the_content_are_inputs() {
    let scene = Scene::new();
    let r = &scene.repository;
    let library = Repository::new();
    library.write("part", "1");
    library.commit("library");
    r.write("x/a/Dockerfile", "FROM scratch\nCOPY . /\n").write("x/a/file", "1\n").write("x/b/file", "1\n");
    r.git(&["submodule", "--quiet", "add", &library.beside(), "x/a/library"]);
    r.git(&["submodule", "--quiet", "add", &library.beside(), "elsewhere"]);
    r.write(".gitattributes", "*.never eol=lf\n");
    r.images(&[json!({"service_name": "a", "version": "1", "context": "x/a"})]);
    let first = r.commit("first");
    scene.run(&first, &[]).ended(0);
    let status = |commit: &str| {
        let document = scene.build(commit, &["--dry-run"]).ended(0).json();
        image(&document, "a")["status"].as_str().unwrap().to_owned()
    };
    let gitmodules = std::fs::read_to_string(r.file(".gitmodules")).unwrap();
    type Change<'a> = (&'a str, &'a str, Box<dyn Fn() -> &'a Repository + 'a>);
    let cases: Vec<Change<'_>> = vec![
        ("planned", "attributes of the root", Box::new(|| r.write(".gitattributes", "a eol=crlf\n"))),
        ("planned", "no attributes of the root", Box::new(|| r.remove(".gitattributes"))),
        ("planned", "attributes between", Box::new(|| r.write("x/.gitattributes", "a eol=crlf\n"))),
        ("planned", "attributes inside", Box::new(|| r.write("x/a/.gitattributes", "a eol=crlf\n"))),
        ("planned", "an ignore file", Box::new(|| r.write("x/a/.dockerignore", "file\n"))),
        ("planned", "a named one", Box::new(|| r.write("x/a/Dockerfile.dockerignore", "file\n"))),
        ("unchanged", "attributes beside", Box::new(|| r.write("x/b/.gitattributes", "a eol=crlf\n"))),
        ("unchanged", "an ignore file above", Box::new(|| r.write(".dockerignore", "file\n"))),
        (
            "unchanged",
            "the URL of a submodule that is not checked out",
            Box::new(|| r.write(".gitmodules", gitmodules.replace(&library.beside(), "../x"))),
        ),
    ];
    for (expected, what, change) in cases {
        r.reset(&first);
        r.git(&["clean", "--quiet", "-ffdx"]);
        change();
        assert_eq!(status(&r.commit(what)), expected, "{what}");
    }
    // The setting is an input; with it, the URLs of the submodules in the context are inputs too.
    r.reset(&first);
    scene.configure("submodules = true");
    assert_eq!(status(&first), "planned");
    r.write("README", "2");
    let second = r.commit("second");
    scene.run(&second, &[]).ended(0);
    assert_eq!(file(&scene, "a", &second, "/library/part").unwrap(), b"1");
    let elsewhere = library.beside();
    for (expected, from, to) in [
        ("unchanged", format!("path = elsewhere\n\turl = {elsewhere}"), "path = elsewhere\n\turl = ../x"),
        ("planned", format!("path = x/a/library\n\turl = {elsewhere}"), "path = x/a/library\n\turl = ../x"),
    ] {
        let changed = gitmodules.replace(&from, to);
        assert_ne!(changed, gitmodules);
        r.reset(&second).write(".gitmodules", changed);
        assert_eq!(status(&r.commit(expected)), expected, "{to}");
    }
}

#[test]
fn attributes_move_with_the_path_that_they_match() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.write(".gitattributes", "b/* text eol=crlf\n");
    r.write("a/Dockerfile", "FROM scratch\nCOPY file /\n").write("a/file", "line\n");
    r.images(&[spec()]);
    let first = r.commit("first");
    scene.run(&first, &[]).ended(0);
    assert_eq!(file(&scene, "a", &first, "/file").unwrap(), b"line\n");
    r.git(&["mv", "a", "b"]);
    r.images(&[json!({"service_name": "a", "version": "1", "context": "b"})]);
    let moved = r.commit("moved");
    scene.run(&moved, &[]).ended(0);
    assert_eq!(file(&scene, "a", &moved, "/file").unwrap(), b"line\r\n");
}

#[test]
fn a_linked_context_resolves_to_its_target() {
    let scene = Scene::new();
    let r = &scene.repository;
    let library = Repository::new();
    library.write("part", "of the submodule");
    library.commit("library");
    r.write(".gitattributes", "/real/deep/plain/file text eol=crlf\n");
    r.write("real/deep/plain/Dockerfile", "FROM scratch\nCOPY . /\n");
    r.write("real/deep/plain/file", "line\n");
    r.git(&["submodule", "--quiet", "add", &library.beside(), "real/deep/plain/library"]);
    r.symlink("links/folder", "../real/./deep").symlink("links/whole", "folder/../deep/plain/");
    scene.configure("submodules = true");
    let contexts = ["real/deep/plain", "links/folder/plain", "links/whole"];
    let specs: Vec<Value> = contexts
        .iter()
        .enumerate()
        .map(|(i, context)| json!({"service_name": format!("i{i}"), "version": "1", "context": context}))
        .collect();
    r.images(&specs);
    let commit = r.commit("links");
    let document = scene.build(&commit, &[]).ended(0).json();
    for (i, context) in contexts.iter().enumerate() {
        let name = format!("i{i}");
        assert_eq!(file(&scene, &name, &commit, "/file").unwrap(), b"line\r\n", "{context}");
        assert_eq!(file(&scene, &name, &commit, "/library/part").unwrap(), b"of the submodule");
        assert_eq!(image(&document, &name)["inputs"], image(&document, "i0")["inputs"], "{context}");
    }
}

#[test]
fn a_linked_ignore_file_is_an_input_and_must_stay_in_the_repository() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.image("a", "1").symlink("a/.dockerignore", "../ignore/shared").write("ignore/shared", "x\n");
    r.images(&[spec()]);
    let inputs = |commit: &str| {
        let document = scene.build(commit, &["--dry-run"]).ended(0).json();
        image(&document, "a")["inputs"].clone()
    };
    let first = inputs(&r.commit("first"));
    r.write("ignore/shared", "y\n");
    assert_ne!(inputs(&r.commit("another")), first);
    r.write("ignore/shared", "x\n");
    assert_eq!(inputs(&r.commit("the first again")), first);
    for (target, says) in [("/etc/passwd", "out of the repository"), ("../../x", "out of"), ("no", "nowhere")]
    {
        r.remove("a/.dockerignore").symlink("a/.dockerignore", target);
        let commit = r.commit(target);
        scene.build(&commit, &["--dry-run"]).ended(4).saying(&["image `a`", "a/.dockerignore", says]);
    }
}

#[test]
fn the_users_own_attributes_and_umask_change_nothing() {
    let mut scene = Scene::new();
    let r = &scene.repository;
    r.write("a/Dockerfile", "FROM scratch\nCOPY . /\n").write("a/file", "line $Id$\n");
    r.write("a/folder/run.sh", "x").executable("a/folder/run.sh", true);
    r.images(&[spec()]);
    let commit = r.commit("first");
    for folder in [".config/git", "xdg/git"] {
        let folder = scene.swanci.home().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("attributes"), "* text eol=crlf ident\n").unwrap();
        std::fs::write(folder.join("config"), "[core]\n\tautocrlf = true\n\teol = crlf\n").unwrap();
    }
    let change = scene.swanci.file("change.json", scene.change(&commit)).display().to_string();
    for umask in ["077", "000", "022"] {
        let built = scene.swanci.script(&format!("umask {umask}; \"$1\" build --force {change}"));
        let mut built = built;
        assert!(built.status().unwrap().success(), "umask {umask}");
        assert_eq!(file(&scene, "a", &commit, "/file").unwrap(), b"line $Id$\n");
        for (path, mode) in [("/file", 0o644), ("/folder", 0o755), ("/folder/run.sh", 0o755)] {
            let name = scene.image_name("a", &format!("sha-{commit}"));
            assert_eq!(mode_of(&name, path), mode, "{path} under umask {umask}");
        }
    }
    let xdg = scene.swanci.home().join("xdg").display().to_string();
    scene.swanci.set("XDG_CONFIG_HOME", &xdg);
    scene.build(&commit, &["--force"]).ended(0);
    assert_eq!(file(&scene, "a", &commit, "/file").unwrap(), b"line $Id$\n");
}

/// The permissions of a file in an image, from the header of its tar entry (POSIX ustar).
fn mode_of(image: &str, path: &str) -> u32 {
    let id = docker_text(&["create", "--", image, "/none"]);
    let out = docker(&["cp", &format!("{id}:{path}"), "-"]);
    docker(&["rm", &id]);
    let mode = std::str::from_utf8(&out.stdout[100..107]).unwrap();
    u32::from_str_radix(mode.trim_matches(['\0', ' ']), 8).unwrap() & 0o777
}

#[test]
fn a_repository_cannot_exclude_lfs_files_from_its_images() {
    let scene = Scene::new();
    let r = &scene.repository;
    r.git(&["config", "filter.lfs.clean", "git-lfs clean -- %f"]);
    r.git(&["config", "filter.lfs.smudge", "cat"]);
    r.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    r.write("Dockerfile", "FROM scratch\nCOPY . /\n").write("large.bin", "the content itself");
    r.write("a/Dockerfile", "FROM scratch\nCOPY . /\n").write("a/large.bin", "the content itself");
    r.images(&[json!({"service_name": "a"}), json!({"service_name": "root", "context": "."})]);
    for config in [
        "[lfs]\n\tfetchexclude = *\n",
        "[lfs]\n\tfetchinclude = nothing\n",
        "[lfs]\n\tskipdownloaderrors = true\n\turl = https://127.0.0.1:1/\n",
    ] {
        r.write(".lfsconfig", config);
        let commit = r.commit(config);
        assert!(r.git(&["show", "HEAD:large.bin"]).starts_with("version https://git-lfs"));
        scene.build(&commit, &["--force"]).ended(0);
        for name in ["a", "root"] {
            let content = file(&scene, name, &commit, "/large.bin").unwrap();
            assert_eq!(String::from_utf8(content).unwrap(), "the content itself", "{name} {config}");
        }
    }
}
