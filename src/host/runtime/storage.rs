//! How much images and replicas take of the disk.

use std::path::PathBuf;

use model::wire::Share;

/// The file system that images are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes that are used or can be: without those that the system keeps for itself, as `df` counts.
    pub size: u64,
    /// Bytes that can be written.
    pub free: u64,
    /// Files that are there or can be made (`df -i`); 0 where there is no limit but that of bytes.
    pub inodes: u64,
    /// Files that can be made.
    pub inodes_free: u64,
}

impl Disk {
    /// How full it is, by bytes or by files, whichever is more; rounded up, as `df` shows it.
    pub fn used_percent(&self) -> u64 {
        percent(self.size, self.free).max(percent(self.inodes, self.inodes_free))
    }
}

fn percent(all: u64, free: u64) -> u64 {
    let used = u128::from(all.saturating_sub(free));
    let percent = (used * 100).checked_div(u128::from(all)).unwrap_or_default();
    let exact = percent * u128::from(all) == used * 100;
    u64::try_from(percent).unwrap_or(100) + u64::from(!exact)
}

/// What is stored, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// Images as they were fetched: manifests, configs and compressed layers.
    pub images: Share,
    /// Layers as they were unpacked.
    pub layers: Share,
    /// What replicas have written to their own file systems.
    pub replicas: Share,
}

impl Stored {
    /// All bytes together.
    pub fn size(&self) -> u64 {
        [self.images, self.layers, self.replicas].iter().fold(0, |sum, share| sum.saturating_add(share.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_full_as_df_says() {
        let disk =
            |size, free, inodes, inodes_free| Disk { path: "/".into(), size, free, inodes, inodes_free };
        let used = |size, free| disk(size, free, 0, 0).used_percent();
        assert_eq!(used(100, 100), 0);
        assert_eq!(used(100, 15), 85);
        assert_eq!(used(1000, 149), 86, "rounded up");
        assert_eq!(used(100, 0), 100);
        assert_eq!(used(0, 0), 0);
        assert_eq!(used(u64::MAX, 1), 100);
        assert_eq!(disk(100, 50, 1000, 100).used_percent(), 90, "full of small files");
        assert_eq!(disk(100, 5, 1000, 100).used_percent(), 95);
    }
}
