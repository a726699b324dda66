//! Metrics of `serve` as OpenMetrics text, for Prometheus.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::answer::{Answer, Refusal};
use crate::events::Phase;
use crate::queue::QueueStats;

/// One label with a value from a closed set, so that clients cannot grow the registry.
type Label = [(&'static str, &'static str); 1];

type Snapshot = Box<dyn Fn() -> QueueStats + Send + Sync>;

/// The counters of one `serve`. Clones share them.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    snapshot: Mutex<Option<Snapshot>>,
    deliveries: Family<Label, Counter>,
    refused: Family<Label, Counter>,
    ack: Histogram,
    steps: [Histogram; 3],
    retries: Counter,
    connections: Gauge,
    depth: Gauge,
    oldest: Gauge<f64, std::sync::atomic::AtomicU64>,
    jobs: Family<Label, Gauge>,
    resident: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

/// Seconds: from a cached verdict to GitHub's time limit.
const ACK_BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0];

/// Seconds: from moving a tag to a long build.
const STEP_BUCKETS: [f64; 13] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

impl Metrics {
    pub fn new() -> Metrics {
        let mut registry = Registry::with_prefix("swanci");
        let deliveries = Family::<Label, Counter>::default();
        registry.register("deliveries", "Deliveries by verdict", deliveries.clone());
        let refused = Family::<Label, Counter>::default();
        registry.register(
            "gate_rejections",
            "Requests and connections that the gate refused",
            refused.clone(),
        );
        let ack = Histogram::new(ACK_BUCKETS);
        registry.register_with_unit("ack", "From a whole delivery to its answer", Unit::Seconds, ack.clone());
        let mut step = |name: &str, help: &str| {
            let histogram = Histogram::new(STEP_BUCKETS);
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let steps = [
            step("checkout", "Checking out a merge"),
            step("build", "Building the images of a merge"),
            step("push", "Pushing the images of a merge"),
        ];
        let retries = Counter::default();
        registry.register("job_retries", "Jobs that were queued again after a failure", retries.clone());
        let connections = Gauge::default();
        registry.register("connections", "Connections that are open", connections.clone());
        let depth = Gauge::default();
        registry.register("queue_depth", "Jobs that wait", depth.clone());
        let oldest = Gauge::default();
        registry.register_with_unit(
            "queue_oldest",
            "Age of the oldest waiting job",
            Unit::Seconds,
            oldest.clone(),
        );
        let jobs = Family::<Label, Gauge>::default();
        registry.register("jobs", "Jobs by state", jobs.clone());
        let resident = Gauge::default();
        registry.register_with_unit(
            "process_resident_memory",
            "Resident memory of this process",
            Unit::Bytes,
            resident.clone(),
        );
        Metrics(Arc::new(Inner {
            registry,
            snapshot: Mutex::new(None),
            deliveries,
            refused,
            ack,
            steps,
            retries,
            connections,
            depth,
            oldest,
            jobs,
            resident,
        }))
    }

    /// Calls `snapshot` for the state of the queue at every scrape.
    pub fn watch_queue(&self, snapshot: impl Fn() -> QueueStats + Send + Sync + 'static) {
        *self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(snapshot));
    }

    pub fn delivery(&self, answer: &Answer) {
        self.0.deliveries.get_or_create(&[("verdict", answer.label())]).inc();
    }

    pub fn refused(&self, refusal: Refusal) {
        self.0.refused.get_or_create(&[("reason", refusal.label())]).inc();
    }

    /// Records how long a whole delivery waited for its response.
    pub fn ack(&self, time: Duration) {
        self.0.ack.observe(time.as_secs_f64());
    }

    pub(crate) fn phase(&self, phase: Phase, time: Duration) {
        let [checkout, build, push] = &self.0.steps;
        let histogram = match phase {
            Phase::Checkout => checkout,
            Phase::Build => build,
            Phase::Push => push,
        };
        histogram.observe(time.as_secs_f64());
    }

    /// Counts a job that was queued again after an environment failure.
    pub fn retry(&self) {
        self.0.retries.inc();
    }

    pub(crate) fn connected(&self) {
        self.0.connections.inc();
    }

    pub(crate) fn disconnected(&self) {
        self.0.connections.dec();
    }

    pub fn render(&self) -> Result<String, fmt::Error> {
        let snapshot =
            self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|ask| ask());
        if let Some(queue) = snapshot {
            let count = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.0.depth.set(count(queue.queued));
            let waited =
                queue.oldest_queued.map(|since| jiff::Timestamp::now().duration_since(since).as_secs_f64());
            self.0.oldest.set(waited.unwrap_or_default().max(0.0));
            for (state, value) in [
                ("queued", queue.queued),
                ("running", queue.running),
                ("succeeded", queue.succeeded),
                ("failed", queue.failed),
                ("cancelled", queue.cancelled),
            ] {
                self.0.jobs.get_or_create(&[("state", state)]).set(count(value));
            }
        }
        self.0.resident.set(resident_bytes().unwrap_or_default());
        let mut text = String::with_capacity(8 * 1024);
        encode(&mut text, &self.0.registry)?;
        Ok(text)
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
        let metrics = Metrics::new();
        metrics.delivery(&Answer::unauthorized());
        metrics.delivery(&Answer::unauthorized());
        metrics.refused(Refusal::Timeout);
        metrics.phase(Phase::Build, Duration::from_millis(300));
        metrics.ack(Duration::from_millis(2));
        metrics.retry();
        let oldest_queued = Some(jiff::Timestamp::now() - Duration::from_secs(90));
        metrics.watch_queue(move || QueueStats {
            queued: 3,
            failed: 1,
            oldest_queued,
            ..QueueStats::default()
        });
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
