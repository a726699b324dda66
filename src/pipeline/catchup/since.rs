//! From where on a catchup looks.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::escape::shortened;
use crate::model::CommitSha;

/// The start of what is looked at: a commit, itself not included, or a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Since {
    /// What came after this commit.
    Commit(CommitSha),
    /// What landed at this moment or later, by the committers' clocks.
    Time(Timestamp),
}

/// It is neither a commit nor a date.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is neither a full commit id nor a date like 2026-11-22 or 2026-11-22T06:00:00Z",
    shortened(.0, 80)
)]
pub(crate) struct InvalidSince(String);

impl FromStr for Since {
    type Err = InvalidSince;

    /// Strict where git is not: to git's own parser of dates, any word is one.
    fn from_str(text: &str) -> Result<Since, InvalidSince> {
        if let Ok(commit) = text.parse() {
            return Ok(Since::Commit(commit));
        }
        // jiff would also take a date with a time behind it, and leave the time out.
        let day = (text.len() == "2026-11-22".len()).then(|| text.parse::<Date>().ok()).flatten();
        let moment = match day {
            Some(day) => day.to_zoned(TimeZone::UTC).ok().map(|midnight| midnight.timestamp()),
            None => text.parse().ok(),
        };
        moment.map(Since::Time).ok_or_else(|| InvalidSince(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_a_day_and_a_moment_are_told_apart() {
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
    fn what_is_no_date_is_refused_and_not_guessed_at() {
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
