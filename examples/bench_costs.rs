//! What of a Decrypt over HTTP costs how much, measured inside one process: the signature, the decision by policy, the
//! log. For scripts/bench-server; `bench_costs DIR` works in a new directory below DIR and prints Markdown.
//!
//! Nothing is switched off: the parts of the way are called by themselves.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use kmsfs::iam::sigv4::{Request, Signed, SigningKey};
use kmsfs::kms::{Caller, Home, Kms, KmsOptions, Session, Unrecorded};
use serde_json::{Value, json};

type Fault = Box<dyn std::error::Error>;

const ACCOUNT: &str = "000000000000";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// Longest time of a row.
const EACH: Duration = Duration::from_secs(2);

/// Microseconds of one of `calls` calls, the median of many batches: what else the machine does meets few of them.
fn micros(calls: usize, mut work: impl FnMut() -> Result<(), Fault>) -> Result<f64, Fault> {
    let mut batches = Vec::new();
    let until = Instant::now() + EACH;
    while Instant::now() < until {
        let begun = Instant::now();
        for _ in 0..10 {
            work()?;
        }
        batches.push(begun.elapsed().as_secs_f64() * 1e6 / (10 * calls) as f64);
    }
    batches.sort_by(f64::total_cmp);
    Ok(batches[batches.len() / 2])
}

fn call(session: &Session, operation: &str, body: &Value) -> Result<Value, Fault> {
    let answer = session.call_json(operation, body.to_string().as_bytes()).map_err(|e| e.message)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// Reading and checking a signature, whose signing key is kept as the server keeps it.
fn signature(body: &[u8]) -> Result<f64, Fault> {
    let now = jiff::Timestamp::now();
    let (date, time) = (now.strftime("%Y%m%d").to_string(), now.strftime("%Y%m%dT%H%M%SZ").to_string());
    // A wrong signature takes the same way to its end.
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/{date}/us-east-1/kms/aws4_request, \
         SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature={}",
        "ab".repeat(32)
    );
    let headers = [
        ("host", "127.0.0.1:9566"),
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", "TrentService.Decrypt"),
        ("x-amz-date", time.as_str()),
        ("authorization", authorization.as_str()),
    ];
    let request = Request { method: "POST", path: "/", query: "", headers: &headers, body };
    let key = SigningKey::derive(SECRET.as_bytes(), &date, "us-east-1", "kms");
    micros(1, || {
        let signed = Signed::read(&request, now)?;
        if signed.verify(&request, &key).is_ok() {
            return Err("a wrong signature was taken".into());
        }
        Ok(())
    })
}

fn measured(dir: &Path) -> Result<(), Fault> {
    let home = dir.join("home");
    Home::open_or_create(&home)?;
    let kms = Kms::open(&home, KmsOptions::new(ACCOUNT.parse()?))?;
    let region = "us-east-1".parse()?;
    kms.create_region(&region, None)?;
    let root = kms.root_session(&region)?;
    let created = call(&root, "CreateKey", &json!({}))?;
    let key = created["KeyMetadata"]["KeyId"].as_str().ok_or("no key")?.to_owned();
    // A user with a policy, as most clients are.
    let identities = kms.identity(Caller::root(ACCOUNT.parse()?));
    let done = |made: Result<Value, kmsfs::kms::KmsError>| made.map(drop).map_err(|e| Fault::from(e.message));
    let policy = json!({"Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}]});
    done(identities.call_json("CreateUser", json!({"UserName": "alice"})))?;
    let put = json!({"UserName": "alice", "PolicyName": "use", "PolicyDocument": policy.to_string()});
    done(identities.call_json("PutUserPolicy", put))?;
    let caller = kms.caller("alice").map_err(|e| e.message)?;
    let alice = kms.session(caller.clone(), &region)?;
    let context = json!({"app": "mail", "tenant": "0123456789"});
    let asked = json!({"KeyId": key, "Plaintext": "eHh4eHh4eHg=", "EncryptionContext": context});
    let sealed = call(&alice, "Encrypt", &asked)?;
    let body = json!({"CiphertextBlob": sealed["CiphertextBlob"], "EncryptionContext": context}).to_string();
    let body = body.as_bytes();

    let decide = || {
        let decided = alice.for_request(caller.clone(), "request").decide_json("Decrypt", body);
        decided.ok_or_else(|| Fault::from("it cannot be decided"))
    };
    let recorded =
        |all: Vec<Unrecorded>| match Unrecorded::record(all).into_iter().all(|a| matches!(a, Some(Ok(_)))) {
            true => Ok(()),
            false => Err(Fault::from("it was not recorded")),
        };
    let sigv4 = signature(body)?;
    let decided = micros(1, || decide().map(|unrecorded| drop(black_box(unrecorded))))?;
    let policy = micros(1, || {
        alice
            .simulate("kms:Decrypt", &key, &[], &Default::default())
            .map(|s| drop(black_box(s)))
            .map_err(|e| e.message.into())
    })?;
    let alone = micros(1, || recorded(vec![decide()?]))? - decided;
    let together = micros(16, || recorded((0..16).map(|_| decide()).collect::<Result<_, _>>()?))? - decided;
    println!("| of a Decrypt by a user with a policy | µs |\n|---|---|");
    println!("| SigV4: read, hash, compare | {sigv4:.1} |");
    println!(
        "| the policies: the decision alone, in a view of the store, with its reasons in words | at most {policy:.1} |"
    );
    println!("| request and answer in JSON, the policies, AES-GCM, the event's JSON | {decided:.1} |");
    println!("| the log: hash chain and transaction, one request alone | {alone:.1} |");
    println!("| the log: each of 16 requests recorded together | {together:.1} |");
    Ok(())
}

fn main() -> Result<(), Fault> {
    let below = std::env::args().nth(1).ok_or("usage: bench_costs DIR")?;
    let dir = Path::new(&below).join(format!("bench-costs-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let done = measured(&dir);
    std::fs::remove_dir_all(&dir)?;
    done
}
