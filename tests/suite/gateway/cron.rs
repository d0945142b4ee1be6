//! Functions that are called by a schedule, at times that the tests choose: what the function gets, what is made up
//! for, what waits, and what a restart, an update and a clock that jumps do.

use std::sync::Arc;
use std::time::Duration;

use crate::support::TemporaryDirectory;
use ::calls::triggers::cron::{Cron, CronError, End, Outcome, TimerStatus};
use host::runtime::ImageConfig;
use host::store::{FunctionRecord, RevisionRecord};
use jiff::Timestamp;
use model::function::{FunctionKey, Incarnation};
use model::wire::Deployment;

use super::later::{Seen, noting};
use super::{Gate, SocketAddr};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const FAILS: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad";
/// When functions are deployed.
const DEPLOYED: &str = "2026-11-22T08:00:00Z";

fn at(text: &str) -> Timestamp {
    let text = if text.contains('T') { text.to_owned() } else { format!("2026-11-22T{text}Z") };
    text.parse().expect("a time")
}

fn env() -> FunctionKey {
    FunctionKey::parse("env").expect("a name")
}

/// The function `env`, its timer, and what its replica got.
struct World {
    gate: Gate,
    cron: Cron,
    seen: Seen,
}

impl World {
    /// With this schedule, and these annotations beside it.
    async fn new(schedule: &str, more: &[(&str, &str)]) -> Self {
        Self::over(Arc::new(TemporaryDirectory::new()), "", schedule, more, &[OK]).await
    }

    /// The same, with this state, these settings of the queue, and these answers.
    async fn over(
        state: Arc<TemporaryDirectory>,
        settings: &str,
        schedule: &str,
        more: &[(&str, &str)],
        answers: &[&'static str],
    ) -> Self {
        let seen = Seen::default();
        let replica: SocketAddr = noting(&seen, answers).await;
        let gate = Gate::over(state, settings, &[replica], |_, _| {}).await;
        let cron =
            Cron::open(gate.store.clone(), gate.directory.clone(), gate.queue.clone()).expect("timers");
        let world = Self { gate, cron, seen };
        world.deploy(schedule, more, DEPLOYED);
        if !world.gate.store.has_function(&env()) {
            world.gate.store.put_function(&record()).await.expect("written");
        }
        world
    }

    /// Another process over what this one has left; it had no time to say anything.
    async fn killed(self, schedule: &str, more: &[(&str, &str)]) -> Self {
        let Self { mut gate, cron, .. } = self;
        let state = gate.state.clone();
        drop(cron);
        gate.begin_to_stop().await;
        gate.queue.stop(Duration::ZERO).await;
        let store = Arc::downgrade(&gate.store);
        gate.stopped().await;
        eventually!(store.strong_count() == 0, "the store is in use");
        Self::over(state, "", schedule, more, &[OK]).await
    }

    /// Deploys the function with a schedule.
    fn deploy(&self, schedule: &str, more: &[(&str, &str)], created_at: &str) {
        let fixed = [("topic", "cron-function"), ("schedule", schedule)];
        self.annotate(fixed.iter().chain(more).copied(), created_at);
    }

    fn annotate<'a>(&self, annotations: impl Iterator<Item = (&'a str, &'a str)>, created_at: &str) {
        let mut view = (*self.gate.entry.view()).clone();
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let deployment = Deployment { annotations: Some(annotations), ..(*view.deployment).clone() };
        view.spec = Arc::new((&deployment).try_into().expect("a valid deployment"));
        view.created_at = at(created_at);
        self.gate.publish(view);
    }

    async fn turn(&self, now: &str) {
        self.cron.turn(at(now)).await;
    }

    fn timer(&self) -> TimerStatus {
        self.cron.timer(&env()).expect("it has a schedule")
    }

    /// How many runs were accepted, left out for another one, missed.
    fn counts(&self) -> (u64, u64, u64) {
        let counts = self.timer().counts;
        (counts.accepted, counts.skipped, counts.missed)
    }

    fn next(&self) -> Option<Timestamp> {
        self.timer().next
    }

    fn outcome(&self) -> Option<Outcome> {
        self.timer().last.map(|last| last.outcome)
    }

    /// When the runs that came were due.
    fn came(&self) -> Vec<Timestamp> {
        let seen = self.seen.lock().expect("no panic");
        let due = |head: &str| head.lines().find_map(|line| line.strip_prefix("X-Scheduled-At: ")).map(at);
        seen.iter().filter_map(|(head, _)| due(head)).collect()
    }

    async fn pause(&self, paused: bool) {
        self.gate.queue.pause("default", paused).await.expect("done");
    }

    /// Waits until nothing is queued.
    async fn quiet(&self) {
        eventually!(self.gate.stored() == 0, "{:?}", self.gate.queue.queues());
        eventually!(
            self.timer().last.is_none_or(|last| !matches!(last.outcome, Outcome::Pending { .. })),
            "{:?}",
            self.timer()
        );
        // What is counted as running has left its lane.
        eventually!(
            self.gate.queue.queues().iter().all(|queue| queue.counts.running == 0),
            "{:?}",
            self.gate.queue.queues()
        );
    }
}

fn record() -> FunctionRecord {
    let deployment = Deployment { service: "env".into(), image: "a/b:1".into(), ..Default::default() };
    let wanted = RevisionRecord {
        number: 1,
        deployment,
        created_at: at(DEPLOYED),
        digest: "sha256:0".into(),
        manifest_digest: "sha256:1".into(),
        size: 7,
        config: ImageConfig::default(),
        default_memory: true,
    };
    FunctionRecord {
        key: env(),
        wanted,
        serving: None,
        desired: 1,
        last_revision: 1,
        failure: None,
        node: None,
        incarnation: Incarnation::new(1),
        revisions: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reaches_its_function_as_a_connector_would_send_it() {
    let world = World::new("30 12 * * *", &[]).await;
    assert_eq!(world.cron.turn(at("12:29:59.9")).await, Some(at("12:30:00")));
    assert_eq!((world.counts(), world.timer().last), ((0, 0, 0), None));
    world.turn("12:30:00.1").await;
    world.quiet().await;
    world.turn("12:30:00.2").await;
    assert_eq!(world.counts(), (1, 0, 0));
    let timer = world.timer();
    let last = timer.last.expect("a run");
    assert_eq!((last.due, last.at), (Some(at("12:30:00")), at("12:30:00.1")));
    assert_eq!(last.outcome, Outcome::Ended(End::Made));
    assert_eq!(timer.next, Some(at("2026-11-23T12:30:00Z")));
    let seen = world.seen.lock().expect("no panic");
    let [(head, body)] = &seen[..] else { panic!("{seen:?}") };
    assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
    for line in [
        "Host: env.openfaas-fn",
        "X-Topic: cron-function",
        "X-Connector: cron-connector",
        "X-Scheduled-At: 2026-11-22T12:30:00Z",
        "X-Start-Time: 1795350600100000000",
        "Content-Length: 0",
        &format!("X-Call-Id: {}", last.call_id),
    ] {
        assert!(head.contains(&format!("{line}\r\n")), "{line} is not in {head}");
    }
    assert_eq!((body.len(), last.call_id.len()), (0, 36));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_accepted_is_made_once_however_the_daemon_ends() {
    let world = World::new("*/10 * * * *", &[]).await;
    world.pause(true).await;
    world.turn("08:10:00").await;
    let id = world.timer().last.expect("a run").call_id;
    assert_eq!(world.gate.stored(), 1);
    // The next process meets the same minute, and a call that was accepted.
    let world = world.killed("*/10 * * * *", &[]).await;
    world.turn("08:10:20").await;
    assert_eq!((world.counts(), world.gate.stored()), ((1, 0, 0), 1), "it is accepted once more");
    assert_eq!(world.outcome(), Some(Outcome::Pending { tried: 0 }));
    assert_eq!(world.timer().last.expect("a run").call_id, id);
    world.pause(false).await;
    world.quiet().await;
    world.turn("08:10:21").await;
    assert_eq!((world.came(), world.outcome()), (vec![at("08:10:00")], Some(Outcome::Ended(End::Made))));
    // What came of it is known to the next process, too.
    let world = world.killed("*/10 * * * *", &[]).await;
    world.turn("08:10:40").await;
    assert_eq!((world.counts(), world.outcome()), ((1, 0, 0), Some(Outcome::Ended(End::Made))));
    world.turn("08:20:00").await;
    world.quiet().await;
    assert_eq!(world.came(), [at("08:20:00")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_overlap_are_made_beside_each_other_or_left_out() {
    let world = World::new("* * * * *", &[]).await;
    world.pause(true).await;
    for now in ["08:01:00", "08:02:00"] {
        world.turn(now).await;
    }
    assert_eq!((world.counts(), world.gate.stored()), ((2, 0, 0), 2), "allow is the default");
    world.deploy("* * * * *", &[("ingle.cron-overlap", "skip")], "08:02:30");
    world.turn("08:03:00").await;
    assert_eq!((world.counts(), world.gate.stored()), ((2, 1, 0), 2), "two are under way");
    let left_out = world.timer().left_out.expect("one was left out");
    assert_eq!((left_out.due, left_out.reason.as_str()), (at("08:03:00"), "an earlier run had not ended"));
    assert_eq!(world.next(), Some(at("08:04:00")));
    // Also after a restart it is known what is under way.
    let world = world.killed("* * * * *", &[("ingle.cron-overlap", "skip")]).await;
    world.turn("08:04:00").await;
    assert_eq!(world.counts(), (2, 2, 0));
    world.pause(false).await;
    world.quiet().await;
    world.turn("08:05:00").await;
    world.quiet().await;
    assert_eq!(world.counts(), (3, 2, 0));
    let mut came = world.came();
    came.sort();
    assert_eq!(came, [at("08:01:00"), at("08:02:00"), at("08:05:00")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_overlap_wait_for_each_other() {
    let queue = [("ingle.cron-overlap", "queue")];
    let world = World::new("* * * * *", &queue).await;
    world.pause(true).await;
    for now in ["08:01:00", "08:02:00", "08:03:00"] {
        world.turn(now).await;
    }
    assert_eq!((world.counts(), world.gate.stored(), world.timer().waiting), ((1, 0, 0), 1, 2));
    // They are on disk.
    let world = world.killed("* * * * *", &queue).await;
    world.turn("08:03:10").await;
    assert_eq!((world.timer().waiting, world.gate.stored()), (2, 1));
    world.pause(false).await;
    // Each end has the next one made.
    for (run, waiting) in [(2, 1), (3, 0)] {
        world.quiet().await;
        world.turn("08:03:20").await;
        assert_eq!((world.counts().0, world.timer().waiting), (run, waiting));
    }
    world.quiet().await;
    assert_eq!(world.came(), [at("08:01:00"), at("08:02:00"), at("08:03:00")]);
    // A whole hour of them does not wait.
    world.pause(true).await;
    for minute in 4..50 {
        world.turn(&format!("08:{minute:02}:00")).await;
    }
    assert_eq!((world.counts(), world.timer().waiting), ((4, 13, 0), 32));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_run_has_the_next_one_made_at_once() {
    let world = World::new("* * * * *", &[("ingle.cron-overlap", "queue")]).await;
    world.pause(true).await;
    world.turn("08:01:00").await;
    world.turn("08:02:00").await;
    let ended = async {
        world.gate.queue.run_ended().await;
        world.turn("08:02:01").await;
    };
    world.pause(false).await;
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("it is told");
    world.quiet().await;
    assert_eq!(world.came(), [at("08:01:00"), at("08:02:00")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_tried_again_is_under_way_and_one_that_was_given_up_is_not() {
    let state = Arc::new(TemporaryDirectory::new());
    let skip = [("ingle.cron-overlap", "skip"), ("com.openfaas.retry.attempts", "2")];
    let settings = "retry_min_wait = \"600s\"\nretry_max_wait = \"600s\"\n";
    let world = World::over(state, settings, "* * * * *", &skip, &[FAILS]).await;
    world.turn("08:01:00").await;
    eventually!(world.outcome() == Some(Outcome::Pending { tried: 1 }), "{:?}", world.timer());
    world.turn("08:02:00").await;
    assert_eq!(world.counts(), (1, 1, 0));
    let more = [("ingle.cron-overlap", "skip"), ("com.openfaas.retry.attempts", "1")];
    let world = world.killed("* * * * *", &more).await;
    world.turn("08:03:00").await;
    assert_eq!(world.counts(), (1, 2, 0), "its pause goes on");
    world.cron.run_now(&env(), at("08:03:10")).await.expect("accepted");
    eventually!(world.outcome() == Some(Outcome::Ended(End::Made)), "{:?}", world.timer());
    world.turn("08:04:00").await;
    assert_eq!(world.counts(), (2, 3, 0), "the first one goes on waiting");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_is_said_and_ends_the_run() {
    let state = Arc::new(TemporaryDirectory::new());
    let skip = [("ingle.cron-overlap", "skip"), ("com.openfaas.retry.attempts", "1")];
    let world = World::over(state, "", "* * * * *", &skip, &[FAILS]).await;
    world.turn("08:01:00").await;
    eventually!(world.outcome() == Some(Outcome::Ended(End::GivenUp)), "{:?}", world.timer());
    world.quiet().await;
    world.turn("08:01:30").await;
    // Thrown away, it still was what it was.
    assert_eq!(world.gate.queue.purge_all(&Default::default()).await.expect("purged"), 1);
    assert_eq!(world.outcome(), Some(Outcome::Ended(End::GivenUp)));
    world.turn("08:02:00").await;
    assert_eq!(world.counts(), (2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_is_said_and_ends() {
    let world = World::new("* * * * *", &[("ingle.cron-overlap", "skip")]).await;
    world.pause(true).await;
    world.turn("08:01:00").await;
    let id = world.timer().last.expect("a run").call_id;
    world.gate.queue.cancel(&id).await.expect("cancelled");
    let told = world.gate.queue.run_ended();
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("it is told");
    world.turn("08:01:01").await;
    assert_eq!(world.outcome(), Some(Outcome::Ended(End::Cancelled)));
    world.turn("08:02:00").await;
    assert_eq!(world.counts(), (2, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_read_is_said_and_stops_nothing() {
    let skip = [("ingle.cron-overlap", "skip")];
    let world = World::new("* * * * *", &skip).await;
    world.pause(true).await;
    world.turn("08:01:00").await;
    let (number, _) = world.gate.store.jobs().next().expect("a call").expect("readable");
    world.gate.store.put_job(number, b"damaged".to_vec()).await.expect("written");
    let world = world.killed("* * * * *", &skip).await;
    world.turn("08:01:10").await;
    assert_eq!(world.outcome(), Some(Outcome::Ended(End::Unreadable)));
    world.pause(false).await;
    world.turn("08:02:00").await;
    eventually!(world.came() == [at("08:02:00")], "{:?}", world.timer());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_left_out_or_made_once() {
    for (missed, came, counts) in [("skip", vec![], (0, 0, 3)), ("once", vec![at("11:00:00")], (1, 0, 2))] {
        let world = World::new("0 * * * *", &[("ingle.cron-missed", missed)]).await;
        world.turn("11:30:00").await;
        assert_eq!(world.counts(), counts, "{missed}");
        world.quiet().await;
        world.turn("11:30:01").await;
        assert_eq!((world.came(), world.counts()), (came, counts), "{missed}");
        assert_eq!(world.next(), Some(at("12:00:00")));
    }
    // As long as a restart takes.
    let world = World::new("0 * * * *", &[]).await;
    world.turn("09:01:00").await;
    assert_eq!(world.counts(), (1, 0, 0));
    world.turn("10:01:01").await;
    assert_eq!(world.counts(), (1, 0, 1));
    let left_out = world.timer().left_out.expect("one was left out");
    assert!(left_out.due == at("10:00:00") && left_out.reason.contains("not running"), "{left_out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ahead_makes_no_storm() {
    let world = World::new("* * * * *; @every 10s", &[("ingle.cron-missed", "once")]).await;
    world.turn("08:00:10").await;
    // A machine without a clock of its own learns the time.
    world.turn("2031-01-01T00:00:05Z").await;
    world.turn("2031-01-01T00:00:06Z").await;
    let (accepted, _, missed) = world.counts();
    assert_eq!((accepted, missed), (2, 999));
    assert_eq!(world.next(), Some(at("2031-01-01T00:00:10Z")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_neither_repeats_nor_stalls() {
    // By an hour: what is at a time of the day was there.
    let world = World::new("15 11 * * *", &[]).await;
    world.turn("11:15:00").await;
    world.turn("10:30:00").await;
    assert_eq!(world.next(), Some(at("2026-11-23T11:15:00Z")));
    world.turn("11:15:00").await;
    world.turn("11:16:30").await;
    assert_eq!(world.counts(), (1, 0, 0));
    // By days: it was wrong before.
    let world = World::new("15 11 * * *", &[]).await;
    world.turn("2027-06-01T11:15:00Z").await;
    assert_eq!(world.counts(), (1, 0, 191), "what it thinks was missed");
    world.turn("10:30:00").await;
    assert_eq!(world.next(), Some(at("11:15:00")));
    world.turn("11:15:00").await;
    assert_eq!(world.counts(), (2, 0, 191));
    assert_eq!(world.next(), Some(at("2026-11-23T11:15:00Z")));
    // What goes on and on goes on by the clock as it is.
    let world = World::new("*/5 * * * *", &[]).await;
    world.turn("09:00:00").await;
    world.turn("08:01:00").await;
    assert_eq!(world.next(), Some(at("08:05:00")));
    for now in ["08:05:00", "08:10:00", "08:10:01"] {
        world.turn(now).await;
    }
    assert_eq!(world.counts().0, 3);
    // By a second, or some: it is set right, and what was made is not made anew.
    let world = World::new("*/5 * * * *; @every 10s", &[]).await;
    world.turn("09:00:00").await;
    let made = world.counts().0;
    for now in ["08:59:59", "09:00:00", "08:59:15", "08:59:50", "09:00:00"] {
        world.turn(now).await;
        assert_eq!((world.counts().0, world.next()), (made, Some(at("09:00:10"))), "{now}");
    }
    // Of the two, each by its own rule.
    let world = World::new("30 8 * * *; */20 * * * *", &[]).await;
    world.turn("08:40:00").await;
    world.turn("08:10:00").await;
    let before = world.counts();
    world.turn("08:20:00").await;
    world.turn("08:35:00").await;
    assert_eq!(world.counts(), (before.0 + 1, before.1, before.2), "08:30 came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_starts_with_an_old_clock_makes_up_for_nothing_that_was_made() {
    let once = [("ingle.cron-missed", "once")];
    let world = World::new("0 9 * * *", &once).await;
    world.turn("09:00:00").await;
    world.quiet().await;
    world.turn("09:00:01").await;
    let world = world.killed("0 9 * * *", &once).await;
    for now in ["2023-05-05T08:00:00Z", "2023-05-05T08:00:30Z", "15:00:00", "15:00:01"] {
        world.turn(now).await;
        assert_eq!(world.counts(), (1, 0, 0), "{now}");
    }
    // And what was missed is made up for when the time is known.
    let world = world.killed("0 9 * * *", &once).await;
    world.turn("2023-05-05T08:00:00Z").await;
    world.turn("2026-11-23T15:00:00Z").await;
    world.quiet().await;
    assert_eq!((world.counts(), world.came()), ((2, 0, 0), vec![at("2026-11-23T09:00:00Z")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_keep_a_timer_and_another_schedule_counts_from_then_on() {
    let once = [("ingle.cron-missed", "once")];
    let world = World::new("0 9 * * *", &once).await;
    world.turn("09:00:00").await;
    world.quiet().await;
    // Due at 08:30 would have been missed today; but it was not asked for then.
    world.deploy("30 8 * * *", &once, "09:10:00");
    world.turn("09:10:01").await;
    assert_eq!((world.counts(), world.next()), ((1, 0, 0), Some(at("2026-11-23T08:30:00Z"))));
    assert!(world.timer().last.is_some(), "what was there is kept");
    // The same when the daemon is killed before it has seen it.
    let world = world.killed("30 8 * * *", &once).await;
    world.deploy("0 9 * * *", &once, "09:20:00");
    world.turn("09:20:01").await;
    assert_eq!((world.counts(), world.next()), ((1, 0, 0), Some(at("2026-11-23T09:00:00Z"))));
    // Without a schedule it is not called any more, and nothing is known of it.
    world.annotate([].into_iter(), "09:30:00");
    world.turn("09:30:01").await;
    assert_eq!(world.cron.timer(&env()), None);
    eventually!(
        world.gate.store.timers::<serde_json::Value>().expect("readable").is_empty(),
        "its row stays"
    );
    world.turn("2026-11-23T09:00:00Z").await;
    assert_eq!(world.gate.stored(), 0);
    let error = world.cron.run_now(&env(), at("09:31:00")).await.expect_err("no schedule");
    assert!(matches!(error, CronError::NoSchedule(_)), "{error}");
    // Removed, it is nothing.
    world.deploy("0 9 * * *", &[], "2026-11-24T00:00:00Z");
    world.turn("2026-11-24T00:00:01Z").await;
    assert!(world.cron.timer(&env()).is_some());
    world.gate.remove();
    world.turn("2026-11-24T09:00:00Z").await;
    assert_eq!((world.cron.timers(), world.gate.stored()), (vec![], 0));
    let error = world.cron.run_now(&env(), at("2026-11-24T09:00:00Z")).await.expect_err("no function");
    assert!(matches!(error, CronError::NotFound(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_asked_for_is_made_whatever_else_runs() {
    let world = World::new("0 9 * * *", &[("ingle.cron-overlap", "skip")]).await;
    world.pause(true).await;
    world.turn("08:10:00").await;
    let first = world.cron.run_now(&env(), at("08:20:00")).await.expect("accepted");
    let second = world.cron.run_now(&env(), at("08:20:01")).await.expect("accepted");
    assert_ne!(first, second);
    let last = world.timer().last.expect("a run");
    assert_eq!((last.call_id, last.due, last.at), (second, None, at("08:20:01")));
    assert_eq!((world.counts().0, world.next()), (2, Some(at("09:00:00"))), "its schedule goes on");
    // It counts as one that runs.
    world.turn("09:00:00").await;
    assert_eq!((world.counts(), world.gate.stored()), ((2, 1, 0), 2));
    world.pause(false).await;
    world.quiet().await;
    assert_eq!(world.came(), [], "they were not due");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_said_and_the_run_made_when_there_is_room() {
    let state = Arc::new(TemporaryDirectory::new());
    let world = World::over(state, "max_calls = 1", "* * * * *", &[], &[OK]).await;
    world.pause(true).await;
    world.turn("08:01:00").await;
    for now in ["08:02:00", "08:02:01"] {
        world.turn(now).await;
        assert_eq!(world.counts(), (1, 0, 0));
    }
    let problem = world.timer().problem.expect("said");
    assert!(problem.contains("queue.max_calls"), "{problem}");
    world.pause(false).await;
    eventually!(world.gate.stored() == 0, "{:?}", world.gate.queue.queues());
    eventually!(
        {
            world.turn("08:02:30").await;
            world.counts() == (2, 0, 0)
        },
        "{:?}",
        world.timer()
    );
    world.quiet().await;
    assert_eq!((world.came(), world.timer().problem), (vec![at("08:01:00"), at("08:02:00")], None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_left_out_has_the_reason_that_kept_it_from_being_made() {
    let state = Arc::new(TemporaryDirectory::new());
    let world = World::over(state, "max_calls = 1", "0 * * * *", &[], &[OK]).await;
    world.pause(true).await;
    world.turn("09:00:00").await;
    for now in ["10:00:00", "10:00:30", "10:01:00"] {
        world.turn(now).await;
        assert_eq!(world.counts(), (1, 0, 0), "{now}");
    }
    world.turn("10:01:01").await;
    let left_out = world.timer().left_out.expect("one was left out");
    assert_eq!((left_out.due, world.counts()), (at("10:00:00"), (1, 0, 1)));
    assert!(left_out.reason.contains("queue.max_calls"), "{left_out:?}");
    // The queue is as full, but that is not why.
    world.turn("11:00:00").await;
    world.turn("14:30:00").await;
    let left_out = world.timer().left_out.expect("one was left out");
    assert_eq!((left_out.due, world.counts()), (at("14:00:00"), (1, 0, 5)));
    assert!(left_out.reason.contains("not running"), "{left_out:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_that_has_gone_is_said_and_stops_nobody_else() {
    let world = World::new("TZ=Mars/Olympus @daily", &[]).await;
    world.turn("08:10:00").await;
    let timer = world.timer();
    assert!(timer.problem.is_some_and(|problem| problem.contains("tzdata")));
    assert_eq!(timer.next, None);
    world.deploy("TZ=Europe/Berlin 30 12 * * *", &[], "08:11:00");
    world.turn("08:11:01").await;
    assert_eq!((world.next(), world.timer().problem), (Some(at("11:30:00")), None));
    assert_eq!(world.timer().zones, ["Europe/Berlin"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_late_by_a_part_of_the_jitter_and_none_is_missed_for_it() {
    let jitter = [("ingle.cron-jitter", "30m")];
    let world = World::new("0 * * * *", &jitter).await;
    world.turn("08:00:01").await;
    let next = world.next().expect("one");
    let delay = next.duration_since(at("09:00:00"));
    assert!(!delay.is_negative() && delay.as_secs() < 1800, "{next}");
    world.cron.turn(next - Duration::from_millis(1)).await;
    assert_eq!(world.counts(), (0, 0, 0));
    world.cron.turn(next).await;
    assert_eq!(world.counts(), (1, 0, 0));
    assert_eq!(
        world.next().map(|then| then.duration_since(next).as_secs()),
        Some(3600),
        "they keep their distance"
    );
    world.quiet().await;
    assert_eq!(world.came(), [at("09:00:00")]);
}
