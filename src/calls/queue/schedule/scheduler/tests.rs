use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn key(name: &str) -> LaneKey {
    LaneKey::Function(FunctionKey::parse(name).expect("a name"))
}

impl FairScheduler {
    /// How many calls there are, running ones included.
    fn total(&self) -> usize {
        self.lanes.values().map(Lane::count).sum()
    }

    fn ended(&mut self, function: &LaneKey, number: u64, again: Option<Instant>) {
        self.finished(function, number, again.map_or(Next::Nothing, Next::At), Instant::now());
    }

    fn refused(&mut self, function: &LaneKey, number: u64, now: Instant, asked: Duration) {
        self.finished(function, number, Next::Refused(asked), now);
    }

    fn given_up(&mut self, function: &LaneKey, now: Instant, asked: Duration) {
        self.finished(function, 0, Next::GivenUp(asked), now);
    }

    /// The counts of a function.
    fn of(&self, function: &LaneKey) -> Counts {
        self.lanes.get(function).map_or_else(Counts::default, |lane| Counts {
            ready: lane.ready.len(),
            waiting: lane.waiting,
            running: lane.running,
        })
    }
}

fn lanes(all: usize, queue: usize) -> FairScheduler {
    FairScheduler::new(Limits { all, queue })
}

/// Returns what is made next, while `limit` of each function may run.
fn take(lanes: &mut FairScheduler, limit: usize) -> Vec<u64> {
    let now = Instant::now();
    std::iter::from_fn(|| lanes.next(now, |_| limit)).map(|(_, number)| number).collect()
}

#[test]
fn a_lane_keeps_its_order_and_lanes_take_turns() {
    let mut lanes = lanes(100, 100);
    for number in 1..=4 {
        lanes.add(&key("busy"), "", number, None);
    }
    lanes.add(&key("other"), "", 5, None);
    assert_eq!(take(&mut lanes, 100), [1, 5, 2, 3, 4]);
    assert_eq!(lanes.of(&key("busy")), Counts { running: 4, ..Counts::default() });
}

#[test]
fn limits_hold_for_a_function_a_queue_and_all() {
    let mut of_function = lanes(100, 100);
    (1..=3).for_each(|number| of_function.add(&key("slow"), "", number, None));
    of_function.add(&key("quick"), "", 4, None);
    assert_eq!(take(&mut of_function, 1), [1, 4], "the slow one holds up nobody else");
    of_function.ended(&key("slow"), 1, None);
    assert_eq!(take(&mut of_function, 1), [2]);

    let mut of_queue = lanes(100, 2);
    for (number, function, queue) in [(1, "a", "x"), (2, "b", "x"), (3, "c", "x"), (4, "d", "y")] {
        of_queue.add(&key(function), queue, number, None);
    }
    assert_eq!(take(&mut of_queue, 9), [1, 2, 4]);
    of_queue.ended(&key("b"), 2, None);
    assert_eq!(take(&mut of_queue, 9), [3]);

    let mut of_all = lanes(4, 100);
    (1..=3).for_each(|number| of_all.add(&key("a"), "", number, None));
    (4..=6).for_each(|number| of_all.add(&key("b"), "", number, None));
    (7..=9).for_each(|number| of_all.add(&key("c"), "", number, None));
    assert_eq!(take(&mut of_all, 9), [1, 4, 7, 2]);
    of_all.ended(&key("a"), 1, None);
    assert_eq!(take(&mut of_all, 9), [5]);
}

#[test]
fn no_function_takes_more_than_half_of_all_places() {
    let mut lanes = lanes(5, 100);
    (1..=9).for_each(|number| lanes.add(&key("slow"), "", number, None));
    assert_eq!(take(&mut lanes, 9), [1, 2, 3]);
    lanes.add(&key("quick"), "", 10, None);
    assert_eq!(take(&mut lanes, 9), [10]);
}

#[test]
fn a_function_without_room_is_left_alone_for_longer_each_time() {
    let mut lanes = lanes(9, 9);
    let (mut now, second) = (Instant::now(), Duration::from_secs(1));
    (1..=3).for_each(|number| lanes.add(&key("a"), "", number, None));
    for held in [100, 200, 400, 800, 1600, 3200, 5000, 5000] {
        assert_eq!(lanes.next(now, |_| 2), Some((key("a"), 1)), "it keeps its place");
        assert_eq!(lanes.next(now, |_| 2), Some((key("a"), 2)));
        lanes.refused(&key("a"), 2, now, Duration::ZERO);
        lanes.refused(&key("a"), 1, now, Duration::ZERO);
        let until = now + Duration::from_millis(held);
        assert_eq!(lanes.next_due(now), Some(until));
        assert_eq!(lanes.next(until - Duration::from_millis(1), |_| 2), None);
        now = until;
    }
    assert_eq!(lanes.next(now, |_| 1), Some((key("a"), 1)));
    lanes.refused(&key("a"), 1, now, second * 60);
    assert_eq!(lanes.next_due(now), Some(now + second * 60), "as long as it asks for");
    now += second * 60;
    assert_eq!(lanes.next(now, |_| 1), Some((key("a"), 1)));
    lanes.ended(&key("a"), 1, None);
    assert_eq!(lanes.next(now, |_| 1), Some((key("a"), 2)), "it has room again");
    lanes.refused(&key("a"), 2, now, Duration::ZERO);
    assert_eq!(lanes.next_due(now), Some(now + Duration::from_millis(100)));
}

#[test]
fn lanes_follow_their_functions_into_other_queues() {
    let mut lanes = lanes(9, 9);
    lanes.pause("x", true);
    (1..=2).for_each(|number| lanes.add(&key("a"), "x", number, None));
    lanes.add(&key("gone"), "x", 3, None);
    assert_eq!(take(&mut lanes, 9), [0; 0]);
    lanes.reassign(|function| (*function == key("a")).then(|| "y".into()));
    assert_eq!(take(&mut lanes, 9), [1, 2]);
    assert_eq!(lanes.queues()["y"], (false, Counts { running: 2, ..Counts::default() }));
}

#[test]
fn a_waiting_call_runs_in_time_and_before_later_ones() {
    let mut lanes = lanes(1, 1);
    let now = Instant::now();
    let later = now + Duration::from_secs(10);
    lanes.add(&key("a"), "", 1, None);
    lanes.add(&key("a"), "", 2, None);
    lanes.add(&key("a"), "", 3, None);
    assert_eq!(lanes.next(now, |_| 9), Some((key("a"), 1)));
    lanes.ended(&key("a"), 1, Some(later));
    assert_eq!(lanes.of(&key("a")), Counts { ready: 2, waiting: 1, running: 0 });
    assert_eq!(lanes.next_due(now), Some(later));
    assert_eq!(lanes.next(now, |_| 9), Some((key("a"), 2)));
    lanes.ended(&key("a"), 2, None);
    assert_eq!(lanes.next(later, |_| 9), Some((key("a"), 1)));
    lanes.ended(&key("a"), 1, None);
    assert_eq!(lanes.next(later, |_| 9), Some((key("a"), 3)));
    lanes.ended(&key("a"), 3, None);
    assert_eq!((lanes.total(), lanes.next_due(now)), (0, None));
}

#[test]
fn a_paused_queue_makes_no_calls_and_keeps_them() {
    let mut lanes = lanes(9, 9);
    lanes.pause("x", true);
    lanes.add(&key("a"), "x", 1, None);
    lanes.add(&key("b"), "", 2, None);
    assert_eq!(take(&mut lanes, 9), [2]);
    let queues = lanes.queues();
    assert_eq!(queues["x"], (true, Counts { ready: 1, ..Counts::default() }));
    assert_eq!(queues[""], (false, Counts { running: 1, ..Counts::default() }));
    lanes.pause("x", false);
    assert_eq!(take(&mut lanes, 9), [1]);
}

#[test]
fn a_function_that_changes_its_queue_takes_what_runs_along() {
    let mut lanes = lanes(9, 1);
    lanes.add(&key("a"), "x", 1, None);
    assert_eq!(take(&mut lanes, 9), [1]);
    lanes.add(&key("a"), "y", 2, None);
    lanes.add(&key("b"), "x", 3, None);
    assert_eq!(take(&mut lanes, 9), [3], "its call counts for y now");
    lanes.ended(&key("a"), 1, None);
    assert_eq!(take(&mut lanes, 9), [2]);
}

#[derive(Debug, Clone)]
enum Event {
    Add { function: u8, queue: u8, later: bool },
    Next,
    End { which: usize, again: bool },
    Refuse { which: usize },
    Pause { queue: u8, paused: bool },
    Pass,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0u8..3, 0u8..2, any::<bool>()).prop_map(|(function, queue, later)| Event::Add { function, queue, later }),
        4 => Just(Event::Next),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Event::End { which, again }),
        1 => any::<usize>().prop_map(|which| Event::Refuse { which }),
        1 => (0u8..2, any::<bool>()).prop_map(|(queue, paused)| Event::Pause { queue, paused }),
        1 => Just(Event::Pass),
    ];
    prop::collection::vec(event, 0..80)
}

#[test]
fn rejection_time_counts_from_the_first_attempt() {
    let mut lanes = lanes(10, 10);
    let (a, start) = (key("a"), Instant::now());
    let after = |seconds| start + Duration::from_secs(seconds);
    for number in 1..=3 {
        lanes.add(&a, "x", number, None);
    }
    let any = |_: &LaneKey| 1;
    assert_eq!(lanes.refused_for(&a, after(1000)), Duration::ZERO, "nobody has asked");
    for at in [1000, 1100, 1200] {
        let (lane, number) = lanes.next(after(at), any).expect("one");
        assert_eq!((lanes.refused_for(&lane, after(at)).as_secs(), number), (at - 1000, 1));
        lanes.refused(&lane, number, after(at), Duration::ZERO);
    }
    // To give one up says nothing of the others, which are left alone as before.
    let (lane, _) = lanes.next(after(1300), any).expect("one");
    lanes.given_up(&lane, after(1300), Duration::ZERO);
    assert_eq!(lanes.refused_for(&a, after(1300)).as_secs(), 300);
    assert_eq!(lanes.next(after(1300), any), None, "it has no room");
    // Time in a pause does not count.
    lanes.pause("other", true);
    lanes.pause("other", false);
    lanes.pause("x", false);
    assert_eq!(lanes.refused_for(&a, after(1310)).as_secs(), 310, "it was not paused");
    lanes.pause("x", true);
    lanes.pause("x", false);
    assert_eq!(lanes.refused_for(&a, after(2000)), Duration::ZERO);
    let (lane, number) = lanes.next(after(2000), any).expect("one");
    lanes.refused(&lane, number, after(2000), Duration::ZERO);
    let (lane, number) = lanes.next(after(2100), any).expect("one");
    assert_eq!((lanes.refused_for(&a, after(2100)).as_secs(), number), (100, 2));
    lanes.ended(&lane, number, None);
    assert_eq!(lanes.refused_for(&a, after(2100)), Duration::ZERO, "it had room");
}

proptest! {
    /// Whatever happens: nothing is lost or made twice at the same time, the limits hold, and once no queue is
    /// paused and time has passed, everything is made.
    #[test]
    fn nothing_is_lost_and_limits_hold(
        all in 1usize..5, queue in 1usize..4, limit in 1usize..4, events in events(),
    ) {
        let mut lanes = lanes(all, queue);
        let mut now = Instant::now();
        let mut held = BTreeSet::new();
        let mut running: Vec<(LaneKey, u64)> = Vec::new();
        let mut number = 0;
        let function = |index: u8| key(["a", "b", "c"][usize::from(index)]);
        for event in events {
            match event {
                Event::Add { function: index, queue, later } => {
                    number += 1;
                    held.insert(number);
                    let at = later.then(|| now + Duration::from_secs(5));
                    lanes.add(&function(index), ["x", "y"][usize::from(queue)], number, at);
                }
                Event::Next => {
                    if let Some(found) = lanes.next(now, |_| limit) {
                        prop_assert!(held.contains(&found.1) && !running.contains(&found));
                        running.push(found);
                    }
                }
                Event::End { which, again } if !running.is_empty() => {
                    let (function, number) = running.swap_remove(which % running.len());
                    lanes.ended(&function, number, again.then(|| now + Duration::from_secs(5)));
                    if !again {
                        held.remove(&number);
                    }
                }
                Event::Pause { queue, paused } => lanes.pause(["x", "y"][usize::from(queue)], paused),
                Event::Pass => now += Duration::from_secs(3),
                Event::Refuse { which } if which % 5 == 4 && !running.is_empty() => {
                    let (function, number) = running.swap_remove(which % running.len());
                    lanes.given_up(&function, now, Duration::ZERO);
                    held.remove(&number);
                }
                Event::Refuse { which } if !running.is_empty() => {
                    let (function, number) = running.swap_remove(which % running.len());
                    lanes.refused(&function, number, now, Duration::ZERO);
                }
                Event::End { .. } | Event::Refuse { .. } => {}
            }
            prop_assert_eq!(lanes.total(), held.len());
            prop_assert!(running.len() <= all);
            for index in 0..3 {
                let of = running.iter().filter(|(owner, _)| *owner == function(index)).count();
                prop_assert!(of <= limit);
                prop_assert_eq!(lanes.of(&function(index)).running, of);
            }
        }
        lanes.pause("x", false);
        lanes.pause("y", false);
        now += Duration::from_secs(10);
        for _ in 0..200 {
            while let Some(found) = lanes.next(now, |_| limit) {
                running.push(found);
            }
            for (function, number) in running.drain(..) {
                lanes.ended(&function, number, None);
                held.remove(&number);
            }
        }
        prop_assert!(held.is_empty(), "{:?} were never made", held);
        prop_assert_eq!(lanes.total(), 0);
    }
}

#[test]
fn callbacks_to_unnamed_hosts_start_once_a_second_in_all() {
    let mut lanes = lanes(100, 100);
    let began = Instant::now();
    for number in 0..12 {
        lanes.add(&LaneKey::Unnamed(u8::try_from(number % 4).expect("few")), CALLBACKS, number, None);
        lanes.add(&LaneKey::Receivers(0), CALLBACKS, 100 + number, None);
    }
    // Steps through every time at which something is due: named hosts go at once, the others one by one.
    let (mut now, mut named, mut unnamed) = (began, 0, Vec::new());
    loop {
        while let Some((lane, number)) =
            lanes.next(now, |lane| if *lane == LaneKey::Receivers(0) { 100 } else { 1 })
        {
            if lane == LaneKey::Receivers(0) {
                named += 1;
            } else {
                unnamed.push(now - began);
            }
            lanes.ended(&lane, number, None);
        }
        assert_eq!(named, 12, "after {:?}", now - began);
        match lanes.next_due(now) {
            Some(due) => now = due,
            None => break,
        }
    }
    let seconds: Vec<Duration> = (0..12).map(Duration::from_secs).collect();
    assert_eq!(unnamed, seconds);
    assert_eq!(lanes.total(), 0);
}
