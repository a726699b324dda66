//! The documents that the steps exchange (schema 1; docs/schemas/).
//!
//! Parsing is strict about values (the newtypes of [`crate::model`]) and ignores unknown keys, so that documents of a
//! later swanci with the same schema remain readable.

use serde::{Deserialize, Serialize};

use crate::model::{Change, CommitSha, Digest, ImageRepository, RegistryAddress, Tag};

/// The schema number of every document.
pub const SCHEMA: u32 = 1;

/// The decision of `evaluate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DecisionWord {
    /// A merge to build.
    Build,
    /// Nothing to build.
    Skip,
}

/// The document of `evaluate`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecisionDocument {
    /// Always 1.
    pub schema: u32,
    /// Build or skip.
    pub decision: DecisionWord,
    /// The reason, as a sentence.
    pub reason: String,
    /// The change; present for skipped pull requests too.
    pub change: Option<ReportedChange>,
    /// SHA-256 of the unchanged payload, hex.
    pub payload_sha256: String,
    /// With `--explain`: every applied rule, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleOutcome>>,
}

/// A payload's description of a change. The commit is `null` while nothing has landed, and if the forge does not report
/// it: the build finds it.
pub type ReportedChange = Change<Option<CommitSha>>;

/// One rule of a decision and its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleOutcome {
    /// The rule's name.
    pub rule: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// The values that it checked.
    pub detail: String,
}

/// The verdict of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The next rule decides.
    Pass,
    /// Nothing to build; no further rule applies.
    Skip,
}

/// The status of one image of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageStatus {
    /// Built; the engine has it.
    Built,
    /// The registry has an image with the same inputs.
    Unchanged,
    /// Not a Docker image; see the reason.
    Skipped,
    /// The build failed; see the error.
    Failed,
    /// `--dry-run`: to be built.
    #[default]
    Planned,
}

impl ImageStatus {
    /// The name, in documents and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            ImageStatus::Built => "built",
            ImageStatus::Unchanged => "unchanged",
            ImageStatus::Skipped => "skipped",
            ImageStatus::Failed => "failed",
            ImageStatus::Planned => "planned",
        }
    }
}

/// One image of a built document or a receipt. `status` determines which optional fields are present.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Image {
    /// `service_name` of images.json.
    pub name: String,
    /// The outcome.
    pub status: ImageStatus,
    /// Its full name without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<ImageRepository>,
    /// `sha-<commit>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable_tag: Option<Tag>,
    /// Its moving tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Tag>>,
    /// `built`: the Id in `docker image inspect`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Digest>,
    /// The manifest's digest: for unchanged images, and for every image of a receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The hash of all inputs of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Digest>,
    /// `skipped`: the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `failed`: the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A remark, for example that the registry's image was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Duration of its build in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Receipt: the moves of its moving tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Vec<Move>>,
}

/// The move of one moving tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Move {
    /// The tag.
    pub tag: Tag,
    /// The digest before the move.
    pub from: Option<Digest>,
    /// The digest of this commit's image.
    pub to: Digest,
    /// The outcome.
    pub outcome: MoveOutcome,
    /// A remark, for example that the tag's revision is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The outcome of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MoveOutcome {
    /// It now points to this commit's image.
    Moved,
    /// It already pointed to this commit's image.
    Already,
    /// It stays on the image of a newer commit.
    Superseded,
    /// It was moved and then restored, because another move failed.
    Restored,
    /// It was created, then another move failed; swanci does not delete tags.
    Left,
}

impl MoveOutcome {
    /// Whether the tag points to this commit's image.
    pub fn is_in_place(self) -> bool {
        match self {
            MoveOutcome::Moved | MoveOutcome::Already | MoveOutcome::Left => true,
            MoveOutcome::Superseded | MoveOutcome::Restored => false,
        }
    }
}

/// Duration of each step in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Seconds {
    /// Fetching and checking out.
    #[serde(default)]
    pub checkout: f64,
    /// Building all images.
    #[serde(default)]
    pub build: f64,
    /// Pushing and promoting; only on a receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<f64>,
}

/// The document of `build`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BuiltDocument {
    /// Always 1.
    pub schema: u32,
    /// What was built.
    pub change: Change,
    /// The target registry; `null` when only local names were built.
    pub registry: Option<RegistryAddress>,
    /// The images, in the order of images.json.
    pub images: Vec<Image>,
    /// SHA-256 of the payload; `null` for a build by hand.
    pub payload_sha256: Option<String>,
    /// When the build began: RFC 3339, UTC.
    pub started: String,
    /// Seconds for each step.
    pub seconds: Seconds,
}

/// Whether everything on a receipt was pushed and tagged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PushOutcome {
    /// Every image is pushed and every tag is correct.
    Succeeded,
    /// Something failed; no moving tag points to a partial merge.
    Failed,
}

/// The document of `push`: the built document and the registry's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Receipt {
    /// Always 1.
    pub schema: u32,
    /// The outcome.
    pub outcome: PushOutcome,
    /// The cause of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was pushed.
    pub change: Change,
    /// The registry.
    pub registry: Option<RegistryAddress>,
    /// The images, with digests and moves.
    pub images: Vec<Image>,
    /// SHA-256 of the payload; `null` for a build by hand.
    pub payload_sha256: Option<String>,
    /// When the build began: RFC 3339, UTC.
    pub started: String,
    /// When the push ended: RFC 3339, UTC.
    pub finished: String,
    /// Seconds for each step.
    pub seconds: Seconds,
}
