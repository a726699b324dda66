//! Delivery and policy → [`Decision`], by a list of rules. Pure.
//!
//! [`verdict`] decides from bytes. `serve` calls its two halves ([`crate::forge::parse`], then [`decide`]), because it
//! checks the repository in between.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use sha2::{Digest as _, Sha256};

use crate::documents::{DecisionDocument, DecisionWord, ReportedChange, RuleOutcome, SCHEMA, Verdict};
use crate::error::Failure;
use crate::escape::{escaped, shortened};
use crate::forge::{self, Delivery, Event, Headers};
use crate::model::{BranchName, ForgeName};

/// The user's choice of what to build.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The branches whose merges to build.
    pub branches: BranchGlobs,
}

/// Globs that select branches, compiled once; none selects every branch.
///
/// The same as in GitHub's filters: `*` and `?` stop at a `/` and `**` does not, so `release/*` matches `release/1.x`
/// but not `release/1.x/hotfix`. `[a-z]` and `{a,b}` also work. Case-sensitive.
#[derive(Debug, Clone, Default)]
pub struct BranchGlobs {
    globs: Vec<String>,
    set: GlobSet,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a branch glob: {problem}", escaped(.glob))]
pub struct InvalidGlob {
    pub glob: String,
    pub problem: String,
}

impl BranchGlobs {
    /// Compiles the globs.
    ///
    /// # Errors
    /// [`InvalidGlob`] for the first that is invalid or empty.
    pub fn new<S: AsRef<str>>(globs: &[S]) -> Result<BranchGlobs, InvalidGlob> {
        let mut set = GlobSetBuilder::new();
        let globs: Vec<String> = globs.iter().map(|glob| glob.as_ref().to_owned()).collect();
        for glob in &globs {
            let invalid = |problem: String| InvalidGlob { glob: glob.clone(), problem };
            if glob.is_empty() {
                return Err(invalid("it is empty".to_owned()));
            }
            let compiled = GlobBuilder::new(glob).literal_separator(true).build();
            set.add(compiled.map_err(|e| invalid(escaped(&e.kind().to_string())))?);
        }
        let set = set.build().map_err(|e| InvalidGlob {
            glob: e.glob().unwrap_or_default().to_owned(),
            problem: escaped(&e.kind().to_string()),
        })?;
        Ok(BranchGlobs { globs, set })
    }

    /// Whether the globs match `branch`.
    pub fn choose(&self, branch: &BranchName) -> bool {
        self.globs.is_empty() || self.set.is_match(branch.as_str())
    }

    pub fn choose_all(&self) -> bool {
        self.globs.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The reason as a sentence that is safe to print.
    pub reason: String,
    /// The applied rules in order; the last one decided.
    pub rules: Vec<RuleOutcome>,
    pub outcome: Outcome,
    /// Whether it is a skip because the delivery contradicts itself, so a merge may be lost.
    pub contradictory: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This change landed and matches the policy.
    Build(Box<ReportedChange>),
    /// Nothing to build; describes the pull request, if any.
    Skip(Option<Box<ReportedChange>>),
}

impl Decision {
    /// The pull request of the delivery, built or not.
    pub(crate) fn change(&self) -> Option<&ReportedChange> {
        match &self.outcome {
            Outcome::Build(change) => Some(change),
            Outcome::Skip(change) => change.as_deref(),
        }
    }

    /// Sets the configured forge at `url`.
    #[must_use]
    pub(crate) fn on(mut self, kind: ForgeName, url: &str) -> Decision {
        let change = match &mut self.outcome {
            Outcome::Build(change) => Some(change),
            Outcome::Skip(change) => change.as_mut(),
        };
        if let Some(change) = change {
            change.forge = Some(kind);
            change.forge_url = kind.is_elsewhere(url).then(|| url.to_owned());
        }
        self
    }

    /// The document of `evaluate`; `explain` includes the rules.
    pub fn into_document(self, payload_sha256: String, explain: bool) -> DecisionDocument {
        let (decision, change) = match self.outcome {
            Outcome::Build(change) => (DecisionWord::Build, Some(*change)),
            Outcome::Skip(change) => (DecisionWord::Skip, change.map(|change| *change)),
        };
        DecisionDocument {
            schema: SCHEMA,
            decision,
            reason: self.reason,
            change,
            payload_sha256,
            rules: explain.then_some(self.rules),
        }
    }
}

/// SHA-256 of the unchanged payload, in hex.
pub fn payload_sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

/// Decides from bytes: returns the document of `evaluate`.
///
/// # Errors
/// If the payload cannot be parsed.
pub fn verdict(
    body: &[u8],
    headers: Headers<'_>,
    policy: &Policy,
    explain: bool,
) -> Result<DecisionDocument, Failure> {
    let delivery = forge::parse(body, headers)?;
    Ok(decide(delivery, policy).into_document(payload_sha256(body), explain))
}

/// The forge's terms: the event, its actions for a merge and for a close without one, and the evidence of a merge.
const fn words(forge: ForgeName) -> [&'static str; 4] {
    match forge {
        ForgeName::Github
        | ForgeName::Gitea
        | ForgeName::Forgejo
        | ForgeName::Gogs
        | ForgeName::Gitbucket => ["pull_request", "closed", "closed", "merged is true"],
        ForgeName::Gitlab => ["merge_request", "merge", "close", "state is merged"],
        ForgeName::Bitbucket => ["pullrequest", "fulfilled", "rejected", "state is MERGED"],
        ForgeName::BitbucketServer => ["pr", "merged", "declined", "state is MERGED"],
    }
}

/// Applies the rules, in this order: event, action, state, merged, branch.
pub fn decide(delivery: Delivery, policy: &Policy) -> Decision {
    let mut rules = Rules::default();
    let [event, merge, close, merged_says] = words(delivery.forge);
    let pass = |rules: &mut Rules, action: &str| {
        rules.pass("event", &format!("{event} {action}"));
        rules.pass("action", action);
    };
    match delivery.event {
        Event::Ping => rules.skip("event", "ping", "a ping is not a merge", None),
        Event::Other { name } => {
            let name = name.map_or_else(|| format!("not a {event}"), |name| shortened(&name, 60));
            let reason = format!("the event is {name}: only a merged pull request is built");
            rules.skip("event", &name, &reason, None)
        }
        Event::Touched { action, change } => {
            let (action, why) = match action.map(|action| shortened(&action, 60)) {
                Some(action) => (action.clone(), format!("its action is {action}")),
                None => ("without an action".to_owned(), "it has no action".to_owned()),
            };
            rules.pass("event", &format!("{event} {action}"));
            let reason = format!("{} was not closed by this event: {why}", subject(change.as_deref()));
            rules.skip("action", &action, &reason, change)
        }
        Event::Closed { merged, change } => {
            pass(&mut rules, close);
            let subject = subject(change.as_deref());
            let (detail, reason) = match merged {
                Some(_) => ("merged is false", format!("{subject} was closed without being merged")),
                None => (
                    "merged is absent",
                    format!("{subject} was closed, and the payload does not say that it was merged"),
                ),
            };
            rules.skip("merged", detail, &reason, change)
        }
        Event::Contradiction { state, change } => {
            pass(&mut rules, merge);
            let state = shortened(&state, 60);
            let reason = format!(
                "{} was closed, but its state is {state}: the delivery contradicts itself; if it was merged, \
                 `swanci catchup` finds the merge",
                subject(change.as_deref())
            );
            let detail = format!("state is {state}");
            Decision { contradictory: true, ..rules.skip("state", &detail, &reason, change) }
        }
        Event::Merged(change) => {
            pass(&mut rules, merge);
            rules.pass("merged", merged_says);
            branch(rules, *change, policy)
        }
    }
}

fn branch(mut rules: Rules, change: ReportedChange, policy: &Policy) -> Decision {
    let subject = subject(Some(&change));
    let Some(branch) = &change.branch else {
        // Every forge names the branch of a merge; without it the branch filter cannot decide.
        let reason = format!("{subject} was merged, but the payload does not say into which branch");
        return rules.skip("branch", "no branch", &reason, Some(Box::new(change)));
    };
    let name = escaped(branch.as_str());
    if !policy.branches.choose(branch) {
        let globs = escaped(&policy.branches.globs.join(", "));
        let reason = format!("{subject} was merged into {name}, which is not among the branches to build");
        return rules.skip(
            "branch",
            &format!("{name} matches none of {globs}"),
            &reason,
            Some(Box::new(change)),
        );
    }
    let detail = if policy.branches.choose_all() {
        format!("{name}; every branch is built")
    } else {
        format!("{name} matches")
    };
    rules.pass("branch", &detail);
    Decision {
        reason: format!("{subject} was merged into {name}"),
        rules: rules.0,
        outcome: Outcome::Build(Box::new(change)),
        contradictory: false,
    }
}

/// The subject of a reason.
fn subject(change: Option<&ReportedChange>) -> String {
    match change.and_then(|change| change.pull_request.as_ref()) {
        Some(pull) => format!("pull request #{}", pull.number),
        None => "the pull request".to_owned(),
    }
}

#[derive(Default)]
struct Rules(Vec<RuleOutcome>);

impl Rules {
    fn add(&mut self, rule: &str, verdict: Verdict, detail: &str) {
        self.0.push(RuleOutcome { rule: rule.to_owned(), verdict, detail: detail.to_owned() });
    }

    fn pass(&mut self, rule: &str, detail: &str) {
        self.add(rule, Verdict::Pass, detail);
    }

    fn skip(
        mut self,
        rule: &str,
        detail: &str,
        reason: &str,
        change: Option<Box<ReportedChange>>,
    ) -> Decision {
        self.add(rule, Verdict::Skip, detail);
        Decision {
            reason: reason.to_owned(),
            rules: self.0,
            outcome: Outcome::Skip(change),
            contradictory: false,
        }
    }
}

#[cfg(test)]
mod tests;
