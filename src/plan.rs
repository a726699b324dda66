//! Specs, git objects and what the registry holds → what to build, what to reuse, in which order. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::git::{AttributesFile, ContextFiles};
use crate::manifest::ImageSpec;
use crate::model::{Digest, ImageRepository, Tag};

/// The version of the way inputs are hashed. A change to [`Inputs`] is a change of this number.
const INPUTS_VERSION: u32 = 2;

/// Everything in a commit that decides an image's content, as it is hashed: JSON with keys in this order, SHA-256. No file is
/// read for it.
///
/// Not in it, on purpose: the commit and its message, files outside the context, the base images of other people
/// (`--pull` and `--force` are for those), the builder.
#[derive(Serialize)]
struct Inputs<'a> {
    swanci_inputs: u32,
    /// The git tree of the context: every file's path, content and executable bit, and every submodule's commit.
    context: &'a str,
    /// The git blob of the Dockerfile.
    dockerfile: &'a str,
    /// The git blob of the ignore file that applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_file: Option<&'a str>,
    /// The attributes from above the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Attributes<'a>>,
    /// The URLs of the submodules in the context; absent where they are not checked out.
    #[serde(skip_serializing_if = "Option::is_none")]
    submodules: Option<&'a BTreeMap<String, String>>,
    args: &'a BTreeMap<String, String>,
    target: Option<&'a str>,
    platform: Option<&'a str>,
    version: Option<&'a str>,
    /// The inputs of the local bases, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    bases: BTreeMap<&'a str, &'a Digest>,
}

#[derive(Serialize)]
struct Attributes<'a> {
    /// The path that their patterns are matched with.
    context: &'a str,
    files: &'a [AttributesFile],
}

/// The hash of everything that an image is made from. `bases` are the local images that it is built on.
pub fn inputs<'a>(
    spec: &'a ImageSpec,
    files: &'a ContextFiles,
    bases: BTreeMap<&'a str, &'a Digest>,
) -> Digest {
    let above = &files.attributes;
    let inputs = Inputs {
        swanci_inputs: INPUTS_VERSION,
        context: &files.tree,
        dockerfile: &files.dockerfile.id,
        ignore_file: files.ignore_file.as_ref().map(|file| file.id.as_str()),
        attributes: (!above.is_empty()).then_some(Attributes { context: &files.path, files: above }),
        submodules: files.submodules.as_ref(),
        args: &spec.args,
        target: spec.target.as_deref(),
        platform: spec.platform.as_deref(),
        version: spec.version.as_ref().map(Tag::as_str),
        bases,
    };
    // Strings, maps with string keys and numbers: serde_json cannot fail on them.
    Digest::of(&serde_json::to_vec(&inputs).unwrap_or_default())
}

impl Digest {
    /// The SHA-256 digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }
}

/// What a reference in a `FROM` may mean among the images of the same commit.
pub struct LocalName<'a> {
    /// `service_name`.
    pub name: &'a str,
    /// Its full name.
    pub repository: &'a ImageRepository,
    /// Its moving tags.
    pub tags: &'a [Tag],
}

/// The image of the same commit that a `FROM` reference means, if it means one: by its short or its full name, with
/// one of its tags or none. An image's own name means somebody else's image (`FROM httpd:2.4` in `httpd`), and so
/// does a digest, or a tag that the commit does not give.
pub fn local_base(reference: &str, own: usize, names: &[LocalName<'_>]) -> Option<usize> {
    if reference.contains('@') {
        return None;
    }
    let (name, tag) = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (reference, None),
    };
    names.iter().enumerate().position(|(i, image)| {
        i != own
            && (name == image.name || name == image.repository.to_string())
            && tag.is_none_or(|tag| tag == "latest" || image.tags.iter().any(|t| t.as_str() == tag))
    })
}

/// Images that are built on each other in a circle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("these images are built on each other in a circle: {}", .0.join(", "))]
pub struct Circle(pub Vec<String>);

/// An order in which every image comes after its local bases. `bases[i]` are the bases of image `i`.
pub fn order(bases: &[Vec<usize>], name: impl Fn(usize) -> String) -> Result<Vec<usize>, Circle> {
    let mut placed = vec![false; bases.len()];
    let mut order = Vec::with_capacity(bases.len());
    while order.len() < bases.len() {
        let before = order.len();
        for i in 0..bases.len() {
            if !placed[i] && bases[i].iter().all(|b| placed[*b]) {
                placed[i] = true;
                order.push(i);
            }
        }
        if order.len() == before {
            return Err(Circle((0..bases.len()).filter(|i| !placed[*i]).map(name).collect()));
        }
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Object;
    use crate::manifest;

    fn spec(json: &str) -> ImageSpec {
        manifest::parse(format!(r#"{{"images":[{json}]}}"#).as_bytes()).unwrap().remove(0)
    }

    const PLAIN: &str = r#"{"service_name":"httpd","version":"1.0","args":{"A":"1"}}"#;

    fn files() -> ContextFiles {
        let object = |id: &str| Object { id: id.to_owned(), content: Vec::new() };
        ContextFiles {
            path: "httpd".to_owned(),
            tree: "tree".to_owned(),
            dockerfile: object("blob"),
            ignore_file: None,
            attributes: Vec::new(),
            submodules: None,
        }
    }

    fn attributes(path: &str, mode: &str, blob: &str) -> Vec<AttributesFile> {
        vec![AttributesFile { path: path.to_owned(), mode: mode.to_owned(), blob: blob.to_owned() }]
    }

    #[test]
    fn every_input_changes_the_hash() {
        let base = Digest::of(b"base");
        let of_spec = |json: &str| inputs(&spec(json), &files(), BTreeMap::new());
        let of_files = |change: &dyn Fn(&mut ContextFiles)| {
            let mut files = files();
            change(&mut files);
            inputs(&spec(PLAIN), &files, BTreeMap::new())
        };
        let all = [
            of_spec(PLAIN),
            of_spec(r#"{"service_name":"httpd","version":"1.1","args":{"A":"1"}}"#),
            of_spec(r#"{"service_name":"httpd","args":{"A":"1"}}"#),
            of_spec(r#"{"service_name":"httpd","version":"1.0","args":{"A":"2"}}"#),
            of_spec(r#"{"service_name":"httpd","version":"1.0","args":{"B":"1"}}"#),
            of_spec(r#"{"service_name":"httpd","version":"1.0","args":{"A":"1"},"target":"t"}"#),
            of_spec(r#"{"service_name":"httpd","version":"1.0","args":{"A":"1"},"platform":"linux/arm64"}"#),
            inputs(&spec(PLAIN), &files(), BTreeMap::from([("b", &base)])),
            of_files(&|f| f.tree = "tree2".to_owned()),
            of_files(&|f| f.dockerfile.id = "blob2".to_owned()),
            of_files(&|f| f.ignore_file = Some(f.dockerfile.clone())),
            of_files(&|f| f.submodules = Some(BTreeMap::new())),
            of_files(&|f| f.submodules = Some([("httpd/lib".to_owned(), "../lib".to_owned())].into())),
            of_files(&|f| f.submodules = Some([("httpd/lib".to_owned(), "../lib2".to_owned())].into())),
            of_files(&|f| f.attributes = attributes(".gitattributes", "100644", "a")),
            of_files(&|f| f.attributes = attributes(".gitattributes", "100644", "b")),
            of_files(&|f| f.attributes = attributes(".gitattributes", "120000", "a")),
            of_files(&|f| f.attributes = attributes("x/.gitattributes", "100644", "a")),
            of_files(&|f| {
                f.path = "elsewhere".to_owned();
                f.attributes = attributes(".gitattributes", "100644", "a");
            }),
        ];
        for (i, one) in all.iter().enumerate() {
            assert!(!all[..i].contains(one), "case {i} equals another");
        }
    }

    #[test]
    fn what_is_no_input_does_not_change_the_hash() {
        let plain = inputs(&spec(PLAIN), &files(), BTreeMap::new());
        let elsewhere =
            r#"{"service_name":"web","context":"elsewhere","version":"1.0","args":{"A":"1"},"tags":["x"]}"#;
        let moved = ContextFiles { path: "elsewhere".to_owned(), ..files() };
        assert_eq!(inputs(&spec(elsewhere), &moved, BTreeMap::new()), plain);
    }

    #[test]
    fn the_hash_is_pinned() {
        // If this fails, INPUTS_VERSION has to change: every image in every registry would be rebuilt.
        let mut all = files();
        all.ignore_file = Some(Object { id: "ignore".to_owned(), content: Vec::new() });
        all.attributes = attributes(".gitattributes", "100644", "a");
        all.submodules = Some([("httpd/lib".to_owned(), "../lib".to_owned())].into());
        let hash = |files: &ContextFiles| inputs(&spec(PLAIN), files, BTreeMap::new()).to_string();
        assert_eq!(hash(&files()), "sha256:b61e2eaa1625ebee244f4d6c536e1bcd5939ba5e5bb4daa29236ffe6779aef31");
        assert_eq!(hash(&all), "sha256:163e1cf2531a85ce6bf6dbfc6a34c32352e24489d6fcba7007cf0033b79ccb0c");
    }

    #[test]
    fn a_from_means_an_image_of_the_same_commit_only_by_its_name_and_tag() {
        let repository: ImageRepository = "r.example.org/team/base".parse().unwrap();
        let other: ImageRepository = "r.example.org/team/httpd".parse().unwrap();
        let tags = ["1.0".parse::<Tag>().unwrap()];
        let names = [
            LocalName { name: "base", repository: &repository, tags: &tags },
            LocalName { name: "httpd", repository: &other, tags: &tags },
        ];
        for (reference, own, meant) in [
            ("base", 1, Some(0)),
            ("base:1.0", 1, Some(0)),
            ("base:latest", 1, Some(0)),
            ("r.example.org/team/base:1.0", 1, Some(0)),
            ("base:2.0", 1, None),
            ("library/base", 1, None),
            ("httpd:1.0", 1, None),
            ("httpd:2.4", 0, None),
            ("r.example.org:443/base", 1, None),
            ("base@sha256:abc", 1, None),
        ] {
            assert_eq!(local_base(reference, own, &names), meant, "{reference}");
        }
    }

    #[test]
    fn bases_come_first_and_a_circle_is_named() {
        let name = |i: usize| format!("i{i}");
        assert_eq!(order(&[vec![1], vec![2], vec![]], name), Ok(vec![2, 1, 0]));
        assert_eq!(order(&[vec![1], vec![0], vec![]], name), Err(Circle(vec!["i0".into(), "i1".into()])));
    }
}
