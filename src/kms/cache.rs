//! Keys as they are used: rows and opened material, kept until the generation moves.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use super::blob::MaterialId;
use super::grants::GrantCache;
use super::imported::{self, ImportRow};
use super::root::RootKey;
use super::rows::{self, KeyRow, MaterialRow};
use super::spec::Material;
use super::{KmsError, KmsErrorKind};
use crate::iam::{AccountId, AliasName, IamError, KeyArn, KeyId, KeyPolicy, Policy, Region};
use crate::store::ReadTx;

/// A key with all its material.
pub struct Key {
    /// Its name.
    pub arn: KeyArn,
    /// The name as text.
    pub arn_text: String,
    /// What the store says of it.
    pub row: KeyRow,
    /// The row's policy, read; one for all keys of an account that have the default policy, as most do.
    pub policy: Arc<Policy>,
    /// Oldest first, with their numbers. Imported material that is gone has an empty `sealed`.
    pub materials: Vec<(u32, MaterialRow)>,
    /// What is known of its imported materials, by their numbers.
    pub imports: BTreeMap<u32, ImportRow>,
    /// Its grants, as far as somebody asked for them.
    pub grants: GrantCache,
    /// Its aliases, once somebody asked for them.
    pub aliases: OnceLock<Vec<String>>,
    opened: RwLock<HashMap<MaterialId, Arc<Material>>>,
}

impl Key {
    /// Reads a key.
    pub fn load(tx: &dyn ReadTx, region: &Region, id: &KeyId) -> Result<Option<Self>, KmsError> {
        Self::load_sharing(tx, region, id, &DefaultPolicies::default())
    }

    /// Reads a key that is to be kept.
    pub fn load_sharing(
        tx: &dyn ReadTx,
        region: &Region,
        id: &KeyId,
        known: &DefaultPolicies,
    ) -> Result<Option<Self>, KmsError> {
        let Some(row) = rows::key(tx, id)? else { return Ok(None) };
        let damaged = |_| KmsError::new(KmsErrorKind::Internal, format!("the row of key {id} is damaged"));
        let account: AccountId = row.account.parse().map_err(damaged)?;
        let policy = match &row.policy {
            KeyPolicy::AccountRoot => known.of(&account, region).map_err(damaged)?,
            other => Arc::new(other.read(&account, region).map_err(damaged)?),
        };
        let arn = KeyArn { region: region.clone(), account, key: *id };
        let arn_text = arn.to_string();
        let materials = rows::materials(tx, id)?;
        let imports = if row.import.is_some() { imported::all(tx, id)? } else { BTreeMap::new() };
        Ok(Some(Self {
            arn,
            arn_text,
            row,
            policy,
            materials,
            imports,
            grants: GrantCache::default(),
            aliases: OnceLock::new(),
            opened: RwLock::default(),
        }))
    }

    /// The name of the current material.
    pub fn current(&self) -> Result<MaterialId, KmsError> {
        let row = self.materials.iter().find(|(number, _)| *number == self.row.current);
        row.map(|(_, row)| row.id).ok_or_else(|| {
            let message =
                format!("{} has no current material; restore the key service's store", self.arn_text);
            KmsError::new(KmsErrorKind::Internal, message)
        })
    }

    /// Whether material of it is to be erased by then, in milliseconds since 1970.
    pub fn expires_by(&self, now: i64) -> bool {
        self.imports.values().any(|import| import.valid_to.is_some_and(|due| due <= now))
    }

    /// Material of this name, opened; None if the key has none such.
    pub fn material(&self, root: &RootKey, id: &MaterialId) -> Result<Option<Arc<Material>>, KmsError> {
        if let Some(material) = self.opened.read().get(id) {
            return Ok(Some(material.clone()));
        }
        let found = self.materials.iter().find(|(_, row)| row.id == *id && !row.sealed.is_empty());
        let Some((_, row)) = found else { return Ok(None) };
        let material = Arc::new(rows::open_material(root, &self.arn, self.row.spec, row)?);
        self.opened.write().insert(*id, material.clone());
        Ok(Some(material))
    }
}

/// The default policies of one region's accounts, read. No change of a key changes them.
#[derive(Default)]
pub struct DefaultPolicies(RwLock<HashMap<AccountId, Arc<Policy>>>);

impl DefaultPolicies {
    fn of(&self, account: &AccountId, region: &Region) -> Result<Arc<Policy>, IamError> {
        if let Some(policy) = self.0.read().get(account) {
            return Ok(policy.clone());
        }
        let policy = Arc::new(KeyPolicy::AccountRoot.read(account, region)?);
        let mut all = self.0.write();
        if all.len() >= MOST_ACCOUNTS {
            all.clear();
        }
        Ok(all.entry(account.clone()).or_insert(policy).clone())
    }
}

/// Keys and aliases of one generation.
#[derive(Default)]
pub struct Cache {
    /// The generation they are of; None: of none.
    pub generation: Option<u64>,
    /// Keys by id.
    pub keys: HashMap<KeyId, Arc<Key>>,
    /// Aliases by account and name.
    pub aliases: HashMap<AccountId, HashMap<AliasName, KeyId>>,
}

/// Keys that are kept at most; then all are dropped. Nothing but memory hangs on it. As many as an account may have in
/// a region, and some: an account that uses all of its keys must not read them again and again.
const MOST: usize = 120_000;
/// Accounts whose default policy is kept at most; then all are dropped.
const MOST_ACCOUNTS: usize = 10_000;

impl Cache {
    /// Forgets everything of other generations.
    pub fn turn_to(&mut self, generation: u64) {
        if self.generation != Some(generation) || self.keys.len() > MOST || self.aliases.len() > MOST {
            *self = Self { generation: Some(generation), ..Self::default() };
        }
    }
}
