//! The starting point of a catchup.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::model::{CommitSha, InvalidValue, invalid};

/// The start of the range: a commit (exclusive) or a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Since {
    /// Commits after this one.
    Commit(CommitSha),
    /// Commits that landed at this time or later, by their committer dates.
    Time(Timestamp),
}

impl FromStr for Since {
    type Err = InvalidValue;

    /// Stricter than git: git's date parser accepts any word.
    fn from_str(text: &str) -> Result<Since, InvalidValue> {
        if let Ok(commit) = text.parse() {
            return Ok(Since::Commit(commit));
        }
        // jiff also parses a date followed by a time, and drops the time.
        let day = (text.len() == "2026-11-22".len()).then(|| text.parse::<Date>().ok()).flatten();
        let moment = match day {
            Some(day) => day.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp()),
            None => text.parse().ok(),
        };
        moment.map(Since::Time).ok_or_else(|| {
            invalid(text, "a full commit id, or a date like 2026-11-22 or 2026-11-22T06:00:00Z")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_dates_and_times_are_distinguished() {
        let sha = "8c1c06a1a89e8278937a7d22d8ba1a834bd4c8a1";
        assert_eq!(sha.parse(), Ok(Since::Commit(sha.parse().unwrap())));
        for (text, moment) in [
            ("2026-11-22", "2026-11-22T00:00:00Z"),
            ("2026-11-22T06:30:00Z", "2026-11-22T06:30:00Z"),
            ("2026-11-22T06:30:00+05:30", "2026-11-22T01:00:00Z"),
            ("2026-11-22 06:30:00-05:00", "2026-11-22T11:30:00Z"),
        ] {
            assert_eq!(text.parse(), Ok(Since::Time(moment.parse().unwrap())), "{text}");
        }
    }

    #[test]
    fn invalid_dates_are_rejected() {
        for text in [
            "",
            "yesterday",
            "8c1c06a",
            "HEAD",
            "20261122",
            "2026-13-01",
            "2026-02-30",
            "2026-11-22T06:30:00",
            "--all",
            "1700000000",
            "2 weeks ago",
        ] {
            assert!(text.parse::<Since>().is_err(), "{text:?} was taken");
        }
    }
}
