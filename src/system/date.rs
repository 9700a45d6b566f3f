//! The day of UTC.

use std::time::{SystemTime, UNIX_EPOCH};

/// Today, as ISO 8601 writes it: `2026-11-26`.
#[must_use]
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format_day(seconds / 86_400)
}

/// The civil date of a day since 1970-01-01, in years that begin in March, so that a leap day ends one
/// (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn format_day(day: u64) -> String {
    // Days since 0000-03-01.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{of_month:02}")
}

/// The days from one date to another, both as [`today`] writes them; `None` where one is none or it is later.
#[must_use]
pub fn days_between(from: &str, to: &str) -> Option<u64> {
    read_day(to)?.checked_sub(read_day(from)?)
}

/// The day since 0000-03-01 of a date, the reverse of [`format_day`].
fn read_day(date: &str) -> Option<u64> {
    let mut parts = date.get(..10)?.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && year > 0;
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year.wrapping_sub(1), month + 9) };
    is_date.then(|| 365 * year + year / 4 - year / 100 + year / 400 + (153 * from_march + 2) / 5 + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_date_is_no_number_of_days() {
        for date in ["", "2022", "2022-13-01", "2022-00-01", "0000-01-01", "2022-1x-01", "2030-01-01"] {
            assert_eq!(days_between(date, "2026-11-26"), None, "{date}");
        }
        assert_eq!(days_between("2022-10-26T22:30:05.000Z", "2022-11-01"), Some(6));
    }

    #[test]
    fn days_have_their_dates() {
        for (day, date) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_696, "2026-08-31"),
            (20_783, "2026-11-26"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(format_day(day), date);
            assert_eq!(days_between("1970-01-01", date), Some(day));
        }
    }
}
