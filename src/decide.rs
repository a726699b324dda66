//! Delivery and branch globs → [`Decision`], by a list of rules. Pure.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use sha2::{Digest as _, Sha256};

use crate::documents::{DecisionDocument, DecisionWord, ReportedChange, RuleOutcome, SCHEMA, Verdict};
use crate::escape::{escaped, shortened};
use crate::forge::{Delivery, Event};
use crate::model::{BranchName, ForgeName};

/// Globs that select branches, compiled once; none selects every branch.
///
/// The same as in GitHub's filters: `*` and `?` stop at a `/` and `**` does not, so `release/*` matches `release/1.x`
/// but not `release/1.x/hotfix`. `[a-z]` and `{a,b}` also work. Case-sensitive.
#[derive(Debug, Clone, Default)]
pub struct BranchGlobs {
    globs: Vec<String>,
    set: GlobSet,
}

impl BranchGlobs {
    /// A sentence about the first glob that is invalid or empty.
    pub fn new<S: AsRef<str>>(globs: &[S]) -> Result<BranchGlobs, String> {
        let invalid =
            |glob: &str, problem: &str| format!("`{}` is not a branch glob: {problem}", escaped(glob));
        let because =
            |e: &globset::Error| invalid(e.glob().unwrap_or_default(), &escaped(&e.kind().to_string()));
        let mut set = GlobSetBuilder::new();
        let globs: Vec<String> = globs.iter().map(|glob| glob.as_ref().to_owned()).collect();
        for glob in &globs {
            if glob.is_empty() {
                return Err(invalid(glob, "it is empty"));
            }
            set.add(GlobBuilder::new(glob).literal_separator(true).build().map_err(|e| because(&e))?);
        }
        let set = set.build().map_err(|e| because(&e))?;
        Ok(BranchGlobs { globs, set })
    }

    pub fn globs(&self) -> &[String] {
        &self.globs
    }

    pub fn choose(&self, branch: &BranchName) -> bool {
        self.globs.is_empty() || self.set.is_match(branch.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub decision: DecisionWord,
    /// The reason as a sentence that is safe to print.
    pub reason: String,
    /// Present for skipped pull requests too.
    pub change: Option<ReportedChange>,
    /// The applied rules in order; the last one decided.
    pub rules: Vec<RuleOutcome>,
    /// Whether it is a skip because the delivery contradicts itself, so a merge may be lost.
    pub contradictory: bool,
}

impl Decision {
    /// Sets the configured forge at `url`.
    #[must_use]
    pub(crate) fn on(mut self, kind: ForgeName, url: &str) -> Decision {
        if let Some(change) = &mut self.change {
            change.forge = Some(kind);
            change.forge_url = kind.is_elsewhere(url).then(|| url.to_owned());
        }
        self
    }

    /// The document of `evaluate`; `explain` includes the rules.
    pub fn into_document(self, payload_sha256: String, explain: bool) -> DecisionDocument {
        let Decision { decision, reason, change, rules, .. } = self;
        let rules = explain.then_some(rules);
        DecisionDocument { schema: SCHEMA, decision, reason, change, payload_sha256, rules }
    }
}

pub fn payload_sha256(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
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
pub fn decide(delivery: Delivery, branches: &BranchGlobs) -> Decision {
    let [event, merge, close, merged_says] = words(delivery.forge);
    let closed_by = |action: &str| vec![pass("event", &format!("{event} {action}")), pass("action", action)];
    let change = delivery.change;
    let subject = subject(change.as_ref());
    match delivery.event {
        Event::Ping => skip(vec![], "event", "ping", "a ping is not a merge".to_owned(), None),
        Event::Other { name } => {
            let name = name.map_or_else(|| format!("not a {event}"), |name| shortened(&name, 60));
            let reason = format!("the event is {name}: only a merged pull request is built");
            skip(vec![], "event", &name, reason, None)
        }
        Event::Touched { action } => {
            let (action, why) = match action.map(|action| shortened(&action, 60)) {
                Some(action) => (action.clone(), format!("its action is {action}")),
                None => ("without an action".to_owned(), "it has no action".to_owned()),
            };
            let rules = vec![pass("event", &format!("{event} {action}"))];
            let reason = format!("{subject} was not closed by this event: {why}");
            skip(rules, "action", &action, reason, change)
        }
        Event::Closed { merged } => {
            let (detail, reason) = match merged {
                Some(_) => ("merged is false", format!("{subject} was closed without being merged")),
                None => (
                    "merged is absent",
                    format!("{subject} was closed, and the payload does not say that it was merged"),
                ),
            };
            skip(closed_by(close), "merged", detail, reason, change)
        }
        Event::Contradiction { state } => {
            let state = shortened(&state, 60);
            let reason = format!(
                "{subject} was closed, but its state is {state}: the delivery contradicts itself; if it was merged, \
                 `swanci catchup` finds the merge"
            );
            let decision = skip(closed_by(merge), "state", &format!("state is {state}"), reason, change);
            Decision { contradictory: true, ..decision }
        }
        Event::Merged => {
            let mut rules = closed_by(merge);
            rules.push(pass("merged", merged_says));
            by_branch(rules, &subject, change, branches)
        }
    }
}

fn by_branch(
    mut rules: Vec<RuleOutcome>,
    subject: &str,
    change: Option<ReportedChange>,
    branches: &BranchGlobs,
) -> Decision {
    let Some(branch) = change.as_ref().and_then(|change| change.branch.as_ref()) else {
        // Every forge names the branch of a merge; without it the branch filter cannot decide.
        let reason = format!("{subject} was merged, but the payload does not say into which branch");
        return skip(rules, "branch", "no branch", reason, change);
    };
    let name = escaped(branch.as_str());
    if !branches.choose(branch) {
        let detail = format!("{name} matches none of {}", escaped(&branches.globs.join(", ")));
        let reason = format!("{subject} was merged into {name}, which is not among the branches to build");
        return skip(rules, "branch", &detail, reason, change);
    }
    let why = if branches.globs.is_empty() { "; every branch is built" } else { " matches" };
    rules.push(pass("branch", &format!("{name}{why}")));
    let reason = format!("{subject} was merged into {name}");
    let decision = DecisionWord::Build;
    Decision { decision, reason, change, rules, contradictory: false }
}

fn subject(change: Option<&ReportedChange>) -> String {
    match change.and_then(|change| change.pull_request.as_ref()) {
        Some(pull) => format!("pull request #{}", pull.number),
        None => "the pull request".to_owned(),
    }
}

fn pass(rule: &str, detail: &str) -> RuleOutcome {
    RuleOutcome { rule: rule.to_owned(), verdict: Verdict::Pass, detail: detail.to_owned() }
}

fn skip(
    mut rules: Vec<RuleOutcome>,
    rule: &str,
    detail: &str,
    reason: String,
    change: Option<ReportedChange>,
) -> Decision {
    rules.push(RuleOutcome { verdict: Verdict::Skip, ..pass(rule, detail) });
    Decision { decision: DecisionWord::Skip, reason, change, rules, contradictory: false }
}

#[cfg(test)]
mod tests;
