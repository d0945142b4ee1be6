//! What is read, what is refused, and what happens when clocks are changed.

use super::*;

fn table(text: &str) -> Timetable {
    let schedule = Schedule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    schedule.timetable().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// The times that come after `from`, as this zone's clocks show them.
fn runs(text: &str, from: &str, count: usize, zone: &str) -> Vec<String> {
    let (table, zone) = (table(text), TimeZone::get(zone).expect("a zone"));
    let mut found = Vec::new();
    let mut since = at(from);
    for _ in 0..count {
        since = table.next(since).expect("a next one");
        found.push(since.to_zoned(zone.clone()).strftime("%m-%d %H:%M:%S %:z").to_string());
    }
    found
}

#[test]
fn each_way_to_write_it_means_what_it_says() {
    // A Sunday.
    let from = "2026-11-22T08:00:00Z";
    for (text, next) in [
        ("*/15 * * * *", "2026-11-22T08:15:00Z"),
        ("? ? * ? ?", "2026-11-22T08:01:00Z"),
        ("0 9-17/4 * * *", "2026-11-22T09:00:00Z"),
        ("5/20 8 * * *", "2026-11-22T08:05:00Z"),
        ("30,10 8 * * *", "2026-11-22T08:10:00Z"),
        ("0\t6  * * mon-FRI", "2026-11-23T06:00:00Z"),
        ("0 6 * * 7", "2026-11-29T06:00:00Z"),
        ("0 12 * * 7", "2026-11-22T12:00:00Z"),
        ("0 12 * * FRI-SUN", "2026-11-22T12:00:00Z"),
        ("0 12 * * 5-7", "2026-11-22T12:00:00Z"),
        ("0 12 * * 1-6", "2026-11-23T12:00:00Z"),
        ("0 0 1 jan,Jul *", "2027-01-01T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        // Either, as both choose.
        ("0 0 30 * TUE", "2026-11-24T00:00:00Z"),
        ("0 0 24 * SUN", "2026-11-24T00:00:00Z"),
        // Both, as one begins with a star.
        ("0 0 */2 * TUE", "2026-12-01T00:00:00Z"),
        ("0 0 1 * */3", "2027-05-01T00:00:00Z"),
        ("@hourly", "2026-11-22T09:00:00Z"),
        ("@daily", "2026-11-23T00:00:00Z"),
        ("@midnight", "2026-11-23T00:00:00Z"),
        ("@weekly", "2026-11-29T00:00:00Z"),
        ("@monthly", "2026-12-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@Annually", "2027-01-01T00:00:00Z"),
        ("@every 1h30m", "2026-11-22T09:00:00Z"),
        ("@every 45s", "2026-11-22T08:00:45Z"),
        ("TZ=Asia/Kolkata 0 14 * * *", "2026-11-22T08:30:00Z"),
        ("CRON_TZ=Europe/Berlin  30 9 * * *", "2026-11-22T08:30:00Z"),
        ("CRON_TZ=UTC @daily", "2026-11-23T00:00:00Z"),
        ("0 9 * * *; 30 8 * * * ;", "2026-11-22T08:30:00Z"),
        ("0 9 * * *;CRON_TZ=Europe/Berlin 15 9 * * *", "2026-11-22T08:15:00Z"),
    ] {
        assert_eq!(table(text).next(at(from)), Some(at(next)), "{text}");
    }
}

#[test]
fn what_is_refused_is_named_with_what_is_allowed() {
    for (text, part) in [
        ("", "is empty"),
        (" ; ", "is empty"),
        ("* * * *", "there are 4 fields; write five"),
        ("0 */5 * * * *", "there are 6 fields"),
        ("60 * * * *", "the minute \"60\" is not allowed: 0 to 59"),
        ("-1 * * * *", "the minute \"\" is not allowed"),
        ("+1 * * * *", "the minute \"+1\""),
        ("1,,2 * * * *", "the minute \"\""),
        ("* 24 * * *", "the hour \"24\" is not allowed: 0 to 23"),
        ("* * 0 * *", "the day of the month \"0\" is not allowed: 1 to 31"),
        ("* * * 13 *", "the month \"13\" is not allowed: 1 to 12 or JAN to DEC"),
        ("* * * MAI *", "the month \"MAI\""),
        ("* * * * 8", "the day of the week \"8\" is not allowed: 0 to 7"),
        ("* * * * MON#1", "\"MON#1\""),
        ("* * L * *", "the day of the month \"L\""),
        ("30-10 * * * *", "\"30-10\" ends before it begins"),
        ("* * * * FRI-MON", "ends before it begins"),
        ("*/90 * * * *", "the step \"90\" of the minute is not allowed: 1 to 60 is"),
        ("*/0 * * * *", "the step \"0\""),
        ("0 0 30 2 *", "no month that is meant has the day 30"),
        ("0 0 31 4,6,9,11 */2", "it would never be due"),
        ("@reboot", "@hourly, @daily"),
        ("@every", "@every 1h30m are"),
        ("@every 5moons", "not a duration"),
        ("@every 0s", "whole seconds are"),
        ("@every 1.5s", "whole seconds are"),
        ("@every -1h", "not a duration"),
        ("CRON_TZ=Europe/Berlin", "there are 0 fields"),
        ("CRON_TZ= 0 0 * * *", "\"\" is not the name of a time zone"),
        ("TZ=../../etc/passwd 0 0 * * *", "is not the name of a time zone"),
        ("@daily;61 * * * *", "in \"61 * * * *\" the minute \"61\""),
    ] {
        let error = Schedule::parse(text).expect_err(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    let many = "@daily;".repeat(MOST + 1);
    assert!(Schedule::parse(&many).expect_err("too many").contains("at most 32"));
    let unknown = Schedule::parse("CRON_TZ=Mars/Olympus @daily").expect("it can be read");
    let error = unknown.timetable().expect_err("there is no such zone");
    assert!(error.contains("\"Mars/Olympus\"") && error.contains("tzdata"), "{error}");
    // Thirty days hath September, but either is enough where both choose.
    assert!(Schedule::parse("0 0 31 9 MON").is_ok());
}

#[test]
fn zones_are_named_once() {
    let schedule =
        Schedule::parse("@daily;TZ=Europe/Berlin @daily;CRON_TZ=Europe/Berlin @hourly").expect("valid");
    assert_eq!(schedule.zones(), ["UTC", "Europe/Berlin"]);
}

#[test]
fn a_time_in_the_gap_comes_once_right_after_it() {
    let zone = "Europe/Berlin";
    let from = "2026-03-28T12:00:00Z";
    // At 02:00 it was 03:00.
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin 30 2 * * *", from, 3, zone),
        ["03-29 03:00:00 +02:00", "03-30 02:30:00 +02:00", "03-31 02:30:00 +02:00"]
    );
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin 0,20,40 1-3 * * *", from, 8, zone)[..7],
        [
            "03-29 01:00:00 +01:00",
            "03-29 01:20:00 +01:00",
            "03-29 01:40:00 +01:00",
            "03-29 03:00:00 +02:00",
            "03-29 03:20:00 +02:00",
            "03-29 03:40:00 +02:00",
            "03-30 01:00:00 +02:00",
        ],
        "those of the gap are one with that of its end"
    );
    // What goes on and on goes by the clock.
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin 30 * * * *", "2026-03-29T00:00:00Z", 3, zone),
        ["03-29 01:30:00 +01:00", "03-29 03:30:00 +02:00", "03-29 04:30:00 +02:00"]
    );
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin */30 2 * * *", from, 2, zone),
        ["03-30 02:00:00 +02:00", "03-30 02:30:00 +02:00"]
    );
    // A day that begins at one o'clock.
    assert_eq!(
        runs("CRON_TZ=America/Santiago @daily", "2026-09-05T12:00:00Z", 2, "America/Santiago"),
        ["09-06 01:00:00 -03:00", "09-07 00:00:00 -03:00"]
    );
    // A day that there was not.
    assert_eq!(
        runs("CRON_TZ=Pacific/Apia 0 12 * * *", "2011-12-29T12:00:00Z", 3, "Pacific/Apia"),
        ["12-29 12:00:00 -10:00", "12-31 00:00:00 +14:00", "12-31 12:00:00 +14:00"]
    );
}

#[test]
fn a_time_that_comes_twice_counts_once() {
    let zone = "Europe/Berlin";
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin 30 2 * * *", "2026-10-24T12:00:00Z", 2, zone),
        ["10-25 02:30:00 +02:00", "10-26 02:30:00 +01:00"]
    );
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin 30 * * * *", "2026-10-24T23:00:00Z", 4, zone),
        ["10-25 01:30:00 +02:00", "10-25 02:30:00 +02:00", "10-25 02:30:00 +01:00", "10-25 03:30:00 +01:00"]
    );
    // Written without a star it goes on and on all the same.
    assert_eq!(runs("CRON_TZ=Europe/Berlin 30 0-23 * * *", "2026-10-25T00:00:00Z", 2, zone).len(), 2);
    assert_eq!(
        runs("CRON_TZ=Europe/Berlin 30 0-23 * * *", "2026-10-25T00:00:00Z", 2, zone),
        ["10-25 02:30:00 +02:00", "10-25 02:30:00 +01:00"]
    );
    // Half an hour, as on Lord Howe.
    assert_eq!(
        runs("CRON_TZ=Australia/Lord_Howe 45 1 * * *", "2026-04-04T00:00:00Z", 2, "Australia/Lord_Howe"),
        ["04-05 01:45:00 +11:00", "04-06 01:45:00 +10:30"]
    );
}

#[test]
fn what_was_due_last_is_found_across_years() {
    let from = at("1970-01-01T00:00:00Z");
    let now = at("2026-11-22T08:00:30Z");
    for (text, last) in [
        ("* * * * *", Some("2026-11-22T08:00:00Z")),
        ("@every 1s", Some("2026-11-22T08:00:30Z")),
        ("* * * 1 *", Some("2026-01-31T23:59:00Z")),
        ("0 0 29 2 *", Some("2024-02-29T00:00:00Z")),
        ("0 0 29 2 */7", Some("2004-02-29T00:00:00Z")),
        ("@yearly; 0 0 22 11 *", Some("2026-11-22T00:00:00Z")),
    ] {
        assert_eq!(table(text).last(from, now), last.map(at), "{text}");
    }
    let daily = table("@daily");
    assert_eq!(daily.last(at("2026-11-22T00:00:00Z"), now), None, "it is done with");
    assert_eq!(
        daily.last(at("2026-11-21T23:59:59Z"), at("2026-11-22T00:00:00Z")),
        Some(at("2026-11-22T00:00:00Z"))
    );
    assert_eq!(daily.count(at("2026-11-12T08:00:00Z"), now, 1000), 10);
    assert_eq!(daily.count(from, now, 1000), 1000);
}

#[test]
fn each_kind_has_its_own_beginning() {
    // The clock was set back by an hour: what is at a time of the day was done.
    let since = Since { fixed: at("2026-11-22T09:00:00Z"), running: at("2026-11-22T08:00:00Z") };
    let both = table("30 8 * * *; */20 * * * *");
    assert_eq!(both.next(since), Some(at("2026-11-22T08:20:00Z")));
    assert_eq!(both.last(since, at("2026-11-22T08:35:00Z")), Some(at("2026-11-22T08:20:00Z")));
    assert_eq!(both.count(since, at("2026-11-22T08:40:00Z"), 9), 2);
}
