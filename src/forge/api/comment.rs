//! One comment on a pull request, made once and updated afterwards.

use serde_json::{Value, json};

use super::{Api, ApiError, Family, Problem};

/// Begins a comment of swanci's; readers do not see it.
const MARK: &str = "<!-- swanci -->";
/// The same where HTML is shown as it is: a link definition that nothing refers to.
const BITBUCKET_MARK: &str = "[//]: # (swanci)";

/// A comment as its forge has it.
struct Comment {
    id: u64,
    text: String,
    author: Option<String>,
    /// Data Center counts the edits, and wants to hear the count.
    version: Option<u64>,
}

impl Api {
    /// Writes swanci's comment on a pull request, or replaces the one that is there.
    pub(crate) fn comment(&self, number: u64, text: &str) -> Result<(), ApiError> {
        let at = format!("commenting on pull request {number} of {}", self.repository);
        let mark = match self.family() {
            Family::Github | Family::Gitlab => MARK,
            Family::Bitbucket | Family::BitbucketServer => BITBUCKET_MARK,
        };
        let text = format!("{mark}\n\n{text}");
        // Where they are, where one of them is, and how it is edited.
        let (list, one, edit, body) = match self.family() {
            Family::Github => {
                let list = format!("issues/{number}/comments");
                (list, "issues/comments".to_owned(), "PATCH", json!({"body": text}))
            }
            Family::Gitlab => {
                let notes = format!("merge_requests/{number}/notes");
                (notes.clone(), notes, "PUT", json!({"body": text}))
            }
            Family::Bitbucket => {
                let comments = format!("pullrequests/{number}/comments");
                (comments.clone(), comments, "PUT", json!({"content": {"raw": text}}))
            }
            Family::BitbucketServer => {
                let comments = format!("pull-requests/{number}/comments");
                (comments.clone(), comments, "PUT", json!({"text": text}))
            }
        };
        if let Some(own) = self.own_comment(number, &list, mark, &at)? {
            let mut body = body.clone();
            if let Some(version) = own.version {
                body["version"] = version.into();
            }
            match self.send(edit, &format!("{one}/{}", own.id), Some(&body), &at) {
                // It is somebody else's after all, or was removed meanwhile.
                Err(error) if matches!(error.problem, Problem::Forbidden | Problem::NotFound) => {}
                sent => return sent.map(drop),
            }
        }
        self.send("POST", &list, Some(&body), &at).map(drop)
    }

    /// The newest comment that begins with the mark. Whoever may write can put the mark into a comment: where the forge
    /// says who asks and who wrote, only swanci's own counts.
    fn own_comment(
        &self,
        number: u64,
        list: &str,
        mark: &str,
        at: &str,
    ) -> Result<Option<Comment>, ApiError> {
        let path = match self.family() {
            Family::Github | Family::Gitlab | Family::Bitbucket => list.to_owned(),
            // Its comments are only listed among the other activities.
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

    /// Who the token belongs to. Not every token may ask (those of apps and of repositories), and Data Center has no such
    /// question; there nobody may edit the comments of others.
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
