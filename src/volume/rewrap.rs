//! Wrapped keys brought under another KMS key, or under the current material of their own (docs/format.md,
//! "Rewrapping"): page 0 of each file and the descriptor, nothing else; no data key is seen. And the count of what
//! is under which.

mod online;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::census::{Under, under};
use super::descriptor::{self, DESCRIPTOR, Descriptor};
use super::disk::{BackingFile, Change, Dir, Time};
use super::each::{each_batch, each_file, walk};
use super::error::{Attempt, Result, VolumeError};
use super::files::read_header;
use super::header::{self, Header, WrappedKey};
use super::keys::{FileKeys, VolumeId, VolumeKey, VolumeKeys, file_context, volume_context};
use super::layout::PAGE;
use super::recipients::{Opens, region_of};
use crate::crypto::Secret;
use crate::kms::blob::CiphertextBlob;
use crate::kms::{EncryptionContext, KeyService};

pub use super::each::{Failure, Failures};

/// The key service of a region, for keys that are not in the one where the rewrapped keys shall be.
pub type Regions<'a> = dyn Fn(&str) -> Result<Arc<dyn KeyService>> + Sync + 'a;

/// What to rewrap, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// The KMS key to come under: key id, ARN, alias. None: the first of the descriptor's, its current material.
    pub key_id: Option<String>,
    /// Entries of the backing that lead from the volume's root to a directory or file. Empty: the whole volume, with
    /// the volume key.
    pub below: Vec<Vec<u8>>,
    /// The keys come from another key service than the target's (embedded, AWS KMS): by Decrypt there and Encrypt here,
    /// in the same region too.
    pub change_service: bool,
    /// Leave the files' mtime alone. Else it goes on by a second, for backups that compare only size and mtime.
    pub keep_mtime: bool,
    /// Write nothing. One ReEncrypt is asked for all the same, of the volume key: it tells the current material.
    pub dry_run: bool,
    /// Threads that ask the key service.
    pub threads: usize,
}

/// What was done, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// The KMS key that all are under now.
    pub key_arn: String,
    /// Its material; None if the key service's ciphertexts do not tell.
    pub key_material_id: Option<String>,
    /// The volume key was rewrapped.
    pub volume_key: bool,
    /// Files that were rewrapped.
    pub rewrapped: u64,
    /// Files that were under the key and material already.
    pub already: u64,
    /// Files without a header, and so without a key.
    pub empty: u64,
    /// Files and directories that were left as they are.
    pub failed: Failures,
    /// It was told to stop; what is left waits for the next call.
    pub cut: bool,
}

impl Report {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Rewrapped => self.rewrapped += 1,
            Outcome::Already => self.already += 1,
            Outcome::Empty => self.empty += 1,
        }
    }
}

/// How many files are under which KMS key and material: the first wrapped key of each counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Of the descriptor.
    pub volume_keys: Vec<Under>,
    /// Numbers of files.
    pub files: BTreeMap<Under, u64>,
    /// Files without a header, and so without a key.
    pub empty: u64,
    /// What could not be read.
    pub failed: Failures,
}

/// Hex id of the key material that a ciphertext names.
fn material(ciphertext: &[u8]) -> Option<String> {
    CiphertextBlob::parse(ciphertext).map(|blob| hex::encode(blob.material))
}

/// Counts the files of the volume in `root`, or those below the entries that lead there. It may be mounted meanwhile.
pub fn summarise(root: &Arc<dyn Dir>, below: &[Vec<u8>], threads: usize) -> Result<Summary> {
    let volume_keys = Descriptor::read(&**root)?.keys.iter().map(under).collect();
    let found = Mutex::new(Summary { volume_keys, ..Summary::default() });
    let failed = each_file(root, below, threads, &|dir, name| {
        let file = dir.open_file(name, false).on_entry("opening a file")?;
        let header = read_header(&*file)?.1;
        let found = &mut *found.lock();
        match header.as_ref().and_then(|header| header.keys.first()) {
            Some(key) => *found.files.entry(under(key)).or_default() += 1,
            None => found.empty += 1,
        }
        Ok(())
    })?;
    Ok(Summary { failed, ..found.into_inner() })
}

/// Number of files that [`rewrap`] will look at.
pub fn count(root: &Arc<dyn Dir>, below: &[Vec<u8>]) -> Result<u64> {
    let mut files = 0;
    walk(root, below, &mut |_, _, names| files += names.len() as u64, &mut |_, _| ())?;
    Ok(files)
}

/// Rewraps the volume in `root`, which nobody may have mounted and which must have been closed cleanly. `here` is the
/// key service of the target; `seen` is told of every file that is done with.
///
/// All is on the medium when this returns without an error. Cut at any moment, it leaves each key rewrapped or as it
/// was, and does what is left when it is called again.
pub fn rewrap(
    root: &Arc<dyn Dir>,
    here: &Arc<dyn KeyService>,
    regions: &Regions,
    options: &Options,
    seen: &(dyn Fn() + Sync),
) -> Result<Report> {
    let descriptor = Descriptor::read(&**root)?;
    let _alone = descriptor::alone(root, true)?;
    let job = Job::begin(&descriptor, None, here, regions, options)?;
    let mut report = job.report();
    // First: whoever mounts after a cut makes new files under the new key.
    if report.volume_key && !options.dry_run {
        let changed = job.descriptor()?;
        descriptor::replace_file(&**root, DESCRIPTOR, &changed.encode()?)?;
    }
    let done = Mutex::new(&mut report);
    let failed = each_batch(root, &options.below, options.threads, &|dir, names| {
        let outcomes = job.files(dir, names);
        let told = |outcome: Result<Outcome>| {
            seen();
            done.lock().add(outcome?);
            Ok(())
        };
        outcomes.into_iter().map(told).collect()
    })?;
    report.failed = failed;
    if !options.dry_run {
        root.sync_fs().attempt("syncing the backing filesystem")?;
    }
    Ok(report)
}

#[derive(Clone, Copy)]
enum Outcome {
    Rewrapped,
    Already,
    Empty,
}

struct Job<'a> {
    /// Of the target's region.
    here: Arc<dyn KeyService>,
    regions: &'a Regions<'a>,
    others: Mutex<HashMap<String, Arc<dyn KeyService>>>,
    /// As it was.
    descriptor: &'a Descriptor,
    volume: VolumeId,
    region: String,
    under: Under,
    /// The volume key under the target.
    volume_key: Option<WrappedKey>,
    /// What it opens to, if that is known; else it is opened when it is needed.
    known: Option<&'a VolumeKeys>,
    opened: OnceLock<VolumeKeys>,
    options: &'a Options,
}

impl<'a> Job<'a> {
    /// Finds the target by rewrapping the volume key.
    fn begin(
        descriptor: &'a Descriptor,
        known: Option<&'a VolumeKeys>,
        here: &Arc<dyn KeyService>,
        regions: &'a Regions<'a>,
        options: &'a Options,
    ) -> Result<Self> {
        let volume_key = descriptor.keys.first().ok_or(VolumeError::Invalid("the volume has no key"))?;
        let target = here.describe_key(options.key_id.as_deref().unwrap_or(&volume_key.key_arn))?;
        let whole = options.below.is_empty();
        if (target.region != descriptor.region || options.change_service) && !whole {
            return Err(VolumeError::Invalid(
                "only a whole volume can come under a key of another region or key service",
            ));
        }
        if !options.change_service && here.holder() != descriptor.holder() {
            return Err(VolumeError::WrongService { volume: descriptor.holder() });
        }
        // They would be asked of the new service, which does not have them.
        if options.change_service && descriptor.recipients.iter().any(|r| r.public_key.is_none()) {
            return Err(VolumeError::Invalid(
                "the volume has recipients that are KMS keys of the old key service; `kmsfs edk remove` them first",
            ));
        }
        let mut job = Self {
            here: here.clone(),
            regions,
            others: Mutex::default(),
            descriptor,
            volume: descriptor.id,
            region: target.region,
            under: (target.key_arn, None),
            volume_key: None,
            known,
            opened: OnceLock::new(),
            options,
        };
        let rewrapped = job.wrap_volume_key()?;
        job.under = under(&rewrapped);
        job.volume_key = Some(rewrapped);
        Ok(job)
    }

    /// The first of the volume's wrapped keys that the key service rewraps.
    fn wrap_volume_key(&self) -> Result<WrappedKey> {
        let keys = &self.descriptor.keys;
        let mut refusal = None;
        for (at, key) in keys.iter().enumerate() {
            let made = self.wrap(key, &volume_context(&self.volume)).and_then(|made| {
                if self.options.below.is_empty() && loses_another(keys, at, &made.key_arn) {
                    self.open_volume(&made)?;
                }
                Ok(made)
            });
            match made {
                Ok(made) => return Ok(made),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.unwrap_or(VolumeError::Invalid("the volume has no key")))
    }

    /// What a volume key under the target opens to, if it is the volume's.
    fn open_volume(&self, key: &WrappedKey) -> Result<VolumeKeys> {
        let opened = self.here.decrypt(Some(&key.key_arn), &key.ciphertext, &volume_context(&self.volume))?;
        let volume =
            VolumeKeys::derive(&VolumeKey(Secret::from_slice(opened.plaintext.expose())?), self.volume)?;
        self.descriptor.verify(&volume)?;
        Ok(volume)
    }

    fn volume_keys(&self) -> Result<&VolumeKeys> {
        if let Some(volume) = self.known.or(self.opened.get()) {
            return Ok(volume);
        }
        let key = self.volume_key.as_ref().ok_or(VolumeError::Invalid("the volume has no key"))?;
        let volume = self.open_volume(key)?;
        // Another thread may have been faster, with the same.
        Ok(self.opened.get_or_init(|| volume))
    }

    /// Of what is done with the files nothing is in it yet.
    fn report(&self) -> Report {
        let (key_arn, key_material_id) = self.under.clone();
        let there =
            self.descriptor.keys.first().is_some_and(|key| self.is_there(key)) && !self.was_recipient();
        let volume_key = self.options.below.is_empty() && !there;
        Report { key_arn, key_material_id, volume_key, ..Report::default() }
    }

    /// True if the target is a recipient's key, who is none any more under it.
    fn was_recipient(&self) -> bool {
        self.descriptor.recipients.iter().any(|recipient| recipient.name == self.under.0)
    }

    /// True if nothing is to be done for a key.
    fn is_there(&self, key: &WrappedKey) -> bool {
        let (arn, current) = &self.under;
        key.key_arn == *arn
            && match current {
                Some(_) => material(&key.ciphertext) == *current,
                // It cannot be told whether the material is the current one; asked for by name, the key is enough.
                None => self.options.key_id.is_some(),
            }
    }

    fn in_region(&self, region: &str) -> Result<Arc<dyn KeyService>> {
        let mut others = self.others.lock();
        if let Some(service) = others.get(region) {
            return Ok(service.clone());
        }
        let service = (self.regions)(region)?;
        others.insert(region.to_owned(), service.clone());
        Ok(service)
    }

    /// A key under the target. ReEncrypt where the key service can; from another region or key service by Decrypt
    /// there and Encrypt here.
    fn wrap(&self, key: &WrappedKey, context: &EncryptionContext) -> Result<WrappedKey> {
        if !self.options.change_service {
            return self.wrap_from(key, context, false);
        }
        let moved = self.wrap_from(key, context, true);
        // Called again with another target, it meets keys that are at the new key service already.
        moved.or_else(|refusal| self.wrap_from(key, context, false).map_err(|_| refusal))
    }

    fn wrap_from(
        &self,
        key: &WrappedKey,
        context: &EncryptionContext,
        other_service: bool,
    ) -> Result<WrappedKey> {
        let region = region_of(&key.key_arn);
        if region == self.region && !other_service {
            let made = self.here.re_encrypt(&key.ciphertext, context, &self.under.0, context)?;
            return Ok(WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext });
        }
        let opened = self.in_region(region)?.decrypt(Some(&key.key_arn), &key.ciphertext, context)?;
        let made = self.here.encrypt(&self.under.0, opened.plaintext.expose(), context)?;
        Ok(WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext })
    }

    /// [`Self::wrap_one`] for many files, which are asked for together where none is refused.
    fn wrap_all(&self, headers: &[&Header]) -> Vec<Result<Vec<WrappedKey>>> {
        let contexts = headers.iter().map(|header| file_context(&self.volume, &header.file_id));
        let contexts: Vec<_> = contexts.collect();
        let first = |header: &&Header| {
            let here = |key: &&WrappedKey| region_of(&key.key_arn) == self.region;
            (header.keys.first().filter(here)).filter(|_| !self.options.change_service).cloned()
        };
        let firsts: Vec<_> = headers.iter().filter_map(first).collect();
        if firsts.len() == headers.len() {
            let blobs = firsts.iter().map(|key| &key.ciphertext[..]).zip(&contexts).collect::<Vec<_>>();
            if let Ok(made) = self.here.re_encrypt_all(&blobs, &self.under.0) {
                let made = made
                    .into_iter()
                    .map(|made| WrappedKey { key_arn: made.key_arn, ciphertext: made.ciphertext });
                let placed = |(header, made): (&&Header, WrappedKey)| {
                    self.place(header, 0, made).or_else(|_| self.wrap_one(header))
                };
                return headers.iter().zip(made).map(placed).collect();
            }
        }
        headers.iter().map(|header| self.wrap_one(header)).collect()
    }

    /// What the key service rewraps of a file's keys, in the place of the first; those of the other recipients stay.
    fn wrap_one(&self, header: &Header) -> Result<Vec<WrappedKey>> {
        let context = file_context(&self.volume, &header.file_id);
        let mut refusal = None;
        for (at, key) in header.keys.iter().enumerate() {
            match self.wrap(key, &context).and_then(|made| self.place(header, at, made)) {
                Ok(keys) => return Ok(keys),
                Err(error) => refusal = refusal.or(Some(error)),
            }
        }
        Err(refusal.unwrap_or_else(|| VolumeError::damaged("the file's header holds no wrapped key")))
    }

    /// A file's keys with the one at `at`, rewrapped, in the place of the first. If more goes than that one, what stays must
    /// be the file's key: whoever may encrypt under its KMS key and can write to the backing could have put it there.
    fn place(&self, header: &Header, at: usize, made: WrappedKey) -> Result<Vec<WrappedKey>> {
        if loses_another(&header.keys, at, &made.key_arn) {
            let only = Header { keys: vec![made.clone()], ..header.clone() };
            FileKeys::unwrap(&*self.here, &Opens::Only(made.key_arn.clone()), self.volume_keys()?, &only)?;
        }
        Ok(in_place(&header.keys, made))
    }

    /// The descriptor with the rewrapped volume key in the place of its first.
    fn descriptor(&self) -> Result<Descriptor> {
        let old = self.descriptor;
        let key = self.volume_key.clone().ok_or(VolumeError::Invalid("the volume has no key"))?;
        let keys = in_place(&old.keys, key);
        // A descriptor that says another region than its key has is not believed.
        let crossed = old.keys.first().is_none_or(|key| region_of(&key.key_arn) != self.region);
        let stays = self.region == old.region && self.here.holder() == old.holder();
        if !crossed && stays && !self.was_recipient() {
            return Ok(old.with_keys(keys));
        }
        // Region, features and recipients are authenticated under the volume key, which this one must be.
        let volume = self.open_volume(&keys[0])?;
        Ok(old.moved(&volume, self.region.clone(), self.here.holder(), keys))
    }

    fn files(&self, dir: &dyn Dir, names: &[Vec<u8>]) -> Vec<Result<Outcome>> {
        let mut looked: Vec<_> = names.iter().map(|name| self.look(dir, name)).collect();
        // Of several names of one file the first is enough.
        let mut ids = HashSet::new();
        for looked in &mut looked {
            if let Ok(Looked::Due(due)) = looked
                && !ids.insert(due.header.file_id)
            {
                *looked = Ok(Looked::Done(Outcome::Already));
            }
        }
        let headers = looked.iter().flatten().filter_map(|looked| match looked {
            Looked::Due(due) => Some(&due.header),
            Looked::Done(_) => None,
        });
        let mut wrapped = self.wrap_all(&headers.collect::<Vec<_>>()).into_iter();
        let outcome = |(looked, name): (Result<Looked>, &Vec<u8>)| match looked? {
            Looked::Done(outcome) => Ok(outcome),
            Looked::Due(due) => {
                let wrapped = wrapped.next().ok_or(VolumeError::Invalid("a key was not rewrapped"))?;
                due.put(dir, name, &wrapped?, self.options)
            }
        };
        looked.into_iter().zip(names).map(outcome).collect()
    }

    fn look(&self, dir: &dyn Dir, name: &[u8]) -> Result<Looked> {
        let what = "opening a file";
        let (file, writable) = match dir.open_file(name, !self.options.dry_run) {
            // Such as a file that its owner may not write to.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                (dir.open_file(name, false).on_entry(what)?, false)
            }
            opened => (opened.on_entry(what)?, true),
        };
        let (page, header) = read_header(&*file)?;
        let Some(header) = header else { return Ok(Looked::Done(Outcome::Empty)) };
        if header.keys.first().is_some_and(|key| self.is_there(key)) {
            return Ok(Looked::Done(Outcome::Already));
        }
        if self.options.dry_run {
            return Ok(Looked::Done(Outcome::Rewrapped));
        }
        Ok(Looked::Due(Due { page, header, file: writable.then_some(file) }))
    }
}

/// What is to be done with a file.
enum Looked {
    Done(Outcome),
    Due(Due),
}

/// A file whose key is to be rewrapped.
struct Due {
    page: Box<header::Page>,
    header: Header,
    /// Open for writing, where that was possible at once.
    file: Option<Arc<dyn BackingFile>>,
}

impl Due {
    fn put(&self, dir: &dyn Dir, name: &[u8], wrapped: &[WrappedKey], options: &Options) -> Result<Outcome> {
        let page = header::with_keys(&self.page, wrapped)?;
        let file = match &self.file {
            Some(file) => file.clone(),
            None => open_to_write(dir, name)?,
        };
        put_page(&*file, &page, options.keep_mtime)?;
        Ok(Outcome::Rewrapped)
    }
}

/// True if in the place of `keys`, of which the one at `at` was made anew under this KMS key, others are lost than that one.
fn loses_another(keys: &[WrappedKey], at: usize, key_arn: &str) -> bool {
    let lost = |(other, key): (usize, &WrappedKey)| other != at && (other == 0 || key.key_arn == key_arn);
    keys.iter().enumerate().any(lost)
}

/// Wrapped keys in which one was made anew: that first, then those under other keys.
fn in_place(keys: &[WrappedKey], made: WrappedKey) -> Vec<WrappedKey> {
    let others = keys.iter().skip(1).filter(|other| other.key_arn != made.key_arn);
    let others: Vec<_> = others.cloned().collect();
    [vec![made], others].concat()
}

/// Puts a page with other wrapped keys in the place of page 0. The time of modification goes on by a second, or stays.
pub(super) fn put_page(file: &dyn BackingFile, page: &header::Page, keep_mtime: bool) -> Result<()> {
    let Time { sec, nsec } = file.stat().attempt("asking for a file's times")?.mtime;
    // One page, which the backing writes whole or not at all; not while the device still reads it.
    file.wait_writeback(0, PAGE).attempt("waiting for a file's header")?;
    file.write_at(&page[..], 0).attempt("rewriting a file's header")?;
    let sec = if keep_mtime { sec } else { sec.saturating_add(1) };
    file.change(&Change::mtime(Time { sec, nsec })).attempt("setting a file's times")
}

/// Opens a file for writing, also one whose mode forbids that to its owner.
pub(super) fn open_to_write(dir: &dyn Dir, name: &[u8]) -> Result<Arc<dyn BackingFile>> {
    let what = "opening a file to rewrite its header";
    let denied = match dir.open_file(name, true) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => e,
        opened => return opened.on_entry(what),
    };
    let perm = dir.stat_at(name).on_entry(what)?.perm;
    if perm & 0o200 != 0 {
        return Err(denied).on_entry(what);
    }
    let set = |perm| dir.change(Some(name), &Change { perm: Some(perm), ..Change::default() });
    set(perm | 0o200).on_entry(what)?;
    let opened = dir.open_file(name, true);
    set(perm).on_entry(what)?;
    opened.on_entry(what)
}
