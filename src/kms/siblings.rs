//! The regions of one home, for what concerns more than one: multi-Region keys.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::home::{Home, HomeError, KmsOptions, open_core};
use super::identity::Identities;
use super::region::Core;
use super::{KmsError, KmsErrorKind};
use crate::iam::Region;

/// Finds regions, and opens those that nobody here has open. It holds none of them: whoever has a region open keeps it.
pub struct Siblings {
    home: Home,
    options: KmsOptions,
    identities: Arc<Identities>,
    open: Mutex<BTreeMap<Region, Weak<Core>>>,
}

impl Siblings {
    /// Of a home.
    pub fn new(home: Home, options: KmsOptions) -> Arc<Self> {
        let (passphrase, clock) = (options.passphrase.clone(), options.clock.clone());
        let identities = Arc::new(Identities::new(home.path(), passphrase, clock));
        Arc::new(Self { home, options, identities, open: Mutex::default() })
    }

    /// The home.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Who there is, in all regions.
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }

    /// A region, opened if it is not. Its thread is not started: only who asked for the region itself has it.
    pub fn core(self: &Arc<Self>, region: &Region) -> Result<Arc<Core>, HomeError> {
        let mut open = self.open.lock();
        if let Some(core) = open.get(region).and_then(Weak::upgrade) {
            return Ok(core);
        }
        let core = open_core(&self.home, &self.options, region, self.clone())?;
        open.insert(region.clone(), Arc::downgrade(&core));
        Ok(core)
    }

    /// The same for a request that names the region.
    pub fn asked_for(self: &Arc<Self>, region: &Region) -> Result<Arc<Core>, KmsError> {
        self.core(region).map_err(|error| match error {
            HomeError::NoRegion { .. } => KmsError::new(KmsErrorKind::NotFound, error.to_string()),
            other => {
                let message = format!(
                    "the region {region} of this key service cannot be opened: {other}. Related regions need one passphrase"
                );
                KmsError::new(KmsErrorKind::Internal, message)
            }
        })
    }
}
