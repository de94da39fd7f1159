//! Recipients of a volume's keys added and removed, counted, and used to bring a volume under another KMS key when its
//! own is lost (docs/format.md, "Recipients"). As in rewrapping, only page 0 of each file and the descriptor change.

mod online;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::descriptor::{self, DESCRIPTOR, Descriptor, PRIVATE_DIR, Unwrapped};
use super::disk::Dir;
use super::each::{Failures, each_file};
use super::epoch;
use super::error::{Attempt, Result, VolumeError};
use super::files::read_header;
use super::header::{self, Header, Page, WrappedKey};
use super::keys::{FileKeys, VolumeKeys, file_context, volume_context};
use super::recipients::{MAX_RECIPIENTS, Opens, OtherRegions, Recipient, Recipients};
use super::rewrap::{open_to_write, put_page};
use crate::kms::{EncryptionContext, KeyService, KmsError};

/// What is changed about who can open a volume's keys.
#[derive(Debug, Clone)]
pub enum Change {
    /// Everything is wrapped for somebody more.
    Add(Recipient),
    /// What is wrapped for the recipient of this name goes.
    Remove(String),
}

/// How.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave the files' mtime alone. Else it goes on by a second, for backups that compare only size and mtime.
    pub keep_mtime: bool,
    /// Write nothing. The volume key is opened, and for somebody more wrapped, all the same.
    pub dry_run: bool,
    /// Threads that ask the key service.
    pub threads: usize,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// The recipient, or the KMS key that all are under now.
    pub key: String,
    /// The list of recipients or the wrapped volume keys changed.
    pub volume_key: bool,
    /// Files whose wrapped keys changed.
    pub changed: u64,
    /// Files that were as wished already.
    pub already: u64,
    /// Files without a header, and so without a key.
    pub empty: u64,
    /// Files and directories that were left as they are.
    pub failed: Failures,
    /// It was told to stop; what is left waits for the next call.
    pub cut: bool,
}

/// For whom a volume's keys are wrapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The descriptor's: the first is the volume's own KMS key. Not authenticated.
    pub volume_keys: Vec<String>,
    /// The descriptor's list. Not authenticated.
    pub recipients: Vec<Recipient>,
    /// How many files' keys are wrapped for whom.
    pub files: BTreeMap<String, u64>,
    /// Files with a key.
    pub with_key: u64,
    /// Files without a header, and so without a key.
    pub empty: u64,
    /// What could not be read.
    pub failed: Failures,
}

/// Counts for whom the keys of a volume's files are wrapped, or of those below the entries that lead there. It may be
/// mounted meanwhile.
pub fn list(root: &Arc<dyn Dir>, below: &[Vec<u8>], threads: usize) -> Result<Listing> {
    let Descriptor { keys, recipients, .. } = Descriptor::read(&**root)?;
    let volume_keys = keys.into_iter().map(|key| key.key_arn).collect();
    let found = Mutex::new(Listing { volume_keys, recipients, ..Listing::default() });
    let failed = each_file(root, below, threads, &|dir, name| {
        let header = read_header(&*dir.open_file(name, false).on_entry("opening a file")?)?.1;
        let found = &mut *found.lock();
        let Some(header) = header else {
            found.empty += 1;
            return Ok(());
        };
        found.with_key += 1;
        for key in header.keys {
            *found.files.entry(key.key_arn).or_default() += 1;
        }
        Ok(())
    })?;
    Ok(Listing { failed, ..found.into_inner() })
}

/// Changes who can open the keys of the volume in `root`, which nobody may have mounted and which must have been closed
/// cleanly. `here` is the key service of the volume's region; `seen` is told of every file that is done with.
///
/// The list in the descriptor changes first: files that are made after a cut are as wished. Cut at any moment, it
/// leaves each file with the wrapped keys of before or of after, and does what is left when it is called again. All is
/// on the medium when this returns without an error.
pub fn change(
    root: &Arc<dyn Dir>,
    here: &Arc<dyn KeyService>,
    regions: &OtherRegions,
    change: &Change,
    options: &Options,
    seen: &(dyn Fn() + Sync),
) -> Result<Report> {
    let _alone = descriptor::alone(root, true)?;
    let plan = Plan::new(Descriptor::read(&**root)?, here, regions, change)?;
    let mut report = plan.report();
    if report.volume_key && !options.dry_run {
        descriptor::replace_file(&**root, DESCRIPTOR, &plan.new.encode()?)?;
    }
    each(root, options, seen, &mut report, &|wish, header, page| plan.keys_of(wish, header, Some(page)))?;
    if !options.dry_run {
        root.sync_fs().attempt("syncing the backing filesystem")?;
    }
    Ok(report)
}

/// A change, thought over.
struct Plan<'a> {
    here: &'a dyn KeyService,
    change: &'a Change,
    old: Descriptor,
    /// As it shall be.
    new: Descriptor,
    volume: VolumeKeys,
    /// The KMS key that opened the volume.
    opened: Option<String>,
    /// Who wraps.
    recipients: Recipients,
    opens: Opens,
}

impl<'a> Plan<'a> {
    /// Opens the volume key, and wraps it for somebody more.
    fn new(
        old: Descriptor,
        here: &'a Arc<dyn KeyService>,
        regions: &OtherRegions,
        change: &'a Change,
    ) -> Result<Self> {
        let volume = old.unwrap(&**here, None)?;
        let recipients = Recipients::new(old.recipients.clone(), old.region.clone(), regions.clone());
        let new = match change {
            Change::Add(recipient) => with_one_more(&old, &volume, recipient, &recipients, &**here)?,
            Change::Remove(name) => with_one_less(&old, &volume, name)?,
        };
        let opens = Opens::new(&new.region, &new.recipients, None);
        let opened = old.keys.get(volume.opened).map(|key| key.key_arn.clone());
        Ok(Self { here: &**here, change, old, new, volume: volume.keys, opened, recipients, opens })
    }

    fn name(&self) -> &str {
        match self.change {
            Change::Add(recipient) => &recipient.name,
            Change::Remove(name) => name,
        }
    }

    /// Of what is done with the files nothing is in it yet.
    fn report(&self) -> Report {
        let volume_key = self.new != self.old;
        Report { key: self.name().to_owned(), volume_key, ..Report::default() }
    }

    /// The wrapped keys that a file shall have; None if it has them. `page` is where its header was read, which is then
    /// verified.
    fn keys_of(&self, wish: Wish, header: &Header, page: Option<&Page>) -> Result<Option<Vec<WrappedKey>>> {
        let name = self.name();
        let there = header.keys.iter().any(|key| key.key_arn == *name);
        match self.change {
            Change::Add(_) if there => Ok(None),
            Change::Remove(_) if !there => Ok(None),
            Change::Remove(_) => {
                let left: Vec<_> = header.keys.iter().filter(|key| key.key_arn != *name).cloned().collect();
                if !left.iter().any(|key| self.opens.takes(key)) {
                    return Err(VolumeError::Invalid(
                        "no mount could open the file any more: nothing else of it is wrapped by a KMS key of the volume's \
                         region; `kmsfs rewrap` or `kmsfs edk add` first",
                    ));
                }
                // What opened the volume opens its files. Of any other the name alone says nothing.
                let sure = left.iter().any(|key| self.opened.as_ref() == Some(&key.key_arn));
                if wish == Wish::Make && !sure {
                    let left = Header { keys: left.clone(), ..header.clone() };
                    FileKeys::unwrap(self.here, &self.opens, &self.volume, &left).map_err(nothing_left)?;
                }
                Ok(Some(left))
            }
            Change::Add(_) if header.keys.len() > MAX_RECIPIENTS => Err(VolumeError::Invalid(
                "the file's key is wrapped for four already; `kmsfs edk list` shows for whom, `kmsfs edk remove` ends one",
            )),
            Change::Add(_) if wish == Wish::Tell => Ok(Some(Vec::new())),
            Change::Add(recipient) => {
                let keys = FileKeys::unwrap(self.here, &self.opens, &self.volume, header)?;
                if let Some(page) = page {
                    header.verify(page, &keys)?;
                }
                let context = file_context(&self.volume.id, &header.file_id);
                let made = self.recipients.wrap(self.here, recipient, keys.data().expose(), &context)?;
                Ok(Some([&header.keys[..], &[made]].concat()))
            }
        }
    }
}

/// Brings the volume in `root` under another KMS key by means of a recipient, where its own key is lost: the volume key
/// and every data key are opened by `service` as wrapped for the recipient `only`, and wrapped by `here` under `key_id`, in
/// the place of the lost key's. What is wrapped for recipients stays. Nobody may have it mounted. Cut at any moment, it goes
/// on when it is called again.
///
/// A volume that was not closed cleanly is taken too, since nothing could mend it before. Headers that are written then
/// move ctimes, which excuses more files than the crash touched (docs/format.md, "After a crash").
pub fn rescue(
    root: &Arc<dyn Dir>,
    (service, only): (&dyn KeyService, &str),
    (here, key_id): (&dyn KeyService, &str),
    options: &Options,
    seen: &(dyn Fn() + Sync),
) -> Result<Report> {
    let _alone = descriptor::alone(root, false)?;
    let old = Descriptor::read(&**root)?;
    let Unwrapped { key, keys: volume, .. } = old.unwrap(service, Some(only))?;
    let target = here.describe_key(key_id)?;
    let stays = |key: &&WrappedKey| {
        key.key_arn != target.key_arn && old.recipients.iter().any(|r| r.name == key.key_arn)
    };
    let wrap =
        |key: &[u8; 32], context: &EncryptionContext, others: &[WrappedKey]| -> Result<Vec<WrappedKey>> {
            let made = here.encrypt(&target.key_arn, key, context)?;
            let own = WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext };
            Ok([vec![own], others.iter().filter(stays).cloned().collect()].concat())
        };
    let is_there = |keys: &[WrappedKey]| keys.first().is_some_and(|key| key.key_arn == target.key_arn);
    let volume_key = !is_there(&old.keys) || old.region != target.region || old.holder() != here.holder();
    let mut report = Report { key: target.key_arn.clone(), volume_key, ..Report::default() };
    if volume_key && !options.dry_run {
        let keys = wrap(key.expose(), &volume_context(&old.id), &old.keys)?;
        let new = old.moved(&volume, target.region.clone(), here.holder(), keys);
        descriptor::replace_file(&**root, DESCRIPTOR, &new.encode()?)?;
    }
    let opens = Opens::Only(only.to_owned());
    each(root, options, seen, &mut report, &|wish, header, page| {
        if is_there(&header.keys) {
            return Ok(None);
        }
        if wish == Wish::Tell {
            return Ok(Some(Vec::new()));
        }
        let keys = FileKeys::unwrap(service, &opens, &volume, header)?;
        header.verify(page, &keys)?;
        let context = file_context(&volume.id, &header.file_id);
        wrap(keys.data().expose(), &context, &header.keys).map(Some)
    })?;
    if !options.dry_run {
        root.sync_fs().attempt("syncing the backing filesystem")?;
    }
    Ok(report)
}

/// True if the volume was closed cleanly, so that a rescue excuses nothing.
pub fn is_settled(root: &Arc<dyn Dir>) -> Result<bool> {
    let private = root.open_dir(PRIVATE_DIR).attempt("opening the volume's private directory")?;
    epoch::is_settled(&*private)
}

/// Whether a file's new keys are to be made, or only whether there would be others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Make,
    Tell,
}

/// The wrapped keys that a file shall have; None if it has them.
type Work<'a> = dyn Fn(Wish, &Header, &Page) -> Result<Option<Vec<WrappedKey>>> + Sync + 'a;

/// Gives every file the wrapped keys that `work` tells.
fn each(
    root: &Arc<dyn Dir>,
    options: &Options,
    seen: &(dyn Fn() + Sync),
    report: &mut Report,
    work: &Work,
) -> Result<()> {
    let wish = if options.dry_run { Wish::Tell } else { Wish::Make };
    let done = Mutex::new(&mut *report);
    let failed = each_file(root, &[], options.threads, &|dir, name| {
        let outcome = one(dir, name, wish, options.keep_mtime, work);
        seen();
        let mut done = done.lock();
        match outcome? {
            Some(true) => done.changed += 1,
            Some(false) => done.already += 1,
            None => done.empty += 1,
        }
        Ok(())
    })?;
    report.failed = failed;
    Ok(())
}

/// Some(true) if the file's keys changed, None if it has none.
fn one(dir: &dyn Dir, name: &[u8], wish: Wish, keep_mtime: bool, work: &Work) -> Result<Option<bool>> {
    let file = dir.open_file(name, false).on_entry("opening a file")?;
    let (page, header) = read_header(&*file)?;
    let Some(header) = header else { return Ok(None) };
    let Some(keys) = work(wish, &header, &page)? else { return Ok(Some(false)) };
    if wish == Wish::Make {
        let page = header::with_keys(&page, &keys)?;
        put_page(&*open_to_write(dir, name)?, &page, keep_mtime)?;
    }
    Ok(Some(true))
}

/// Why a file keeps what was to go.
fn nothing_left(error: VolumeError) -> VolumeError {
    match error {
        VolumeError::Key(KmsError { kind, message, holder }) => VolumeError::Key(KmsError {
            kind,
            message: format!(
                "what else the file's key is wrapped for does not open it; `kmsfs rewrap` first: {message}"
            ),
            holder,
        }),
        error => error,
    }
}

/// The recipients without the key that is the volume's own: it may have become that by rewrapping. A first key that did not
/// open is nobody's for sure.
fn listed(old: &Descriptor, volume: &Unwrapped) -> Vec<Recipient> {
    let is_own = |recipient: &&Recipient| volume.own.as_ref().is_ok_and(|own| *own == recipient.name);
    old.recipients.iter().filter(|recipient| !is_own(recipient)).cloned().collect()
}

fn with_one_more(
    old: &Descriptor,
    volume: &Unwrapped,
    recipient: &Recipient,
    recipients: &Recipients,
    here: &dyn KeyService,
) -> Result<Descriptor> {
    if old.keys.first().is_some_and(|key| key.key_arn == recipient.name) {
        return Err(VolumeError::Invalid("that is the volume's own KMS key; everything is under it already"));
    }
    let mut list = listed(old, volume);
    match list.iter().find(|there| there.name == recipient.name) {
        Some(there) if there != recipient => {
            return Err(VolumeError::Invalid(
                "there is a recipient of this name with another key; `kmsfs edk remove` it first",
            ));
        }
        Some(_) => {}
        None if list.len() >= MAX_RECIPIENTS => {
            return Err(VolumeError::Invalid(
                "the volume has three recipients beside its own KMS key already, and there is room for no more; `kmsfs edk \
                 list` shows them, `kmsfs edk remove` ends one",
            ));
        }
        None => list.push(recipient.clone()),
    }
    // Nothing goes, whatever its name and place: they are not authenticated, and what goes could be all that opens the volume.
    let mut keys = old.keys.clone();
    if !keys.iter().any(|key| key.key_arn == recipient.name) {
        if keys.len() > MAX_RECIPIENTS {
            return Err(VolumeError::Invalid(
                "the volume's key is wrapped for four already, of whom not all are its recipients; `kmsfs edk list` shows \
                 them, `kmsfs edk remove` ends one",
            ));
        }
        keys.push(recipients.wrap(here, recipient, volume.key.expose(), &volume_context(&old.id))?);
    }
    if list == old.recipients {
        return Ok(old.with_keys(keys));
    }
    Ok(old.with_recipients(&volume.keys, keys, list))
}

fn with_one_less(old: &Descriptor, volume: &Unwrapped, name: &str) -> Result<Descriptor> {
    let opened = old.keys.get(volume.opened).map(|key| key.key_arn.as_str());
    let first = old.keys.first().is_some_and(|key| key.key_arn == name);
    // What opened is the own key if it is no recipient's, and then the first is none, if that is another.
    let is_recipient = |name: &str| old.recipients.iter().any(|recipient| recipient.name == name);
    if first && (opened == Some(name) || opened.is_none_or(is_recipient)) {
        return Err(VolumeError::Invalid(
            "that is the volume's own KMS key, without which nothing mounts it; `kmsfs rewrap --key` brings the volume under \
             another, which may be one of its recipients",
        ));
    }
    if opened == Some(name) {
        return Err(VolumeError::Invalid(
            "that alone opened the volume's key just now, and without it nothing might; `kmsfs edk list` shows what stands \
             before it, and `kmsfs audit lookup` why that was refused",
        ));
    }
    let list: Vec<_> = listed(old, volume).into_iter().filter(|recipient| recipient.name != name).collect();
    let keys: Vec<_> = old.keys.iter().filter(|key| key.key_arn != name).cloned().collect();
    if list == old.recipients && keys.len() == old.keys.len() {
        return Ok(old.clone());
    }
    Ok(old.with_recipients(&volume.keys, keys, list))
}
