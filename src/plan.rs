//! Specs, git objects and the registry's content → what to build, what to reuse, in which order.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::git::{AttributesFile, ContextFiles};
use crate::manifest::ImageSpec;
use crate::model::{CommitSha, Digest, ImageRepository, Tag};

/// Increment with every change to [`Inputs`].
const INPUTS_VERSION: u32 = 2;

/// Everything in a commit that decides an image's content. Hashed with SHA-256, as JSON with keys in this order.
///
/// Absent on purpose: the commit and its message, files outside the context, base images that are not local (see `--pull`
/// and `--force`), the builder.
#[derive(Serialize)]
struct Inputs<'a> {
    swanci_inputs: u32,
    /// The git tree of the context: every file's path, content and executable bit, and every submodule's commit.
    context: &'a str,
    /// A git blob.
    dockerfile: &'a str,
    /// A git blob.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignore_file: Option<&'a str>,
    /// From the folders above the context.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<Attributes<'a>>,
    /// The URLs of the submodules in the context; absent unless they are checked out.
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
    /// The path that their patterns match.
    context: &'a str,
    files: &'a [AttributesFile],
}

/// The hash of an image's inputs. `bases` are the inputs of its local bases, by name.
pub(crate) fn inputs<'a>(
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
    // serde_json cannot fail on strings, numbers, and maps with string keys.
    Digest::of(&serde_json::to_vec(&inputs).unwrap_or_default())
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
    /// This and the next two are labels.
    pub(crate) source: Option<String>,
    pub(crate) revision: Option<CommitSha>,
    pub(crate) inputs: Option<Digest>,
}

/// What the registry has under one image path. An unreadable image counts as absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Holdings {
    /// Under the commit's own `sha-` tag.
    pub(crate) own: Option<Held>,
    /// Whether anything is under that tag, also an unreadable image.
    pub(crate) own_is_taken: bool,
    /// Under the `sha-` tag of the first parent.
    pub(crate) parent: Option<Held>,
    /// Under the moving tags of the commit, in order.
    pub(crate) moving: Vec<Held>,
    /// Some other images, when none of the above names its source.
    pub(crate) others: Vec<Held>,
    /// Whether the image under the first moving tag is also under the `sha-` tag of its revision.
    pub(crate) confirmed: bool,
}

impl Holdings {
    /// The source of the repository that owns the path, if it is another one. The moving tags decide, because people pull
    /// them; then the commit's own tag, then its parent's, then any other image.
    pub(crate) fn owned_by_another(&self, is_ours: impl Fn(&str) -> bool) -> Option<&str> {
        let foreign = |held: &&Held| held.source.as_deref().is_some_and(|source| !is_ours(source));
        if self.moving.iter().any(|held| held.source.is_some()) {
            return self.moving.iter().find(foreign).and_then(|held| held.source.as_deref());
        }
        let immutable = self.own.iter().chain(&self.parent).find(|held| held.source.is_some());
        if let Some(held) = immutable {
            return Some(held).filter(foreign).and_then(|held| held.source.as_deref());
        }
        let ours = self.others.iter().any(|held| held.source.as_deref().is_some_and(&is_ours));
        if ours { None } else { self.others.iter().find(foreign).and_then(|held| held.source.as_deref()) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Build { why: &'static str },
    Reuse { digest: Digest, under: Tag, own_is_taken: bool },
}

impl Action {
    pub(crate) fn is_build(&self) -> bool {
        matches!(self, Action::Build { .. })
    }

    /// Reuses only an image of the same repository, and one under a moving tag only if an immutable tag confirms it: labels
    /// can be inherited or forged.
    pub(crate) fn for_inputs(inputs: &Digest, holdings: &Holdings, is_ours: impl Fn(&str) -> bool) -> Action {
        let moving = holdings.moving.first().filter(|_| holdings.confirmed);
        let same =
            [holdings.own.as_ref(), holdings.parent.as_ref(), moving].into_iter().flatten().find(|held| {
                held.inputs.as_ref() == Some(inputs) && held.source.as_deref().is_some_and(&is_ours)
            });
        match same {
            Some(held) => Action::Reuse {
                digest: held.digest.clone(),
                under: held.tag.clone(),
                own_is_taken: holdings.own_is_taken,
            },
            None if *holdings == Holdings::default() => Action::Build { why: "not in the registry" },
            None => Action::Build { why: "its inputs changed" },
        }
    }
}

/// Resolves the references in a commit's Dockerfiles to its own images.
pub(crate) struct LocalNames<'a>(HashMap<String, (usize, Vec<&'a Tag>)>);

impl<'a> LocalNames<'a> {
    /// Takes the spec, the repository and the moving tags of each image. The version always counts as a tag, so that `--tag`
    /// or a missing branch does not change what a reference means.
    pub(crate) fn new(
        images: impl Iterator<Item = (&'a ImageSpec, &'a ImageRepository, &'a [Tag])>,
    ) -> LocalNames<'a> {
        let mut names = HashMap::new();
        for (i, (spec, repository, tags)) in images.enumerate() {
            let tags: Vec<&Tag> = tags.iter().chain(&spec.version).collect();
            names.insert(spec.name.to_string(), (i, tags.clone()));
            names.entry(repository.to_string()).or_insert((i, tags));
        }
        LocalNames(names)
    }

    /// The image with this short or full name and one of its tags, or none. `None` for the image's own name (`FROM
    /// httpd:2.4` in `httpd`), a digest, or another tag: these are other people's images.
    pub(crate) fn find(&self, reference: &str, own: usize) -> Option<usize> {
        let (name, tag) = match reference.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (reference, None),
        };
        let (i, tags) = self.0.get(name)?;
        let given = tag.is_none_or(|tag| tag == "latest" || tags.iter().any(|t| t.as_str() == tag));
        (*i != own && given && !reference.contains('@')).then_some(*i)
    }
}

/// An order in which every image comes after its local bases: `bases[i]` for image `i`. The error is a circle of images.
pub(crate) fn order(bases: &[Vec<usize>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut open: Vec<usize> = bases.iter().map(Vec::len).collect();
    let mut dependants: Vec<Vec<usize>> = vec![Vec::new(); bases.len()];
    for (i, bases) in bases.iter().enumerate() {
        bases.iter().for_each(|base| dependants[*base].push(i));
    }
    let mut order: Vec<usize> = (0..bases.len()).filter(|i| open[*i] == 0).collect();
    let mut at = 0;
    while let Some(done) = order.get(at).copied() {
        at += 1;
        for i in &dependants[done] {
            open[*i] -= 1;
            if open[*i] == 0 {
                order.push(*i);
            }
        }
    }
    if order.len() == bases.len() {
        return Ok(order);
    }
    Err((0..bases.len()).filter(|i| open[*i] > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::Blob;
    use crate::manifest;

    fn spec(json: &str) -> ImageSpec {
        manifest::parse(format!(r#"{{"images":[{json}]}}"#).as_bytes()).unwrap().remove(0)
    }

    const PLAIN: &str = r#"{"service_name":"httpd","version":"1.0","args":{"A":"1"}}"#;

    fn files() -> ContextFiles {
        let object = |id: &str| Blob { id: id.to_owned(), content: Vec::new() };
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
    fn the_name_and_an_equal_context_elsewhere_do_not_change_the_hash() {
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
        all.ignore_file = Some(Blob { id: "ignore".to_owned(), content: Vec::new() });
        all.attributes = attributes(".gitattributes", "100644", "a");
        all.submodules = Some([("httpd/lib".to_owned(), "../lib".to_owned())].into());
        let hash = |files: &ContextFiles| inputs(&spec(PLAIN), files, BTreeMap::new()).to_string();
        assert_eq!(hash(&files()), "sha256:b61e2eaa1625ebee244f4d6c536e1bcd5939ba5e5bb4daa29236ffe6779aef31");
        assert_eq!(hash(&all), "sha256:163e1cf2531a85ce6bf6dbfc6a34c32352e24489d6fcba7007cf0033b79ccb0c");
    }

    #[test]
    fn a_reference_means_a_local_image_only_by_its_name_and_tag() {
        let repository: ImageRepository = "r.example.org/team/base".parse().unwrap();
        let other: ImageRepository = "r.example.org/team/httpd".parse().unwrap();
        let tags = ["1.0".parse::<Tag>().unwrap()];
        let (base, httpd) = (spec(r#"{"service_name":"base","version":"3"}"#), spec(PLAIN));
        let images = [(&base, &repository, &tags[..]), (&httpd, &other, &tags[..])];
        let names = LocalNames::new(images.into_iter());
        for (reference, own, meant) in [
            ("base", 1, Some(0)),
            ("base:1.0", 1, Some(0)),
            ("base:3", 1, Some(0)),
            ("base:latest", 1, Some(0)),
            ("r.example.org/team/base:1.0", 1, Some(0)),
            ("base:2.0", 1, None),
            ("library/base", 1, None),
            ("httpd:1.0", 1, None),
            ("httpd:2.4", 0, None),
            ("r.example.org:443/base", 1, None),
            ("base@sha256:abc", 1, None),
        ] {
            assert_eq!(names.find(reference, own), meant, "{reference}");
        }
    }

    #[test]
    fn bases_come_first_and_a_circle_is_named() {
        assert_eq!(order(&[vec![1], vec![2], vec![]]), Ok(vec![2, 1, 0]));
        assert_eq!(order(&[vec![1], vec![0], vec![]]), Err(vec![0, 1]));
        let chain: Vec<Vec<usize>> =
            (0..50_000).map(|i| if i < 49_999 { vec![i + 1] } else { vec![] }).collect();
        assert_eq!(order(&chain).unwrap()[0], 49_999);
    }

    const OURS: &str = "https://github.com/o/ours";
    const OTHER: &str = "https://github.com/o/other";

    fn held(tag: &str, source: Option<&str>, inputs: &[u8]) -> Held {
        Held {
            tag: tag.parse().unwrap(),
            digest: Digest::of(format!("{tag}{source:?}").as_bytes()),
            source: source.map(str::to_owned),
            revision: None,
            inputs: Some(Digest::of(inputs)),
        }
    }

    #[test]
    fn a_path_belongs_to_the_source_of_its_images() {
        let (ours, other, unnamed) =
            (held("1", Some(OURS), b"i"), held("1", Some(OTHER), b"i"), held("1", None, b"i"));
        let holdings =
            |moving: &[&Held], own: Option<&Held>, parent: Option<&Held>, others: &[&Held]| Holdings {
                own: own.cloned(),
                parent: parent.cloned(),
                moving: moving.iter().map(|held| (*held).clone()).collect(),
                others: others.iter().map(|held| (*held).clone()).collect(),
                own_is_taken: own.is_some(),
                confirmed: true,
            };
        for (holdings, owner) in [
            (holdings(&[], None, None, &[]), None),
            (holdings(&[&ours], Some(&other), None, &[]), None),
            (holdings(&[&ours, &other], None, None, &[]), Some(OTHER)),
            (holdings(&[&other], Some(&ours), Some(&ours), &[]), Some(OTHER)),
            (holdings(&[&unnamed], Some(&other), None, &[]), Some(OTHER)),
            (holdings(&[], Some(&other), Some(&ours), &[]), Some(OTHER)),
            (holdings(&[], None, Some(&other), &[]), Some(OTHER)),
            (holdings(&[], None, None, &[&unnamed, &other]), Some(OTHER)),
            (holdings(&[], None, None, &[&other, &ours]), None),
            (holdings(&[&unnamed], None, None, &[]), None),
        ] {
            assert_eq!(holdings.owned_by_another(|source| source == OURS), owner, "{holdings:?}");
        }
    }

    #[test]
    fn only_a_confirmed_own_image_with_the_same_inputs_is_reused() {
        let inputs = Digest::of(b"i");
        let action = |holdings: &Holdings| Action::for_inputs(&inputs, holdings, |source| source == OURS);
        let under = |tag: &str, source| Action::Reuse {
            digest: held(tag, source, b"i").digest,
            under: tag.parse().unwrap(),
            own_is_taken: false,
        };
        let changed = Action::Build { why: "its inputs changed" };
        let empty = Holdings::default();
        assert_eq!(action(&empty), Action::Build { why: "not in the registry" });
        for (holdings, expected) in [
            (
                Holdings { own: Some(held("own", Some(OURS), b"i")), ..empty.clone() },
                under("own", Some(OURS)),
            ),
            (Holdings { own: Some(held("own", Some(OURS), b"x")), ..empty.clone() }, changed.clone()),
            (Holdings { own: Some(held("own", Some(OTHER), b"i")), ..empty.clone() }, changed.clone()),
            (Holdings { own: Some(held("own", None, b"i")), ..empty.clone() }, changed.clone()),
            (Holdings { parent: Some(held("p", Some(OURS), b"i")), ..empty.clone() }, under("p", Some(OURS))),
            (Holdings { moving: vec![held("1", Some(OURS), b"i")], ..empty.clone() }, changed.clone()),
            (
                Holdings { moving: vec![held("1", Some(OURS), b"i")], confirmed: true, ..empty.clone() },
                under("1", Some(OURS)),
            ),
            (
                Holdings { moving: vec![held("1", Some(OTHER), b"i")], confirmed: true, ..empty.clone() },
                changed.clone(),
            ),
        ] {
            assert_eq!(action(&holdings), expected, "{holdings:?}");
        }
    }
}
