//! A forge's record of its deliveries, and those that never arrived.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One attempt to deliver an event (schema `hook-delivery-item` of GitHub's API description).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub id: u64,
    /// All attempts to deliver one event share it.
    pub guid: String,
    /// RFC 3339.
    pub delivered_at: String,
    pub redelivery: bool,
    /// In seconds.
    pub duration: f64,
    /// The result, in words.
    pub status: String,
    /// The HTTP status of the response; 0 without one.
    pub status_code: i64,
    pub event: String,
    pub action: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryState {
    /// The listener accepted it.
    Succeeded,
    /// It has no response yet.
    Pending,
    /// It was refused or never arrived.
    Failed,
}

impl Delivery {
    pub(crate) fn state(&self) -> DeliveryState {
        match self.status_code {
            200..=299 => DeliveryState::Succeeded,
            0 if self.status.eq_ignore_ascii_case("pending") => DeliveryState::Pending,
            _ => DeliveryState::Failed,
        }
    }

    pub(crate) fn is_ping(&self) -> bool {
        self.event == "ping"
    }

    /// `None` if the forge sends no valid time.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        self.delivered_at.parse().ok()
    }
}

/// The newest failed attempt of each event without a successful or pending attempt, the oldest first. Excludes pings.
pub(crate) fn unresolved(newest_first: &[Delivery]) -> Vec<&Delivery> {
    // An event that arrived once is settled, whatever the result of a later attempt.
    let settled: HashSet<&str> =
        newest_first.iter().filter(|d| d.state() != DeliveryState::Failed).map(|d| d.guid.as_str()).collect();
    let mut seen = HashSet::new();
    let mut open: Vec<&Delivery> = newest_first
        .iter()
        .filter(|d| !d.is_ping() && !settled.contains(d.guid.as_str()) && seen.insert(d.guid.as_str()))
        .collect();
    open.reverse();
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(id: u64, guid: &str, status_code: i64) -> Delivery {
        Delivery {
            id,
            guid: guid.to_owned(),
            delivered_at: "2026-11-22T12:00:00Z".to_owned(),
            redelivery: false,
            duration: 0.1,
            status: String::new(),
            status_code,
            event: "pull_request".to_owned(),
            action: None,
        }
    }

    fn ids(deliveries: &[Delivery]) -> Vec<u64> {
        unresolved(deliveries).iter().map(|d| d.id).collect()
    }

    #[test]
    fn an_event_that_arrived_once_is_settled() {
        assert_eq!(ids(&[delivery(3, "a", 202), delivery(2, "b", 502), delivery(1, "a", 502)]), [2]);
        assert_eq!(ids(&[delivery(3, "a", 502), delivery(1, "a", 200)]), [0_u64; 0]);
    }

    #[test]
    fn each_event_is_there_once_by_its_newest_attempt_oldest_event_first() {
        let list = [delivery(4, "b", 0), delivery(3, "a", 500), delivery(2, "b", 401), delivery(1, "a", 500)];
        assert_eq!(ids(&list), [3, 4]);
    }

    #[test]
    fn what_is_under_way_and_what_is_a_ping_is_not_lost() {
        let mut pending = delivery(2, "a", 0);
        pending.status = "pending".to_owned();
        let mut ping = delivery(3, "c", 502);
        ping.event = "ping".to_owned();
        assert_eq!(ids(&[ping, pending, delivery(1, "a", 502)]), [0_u64; 0]);
    }
}
