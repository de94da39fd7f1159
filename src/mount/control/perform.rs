//! What is done for each request.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::lines::{Line, Lines, parse};
use super::{Answer, Failure, FailureKind, Request, Served, WhileHeld};

/// How long a hold waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest hold.
const LONGEST_HOLD: u64 = 24 * 3600;

/// Does what is asked; `lines` takes progress.
pub(super) fn perform(served: &Served, request: Request, lines: &mut Lines) -> Result<Value, Failure> {
    match request {
        Request::Status {} => json(&served.volume.status()),
        Request::Hold { seconds } => hold(served, seconds, lines),
    }
}

fn json(value: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value).map_err(|e| Failure::new(FailureKind::Failure, e.to_string()))
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
            Line::Whole(line) => match parse(&line)? {
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
