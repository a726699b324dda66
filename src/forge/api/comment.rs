//! One comment on a pull request, created once and then updated.

use serde_json::{Value, json};

use super::{Api, ApiError, Family, Problem};

/// The invisible start of swanci's comments.
const MARK: &str = "<!-- swanci -->";
/// The same for forges that escape HTML: an unused link definition.
const BITBUCKET_MARK: &str = "[//]: # (swanci)";

struct Comment {
    id: u64,
    text: String,
    author: Option<String>,
    /// Data Center's edit counter, which an update must contain.
    version: Option<u64>,
}

impl Api {
    /// Creates or replaces swanci's comment on a pull request.
    pub(crate) fn comment(&self, number: u64, text: &str) -> Result<(), ApiError> {
        let at = format!("commenting on pull request {number} of {}", self.repository);
        let mark = match self.family() {
            Family::Github | Family::Gitlab => MARK,
            Family::Bitbucket | Family::BitbucketServer => BITBUCKET_MARK,
        };
        let text = format!("{mark}\n\n{text}");
        let (list, body) = match self.family() {
            Family::Github => (format!("issues/{number}/comments"), json!({"body": text})),
            Family::Gitlab => (format!("merge_requests/{number}/notes"), json!({"body": text})),
            Family::Bitbucket => {
                (format!("pullrequests/{number}/comments"), json!({"content": {"raw": text}}))
            }
            Family::BitbucketServer => (format!("pull-requests/{number}/comments"), json!({"text": text})),
        };
        if let Some(own) = self.own_comment(number, &list, mark, &at)? {
            let (method, path) = match self.family() {
                Family::Github => ("PATCH", format!("issues/comments/{}", own.id)),
                Family::Gitlab | Family::Bitbucket | Family::BitbucketServer => {
                    ("PUT", format!("{list}/{}", own.id))
                }
            };
            let mut edited = body.clone();
            if let Some(version) = own.version {
                edited["version"] = version.into();
            }
            match self.send(method, &path, Some(&edited), &at) {
                // Another user wrote it, or it was removed meanwhile.
                Err(error) if matches!(error.problem, Problem::Forbidden | Problem::NotFound) => {}
                sent => return sent.map(drop),
            }
        }
        self.send("POST", &list, Some(&body), &at).map(drop)
    }

    /// The newest comment that starts with the mark. Other users can write the mark too: if the forge reports the
    /// authors, only swanci's own comments count.
    fn own_comment(
        &self,
        number: u64,
        list: &str,
        mark: &str,
        at: &str,
    ) -> Result<Option<Comment>, ApiError> {
        let path = match self.family() {
            Family::Github | Family::Gitlab | Family::Bitbucket => list.to_owned(),
            // Data Center lists comments only among the other activities.
            Family::BitbucketServer => format!("pull-requests/{number}/activities"),
        };
        let mut marked: Vec<Comment> = Vec::new();
        self.pages(&format!("{path}{}", self.long_pages()), at, &mut |items| {
            let comments = items.iter().filter_map(|item| self.read_comment(item));
            marked.extend(comments.filter(|comment| comment.text.starts_with(mark)));
            Ok(true)
        })?;
        if marked.is_empty() {
            return Ok(None);
        }
        if let Some(me) = self.own_name() {
            marked.retain(|comment| comment.author.as_ref().is_none_or(|author| *author == me));
        }
        Ok(marked.into_iter().max_by_key(|comment| comment.id))
    }

    fn read_comment(&self, item: &Value) -> Option<Comment> {
        let (item, text, author) = match self.family() {
            Family::Github => (item, &item["body"], &item["user"]),
            Family::Gitlab => (item, &item["body"], &item["author"]),
            Family::Bitbucket => (item, &item["content"]["raw"], &item["user"]),
            Family::BitbucketServer => {
                let comment = item.get("comment")?;
                (comment, &comment["text"], &comment["author"])
            }
        };
        Some(Comment {
            id: item["id"].as_u64()?,
            text: text.as_str()?.to_owned(),
            author: name_of(author),
            version: item["version"].as_u64(),
        })
    }

    /// The owner of the token, if known. Tokens of apps and of repositories may not query it. Data Center has no such
    /// query, and does not let users edit the comments of others.
    fn own_name(&self) -> Option<String> {
        if self.family() == Family::BitbucketServer {
            return None;
        }
        let at = "asking whose token it is";
        let me: Value = self.parsed(&self.get(&self.anywhere("user").ok()?, at).ok()?, at).ok()?;
        name_of(&me)
    }
}

fn name_of(user: &Value) -> Option<String> {
    ["login", "uuid", "username"].iter().find_map(|key| user[key].as_str()).map(str::to_owned)
}
