//! Max-min fairness for what is kept and has become too much: eviction begins with those that have most.

use std::collections::HashMap;
use std::hash::Hash;

/// Marks those that go so that the others are `limit` together at most. They are given with their owners and what they
/// count, those first that go first. Those give way that have most: nobody drives out what others have.
fn evict_over<O: Hash + Eq>(kept: &[(O, u64)], limit: u64) -> Vec<bool> {
    let mut totals: HashMap<&O, u64> = HashMap::new();
    for (owner, count) in kept {
        *totals.entry(owner).or_default() += count;
    }
    let (share, mut rest) = max_min_share(totals.into_values().collect(), limit);
    // What each has left of its share; nothing once one of its own has gone.
    let mut left: HashMap<&O, Option<u64>> = HashMap::new();
    let mut gone: Vec<bool> = kept
        .iter()
        .rev()
        .map(|(owner, count)| {
            let left = left.entry(owner).or_insert(Some(share));
            *left = left.and_then(|own| {
                let beyond = count.saturating_sub(own);
                rest = rest.checked_sub(beyond)?;
                Some(own.saturating_sub(*count))
            });
            left.is_none()
        })
        .collect();
    gone.reverse();
    gone
}

/// Takes those out of `kept` that go by [`evict_over`]; `measure` says whose one is, and what it counts.
pub(super) fn take_over<T, O: Hash + Eq>(
    kept: &mut Vec<T>,
    limit: u64,
    measure: impl Fn(&T) -> (O, u64),
) -> Vec<T> {
    let measured: Vec<_> = kept.iter().map(measure).collect();
    let mut gone = evict_over(&measured, limit).into_iter();
    kept.extract_if(.., |_| gone.next().unwrap_or_default()).collect()
}

/// Returns what each may have, if those that have less leave the rest of theirs to the others; and what remains of
/// that.
fn max_min_share(mut totals: Vec<u64>, limit: u64) -> (u64, u64) {
    totals.sort_unstable();
    let (mut left, mut owners) = (limit, totals.len() as u64);
    for total in totals {
        if total > left / owners {
            return (left / owners, left % owners);
        }
        left -= total;
        owners -= 1;
    }
    (u64::MAX, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns those that stay, each by its owner.
    fn stays(kept: &[(char, u64)], limit: u64) -> String {
        let gone = evict_over(kept, limit);
        kept.iter().zip(gone).filter(|(_, gone)| !gone).map(|((owner, _), _)| *owner).collect()
    }

    #[test]
    fn eviction_starts_with_the_largest_tenant() {
        let ones = |text: &str| text.chars().map(|owner| (owner, 1)).collect::<Vec<_>>();
        assert_eq!(stays(&ones("aab"), 3), "aab");
        assert_eq!(stays(&ones("abaaaaac"), 4), "baac");
        assert_eq!(stays(&ones("abc"), 2), "bc");
        assert_eq!(stays(&ones("aabbcc"), 5), "abbcc");
        assert_eq!(stays(&ones("aaaa"), 1), "a");
        assert_eq!(stays(&ones("aaaa"), 0), "");
        assert_eq!(stays(&[], 0), "");
        // The first go first, each as a whole.
        assert_eq!(stays(&[('a', 60), ('b', 30), ('a', 50), ('a', 5)], 90), "baa");
        assert_eq!(stays(&[('a', 100)], 90), "");
        assert_eq!(stays(&[('a', 0), ('b', 91)], 90), "a");
    }

    #[test]
    fn kept_total_never_exceeds_the_limit() {
        let mut random = 1u64;
        let mut next = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        for _ in 0..1000 {
            let kept: Vec<(u64, u64)> = (0..next(40)).map(|_| (next(5), next(20))).collect();
            let most = next(200);
            let gone = evict_over(&kept, most);
            let stays: u64 =
                kept.iter().zip(&gone).filter(|(_, gone)| !**gone).map(|((_, count), _)| count).sum();
            assert!(stays <= most, "{kept:?} {most}");
            let all: u64 = kept.iter().map(|(_, count)| count).sum();
            assert_eq!(gone.contains(&true), all > most, "{kept:?} {most}");
        }
    }
}
