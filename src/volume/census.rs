//! Which KMS keys the files of a volume are under, from their headers and without a key; and what is lost with one.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::descriptor::Descriptor;
use super::disk::Dir;
use super::each::{Failures, each_file};
use super::error::{Attempt, Result};
use super::files::read_header;
use super::header::WrappedKey;
use crate::kms::blob::CiphertextBlob;

/// A KMS key and, where it can be told, the hex id of its material.
pub type Under = (String, Option<String>);

/// The key and material of one wrapped key.
pub fn under(key: &WrappedKey) -> Under {
    (key.key_arn.clone(), CiphertextBlob::parse(&key.ciphertext).map(|blob| hex::encode(blob.material)))
}

/// All files of a volume, or of a snapshot, by the keys that each is under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Of the volume key: any one of them opens it.
    pub volume_keys: Vec<Under>,
    /// Numbers of files by all keys of their headers, any one of which opens them.
    pub files: BTreeMap<Vec<Under>, u64>,
    /// Files without a header: nothing was ever written to them.
    pub empty: u64,
    /// What could not be read.
    pub failed: Failures,
}

/// How the volume key hangs on a KMS key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hangs {
    /// It is not under it.
    No,
    /// It is under it, and under another that works.
    NotAlone,
    /// Without it the volume key is lost, and with it everything: names, and the keys of all files.
    Alone,
}

/// What goes when a KMS key goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Loss {
    /// Files that have a key under it.
    pub under: u64,
    /// Those among them that are under another key that works, too.
    pub also_under_another: u64,
    /// See [`Hangs`].
    pub volume_key: Hangs,
    /// Files that cannot be read any more: those under it alone, or all if the volume key is.
    pub unreadable: u64,
}

impl Loss {
    /// True if nothing hangs on the key.
    pub fn is_nothing(&self) -> bool {
        self.under == 0 && self.volume_key == Hangs::No
    }
}

impl Census {
    /// What goes with the keys that `goes` names; `works` tells of another key's ARN whether it can still open something.
    pub fn loss(&self, goes: &dyn Fn(&Under) -> bool, works: &dyn Fn(&str) -> bool) -> Loss {
        let hangs = |keys: &[Under]| {
            if !keys.iter().any(goes) {
                Hangs::No
            } else if keys.iter().any(|key| !goes(key) && works(&key.0)) {
                Hangs::NotAlone
            } else {
                Hangs::Alone
            }
        };
        let volume_key = hangs(&self.volume_keys);
        let mut loss = Loss { under: 0, also_under_another: 0, volume_key, unreadable: 0 };
        for (keys, count) in &self.files {
            let how = hangs(keys);
            loss.under += if how == Hangs::No { 0 } else { *count };
            loss.also_under_another += if how == Hangs::NotAlone { *count } else { 0 };
            let lost = how == Hangs::Alone || volume_key == Hangs::Alone;
            loss.unreadable += if lost { *count } else { 0 };
        }
        loss
    }

    /// Every KMS key that is named, each once.
    pub fn keys(&self) -> impl Iterator<Item = &Under> {
        let all = self.volume_keys.iter().chain(self.files.keys().flatten());
        all.collect::<std::collections::BTreeSet<_>>().into_iter()
    }
}

/// Counts the files of the volume in `root`, which may be mounted meanwhile. A file with several names counts for each.
/// `seen` is told of every file.
pub fn census(root: &Arc<dyn Dir>, threads: usize, seen: &(dyn Fn() + Sync)) -> Result<Census> {
    let volume_keys = Descriptor::read(&**root)?.keys.iter().map(under).collect();
    let found = Mutex::new(Census { volume_keys, ..Census::default() });
    let failed = each_file(root, &[], threads, &|dir, name| {
        let file = dir.open_file(name, false).on_entry("opening a file")?;
        let header = read_header(&*file)?.1;
        seen();
        let found = &mut *found.lock();
        match header {
            Some(header) => {
                let keys = header.keys.iter().map(under).collect();
                *found.files.entry(keys).or_default() += 1;
            }
            None => found.empty += 1,
        }
        Ok(())
    })?;
    Ok(Census { failed, ..found.into_inner() })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Keys of a header: numbers of KMS keys.
    fn keys(numbers: &[u8]) -> Vec<Under> {
        numbers.iter().map(|n| (n.to_string(), None)).collect()
    }

    proptest! {
        /// Against the files one by one: before, some key opens a file; afterwards, without those that went, none does.
        #[test]
        fn what_is_lost_is_what_no_key_opens_any_more(
            files in vec(vec(0..5u8, 1..4), 0..20),
            volume in vec(0..5u8, 1..4),
            goes in 0..5u8,
            broken in vec(any::<bool>(), 5),
        ) {
            let mut census = Census { volume_keys: keys(&volume), ..Census::default() };
            for file in &files {
                *census.files.entry(keys(file)).or_default() += 1;
            }
            let number = |arn: &str| arn.parse::<u8>().unwrap();
            let loss = census.loss(&|key| number(&key.0) == goes, &|arn| !broken[usize::from(number(arn))]);
            let opens = |set: &[u8]| set.iter().any(|n| *n != goes && !broken[usize::from(*n)]);
            let under: Vec<_> = files.iter().filter(|file| file.contains(&goes)).collect();
            prop_assert_eq!(loss.under, under.len() as u64);
            prop_assert_eq!(loss.also_under_another, under.iter().filter(|f| opens(f)).count() as u64);
            let volume_lost = volume.contains(&goes) && !opens(&volume);
            prop_assert_eq!(loss.volume_key == Hangs::Alone, volume_lost);
            let lost = files.iter().filter(|f| volume_lost || f.contains(&goes) && !opens(f)).count();
            prop_assert_eq!(loss.unreadable, lost as u64);
            prop_assert_eq!(loss.is_nothing(), !volume.contains(&goes) && under.is_empty());
        }
    }
}
