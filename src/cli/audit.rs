//! `kmsfs audit`: what happened, and whether the log still says all of it.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use jiff::Timestamp;

use super::error::{CliError, Result};
use super::global::Global;
use super::{output, service};
use crate::audit::{AuditError, ChainHead, Event, ExportError, ExportOptions, Filter, Found};
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
/// It prints the log's head. A head that was noted elsewhere (a file on another machine, a mail to yourself) shows
/// with --pinned that the log still holds all that it held then, even against whoever has the root key.
#[derive(Debug, clap::Args)]
struct Verify {
    /// A head that `audit head` or `audit verify` printed before, as NUMBER:HASH; or @FILE, the file that holds it
    #[arg(long, value_name = "HEAD", value_parser = head)]
    pinned: Option<ChainHead>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the log's head, to be kept elsewhere
///
/// `kmsfs audit head > FILE`, with the file on another machine, and later `kmsfs audit verify --pinned @FILE`. It does
/// not walk the log: `kmsfs audit verify` does, and prints the same head.
#[derive(Debug, clap::Args)]
struct Head {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Writes the account's events into a directory, as CloudTrail's gzip files with a signed digest of each hour
///
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
fn time(text: &str) -> std::result::Result<Timestamp, String> {
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

fn head(text: &str) -> std::result::Result<ChainHead, String> {
    const LONGEST: u64 = 256;
    let bad = "NUMBER:HASH as `kmsfs audit verify` prints it, or @FILE";
    let Some(path) = text.strip_prefix('@') else {
        return ChainHead::parse(text).ok_or_else(|| bad.to_owned());
    };
    let mut noted = String::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut noted));
    read.map_err(|e| format!("{path}: {e}"))?;
    ChainHead::parse(&noted).ok_or_else(|| format!("{path} does not hold {bad}"))
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
    if args.json {
        return output::json(&serde_json::json!({"events": head.sequence, "head": head.to_string()}));
    }
    output::line(&head.to_string())
}

fn export(session: &Session, args: &Export) -> Result<()> {
    let options = ExportOptions { since: args.since, until: args.until, bucket: args.bucket.clone() };
    let done = session.export_log(&args.dir, &options).map_err(|error| match error {
        ExportError::Log(error) => log_failed(error),
        ExportError::File { path, source } => {
            CliError::Io { what: format!("{path} (export again: it goes on where it stopped)"), source }
        }
        ExportError::Busy { .. } => CliError::Busy(error.to_string()),
        ExportError::Changed { .. } | ExportError::Lost { .. } => CliError::Tampered(error.to_string()),
        ExportError::Asked(what) => CliError::Usage(format!("{}: {what}", args.dir.display())),
        ExportError::Key(_) | ExportError::Crypto(_) => CliError::Home(error.to_string()),
    })?;
    if args.json {
        return output::json(&serde_json::json!({
            "events": done.events,
            "logFiles": done.log_files,
            "digests": done.digests,
            "until": done.until.to_string(),
            "head": done.head.to_string(),
        }));
    }
    output::facts(&[
        ("exported", format!("{} events in {} files, {} digests", done.events, done.log_files, done.digests)),
        ("into", args.dir.display().to_string()),
        ("until", super::key::time(done.until)),
        ("head", done.head.to_string()),
    ])
}

fn verify(session: &Session, args: &Verify) -> Result<()> {
    let head = session.verify_log(args.pinned).map_err(log_failed)?;
    if args.json {
        return output::json(&serde_json::json!({
            "events": head.sequence,
            "head": head.to_string(),
            "pinned": args.pinned.map(|pinned| pinned.to_string()),
        }));
    }
    let pinned = match args.pinned {
        Some(pinned) => format!("it holds all {} events of the pinned head", pinned.sequence),
        None => "note this head elsewhere, and give it to --pinned later".to_owned(),
    };
    output::facts(&[
        ("the log is whole", format!("{} events, none changed, none missing", head.sequence)),
        ("head", head.to_string()),
        ("pinned", pinned),
    ])
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
        assert_eq!(head(&text).unwrap().to_string(), text);
        for bad in ["", "7", "7:ab", "@/nowhere"] {
            assert!(head(bad).is_err(), "{bad}");
        }
    }
}
