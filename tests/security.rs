//! Hostile payloads and repositories, and secrets that must never be shown.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::engine;
use crate::support::registry::Ca;
use crate::support::repository::Payload;
use crate::support::swanci::{Scene, Swanci, find_bytes};

const TOKEN: &str = "ghp_canaryCanaryCanary0123456789";

/// Every path to a string in a document.
fn strings(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| strings(v, &format!("{at}/{k}"), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| strings(v, &format!("{at}/{i}"), found))
        }
        Value::String(_) => found.push(at.to_owned()),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn an_option_in_any_field_of_a_payload_is_never_executed() {
    let scene = Scene::new();
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    let canary = scene.swanci.work().join("canary");
    let mut fields = Vec::new();
    let payload = Payload::merged("acme/shop", "main", &commit);
    strings(&payload.0, "", &mut fields);
    assert!(fields.len() > 20, "{fields:?}");
    for field in fields {
        for hostile in
            [format!("--upload-pack=touch {}", canary.display()), format!("$(touch {})", canary.display())]
        {
            let payload = Payload::merged("acme/shop", "main", &commit).set(&field, json!(hostile));
            let ran = scene.swanci.pipe(&["run", "-", "--tag", "x"], payload.bytes());
            assert!([0, 4, 5].contains(&ran.code), "{field}: {ran:?}");
            assert!(!canary.exists(), "{field} was executed");
        }
    }
}

#[test]
fn an_option_in_any_field_of_images_json_is_never_executed() {
    let scene = Scene::new();
    scene.repository.image("a", "1").write("a/Dockerfile", "FROM scratch AS one\nARG X\nCOPY file /file\n");
    let canary = scene.swanci.work().join("canary");
    let full = json!({"images": [{"service_name": "a", "version": "1", "type": "Docker", "context": "a",
        "dockerfile": "Dockerfile", "args": {"X": "1"}, "target": "one", "platform": "linux/amd64", "tags": ["1"]}]});
    let mut fields = Vec::new();
    strings(&full, "", &mut fields);
    for field in fields {
        let mut hostile = full.clone();
        *hostile.pointer_mut(&field).unwrap() = json!(format!("--file=/dev/null;touch {}", canary.display()));
        scene.repository.write("images.json", hostile.to_string());
        let commit = scene.repository.commit(&field);
        let ran = scene.build(&commit, &[]);
        // An unknown type is skipped, and the value of an arg may be any text.
        let expected = if field.ends_with("/type") || field.ends_with("/X") { 0 } else { 4 };
        assert_eq!(ran.code, expected, "{field}: {ran:?}");
        assert!(!canary.exists(), "{field} was executed");
    }
}

#[test]
fn a_token_is_never_shown_or_stored() {
    let mut scene = Scene::new();
    scene.swanci.set("SWANCI_GIT_TOKEN", TOKEN);
    let seen = scene.swanci.work().join("seen");
    std::fs::create_dir(&seen).unwrap();
    // Record every child's arguments and environment, then run the real program.
    for tool in ["git", "docker"] {
        let script = format!(
            "#!/bin/bash\nprintf '%s\\n' \"$0\" \"$@\" >>{0}/{tool}.argv\nenv >>{0}/{tool}.env\nexec \"$(PATH=${{PATH#*:}} command -v {tool})\" \"$@\"\n",
            seen.display()
        );
        scene.swanci.program(tool, &script);
    }
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    let ran = scene.run(&commit, &["-vv"]).ended(0);
    for text in [&ran.stdout, &ran.stderr] {
        assert!(!text.contains(TOKEN));
    }
    // An https remote where nothing answers: the token is in git's environment.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forge = format!("https://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let url = format!("{forge}/acme/shop.git");
    drop(listener);
    scene.swanci.config(&format!("[[forge]]\nkind = \"github\"\nurl = \"{forge}\"\n"));
    let ran = scene.swanci.run(&["-v", "build", "--repo", &url, "--branch", "main"]).ended(6);
    assert!(!ran.stderr.contains(TOKEN), "{}", ran.stderr);
    use base64::Engine as _;
    let header = base64::engine::general_purpose::STANDARD.encode(format!("x-access-token:{TOKEN}"));
    let read = |name: &str| std::fs::read_to_string(seen.join(name)).unwrap();
    assert!(read("git.env").contains(&header), "the recorded environment lacks the token");
    for argv in ["git.argv", "docker.argv"] {
        assert!(!read(argv).contains(TOKEN) && !read(argv).contains(&header), "{argv}");
    }
    assert!(!read("docker.env").contains(TOKEN) && !read("docker.env").contains(&header));
    // On the disk: state (mirrors, receipts) and home; and in the image.
    for needle in [TOKEN, &header] {
        assert_eq!(find_bytes(&scene.swanci.state(), needle.as_bytes()), None);
        assert_eq!(find_bytes(&scene.swanci.home(), needle.as_bytes()), None);
        let bytes = engine::everything_of(&scene.image_name("a", &format!("sha-{commit}")));
        assert!(!bytes.windows(needle.len()).any(|w| w == needle.as_bytes()));
    }
}

/// An https server on loopback with this answer to a request's head; it records the heads.
fn https_server(
    ca: &Ca,
    answer: impl Fn(&str) -> Vec<u8> + Send + 'static,
) -> (String, Arc<Mutex<Vec<String>>>) {
    let (certificate, key) = ca.server(&["127.0.0.1"]);
    let dir = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (dir.path().join("crt"), dir.path().join("key"));
    std::fs::write(&cert_file, certificate).unwrap();
    std::fs::write(&key_file, key).unwrap();
    let plain = TcpListener::bind("127.0.0.1:0").unwrap();
    let inner = plain.local_addr().unwrap().port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let remembered = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut connection in plain.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && connection.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let _ = std::io::Write::write_all(&mut connection, &answer(&head));
            remembered.lock().unwrap().push(head);
        }
    });
    let port = crate::support::tls_front::start(&cert_file, &key_file, inner, dir);
    (format!("https://127.0.0.1:{port}"), seen)
}

#[test]
fn a_redirect_never_sends_the_token_to_another_host() {
    let ca = Ca::new("test");
    let gone = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
    let (other, other_seen) = https_server(&ca, move |_| gone.clone().into_bytes());
    let moved = format!(
        "HTTP/1.1 302 Found\r\nLocation: {other}/acme/shop.git/info/refs?service=git-upload-pack\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (first, first_seen) = https_server(&ca, move |_| moved.clone().into_bytes());
    let mut swanci = Swanci::new();
    let file = swanci.file("ca.pem", &ca.pem);
    swanci.set("GIT_SSL_CAINFO", &file.display().to_string());
    swanci.set("SWANCI_GIT_TOKEN", TOKEN);
    swanci.config(&format!("[[forge]]\nkind = \"github\"\nurl = \"{first}\"\n"));
    let url = format!("{first}/acme/shop.git");
    let ran = swanci.run(&["build", "--repo", &url, "--branch", "main"]).ended(6);
    ran.saying(&["redirects to another URL", "error: 302", "clone_url"]);
    let first_seen = first_seen.lock().unwrap();
    assert!(
        first_seen.iter().any(|head| head.to_lowercase().contains("authorization: basic")),
        "{first_seen:?}"
    );
    assert_eq!(*other_seen.lock().unwrap(), Vec::<String>::new(), "the redirect was followed");
}

#[test]
fn a_login_in_a_url_is_used_for_every_fetch_and_never_shown() {
    use base64::Engine as _;
    let ca = Ca::new("test");
    let scene = Scene::new();
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let commit = scene.repository.commit("first");
    scene.repository.git(&["update-server-info"]);
    // git's plain-file protocol (gitprotocol-http(5), "dumb"), behind a login.
    let (folder, login) = (scene.repository.path().join(".git"), format!("me:{TOKEN}"));
    let basic = format!(
        "authorization: basic {}",
        base64::engine::general_purpose::STANDARD.encode(login.as_bytes())
    )
    .to_lowercase();
    let (server, seen) = https_server(&ca, move |head| {
        let reply = |status: &str, body: &[u8]| {
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        if !head.to_lowercase().contains(&basic) {
            return reply("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"", b"");
        }
        let path =
            head.split([' ', '?']).nth(1).and_then(|p| p.strip_prefix("/acme/shop.git/")).unwrap_or("none");
        match std::fs::read(folder.join(path)) {
            Ok(body) => reply("200 OK", &body),
            Err(_) => reply("404 Not Found", b""),
        }
    });
    let mut scene = scene;
    let file = scene.swanci.file("ca.pem", &ca.pem).display().to_string();
    scene.swanci.set("GIT_SSL_CAINFO", &file);
    let url = format!("{}/acme/shop.git", server.replace("https://", &format!("https://{login}@")));
    let built = scene.swanci.run(&["build", "--repo", &url, "--branch", "main"]).ended(0);
    assert_eq!(built.json()["change"]["commit"], commit.as_str());
    assert_eq!(built.json()["change"]["clone_url"], format!("{server}/acme/shop.git"));
    assert!(!built.stdout.contains(TOKEN) && !built.stderr.contains(TOKEN), "{}", built.stderr);
    assert_eq!(find_bytes(&scene.swanci.state(), TOKEN.as_bytes()), None);
    // One to find the branch's commit, one for the proof.
    let fetches = seen.lock().unwrap().iter().filter(|head| head.contains("/info/refs")).count();
    assert!(fetches >= 2, "{fetches} fetches");
}

#[test]
fn a_repository_cannot_make_git_run_anything() {
    let scene = Scene::new();
    let canary = scene.swanci.work().join("canary");
    let touch = format!("touch {}", canary.display());
    let r = &scene.repository;
    r.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    r.write(".gitattributes", "* filter=evil diff=evil merge=evil\na/* filter=evil\n");
    r.write("a/.gitattributes", "* filter=evil ident\n");
    // Filters and hooks in the configuration of the user and the machine.
    let config = format!(
        "[filter \"evil\"]\n\tsmudge = {touch}\n\tclean = cat\n\trequired = true\n[core]\n\thooksPath = {0}\n\tfsmonitor = {touch}\n\
         sshCommand = {touch}\n[init]\n\ttemplateDir = {0}\n[url \"file:///nonexistent/\"]\n\tinsteadOf = /\n",
        scene.swanci.home().display()
    );
    std::fs::write(scene.swanci.home().join(".gitconfig"), config).unwrap();
    for hook in
        ["post-checkout", "reference-transaction", "hooks/post-checkout", "hooks/reference-transaction"]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let path = scene.swanci.home().join(hook);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, format!("#!/bin/sh\n{touch}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let commit = r.commit("first");
    scene.run(&commit, &[]).ended(0);
    assert!(!canary.exists(), "something was executed");
}

#[test]
fn a_locked_damaged_or_shared_mirror_still_works() {
    let scene = Scene::new();
    scene.repository.image("a", "1").images(&[json!({"service_name": "a", "version": "1"})]);
    let first = scene.repository.commit("first");
    scene.build(&first, &["--dry-run"]).ended(0);
    let mirror = std::fs::read_dir(scene.swanci.state().join("mirrors"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "git"))
        .unwrap();
    let next = |n: &str| {
        scene.repository.write("README", n);
        scene.repository.commit(n)
    };
    for lock in ["shallow.lock", "packed-refs.lock", "config.lock", "HEAD.lock", "refs/heads/main.lock"] {
        std::fs::write(mirror.join(lock), "").unwrap();
        scene.build(&next(lock), &["--dry-run"]).ended(0);
    }
    for broken in ["HEAD", "config", "objects", "refs"] {
        let path = mirror.join(broken);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap();
        } else {
            std::fs::write(&path, "nonsense\n").unwrap();
        }
        scene.build(&next(broken), &["--dry-run"]).ended(0);
    }
    // A damaged object.
    let commit = next("half");
    let objects = mirror.join("objects");
    fn files(dir: &std::path::Path, all: &mut Vec<std::path::PathBuf>) {
        for path in std::fs::read_dir(dir).unwrap().flatten().map(|e| e.path()) {
            if path.is_dir() { files(&path, all) } else { all.push(path) }
        }
    }
    let mut all = Vec::new();
    files(&objects, &mut all);
    for file in all {
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, "broken").unwrap();
    }
    scene.build(&commit, &["--dry-run"]).ended(0);

    let commit = next("many at once");
    let change = scene.swanci.file("change.json", scene.change(&commit)).display().to_string();
    let all: Vec<_> = (0..6).map(|_| scene.swanci.start(&["build", &change, "--dry-run"])).collect();
    for one in all {
        one.wait().ended(0);
    }
}
