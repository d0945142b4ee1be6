//! Rounds of chaos under load: in each something is asked of the daemon, and at some moment of it something is
//! killed. What was lost is then brought back as systemd would, and everything must be as it was wanted: every
//! function answers with its wanted revision, those that were deleted are gone, and what is on the machine is
//! exactly what the functions own.
//!
//! Calls go on all the time, over a socket that is kept for the daemon as systemd keeps it. They may fail only
//! where that cannot be helped: on a connection to a daemon that is killed, and, where the call may not be made
//! twice, in a replica that is killed.
//!
//! ```text
//! plan     what is asked, what is killed, and when
//! ask      asks it, and knows what may come of that
//! truth    what each function may answer now; the judge of all calls
//! load     the clients
//! rounds   carries rounds out, and compares
//! ```
//!
//! `INGLE_TESTS_LONG=100,7` asks for 100 rounds with seed 7. The moments are the seed's, but what the machine
//! makes of them is not: the same seed meets the same fault in most runs, not in all.

mod ask;
mod load;
mod plan;
mod rounds;
mod truth;

use std::time::{Duration, Instant};

use crate::support::daemon::in_own_network;
use crate::support::long::{Chance, VARIABLE, long};
use plan::Plan;
use rounds::World;

/// Rounds of the short form, and the time after which no further one begins.
const SHORT: u32 = 10;
const SHORT_LIMIT: Duration = Duration::from_secs(40);

#[test]
fn whatever_is_killed_all_functions_come_back_and_nothing_leaks() {
    require_root!();
    require!("containerd", "ctr", "runc", "ip", "nft");
    let asked = long();
    let rounds = asked.map_or(SHORT, |long| long.rounds);
    let seed = asked.and_then(|long| long.seed).unwrap_or_else(Chance::any_seed);
    println!("chaos: seed {seed}, {rounds} rounds; again with {VARIABLE}={rounds},{seed}");
    in_own_network(async {
        let began = Instant::now();
        let mut world = World::new().await;
        let mut chance = Chance::new(seed);
        for round in 1..=rounds {
            if asked.is_none() && began.elapsed() > SHORT_LIMIT {
                println!("chaos: {} of {rounds} rounds in {:?}", round - 1, began.elapsed());
                break;
            }
            let plan = Plan::draw(&mut chance, &world.wanted);
            world.round(&format!("seed {seed}, round {round} of {rounds}"), plan).await;
        }
        world.finish(&format!("seed {seed}, after all rounds")).await;
    });
}
