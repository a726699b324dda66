use proptest::prelude::*;

use super::*;

/// An images.json of one image with these further keys.
fn with(keys: &str) -> String {
    format!(
        r#"{{"images":[{{"service_name":"httpd","type":"Docker"{}{keys}}}]}}"#,
        if keys.is_empty() { "" } else { "," }
    )
}

fn one(keys: &str) -> Result<ImageSpec, Mistake> {
    parse(with(keys).as_bytes()).map(|mut specs| specs.remove(0))
}

#[test]
fn the_original_projects_file_is_accepted() {
    let text = "\u{feff}{\"images\":[{\"service_name\":\"httpd\",\"version\":\"1.0\",\"type\":\"Docker\"},\
                {\"service_name\":\"team/postgresql\",\"version\":\"9.6\",\"type\":\"AMI\"}]}";
    let specs = parse(text.as_bytes()).unwrap();
    let [httpd, postgresql] = specs.as_slice() else { panic!("{specs:?}") };
    assert_eq!((httpd.name.as_str(), httpd.version.as_ref().unwrap().as_str()), ("httpd", "1.0"));
    assert_eq!((httpd.context.as_str(), httpd.dockerfile.as_str()), ("httpd", "httpd/Dockerfile"));
    assert_eq!(httpd.skipped, None);
    assert_eq!(postgresql.context.as_str(), "team/postgresql");
    let reason = "its type is `AMI`; only `Docker` is built".to_owned();
    assert_eq!(postgresql.skipped, Some(reason));
}

#[test]
fn optional_keys_are_read() {
    let spec = one(
        r#""context":".","dockerfile":"build/../Dockerfile.httpd","args":{"A":"x y","n":80,"b":true,"_":""},
           "target":"final","platform":"linux/arm/v7","tags":["latest","pr-{number}"]"#,
    )
    .unwrap();
    assert_eq!((spec.context.as_str(), spec.dockerfile.as_str()), (".", "Dockerfile.httpd"));
    let args: Vec<_> = spec.args.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(args, [("A", "x y"), ("_", ""), ("b", "true"), ("n", "80")]);
    assert_eq!((spec.target.as_deref(), spec.platform.as_deref()), (Some("final"), Some("linux/arm/v7")));
    assert_eq!(
        spec.tags.unwrap().iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["latest", "pr-{number}"]
    );
    let outside = one(r#""dockerfile":"../docker/Dockerfile""#).unwrap();
    assert_eq!(outside.dockerfile.as_str(), "docker/Dockerfile");
    assert_eq!(one(r#""version":null,"tags":null,"args":null"#).unwrap().version, None);
}

#[test]
fn an_invalid_image_is_refused_with_its_json_path() {
    for (keys, path, word) in [
        (r#""version":"""#, "images[0].version", "valid tag"),
        (r#""version":"a b""#, "images[0].version", "valid tag"),
        (r#""version":"-x""#, "images[0].version", "valid tag"),
        (r#""version":1.0"#, "images[0].version", "expected a string"),
        (r#""context":"../x""#, "images[0].context", "leaves"),
        (r#""context":"/x""#, "images[0].context", "absolute"),
        (r#""context":"""#, "images[0].context", "empty"),
        (r#""dockerfile":"../../x""#, "images[0].dockerfile", "leaves"),
        (r#""dockerfile":"..""#, "images[0].dockerfile", "folder"),
        (r#""dockerfile":"a\u0000b""#, "images[0].dockerfile", "control"),
        (r#""args":{"a-b":"x"}"#, "images[0].args.a-b", "argument name"),
        (r#""args":{"1":"x"}"#, "images[0].args.1", "argument name"),
        (r#""args":{"":"x"}"#, "images[0].args.", "argument name"),
        (r#""args":{"A=B":"x"}"#, "images[0].args.A=B", "argument name"),
        (r#""args":{"A":null}"#, "images[0].args.A", "expected a string"),
        (r#""args":{"A":1.10}"#, "images[0].args.A", "expected a string"),
        (r#""args":{"A":["x"]}"#, "images[0].args.A", "expected a string"),
        (r#""args":{"A":"x","A":"y"}"#, "images[0].args", "`A` is given twice"),
        (r#""args":["A=x"]"#, "images[0].args", "expected an object"),
        (r#""args":{"NPM_TOKEN":"hunter2"}"#, "images[0].args.NPM_TOKEN", "build secret"),
        (r#""target":"""#, "images[0].target", "stage name"),
        (r#""target":"--x""#, "images[0].target", "stage name"),
        (r#""platform":"linux""#, "images[0].platform", "one platform"),
        (r#""platform":"linux/amd64,linux/arm64""#, "images[0].platform", "one platform"),
        (r#""platform":"-x/y""#, "images[0].platform", "one platform"),
        (
            r#""platform":"linux/a234567890a234567890a234567890a234567890a234567890a23456789""#,
            "images[0].platform",
            "one platform",
        ),
        (r#""tags":["x","{sha}"]"#, "images[0].tags[1]", "unknown word"),
        (r#""tags":["{version"]"#, "images[0].tags[0]", "unbalanced"),
        (r#""tags":["{version}"]"#, "images[0].tags[0]", "no `version`"),
        (r#""tags":["a/b"]"#, "images[0].tags[0]", "a tag cannot contain"),
        (r#""tags":"x""#, "images[0].tags", "expected a list"),
        (r#""service":"x""#, "images[0].service", "known key"),
        (r#""dockerfil":"x""#, "images[0].dockerfil", "did you mean `dockerfile`?"),
        (r#""Version":"x""#, "images[0].Version", "did you mean `version`?"),
        (r#""tags":["{vresion}"]"#, "images[0].tags[0]", "did you mean `{version}`?"),
        (r#""\u001b[2J":"x""#, "images[0].\\u{1b}[2J", "known key"),
        (r#""type":"Docker""#, "images[0]", "given twice"),
    ] {
        let error = one(keys).expect_err(keys);
        assert!(error.problem.contains(word), "{keys}: {error:?}");
        assert_eq!(error.key, path, "{keys}: {error:?}");
        let shown = sentence(&error);
        assert!(shown.starts_with("images.json, line 1: ") && !shown.contains(char::is_control), "{shown:?}");
        assert!(!shown.contains("hunter2"), "a refused secret is not shown again: {shown}");
    }
}

#[test]
fn an_invalid_file_is_refused() {
    for (text, word) in [
        ("", "EOF"),
        ("[]", "expected an object"),
        ("[[]]", "expected an object"),
        ("null", "a list of images looks like"),
        ("{", "EOF"),
        ("{}", "`images` is missing"),
        ("{\"images\":[]}", "is empty"),
        ("{\"images\":null}", "expected a list"),
        ("{\"images\":{}}", "expected a list"),
        ("{\"images\":[],\"x\":1}", "known key"),
        ("{\"images\":[{}]}", "`service_name` is missing"),
        ("{\"images\":[[\"httpd\"]]}", "expected an object"),
        ("{\"images\":[{\"service_name\":\"a\"}]} x", "has text after its end"),
        ("{\"images\":[{\"service_name\":\"a\"}", "EOF"),
        ("{\"images\":[{\"service_name\":\"A\"}]}", "valid image name"),
        ("{\"images\":[{\"service_name\":\"../a\"}]}", "valid image name"),
        ("{\"images\":[{\"service_name\":\"a:1\"}]}", "valid image name"),
        ("{\"images\":[{\"service_name\":\"a\"},{\"service_name\":\"a\"}]}", "also the name of `images[0]`"),
    ] {
        let error = parse(text.as_bytes()).expect_err(text);
        assert!(sentence(&error).contains(word), "{text}: {error:?}");
    }
    assert!(parse(b"{\"images\":[\"\xff\"]}").unwrap_err().problem.contains("UTF-8"));
    let bomb = format!("{{\"images\":{}", "[".repeat(1_000_000));
    assert!(parse(bomb.as_bytes()).is_err());
}

#[test]
fn the_first_mistake_of_every_image_is_found_with_its_line_and_column() {
    let text = r#"{"images": [
  {"service_name": "good", "version": "1.0"},
  {"service_name": "Bad", "verison": "1.0"},
  {"service_name": "tags", "tags": ["ok", "{x}"]},
  {"version": "1", "args": {"A-B": "x"}},
  {"version": 1, "args": {"A-B": "x"}},
  7,
  {"service_name": "good"},
  {"service_name": "path", "context": "../x"}
 ]}"#;
    let images: Vec<_> = each(text.as_bytes()).unwrap().collect();
    let found: Vec<_> =
        images.iter().map(|image| image.as_ref().map_err(|m| (m.at.unwrap(), m.key.as_str()))).collect();
    assert_eq!(
        found,
        [
            Ok(images[0].as_ref().unwrap()),
            Err(((3, 27), "images[1].verison")),
            Err(((4, 43), "images[2].tags[1]")),
            Err(((5, 3), "images[3]")),
            Err(((6, 4), "images[4].version")),
            Err(((7, 3), "images[5]")),
            Err(((8, 4), "images[6].service_name")),
            Err(((9, 28), "images[7].context")),
        ],
        "{images:#?}"
    );
    for (whole, at) in [
        ("", Some((1, 0))),
        ("{", Some((1, 1))),
        ("[]", Some((1, 1))),
        ("{}", Some((1, 1))),
        ("{\"images\":[]}", Some((1, 2))),
        ("{\n \"images\":[{}],\n \"image\":[]}", Some((3, 2))),
        ("{\"images\":[{}]} x", None),
    ] {
        assert_eq!(each(whole.as_bytes()).err().unwrap().at, at, "{whole}");
    }
}

#[test]
fn the_type_docker_ignores_case() {
    for kind in ["Docker", "docker", "DOCKER"] {
        let text = format!(r#"{{"images":[{{"service_name":"a","type":"{kind}"}}]}}"#);
        assert_eq!(parse(text.as_bytes()).unwrap()[0].skipped, None, "{kind}");
    }
    for kind in ["Dockr", "docker ", "AMI", ""] {
        let text = format!(r#"{{"images":[{{"service_name":"a","type":"{kind}"}}]}}"#);
        assert_ne!(parse(text.as_bytes()).unwrap()[0].skipped, None, "{kind:?}");
    }
}

#[test]
fn ten_thousand_images_are_read() {
    let images: Vec<String> = (0..10_000)
        .map(|i| format!(r#"{{"service_name":"i{i}","args":{{"A":"x"}},"tags":["a","b"]}}"#))
        .collect();
    assert_eq!(parse(format!("{{\"images\":[{}]}}", images.join(",")).as_bytes()).unwrap().len(), 10_000);
}

#[test]
fn a_repository_with_only_a_dockerfile_is_one_image_named_after_it() {
    let spec = ImageSpec::root_dockerfile(&"Team/My.App".parse().unwrap()).unwrap();
    assert_eq!(
        (spec.name.as_str(), spec.context.as_str(), spec.dockerfile.as_str()),
        ("my.app", ".", "Dockerfile")
    );
    let error = ImageSpec::root_dockerfile(&"team/.github".parse().unwrap()).unwrap_err();
    assert!(sentence(&error).contains("add an images.json"), "{error:?}");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = each(&bytes).map(Iterator::count);
    }

    #[test]
    fn accepted_paths_are_normalized(
        context in "[a-z./\\\\\\x00-]{0,12}", dockerfile in "[a-zA-Z./-]{0,12}",
    ) {
        let keys = format!(
            "\"context\":{},\"dockerfile\":{}",
            serde_json::to_string(&context).unwrap(), serde_json::to_string(&dockerfile).unwrap()
        );
        if let Ok(spec) = one(&keys) {
            for path in [spec.context, spec.dockerfile] {
                prop_assert!(path.components().all(|part| !matches!(part, "" | "." | "..")), "{path}");
            }
        }
    }
}
