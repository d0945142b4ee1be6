//! Finds calls by their ids. Ids are the clients' own: several calls may have the same, and they may be long, so what
//! is held of each is a few bytes, and what they lead to must be looked at.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};

/// The numbers of calls, by what their ids come to.
#[derive(Debug, Default)]
pub(in crate::queue) struct Index {
    hasher: RandomState,
    numbers: BTreeSet<(u64, u64)>,
}

impl Index {
    /// A call with this id has this number.
    pub(in crate::queue) fn add(&mut self, call_id: &str, number: u64) {
        self.numbers.insert((self.hasher.hash_one(call_id), number));
    }

    /// There is no such call any more.
    pub(in crate::queue) fn remove(&mut self, call_id: &str, number: u64) {
        self.numbers.remove(&(self.hasher.hash_one(call_id), number));
    }

    /// The numbers of calls that may have this id, newest first.
    pub(in crate::queue) fn find(&self, call_id: &str) -> Vec<u64> {
        let hash = self.hasher.hash_one(call_id);
        self.numbers.range((hash, 0)..=(hash, u64::MAX)).rev().map(|(_, number)| *number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_an_id_is_found_first() {
        let mut index = Index::default();
        for (id, number) in [("a", 1), ("b", 2), ("a", 3)] {
            index.add(id, number);
        }
        assert_eq!((index.find("a"), index.find("b"), index.find("c")), (vec![3, 1], vec![2], vec![]));
        index.remove("a", 3);
        index.remove("b", 1);
        assert_eq!((index.find("a"), index.find("b")), (vec![1], vec![2]));
    }
}
