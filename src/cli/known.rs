//! What the home knows of volumes, snapshots and backups: noted by the commands that see them, so that whoever deletes a
//! key can be told what hangs on it.

use std::path::Path;

use jiff::Timestamp;

use super::global::Global;
use super::output;
use crate::kms::{Home, HomeError, Place, PlaceKind};
use crate::volume::descriptor::Descriptor;
use crate::volume::host::HostDir;

/// Notes that a volume lies at `path`. A note that cannot be made is told by a warning: nothing else fails by it.
pub fn volume(global: &Global, path: &Path) {
    let Ok(path) = path.canonicalize() else { return };
    let Some(descriptor) = HostDir::open(&path).ok().and_then(|dir| Descriptor::read(&*dir).ok()) else { return };
    let id = hex::encode(descriptor.id);
    note(global, &Place::new(PlaceKind::Volume, &path, &id, &descriptor.region, Timestamp::now()));
}

/// Notes that snapshots are kept at a directory or an address (s3://bucket/prefix). Those in a volume's own depot are found
/// by the volume.
pub fn depot(global: &Global, location: &str) {
    let path = Path::new(location);
    let whole = if location.contains("://") { path.to_owned() } else { path.canonicalize().unwrap_or(path.into()) };
    note(global, &Place::new(PlaceKind::Depot, &whole, "", "", Timestamp::now()));
}

fn note(global: &Global, place: &Place) {
    let note = || match Home::open(&global.home().map_err(|e| e.to_string())?) {
        // A volume under keys of another service: this one has nothing to delete.
        Err(HomeError::Missing { .. }) => Ok(()),
        home => home.and_then(|home| home.places()?.note(place)).map_err(|e| e.to_string()),
    };
    if let Err(error) = note() {
        output::warn(&format!(
            "the home cannot note that {} is there, and `kmsfs key schedule-deletion` will not tell of it: {error}",
            place.shown()
        ));
    }
}
