//! Which images have to be built.

use std::sync::PoisonError;

use crate::documents::{Image, ImageStatus};
use crate::error::Failure;
use crate::parallel;
use crate::pipeline::REGISTRY_THREADS;
use crate::pipeline::reuse::{self, Ask};
use crate::registry::Registry;

use super::Work;

/// What the registry's answer means for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    ToBuild,
    Unchanged,
}

impl Work<'_> {
    /// Decides for each image whether it has to be built. A registry that cannot be asked ends it all.
    pub(super) fn compare(&self, chosen: &[usize]) {
        let _deciding = self.schedule.deciding();
        let client = self.site.client.as_ref().filter(|_| !self.options.force);
        let client = client.map(|client| client.with_cancel(self.site.cancel.clone()));
        let step = client.is_some().then(|| self.site.progress.step("compare with the registry"));
        // With few images there are connections to ask about all places of each at once.
        let ask = if chosen.len() * reuse::PLACES <= REGISTRY_THREADS { Ask::AtOnce } else { Ask::InTurn };
        let compared =
            parallel::map(REGISTRY_THREADS, chosen, |i| match self.compare_one(*i, client.as_ref(), ask) {
                Ok(compared) => compared,
                Err(failure) => {
                    self.end_all(failure);
                    None
                }
            });
        if let Some(step) = step {
            let count = |wanted| compared.iter().filter(|compared| **compared == Some(wanted)).count();
            let ended =
                self.ended.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Failure::one_line);
            match (self.site.cancel.stopped(), ended) {
                (None, _) => step.done(&format!(
                    "{} to build, {} unchanged",
                    count(Compared::ToBuild),
                    count(Compared::Unchanged)
                )),
                (Some(_), Some(why)) => step.failed(&why),
                (Some(stop), None) => step.failed(&stop.to_string()),
            }
        }
    }

    fn compare_one(
        &self,
        i: usize,
        client: Option<&Registry>,
        ask: Ask,
    ) -> Result<Option<Compared>, Failure> {
        let image = &self.surveyed[i];
        let Some(source) = &image.source else { return Ok(None) };
        self.site.cancel.check()?;
        let own = self.change.commit.immutable_tag();
        let places = [Some(&own), image.tags.first(), self.parent.as_ref()];
        let reused = match client {
            Some(client) => reuse::find(client, &image.repository, places, &source.inputs, ask)?,
            None => None,
        };
        let Some(reused) = reused else {
            if self.options.dry_run {
                self.put(i, self.described(i, ImageStatus::Planned));
            }
            self.schedule.decide(i, !self.options.dry_run);
            return Ok(Some(Compared::ToBuild));
        };
        let unchanged = self.described(i, ImageStatus::Unchanged);
        let ready = Image { digest: Some(reused.digest), ..unchanged };
        self.put(i, ready.clone());
        self.schedule.decide(i, false);
        (self.on_ready)(&ready, reused.standing);
        Ok(Some(Compared::Unchanged))
    }
}
