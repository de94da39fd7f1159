//! Where things lie that a home's keys are needed for, as far as its commands have seen them: volumes, snapshots and
//! backups of the home. A hint for people, which decides nothing: what is not noted here may exist all the same.
//!
//! `<home>/places.db`, collection `places`: kind 1 | location -> version 1 and postcard of the place.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::home::{Home, HomeError};
use crate::store::{Durability, SqliteStore, Store, StoreError};

/// File of the store, in the home.
pub(super) const FILE: &str = "places.db";
const PLACES: &str = "places";
const VERSION: u8 = 1;

/// What lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    /// A volume's encrypted directory.
    Volume,
    /// A depot of snapshots.
    Depot,
    /// A backup of the home.
    Backup,
}

impl PlaceKind {
    fn byte(self) -> u8 {
        match self {
            Self::Volume => b'v',
            Self::Depot => b'd',
            Self::Backup => b'b',
        }
    }
}

/// Something that needs keys, and where it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What it is.
    pub kind: PlaceKind,
    /// An absolute path, or an address (s3://bucket/prefix): bytes, since a path need not be text.
    pub location: Vec<u8>,
    /// Hex id of the volume or backup; empty for a depot, which may hold snapshots of several.
    pub id: String,
    /// Region of the volume; empty for others.
    pub region: String,
    /// Milliseconds since 1970. A backup was taken then.
    pub first_seen: i64,
    /// Milliseconds since 1970.
    pub last_seen: i64,
    /// A backup: with the root keys, and so enough to open everything of its time.
    pub with_root_keys: bool,
}

impl Place {
    /// Seen just now.
    pub fn new(kind: PlaceKind, location: &Path, id: &str, region: &str, now: Timestamp) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let now = now.as_millisecond();
        Self {
            kind,
            location: location.as_os_str().as_bytes().to_vec(),
            id: id.to_owned(),
            region: region.to_owned(),
            first_seen: now,
            last_seen: now,
            with_root_keys: false,
        }
    }

    /// The path, unless it is an address.
    pub fn path(&self) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStringExt;
        self.location
            .starts_with(b"/")
            .then(|| PathBuf::from(std::ffi::OsString::from_vec(self.location.clone())))
    }

    /// The location as text.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.location).into_owned()
    }

    fn key(&self) -> Vec<u8> {
        [&[self.kind.byte()], &self.location[..]].concat()
    }

    fn decode(row: &[u8]) -> Result<Self, StoreError> {
        let bad = || StoreError::Engine(format!("{FILE} holds a row that this kmsfs does not know"));
        match row.split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|_| bad()),
            _ => Err(bad()),
        }
    }
}

/// The places of a home.
pub struct Places {
    store: SqliteStore,
}

impl Home {
    /// What this home knows; the first call makes the store.
    pub fn places(&self) -> Result<Places, HomeError> {
        Ok(Places { store: SqliteStore::open(&self.path().join(FILE))? })
    }
}

impl Places {
    /// Notes a place. Where the same stood, the time when it was first seen stays; another volume at that path takes its
    /// place. On disk when this returns.
    pub fn note(&self, place: &Place) -> Result<(), HomeError> {
        let mut tx = self.store.write(Durability::Synced)?;
        let mut place = place.clone();
        if let Some(before) = tx.get(PLACES, &place.key())?
            && let Ok(before) = Place::decode(&before)
            && before.id == place.id
        {
            place.first_seen = before.first_seen.min(place.first_seen);
            place.last_seen = before.last_seen.max(place.last_seen);
        }
        let row =
            postcard::to_extend(&place, vec![VERSION]).map_err(|e| StoreError::Engine(e.to_string()))?;
        tx.put(PLACES, &place.key(), &row)?;
        Ok(tx.commit()?)
    }

    /// Forgets whatever was noted at a location; how much that was.
    pub fn forget(&self, location: &[u8]) -> Result<usize, HomeError> {
        let mut tx = self.store.write(Durability::Synced)?;
        let mut gone = 0;
        for kind in [PlaceKind::Volume, PlaceKind::Depot, PlaceKind::Backup] {
            gone += usize::from(tx.delete(PLACES, &[&[kind.byte()], location].concat())?);
        }
        tx.commit()?;
        Ok(gone)
    }

    /// All of them: volumes, depots, backups, each by location.
    pub fn all(&self) -> Result<Vec<Place>, HomeError> {
        let rows = self.store.read()?.range(PLACES, Bound::Unbounded, Bound::Unbounded, false, usize::MAX)?;
        let places = rows.iter().map(|(_, row)| Place::decode(row));
        let mut places = places.collect::<Result<Vec<_>, _>>()?;
        places.sort_by(|a, b| (a.kind, &a.location).cmp(&(b.kind, &b.location)));
        Ok(places)
    }

    /// The store, for backups.
    pub(super) fn store(&self) -> &SqliteStore {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_known_once_and_forgotten_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open_or_create(&dir.path().join("home")).unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let volume = |path: &str, id: &str, second| {
            Place::new(PlaceKind::Volume, Path::new(path), id, "us-east-1", at(second))
        };
        let places = home.places().unwrap();
        assert_eq!(places.all().unwrap(), []);
        places.note(&Place::new(PlaceKind::Depot, Path::new("s3://bucket/x"), "", "", at(9))).unwrap();
        places.note(&volume("/b", "02", 10)).unwrap();
        places.note(&volume("/a", "01", 10)).unwrap();
        // Another process sees one again.
        home.places().unwrap().note(&volume("/a", "01", 20)).unwrap();
        let all = places.all().unwrap();
        assert_eq!(all.iter().map(Place::shown).collect::<Vec<_>>(), ["/a", "/b", "s3://bucket/x"]);
        assert_eq!((all[0].first_seen, all[0].last_seen), (10_000, 20_000));
        assert_eq!((all[0].path(), all[2].path()), (Some("/a".into()), None));
        // Another volume at the same path: the one before is not there any more.
        places.note(&volume("/a", "03", 30)).unwrap();
        assert_eq!(places.all().unwrap()[0], volume("/a", "03", 30));
        assert_eq!((places.forget(b"/a").unwrap(), places.forget(b"/a").unwrap()), (1, 0));
        assert_eq!(places.all().unwrap().len(), 2);
    }
}
