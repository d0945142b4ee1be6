//! Which images may go, and in what order.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use host::runtime::ImageRecord;

/// How many earlier images of a name are kept that no function uses: an update that is wanted back
/// needs no pull.
const EARLIER: usize = 2;

/// What is to be done with the images that are listed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Notes to make: since when an image is unused, or that it is used again.
    pub(super) notes: Vec<(String, Option<Timestamp>)>,
    /// Images that go in any case: earlier ones of a name that has moved on, beyond the last few.
    pub(super) surplus: Vec<ImageRecord>,
    /// Images that may go when room is needed, the one that was used longest ago first.
    pub(super) expendable: Vec<ImageRecord>,
}

/// Decides. Nothing that is used is in either list.
pub(super) fn decide(
    images: &[ImageRecord],
    is_used: impl Fn(&ImageRecord) -> bool,
    now: Timestamp,
    keep_unused: Duration,
) -> Plan {
    let mut plan = Plan::default();
    let mut unused: Vec<(Timestamp, &ImageRecord)> = Vec::new();
    for image in images {
        if is_used(image) {
            if image.unused_since.is_some() {
                plan.notes.push((image.name.clone(), None));
            }
            continue;
        }
        // A time that is yet to come was noted when the clock was wrong.
        let since = image.unused_since.filter(|since| *since <= now).unwrap_or_else(|| {
            plan.notes.push((image.name.clone(), Some(now)));
            now
        });
        unused.push((since, image));
    }
    unused.sort_by(|(a_since, a), (b_since, b)| {
        (a_since, a.created_at, &a.name).cmp(&(b_since, b.created_at, &b.name))
    });

    let mut earlier: BTreeMap<&str, Vec<&ImageRecord>> = BTreeMap::new();
    for (_, image) in &unused {
        if let Some(name) = &image.superseded {
            earlier.entry(name).or_default().push(image);
        }
    }
    for images in earlier.values_mut() {
        images.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        let surplus = images.len().saturating_sub(EARLIER);
        plan.surplus.extend(images[..surplus].iter().copied().cloned());
    }
    let old_enough = |since: &Timestamp| {
        Duration::try_from(now.duration_since(*since)).is_ok_and(|unused| unused >= keep_unused)
    };
    plan.expendable = unused
        .iter()
        .filter(|(since, image)| old_enough(since) && !plan.surplus.contains(image))
        .map(|(_, image)| (*image).clone())
        .collect();
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + hour * 3600).expect("a time")
    }

    fn image(name: &str, unused_since: Option<i64>) -> ImageRecord {
        ImageRecord {
            name: name.to_owned(),
            digest: format!("sha256:{name}"),
            platform: "linux/amd64".into(),
            size: 1,
            created_at: at(0),
            superseded: None,
            unused_since: unused_since.map(at),
        }
    }

    fn names(images: &[ImageRecord]) -> Vec<&str> {
        images.iter().map(|image| image.name.as_str()).collect()
    }

    fn earlier(name: &str, created: i64, unused_since: Option<i64>) -> ImageRecord {
        let superseded = Some("fn:latest".to_owned());
        ImageRecord { superseded, created_at: at(created), ..image(name, unused_since) }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_was_used_lately_stays() {
        let images = [image("c", Some(8)), image("a", Some(5)), image("young", Some(9)), image("b", Some(2))];
        let plan = decide(&images, |_| false, at(10), 2 * HOUR);
        assert_eq!(names(&plan.expendable), ["b", "a", "c"]);
        assert!(plan.notes.is_empty() && plan.surplus.is_empty(), "{plan:?}");
    }

    #[test]
    fn the_first_time_that_an_image_is_found_unused_counts() {
        let plan = decide(&[image("new", None)], |_| false, at(10), HOUR);
        assert_eq!(plan, Plan { notes: vec![("new".into(), Some(at(10)))], ..Plan::default() });
        // A clock that was set back does not keep it for ever.
        let plan = decide(&[image("ahead", Some(99))], |_| false, at(10), HOUR);
        assert_eq!(plan.notes, [("ahead".into(), Some(at(10)))]);
    }

    #[test]
    fn what_is_used_never_goes_and_is_not_called_unused() {
        let mut images = vec![image("again", Some(1)), image("always", None)];
        images.extend((0..9).map(|n| earlier(&format!("earlier{n}"), n, Some(1))));
        assert_eq!(
            decide(&images, |_| true, at(1000), Duration::ZERO).notes,
            images
                .iter()
                .filter(|i| i.unused_since.is_some())
                .map(|i| (i.name.clone(), None))
                .collect::<Vec<_>>()
        );
        let plan = decide(&images, |_| true, at(1000), Duration::ZERO);
        assert!(plan.surplus.is_empty() && plan.expendable.is_empty(), "{plan:?}");
    }

    #[test]
    fn earlier_images_of_a_name_do_not_pile_up_but_those_in_use_stay() {
        let images: Vec<_> = (0..6).map(|n| earlier(&format!("v{n}"), n, Some(9))).collect();
        let plan = decide(&images, |image| image.name == "v0" || image.name == "v3", at(10), 2 * HOUR);
        assert_eq!(names(&plan.surplus), ["v1", "v2"], "v4 and v5 are the last two that nobody uses");
        assert!(plan.expendable.is_empty(), "too young, or gone already: {plan:?}");
        let later = decide(&images, |image| image.name == "v0" || image.name == "v3", at(12), 2 * HOUR);
        assert_eq!(names(&later.expendable), ["v4", "v5"]);
    }
}
