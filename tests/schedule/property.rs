//! Schedules by chance, compared with two that are found in other ways: by looking at each minute of a year on a clock
//! of the zone, and by another program's reading of the same text.

use std::collections::BTreeSet;
use std::str::FromStr as _;
use std::sync::LazyLock;

use croner::Cron;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan as _};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use schedule::{Schedule, Timetable};

/// The zones that are compared, each with what is odd about it.
const ZONES: [&str; 7] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    // Half an hour.
    "Australia/Lord_Howe",
    // At midnight.
    "America/Santiago",
    "Asia/Beirut",
    // Winter time in summer.
    "Africa/Casablanca",
];
/// Times that are compared of one schedule: enough to go through a year, unless it goes on and on.
const TIMES: usize = 1500;

/// A year's minutes: the moment, and what the clock shows.
type Year = Vec<(Timestamp, DateTime)>;

static YEARS: LazyLock<Vec<Year>> = LazyLock::new(|| {
    let year = |name: &&str| {
        let zone = TimeZone::get(name).expect("a zone");
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        (0..=366 * 24 * 60)
            .map(|minute| {
                let at = start + SignedDuration::from_mins(minute);
                (at, zone.to_datetime(at))
            })
            .collect()
    };
    ZONES.iter().map(year).collect()
});

/// A field by chance: its text, and what it means.
#[derive(Debug, Clone)]
struct Chosen {
    text: String,
    values: BTreeSet<i8>,
    star: bool,
}

fn field(first: i8, last: i8) -> impl Strategy<Value = Chosen> {
    let value = || first..=last;
    let one = value().prop_map(|value| (value.to_string(), BTreeSet::from([value])));
    let range = (value(), value(), 1..6_usize).prop_map(|(a, b, step)| {
        let (a, b) = (a.min(b), a.max(b));
        let text = if step == 1 { format!("{a}-{b}") } else { format!("{a}-{b}/{step}") };
        (text, (a..=b).step_by(step).collect())
    });
    let list = prop::collection::vec(prop_oneof![one, range], 1..4).prop_map(|items| Chosen {
        text: items.iter().map(|(text, _)| text.as_str()).collect::<Vec<_>>().join(","),
        values: items.into_iter().flat_map(|(_, values)| values).collect::<BTreeSet<i8>>(),
        star: false,
    });
    let steps = (1..=usize::try_from(last - first).expect("some")).prop_map(move |step| Chosen {
        text: if step == 1 { "*".into() } else { format!("*/{step}") },
        values: (first..=last).step_by(step).collect(),
        star: true,
    });
    let star = Just(Chosen { text: "*".into(), values: (first..=last).collect(), star: true });
    prop_oneof![3 => list, 1 => steps, 2 => star]
}

/// Five of them.
fn fields() -> impl Strategy<Value = [Chosen; 5]> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).prop_map(Into::into)
}

fn text(fields: &[Chosen; 5]) -> String {
    fields.iter().map(|field| field.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// Whether a clock that shows this time means a run.
fn means([minutes, hours, days, months, weekdays]: &[Chosen; 5], time: DateTime) -> bool {
    let day = days.values.contains(&time.day());
    let weekday = weekdays.values.contains(&(time.weekday().to_monday_one_offset() % 7));
    minutes.values.contains(&time.minute())
        && hours.values.contains(&time.hour())
        && months.values.contains(&time.month())
        && if days.star || weekdays.star { day && weekday } else { day || weekday }
}

/// The runs of a year, found by looking at each of its minutes.
fn watched(fields: &[Chosen; 5], year: &Year) -> Vec<Timestamp> {
    let [minutes, hours, ..] = fields;
    let running = minutes.star || hours.star || minutes.values.len() == 60 || hours.values.len() == 24;
    let (mut found, mut front) = (Vec::new(), year[0].1);
    for (index, (at, shown)) in year.iter().enumerate().skip(1) {
        let before = year[index - 1].1;
        let mut run = means(fields, *shown);
        if !running {
            // What comes a second time was there.
            run &= *shown > front;
            // What was left out is made up for.
            let mut left_out = before + 1.minute();
            while left_out < *shown {
                run |= left_out > front && means(fields, left_out);
                left_out += 1.minute();
            }
            front = front.max(*shown);
        }
        if run {
            found.push(*at);
        }
    }
    found
}

/// The same, by asking for the next one again and again.
fn asked(table: &Timetable, from: Timestamp, until: Timestamp, most: usize) -> Vec<Timestamp> {
    let next = |since: &Timestamp| table.next(*since).filter(|next| *next <= until);
    std::iter::successors(next(&from), next).take(most).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_year_is_as_somebody_who_watches_a_clock_finds_it(
        fields in fields(),
        zone in 0..ZONES.len(),
        begin in 0..300 * 24 * 60_usize,
    ) {
        let text = format!("CRON_TZ={} {}", ZONES[zone], text(&fields));
        let Ok(schedule) = Schedule::parse(&text) else {
            // The only reason to refuse it.
            let found = YEARS[0].iter().any(|(_, time)| means(&fields, *time));
            let leap = fields[2].values.contains(&29) && fields[3].values.contains(&2);
            prop_assert!(!found && !leap, "{} was refused", text);
            return Ok(());
        };
        let table = schedule.timetable().expect("a zone");
        let year = &YEARS[zone];
        let watched = watched(&fields, year);
        // From the beginning of the year, and from somewhere in it: where one begins changes nothing.
        for from in [year[0].0, year[begin].0] {
            let expected: Vec<_> = watched.iter().copied().filter(|at| *at > from).take(TIMES).collect();
            let until = year[year.len() - 1].0;
            prop_assert_eq!(asked(&table, from, until, TIMES), expected, "{} from {}", text, from);
        }
        let (from, until) = (year[0].0, year[begin].0);
        let before = watched.iter().copied().filter(|at| *at <= until);
        prop_assert_eq!(table.last(from, until), before.clone().next_back(), "{} up to {}", text, until);
        prop_assert_eq!(table.count(from, until, 50), before.count().min(50), "{} up to {}", text, until);
    }

    #[test]
    fn another_program_reads_it_alike(fields in fields(), begin in 0..366 * 24 * 60_usize) {
        let text = text(&fields);
        let (Ok(ours), Ok(theirs)) = (Schedule::parse(&text), Cron::from_str(&text)) else { return Ok(()) };
        // It takes a day of the month that begins with a star and has steps for one that chooses.
        prop_assume!([&fields[2], &fields[4]].iter().all(|field| !field.star || field.text == "*"));
        let table = ours.timetable().expect("UTC");
        let mut since = YEARS[0][begin].0;
        for _ in 0..50 {
            let Ok(next) = theirs.find_next_occurrence(&since.to_zoned(TimeZone::UTC), false) else { break };
            prop_assert_eq!(table.next(since), Some(next.timestamp()), "{} after {}", text, since);
            since = next.timestamp();
        }
    }

    #[test]
    fn several_are_due_when_one_of_them_is(
        texts in subsequence(vec!["@hourly", "15 3 * * *", "@every 7m", "TZ=Asia/Beirut @daily", "0 0 1 * MON"], 1..4),
        seconds in 0..366 * 86_400_i64,
    ) {
        let since = YEARS[0][0].0 + SignedDuration::from_secs(seconds);
        let alone = |text: &&str| Schedule::parse(text).expect("valid").timetable().expect("zones").next(since);
        let together = Schedule::parse(&texts.join(";")).expect("valid").timetable().expect("zones");
        prop_assert_eq!(together.next(since), texts.iter().filter_map(alone).min());
    }

    #[test]
    fn no_text_is_more_than_an_error(text in prop_oneof![
        "\\PC{0,40}",
        "[-0-9*/,?@ ;A-Za-z]{0,40}",
        select(vec!["@every 87600h", "@every 1ms", "TZ=UTC", "*/255 * * * *", "0-99999999999 * * * *"]).prop_map(String::from),
    ]) {
        if let Ok(schedule) = Schedule::parse(&text) && let Ok(table) = schedule.timetable() {
            let since = YEARS[0][0].0;
            let next = table.next(since);
            prop_assert!(next.is_none_or(|next| next > since), "{}: {:?}", text, next);
        }
    }
}
