//! How much images and replicas take of the disk.

use std::path::PathBuf;

/// The file system that images are on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// A directory on it.
    pub path: PathBuf,
    /// Bytes that are used or can be: without those that the system keeps for itself, as `df` counts.
    pub size: u64,
    /// Bytes that can be written.
    pub free: u64,
}

impl Disk {
    /// How full it is, rounded up, as `df` shows it.
    pub fn used_percent(&self) -> u64 {
        let used = u128::from(self.size.saturating_sub(self.free));
        let percent = (used * 100).checked_div(u128::from(self.size)).unwrap_or_default();
        let exact = percent * u128::from(self.size) == used * 100;
        u64::try_from(percent).unwrap_or(100) + u64::from(!exact)
    }
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

/// One kind of what is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// How many there are.
    pub count: u64,
    /// Their bytes.
    pub size: u64,
    /// The part of it that nobody uses.
    pub unused: u64,
}

impl Share {
    /// Counts one more.
    pub fn add(&mut self, size: u64, is_used: bool) {
        self.count += 1;
        self.size = self.size.saturating_add(size);
        if !is_used {
            self.unused = self.unused.saturating_add(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_as_full_as_df_says() {
        let used = |size, free| Disk { path: "/".into(), size, free }.used_percent();
        assert_eq!(used(100, 100), 0);
        assert_eq!(used(100, 15), 85);
        assert_eq!(used(1000, 149), 86, "rounded up");
        assert_eq!(used(100, 0), 100);
        assert_eq!(used(0, 0), 0);
        assert_eq!(used(u64::MAX, 1), 100);
    }
}
