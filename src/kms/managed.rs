//! Keys that the service manages for an account: alias/aws/NAME, made when first needed.

use super::cache::Key;
use super::region::Core;
use super::rows::{self, AliasRow, KeyRow, Manager, Rotation, ScheduleRow};
use super::schedule::USUAL_PERIOD;
use super::spec::{KeySpec, KeyUsage};
use super::state::State;
use super::{KmsError, KmsErrorKind, events};
use crate::audit;
use crate::iam::{AccountId, AliasName, KeyArn, KeyId, KeyPolicy};
use crate::store::{Durability, ReadTx, Store};

/// The ARN of the account's key under alias/`name`, which begins with `aws/`; made if it is not there.
pub fn ensure(region: &Core, account: &AccountId, name: &str) -> Result<String, KmsError> {
    let alias: Option<AliasName> = format!("alias/{name}").parse().ok();
    let (Some(alias), Some(service)) =
        (alias.filter(AliasName::is_reserved), name.strip_prefix("aws/").filter(|s| !s.is_empty()))
    else {
        let message = format!("{name} is no name of a service-managed key: they begin with aws/");
        return Err(KmsError::new(KmsErrorKind::InvalidAliasName, message));
    };
    let standing = |tx: &dyn ReadTx| -> Result<Option<String>, KmsError> {
        Ok(rows::alias(tx, account, &alias)?.map(|row| arn(region, account, &row.key()).to_string()))
    };
    if let Some(found) = standing(&*region.store.read()?)? {
        return Ok(found);
    }
    let mut tx = region.store.write(Durability::Synced)?;
    // Another process may have been first.
    if let Some(found) = standing(&*tx)? {
        return Ok(found);
    }
    let (id, now) = (KeyId::generate(false)?, region.now());
    let arn = arn(region, account, &id);
    let row = KeyRow {
        account: account.to_string(),
        created: now,
        description: format!("Default key that protects my {service} data when no other key is defined"),
        manager: Manager::Service,
        state: State::Enabled,
        policy: KeyPolicy::Service(service.to_owned()),
        tags: Vec::new(),
        current: 0,
        on_demand: 0,
        spec: KeySpec::Symmetric,
        usage: KeyUsage::EncryptDecrypt,
        import: None,
        related: None,
    };
    rows::new_key(&mut *tx, &id, &row)?;
    rows::put_material(
        &mut *tx,
        &id,
        0,
        &rows::make_material(&region.root, &arn, row.spec, now, Rotation::First)?,
    )?;
    rows::set_schedule(&mut *tx, &id, Some(&ScheduleRow::from(now, USUAL_PERIOD)), true)?;
    let alias_row = AliasRow { key: (id.multi_region, id.bytes), created: now, updated: now };
    rows::put_alias(&mut *tx, account, &alias, &alias_row, None)?;
    if let Some(key) = Key::load(&*tx, &region.region, &id)? {
        audit::append(&mut *tx, &events::by_the_service(region, &key, "CreateKey", None)?)?;
    }
    region.move_generation(&mut *tx)?;
    tx.commit()?;
    region.has_grown();
    Ok(arn.to_string())
}

fn arn(region: &Core, account: &AccountId, id: &KeyId) -> KeyArn {
    KeyArn { region: region.region.clone(), account: account.clone(), key: *id }
}
