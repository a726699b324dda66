//! The documents that the steps hand to each other, as CONTRACT.md pins them (schema 1).
//!
//! Reading is strict about values (the newtypes of [`crate::model`]) and lenient about keys that are not known, so
//! that a document of a later swanci with the same schema is still read.

use serde::{Deserialize, Serialize};

use crate::model::{Change, CommitSha, Digest, ImageRepository, RegistryAddress, Tag};

/// The schema number of every document.
pub const SCHEMA: u32 = 1;

/// What `evaluate` decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DecisionWord {
    /// There is a merge to build.
    Build,
    /// There is nothing to build.
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
    /// Why, as a sentence.
    pub reason: String,
    /// What landed; also there when a pull request is skipped.
    pub change: Option<ReportedChange>,
    /// SHA-256 of the payload's bytes as they came, hex.
    pub payload_sha256: String,
    /// With `--explain`: every rule that was asked, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Vec<RuleOutcome>>,
}

/// What a payload says about a change. The commit is `null` while nothing has landed, and where the forge does not say
/// which commit did: the build finds it.
pub type ReportedChange = Change<Option<CommitSha>>;

/// One rule of a decision and what it said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RuleOutcome {
    /// The rule's name.
    pub rule: String,
    /// What it said.
    pub verdict: Verdict,
    /// What it looked at.
    pub detail: String,
}

/// What a rule said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Go on to the next rule.
    Pass,
    /// Nothing to build; no further rule is asked.
    Skip,
}

/// What became of one image of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ImageStatus {
    /// Built; it stands in the engine.
    Built,
    /// Its inputs are those of an image that the registry holds.
    Unchanged,
    /// Not a Docker image; the reason says so.
    Skipped,
    /// The build failed; the error says why.
    Failed,
    /// `--dry-run`: it would be built.
    Planned,
}

impl ImageStatus {
    /// The word for it, in documents and for people.
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

/// One image of a built document or a receipt. Which of the optional fields are there depends on `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Image {
    /// `service_name` of images.json.
    pub name: String,
    /// What became of it.
    pub status: ImageStatus,
    /// Its full name without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<ImageRepository>,
    /// `sha-<commit>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immutable_tag: Option<Tag>,
    /// The moving tags that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<Tag>>,
    /// `built`: what `docker image inspect` calls its Id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Digest>,
    /// The manifest's digest: of an unchanged image, and of every image of a receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The hash of everything that the image is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Digest>,
    /// `skipped`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `failed`: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What a reader should know, as that the registry's image was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Seconds that its build took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Receipt: what happened to each moving tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Vec<Move>>,
}

impl Image {
    /// An image of which nothing else is known yet.
    pub fn new(name: String, status: ImageStatus) -> Image {
        Image {
            name,
            status,
            repository: None,
            immutable_tag: None,
            tags: None,
            image_id: None,
            digest: None,
            inputs: None,
            reason: None,
            error: None,
            note: None,
            seconds: None,
            moved: None,
        }
    }
}

/// What happened to one moving tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Move {
    /// The tag.
    pub tag: Tag,
    /// The digest that it had before.
    pub from: Option<Digest>,
    /// The digest that this commit has for it.
    pub to: Digest,
    /// What became of it.
    pub outcome: MoveOutcome,
    /// What a reader should know, as that the tag's revision was not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What became of a moving tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MoveOutcome {
    /// It names this commit's image now.
    Moved,
    /// It named it before.
    Already,
    /// It stays on the image of a newer commit.
    Superseded,
    /// It was moved and put back, because another move failed.
    Restored,
    /// It did not exist before, another move failed, and nothing is ever deleted.
    Left,
}

impl MoveOutcome {
    /// Whether the tag names this commit's image.
    pub fn stands(self) -> bool {
        match self {
            MoveOutcome::Moved | MoveOutcome::Already | MoveOutcome::Left => true,
            MoveOutcome::Superseded | MoveOutcome::Restored => false,
        }
    }
}

/// Seconds that each step took.
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
    /// Where its images are to go; `null` when only local names were built.
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

/// Whether everything on a receipt got where it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PushOutcome {
    /// Every image is there and every tag is where it belongs.
    Succeeded,
    /// Something failed; no moving tag points at half a merge.
    Failed,
}

/// The document of `push`: the built document plus what the registry holds now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Receipt {
    /// Always 1.
    pub schema: u32,
    /// How it ended.
    pub outcome: PushOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What was pushed.
    pub change: Change,
    /// The registry.
    pub registry: Option<RegistryAddress>,
    /// The images, with digest and moves.
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
