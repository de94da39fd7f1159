//! Copies of snapshots, under keys of another region or account (docs/format.md, "Copies").
//!
//! What a kill at any moment leaves: a draft of the descriptor, under another name, which holds the new volume key and
//! says which packs may come; packs; and parts, each of which stands only when its pack does and was read back. Called
//! again, a copy goes on behind the parts that stand. The names of its packs are those of its units, so that a unit done
//! again replaces what it wrote before. The descriptor comes last, and only then is there a snapshot.

mod part;
mod plan;
mod unit;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;
use serde::Serialize;

use self::part::{Number, Part, part_path};
use self::plan::Plan;
use self::unit::{Unit, Worker, packs_for};
use super::catalogue::{Opened, Snapshot, Spool, sweep};
use super::depot::{Depot, SNAPSHOTS, descriptor_path, pack_path};
use super::descriptor::{
    Descriptor, Id, KeyUse, MAX_DESCRIPTOR, Origin, Pack, SNAPSHOT_FORMAT, check_name, open_volume_key,
};
use super::error::{Result, SnapshotError};
use super::manifest::{Entry, ManifestSink, Records};
use crate::crypto::{Secret, mac, random};
use crate::kms::{KeyService, Ledger, SnapshotAction};
use crate::volume::descriptor as volume_descriptor;
use crate::volume::disk::Dir;
use crate::volume::epoch::Epoch;
use crate::volume::header::WrappedKey;
use crate::volume::keys::{VolumeId, VolumeKey, VolumeKeys, volume_context};
use crate::volume::transcode::Rename;

pub use self::plan::UNIT_PAGES;

/// What a copy is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A new volume id, a new volume key and new data keys: everything is encrypted again. Who knew a key of the old one
    /// knows none of the new.
    EncryptAgain,
    /// The same keys, wrapped again. Who knew one can read its file in the copy too.
    Rewrap,
}

/// The snapshot to copy.
pub struct From {
    /// Where it is.
    pub depot: Arc<dyn Depot>,
    /// Its name.
    pub name: String,
    /// The key service of its region, for whoever copies.
    pub service: Arc<dyn KeyService>,
}

/// The copy to be.
pub struct To {
    /// Where.
    pub depot: Arc<dyn Depot>,
    /// Its name.
    pub name: String,
    /// The region of `key_arn`.
    pub region: String,
    /// The account of `key_arn`.
    pub account: String,
    /// The key service there.
    pub service: Arc<dyn KeyService>,
    /// Its log.
    pub ledger: Arc<dyn Ledger>,
    /// The KMS key to come under.
    pub key_arn: String,
    /// Seconds since 1970.
    pub now: i64,
}

/// How.
pub struct Options<'a> {
    /// What the copy is worth.
    pub way: Way,
    /// Units that are copied at once.
    pub threads: usize,
    /// Pages of content between two points from which a copy that was cut off goes on.
    pub unit_pages: u64,
    /// A directory for the new manifest while it is written.
    pub spool: &'a dyn Dir,
    /// Bytes of content that were done; once with all there are, as `(0, all)`, before the first.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Sync),
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Hex.
    pub snapshot_id: Id,
    /// Hex; that of the old one, if keys were only wrapped again.
    pub volume_id: Id,
    /// The KMS key.
    pub key_arn: String,
    /// Files, each name of a hard-linked one.
    pub files: u64,
    /// Plaintext bytes of all files.
    pub bytes: u64,
    /// Units that were copied now, and those that stood from before.
    pub copied: usize,
    /// See `copied`.
    pub stood: usize,
    /// Entries that a mount does not show either and that were left out; the first few by name and reason.
    pub left_out: u64,
    /// See `left_out`.
    pub told: Vec<String>,
}

/// What units read from.
struct Source<'a> {
    depot: &'a dyn Depot,
    snapshot: &'a Descriptor,
    keys: &'a VolumeKeys,
    service: &'a dyn KeyService,
}

/// What units write to.
struct Target<'a> {
    depot: &'a dyn Depot,
    snapshot: Id,
    keys: &'a VolumeKeys,
    service: &'a dyn KeyService,
    key_arn: &'a str,
    epoch: u64,
}

/// The draft of a copy's descriptor.
fn draft_path(name: &str) -> String {
    format!("{SNAPSHOTS}/{name}/copy.json")
}

/// The name of a pack: that of its unit, and of its place there.
fn pack_id(snapshot: &Id, unit: u64, index: u32) -> Id {
    let hash =
        mac::sha256(&[b"kmsfs pack of a copy", &snapshot.0, &unit.to_le_bytes(), &index.to_le_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    Id(id)
}

/// Copies a snapshot, or goes on with a copy that was cut off.
///
/// # Errors
/// [`SnapshotError::Exists`] if a snapshot has the name, [`SnapshotError::Refused`] if a copy of another one, or to
/// another key, was begun under it; [`SnapshotError::Key`] if a key service refuses; [`SnapshotError::Damaged`] with what
/// is.
pub fn copy(from: &From, to: &To, options: &Options) -> Result<Report> {
    check_name(&to.name)?;
    let snapshot = Snapshot::find(from.depot.clone(), &from.name)?;
    let _lock = to.depot.lock()?;
    to.depot.sweep()?;
    match to.depot.len(&descriptor_path(&to.name)) {
        Ok(_) => {
            // Of a copy that was cut off between its end and this.
            take_away(&*to.depot, &to.name)?;
            return Err(SnapshotError::Exists(to.name.clone()));
        }
        Err(e) if e.is_not_found() => {}
        Err(e) => return Err(e),
    }
    let Opened { descriptor: old, volume: old_keys, manifest, .. } = snapshot.open(&*from.service)?;
    let begun = begun(&old, &old_keys, to, options.way)?;
    let (mut draft, keys) = match begun {
        Some(begun) => begun,
        None => draft(&old, &old_keys, from, to, options.way)?,
    };
    let rename = Rename { from: &old_keys, to: &keys };
    let plan =
        Plan::new(&manifest, (options.way == Way::EncryptAgain).then_some(&rename), options.unit_pages)?;
    if draft.mac.is_empty() {
        let units = 0..plan.units();
        let packs = units.flat_map(|unit| {
            let count = packs_for(plan.unit_bytes(unit));
            (0..count).map(move |index| (unit as u64, index))
        });
        draft.packs = packs
            .map(|(unit, index)| Pack { id: pack_id(&draft.snapshot_id, unit, index), pages: 0 })
            .collect();
        draft.sign(&keys)?;
        to.depot.put(&draft_path(&to.name), &draft.encode()?)?;
    }
    let source = Source { depot: &*from.depot, snapshot: &old, keys: &old_keys, service: &*from.service };
    let target = Target {
        depot: &*to.depot,
        snapshot: draft.snapshot_id,
        keys: &keys,
        service: &*to.service,
        key_arn: &to.key_arn,
        epoch: epoch(&draft, &keys)?.number,
    };
    let unit = Unit { source: &source, target: &target, manifest: &manifest, way: options.way };
    let copied = units(&unit, &plan, &to.name, options)?;
    let snapshot = finish(&target, to, &plan, draft, options.spool)?;
    take_away(&*to.depot, &to.name)?;
    Ok(Report {
        snapshot_id: snapshot.snapshot_id,
        volume_id: snapshot.volume_id,
        key_arn: to.key_arn.clone(),
        files: snapshot.counts.files,
        bytes: snapshot.counts.bytes,
        copied,
        stood: plan.units() - copied,
        left_out: plan.left_out,
        told: plan.told,
    })
}

/// A copy that was begun before and is the same: its draft, and the new volume's keys.
///
/// Who can write to the depot can put a draft there, and whoever has a KMS key of his own a volume key that he knows: so it is
/// taken only under the copy's KMS key, and under no other one beside it.
fn begun(
    old: &Descriptor,
    old_keys: &VolumeKeys,
    to: &To,
    way: Way,
) -> Result<Option<(Descriptor, VolumeKeys)>> {
    let path = draft_path(&to.name);
    let draft = match to.depot.get(&path, MAX_DESCRIPTOR) {
        Err(e) if e.is_not_found() => return Ok(None),
        text => Descriptor::parse(&text?)?,
    };
    let same = draft.name == to.name
        && draft.copied_from.as_ref().is_some_and(|origin| *origin == self::origin(old, way))
        && (draft.volume_id == old.volume_id) == (way == Way::Rewrap)
        && matches!(&draft.volume_keys[..], [key] if key.key_arn == to.key_arn);
    if !same {
        return Err(SnapshotError::Refused(format!(
            "a copy of another snapshot, to another key or in another way was begun as {:?} in {}; give the same \
             arguments to go on with it, another --name, or delete it",
            to.name,
            to.depot.location()
        )));
    }
    let keys = draft.unlock(&*to.service)?;
    if way == Way::Rewrap {
        draft.verify(old_keys)?;
    }
    Ok(Some((draft, keys)))
}

fn origin(old: &Descriptor, way: Way) -> Origin {
    Origin {
        name: old.name.clone(),
        id: old.snapshot_id,
        region: old.region.clone(),
        account: old.account.clone(),
        encrypted_again: way == Way::EncryptAgain,
    }
}

/// Begins one. Not signed yet: its packs are not known.
fn draft(
    old: &Descriptor,
    old_keys: &VolumeKeys,
    from: &From,
    to: &To,
    way: Way,
) -> Result<(Descriptor, VolumeKeys)> {
    let (keys, wrapped) = match way {
        Way::EncryptAgain => new_volume(to)?,
        Way::Rewrap => rewrapped(old, from, to)?,
    };
    let epoch = match way {
        Way::EncryptAgain => {
            let old = epoch(old, old_keys)?;
            // All files of the copy are whole: none is to be excused.
            Epoch { clean: true, unclean: Vec::new(), ..old }.encode(&keys)
        }
        Way::Rewrap => hex::decode(&old.epoch).unwrap_or_default(),
    };
    let features = volume_descriptor::Descriptor::features_of(to.service.holder());
    let draft = Descriptor {
        format: SNAPSHOT_FORMAT,
        features: features.iter().map(|feature| feature.name().to_owned()).collect(),
        snapshot_id: Id(random()?),
        name: to.name.clone(),
        volume_id: Id(keys.id),
        region: to.region.clone(),
        account: to.account.clone(),
        created: to.now,
        epoch: hex::encode(epoch),
        parent: None,
        copied_from: Some(origin(old, way)),
        manifest: Id([0; 16]),
        packs: Vec::new(),
        counts: old.counts,
        keys: Vec::new(),
        // A copy is for its own key alone.
        recipients: Vec::new(),
        volume_keys: Descriptor::seal_keys(&[wrapped]),
        mac: String::new(),
    };
    Ok((draft, keys))
}

/// A new volume id and key.
fn new_volume(to: &To) -> Result<(VolumeKeys, WrappedKey)> {
    let id: VolumeId = random()?;
    let made = to.service.generate_data_key(&to.key_arn, &volume_context(&id))?;
    let key = VolumeKey(Secret::from_slice(made.plaintext.expose())?);
    let wrapped = WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext };
    Ok((VolumeKeys::derive(&key, id)?, wrapped))
}

/// The old volume key under the new KMS key: Decrypt there, Encrypt here.
fn rewrapped(old: &Descriptor, from: &From, to: &To) -> Result<(VolumeKeys, WrappedKey)> {
    let context = volume_context(&old.volume_id.0);
    let mut refusal = None;
    for key in old.wrapped_keys()? {
        match from.service.decrypt(Some(&key.key_arn), &key.ciphertext, &context) {
            Ok(opened) => {
                let key = VolumeKey(Secret::from_slice(opened.plaintext.expose())?);
                let keys = VolumeKeys::derive(&key, old.volume_id.0)?;
                old.verify(&keys)?;
                let made = to.service.encrypt(&to.key_arn, key.expose(), &context)?;
                return Ok((keys, WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext }));
            }
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    Err(refusal.map_or_else(|| SnapshotError::damaged("no wrapped volume key is listed"), SnapshotError::Key))
}

/// The marker in a descriptor.
fn epoch(descriptor: &Descriptor, keys: &VolumeKeys) -> Result<Epoch> {
    Ok(Epoch::parse(&hex::decode(&descriptor.epoch).unwrap_or_default(), keys)?)
}

/// Copies the units that do not stand, in threads. Answers how many.
fn units(unit: &Unit, plan: &Plan, name: &str, options: &Options) -> Result<usize> {
    let all = (0..plan.units()).map(|unit| plan.unit_bytes(unit)).sum();
    (options.progress)(0, Some(all));
    let (next, copied, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let failed = Mutex::new(None);
    let window = unit.source.depot.window().max(unit.target.depot.window());
    let one = |worker: &mut Worker, number: usize| -> Result<()> {
        let path = part_path(name, number);
        let which = (number as u64, plan.units() as u64, options.unit_pages);
        if stands(unit.target, &path, which)? {
            (options.progress)(plan.unit_bytes(number), None);
            return Ok(());
        }
        let part =
            unit.copy(worker, which, &mut plan.unit(number), &|bytes| (options.progress)(bytes, None))?;
        unit.target.depot.put(&path, &part)?;
        copied.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    thread::scope(|scope| {
        for _ in 0..options.threads.clamp(1, plan.units().max(1)) {
            scope.spawn(|| {
                let mut worker = Worker::new(window);
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= plan.units() {
                        break;
                    }
                    if let Err(error) = one(&mut worker, number) {
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().get_or_insert(error);
                    }
                }
            });
        }
    });
    match failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(copied.into_inner()),
    }
}

/// True if a unit was copied before, and its packs are there. A part that does not stand goes, durably: its unit's packs are going
/// to be replaced, and after a cut behind that it would stand for what is in them then.
fn stands(target: &Target, path: &str, number: Number) -> Result<bool> {
    let stands = is_whole(target, path, number)?;
    if stands == Some(false) {
        target.depot.delete(path)?;
    }
    Ok(stands == Some(true))
}

/// None if there is no part.
fn is_whole(target: &Target, path: &str, number: Number) -> Result<Option<bool>> {
    let part = match Part::read(target.depot, path, target.keys, target.service) {
        Ok(Some(part)) => part,
        Ok(None) => return Ok(None),
        // Done again: what is wrong with a part says nothing about the snapshot.
        Err(SnapshotError::Damaged(_)) => return Ok(Some(false)),
        Err(SnapshotError::Volume(crate::volume::VolumeError::Damaged { .. })) => return Ok(Some(false)),
        Err(e) => return Err(e),
    };
    if part.snapshot != target.snapshot || part.unit != number {
        return Ok(Some(false));
    }
    for pack in &part.packs {
        match target.depot.len(&pack_path(&pack.id.0)) {
            Ok(len) if len == pack.pages * 4096 => {}
            Ok(_) => return Ok(Some(false)),
            Err(e) if e.is_not_found() => return Ok(Some(false)),
            Err(e) => return Err(e),
        }
    }
    Ok(Some(true))
}

/// Writes the manifest out of the parts, reads it back, and at last puts the descriptor in its place.
fn finish(target: &Target, to: &To, plan: &Plan, draft: Descriptor, spool: &dyn Dir) -> Result<Descriptor> {
    let spool = Spool::begin(target.depot, &to.name, spool)?;
    let (sink, manifest_id) =
        ManifestSink::begin(spool.file(), target.keys, target.service, target.key_arn, target.epoch)?;
    let mut manifest = Records::new(sink, draft.snapshot_id)?;
    let (mut packs, mut files, mut entries) = (Vec::new(), 0, 0);
    let mut groups: HashMap<u32, Entry> = HashMap::new();
    for unit in 0..plan.units() {
        let path = part_path(&to.name, unit);
        let part = Part::read(target.depot, &path, target.keys, target.service)?
            .ok_or_else(|| SnapshotError::damaged(format!("{path} is gone; copy again")))?;
        // It stood before; what is there now may be another copy's, under the same volume key.
        if part.snapshot != target.snapshot
            || (part.unit.0, part.unit.1) != (unit as u64, plan.units() as u64)
        {
            return Err(SnapshotError::damaged(format!("{path} is another copy's; copy again")));
        }
        let base = packs.len() as u32;
        for part::PartEntry { group, mut entry } in part.entries {
            for extent in entry.stored.iter_mut().flat_map(|stored| &mut stored.extents) {
                extent.pack += base;
            }
            match group.and_then(|group| groups.get(&group)) {
                Some(first) => {
                    entry.stored.clone_from(&first.stored);
                    entry.xattrs.clone_from(&first.xattrs);
                }
                None => {
                    if let Some(group) = group {
                        groups.insert(group, entry.clone());
                    }
                }
            }
            files += u64::from(entry.stored.as_ref().is_some_and(|stored| stored.key.is_some()));
            entries += 1;
            manifest.push(&entry)?;
        }
        packs.extend(part.packs);
    }
    manifest.finish()?.finish()?;
    spool.finish()?;
    let mut snapshot = Descriptor {
        manifest: manifest_id,
        counts: super::descriptor::Counts {
            new_pages: packs.iter().map(|pack| pack.pages).sum(),
            ..draft.counts
        },
        packs,
        keys: vec![KeyUse { key_arns: vec![to.key_arn.clone()], files }],
        ..draft
    };
    snapshot.sign(target.keys)?;
    check(to, &snapshot, target, entries)?;
    to.ledger.record(snapshot.event(SnapshotAction::Copy), true)?;
    target.depot.put(&descriptor_path(&to.name), &snapshot.encode()?)?;
    Ok(snapshot)
}

/// Reads the new snapshot's records from where they stand now, under the new KMS key: the manifest is whole, and every
/// piece that it names lies in a pack that is there. (The packs were read back, each with its unit.)
fn check(to: &To, snapshot: &Descriptor, target: &Target, entries: u64) -> Result<()> {
    let keys = open_volume_key(target.service, &snapshot.volume_id.0, &snapshot.wrapped_keys()?)?;
    for pack in snapshot.standing_packs() {
        let path = pack_path(&pack.id.0);
        if to.depot.len(&path)? != pack.pages * 4096 {
            return Err(SnapshotError::damaged(format!(
                "{path} is not as long as it was written; copy again"
            )));
        }
    }
    let written = Snapshot { depot: to.depot.clone(), descriptor: snapshot.clone() };
    let manifest = written.manifest(&keys, target.service)?;
    let mut read = manifest.entries()?;
    let mut count = 0;
    while read.next_entry()?.is_some() {
        count += 1;
    }
    if count != entries {
        return Err(SnapshotError::damaged(format!(
            "the new manifest has {count} entries instead of {entries}"
        )));
    }
    Ok(())
}

/// What a copy keeps while it is under way.
fn take_away(depot: &dyn Depot, name: &str) -> Result<()> {
    for object in depot.list(&format!("{SNAPSHOTS}/{name}"))? {
        if object.starts_with("part-") {
            depot.delete(&format!("{SNAPSHOTS}/{name}/{object}"))?;
        }
    }
    depot.delete(&draft_path(name))
}

/// Packs that copies which were begun, and not ended, may have written: who sweeps a depot leaves them. None if that cannot be told
/// of one of them.
pub fn packs_of_drafts(depot: &dyn Depot) -> Result<Option<HashSet<Id>>> {
    let mut packs = HashSet::new();
    for name in depot.list(SNAPSHOTS)? {
        if check_name(&name).is_err() {
            continue;
        }
        let draft = match depot.get(&draft_path(&name), MAX_DESCRIPTOR) {
            Err(e) if e.is_not_found() => continue,
            text => text.and_then(|text| Descriptor::parse(&text)),
        };
        match draft {
            Ok(draft) => packs.extend(draft.packs.iter().map(|pack| pack.id)),
            Err(error) => {
                let depot = depot.location();
                tracing::warn!(%error, name, depot, "the draft of a copy cannot be read; nothing that it may name is taken away");
                return Ok(None);
            }
        }
    }
    Ok(Some(packs))
}

/// Gives up a copy that was begun and not ended: takes away its packs and all else. False if there is none.
pub fn abandon(depot: &Arc<dyn Depot>, name: &str) -> Result<bool> {
    check_name(name)?;
    let _lock = depot.lock()?;
    match depot.len(&draft_path(name)) {
        Err(e) if e.is_not_found() => return Ok(false),
        there => there?,
    };
    take_away(&**depot, name)?;
    sweep(depot)?;
    Ok(true)
}
