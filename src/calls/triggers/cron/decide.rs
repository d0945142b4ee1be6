//! What a timer does now. Pure: it is told the time, and whether its runs have ended.

use jiff::{SignedDuration, Timestamp};
use schedule::Timetable;

use super::record::{LeftOut, Row};
use super::timer::Problem;
use model::function::{CronSettings, Missed, Overlap};

/// How late a run may be: after that its time has passed. As long as a restart takes, and a little more.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(60);
/// Why a run was missed that no attempt was made for.
const NOBODY_LOOKED: &str = "the daemon was not running or was held up, or the clock was set forward";
/// Runs of one function that wait for another to end.
const MOST_OWED: usize = 32;
/// Runs that were missed are counted up to this: a clock that jumps by years leaves out millions.
const MOST_COUNTED: usize = 1000;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decided {
    /// What the timer is after that.
    pub(super) row: Row,
    /// The run that is to be made, by the time at which it was due. There is never more than one.
    pub(super) run: Option<Timestamp>,
}

/// Decides. `delay` is how much later than their time runs are made; `free`: no run of it is under way; `problem` is
/// why the last attempt failed.
pub(super) fn decide(
    row: &Row,
    settings: &CronSettings,
    timetable: &Timetable,
    now: Timestamp,
    delay: SignedDuration,
    free: bool,
    problem: Option<&Problem>,
) -> Decided {
    let mut row = row.clone();
    let mut run = None;
    let since = row.since(now);
    let until = now.checked_sub(delay).unwrap_or(now);
    if let Some(due) = timetable.last(since, until) {
        let jitter = SignedDuration::try_from(settings.jitter).unwrap_or_default();
        let late = now.duration_since(due) > GRACE + jitter;
        let wanted = !late || settings.missed == Missed::Once;
        let all = timetable.count(since, due, MOST_COUNTED) as u64;
        let missed = if wanted { all.saturating_sub(1) } else { all };
        row.done(due);
        row.counts.missed += missed;
        if !wanted {
            // What was due by the last attempt was part of it.
            let refusal = problem.filter(|problem| due + delay <= problem.at);
            row.left_out = match refusal {
                Some(problem) => left_out(due, &format!("it was not accepted in time: {}", problem.reason)),
                None => left_out(due, NOBODY_LOOKED),
            };
        } else if settings.overlap == Overlap::Allow || free && row.owed.is_empty() {
            run = Some(due);
        } else if settings.overlap == Overlap::Queue && row.owed.len() < MOST_OWED {
            row.owed.push(due);
        } else {
            row.counts.skipped += 1;
            row.left_out = left_out(
                due,
                match settings.overlap {
                    Overlap::Queue => "too many runs wait for an earlier one to end",
                    Overlap::Skip | Overlap::Allow => "an earlier run had not ended",
                },
            );
        }
    }
    if run.is_none() && free && !row.owed.is_empty() {
        run = Some(row.owed.remove(0));
    }
    Decided { row, run }
}

fn left_out(due: Timestamp, reason: &str) -> Option<LeftOut> {
    Some(LeftOut { due, reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use proptest::prelude::*;
    use proptest::sample::select;
    use schedule::Schedule;

    use super::*;

    /// A schedule by chance: of both kinds, dense and rare.
    fn schedules() -> impl Strategy<Value = &'static str> {
        select(vec![
            "* * * * *",
            "*/7 * * * *",
            "0 3,15 * * *",
            "TZ=Europe/Berlin 30 2 * * *",
            "@every 40s",
            "@monthly; 10 * * * *",
        ])
    }

    fn settings(schedule: &str, overlap: Overlap, missed: Missed, jitter: u64) -> CronSettings {
        let parsed = Schedule::parse(schedule).expect("valid");
        let jitter = Duration::from_secs(jitter);
        CronSettings { text: schedule.into(), schedule: parsed, overlap, missed, jitter }
    }

    fn start() -> Timestamp {
        // The night in which summer time ends comes within the steps below.
        "2026-10-24T18:00:00Z".parse().expect("a time")
    }

    proptest! {
        /// However often it is looked, and however long nobody did: each time is accounted for once.
        #[test]
        fn each_time_is_made_waits_or_is_counted(
            schedule in schedules(),
            overlap in select(vec![Overlap::Allow, Overlap::Skip, Overlap::Queue]),
            missed in select(vec![Missed::Skip, Missed::Once]),
            jitter in select(vec![0, 45, 900]),
            steps in prop::collection::vec((prop_oneof![4 => 0..90_i64, 1 => 0..40_000_i64], any::<bool>()), 1..60),
        ) {
            let settings = settings(schedule, overlap, missed, jitter);
            let timetable = settings.schedule.timetable().expect("zones");
            let delay = SignedDuration::from_secs(i64::try_from(jitter).expect("small") / 2);
            let (mut row, mut now) = (Row::new(start()), start());
            let mut made = Vec::new();
            for (step, free) in steps {
                now += SignedDuration::from_secs(step);
                let decided = decide(&row, &settings, &timetable, now, delay, free, None);
                row = decided.row;
                made.extend(decided.run);
                let (counts, until) = (row.counts, now - delay);
                let accounted = made.len() as u64 + counts.skipped + counts.missed + row.owed.len() as u64;
                // Of one gap no more is counted.
                let due = timetable.count(start(), until, 100_000) as u64;
                prop_assert!(accounted == due || due > 1000 && accounted <= due, "{} of {} at {}", accounted, due, now);
                let again = decide(&row, &settings, &timetable, now, delay, false, None);
                prop_assert_eq!((&again.row, again.run), (&row, None), "looking again changes nothing");
            }
            let in_order = made.windows(2).all(|pair| pair[0] < pair[1]);
            prop_assert!(in_order || overlap == Overlap::Allow, "{:?}", made);
            let once: BTreeSet<_> = made.iter().collect();
            prop_assert_eq!(once.len(), made.len());
        }

        /// A clock that is set back and forth by less than three hours, by hand or by whoever corrects it.
        #[test]
        fn a_time_of_the_day_comes_once_however_the_clock_is_changed(
            missed in select(vec![Missed::Skip, Missed::Once]),
            steps in prop::collection::vec((0..7000_i64, -10_000..10_000_i64), 1..60),
        ) {
            let settings = settings("0,30 1-22 * * *", Overlap::Allow, missed, 0);
            let timetable = settings.schedule.timetable().expect("zones");
            let (mut row, mut real) = (Row::new(start()), start());
            let mut made = Vec::new();
            for (step, off) in steps {
                real += SignedDuration::from_secs(step);
                // The clock is never more than this beside the real time, so never set back by more than three hours.
                let now = real + SignedDuration::from_secs(off / 2);
                let decided = decide(&row, &settings, &timetable, now, SignedDuration::ZERO, true, None);
                row = decided.row;
                made.extend(decided.run);
            }
            let once: BTreeSet<_> = made.iter().collect();
            prop_assert_eq!(once.len(), made.len(), "{:?}", made);
        }
    }

    #[test]
    fn a_clock_that_was_wrong_is_forgotten_with_the_first_run_after_it() {
        let settings = settings("0 12 * * *", Overlap::Allow, Missed::Skip, 0);
        let timetable = settings.schedule.timetable().expect("UTC");
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let mut row = Row::new(at("2031-01-01T00:00:00Z"));
        let mut made = Vec::new();
        for now in
            ["2026-10-24T11:00:00Z", "2026-10-24T12:00:00Z", "2026-10-25T12:00:01Z", "2031-01-01T12:00:00Z"]
        {
            let decided = decide(&row, &settings, &timetable, at(now), SignedDuration::ZERO, true, None);
            row = decided.row;
            made.extend(decided.run);
        }
        assert_eq!(made, ["2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z", "2031-01-01T12:00:00Z"].map(at));
        assert_eq!(row.counts.missed, 999, "what passed in between was missed");
    }
}
