//! Export of an account's log as CloudTrail delivers it: gzip files of events, and for each hour, also an empty
//! one, a signed digest that names them and the digest before it.
//!
//! The directory itself says how far an export came: its last digest, whose signature is checked, names the
//! head of the chain that it reaches. The next export goes on behind that head and follows the chain from
//! there, so that no event is exported twice or left out, and nothing is signed over a log that was changed.
//! A log file is named by the number of its first event; the one that no digest names was left by an export
//! that was killed, and is written anew.

use std::collections::VecDeque;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::chain::{self, AuditError, ChainHead};
use super::delivery::{Pending, Target, file};
use super::digest::{Digest, DigestKey, NamedLogFile, Previous, Second, Signature};
use super::event::Event;
use super::lookup::is_of;
use crate::crypto::CryptoError;
use crate::crypto::mac::{self, Sha256};
use crate::store::Store;

/// The bucket that digests name, if none is given.
pub const BUCKET: &str = "kmsfs";
/// Behind a digest's name: the file of its signature.
const BESIDE: &str = ".meta";
const SUFFIX: &str = ".json.gz";
/// Events that are read at once.
const BATCH: usize = 1000;
/// A log file's events, before compression, are little more than this.
const LOG_FILE: usize = 32 << 20;

/// Why a log was not exported, or not all of it. What was exported before the error stands.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The log.
    #[error(transparent)]
    Log(#[from] AuditError),
    /// A file of the export.
    #[error("{path}: {source}; export again: it goes on where it stopped")]
    File {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another export is at work.
    #[error("another export is writing to {path}; wait until it is done")]
    Busy {
        /// The directory.
        path: String,
    },
    /// What is there is not what an export left.
    #[error("{path} is not what was exported: {what}; restore it, or export to another directory")]
    Changed {
        /// The file.
        path: String,
        /// What does not hold.
        what: &'static str,
    },
    /// The exported log has events that the log does not have any more.
    #[error(
        "{path} reaches event {sequence} of the log, and the log does not hold that event: the log was changed or \
         replaced by an older one; keep both as they are, and compare them"
    )]
    Lost {
        /// The last digest.
        path: String,
        /// The event.
        sequence: u64,
    },
    /// Times or names that cannot be.
    #[error("{0}")]
    Asked(String),
    /// The key that signs.
    #[error("the key that signs digests: {0}")]
    Key(String),
    /// Cryptography.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

impl From<crate::store::StoreError> for ExportError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Log(error.into())
    }
}

/// What to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// A first export begins with the first event of this time or later; None: with the log.
    pub since: Option<Timestamp>,
    /// Up to the first event of this time or later; None: all.
    pub until: Option<Timestamp>,
    /// The S3 bucket that the directory is, or will be copied to; None: as before, or [`BUCKET`].
    pub bucket: Option<String>,
}

/// What an export did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Digests written.
    pub digests: u64,
    /// Log files written.
    pub log_files: u64,
    /// Events in them.
    pub events: u64,
    /// The end of the last digest of the directory.
    pub until: Timestamp,
    /// The head of the chain that it reaches.
    pub head: ChainHead,
}

/// The keys that sign digests.
pub trait DigestKeys {
    /// The key for a digest that begins then; made if there is none.
    fn signing(&self, start: Second) -> Result<Arc<DigestKey>, ExportError>;

    /// The key of a fingerprint.
    fn named(&self, fingerprint: &str) -> Result<Option<Arc<DigestKey>>, ExportError>;
}

/// Which log; each is a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// A region's.
    Region,
    /// That of IAM and STS.
    Identities,
}

impl Log {
    /// The name of its trail, which digests bear.
    pub const fn trail(self) -> &'static str {
        match self {
            Self::Region => "kmsfs",
            Self::Identities => "kmsfs-iam",
        }
    }

    /// What the name of a log file ends with, by the number of its first event. Both trails put their files into one
    /// folder: neither takes the other's for its own.
    fn unique(self, first: u64) -> String {
        match self {
            Self::Region => format!("{first:016X}"),
            Self::Identities => format!("I{first:015X}"),
        }
    }

    /// The number of the first event of a log file with this name.
    fn first_event(self, name: &str, prefix: &str) -> Option<u64> {
        let unique = name.strip_prefix(prefix)?.strip_suffix(SUFFIX)?.rsplit('_').next()?;
        let number = match self {
            Self::Region => unique,
            Self::Identities => unique.strip_prefix('I')?,
        };
        if unique.len() == 16 { u64::from_str_radix(number, 16).ok() } else { None }
    }
}

/// The log that is exported.
pub struct Source<'a> {
    /// Which.
    pub log: Log,
    /// Its store.
    pub store: &'a dyn Store,
    /// The end of the chain that is on disk and signed.
    pub signed: ChainHead,
    /// Whose events.
    pub account: &'a str,
    /// Where.
    pub region: &'a str,
    /// The time.
    pub now: Timestamp,
    /// Sign.
    pub keys: &'a dyn DigestKeys,
}

/// Exports a log into a directory, which is made if it is not there.
pub fn export(source: &Source<'_>, root: &Path, options: &ExportOptions) -> Result<Exported, ExportError> {
    if let Some(bucket) = &options.bucket {
        check_bucket(bucket)?;
    }
    run(source, &Target::open(root)?, options, LOG_FILE)
}

/// S3's rule for names of buckets, without its finer points.
fn check_bucket(bucket: &str) -> Result<(), ExportError> {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
    if (3..=63).contains(&bucket.len()) && bucket.bytes().all(good) {
        return Ok(());
    }
    let what = "is no name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens";
    Err(ExportError::Asked(format!("{bucket} {what}")))
}

/// One export.
struct Export<'a> {
    source: &'a Source<'a>,
    target: &'a Target,
    bucket: String,
    /// Bytes of a log file's events.
    log_file: usize,
    done: Exported,
}

/// Where an export goes on.
struct Point {
    /// The path, hash and signature of the last digest.
    previous: Option<Previous>,
    /// Its end.
    start: Second,
    /// What it reaches.
    head: ChainHead,
}

/// The same with another size of log files.
pub(super) fn run(
    source: &Source<'_>,
    target: &Target,
    options: &ExportOptions,
    log_file: usize,
) -> Result<Exported, ExportError> {
    let now = Second::of(source.now);
    let last = last_digest(source, target)?;
    let bucket = match (&last, &options.bucket) {
        (Some((digest, _)), Some(asked)) if *asked != digest.digest_s3_bucket => {
            let before = &digest.digest_s3_bucket;
            let what =
                "a chain of digests has one bucket: leave the bucket out, or export to another directory";
            return Err(ExportError::Asked(format!("the digests there are for the bucket {before}; {what}")));
        }
        (Some((digest, _)), _) => digest.digest_s3_bucket.clone(),
        (None, asked) => asked.clone().unwrap_or_else(|| BUCKET.to_owned()),
    };
    sweep(source, target, last.as_ref())?;
    let point = match last {
        Some((digest, point)) => {
            if let Some(since) = options.since
                && Second::of(since) > digest.digest_end_time
            {
                let end = digest.digest_end_time;
                let what =
                    "a later beginning would leave events out; leave it out, or export to another directory";
                return Err(ExportError::Asked(format!("the digests there end at {end}; {what}")));
            }
            if digest.digest_end_time > now {
                let end = digest.digest_end_time;
                let what = "which is still to come; set the clock, or wait";
                return Err(ExportError::Asked(format!("the digests there end at {end}, {what}")));
            }
            point
        }
        None => first_point(source, options.since.map(Second::of), now)?,
    };
    let end = options.until.map_or(now, |until| Second::of(until).min(now));
    let done = Exported { digests: 0, log_files: 0, events: 0, until: point.start.time(), head: point.head };
    let mut export = Export { source, target, bucket, log_file, done };
    // Events that are late, or of a clock that was ahead, go where the export ends.
    export.go(point, end, end == now)?;
    Ok(export.done)
}

fn digests(source: &Source<'_>) -> String {
    format!("AWSLogs/{}/CloudTrail-Digest/{}", source.account, source.region)
}

fn logs(source: &Source<'_>) -> String {
    format!("AWSLogs/{}/CloudTrail/{}", source.account, source.region)
}

fn digest_prefix(source: &Source<'_>) -> String {
    let (account, region, trail) = (source.account, source.region, source.log.trail());
    format!("{account}_CloudTrail-Digest_{region}_{trail}_{region}_")
}

fn log_prefix(source: &Source<'_>) -> String {
    format!("{}_CloudTrail_{}_", source.account, source.region)
}

/// The last digest, if there is one; it must be ours, and the log must hold what it reaches.
fn last_digest(source: &Source<'_>, target: &Target) -> Result<Option<(Digest, Point)>, ExportError> {
    let prefix = digest_prefix(source);
    let fits = |name: &str| name.starts_with(&prefix) && name.ends_with(SUFFIX);
    let Some(object) = target.last(&digests(source), &fits)? else { return Ok(None) };
    let path = target.path(&object).display().to_string();
    let changed = |what| ExportError::Changed { path: path.clone(), what };
    let packed = target.read(&object)?.ok_or_else(|| changed("it is gone"))?;
    let content = Target::unpack(&packed).ok_or_else(|| changed("it is no gzip file"))?;
    let digest: Digest = serde_json::from_slice(&content).map_err(|_| changed("it is no digest of kmsfs"))?;
    let beside = target.read(&format!("{object}{BESIDE}"))?;
    let beside = beside.ok_or_else(|| changed("its signature, in the .meta file beside it, is missing"))?;
    let signature: Signature = serde_json::from_slice(&beside)
        .map_err(|_| changed("the .meta file beside it holds no signature"))?;
    let key = source.keys.named(&digest.digest_public_key_fingerprint)?;
    let key = key.ok_or_else(|| changed("it is signed by a key of another key service"))?;
    key.verify(&digest, &content, &signature).map_err(|_| changed("its signature does not fit"))?;
    let head = ChainHead::parse(&digest.kmsfs_head);
    let (Some(head), true) = (head, digest.digest_s3_object == object) else {
        return Err(changed("it is the digest of another place"));
    };
    if head.sequence > source.signed.sequence || !chain::holds(&*source.store.read()?, &head)? {
        return Err(ExportError::Lost { path, sequence: head.sequence });
    }
    let previous =
        Previous { object, hash: hex::encode(mac::sha256(&[&content])), signature: signature.signature };
    let point = Point { previous: Some(previous), start: digest.digest_end_time, head };
    Ok(Some((digest, point)))
}

/// Takes away what an export that was killed has left behind the last digest.
fn sweep(source: &Source<'_>, target: &Target, last: Option<&(Digest, Point)>) -> Result<(), ExportError> {
    let day = last.map_or(String::new(), |(digest, _)| digest.digest_end_time.day());
    let reached = last.map_or(0, |(_, point)| point.head.sequence);
    let prefix = log_prefix(source);
    target.sweep(&logs(source), &day, &|name| {
        source.log.first_event(name, &prefix).is_none_or(|n| n <= reached)
    })?;
    let prefix = digest_prefix(source);
    let newest = last.map_or(String::new(), |(digest, _)| {
        format!("{prefix}{}{SUFFIX}{BESIDE}", digest.digest_end_time.compact())
    });
    let ours = |name: &str| name.starts_with(&prefix) && name.ends_with(&format!("{SUFFIX}{BESIDE}"));
    target.sweep(&digests(source), &day, &|name| !ours(name) || name <= newest.as_str())
}

/// Where a first export begins: at the hour of the log's first event, or at the first event that is asked for.
fn first_point(source: &Source<'_>, since: Option<Second>, now: Second) -> Result<Point, ExportError> {
    let mut feed = Feed::new(source, ChainHead::EMPTY);
    let log = feed.peek()?.map_or(now, |item| item.time.min(now)).hour();
    let (mut start, mut head) = (log, ChainHead::EMPTY);
    if let Some(since) = since.filter(|since| *since > log) {
        if since > now {
            return Err(ExportError::Asked(format!("{since} is still to come: there is nothing to export")));
        }
        start = since;
        while feed.peek()?.is_some_and(|item| item.time < since) {
            head = feed.next()?.map_or(head, |item| item.head);
        }
    }
    Ok(Point { previous: None, start, head })
}

impl Export<'_> {
    fn go(&mut self, mut point: Point, end: Second, to_the_end: bool) -> Result<(), ExportError> {
        let mut feed = Feed::new(self.source, point.head);
        while point.start < end {
            let until = point.start.next_hour().min(end);
            point = self.hour(&mut feed, point, until, to_the_end && until == end)?;
        }
        Ok(())
    }

    /// Exports from one time to another inside an hour; `rest`: and all that is left.
    fn hour(
        &mut self,
        feed: &mut Feed<'_>,
        point: Point,
        until: Second,
        rest: bool,
    ) -> Result<Point, ExportError> {
        let Point { previous, start, mut head } = point;
        let mut files = Vec::new();
        let mut open: Option<LogFile<'_>> = None;
        while feed.peek()?.is_some_and(|item| rest || item.time < until) {
            let Some(item) = feed.next()? else { break };
            head = item.head;
            if !item.ours {
                continue;
            }
            let mut log = match open.take() {
                Some(log) => log,
                None => {
                    LogFile::begin(self.target, &format!("{}/{}", logs(self.source), start.day()), item.head)?
                }
            };
            log.add(&item)?;
            self.done.events += 1;
            if log.bytes < self.log_file {
                open = Some(log);
            } else {
                files.push(self.name(log, start, until)?);
            }
        }
        if let Some(log) = open {
            files.push(self.name(log, start, until)?);
        }
        let log_files = files.len() as u64;
        let previous = self.digest(previous.as_ref(), (start, until), files, &head)?;
        self.done = Exported {
            digests: self.done.digests + 1,
            log_files: self.done.log_files + log_files,
            until: until.time(),
            head,
            ..self.done
        };
        Ok(Point { previous: Some(previous), start: until, head })
    }

    /// Ends a log file, under the minute of its newest event as far as that is in this hour.
    fn name(&self, log: LogFile<'_>, start: Second, until: Second) -> Result<NamedLogFile, ExportError> {
        let minute = log.newest.clamp(start, Second(until.0 - 1)).minute();
        let unique = self.source.log.unique(log.first);
        let name = format!("{}{minute}_{unique}{SUFFIX}", log_prefix(self.source));
        let object = format!("{}/{}/{name}", logs(self.source), start.day());
        let (oldest, newest) = (log.oldest, log.newest);
        let hash = log.finish(&name)?;
        Ok(NamedLogFile::new(&self.bucket, object, &hash, oldest, newest))
    }

    /// Writes a digest: its signature first, so that every digest has one. With its name it counts.
    fn digest(
        &self,
        previous: Option<&Previous>,
        (start, end): (Second, Second),
        files: Vec<NamedLogFile>,
        head: &ChainHead,
    ) -> Result<Previous, ExportError> {
        let source = self.source;
        let key = source.keys.signing(start)?;
        let folder = format!("{}/{}", digests(source), end.day());
        let name = format!("{}{}{SUFFIX}", digest_prefix(source), end.compact());
        let object = format!("{folder}/{name}");
        let place = (self.bucket.as_str(), object.clone());
        let digest = Digest::new(source.account, (start, end), place, previous, files, head, &key);
        let failed = |e: serde_json::Error| file(&self.target.path(&object), e.into());
        let content = serde_json::to_vec(&digest).map_err(failed)?;
        let signature = key.sign(&digest, &content)?;
        let beside = serde_json::to_vec(&signature).map_err(failed)?;
        self.target.put(&folder, &format!("{name}{BESIDE}"), &beside)?;
        let packed = pack(&content).map_err(|e| file(&self.target.path(&object), e))?;
        self.target.put(&folder, &name, &packed)?;
        Ok(Previous { object, hash: hex::encode(mac::sha256(&[&content])), signature: signature.signature })
    }
}

fn pack(content: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(content)?;
    out.finish()
}

/// A log file that is being written: {"Records":[ ... ]}, each event as it is chained.
struct LogFile<'a> {
    first: u64,
    oldest: Second,
    newest: Second,
    bytes: usize,
    hash: Sha256,
    out: GzEncoder<BufWriter<Pending<'a>>>,
}

impl<'a> LogFile<'a> {
    fn begin(target: &'a Target, folder: &str, first: ChainHead) -> Result<Self, ExportError> {
        let out = BufWriter::new(target.create(folder)?);
        Ok(Self {
            first: first.sequence,
            oldest: Second(i64::MAX),
            newest: Second(i64::MIN),
            bytes: 0,
            hash: Sha256::new(),
            out: GzEncoder::new(out, Compression::default()),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.hash.update(bytes);
        self.bytes += bytes.len();
        let written = self.out.write_all(bytes);
        written.map_err(|e| file(self.out.get_ref().get_ref().path(), e))
    }

    fn add(&mut self, item: &Item) -> Result<(), ExportError> {
        let opening: &[u8] = if self.bytes == 0 { b"{\"Records\":[" } else { b"," };
        self.write(opening)?;
        self.write(&item.json)?;
        self.oldest = self.oldest.min(item.time);
        self.newest = self.newest.max(item.time);
        Ok(())
    }

    fn finish(mut self, name: &str) -> Result<[u8; 32], ExportError> {
        self.write(b"]}")?;
        let path = self.out.get_ref().get_ref().path().to_owned();
        let out = self.out.finish().map_err(|e| file(&path, e))?;
        out.into_inner().map_err(|e| file(&path, e.into_error()))?.publish(name)?;
        Ok(self.hash.finish())
    }
}

/// An event on its way.
struct Item {
    head: ChainHead,
    time: Second,
    /// It stands in the account's log.
    ours: bool,
    json: Vec<u8>,
}

/// The events behind a head, up to the signed one, each checked against the one before it.
struct Feed<'a> {
    source: &'a Source<'a>,
    read: ChainHead,
    waiting: VecDeque<Item>,
}

impl<'a> Feed<'a> {
    fn new(source: &'a Source<'a>, behind: ChainHead) -> Self {
        Self { source, read: behind, waiting: VecDeque::new() }
    }

    fn peek(&mut self) -> Result<Option<&Item>, ExportError> {
        if self.waiting.is_empty() {
            self.fill()?;
        }
        Ok(self.waiting.front())
    }

    fn next(&mut self) -> Result<Option<Item>, ExportError> {
        self.peek()?;
        Ok(self.waiting.pop_front())
    }

    fn fill(&mut self) -> Result<(), ExportError> {
        let signed = self.source.signed;
        let left = signed.sequence.saturating_sub(self.read.sequence);
        if left == 0 {
            return Ok(());
        }
        let most = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
        // A view of its own for each batch: a long one would keep the store's log from being moved into it.
        let records = chain::follow(&*self.source.store.read()?, &self.read, most)?;
        if records.is_empty() {
            return Err(AuditError::Missing { sequence: self.read.sequence + 1 }.into());
        }
        for record in records {
            let (head, json) = (record.head(), record.event);
            if head.sequence == signed.sequence && head != signed {
                return Err(AuditError::Head { sequence: signed.sequence }.into());
            }
            let event: Event =
                serde_json::from_slice(&json).map_err(|_| AuditError::Changed { sequence: head.sequence })?;
            let time = Second::of(event.event_time);
            self.waiting.push_back(Item { head, time, ours: is_of(&event, self.source.account), json });
            self.read = head;
        }
        Ok(())
    }
}
