//! Slows down whoever guesses passwords.
//!
//! Each address has [`BURST`] wrong attempts, and gets one back every [`EVERY`]; an IPv6 address counts with its /64,
//! which is what one subscriber has. An address without attempts left is not looked at, whether its password is right
//! or not: whoever was told could go on guessing. On loopback a right password is let in all the same, because a proxy
//! there stands for many clients, and those who guess must not lock the others out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Duration;

use model::sync::lock;
use tokio::time::Instant;

/// Wrong attempts that an address has at once.
const BURST: u32 = 10;
/// The time after which an address gets one back.
const EVERY: Duration = Duration::from_secs(6);
/// Addresses that are remembered.
const MAX_ADDRESSES: usize = 4096;
/// The time between two lines in the log for one address.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Lines in that time for all addresses together.
const MAX_LINES: u32 = 30;

/// The outcome of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The password is right.
    Admitted,
    /// It is wrong.
    Wrong,
    /// It was not looked at: the address has attempts again after this time.
    Throttled(Duration),
}

/// Wrong attempts by address.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<IpAddr, Address>,
    /// The lines of the log, and since when they are counted.
    lines: Option<(Instant, u32)>,
}

/// One address that has been wrong.
#[derive(Debug)]
struct Address {
    /// When it has all of its attempts again.
    whole_at: Instant,
    /// When the log named it.
    logged_at: Option<Instant>,
    /// Attempts since then.
    unlogged: u64,
}

impl Attempts {
    /// Makes an attempt for `address`; `is_right` looks at the password.
    pub(super) fn attempt(&self, address: IpAddr, is_right: impl FnOnce() -> bool) -> Outcome {
        let now = Instant::now();
        let address = block_of(address);
        // Held while the password is looked at, so that attempts at the same time are counted one by one.
        let mut table = lock(&self.0);
        let wait = table.addresses.get(&address).map_or(Duration::ZERO, |known| {
            (known.whole_at + EVERY).saturating_duration_since(now + EVERY * BURST)
        });
        if wait.is_zero() || address.is_loopback() {
            if is_right() {
                return Outcome::Admitted;
            }
            table.fail(address, now);
        }
        table.log(address, now);
        if wait.is_zero() { Outcome::Wrong } else { Outcome::Throttled(wait) }
    }
}

impl Table {
    /// Takes an attempt from an address.
    fn fail(&mut self, address: IpAddr, now: Instant) {
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            self.evict(now);
        }
        let fresh = Address { whole_at: now, logged_at: None, unlogged: 0 };
        let known = self.addresses.entry(address).or_insert(fresh);
        known.whole_at = (known.whole_at.max(now) + EVERY).min(now + EVERY * BURST);
    }

    /// Forgets those that have all of their attempts again, else the one that is nearest to it.
    fn evict(&mut self, now: Instant) {
        self.addresses.retain(|_, known| known.whole_at > now);
        let nearest =
            self.addresses.iter().min_by_key(|(_, known)| known.whole_at).map(|(address, _)| *address);
        if let Some(nearest) = nearest.filter(|_| self.addresses.len() >= MAX_ADDRESSES) {
            self.addresses.remove(&nearest);
        }
    }

    /// Names an address in the log, once in a while. Not the user: some type the password there.
    fn log(&mut self, address: IpAddr, now: Instant) {
        let Some(known) = self.addresses.get_mut(&address) else { return };
        known.unlogged += 1;
        if known.logged_at.is_some_and(|at| now < at + LOG_EVERY) {
            return;
        }
        let (since, lines) = self.lines.filter(|(since, _)| now < *since + LOG_EVERY).unwrap_or((now, 0));
        self.lines = Some((since, lines + 1));
        if lines < MAX_LINES {
            tracing::warn!(%address, attempts = known.unlogged, "wrong user or password for the API");
            (known.logged_at, known.unlogged) = (Some(now), 0);
        }
    }
}

/// The address that attempts are counted under.
fn block_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Uses up what an address has.
    fn exhaust(attempts: &Attempts, from: &str) {
        for _ in 0..BURST {
            assert_eq!(attempts.attempt(address(from), || false), Outcome::Wrong, "{from}");
        }
        assert!(matches!(attempts.attempt(address(from), || false), Outcome::Throttled(_)), "{from}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_without_attempts_is_not_looked_at_until_it_has_one_again() {
        let attempts = Attempts::default();
        exhaust(&attempts, "192.0.2.1");
        let outcome = attempts.attempt(address("192.0.2.1"), || panic!("looked at"));
        assert_eq!(outcome, Outcome::Throttled(EVERY));
        tokio::time::advance(EVERY).await;
        assert_eq!(attempts.attempt(address("192.0.2.1"), || false), Outcome::Wrong);
        assert!(matches!(attempts.attempt(address("192.0.2.1"), || true), Outcome::Throttled(_)));
        tokio::time::advance(EVERY * (BURST + 5)).await;
        exhaust(&attempts, "192.0.2.1");
    }

    #[tokio::test(start_paused = true)]
    async fn other_addresses_are_not_slowed() {
        let attempts = Attempts::default();
        exhaust(&attempts, "192.0.2.1");
        exhaust(&attempts, "2001:db8::1");
        for other in ["192.0.2.2", "127.0.0.1", "::1", "2001:db8:0:1::1"] {
            assert_eq!(attempts.attempt(address(other), || true), Outcome::Admitted, "{other}");
        }
        for same in ["::ffff:192.0.2.1", "2001:db8::ffff:1"] {
            assert!(matches!(attempts.attempt(address(same), || true), Outcome::Throttled(_)), "{same}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_right_password_on_loopback_is_let_in_whatever_others_there_try() {
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let attempts = Attempts::default();
            exhaust(&attempts, loopback);
            assert_eq!(attempts.attempt(address(loopback), || true), Outcome::Admitted, "{loopback}");
            assert!(matches!(attempts.attempt(address(loopback), || false), Outcome::Throttled(_)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_those_that_guess_most() {
        let attempts = Attempts::default();
        exhaust(&attempts, "192.0.2.1");
        for number in 0..2 * u32::try_from(MAX_ADDRESSES).expect("small") {
            let from = IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
            assert_eq!(attempts.attempt(from, || false), Outcome::Wrong);
        }
        assert_eq!(lock(&attempts.0).addresses.len(), MAX_ADDRESSES);
        assert!(matches!(attempts.attempt(address("192.0.2.1"), || true), Outcome::Throttled(_)));
        let lines = lock(&attempts.0).lines.expect("lines").1;
        assert!(lines > MAX_LINES, "so many wanted a line: {lines}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_logged_once_a_minute() {
        let attempts = Attempts::default();
        exhaust(&attempts, "192.0.2.1");
        let unlogged = || lock(&attempts.0).addresses[&address("192.0.2.1")].unlogged;
        assert_eq!(unlogged(), u64::from(BURST));
        tokio::time::advance(LOG_EVERY).await;
        attempts.attempt(address("192.0.2.1"), || false);
        assert_eq!(unlogged(), 0);
    }
}
