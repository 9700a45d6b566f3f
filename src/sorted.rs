//! Sorted collections, made entry by entry. Pure.
//!
//! `collect` sorts first, with a sort of its own for each kind of iterator: 4 kB of the program for each of the few
//! dozen places that need a sorted collection of a few entries.

use std::collections::{BTreeMap, BTreeSet};

/// Sorts entries by their keys; of several with one key, the last counts.
pub fn sorted_map<K: Ord, V>(entries: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(entries);
    map
}

/// Sorts items, each once.
pub fn sorted_set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collections_are_those_of_collect() {
        let entries = [("b", 1), ("a", 2), ("b", 3)];
        assert_eq!(sorted_map(entries), entries.into_iter().collect());
        assert_eq!(sorted_set(entries), entries.into_iter().collect());
    }
}
