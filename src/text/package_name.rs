//! Compares names of distributions, after normalising them as PEP 503 does. Pure.

/// The distribution that contains the real pcluster.
pub const PCLUSTER: &str = "aws-parallelcluster";

/// The distribution whose release 1.153.0 loses the AMI's tags.
pub const IMAGEBUILDER: &str = "aws-cdk.aws-imagebuilder";

/// Normalizes a name as PEP 503 does: lower case, with each run of `-`, `_` and `.` replaced by a single `-`.
pub fn normalised(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for letter in name.chars() {
        match letter {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            _ => normal.push(letter.to_ascii_lowercase()),
        }
    }
    normal
}

/// Whether a name is a pattern that can match several packages.
pub fn is_pattern(name: &str) -> bool {
    name.ends_with(".*")
}

/// Whether a pattern (`name` or `name.*`) matches a package. Both are normalised first.
pub fn matches(pattern: &str, package: &str) -> bool {
    matcher(pattern)(&normalised(package))
}

/// Returns a function that tells whether a package matches the pattern. The package's name must already be
/// normalised; the pattern need not be.
pub fn matcher(pattern: &str) -> impl Fn(&str) -> bool {
    let (stem, is_prefix) = match pattern.strip_suffix(".*") {
        Some(stem) => (normalised(stem), true),
        None => (normalised(pattern), false),
    };
    move |package| match package.strip_prefix(&stem) {
        Some(rest) if is_prefix => rest.starts_with('-'),
        Some(rest) => rest.is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(name in "[a-zA-Z0-9._-]{1,30}") {
            let once = normalised(&name);
            proptest::prop_assert_eq!(normalised(&once), once.clone());
            proptest::prop_assert!(!once.contains("--") && !once.contains('_') && !once.contains('.'));
        }
    }
}
