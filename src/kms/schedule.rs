//! Rotation by schedule: new material on a date, and the next date.
//!
//! A key has a date only while it is enabled. One that was disabled over its date rotates when it is enabled; one
//! whose date came while no process was running, when the next one opens the region. However late, a key
//! rotates once, and its next date counts from then.

use jiff::Timestamp;

use super::cache::Key;
use super::region::Core;
use super::rows::{self, KeyRow, Rotation, ScheduleRow};
use super::{KmsError, KmsErrorKind, events, related};
use crate::audit;
use crate::store::{Durability, Store, WriteTx};

/// A day in milliseconds.
pub const DAY: i64 = 24 * 3600 * 1000;
/// Days between rotations, if a request does not say.
pub const USUAL_PERIOD: u32 = 365;

impl ScheduleRow {
    /// The first date a period from `now`, in milliseconds since 1970.
    pub fn from(now: i64, period: u32) -> Self {
        Self { period, next: now + i64::from(period) * DAY }
    }

    /// The same with another period: the date counts from where it counted from before.
    pub fn with_period(self, period: u32) -> Self {
        Self::from(self.next - i64::from(self.period) * DAY, period)
    }
}

/// Gives a key new material, and `row` with the material's number. Answers the event.
pub fn rotate(
    region: &Core,
    tx: &mut dyn WriteTx,
    key: &Key,
    row: KeyRow,
    now: Timestamp,
    how: Rotation,
) -> Result<Vec<u8>, KmsError> {
    let number = key.materials.last().map_or(0, |(number, _)| number + 1);
    let material = rows::make_material(&region.root, &key.arn, row.spec, now.as_millisecond(), how)?;
    rows::put_material(tx, &key.arn.key, number, &material)?;
    related::changed(tx, &region.region, &key.arn.key, KeyRow { current: number, ..row })?;
    events::rotated(region, key, how.name().unwrap_or_default(), now)
}

/// Rotates an enabled key whose date has come, and sets the next one. Answers the event.
pub fn rotate_by_schedule(
    region: &Core,
    tx: &mut dyn WriteTx,
    key: &Key,
    row: KeyRow,
    schedule: ScheduleRow,
    now: Timestamp,
) -> Result<Vec<u8>, KmsError> {
    let next = ScheduleRow::from(now.as_millisecond(), schedule.period);
    rows::set_schedule(tx, &key.arn.key, Some(&next), true)?;
    rotate(region, tx, key, row, now, Rotation::Automatic)
}

/// Rotates the keys whose date has come.
pub fn rotate_due(region: &Core) -> Result<(), KmsError> {
    let now = region.clock.now();
    let due = now.as_millisecond();
    while rows::first_rotation_due(&*region.store.read()?, due)?.is_some() {
        let mut tx = region.store.write(Durability::Synced)?;
        // Another process may have been first.
        let Some(id) = rows::first_rotation_due(&*tx, due)? else { break };
        let found = (Key::load(&*tx, &region.region, &id)?, rows::schedule(&*tx, &id)?);
        let (Some(key), Some(schedule)) = found else {
            let message = format!("key {id} is to rotate and not there; restore the key service's store");
            return Err(KmsError::new(KmsErrorKind::Internal, message));
        };
        let event = rotate_by_schedule(region, &mut *tx, &key, key.row.clone(), schedule, now)?;
        audit::append(&mut *tx, &event)?;
        region.move_generation(&mut *tx)?;
        tx.commit()?;
        region.has_grown();
    }
    Ok(())
}
