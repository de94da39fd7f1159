//! What the home knows of volumes, snapshots and backups: noted by the commands that see them, so that whoever deletes a
//! key can be told what hangs on it.

use std::path::Path;

use jiff::Timestamp;

use super::global::Global;
use super::output;
use crate::kms::{Home, HomeError, Manifest, Place, PlaceKind};
use crate::volume::descriptor::Descriptor;
use crate::volume::host::HostDir;

/// Notes that a volume lies at `path`. A note that cannot be made is told by a warning: nothing else fails by it.
pub fn volume(global: &Global, path: &Path) {
    told(global, find_volume(path));
}

/// Notes that snapshots are kept at a directory or an address (s3://bucket/prefix). A note that cannot be made is told by a
/// warning.
pub fn depot(global: &Global, location: &str) {
    told(global, Some(find_depot(location)));
}

/// What is at a location: a volume, a backup of a home, else snapshots.
pub fn look(location: &str) -> Place {
    let backup = |path: &Path| {
        let (path, manifest) = (path.canonicalize().ok()?, Manifest::read(path).ok()?);
        let mut place = Place::new(PlaceKind::Backup, &path, &manifest.id, "", manifest.taken);
        place.with_root_keys = manifest.with_root_keys;
        Some(place)
    };
    let path = Path::new(location);
    find_volume(path).or_else(|| backup(path)).unwrap_or_else(|| find_depot(location))
}

fn find_volume(path: &Path) -> Option<Place> {
    let path = path.canonicalize().ok()?;
    let descriptor = Descriptor::read(&*HostDir::open(&path).ok()?).ok()?;
    let id = hex::encode(descriptor.id);
    Some(Place::new(PlaceKind::Volume, &path, &id, &descriptor.region, Timestamp::now()))
}

/// A volume's own depot is found by the volume.
fn find_depot(location: &str) -> Place {
    let path = Path::new(location);
    let whole = match path.canonicalize() {
        Ok(whole) if !location.contains("://") => whole,
        _ => path.to_owned(),
    };
    let own = whole.ends_with(".kmsfs/snapshots").then(|| whole.ancestors().nth(2)).flatten();
    let volume = own.and_then(find_volume);
    volume.unwrap_or_else(|| Place::new(PlaceKind::Depot, &whole, "", "", Timestamp::now()))
}

fn told(global: &Global, place: Option<Place>) {
    let Some(place) = place else { return };
    let note = || match Home::open(&global.home().map_err(|e| e.to_string())?) {
        // A volume under keys of another service: this one has nothing to delete.
        Err(HomeError::Missing { .. }) => Ok(()),
        home => home.and_then(|home| home.places()?.note(&place)).map_err(|e| e.to_string()),
    };
    if let Err(error) = note() {
        output::warn(&format!(
            "the home cannot note that {} is there, and `kmsfs key schedule-deletion` will not tell of it: {error}",
            place.shown()
        ));
    }
}
