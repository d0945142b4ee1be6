//! Rate limit for wrong passwords.
//!
//! Each address has [`BURST`] wrong attempts, and regains one every [`EVERY`]; IPv6 addresses are counted by
//! their /64, the prefix of one subscriber. Once an address has no attempts left its passwords are not
//! checked at all, because a different response to the right one would allow it to go on guessing. On
//! loopback the right password is always admitted: a proxy there stands for many clients, and one that
//! guesses must not lock out the others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use model::sync::lock;
use tokio::time::Instant;

use super::client::block_of;

/// Wrong attempts that an address may make in a burst.
const BURST: u32 = 10;
/// The time after which an address regains one attempt.
const EVERY: Duration = Duration::from_secs(6);
/// Largest number of addresses in the table.
const MAX_ADDRESSES: usize = 4096;
/// The time between two lines in the log for one address.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Lines within [`LOG_EVERY`] for all addresses together.
const MAX_LINES: u32 = 30;

/// The outcome of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The password is right.
    Admitted,
    /// The password is wrong.
    Wrong,
    /// The password was not checked: the address regains an attempt after this time.
    Throttled(Duration),
}

/// Wrong attempts by address.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    addresses: HashMap<IpAddr, Address>,
    /// The start of the current period of the log, and the lines in it.
    lines: Option<(Instant, u32)>,
}

/// An address that has sent wrong passwords.
#[derive(Debug)]
struct Address {
    /// The time at which the address has all of its attempts again.
    whole_at: Instant,
    /// The time at which the log last named the address.
    logged_at: Option<Instant>,
    /// Attempts since `logged_at`.
    unlogged: u64,
}

impl Attempts {
    /// Makes an attempt for `address`; `is_right` checks the password.
    pub(super) fn attempt(&self, address: IpAddr, is_right: impl FnOnce() -> bool) -> Outcome {
        let now = Instant::now();
        let address = block_of(address);
        // Held while the password is checked, so that concurrent attempts are counted one by one.
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

    /// Evicts the addresses that have all of their attempts again, else the one that is closest to it.
    fn evict(&mut self, now: Instant) {
        self.addresses.retain(|_, known| known.whole_at > now);
        let nearest =
            self.addresses.iter().min_by_key(|(_, known)| known.whole_at).map(|(address, _)| *address);
        if let Some(nearest) = nearest.filter(|_| self.addresses.len() >= MAX_ADDRESSES) {
            self.addresses.remove(&nearest);
        }
    }

    /// Names an address in the log, at most once per [`LOG_EVERY`]. The user name is left out: some type the password
    /// there.
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
    async fn passwords_of_an_address_without_attempts_are_not_checked_until_it_regains_one() {
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
    async fn other_addresses_are_not_throttled() {
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
    async fn the_right_password_is_always_admitted_on_loopback() {
        for loopback in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let attempts = Attempts::default();
            exhaust(&attempts, loopback);
            assert_eq!(attempts.attempt(address(loopback), || true), Outcome::Admitted, "{loopback}");
            assert!(matches!(attempts.attempt(address(loopback), || false), Outcome::Throttled(_)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_keeps_the_addresses_that_guess_most() {
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
