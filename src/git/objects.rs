//! Reads a commit's content from the mirror's objects, without a working copy.
//!
//! Trees are walked by object id. Repository text is never part of a revision expression (gitrevisions(7) reads
//! `COMMIT:api-g1234567` as the commit `1234567`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::mirror::Mirror;
use super::{GitError, GitErrorKind};
use crate::escape::shortened;
use crate::model::CommitSha;

/// What a path in a commit leads to, after symbolic links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A file; the id of its blob, hex.
    Blob(String),
    /// A folder; the id of its tree, hex.
    Tree(String),
    /// A submodule, or something in one.
    Submodule,
    Missing,
    /// A link to this target outside the repository.
    Outside(String),
    /// A broken or circular link.
    Dangling,
}

impl Found {
    /// Continues a sentence about the path.
    fn about(&self) -> String {
        match self {
            Found::Blob(_) => "is a file".to_owned(),
            Found::Tree(_) => "is a folder".to_owned(),
            Found::Submodule => "is a submodule; name a folder of the repository itself".to_owned(),
            Found::Missing => "does not exist in the commit".to_owned(),
            Found::Outside(to) => {
                format!("is a link that leads out of the repository, to `{}`", shortened(to, 80))
            }
            Found::Dangling => "is a link that leads nowhere".to_owned(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its git object id, hex.
    pub id: String,
    pub content: Vec<u8>,
}

/// The inputs of an image in a commit. Symbolic links are resolved within the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextFiles {
    /// The path of the context, without links; `.` for the root.
    pub path: String,
    /// Its git tree.
    pub tree: String,
    /// The Dockerfile. Its content is the unchanged blob: git attributes do not apply to it.
    pub dockerfile: Blob,
    /// The ignore file that docker uses: `NAME.dockerignore` beside the Dockerfile, else `.dockerignore`.
    pub ignore_file: Option<Blob>,
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

/// Limit on the links in one path, the same as in Linux (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Limit on the bytes of a link, the same as in Linux (PATH_MAX).
const LONGEST_LINK: usize = 4096;
/// Limit on the commits whose root trees are in memory together.
const COMMITS_AT_ONCE: usize = 64;

const ATTRIBUTES: &str = ".gitattributes";
pub(super) const SUBMODULES: &str = ".gitmodules";

impl Mirror<'_> {
    /// What each context (the first path) and its Dockerfile (the second) lead to, for all images in one walk. The inner
    /// error says which path cannot be used.
    pub fn context_files(
        &self,
        commit: &CommitSha,
        images: &[(&str, &str)],
        submodules: bool,
    ) -> Result<Vec<Result<ContextFiles, String>>, GitError> {
        let paths = images.iter().flat_map(|(context, dockerfile)| {
            let ignore_files = [format!("{dockerfile}.dockerignore"), format!("{context}/.dockerignore")];
            [(*context).to_owned(), (*dockerfile).to_owned()].into_iter().chain(ignore_files)
        });
        let paths: Vec<String> = paths.chain([SUBMODULES.to_owned()]).collect();
        let mut walk = Walk { mirror: self, objects: HashMap::new() };
        let found = walk.follow(paths.iter().map(|path| (commit, path.as_str())))?;
        let urls = match found.last() {
            Some((_, Found::Blob(id))) if submodules => self.stated_urls(id)?,
            _ => BTreeMap::new(),
        };
        let (paths, found) = (paths.as_chunks::<4>().0, found.as_chunks::<4>().0);
        let mut files: Vec<_> =
            paths.iter().zip(found).map(|(paths, found)| sort_out(paths, found)).collect();
        for one in files.iter_mut().flatten() {
            one.attributes = walk.attributes_above(commit, &one.path);
            one.submodules = submodules.then(|| within(&urls, &one.path));
        }
        let mut blobs: Vec<&mut Blob> = files
            .iter_mut()
            .flatten()
            .flat_map(|one| std::iter::once(&mut one.dockerfile).chain(&mut one.ignore_file))
            .collect();
        let ids: Vec<String> = blobs.iter().map(|blob| blob.id.clone()).collect();
        for (blob, content) in blobs.iter_mut().zip(self.read_blobs(&ids)?) {
            blob.content = content;
        }
        Ok(files)
    }

    /// What one path leads to in each of these commits.
    pub fn look_across(&self, commits: &[CommitSha], path: &str) -> Result<Vec<Found>, GitError> {
        let mut all = Vec::with_capacity(commits.len());
        for commits in commits.chunks(COMMITS_AT_ONCE) {
            let mut walk = Walk { mirror: self, objects: HashMap::new() };
            let found = walk.follow(commits.iter().map(|commit| (commit, path)))?;
            all.extend(found.into_iter().map(|(_, found)| found));
        }
        Ok(all)
    }

    pub fn look(&self, commit: &CommitSha, path: &str) -> Result<Found, GitError> {
        let found = self.look_across(std::slice::from_ref(commit), path)?.pop();
        Ok(found.unwrap_or(Found::Missing))
    }

    pub fn read_blobs(&self, ids: &[String]) -> Result<Vec<Vec<u8>>, GitError> {
        let objects = self.cat(ids)?.into_iter().zip(ids);
        let content = |(object, id): (Option<GitObject>, &String)| match object {
            Some(GitObject { is_tree: false, content, .. }) => Ok(content),
            Some(_) | None => Err(GitError::unexpected(format!("cat-file: {id} is not a blob"))),
        };
        objects.map(content).collect()
    }

    /// Reads objects by id or `ID^{tree}`, with as few calls as the limit on git's output allows.
    fn cat(&self, names: &[String]) -> Result<Vec<Option<GitObject>>, GitError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let tool = self.local().args(["cat-file", "--batch"]).stdin(names.join("\n") + "\n");
        let output = match self.run(tool) {
            Ok(done) => done.stdout,
            Err(error) if error.kind == GitErrorKind::TooMuchOutput && names.len() > 1 => {
                let (some, others) = names.split_at(names.len() / 2);
                let mut objects = self.cat(some)?;
                objects.extend(self.cat(others)?);
                return Ok(objects);
            }
            Err(error) => return Err(error),
        };
        let objects = parse(&output).filter(|objects| objects.len() == names.len());
        objects.ok_or_else(|| GitError::unexpected("cat-file --batch"))
    }
}

/// One image's files from its context, Dockerfile, and two possible ignore files, without their content.
fn sort_out(paths: &[String; 4], found: &[(String, Found); 4]) -> Result<ContextFiles, String> {
    let wrong = |what: &str, at: usize| Err(format!("the {what} `{}` {}", paths[at], found[at].1.about()));
    let blob = |id: &String| Blob { id: id.clone(), content: Vec::new() };
    let [(path, context), (_, dockerfile), (_, named), (_, plain)] = found;
    let Found::Tree(tree) = context else { return wrong("folder", 0) };
    let Found::Blob(dockerfile) = dockerfile else { return wrong("Dockerfile", 1) };
    let ignore_file = match (named, plain) {
        (Found::Blob(id), _) | (Found::Missing, Found::Blob(id)) => Some(blob(id)),
        (Found::Missing, Found::Missing) => None,
        (Found::Missing, _) => return wrong("ignore file", 3),
        (_, _) => return wrong("ignore file", 2),
    };
    Ok(ContextFiles {
        path: path.clone(),
        tree: tree.clone(),
        dockerfile: blob(dockerfile),
        ignore_file,
        attributes: Vec::new(),
        submodules: None,
    })
}

fn within(all: &BTreeMap<String, String>, folder: &str) -> BTreeMap<String, String> {
    let inside =
        |path: &str| folder == "." || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
    all.iter().filter(|(path, _)| inside(path)).map(|(path, url)| (path.clone(), url.clone())).collect()
}

/// A tree or blob.
#[derive(Debug, PartialEq, Eq)]
struct GitObject {
    id: String,
    is_tree: bool,
    content: Vec<u8>,
}

const FORMAT: u32 = 0o170_000;
const TREE: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

/// Follows paths through the trees of commits. Each round of reads is one process for all paths.
struct Walk<'m, 'a> {
    mirror: &'m Mirror<'a>,
    /// By name: an id, or a commit's root. `None` is an object that does not exist.
    objects: HashMap<String, Option<GitObject>>,
}

impl Walk<'_, '_> {
    /// Each path without links, and what it leads to.
    fn follow<'p>(
        &mut self,
        asked: impl Iterator<Item = (&'p CommitSha, &'p str)> + Clone,
    ) -> Result<Vec<(String, Found)>, GitError> {
        loop {
            let (mut found, mut needed) = (Vec::new(), BTreeSet::new());
            for (commit, path) in asked.clone() {
                match self.resolve(commit, path) {
                    Ok(end) => found.push(end),
                    Err(name) => drop(needed.insert(name)),
                }
            }
            self.mirror.cancel().check()?;
            if needed.is_empty() {
                return Ok(found);
            }
            let needed: Vec<String> = needed.into_iter().collect();
            let read = self.mirror.cat(&needed)?;
            self.objects.extend(needed.into_iter().zip(read));
        }
    }

    /// The error is the name of an object that has to be read first.
    fn resolve(&self, commit: &CommitSha, path: &str) -> Result<(String, Found), String> {
        // The remaining components, in reverse order; the first `own` are of the path itself, the others of links.
        let mut ahead: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let (mut own, mut links) = (ahead.len(), 0);
        // The names, modes and ids passed so far, without links, below the root.
        let mut behind: Vec<(String, u32, String)> = Vec::new();
        let found = loop {
            let absent = || if ahead.len() <= own { Found::Missing } else { Found::Dangling };
            // Long links through huge trees take minutes. `follow` then fails.
            if self.mirror.cancel().check().is_err() {
                break absent();
            }
            let (format, id) = match behind.last() {
                Some((_, mode, id)) => (mode & FORMAT, id.clone()),
                None => (TREE, root_of(commit)),
            };
            let tree = match format {
                SUBMODULE => break Found::Submodule,
                // The last folder of a path need not be read, except for the root: its parent has its id.
                TREE if !ahead.is_empty() || behind.is_empty() => match self.object(id.clone())? {
                    Some(tree) if tree.is_tree => Some(tree),
                    Some(_) | None => break absent(),
                },
                _ => None,
            };
            let Some(part) = ahead.last() else {
                break match format {
                    TREE => Found::Tree(tree.map_or(id, |tree| tree.id.clone())),
                    _ => Found::Blob(id),
                };
            };
            let Some(tree) = tree else { break absent() };
            match part.as_str() {
                "" | "." => drop(ahead.pop()),
                ".." if behind.is_empty() => {
                    ahead.reverse();
                    break Found::Outside(ahead.join("/"));
                }
                ".." => {
                    behind.pop();
                    ahead.pop();
                }
                name => {
                    let Some((mode, id)) = entry(&tree.content, name) else { break absent() };
                    if mode & FORMAT != LINK {
                        behind.push((name.to_owned(), mode, id));
                        ahead.pop();
                        continue;
                    }
                    links += 1;
                    let link =
                        self.object(id)?.filter(|link| !link.is_tree && link.content.len() <= LONGEST_LINK);
                    let target = link.and_then(|link| std::str::from_utf8(&link.content).ok());
                    match target.filter(|_| links <= MOST_LINKS) {
                        None => break Found::Dangling,
                        Some(target) if target.starts_with('/') => break Found::Outside(target.to_owned()),
                        Some(target) => {
                            ahead.pop();
                            own = own.min(ahead.len());
                            ahead.extend(target.rsplit('/').map(str::to_owned));
                        }
                    }
                }
            }
        };
        let parts: Vec<&str> = behind.iter().map(|(name, _, _)| name.as_str()).collect();
        Ok((if parts.is_empty() { ".".to_owned() } else { parts.join("/") }, found))
    }

    fn object(&self, name: String) -> Result<Option<&GitObject>, String> {
        self.objects.get(&name).map(Option::as_ref).ok_or(name)
    }

    /// The attributes files in the folders above this one, outermost first. Its path has been followed.
    fn attributes_above(&self, commit: &CommitSha, folder: &str) -> Vec<AttributesFile> {
        let mut files = Vec::new();
        let (mut tree, mut above) = (root_of(commit), String::new());
        for part in folder.split('/').filter(|part| *part != ".") {
            let Some(Some(GitObject { content, .. })) = self.objects.get(&tree) else { break };
            if let Some((mode, blob)) = entry(content, ATTRIBUTES).filter(|(mode, _)| mode & FORMAT != TREE) {
                let path = format!("{above}{ATTRIBUTES}");
                files.push(AttributesFile { path, mode: format!("{mode:06o}"), blob });
            }
            let Some((_, next)) = entry(content, part) else { break };
            tree = next;
            above = format!("{above}{part}/");
        }
        files
    }
}

fn root_of(commit: &CommitSha) -> String {
    format!("{commit}^{{tree}}")
}

/// Parses the output of `git cat-file --batch` (git-cat-file(1), BATCH OUTPUT).
fn parse(mut output: &[u8]) -> Option<Vec<Option<GitObject>>> {
    let mut objects = Vec::new();
    while !output.is_empty() {
        let end = output.iter().position(|b| *b == b'\n')?;
        let line = std::str::from_utf8(&output[..end]).ok()?;
        output = &output[end + 1..];
        let words: Vec<&str> = line.split(' ').collect();
        objects.push(match words.as_slice() {
            [id, kind @ ("blob" | "tree"), size] => {
                let size: usize = size.parse().ok()?;
                let content = output.get(..size)?.to_vec();
                output = output.get(size + 1..)?;
                Some(GitObject { id: (*id).to_owned(), is_tree: *kind == "tree", content })
            }
            [_, "missing" | "ambiguous"] => None,
            _ => return None,
        });
    }
    Some(objects)
}

/// Mode and id of a name in a tree object, whose entries are `mode SP name NUL id`, the id as 20 bytes.
fn entry(mut tree: &[u8], name: &str) -> Option<(u32, String)> {
    loop {
        let space = tree.iter().position(|b| *b == b' ')?;
        let nul = space + tree[space..].iter().position(|b| *b == 0)?;
        let id = tree.get(nul + 1..nul + 21)?;
        if &tree[space + 1..nul] == name.as_bytes() {
            let mode = u32::from_str_radix(std::str::from_utf8(&tree[..space]).ok()?, 8).ok()?;
            return Some((mode, hex::encode(id)));
        }
        tree = &tree[nul + 21..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_cat_file_is_parsed() {
        let id = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
        let output = format!("{id} blob 3\na\nb\n{id} tree 2\nxx\n{id} missing\n");
        let object = |is_tree, content: &[u8]| {
            Some(GitObject { id: id.to_owned(), is_tree, content: content.to_vec() })
        };
        assert_eq!(parse(output.as_bytes()).unwrap(), [object(false, b"a\nb"), object(true, b"xx"), None]);
        for bad in [&b"deadbeef blob 99\nshort"[..], b"deadbeef commit 0\n\n", b"no line"] {
            assert_eq!(parse(bad), None);
        }
    }

    #[test]
    fn an_entry_of_a_tree_is_found_unless_the_tree_is_cut_before_its_end() {
        let tree = [&b"100644 a b\0"[..], &[1; 20], b"40000 c\0", &[2; 20]].concat();
        assert_eq!(entry(&tree, "a b").unwrap().0, 0o100_644);
        assert_eq!(entry(&tree, "c").unwrap(), (TREE, "02".repeat(20)));
        assert_eq!(entry(&tree, "b"), None);
        for end in [1, 8, 15, tree.len() - 1] {
            assert_eq!(entry(&tree[..end], "c"), None, "{end}");
        }
    }
}
