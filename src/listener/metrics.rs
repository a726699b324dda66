//! Metrics of `serve` as OpenMetrics text, for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::answer::{Answer, Refusal};
use crate::events::{Consumer, Phase, RunEvent};
use crate::queue::{JobState, QueueStats};

/// One label with a value from a closed set, so that clients cannot grow the registry.
type Label = [(&'static str, &'static str); 1];

/// The metrics of one `serve`. Clones share them.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Called for the state of the queue at every scrape.
    queue: Arc<dyn Fn() -> QueueStats + Send + Sync>,
    deliveries: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    ack: Histogram,
    checkout: Histogram,
    build: Histogram,
    push: Histogram,
    retries: Counter,
    connections: Gauge,
    depth: Gauge,
    oldest: Gauge<f64, AtomicU64>,
    jobs: Family<Label, Gauge>,
    resident: Gauge,
}

/// Seconds: from a cached verdict to GitHub's time limit.
const ACK_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// Seconds: from moving a tag to a long build.
const PHASE_BUCKETS: [f64; 13] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

impl Metrics {
    pub fn new(queue: impl Fn() -> QueueStats + Send + Sync + 'static) -> Metrics {
        let metrics = Metrics {
            registry: Arc::default(),
            queue: Arc::new(queue),
            deliveries: Family::default(),
            refused: Family::default(),
            ack: Histogram::new(ACK_BUCKETS),
            checkout: Histogram::new(PHASE_BUCKETS),
            build: Histogram::new(PHASE_BUCKETS),
            push: Histogram::new(PHASE_BUCKETS),
            retries: Counter::default(),
            connections: Gauge::default(),
            depth: Gauge::default(),
            oldest: Gauge::default(),
            jobs: Family::default(),
            resident: Gauge::default(),
        };
        let m = metrics.clone();
        let mut all = Registry::with_prefix("swanci");
        all.register("deliveries", "Deliveries by verdict", m.deliveries);
        all.register("gate_rejections", "Requests and connections that the gate refused", m.refused);
        all.register_with_unit("ack", "From a whole delivery to its answer", Unit::Seconds, m.ack);
        all.register_with_unit("checkout", "Checking out a merge", Unit::Seconds, m.checkout);
        all.register_with_unit("build", "Building the images of a merge", Unit::Seconds, m.build);
        all.register_with_unit("push", "Pushing the images of a merge", Unit::Seconds, m.push);
        all.register("job_retries", "Jobs that were queued again after a failure", m.retries);
        all.register("connections", "Connections that are open", m.connections);
        all.register("queue_depth", "Jobs that wait", m.depth);
        all.register_with_unit("queue_oldest", "Age of the oldest waiting job", Unit::Seconds, m.oldest);
        all.register("jobs", "Jobs by state", m.jobs);
        let resident = "Resident memory of this process";
        all.register_with_unit("process_resident_memory", resident, Unit::Bytes, m.resident);
        Metrics { registry: Arc::new(all), ..metrics }
    }

    pub fn delivery(&self, answer: &Answer) {
        self.deliveries.get_or_create(&[("verdict", answer.label())]).inc();
    }

    pub fn refused(&self, refusal: Refusal) {
        self.refused.get_or_create(&[("reason", refusal.label())]).inc();
    }

    /// Records how long a whole delivery waited for its response.
    pub fn ack(&self, time: Duration) {
        self.ack.observe(time.as_secs_f64());
    }

    /// Counts a job that was queued again after an environment failure.
    pub fn retry(&self) {
        self.retries.inc();
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    pub(crate) fn disconnected(&self) {
        self.connections.dec();
    }

    pub fn render(&self) -> Result<String, fmt::Error> {
        let queue = (self.queue)();
        self.depth.set(queue.count(JobState::Queued));
        let now = jiff::Timestamp::now();
        let waited = queue.oldest_queued.map(|since| now.duration_since(since).as_secs_f64());
        self.oldest.set(waited.unwrap_or_default().max(0.0));
        for state in JobState::ALL {
            self.jobs.get_or_create(&[("state", state.as_str())]).set(queue.count(state));
        }
        self.resident.set(resident_bytes().unwrap_or_default());
        let mut text = String::with_capacity(8 * 1024);
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Consumer for Metrics {
    fn event(&self, event: &RunEvent<'_>) {
        let (histogram, took) = match *event {
            RunEvent::Phase { phase: Phase::Checkout, took } => (&self.checkout, took),
            RunEvent::Phase { phase: Phase::Build, took } => (&self.build, took),
            RunEvent::Phase { phase: Phase::Push, took } => (&self.push, took),
            RunEvent::Run { .. }
            | RunEvent::Planned { .. }
            | RunEvent::Started { .. }
            | RunEvent::Line { .. }
            | RunEvent::Ended { .. }
            | RunEvent::Warning(_)
            | RunEvent::Note(_) => return,
        };
        histogram.observe(took.as_secs_f64());
    }
}

/// The second field of `/proc/self/statm` is resident pages (proc_pid_statm(5)).
fn resident_bytes() -> Option<i64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(i64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_contains_the_counts_and_the_queue_state() {
        let oldest_queued = Some(jiff::Timestamp::now() - Duration::from_secs(90));
        let jobs = [(JobState::Queued, 3), (JobState::Failed, 1)];
        let metrics = Metrics::new(move || QueueStats { jobs: jobs.into(), oldest_queued });
        metrics.delivery(&Answer::unauthorized());
        metrics.delivery(&Answer::unauthorized());
        metrics.refused(Refusal::Timeout);
        metrics.event(&RunEvent::Phase { phase: Phase::Build, took: Duration::from_millis(300) });
        metrics.ack(Duration::from_millis(2));
        metrics.retry();
        let text = metrics.render().unwrap();
        for line in [
            "swanci_deliveries_total{verdict=\"unauthorized\"} 2",
            "swanci_gate_rejections_total{reason=\"timeout\"} 1",
            "swanci_build_seconds_bucket{le=\"0.5\"} 1",
            "swanci_build_seconds_bucket{le=\"0.25\"} 0",
            "swanci_ack_seconds_count 1",
            "swanci_job_retries_total 1",
            "swanci_queue_depth 3",
            "swanci_jobs{state=\"failed\"} 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
        let oldest = text.lines().find_map(|line| line.strip_prefix("swanci_queue_oldest_seconds ")).unwrap();
        assert!(oldest.parse::<f64>().unwrap() >= 90.0, "{oldest}");
        assert!(text.ends_with("# EOF\n"));
        let resident = text.lines().find(|line| line.starts_with("swanci_process_resident_memory_bytes "));
        assert!(resident.unwrap().split(' ').nth(1).unwrap().parse::<u64>().unwrap() > 1_000_000);
    }
}
