//! What is done for each request.

use std::time::{Duration, Instant};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use parking_lot::MutexGuard;
use serde::Serialize;
use serde_json::Value;

use super::lines::{Line, Lines, parse};
use super::{Answer, Failure, FailureKind, Place, RecipientChange, Request, Served, WhileHeld};
use crate::kms::{KmsError, KmsErrorKind};
use crate::volume::edk::{self, Change};
use crate::volume::recipients::OtherRegions;
use crate::volume::rewrap::Options;
use crate::volume::{VolumeError, shred};

/// How long a hold waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often progress is told.
const PACE: Duration = Duration::from_millis(200);
/// The longest hold.
const LONGEST_HOLD: u64 = 24 * 3600;

/// Does what `uid` asks; `lines` takes progress.
pub(super) fn perform(
    served: &Served,
    uid: u32,
    request: Request,
    lines: &mut Lines,
) -> Result<Value, Failure> {
    match request {
        Request::Status {} => json(&served.volume.status()),
        Request::Hold { seconds } => hold(served, seconds, lines),
        Request::Shred { place, hard_links } => {
            let options = shred::Options { hard_links, threads: processors(), uid };
            shred(served, place, &options, lines)
        }
        Request::Recipients { change, keep_mtime, dry_run, threads, principal } => {
            let _one = one_change(served)?;
            let threads = threads.map_or_else(processors, usize::from);
            let options = edk::Options { keep_mtime, dry_run, threads };
            recipients(served, principal, change, &options, lines)
        }
        Request::Rewrap { key, place, keep_mtime, dry_run, threads, principal } => {
            let _one = one_change(served)?;
            let options = Options {
                key_id: key,
                below: stored(served, place)?,
                change_service: false,
                keep_mtime,
                dry_run,
                threads: threads.map_or_else(processors, usize::from),
            };
            rewrap(served, principal.as_deref(), &options, lines)
        }
    }
}

/// Of what changes all files' keys, one at a time.
fn one_change(served: &Served) -> Result<MutexGuard<'_, ()>, Failure> {
    let message = "keys of the volume are being changed already; wait for that";
    served.changing.try_lock().ok_or_else(|| Failure::new(FailureKind::Busy, message))
}

fn json(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|e| Failure::new(FailureKind::Failure, e.to_string()))
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The names of a place in the backing.
fn stored(served: &Served, place: Place) -> Result<Vec<Vec<u8>>, Failure> {
    match place {
        Place::Stored(names) => Ok(names),
        Place::Seen(names) => served.volume.stored_path(&names).map_err(|e| served.household.tell(e)),
    }
}

fn shred(
    served: &Served,
    place: Place,
    options: &shred::Options,
    lines: &mut Lines,
) -> Result<Value, Failure> {
    let below = stored(served, place)?;
    if served.holding.try_lock().is_none() {
        let message = "the volume is held still, for a snapshot, say; try again when that is over";
        return Err(Failure::new(FailureKind::Busy, message));
    }
    // What it is, and whether it is there, is for the shredding to tell.
    let total = served.volume.count_files(&below).unwrap_or(0);
    let (report, forget) =
        with_progress(served, lines, total, |seen| served.volume.shred(&below, options, seen));
    // Whatever came of it: what has lost its keys must not be seen in caches. Not behind the gate, for which requests may wait
    // that the kernel would have to end first.
    if let Some((directory, name)) = &forget.name
        && let Err(error) = served.kernel.forget_name(*directory, name)
    {
        tracing::warn!(%error, "the kernel may show a name that was shredded until it asks again");
    }
    for node in forget.nodes {
        if let Err(error) = served.kernel.drop_pages(node) {
            tracing::warn!(%error, node, "the kernel may keep pages of a file that was shredded");
        }
    }
    json(&report.map_err(|e| tell(served, e))?)
}

/// What cannot be is the fault of who asks, not the volume's.
fn tell(served: &Served, error: VolumeError) -> Failure {
    match error {
        VolumeError::Invalid(why) => Failure::new(FailureKind::Usage, why),
        error => served.household.tell(error),
    }
}

fn recipients(
    served: &Served,
    principal: Option<String>,
    change: RecipientChange,
    options: &edk::Options,
    lines: &mut Lines,
) -> Result<Value, Failure> {
    let (volume, household) = (&served.volume, served.household.clone());
    let change = match change {
        RecipientChange::Remove(name) => Change::Remove(name),
        RecipientChange::Add(listed) => Change::Add(listed.parse().ok_or_else(|| {
            let message = "the recipient's public key is none that keys can be wrapped with";
            Failure::new(FailureKind::Usage, message)
        })?),
    };
    let here = household.key_service(principal.as_deref(), &volume.status().region)?;
    let regions = OtherRegions::new(move |region| {
        let service = household.key_service(principal.as_deref(), region);
        service.map_err(|failure| out_of_reach(region, failure))
    });
    let total = volume.count_files(&[]).map_err(|e| tell(served, e))?;
    let report = with_progress(served, lines, total, |seen| {
        volume.change_recipients(&here, &regions, &change, options, seen)
    });
    json(&report.map_err(|e| tell(served, e))?)
}

fn out_of_reach(region: &str, failure: Failure) -> VolumeError {
    let message = format!("The key is in region {region:?}, which cannot be used here: {}", failure.message);
    VolumeError::Key(KmsError::new(KmsErrorKind::NotFound, message))
}

fn rewrap(
    served: &Served,
    principal: Option<&str>,
    options: &Options,
    lines: &mut Lines,
) -> Result<Value, Failure> {
    let (volume, household) = (&served.volume, &served.household);
    let tell = |e| household.tell(e);
    let here = household.key_service(principal, &volume.status().region)?;
    let regions = |region: &str| {
        household.key_service(principal, region).map_err(|failure| out_of_reach(region, failure))
    };
    let total = volume.count_files(&options.below).map_err(tell)?;
    let report = with_progress(served, lines, total, |seen| volume.rewrap(&here, &regions, options, seen));
    json(&report.map_err(tell)?)
}

/// Does something with many files, and tells how far it is. What `work` is given counts one more, and answers whether to
/// go on: not when who asked is gone, or the mount ends.
fn with_progress<T>(
    served: &Served,
    lines: &mut Lines,
    total: u64,
    work: impl FnOnce(&(dyn Fn() -> bool + Sync)) -> T,
) -> T {
    let (done, gone) = (AtomicU64::new(0), AtomicBool::new(false));
    let (end, ended) = mpsc::channel::<()>();
    let (done, gone) = (&done, &gone);
    thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
                let progress = Answer::Progress { done: done.load(Ordering::Relaxed), total };
                if lines.answer(&progress).is_err() {
                    gone.store(true, Ordering::Relaxed);
                }
            }
        });
        let worked = work(&|| {
            done.fetch_add(1, Ordering::Relaxed);
            !gone.load(Ordering::Relaxed) && !served.stopping.load(Ordering::Relaxed)
        });
        drop(end);
        worked
    })
}

/// Holds the volume until the connection ends, is told to, or the time is over. What the kernel has of files open for
/// writing is fetched first: a page that is written to after that, through a mapping say, stays where it is.
fn hold(served: &Served, seconds: u64, lines: &mut Lines) -> Result<Value, Failure> {
    let Some(_one) = served.holding.try_lock() else {
        return Err(Failure::new(FailureKind::Busy, "the volume is held still already; try again"));
    };
    if !(1..=LONGEST_HOLD).contains(&seconds) {
        let message = format!("a hold takes 1 to {LONGEST_HOLD} seconds");
        return Err(Failure::new(FailureKind::Usage, message));
    }
    fetch_written(served);
    let held = served.volume.hold(PATIENCE).map_err(|e| served.household.tell(e))?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let gone = || Failure::new(FailureKind::Failure, "whoever asked for the hold is gone");
    lines.answer(&Answer::Result { result: json(&held.still)? }).map_err(|_| gone())?;
    loop {
        match lines.next(end)? {
            Line::Whole(line) => match parse(&served.which, &line)? {
                WhileHeld::Still {} => {
                    let still = Answer::Result { result: Value::Null };
                    lines.answer(&still).map_err(|_| gone())?;
                }
                WhileHeld::Release {} => return Ok(Value::Null),
            },
            Line::End => return Err(gone()),
            Line::Late => {
                let message = format!(
                    "the volume was held still for {seconds} seconds and goes on now; what was copied meanwhile is not \
                     of one moment: allow more time, or copy when less has changed"
                );
                return Err(Failure::new(FailureKind::Busy, message));
            }
        }
    }
}

/// Has the kernel write back what programs have written to files.
fn fetch_written(served: &Served) {
    // An error of one file is its writer's to hear, at fsync or close.
    if let Err(error) = served.kernel.sync() {
        tracing::debug!(%error, "syncing the mount");
    }
    for node in served.volume.written_nodes() {
        if let Err(error) = served.kernel.drop_pages(node) {
            tracing::debug!(%error, node, "pages of an open file");
        }
    }
}
