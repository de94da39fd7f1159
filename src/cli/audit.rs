//! `kmsfs audit`: what happened, and whether the log still says all of it.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use jiff::Timestamp;

use super::error::{CliError, Result};
use super::global::Global;
use super::{output, service};
use crate::audit::{AuditError, ChainHead, Event, ExportError, ExportOptions, Exported, Filter, Found};
use crate::kms::{KeyService, Session};

/// Reads, verifies and exports the audit log
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Lookup(Lookup),
    Verify(Verify),
    Head(Head),
    Export(Export),
}

/// Shows events, newest first; everything that is given must hold
///
/// Events of IAM and STS are shown in us-east-1, or, in a home that has no such region, in the first by name.
#[derive(Debug, clap::Args)]
struct Lookup {
    /// At this time or later: 2026-11-24T12:00:00Z, 2026-11-24 (midnight UTC), or 90s, 15m, 2h, 7d ago
    #[arg(long, visible_alias = "start-time", value_name = "TIME", value_parser = time)]
    start: Option<Timestamp>,
    /// At this time or earlier, in the same forms
    #[arg(long, visible_alias = "end-time", value_name = "TIME", value_parser = time)]
    end: Option<Timestamp>,
    /// That concern this KMS key: key id, ARN, alias or alias ARN
    #[arg(long, visible_alias = "key-id", value_name = "KEY")]
    key: Option<String>,
    /// Of this name, such as Decrypt or OpenFile
    #[arg(long, visible_alias = "event-name", value_name = "NAME")]
    event: Option<String>,
    /// By this principal: its ARN
    #[arg(long, value_name = "ARN")]
    principal: Option<String>,
    /// That failed or were denied
    #[arg(long)]
    errors: bool,
    /// At most this many
    #[arg(long, visible_alias = "max-results", value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print the events as they stand in the log: {"Events": [...]}
    #[arg(long)]
    json: bool,
}

/// Checks that no event was changed, removed or added behind the log's back
///
/// It walks the region's log and that of IAM and STS, which is one for all regions, and prints their heads. A head that was noted elsewhere (a file on another machine, a mail to yourself) shows
/// with --pinned that the log still holds all that it held then, even against whoever has the root key.
#[derive(Debug, clap::Args)]
struct Verify {
    /// What `audit head` printed before: NUMBER:HASH is the region's, iam:NUMBER:HASH that of IAM and STS (give the
    /// option twice); or @FILE, the file that holds one or both
    #[arg(long, value_name = "HEAD", value_parser = pinned)]
    pinned: Vec<Pinned>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the heads of the region's log and of that of IAM and STS (iam:), to be kept elsewhere
///
/// `kmsfs audit head > FILE`, with the file on another machine, and later `kmsfs audit verify --pinned @FILE`. It does
/// not walk the logs: `kmsfs audit verify` does, and prints the same heads.
#[derive(Debug, clap::Args)]
struct Head {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the account's events into a directory, as CloudTrail's gzip files with a signed digest of each hour
///
/// Events of IAM and STS are a trail of their own, kmsfs-iam, in the region that `audit lookup` shows them in.
/// Run it as often as you like, by a timer for example: it goes on where the last digest in the directory ended, and
/// writes every event once. What a killed export left is mended by the next. Copied to an S3 bucket, with the .meta
/// files as the digests' metadata, `aws cloudtrail validate-logs` checks it (docs/kms.md).
#[derive(Debug, clap::Args)]
struct Export {
    /// Directory; it is made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Begin with the first event of this time or later, in the forms of `audit lookup --start`; only the first
    /// export into a directory can begin later than the log
    #[arg(long, visible_alias = "start-time", value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// End before the first event of this time or later; the next export goes on there
    #[arg(long, visible_alias = "end-time", value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// S3 bucket that the directory will be copied to: the digests name it [default: as before, or kmsfs]
    #[arg(long, value_name = "NAME")]
    bucket: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A moment, or how long ago.
pub(super) fn time(text: &str) -> std::result::Result<Timestamp, String> {
    let bad = || {
        "a time such as 2026-11-24T12:00:00Z, a day such as 2026-11-24, or 15m for 15 minutes ago".to_owned()
    };
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    if let Ok(midnight) = format!("{text}T00:00:00Z").parse() {
        return Ok(midnight);
    }
    let unit = text.chars().last().ok_or_else(bad)?;
    let number: i64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| bad())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let ago = number.checked_mul(seconds).filter(|ago| *ago >= 0).ok_or_else(bad)?;
    Timestamp::from_second(Timestamp::now().as_second().saturating_sub(ago)).map_err(|_| bad())
}

/// What the head of the log of IAM and STS is told by.
const IAM: &str = "iam:";

/// Heads that were noted: one of each log at most.
#[derive(Debug, Clone, Copy, Default)]
struct Pinned {
    region: Option<ChainHead>,
    identities: Option<ChainHead>,
}

impl Pinned {
    /// None: there is no head, two of one log, or what is none.
    fn parse(text: &str) -> Option<Self> {
        let mut pinned = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (place, head) = match line.strip_prefix(IAM) {
                Some(head) => (&mut pinned.identities, head),
                None => (&mut pinned.region, line),
            };
            if place.replace(ChainHead::parse(head)?).is_some() {
                return None;
            }
        }
        (pinned.region.is_some() || pinned.identities.is_some()).then_some(pinned)
    }

    /// None: two are of one log.
    fn and(self, other: Self) -> Option<Self> {
        let one = |one: Option<ChainHead>, other: Option<ChainHead>| match (one, other) {
            (Some(_), Some(_)) => None,
            (one, other) => Some(one.or(other)),
        };
        let (region, identities) = (one(self.region, other.region)?, one(self.identities, other.identities)?);
        Some(Self { region, identities })
    }
}

fn pinned(text: &str) -> std::result::Result<Pinned, String> {
    const LONGEST: u64 = 1024;
    let bad = "NUMBER:HASH or iam:NUMBER:HASH as `kmsfs audit head` prints it, or @FILE";
    let Some(path) = text.strip_prefix('@') else {
        return Pinned::parse(text).ok_or_else(|| bad.to_owned());
    };
    let mut noted = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut noted));
    read.map_err(|e| format!("{path}: {e}"))?;
    Pinned::parse(&noted).ok_or_else(|| format!("{path} does not hold {bad}"))
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let session = service::session(global)?;
    match &args.verb {
        Verb::Lookup(args) => lookup(&session, args),
        Verb::Verify(args) => verify(&session, args),
        Verb::Head(args) => print_head(&session, args),
        Verb::Export(args) => export(&session, args),
    }
}

fn lookup(session: &Session, args: &Lookup) -> Result<()> {
    let key = match &args.key {
        // An alias as it stands now; a key that is gone is found by its id or ARN.
        Some(key) if key.contains("alias/") => Some(session.describe_key(key)?.key_arn),
        key => key.clone(),
    };
    let found = session.lookup_events(&Filter {
        start: args.start,
        end: args.end,
        key,
        event_name: args.event.clone(),
        principal: args.principal.clone(),
        errors_only: args.errors,
        account: None,
        limit: Some(args.limit),
    })?;
    if args.json {
        return json(&found);
    }
    if found.is_empty() {
        return output::line("no such events");
    }
    let rows: Vec<_> = found.iter().map(|found| row(&found.event)).collect();
    output::table(["TIME", "EVENT", "BY", "ON", "RESULT"], &rows)
}

/// The events byte for byte as they are chained.
fn json(found: &[Found]) -> Result<()> {
    let events: Vec<&str> = found.iter().map(|found| found.json.as_str()).collect();
    output::line(&format!("{{\"Events\":[\n{}\n]}}", events.join(",\n")))
}

fn row(event: &Event) -> [String; 5] {
    let who = &event.user_identity;
    let uid = event.additional_event_data.as_ref().and_then(|data| data.uid);
    let by = match (uid, &who.invoked_by, &who.arn) {
        (Some(uid), _, _) => format!("uid {uid}"),
        (None, _, Some(arn)) => arn.rsplit(':').next().unwrap_or(arn).to_owned(),
        (None, service, None) => service.as_deref().unwrap_or(&who.kind).to_owned(),
    };
    [
        super::key::time(event.event_time),
        event.event_name.to_string(),
        by,
        subject(event),
        event.error_code.as_deref().unwrap_or("ok").to_owned(),
    ]
}

/// What was acted on: the file, else the key.
fn subject(event: &Event) -> String {
    let parameter = |pointer: &str| {
        let value = event.request_parameters.as_ref()?.pointer(pointer)?;
        value.as_str().map(str::to_owned)
    };
    let key = event.resources.first().map(|key| key.arn.as_str()).and_then(|arn| arn.rsplit('/').next());
    let file = parameter("/encryptionContext/kmsfs:file").or_else(|| parameter("/fileId"));
    let alias = parameter("/aliasName");
    match (file, alias, key) {
        (Some(file), _, _) => format!("file {file}"),
        (None, Some(alias), _) => alias,
        (None, None, Some(key)) => format!("key {key}"),
        (None, None, None) => {
            parameter("/keyId").or_else(|| parameter("/volumeId")).unwrap_or_else(|| "-".to_owned())
        }
    }
}

fn log_failed(error: AuditError) -> CliError {
    match error {
        AuditError::Store(_) | AuditError::Full => CliError::Home(error.to_string()),
        _ => CliError::Tampered(format!(
            "{error}; keep a copy of the home as it is, and compare it with a backup (`kmsfs audit lookup` shows what \
             can still be read)"
        )),
    }
}

fn print_head(session: &Session, args: &Head) -> Result<()> {
    let head = session.log_head().map_err(log_failed)?;
    let identities = session.identity_log_head().map_err(log_failed)?;
    if args.json {
        let mut told = told(head, "");
        told["identities"] = identities.map_or(serde_json::Value::Null, |head| self::told(head, IAM));
        return output::json(&told);
    }
    output::line(&head.to_string())?;
    identities.map_or(Ok(()), |head| output::line(&format!("{IAM}{head}")))
}

/// A head in JSON.
fn told(head: ChainHead, which: &str) -> serde_json::Value {
    serde_json::json!({"events": head.sequence, "head": format!("{which}{head}")})
}

fn export(session: &Session, args: &Export) -> Result<()> {
    let options = ExportOptions { since: args.since, until: args.until, bucket: args.bucket.clone() };
    let failed = |error| match error {
        ExportError::Log(error) => log_failed(error),
        ExportError::File { path, source } => {
            CliError::Io { what: format!("{path} (export again: it goes on where it stopped)"), source }
        }
        ExportError::Busy { .. } => CliError::Busy(error.to_string()),
        ExportError::Changed { .. } | ExportError::Lost { .. } => CliError::Tampered(error.to_string()),
        ExportError::Asked(what) => CliError::Usage(format!("{}: {what}", args.dir.display())),
        ExportError::Key(_) | ExportError::Crypto(_) => CliError::Home(error.to_string()),
    };
    let done = session.export_log(&args.dir, &options).map_err(failed)?;
    let identities = session.export_identity_log(&args.dir, &options).map_err(failed)?;
    if args.json {
        let told = |done: &Exported, which: &str| {
            serde_json::json!({
                "events": done.events,
                "logFiles": done.log_files,
                "digests": done.digests,
                "until": done.until.to_string(),
                "head": format!("{which}{}", done.head),
            })
        };
        let mut all = told(&done, "");
        all["identities"] = identities.map_or(serde_json::Value::Null, |done| told(&done, IAM));
        return output::json(&all);
    }
    let count = |done: &Exported| {
        format!("{} events in {} files, {} digests", done.events, done.log_files, done.digests)
    };
    let mut facts = vec![
        ("exported", count(&done)),
        ("into", args.dir.display().to_string()),
        ("until", super::key::time(done.until)),
        ("head", done.head.to_string()),
    ];
    if let Some(done) = identities {
        facts.extend([("of IAM and STS", count(&done)), ("head", format!("{IAM}{}", done.head))]);
    }
    output::facts(&facts)
}

fn verify(session: &Session, args: &Verify) -> Result<()> {
    let pinned = args.pinned.iter().try_fold(Pinned::default(), |all, one| all.and(*one));
    let two = || CliError::Usage("--pinned: two heads of one log; give one, the newer".to_owned());
    let pinned = pinned.ok_or_else(two)?;
    let head = session.verify_log(pinned.region).map_err(log_failed)?;
    let identities = session.verify_identity_log(pinned.identities).map_err(|error| match error {
        AuditError::Store(_) | AuditError::Full => CliError::Home(error.to_string()),
        _ => CliError::Tampered(format!("of IAM and STS: {}", log_failed(error))),
    })?;
    if args.json {
        let told = |head: ChainHead, which: &str, pinned: Option<ChainHead>| {
            let mut told = told(head, which);
            told["pinned"] = pinned.map(|pinned| format!("{which}{pinned}")).into();
            told
        };
        let mut all = told(head, "", pinned.region);
        all["identities"] =
            identities.map_or(serde_json::Value::Null, |head| told(head, IAM, pinned.identities));
        return output::json(&all);
    }
    let count = |head: ChainHead| format!("{} events, none changed, none missing", head.sequence);
    let holds = |pinned: Option<ChainHead>| match pinned {
        Some(pinned) => format!("it holds all {} events of the pinned head", pinned.sequence),
        None => "note this head elsewhere, and give it to --pinned later".to_owned(),
    };
    let mut facts =
        vec![("the log is whole", count(head)), ("head", head.to_string()), ("pinned", holds(pinned.region))];
    if let Some(head) = identities {
        facts.extend([
            ("of IAM and STS", count(head)),
            ("head", format!("{IAM}{head}")),
            ("pinned", holds(pinned.identities)),
        ]);
    }
    output::facts(&facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_each_form() {
        assert_eq!(time("2026-11-24T12:00:00Z").unwrap().as_second(), 1_795_521_600);
        assert_eq!(time("2026-11-24").unwrap().as_second(), 1_795_478_400);
        let now = Timestamp::now().as_second();
        for (text, ago) in [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            assert!((now - ago - time(text).unwrap().as_second()).abs() < 5, "{text}");
        }
        for bad in ["", "x", "\u{e4}", "-5m", "5y", "m", "9223372036854775807d", "2026-13-01"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_head_is_read_as_it_is_printed() {
        let text = format!("7:{}", "ab".repeat(32));
        let read = pinned(&text).unwrap();
        assert_eq!((read.region.unwrap().to_string(), read.identities), (text.clone(), None));
        let both = Pinned::parse(&format!("{text}\niam:{text}\n")).unwrap();
        assert_eq!(both.region, both.identities);
        assert!(read.and(Pinned::parse(&format!("iam:{text}")).unwrap()).is_some());
        assert!(read.and(both).is_none());
        for bad in ["", "7", "7:ab", "@/nowhere", "iam:", "iam:7", &format!("{text}\n{text}")] {
            assert!(pinned(bad).is_err(), "{bad}");
        }
    }
}
