//! Requests that are decided where they arrive and recorded together.
//!
//! A server has many requests under way. Each is decided out of memory in some microseconds; what costs is the
//! transaction that records it, and the waking of a thread for each. So a request may be taken in two steps: it is
//! decided, which gives what cannot be looked at yet ([`Unrecorded`]), and those that were decided meanwhile are
//! recorded in one transaction, which gives the answers.

use std::sync::Arc;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::commit::{DecidedAt, Tried};
use super::region::RegionService;
use super::session::Session;
use super::{KmsError, KmsErrorKind};

/// Operations that are decided out of memory within microseconds where the key is symmetric, and that change nothing:
/// one that was not recorded may be done again.
const QUICK: [&str; 8] = [
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "GenerateMac",
    "GenerateRandom",
    "ReEncrypt",
    "VerifyMac",
];

/// The events of one request, and what its decision was made at.
pub struct Record {
    pub events: Vec<Vec<u8>>,
    pub decided_at: Option<DecidedAt>,
}

/// What a session holds back instead of recording it.
#[derive(Default)]
pub enum Held {
    /// Nothing was to be recorded by now.
    #[default]
    Nothing,
    /// This was.
    Events(Record),
    /// It cannot be decided out of memory as it stands.
    Again,
}

/// Where a session leaves it.
pub type Hold = Arc<Mutex<Held>>;

/// An answer that nobody may see before it is recorded.
pub struct Unrecorded {
    region: Arc<RegionService>,
    record: Option<Record>,
    /// There is, or was, a record.
    counts: bool,
    answer: Answer,
}

/// What a request is answered with.
pub type Answer = Result<Zeroizing<Vec<u8>>, KmsError>;

impl Session {
    /// The first step of [`Self::call_json`]: decides and does, and records nothing. None: the operation, or the
    /// store as it is now, asks for [`Self::call_json`]; nothing was done.
    pub fn decide_json(&self, operation: &str, body: &[u8]) -> Option<Unrecorded> {
        if !QUICK.contains(&operation) {
            return None;
        }
        let hold = Hold::default();
        let answer = self.holding(hold.clone()).call_json(operation, body).map(Zeroizing::new);
        let record = match std::mem::take(&mut *hold.lock()) {
            Held::Again => return None,
            Held::Events(record) => Some(record),
            Held::Nothing => None,
        };
        let counts = record.is_some();
        Some(Unrecorded { region: self.region_service().clone(), record, counts, answer })
    }
}

impl Unrecorded {
    /// The second step: records all of them, those of one region in one transaction, and gives the answers in the
    /// same order. None in the place of one whose decision no longer holds, which was not recorded: it is to be called anew.
    pub fn record(all: Vec<Self>) -> Vec<Option<Answer>> {
        let mut answers = Vec::with_capacity(all.len());
        let mut all = all.into_iter().peekable();
        while let Some(first) = all.next() {
            let region = first.region.clone();
            let mut group = vec![first];
            while let Some(next) = all.next_if(|next| Arc::ptr_eq(&next.region, &region)) {
                group.push(next);
            }
            let records = group.iter_mut().filter_map(|one| one.record.take()).collect();
            answers.extend(answered(group, region.commit_all(records)));
        }
        answers
    }

    /// The same for requests of one region, without waiting: they come back if another is writing to the region's store.
    pub fn try_record(mut all: Vec<Self>) -> Result<Vec<Option<Answer>>, Vec<Self>> {
        let Some(region) = all.first().map(|one| one.region.clone()) else { return Ok(Vec::new()) };
        if all.iter().any(|one| !Arc::ptr_eq(&one.region, &region)) {
            return Err(all);
        }
        let records = all.iter_mut().filter_map(|one| one.record.take()).collect();
        match region.try_commit_all(records) {
            Ok(Tried::Done(good)) => Ok(answered(all, Ok(good))),
            Err(error) => Ok(answered(all, Err(error))),
            Ok(Tried::Busy(records)) => {
                let mut records = records.into_iter();
                for one in all.iter_mut().filter(|one| one.counts) {
                    one.record = records.next();
                }
                Err(all)
            }
        }
    }
}

/// The answers of requests whose records were taken out.
fn answered(all: Vec<Unrecorded>, recorded: Result<Vec<bool>, KmsError>) -> Vec<Option<Answer>> {
    let mut at = 0;
    let answer = |Unrecorded { counts, answer, .. }| match (&recorded, counts) {
        // What failed before there was an event to write is no success.
        (_, false) => Some(answer.and_then(|_| Err(unrecorded()))),
        // What is not recorded is not answered: dropping the answer wipes it.
        (Err(error), true) => Some(Err(error.clone())),
        (Ok(good), true) => {
            at += 1;
            good.get(at - 1).is_some_and(|good| *good).then_some(answer)
        }
    };
    all.into_iter().map(answer).collect()
}

fn unrecorded() -> KmsError {
    KmsError::new(KmsErrorKind::Internal, "the request was done without an event, and so is not answered")
}
