//! One region of the key service, open.

use std::path::Path;
use std::sync::Arc;

use super::clock::Clock;
use super::generation::GenerationFile;
use super::home::HomeError;
use super::root::RootKey;
use crate::iam::Region;
use crate::store::{SqliteStore, StoreError};

/// A region.
pub struct RegionService {}

/// Writes what a new region's store begins with.
pub(super) fn found(store: &SqliteStore, root: &RootKey, region: &Region) -> Result<(), HomeError> {
    let _ = (store, root, region, StoreError::Full);
    unimplemented!()
}

#[allow(unused_variables)]
impl RegionService {
    pub(super) fn open(
        region: Region,
        store: SqliteStore,
        root: RootKey,
        generation: GenerationFile,
        clock: Arc<dyn Clock>,
        root_path: &Path,
    ) -> Result<Arc<Self>, HomeError> {
        unimplemented!()
    }

    pub(super) fn tick(&self) {}
}
