//! Finds a minimal set of packages that have to move for a test to pass: none of them can be left out. Pure:
//! the caller runs the test.
//!
//! `QuickXplain` (Junker, 2004) halves the candidates, and needs at most `2k·log₂(n/k) + 2k` tests for `k`
//! culprits among `n` candidates. It assumes that a test that passes also passes if more packages are moved.
//! If that is wrong, the set is larger than necessary, or the proof of the repair fails.

/// Finds the candidates that have to move for the test to pass, in addition to the packages in `background`,
/// which move in every test. None of the found candidates can be left out. The test is known to pass if
/// `background` and all candidates move. If `passes` returns `None`, the time was up and the test was not
/// run. The result then keeps the candidates that the test could have ruled out.
pub fn minimize<E>(
    background: &[usize],
    candidates: &[usize],
    passes: &mut impl FnMut(&[usize]) -> Result<Option<bool>, E>,
) -> Result<Vec<usize>, E> {
    if candidates.is_empty() || passes(background)? == Some(true) {
        return Ok(Vec::new());
    }
    halve(background, candidates, passes)
}

/// Like [`minimize`], but does not test `background` alone: the caller has already done that.
fn halve<E>(
    background: &[usize],
    candidates: &[usize],
    passes: &mut impl FnMut(&[usize]) -> Result<Option<bool>, E>,
) -> Result<Vec<usize>, E> {
    if candidates.len() == 1 {
        return Ok(candidates.to_vec());
    }
    let (first, second) = candidates.split_at(candidates.len() / 2);
    let mut found = minimize(&[background, first].concat(), second, passes)?;
    let background = [background, &found].concat();
    // If nothing was found in the second half, the background has not changed, so it is not tested again.
    found.extend(if found.is_empty() {
        halve(&background, first, passes)?
    } else {
        minimize(&background, first, passes)?
    });
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    fn search(count: usize, needed: &BTreeSet<usize>, limit: usize) -> (BTreeSet<usize>, usize) {
        let mut tests = 0;
        let mut passes = |moved: &[usize]| -> Result<Option<bool>, Infallible> {
            if tests == limit {
                return Ok(None);
            }
            tests += 1;
            Ok(Some(needed.iter().all(|culprit| moved.contains(culprit))))
        };
        let candidates: Vec<usize> = (0..count).collect();
        let Ok(found) = minimize(&[], &candidates, &mut passes);
        assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "named once");
        (found.into_iter().collect(), tests)
    }

    #[test]
    fn nothing_is_moved_where_nothing_has_to() {
        assert_eq!(search(60, &BTreeSet::new(), usize::MAX), (BTreeSet::new(), 1));
        assert_eq!(search(0, &BTreeSet::new(), usize::MAX), (BTreeSet::new(), 0));
    }

    #[test]
    fn an_error_of_the_test_ends_the_search() {
        let mut calls = 0;
        let mut passes = |_: &[usize]| {
            calls += 1;
            if calls == 2 { Err("interrupted") } else { Ok(Some(false)) }
        };
        assert_eq!(minimize(&[], &[1, 2, 3], &mut passes), Err("interrupted"));
        assert_eq!(calls, 2);
    }

    proptest::proptest! {
        #[test]
        fn exactly_the_culprits_are_found_in_few_tests(
            needed in proptest::collection::btree_set(0usize..64, 0..5),
        ) {
            let (found, tests) = search(64, &needed, usize::MAX);
            proptest::prop_assert_eq!(&found, &needed);
            proptest::prop_assert!(tests <= 2 + 14 * needed.len(), "{} tests", tests);
        }

        #[test]
        fn a_search_that_is_cut_short_finds_more_never_less(
            needed in proptest::collection::btree_set(0usize..64, 0..5),
            limit in 0usize..40,
        ) {
            let (found, _) = search(64, &needed, limit);
            proptest::prop_assert!(found.is_superset(&needed));
        }
    }
}
