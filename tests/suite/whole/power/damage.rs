//! Files of a daemon that does not run are changed as failing devices and repairs of file systems change them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use powercut::{Disk, SECTOR};
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::load::{FUNCTIONS, Kind, body};
use super::world::World;
use crate::support::long::Chance;

/// The parts of the state directory that are damaged in turn. One that a version does not have is said.
pub(super) const PARTS: [&str; 5] = ["db", "journal", "queue", "large", "functions"];

/// A change of a file at rest.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    path: PathBuf,
    kind: DamageKind,
    at: usize,
}

#[derive(Debug, Clone, Copy)]
enum DamageKind {
    /// A sector is zeros.
    Zeroed,
    /// One bit of a sector is another.
    Flipped,
    /// The file ends at a sector, as long as it was: zeros follow.
    Torn,
    /// The file ends there.
    Truncated,
    /// The file is empty.
    Emptied,
}

const KINDS: [DamageKind; 5] =
    [DamageKind::Zeroed, DamageKind::Flipped, DamageKind::Torn, DamageKind::Truncated, DamageKind::Emptied];

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} at {}", self.path.display(), self.kind, self.at)
    }
}

impl Damage {
    /// Draws one in a part of the disk; none if that has no file.
    pub(super) fn draw(disk: &Disk, part: &str, chance: &mut Chance) -> Option<Self> {
        let mut files = disk.files();
        // The ballast of the store is zeros that nobody reads.
        files.retain(|(path, size)| path.starts_with(part) && *size > 0 && !path.ends_with("ballast"));
        let sectors = |size: usize| size.div_ceil(SECTOR) as u64;
        // A failing device chooses sectors, so large files are hit most. Every fourth time small ones, too.
        let (path, size) = if chance.below(4) == 0 {
            chance.one_of(&files)?.clone()
        } else {
            let mut left = chance.below(files.iter().map(|(_, size)| sectors(*size)).sum::<u64>().max(1));
            files.into_iter().find(|(_, size)| {
                let found = left < sectors(*size);
                left = left.saturating_sub(sectors(*size));
                found
            })?
        };
        let kind = *chance.one_of(&KINDS)?;
        let at = usize::try_from(chance.below(sectors(size))).ok()? * SECTOR;
        Some(Self { path, kind, at })
    }

    /// Does it; false if it changes nothing.
    pub(super) fn apply(&self, disk: &mut Disk) -> bool {
        let mut changed = false;
        disk.damage(&self.path, |data| {
            let before = data.clone();
            let end = data.len().min(self.at + SECTOR);
            match self.kind {
                DamageKind::Zeroed => data[self.at..end].fill(0),
                DamageKind::Flipped => data[(self.at + end) / 2] ^= 1 << (self.at / SECTOR % 8),
                DamageKind::Torn => data[self.at..].fill(0),
                DamageKind::Truncated => data.truncate(self.at),
                DamageKind::Emptied => data.clear(),
            }
            changed = *data != before;
        });
        changed
    }
}

/// What stands on a disk before it is damaged.
pub(super) struct Base {
    disk: Disk,
    /// Ids of calls, and how they are.
    calls: BTreeMap<String, String>,
}

/// What was wrong after a damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The daemon did not serve, whatever was started.
    Down,
    /// A container was removed whose function nobody removed.
    Removed,
    /// A function did not serve, and nothing said so.
    Silent,
    /// Rows are gone or changed, and nothing said so.
    Unnamed,
    /// A call sent the function something else than it was sent.
    Changed,
}

impl Base {
    /// Whether there is such a part of the state directory.
    pub(super) fn has(&self, part: &str) -> bool {
        self.disk.files().iter().any(|(path, _)| path.starts_with(part))
    }
}

impl World {
    /// Calls of every kind on the disk, and the daemon stopped.
    pub(super) async fn base(&mut self) -> Base {
        let mut ids = Vec::new();
        for (kind, count) in [(Kind::Made, 100), (Kind::Held, 100), (Kind::Long, 20)] {
            for number in 0..count {
                let id = format!("{kind:?}-0-0-{number}").to_lowercase();
                let url = self.daemon.url(&format!("/async-function/{}/echo", kind.function()));
                let call =
                    self.daemon.client.post(url).header("X-Call-Id", &id).header("X-Keep-Result", "1h");
                let answer = call.body(body(&id, kind)).send().await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::ACCEPTED);
                ids.push((id, kind));
            }
        }
        let status = |kind: Kind| if kind == Kind::Made { "done" } else { "queued" };
        let calls: BTreeMap<_, _> = ids.into_iter().map(|(id, kind)| (id, status(kind).to_owned())).collect();
        eventually!(calls == self.statuses().await, "{:?}", self.statuses().await);
        Base { disk: self.rest(), calls }
    }

    /// The calls that there are, but those of schedules.
    async fn statuses(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for name in ["hello", "held"] {
            let listed = self.get(&format!("/system/calls?function={name}&limit=1000")).await;
            for call in listed.as_array().into_iter().flatten() {
                let text = |field: &str| call[field].as_str().unwrap_or_default().to_owned();
                found.insert(text("callId"), text("status"));
            }
        }
        found
    }

    /// Starts the daemon on the damaged disk, and says what is wrong.
    pub(super) async fn check_damage(&mut self, base: &Base, damage: &Damage) -> BTreeMap<Fault, String> {
        let mut disk = base.disk.clone();
        if !damage.apply(&mut disk) {
            return BTreeMap::new();
        }
        let containers: BTreeSet<String> = self.daemon.containers().into_iter().collect();
        self.mount(disk);
        let mut faults = BTreeMap::new();
        if let Err(text) = self.begin().await {
            faults.insert(Fault::Down, text);
        } else {
            self.look_for_faults(base, &mut faults).await;
        }
        self.rest();
        let now: BTreeSet<String> = self.daemon.containers().into_iter().collect();
        if !now.is_superset(&containers) {
            faults.insert(
                Fault::Removed,
                format!("{} of {} containers", containers.difference(&now).count(), containers.len()),
            );
            // For the next one they are there again.
            self.mount(base.disk.clone());
            self.begin().await.expect("a start on an undamaged disk");
            self.silent(|_| false).await;
            self.rest();
        }
        faults
    }

    async fn look_for_faults(&self, base: &Base, faults: &mut BTreeMap<Fault, String>) {
        let silent = self.silent(|name| self.names(name)).await;
        if !silent.is_empty() {
            faults.insert(Fault::Silent, format!("{silent:?} do not serve"));
        }
        if self.names("async calls, schedules and records are out of service") {
            // All of them are named, and none is lost.
            return;
        }
        let found = self.statuses().await;
        let lost: Vec<_> = base.calls.iter().filter(|(id, status)| found.get(*id) != Some(status)).collect();
        // By their ids, or how many.
        let count = lost.len();
        let unnamed: Vec<_> = lost.iter().filter(|(id, _)| !self.names(id)).collect();
        if !unnamed.is_empty() && !self.names(&format!("{count} calls")) {
            faults.insert(Fault::Unnamed, format!("{} calls, such as {}", unnamed.len(), unnamed[0].0));
        }
        if found.keys().any(|id| !base.calls.contains_key(id)) {
            faults.insert(Fault::Unnamed, "calls that nobody made".to_owned());
        }
        if !self.serves("held").await {
            // Its calls wait for it.
            return;
        }
        let go_on = self.api(Method::PUT, "/system/queues/held").json(&json!({ "paused": false }));
        if !go_on.send().await.is_ok_and(|answer| answer.status().is_success()) {
            faults.insert(Fault::Silent, "the queue does not go on".to_owned());
            return;
        }
        let open = async || {
            self.statuses()
                .await
                .values()
                .filter(|status| ["queued", "running"].contains(&status.as_str()))
                .count()
        };
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while open().await > 0 && tokio::time::Instant::now() < until {
            tokio::time::sleep(crate::support::POLL).await;
        }
        let mut changed = Vec::new();
        for (id, status) in self.statuses().await {
            let kind = if id.starts_with("long") { Kind::Long } else { Kind::Held };
            if status != "done" {
                // The list says why.
                continue;
            }
            let answer = self.api(Method::GET, &format!("/system/calls/{id}/answer")).send().await;
            let text = match answer {
                Ok(answer) if answer.status() == StatusCode::OK => answer.text().await.unwrap_or_default(),
                _ => continue,
            };
            if text != body(&id, kind) {
                changed.push(id);
            }
        }
        if !changed.is_empty() {
            faults.insert(Fault::Changed, format!("{changed:?}"));
        }
    }

    /// Whether a warning or an error of this start has these words.
    fn names(&self, words: &str) -> bool {
        let log = self.log();
        log.lines()
            .filter(|line| line.contains(" WARN ") || line.contains(" ERROR "))
            .any(|line| line.contains(words))
    }

    /// Waits until all functions serve or are `excused`; the others, if that takes too long.
    async fn silent(&self, excused: impl Fn(&str) -> bool) -> Vec<&'static str> {
        let mut names = FUNCTIONS.to_vec();
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while let Some(name) = names.last() {
            if self.serves(name).await || excused(name) {
                names.pop();
            } else if tokio::time::Instant::now() > until {
                break;
            } else {
                tokio::time::sleep(crate::support::POLL).await;
            }
        }
        names
    }

    async fn serves(&self, name: &str) -> bool {
        self.daemon.call(&format!("{name}/echo")).await.0 == StatusCode::OK
    }

    /// Damages a part of the disk so many times; what was wrong, and how many times.
    pub(super) async fn damages(&mut self, base: &Base, part: &str, count: u32) -> BTreeMap<Fault, u32> {
        let (mut sums, mut harmless) = (BTreeMap::new(), 0);
        for number in 1..=count {
            let Some(damage) = Damage::draw(&base.disk, part, &mut self.chance) else {
                println!("{part}: there is nothing in it");
                break;
            };
            let faults = self.check_damage(base, &damage).await;
            harmless += u32::from(faults.is_empty());
            for (fault, text) in faults {
                println!("{part} {number}: {damage}: {fault:?}: {text}");
                *sums.entry(fault).or_default() += 1;
            }
        }
        println!("{part}: {harmless} of {count} damages did nothing or were named, {sums:?}");
        sums
    }
}
