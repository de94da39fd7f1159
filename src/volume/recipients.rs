//! Who can open a volume's keys beside its own KMS key (docs/format.md, "Recipients"): up to three more, for whom
//! the volume key and every data key are wrapped too. The list stands in the descriptor under its MAC.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Result, VolumeError};
use super::header::WrappedKey;
use super::sealed::fingerprint;
use crate::crypto::asymmetric::{Oaep, PublicKey};
use crate::kms::{EncryptionContext, KeyService, KmsError};

/// Recipients beside the volume's own KMS key: a header takes four wrapped keys.
pub const MAX_RECIPIENTS: usize = 3;

/// Gives the key service of a region.
type Find = dyn Fn(&str) -> Result<Arc<dyn KeyService>> + Send + Sync;

/// Key services of other regions than the volume's, for recipients there.
#[derive(Clone, Default)]
pub struct OtherRegions(Option<Arc<Find>>);

impl OtherRegions {
    /// `find` gives the key service of a region.
    pub fn new(find: impl Fn(&str) -> Result<Arc<dyn KeyService>> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(find)))
    }

    fn find(&self, region: &str) -> Result<Arc<dyn KeyService>> {
        match &self.0 {
            Some(find) => find(region),
            None => Err(VolumeError::Unsupported("keys of another region; none is in reach here")),
        }
    }
}

impl fmt::Debug for OtherRegions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OtherRegions(some)" } else { "OtherRegions(none)" })
    }
}

/// Somebody for whom all keys are wrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// What stands beside the wrapped keys: the ARN of a KMS key, or the fingerprint of a public key.
    pub name: String,
    /// RSA: keys are wrapped with it alone, and no mount opens them.
    pub public_key: Option<PublicKey>,
}

impl Recipient {
    /// A symmetric KMS key.
    pub fn kms(key_arn: String) -> Self {
        Self { name: key_arn, public_key: None }
    }

    /// An RSA key: `key_arn` is the KMS key whose it is, if it is one's.
    ///
    /// # Errors
    /// [`VolumeError::Invalid`] if nothing can be encrypted with it.
    pub fn rsa(public_key: PublicKey, key_arn: Option<String>) -> Result<Self> {
        if public_key.encrypts_at_most(Oaep::Sha256).is_none() {
            return Err(VolumeError::Invalid("only RSA keys of 2048, 3072 or 4096 bits can be recipients"));
        }
        let name = key_arn.unwrap_or_else(|| fingerprint(&public_key));
        Ok(Self { name, public_key: Some(public_key) })
    }
}

/// Region in an ARN; empty if it is none.
pub fn region_of(arn: &str) -> &str {
    arn.split(':').nth(3).unwrap_or_default()
}

/// Which of the wrapped keys are given to the key service.
#[derive(Debug, Clone)]
pub enum Opens {
    /// Those under symmetric KMS keys of the volume's region: what a mount does.
    Usual {
        /// The volume's region.
        region: String,
        /// Recipients that are RSA keys.
        never: Vec<String>,
    },
    /// Those of this recipient alone.
    Only(String),
    /// All: what is done with a snapshot.
    Any,
}

impl Opens {
    /// What a mount does, or one recipient if one is named.
    pub fn new(region: &str, recipients: &[Recipient], only: Option<&str>) -> Self {
        if let Some(only) = only {
            return Self::Only(only.to_owned());
        }
        let rsa = recipients.iter().filter(|r| r.public_key.is_some());
        Self::Usual { region: region.to_owned(), never: rsa.map(|r| r.name.clone()).collect() }
    }

    /// Whether this one is.
    pub fn takes(&self, key: &WrappedKey) -> bool {
        match self {
            Self::Usual { region, never } => {
                region_of(&key.key_arn) == region && !never.contains(&key.key_arn)
            }
            Self::Only(name) => key.key_arn == *name,
            Self::Any => true,
        }
    }

    /// What is told where none was there.
    pub fn nothing(&self, whose: &str) -> VolumeError {
        let message = match self {
            Self::Usual { region, .. } => format!(
                "{whose} is wrapped for no KMS key of region {region}; `kmsfs edk list` shows for whom it is, \
                 `kmsfs recover` opens it with another of them"
            ),
            Self::Only(name) => {
                format!("{whose} is not wrapped for {name}; `kmsfs edk list` shows for whom it is")
            }
            Self::Any => format!("{whose} is wrapped for nobody"),
        };
        VolumeError::Key(KmsError::new(crate::kms::KmsErrorKind::InvalidCiphertext, message))
    }
}

/// The recipients of a volume, with the key services that wrap for them.
pub struct Recipients {
    list: Vec<Recipient>,
    region: String,
    regions: OtherRegions,
    found: Mutex<HashMap<String, Arc<dyn KeyService>>>,
}

impl Recipients {
    /// `region` is the volume's.
    pub fn new(list: Vec<Recipient>, region: String, regions: OtherRegions) -> Self {
        Self { list, region, regions, found: Mutex::default() }
    }

    /// A key wrapped for everybody: `own` is its form under the volume's own KMS key, `here` the key service of the
    /// volume's region. For all or not at all.
    pub fn wrap_all(
        &self,
        here: &dyn KeyService,
        own: WrappedKey,
        key: &[u8; 32],
        context: &EncryptionContext,
    ) -> Result<Vec<WrappedKey>> {
        let mut all = vec![own];
        for recipient in &self.list {
            // Under that it is already: whoever can write to the backing may have put it first.
            if recipient.name != all[0].key_arn {
                all.push(self.wrap(here, recipient, key, context)?);
            }
        }
        Ok(all)
    }

    /// A key wrapped for one.
    pub fn wrap(
        &self,
        here: &dyn KeyService,
        recipient: &Recipient,
        key: &[u8; 32],
        context: &EncryptionContext,
    ) -> Result<WrappedKey> {
        let name = &recipient.name;
        if let Some(public) = &recipient.public_key {
            let ciphertext = public.encrypt(Oaep::Sha256, key)?;
            return Ok(WrappedKey { key_arn: name.clone(), ciphertext });
        }
        let region = region_of(name);
        let other = if region == self.region { None } else { Some(self.in_region(region)?) };
        let made = other.as_deref().unwrap_or(here).encrypt(name, key, context).map_err(|error| {
            let message = format!(
                "keys of this volume are wrapped for the recipient {name} too, which is refused: {}",
                error.message
            );
            KmsError::new(error.kind, message)
        })?;
        // Under the name of the list, by which it is found again.
        Ok(WrappedKey { key_arn: name.clone(), ciphertext: made.ciphertext })
    }

    fn in_region(&self, region: &str) -> Result<Arc<dyn KeyService>> {
        let mut found = self.found.lock();
        if let Some(service) = found.get(region) {
            return Ok(service.clone());
        }
        let service = self.regions.find(region)?;
        found.insert(region.to_owned(), service.clone());
        Ok(service)
    }
}
