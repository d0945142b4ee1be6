//! Who a container's process runs as: what an image's `USER` means, by the image's own
//! `/etc/passwd` and `/etc/group`.
//!
//! The rules are Docker's and containerd's: a name must be there, a number need not; the primary group comes from
//! passwd unless one is given; those of /etc/group that name the user are added only when none is given, for root
//! of an image without `USER` as well. The primary group is one of the supplementary ones, too: without it, a
//! process that changes its group would lose what the group is kept from.

/// The ids that a process runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
}

impl User {
    fn new(uid: u32, gid: u32, others: impl IntoIterator<Item = u32>) -> Self {
        let mut additional_gids: Vec<u32> = others.into_iter().chain([gid]).collect();
        additional_gids.sort_unstable();
        additional_gids.dedup();
        Self { uid, gid, additional_gids }
    }

    /// The user of an image that has nothing to say of users.
    pub(super) fn root() -> Self {
        Self::new(0, 0, [])
    }

    /// The user that `text` means in every image: two numbers.
    pub(super) fn known(text: &str) -> Option<Self> {
        let (user, group) = text.split_once(':')?;
        Some(Self::new(id(user)?, id(group)?, []))
    }

    /// The user that `text` means in an image with these two files, or which name is missing.
    pub(super) fn lookup(text: &str, passwd: &str, group: &str) -> Result<Self, String> {
        let (user_text, group_text) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (text, None),
        };
        let wanted = if user_text.is_empty() { "0" } else { user_text };
        let number = id(wanted);
        let entry = entries(passwd).find_map(|fields| {
            let (uid, gid) = (id(fields.get(2)?)?, id(fields.get(3)?)?);
            (fields[0] == wanted || Some(uid) == number).then_some((fields[0], uid, gid))
        });
        let (name, uid, gid) = match (entry, number) {
            (Some((name, uid, gid)), _) => (Some(name), uid, gid),
            (None, Some(0)) => (Some("root"), 0, 0),
            (None, Some(uid)) => (None, uid, 0),
            (None, None) => return Err(format!("user {wanted:?} is not in its /etc/passwd")),
        };
        let Some(wanted) = group_text else {
            let member = |fields: &Vec<&str>| {
                name.is_some_and(|name| fields.get(3).is_some_and(|list| list.split(',').any(|m| m == name)))
            };
            return Ok(Self::new(uid, gid, entries(group).filter(member).filter_map(|fields| id(fields[2]))));
        };
        let number = id(wanted);
        let gid = entries(group)
            .find_map(|fields| {
                let gid = id(fields.get(2)?)?;
                (fields[0] == wanted || Some(gid) == number).then_some(gid)
            })
            .or(number)
            .ok_or_else(|| format!("group {wanted:?} is not in its /etc/group"))?;
        Ok(Self::new(uid, gid, []))
    }
}

/// The lines of a file in passwd's format, split at colons.
fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.trim().split(':').collect()).filter(|fields: &Vec<&str>| fields.len() > 2)
}

/// A user or group number. The upper half of 32 bits is refused, as Docker does: -1 means "no
/// change" to the kernel.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok().filter(|number| *number <= i32::MAX.cast_unsigned())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken:x\napp:x:1000:1001::/home/app:/bin/sh\n1234:x:77:78::/:\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nvideo:x:44:app\napps:x:1001:\nbad:x:y:app\n";

    fn user(uid: u32, gid: u32, additional_gids: &[u32]) -> User {
        User { uid, gid, additional_gids: additional_gids.to_vec() }
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        for (text, expected) in [
            ("", user(0, 0, &[0, 10])),
            ("app", user(1000, 1001, &[10, 44, 1001])),
            ("1000", user(1000, 1001, &[10, 44, 1001])),
            ("app:video", user(1000, 44, &[44])),
            ("app:", user(1000, 1001, &[10, 44, 1001])),
            ("1000:5", user(1000, 5, &[5])),
            ("4000", user(4000, 0, &[0])),
            (":wheel", user(0, 10, &[10])),
            ("1234", user(77, 78, &[78])),
        ] {
            assert_eq!(User::lookup(text, PASSWD, GROUP), Ok(expected), "{text}");
        }
    }

    #[test]
    fn root_of_an_image_without_passwd_is_in_the_groups_that_name_it() {
        assert_eq!(User::lookup("", "", GROUP), Ok(user(0, 0, &[0, 10])));
        assert_eq!(User::lookup("", "", ""), Ok(User::root()));
    }

    #[test]
    fn a_missing_name_is_named() {
        for (text, missing) in [
            ("ghost", "\"ghost\""),
            ("app:ghosts", "\"ghosts\""),
            ("-1", "\"-1\""),
            ("4294967295", "\"4294967295\""),
            ("+5", "\"+5\""),
        ] {
            let reason = User::lookup(text, PASSWD, GROUP).expect_err(text);
            assert!(reason.contains(missing), "{reason}");
        }
    }

    #[test]
    fn only_what_needs_no_file_is_known() {
        assert_eq!(User::known("5:6"), Some(user(5, 6, &[6])));
        for text in ["", "5", "app", "5:app", "app:5", ":5", "5:"] {
            assert_eq!(User::known(text), None, "{text}");
        }
    }
}
