//! `kmsfs usage`: how often which key was used by whom, and what that would cost at AWS.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::Result;
use super::global::Global;
use super::{output, service};
use crate::audit::{CallKind, CallSeen};
use crate::kms::KeptKey;

/// Counts the calls in the log, and tells what they would cost on AWS
///
/// Counted are the account's calls to the region's key service, and those that volumes under --kms aws made in that
/// region; refused ones too. A lease answers further opens of a file without a call: what those would have cost is told
/// beside. The prices are AWS's list prices as this program knows them, without the free tier; they are not fetched.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// At this time or later, in the forms of `audit lookup --start` [default: the beginning of the log]
    #[arg(long, visible_alias = "start-time", value_name = "TIME", value_parser = super::audit::time)]
    since: Option<Timestamp>,
    /// At this time or earlier, in the same forms [default: now]
    #[arg(long, visible_alias = "end-time", value_name = "TIME", value_parser = super::audit::time)]
    until: Option<Timestamp>,
    /// What each row is of; several with commas between them
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "operation")]
    by: Vec<By>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// See [`Args::by`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// Decrypt, GenerateDataKey, ...
    Operation,
    /// The KMS key
    Key,
    /// Who called
    Principal,
    /// The day, in UTC
    Day,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Key => "key",
            Self::Principal => "principal",
            Self::Day => "day",
        }
    }

    fn of<'a>(self, call: &CallSeen<'a>) -> &'a str {
        match self {
            Self::Operation => call.operation,
            Self::Key => call.key.unwrap_or("-"),
            Self::Principal => call.principal.unwrap_or("-"),
            Self::Day => call.day,
        }
    }
}

/// Where the prices are from, and of when.
const SOURCE: &str = "https://aws.amazon.com/kms/pricing/";
const REGION: &str = "us-east-1";
const AS_OF: &str = "2025-01";

/// What AWS tells apart in pricing requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// With symmetric and HMAC keys, RSA_2048 keys, and what manages keys.
    Usual,
    /// With other key pairs.
    Asymmetric,
    /// GenerateDataKeyPair, GenerateDataKeyPairWithoutPlaintext of an elliptic curve.
    EccPair,
    /// The same of RSA.
    RsaPair,
}

impl Class {
    const ALL: [Self; 4] = [Self::Usual, Self::Asymmetric, Self::EccPair, Self::RsaPair];

    /// Of one request, in millionths of a dollar: of 10,000 requests, in hundredths.
    const fn price(self) -> u64 {
        match self {
            Self::Usual => 3,
            Self::Asymmetric => 15,
            Self::EccPair => 10,
            Self::RsaPair => 1200,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Usual => "symmetric, HMAC, RSA_2048",
            Self::Asymmetric => "other key pairs",
            Self::EccPair => "GenerateDataKeyPair, ECC",
            Self::RsaPair => "GenerateDataKeyPair, RSA",
        }
    }

    /// Of a call with a key of this spec; None: the spec is not known, the key being gone or elsewhere.
    fn of(call: &CallSeen<'_>, spec: Option<&str>) -> Self {
        if call.operation.starts_with("GenerateDataKeyPair") {
            return match call.pair_spec {
                Some(pair) if pair.starts_with("RSA") => Self::RsaPair,
                _ => Self::EccPair,
            };
        }
        if !WITH_KEY_PAIRS.contains(&call.operation) {
            return Self::Usual;
        }
        match (spec, call.algorithm) {
            (Some("SYMMETRIC_DEFAULT" | "RSA_2048"), _) => Self::Usual,
            (Some(spec), _) if spec.starts_with("HMAC") => Self::Usual,
            (Some(_), _) => Self::Asymmetric,
            (None, None | Some("SYMMETRIC_DEFAULT")) if call.operation != "GetPublicKey" => Self::Usual,
            // The dearer one, where the size of an RSA key is not known.
            (None, _) => Self::Asymmetric,
        }
    }
}

/// Operations whose price hangs on the key's spec.
const WITH_KEY_PAIRS: [&str; 9] = [
    "Decapsulate",
    "Decrypt",
    "DeriveSharedSecret",
    "Encapsulate",
    "Encrypt",
    "GetPublicKey",
    "ReEncrypt",
    "Sign",
    "Verify",
];

/// A key that a customer manages, for a month; so much more for its first and for its second rotation.
const KEY_MONTH: u64 = 1_000_000;
const CHARGED_ROTATIONS: usize = 2;
/// The mean of a year's months, in seconds; AWS charges by the hour.
const MONTH: i64 = 730 * 3600;

/// Counts of a row, and their price in millionths of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    calls: u64,
    /// Of those, to AWS KMS.
    remote: u64,
    failed: u64,
    leased: u64,
    price: u64,
    /// Of the opens that leases answered.
    saved: u64,
}

impl Counts {
    fn add(&mut self, call: &CallSeen<'_>, class: Class) {
        if call.kind == CallKind::Leased {
            self.leased += 1;
            self.saved += class.price();
            return;
        }
        self.calls += 1;
        self.remote += u64::from(call.kind == CallKind::Remote);
        self.failed += u64::from(call.failed);
        self.price += class.price();
    }

    fn json(&self) -> Map<String, Value> {
        let value = json!({
            "calls": self.calls,
            "calls_to_aws": self.remote,
            "failed": self.failed,
            "opens_in_a_lease": self.leased,
            "usd": dollars(self.price),
            "usd_without_leases": dollars(self.price + self.saved),
        });
        value.as_object().cloned().unwrap_or_default()
    }
}

/// What was counted.
struct Usage<'a> {
    by: &'a [By],
    specs: HashMap<&'a str, &'static str>,
    rows: BTreeMap<Vec<Cow<'static, str>>, Counts>,
    total: Counts,
    first: Option<Timestamp>,
    /// Of the row that was counted last: most calls are like the one before.
    last: Vec<Cow<'static, str>>,
}

impl<'a> Usage<'a> {
    fn new(by: &'a [By], keys: &'a [KeptKey]) -> Self {
        let specs = keys.iter().map(|key| (&*key.arn, key.spec)).collect();
        Self { by, specs, rows: BTreeMap::new(), total: Counts::default(), first: None, last: Vec::new() }
    }

    fn add(&mut self, call: &CallSeen<'_>) {
        let spec = call.key.and_then(|key| self.specs.get(key)).copied();
        let class = Class::of(call, spec);
        self.first = Some(self.first.map_or(call.time, |first| first.min(call.time)));
        self.total.add(call, class);
        let same = self.last.len() == self.by.len()
            && self.by.iter().zip(&self.last).all(|(by, last)| by.of(call) == last);
        if !same {
            self.last = self.by.iter().map(|by| Cow::Owned(by.of(call).to_owned())).collect();
        }
        match self.rows.get_mut(&self.last) {
            Some(counts) => counts.add(call, class),
            None => self.rows.entry(self.last.clone()).or_default().add(call, class),
        }
    }
}

/// What keeping the account's keys costs, in millionths of a dollar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Keeping {
    keys: u64,
    /// From `start` to `end`.
    period: u64,
    /// As they are at the end.
    month: u64,
}

impl Keeping {
    /// Those that customers manage and that do not wait for their deletion, which costs nothing.
    fn of(keys: &[KeptKey], start: Timestamp, end: Timestamp) -> Self {
        let mut keeping = Self::default();
        let charged = keys.iter().filter(|key| key.customer && !key.pending_deletion && key.created <= end);
        for key in charged {
            keeping.keys += 1;
            let since =
                std::iter::once(key.created).chain(key.rotated.iter().copied().take(CHARGED_ROTATIONS));
            for since in since.filter(|since| *since <= end) {
                let seconds = (end.as_second() - since.max(start).as_second()).max(0);
                keeping.month += KEY_MONTH;
                keeping.period += (i128::from(seconds) * i128::from(KEY_MONTH) / i128::from(MONTH)) as u64;
            }
        }
        keeping
    }
}

/// Millionths of a dollar in dollars.
fn dollars(millionths: u64) -> f64 {
    millionths as f64 / 1e6
}

fn usd(millionths: u64) -> String {
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

/// Runs it.
pub fn run(global: &Global, args: &Args) -> Result<()> {
    let session = service::session(global)?;
    let keys = session.kept_keys()?;
    let mut usage = Usage::new(&args.by, &keys);
    session.each_call(args.since, args.until, &mut |call| usage.add(&call))?;
    let end = args.until.unwrap_or_else(Timestamp::now);
    let start = args.since.or(usage.first).unwrap_or(end);
    let keeping = Keeping::of(&keys, start, end);
    if args.json { print_json(&usage, keeping, start, end) } else { print(&usage, keeping, start, end) }
}

fn print_json(usage: &Usage<'_>, keeping: Keeping, start: Timestamp, end: Timestamp) -> Result<()> {
    let rows = usage.rows.iter().map(|(names, counts)| {
        let mut row: Map<String, Value> =
            usage.by.iter().zip(names).map(|(by, name)| (by.name().to_owned(), json!(name))).collect();
        row.extend(counts.json());
        Value::Object(row)
    });
    let classes = Class::ALL.map(|class| (class.name().to_owned(), json!(class.price() as f64 / 100.0)));
    output::json(&json!({
        "since": start.to_string(),
        "until": end.to_string(),
        "rows": rows.collect::<Vec<_>>(),
        "total": usage.total.json(),
        "keys": {
            "customer_managed": keeping.keys,
            "usd": dollars(keeping.period),
            "usd_per_month": dollars(keeping.month),
        },
        "prices": {
            "source": SOURCE,
            "region": REGION,
            "as_of": AS_OF,
            "usd_per_10000_requests": classes.into_iter().collect::<Map<_, _>>(),
            "usd_per_key_month": dollars(KEY_MONTH),
            "usd_per_month_of_first_and_second_rotation": dollars(KEY_MONTH),
        },
    }))
}

fn print(usage: &Usage<'_>, keeping: Keeping, start: Timestamp, end: Timestamp) -> Result<()> {
    let total = usage.total;
    let heading = usage.by.iter().map(|by| by.name().to_uppercase()).collect::<Vec<_>>().join(" / ");
    let rows: Vec<_> = usage
        .rows
        .iter()
        .map(|(names, counts)| {
            [
                names.join("  "),
                counts.calls.to_string(),
                counts.failed.to_string(),
                usd(counts.price),
                counts.leased.to_string(),
                usd(counts.price + counts.saved),
            ]
        })
        .collect();
    if !rows.is_empty() {
        output::table([&*heading, "CALLS", "FAILED", "USD", "IN A LEASE", "USD WITHOUT LEASES"], &rows)?;
        output::line("")?;
    }
    output::facts(&[
        ("from", super::key::time(start)),
        ("to", super::key::time(end)),
        ("calls", format!("{}, {} of them to AWS KMS, {} failed", total.calls, total.remote, total.failed)),
        ("at AWS's prices", format!("USD {}", usd(total.price))),
        (
            "without leases",
            format!("USD {}: {} opens more would have asked", usd(total.price + total.saved), total.leased),
        ),
        (
            "keys",
            format!(
                "{} customer managed here: USD {} in this time, USD {} a month",
                keeping.keys,
                usd(keeping.period),
                usd(keeping.month)
            ),
        ),
        (
            "prices",
            format!(
                "AWS's list for {REGION} as known in {AS_OF}, not fetched, without the free tier; {SOURCE} has today's"
            ),
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call<'a>(operation: &'a str, pair_spec: Option<&'a str>, algorithm: Option<&'a str>) -> CallSeen<'a> {
        CallSeen {
            kind: CallKind::Embedded,
            operation,
            key: None,
            principal: None,
            time: Timestamp::UNIX_EPOCH,
            day: "1970-01-01",
            failed: false,
            pair_spec,
            algorithm,
        }
    }

    #[test]
    fn prices_are_those_of_the_list() {
        // Of 10,000 requests, in dollars.
        let of_ten_thousand = |operation, pair, algorithm, spec| {
            Class::of(&call(operation, pair, algorithm), spec).price() as f64 * 10_000.0 / 1e6
        };
        for (operation, pair, algorithm, spec, due) in [
            ("Decrypt", None, None, Some("SYMMETRIC_DEFAULT"), 0.03),
            ("Decrypt", None, None, None, 0.03),
            ("GenerateDataKey", None, None, Some("SYMMETRIC_DEFAULT"), 0.03),
            ("GenerateMac", None, None, Some("HMAC_256"), 0.03),
            ("DescribeKey", None, None, Some("ECC_NIST_P256"), 0.03),
            ("Sign", None, Some("RSASSA_PSS_SHA_256"), Some("RSA_2048"), 0.03),
            ("Sign", None, Some("RSASSA_PSS_SHA_256"), Some("RSA_4096"), 0.15),
            ("Sign", None, Some("RSASSA_PSS_SHA_256"), None, 0.15),
            ("Verify", None, Some("ECDSA_SHA_256"), Some("ECC_NIST_P256"), 0.15),
            ("GetPublicKey", None, None, Some("RSA_3072"), 0.15),
            ("GetPublicKey", None, None, None, 0.15),
            ("Encrypt", None, Some("RSAES_OAEP_SHA_256"), Some("RSA_2048"), 0.03),
            ("GenerateDataKeyPair", Some("ECC_NIST_P384"), None, Some("SYMMETRIC_DEFAULT"), 0.1),
            ("GenerateDataKeyPairWithoutPlaintext", Some("RSA_2048"), None, None, 12.0),
        ] {
            let price = of_ten_thousand(operation, pair, algorithm, spec);
            assert!((price - due).abs() < 1e-9, "{operation} {pair:?} {algorithm:?} {spec:?}: {price}");
        }
    }

    #[test]
    fn keys_cost_by_the_hour_and_their_first_two_rotations_too() {
        let at = |hours: i64| Timestamp::from_second(hours * 3600).unwrap();
        let key = |customer, pending_deletion, created, rotated: &[i64]| KeptKey {
            arn: "arn:aws:kms:us-east-1:000000000000:key/1".to_owned(),
            spec: "SYMMETRIC_DEFAULT",
            customer,
            pending_deletion,
            created: at(created),
            rotated: rotated.iter().map(|hour| at(*hour)).collect(),
        };
        let cost = |key: KeptKey, from, to| {
            let keeping = Keeping::of(&[key], at(from), at(to));
            (keeping.keys, keeping.period, keeping.month)
        };
        // A month is 730 hours.
        assert_eq!(cost(key(true, false, 0, &[]), 0, 730), (1, 1_000_000, 1_000_000));
        assert_eq!(cost(key(true, false, 365, &[]), 0, 730), (1, 500_000, 1_000_000));
        assert_eq!(cost(key(true, false, 0, &[]), 365, 730), (1, 500_000, 1_000_000));
        assert_eq!(cost(key(true, false, 0, &[365]), 0, 730), (1, 1_500_000, 2_000_000));
        // The third rotation and those after it cost nothing.
        assert_eq!(cost(key(true, false, 0, &[0, 0, 0, 0]), 0, 730), (1, 3_000_000, 3_000_000));
        assert_eq!(cost(key(true, false, 0, &[800]), 0, 730), (1, 1_000_000, 1_000_000));
        for free in [key(false, false, 0, &[]), key(true, true, 0, &[]), key(true, false, 731, &[])] {
            assert_eq!(cost(free, 0, 730), (0, 0, 0));
        }
        assert_eq!(usd(12_345_678), "12.345678");
    }
}
