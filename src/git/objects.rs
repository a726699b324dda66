//! Reads a commit's content from the mirror's objects, without a working copy.
//!
//! Trees are walked by object id. Repository text is never part of a revision expression (gitrevisions(7) reads
//! `COMMIT:api-g1234567` as the commit `1234567`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use serde::Serialize;

use super::mirror::Mirror;
use super::{GitError, run};
use crate::escape::shortened;
use crate::model::CommitSha;
use crate::process::CommandError;

/// A tree or blob that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its git object id, hex.
    pub id: String,
    /// Its content; empty if not requested.
    pub content: Vec<u8>,
}

/// What a path in a commit leads to, after symbolic links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file.
    Blob(Object),
    /// A folder.
    Tree(Object),
    /// A submodule, or something in one.
    Submodule,
    Missing,
    /// A link to this target outside the repository.
    Outside(String),
    /// A broken or circular link.
    Dangling,
}

/// The inputs of an image in a commit. Symbolic links are resolved within the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFiles {
    /// The path of the context, without links; `.` for the root.
    pub path: String,
    /// Its git tree.
    pub tree: String,
    /// The Dockerfile. Its content is the unchanged blob: git attributes do not apply to it.
    pub dockerfile: Object,
    /// The ignore file that docker uses: `NAME.dockerignore` beside the Dockerfile, else `.dockerignore`.
    pub ignore_file: Option<Object>,
    /// The attributes files above the context. Those inside are part of its tree.
    pub attributes: Vec<AttributesFile>,
    /// The URLs of the submodules in the context, by path; `None` if submodules are not checked out.
    pub submodules: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttributesFile {
    /// Its path from the root of the commit.
    pub path: String,
    /// Its octal mode: git reads a link differently from a file.
    pub mode: String,
    /// Its git blob.
    pub blob: String,
}

/// A context, Dockerfile or ignore file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misplaced {
    what: &'static str,
    path: String,
    found: Found,
}

impl fmt::Display for Misplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} `{}` ", self.what, self.path)?;
        match &self.found {
            Found::Blob(_) => f.write_str("is a file"),
            Found::Tree(_) => f.write_str("is a folder"),
            Found::Submodule => f.write_str("is a submodule; name a folder of the repository itself"),
            Found::Missing => f.write_str("does not exist in the commit"),
            Found::Outside(to) => {
                write!(f, "is a link that leads out of the repository, to `{}`", shortened(to, 80))
            }
            Found::Dangling => f.write_str("is a link that leads nowhere"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    pub first_parent: Option<CommitSha>,
    /// The committer date in seconds since the epoch.
    pub time: i64,
}

/// Limit on the links in one path, the same as in Linux (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// Limit on the bytes of a link, the same as in Linux (PATH_MAX).
const LONGEST_LINK: usize = 4096;

/// Limit on the commits whose root trees are in memory together.
const COMMITS_AT_ONCE: usize = 64;

impl Mirror<'_> {
    pub fn commit_info(&self, commit: &CommitSha) -> Result<CommitInfo, GitError> {
        let args = ["log", "-1", "--no-show-signature", "--format=%ct %P", commit.as_str()];
        let text = run(self.local().args(args), self.cancel())?.text();
        let mut words = text.split_whitespace();
        let time = words.next().and_then(|t| t.parse().ok());
        Ok(CommitInfo {
            time: time.ok_or_else(|| GitError::Unexpected(format!("log {commit}: {text}")))?,
            first_parent: words.next().and_then(|p| p.parse().ok()),
        })
    }

    /// What each context (the first path) and its Dockerfile (the second) lead to, for all images in one walk.
    pub fn context_files(
        &self,
        commit: &CommitSha,
        images: &[(&str, &str)],
        submodules: bool,
    ) -> Result<Vec<Result<ContextFiles, Misplaced>>, GitError> {
        let mut paths = vec![".gitmodules".to_owned()];
        for (context, dockerfile) in images {
            paths.push((*context).to_owned());
            paths.push((*dockerfile).to_owned());
            paths.push(format!("{dockerfile}.dockerignore"));
            paths.push(format!("{context}/.dockerignore"));
        }
        let mut walk = Walk::new(self);
        let mut found = walk.follow(paths.iter().map(|path| (commit, path.as_str())))?.into_iter();
        let gitmodules = found.next().map(|(_, found)| found);
        let submodules = match gitmodules {
            Some(Found::Blob(file)) if submodules => Some(self.stated_urls(&file.id)?),
            _ => submodules.then(BTreeMap::new),
        };
        let mut files = Vec::with_capacity(images.len());
        for (context, dockerfile) in images {
            let mut next = || found.next().unwrap_or((String::new(), Found::Missing));
            let (in_commit, named, plain) = ((next(), next()), next().1, next().1);
            let mut one = sort_out((*context, *dockerfile), in_commit, named, plain);
            if let Ok(one) = &mut one {
                one.attributes = walk.attributes_above(commit, &one.path);
                one.submodules = submodules.as_ref().map(|all| within(all, &one.path));
            }
            files.push(one);
        }
        let mut objects: Vec<&mut Object> = files
            .iter_mut()
            .flatten()
            .flat_map(|one| std::iter::once(&mut one.dockerfile).chain(&mut one.ignore_file))
            .collect();
        let ids: BTreeSet<String> = objects.iter().map(|object| object.id.clone()).collect();
        let ids: Vec<String> = ids.into_iter().collect();
        let contents: HashMap<&String, Vec<u8>> = ids.iter().zip(self.read_blobs(&ids)?).collect();
        for object in &mut objects {
            object.content = contents.get(&object.id).cloned().unwrap_or_default();
        }
        Ok(files)
    }

    /// What one path leads to in each of these commits, after symbolic links, without content.
    pub fn look_across(&self, commits: &[CommitSha], path: &str) -> Result<Vec<Found>, GitError> {
        let mut all = Vec::with_capacity(commits.len());
        for commits in commits.chunks(COMMITS_AT_ONCE) {
            let found = Walk::new(self).follow(commits.iter().map(|commit| (commit, path)))?;
            all.extend(found.into_iter().map(|(_, found)| found));
        }
        Ok(all)
    }

    /// What a path leads to, after symbolic links, with the content of a file.
    pub fn read_file(&self, commit: &CommitSha, path: &str) -> Result<Found, GitError> {
        match self.look_across(std::slice::from_ref(commit), path)?.pop() {
            Some(Found::Blob(Object { id, .. })) => {
                let content = self.read_blobs(std::slice::from_ref(&id))?.pop().unwrap_or_default();
                Ok(Found::Blob(Object { id, content }))
            }
            Some(found) => Ok(found),
            None => Ok(Found::Missing),
        }
    }

    pub fn read_blobs(&self, ids: &[String]) -> Result<Vec<Vec<u8>>, GitError> {
        let objects = self.cat(ids)?;
        let blob = |(object, id): (Raw, &String)| match object {
            Some((_, Kind::Blob, content)) => Ok(content),
            Some((_, Kind::Tree, _)) | None => {
                Err(GitError::Unexpected(format!("cat-file: {id} is not a blob")))
            }
        };
        objects.into_iter().zip(ids).map(blob).collect()
    }

    /// Reads objects by id or `ID^{tree}`, with as few calls as the limit on git's output allows.
    fn cat(&self, names: &[String]) -> Result<Vec<Raw>, GitError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let asked: String = names.iter().flat_map(|name| [name.as_str(), "\n"]).collect();
        let output = match run(self.local().args(["cat-file", "--batch"]).stdin(asked), self.cancel()) {
            Ok(done) => done.stdout,
            Err(GitError::Command(CommandError::TooMuchOutput { .. })) if names.len() > 1 => {
                let (some, others) = names.split_at(names.len() / 2);
                let mut objects = self.cat(some)?;
                objects.extend(self.cat(others)?);
                return Ok(objects);
            }
            Err(error) => return Err(error),
        };
        let objects = parse(&output).filter(|objects| objects.len() == names.len());
        objects.ok_or_else(|| GitError::Unexpected("cat-file --batch".to_owned()))
    }

    /// The URLs in `.gitmodules`, by submodule path; empty if the file does not exist.
    pub fn submodule_urls(&self, commit: &CommitSha) -> Result<BTreeMap<String, String>, GitError> {
        match self.look_across(std::slice::from_ref(commit), ".gitmodules")?.pop() {
            Some(Found::Blob(file)) => self.stated_urls(&file.id),
            _ => Ok(BTreeMap::new()),
        }
    }

    fn stated_urls(&self, gitmodules: &str) -> Result<BTreeMap<String, String>, GitError> {
        let blob = format!("--blob={gitmodules}");
        let args = ["config", &blob, "--null", "--list"];
        let text = run(self.local().args(args), self.cancel())?.stdout;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut named: BTreeMap<&str, (Option<&str>, Option<&str>)> = BTreeMap::new();
        for (key, value) in text.split('\0').filter_map(|entry| entry.split_once('\n')) {
            match key.strip_prefix("submodule.").and_then(|key| key.rsplit_once('.')) {
                Some((name, "path")) => named.entry(name).or_default().0 = Some(value),
                Some((name, "url")) => named.entry(name).or_default().1 = Some(value),
                _ => {}
            }
        }
        let pairs = named.into_values().filter_map(|(path, url)| Some((path?.to_owned(), url?.to_owned())));
        Ok(pairs.collect())
    }
}

/// Builds one image's `ContextFiles` from what its paths lead to.
fn sort_out(
    (context, dockerfile): (&str, &str),
    found: ((String, Found), (String, Found)),
    named_ignore_file: Found,
    plain_ignore_file: Found,
) -> Result<ContextFiles, Misplaced> {
    let wrong = |what, path: &str, found| Err(Misplaced { what, path: path.to_owned(), found });
    let (path, tree) = match found.0 {
        (path, Found::Tree(tree)) => (path, tree.id),
        (_, found) => return wrong("folder", context, found),
    };
    let dockerfile_blob = match found.1.1 {
        Found::Blob(blob) => blob,
        found
        @ (Found::Tree(_) | Found::Submodule | Found::Missing | Found::Outside(_) | Found::Dangling) => {
            return wrong("Dockerfile", dockerfile, found);
        }
    };
    let ignore_file = match (named_ignore_file, plain_ignore_file) {
        (Found::Blob(blob), _) | (Found::Missing, Found::Blob(blob)) => Some(blob),
        (Found::Missing, Found::Missing) => None,
        (Found::Missing, found) => return wrong("ignore file", &format!("{context}/.dockerignore"), found),
        (found, _) => return wrong("ignore file", &format!("{dockerfile}.dockerignore"), found),
    };
    Ok(ContextFiles {
        path,
        tree,
        dockerfile: dockerfile_blob,
        ignore_file,
        attributes: Vec::new(),
        submodules: None,
    })
}

/// The submodules inside a folder.
fn within(all: &BTreeMap<String, String>, folder: &str) -> BTreeMap<String, String> {
    let inside =
        |path: &str| folder == "." || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    all.iter().filter(|(path, _)| inside(path)).map(|(path, url)| (path.clone(), url.clone())).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blob,
    Tree,
}

/// Id, type and content of an object; `None` if it does not exist.
type Raw = Option<(String, Kind, Vec<u8>)>;

/// An entry of a tree.
struct Entry {
    mode: u32,
    id: String,
}

impl Entry {
    const TREE: u32 = 0o040_000;
    const LINK: u32 = 0o120_000;
    const SUBMODULE: u32 = 0o160_000;

    fn format(&self) -> u32 {
        self.mode & 0o170_000
    }
}

/// An object in the walk's cache.
enum Loaded {
    Tree { id: String, entries: HashMap<Vec<u8>, Entry> },
    Link(Vec<u8>),
    Absent,
}

/// Follows paths through the trees of commits. Each round of reads is one process for all paths.
struct Walk<'m, 'a> {
    mirror: &'m Mirror<'a>,
    objects: HashMap<String, Loaded>,
}

/// The state of one path.
struct Path {
    /// The remaining components, in reverse order.
    ahead: Vec<String>,
    /// How many of them come from the path itself; the others come from a link.
    own: usize,
    /// The folders and the file passed so far, without links. The first is the root.
    behind: Vec<(String, Entry)>,
    links: usize,
}

/// The next object that a path needs, or its result.
enum Advance {
    Needs(String),
    Ended(Found),
}

impl<'m, 'a> Walk<'m, 'a> {
    fn new(mirror: &'m Mirror<'a>) -> Walk<'m, 'a> {
        Walk { mirror, objects: HashMap::new() }
    }

    /// What each path leads to, and its path without links.
    fn follow<'p>(
        &mut self,
        asked: impl Iterator<Item = (&'p CommitSha, &'p str)>,
    ) -> Result<Vec<(String, Found)>, GitError> {
        let mut paths: Vec<(Path, Option<Found>)> =
            asked.map(|(commit, path)| (Path::new(commit, path), None)).collect();
        loop {
            let mut needed = BTreeSet::new();
            for (path, found) in paths.iter_mut().filter(|(_, found)| found.is_none()) {
                match path.advance(&self.objects) {
                    Advance::Needs(object) => drop(needed.insert(object)),
                    Advance::Ended(there) => *found = Some(there),
                }
            }
            if needed.is_empty() {
                let ended = |(path, found): (Path, Option<Found>)| {
                    (path.without_links(), found.unwrap_or(Found::Missing))
                };
                return Ok(paths.into_iter().map(ended).collect());
            }
            let needed: Vec<String> = needed.into_iter().collect();
            let read = self.mirror.cat(&needed)?;
            for (name, object) in needed.into_iter().zip(read) {
                let loaded = match object {
                    None => Loaded::Absent,
                    Some((_, Kind::Blob, content)) => Loaded::Link(content),
                    Some((id, Kind::Tree, content)) => {
                        let entries = parse_tree(&content)
                            .ok_or_else(|| GitError::Unexpected(format!("the tree {id}")))?;
                        Loaded::Tree { id, entries }
                    }
                };
                self.objects.insert(name, loaded);
            }
        }
    }

    /// The attributes files in the folders above this one, outermost first. Its path has been followed.
    fn attributes_above(&self, commit: &CommitSha, folder: &str) -> Vec<AttributesFile> {
        let mut files = Vec::new();
        let (mut tree, mut above) = (root_of(commit), String::new());
        for part in folder.split('/').filter(|part| *part != ".") {
            let Some(Loaded::Tree { entries, .. }) = self.objects.get(&tree) else { break };
            let file = entries.get(ATTRIBUTES.as_bytes());
            if let Some(file) = file.filter(|file| file.format() != Entry::TREE) {
                files.push(AttributesFile {
                    path: format!("{above}{ATTRIBUTES}"),
                    mode: format!("{:06o}", file.mode),
                    blob: file.id.clone(),
                });
            }
            let Some(next) = entries.get(part.as_bytes()) else { break };
            tree.clone_from(&next.id);
            above = format!("{above}{part}/");
        }
        files
    }
}

const ATTRIBUTES: &str = ".gitattributes";

/// The name of a commit's root tree.
fn root_of(commit: &CommitSha) -> String {
    format!("{commit}^{{tree}}")
}

impl Path {
    fn new(commit: &CommitSha, path: &str) -> Path {
        let root = Entry { mode: Entry::TREE, id: root_of(commit) };
        Path {
            ahead: path.rsplit('/').map(str::to_owned).collect(),
            own: usize::MAX,
            behind: vec![(String::new(), root)],
            links: 0,
        }
    }

    fn without_links(&self) -> String {
        let parts: Vec<&str> = self.behind.iter().skip(1).map(|(name, _)| name.as_str()).collect();
        if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
    }

    /// The result for a missing component.
    fn nothing(&self) -> Advance {
        Advance::Ended(if self.ahead.len() <= self.own { Found::Missing } else { Found::Dangling })
    }

    /// Proceeds as far as the loaded objects allow.
    fn advance(&mut self, objects: &HashMap<String, Loaded>) -> Advance {
        loop {
            let Some((_, here)) = self.behind.last() else { return self.nothing() };
            let entries = match here.format() {
                Entry::SUBMODULE => return Advance::Ended(Found::Submodule),
                Entry::TREE => match objects.get(&here.id) {
                    Some(Loaded::Tree { id, entries }) => Some((id, entries)),
                    Some(Loaded::Link(_) | Loaded::Absent) => return self.nothing(),
                    // The last folder of a path need not be loaded, except for the root: its parent has its id.
                    None if !self.ahead.is_empty() || self.behind.len() == 1 => {
                        return Advance::Needs(here.id.clone());
                    }
                    None => None,
                },
                _ => None,
            };
            let Some(part) = self.ahead.last() else {
                return Advance::Ended(match here.format() {
                    Entry::TREE => {
                        let id = entries.map_or(&here.id, |(id, _)| id).clone();
                        Found::Tree(Object { id, content: Vec::new() })
                    }
                    _ => Found::Blob(Object { id: here.id.clone(), content: Vec::new() }),
                });
            };
            let Some((_, entries)) = entries else { return self.nothing() };
            match part.as_str() {
                "" | "." => {}
                ".." if self.behind.len() > 1 => {
                    self.behind.pop();
                }
                ".." => return Advance::Ended(Found::Outside(self.rest())),
                name => {
                    let Some(entry) = entries.get(name.as_bytes()) else { return self.nothing() };
                    let (mode, id) = (entry.mode, entry.id.clone());
                    if entry.format() == Entry::LINK {
                        let target = match objects.get(&id) {
                            None => return Advance::Needs(id),
                            Some(Loaded::Link(target)) => std::str::from_utf8(target).ok(),
                            Some(Loaded::Tree { .. } | Loaded::Absent) => None,
                        };
                        self.links += 1;
                        let fits = |target: &&str| self.links <= MOST_LINKS && target.len() <= LONGEST_LINK;
                        let Some(target) = target.filter(fits) else {
                            return Advance::Ended(Found::Dangling);
                        };
                        if target.starts_with('/') {
                            return Advance::Ended(Found::Outside(target.to_owned()));
                        }
                        self.ahead.pop();
                        self.own = self.own.min(self.ahead.len());
                        self.ahead.extend(target.rsplit('/').map(str::to_owned));
                        continue;
                    }
                    self.behind.push((name.to_owned(), Entry { mode, id }));
                }
            }
            self.ahead.pop();
        }
    }

    /// The remaining path, for messages.
    fn rest(&self) -> String {
        self.ahead.iter().rev().map(String::as_str).collect::<Vec<_>>().join("/")
    }
}

/// Parses the output of `git cat-file --batch` (git-cat-file(1), BATCH OUTPUT).
fn parse(mut output: &[u8]) -> Option<Vec<Raw>> {
    let mut objects = Vec::new();
    while !output.is_empty() {
        let end = output.iter().position(|b| *b == b'\n')?;
        let line = std::str::from_utf8(&output[..end]).ok()?;
        output = &output[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        objects.push(match words.as_slice() {
            [id, kind, size] => {
                let kind = match *kind {
                    "blob" => Kind::Blob,
                    "tree" => Kind::Tree,
                    _ => return None,
                };
                let size: usize = size.parse().ok()?;
                let content = output.get(..size)?.to_vec();
                output = output.get(size + 1..)?;
                Some(((*id).to_owned(), kind, content))
            }
            [_, "missing" | "ambiguous"] => None,
            _ => return None,
        });
    }
    Some(objects)
}

/// The entries of a tree object: `mode SP name NUL id`, the id as 20 bytes.
fn parse_tree(mut content: &[u8]) -> Option<HashMap<Vec<u8>, Entry>> {
    let mut entries = HashMap::new();
    while !content.is_empty() {
        let space = content.iter().position(|b| *b == b' ')?;
        let mode = u32::from_str_radix(std::str::from_utf8(&content[..space]).ok()?, 8).ok()?;
        let nul = space + content[space..].iter().position(|b| *b == 0)?;
        let id = content.get(nul + 1..nul + 21)?;
        entries.insert(content[space + 1..nul].to_vec(), Entry { mode, id: hex::encode(id) });
        content = &content[nul + 21..];
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_cat_file_is_parsed() {
        let id = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
        let output = format!("{id} blob 3\na\nb\n{id} tree 2\nxx\n{id} missing\n");
        let object = |kind, content: &[u8]| Some((id.to_owned(), kind, content.to_vec()));
        let expected = [object(Kind::Blob, b"a\nb"), object(Kind::Tree, b"xx"), None];
        assert_eq!(parse(output.as_bytes()).unwrap(), expected);
        for bad in [&b"deadbeef blob 99\nshort"[..], b"deadbeef commit 0\n\n", b"no line"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn a_truncated_tree_is_rejected() {
        let tree = [&b"100644 a b\0"[..], &[1; 20], b"40000 c\0", &[2; 20]].concat();
        let entries = parse_tree(&tree).unwrap();
        assert_eq!(entries[&b"a b"[..]].format(), 0o100_000);
        assert_eq!(entries[&b"c"[..]].id, "02".repeat(20));
        for end in [1, 8, 15, tree.len() - 1] {
            assert!(parse_tree(&tree[..end]).is_none(), "{end}");
        }
    }
}
