//! The releases of aws-parallelcluster, and when each was uploaded. Pure.

/// Indexes other than `PyPI` may not tell it.
const RELEASE_DATES: &str = include_str!("release_dates.txt");

/// Every release with the moment of its upload (RFC 3339).
pub fn read_dates() -> impl Iterator<Item = (&'static str, &'static str)> {
    RELEASE_DATES.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_release_has_its_moment() {
        let dates: Vec<_> = read_dates().collect();
        assert_eq!(dates.len(), 42);
        for (release, moment) in dates {
            assert!(release.starts_with("3."), "{release}");
            assert!(moment.parse::<jiff::Timestamp>().is_ok(), "{moment}");
        }
        assert_eq!(read_dates().find(|(release, _)| *release == "3.13.2").unwrap().1, "2025-06-24T21:27:57Z");
    }
}
