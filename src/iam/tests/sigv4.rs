//! Signatures: AWS's own test suite, and what one byte more or less does.

use jiff::{SignedDuration, Timestamp};

use proptest::prelude::*;

use super::super::sigv4::{Request, SignatureError, Signed, SigningKey, SigningKeys};
use crate::crypto::SecretVec;

/// The suite's (from aws-c-auth, Apache-2.0): cases whose path is normalised, as every service but S3 does.
const SUITE: &str = include_str!("../../../tests/golden/sigv4.json");
const SECRET: &[u8] = b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    request: String,
    canonical: String,
    signature: String,
}

fn suite_time() -> Timestamp {
    "2015-08-30T12:36:00Z".parse().unwrap()
}

/// A request in parts that can be changed.
#[derive(Clone, Default)]
struct Parts {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Parts {
    /// From the text of an HTTP request; a line that begins with a blank goes on the header before.
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let mut lines = head.lines();
        let line = lines.next().unwrap();
        let (method, rest) = line.split_once(' ').unwrap();
        let (target, _) = rest.rsplit_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            match line.split_once(':') {
                Some((name, value)) if !line.starts_with(' ') => {
                    headers.push((name.to_ascii_lowercase(), value.to_owned()));
                }
                _ => headers.last_mut().unwrap().1.push_str(line),
            }
        }
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
            body: body.as_bytes().to_vec(),
        }
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.iter_mut().find(|(n, _)| n == name).unwrap().1 = value.to_owned();
    }

    fn get(&self, name: &str) -> &str {
        &self.headers.iter().find(|(n, _)| n == name).unwrap().1
    }

    fn add(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    fn judge(&self, now: Timestamp) -> Result<(), SignatureError> {
        let headers: Vec<(&str, &str)> = self.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let request = Request {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
            body: &self.body,
        };
        let signed = Signed::read(&request, now)?;
        // The id is under no signature: it says whose secret is looked up.
        if signed.access_key_id != "AKIDEXAMPLE" {
            return Err(SignatureError::Missing);
        }
        SigningKeys::default().verify(&signed, &request, &SecretVec::new(SECRET.to_vec()))
    }
}

fn suite() -> Vec<Case> {
    serde_json::from_str(SUITE).unwrap()
}

fn told(error: Result<(), SignatureError>) -> String {
    error.unwrap_err().to_string()
}

const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your \
                        AWS Secret Access Key and signing method. Consult the service documentation for details.";

#[test]
fn the_requests_of_aws_own_suite_verify() {
    let mut verified = 0;
    for case in suite() {
        let judged = Parts::read(&case.request).judge(suite_time());
        // Valid in the scheme, and refused here.
        if matches!(case.name.as_str(), "get-header-key-duplicate" | "get-header-value-order") {
            assert!(
                told(judged).contains("'my-header1' stands in the request more than once"),
                "{}",
                case.name
            );
            continue;
        }
        assert_eq!(judged, Ok(()), "{}: {}\n{}", case.name, case.request, case.canonical);
        assert!(case.request.contains(&case.signature), "{}", case.name);
        verified += 1;
    }
    assert!(verified >= 25, "{verified}");
}

/// AWS's documentation, "Create a signed AWS API request": the derived key of its example.
#[test]
fn the_signing_key_is_the_documented_one() {
    let key = SigningKey::derive(SECRET, "20120215", "us-east-1", "iam");
    assert_eq!(hex::encode(key.expose()), "f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d");
}

/// Signs with other libraries than the verifier's. `signed` in the order of the canonical request.
fn signed(mut parts: Parts, signed: &[&str], scope: &str, stamp: &str) -> Parts {
    use hmac::{KeyInit, Mac};
    use sha2::Digest;
    let hmac = |key: &[u8], text: &str| {
        let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let hash = |bytes: &[u8]| hex::encode(sha2::Sha256::digest(bytes));
    let headers: String = signed.iter().map(|name| format!("{name}:{}\n", parts.get(name))).collect();
    let names = signed.join(";");
    let canonical = format!(
        "{}\n{}\n{}\n{headers}\n{names}\n{}",
        parts.method,
        parts.path,
        parts.query,
        hash(&parts.body)
    );
    let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", hash(canonical.as_bytes()));
    let mut key = [b"AWS4", SECRET].concat();
    for part in scope.split('/') {
        key = hmac(&key, part);
    }
    let signature = hex::encode(hmac(&key, &to_sign));
    parts.add(
        "authorization",
        &format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={signature}"
        ),
    );
    parts
}

const SCOPE: &str = "20150830/us-east-1/kms/aws4_request";
const STAMP: &str = "20150830T123600Z";
const NAMES: [&str; 5] = ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"];

fn parts() -> Parts {
    let headers = [
        ("host", "127.0.0.1:9566"),
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-date", STAMP),
        ("x-amz-target", "TrentService.Encrypt"),
        ("x-amz-security-token", "AQoDYXdzEPT"),
    ];
    Parts {
        method: "POST".to_owned(),
        path: "/a/b".to_owned(),
        query: "x=1&y=2".to_owned(),
        headers: headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        body: b"{\"KeyId\": \"alias/one\"}".to_vec(),
    }
}

fn good() -> Parts {
    signed(parts(), &NAMES, SCOPE, STAMP)
}

#[test]
fn one_byte_changed_in_any_part_is_refused() {
    assert_eq!(good().judge(suite_time()), Ok(()));
    fn text(of: &mut String, at: usize) {
        let mut bytes = of.clone().into_bytes();
        bytes[at] ^= 1;
        *of = String::from_utf8(bytes).unwrap();
    }
    let mut tried = 0;
    let mut refused = |parts: Parts, what: &str, at: usize| {
        assert!(parts.judge(suite_time()).is_err(), "{what}, byte {at}: {parts:?}", parts = parts.headers);
        tried += 1;
    };
    let whole = good();
    for at in 0..whole.method.len() {
        let mut changed = whole.clone();
        text(&mut changed.method, at);
        refused(changed, "method", at);
    }
    for at in 0..whole.path.len() {
        let mut changed = whole.clone();
        text(&mut changed.path, at);
        refused(changed, "path", at);
    }
    for at in 0..whole.query.len() {
        let mut changed = whole.clone();
        text(&mut changed.query, at);
        refused(changed, "query", at);
    }
    for at in 0..whole.body.len() {
        let mut changed = whole.clone();
        changed.body[at] ^= 1;
        refused(changed, "body", at);
    }
    for header in 0..whole.headers.len() {
        for at in 0..whole.headers[header].1.len() {
            let mut changed = whole.clone();
            text(&mut changed.headers[header].1, at);
            refused(changed, &whole.headers[header].0, at);
        }
    }
    assert!(tried > 300, "{tried}");
}

#[test]
fn another_secret_is_refused() {
    let parts = good();
    let headers: Vec<_> = parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let Parts { method, path, query, body, .. } = &parts;
    let request = Request { method, path, query, headers: &headers, body };
    let signed = Signed::read(&request, suite_time()).unwrap();
    let keys = SigningKeys::default();
    let right = SecretVec::new(SECRET.to_vec());
    let mut wrong = SECRET.to_vec();
    wrong[39] ^= 1;
    let wrong = SecretVec::new(wrong);
    // What does not verify leaves nothing in memory: its scope is the sender's to choose.
    assert_eq!(told(keys.verify(&signed, &request, &wrong)), MISMATCH);
    assert_eq!(keys.len(), 0);
    assert_eq!(keys.verify(&signed, &request, &right), Ok(()));
    assert_eq!(keys.len(), 1);
    assert_eq!(keys.verify(&signed, &request, &right), Ok(()));
    // The same access key with another secret does not get the key that was kept.
    assert_eq!(told(keys.verify(&signed, &request, &wrong)), MISMATCH);
    assert_eq!(keys.verify(&signed, &request, &right), Ok(()));
    assert_eq!(keys.len(), 1);
}

#[test]
fn an_answer_repeats_little_of_what_a_stranger_sent() {
    let long = "x".repeat(60_000);
    for credential in [
        long.clone(),
        format!("a/{long}/us-east-1/service/aws4_request"),
        format!("a/20150830/us-east-1/service/{long}"),
    ] {
        let mut parts = good();
        let place = parts.headers.iter_mut().find(|(name, _)| name == "authorization").unwrap();
        place.1 = format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host;x-amz-date, Signature={}",
            "0".repeat(64)
        );
        let told = told(parts.judge(suite_time()));
        assert!(told.len() < 500, "{}", told.len());
    }
}

proptest! {
    #[test]
    fn whatever_stands_in_a_request_is_judged_without_a_panic(
        method in ".{0,8}", path in ".{0,40}", query in ".{0,40}",
        authorization in ".{0,80}",
        credential in "[a-zA-Z0-9/]{0,20}/20150830/.{0,9}/.{0,9}/aws4_request",
        names in "[a-z;-]{0,30}",
        date in prop_oneof!["[0-9]{8}T[0-9]{6}Z", ".{0,30}", Just("20150830T123600Z".to_owned())],
        more in proptest::collection::vec(("[a-z-]{1,12}", ".{0,20}"), 0..5),
        body in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let scoped = format!(
            "AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host;x-amz-date{names}, Signature={}",
            "0".repeat(64)
        );
        for authorization in [authorization, scoped] {
            for dated in ["x-amz-date", "date"] {
                let mut headers =
                    vec![("authorization", authorization.as_str()), ("host", "localhost"), (dated, date.as_str())];
                headers.extend(more.iter().map(|(name, value)| (name.as_str(), value.as_str())));
                let request = Request { method: &method, path: &path, query: &query, headers: &headers, body: &body };
                if let Ok(signed) = Signed::read(&request, suite_time()) {
                    let secret = SecretVec::new(SECRET.to_vec());
                    prop_assert!(SigningKeys::default().verify(&signed, &request, &secret).is_err());
                }
            }
        }
    }
}

#[test]
fn a_time_more_than_fifteen_minutes_away_is_refused() {
    let judged = |seconds: i64| good().judge(suite_time() + SignedDuration::from_secs(seconds));
    assert_eq!(judged(900), Ok(()));
    assert_eq!(judged(-900), Ok(()));
    assert_eq!(
        told(judged(901)),
        "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T125101Z - 15 min.)"
    );
    assert_eq!(
        told(judged(-901)),
        "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T122059Z + 15 min.)"
    );
}

#[test]
fn a_scope_that_does_not_fit_is_refused() {
    let judged = |scope: &str| told(signed(parts(), &NAMES, scope, STAMP).judge(suite_time()));
    assert!(judged("20150829/us-east-1/kms/aws4_request").starts_with(
        "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '20150829' != \
         '20150830', from '20150830T123600Z'."
    ));
    assert!(judged("20150830/us-east-1/kms/aws5_request").contains("valid terminator: 'aws4_request'"));
    assert!(judged("us-east-1/kms/aws4_request").contains("exactly 5 slash-delimited elements"));
    let parts = good();
    let headers: Vec<_> = parts.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let Parts { method, path, query, body, .. } = &parts;
    let request = Request { method, path, query, headers: &headers, body };
    let signed = Signed::read(&request, suite_time()).unwrap();
    assert_eq!(signed.must_be_for("kms"), Ok(()));
    assert!(told(signed.must_be_for("sts")).contains("scoped to correct service: 'sts'"));
    assert!(signed.wrong_region().to_string().contains("valid region, not 'us-east-1'"));
    assert_eq!((signed.access_key_id, signed.token), ("AKIDEXAMPLE", Some("AQoDYXdzEPT")));
}

#[test]
fn what_must_be_signed_is_signed() {
    for (left_out, said) in
        [("host", "'Host' or"), ("x-amz-date", "'X-Amz-Date'"), ("x-amz-target", "'X-Amz-Target'")]
    {
        let names: Vec<&str> = NAMES.into_iter().filter(|name| *name != left_out).collect();
        let error = told(signed(parts(), &names, SCOPE, STAMP).judge(suite_time()));
        assert!(
            error.starts_with(said) && error.ends_with("must be a 'SignedHeader' in the AWS Authorization."),
            "{error}"
        );
    }
    // Content-Type may go unsigned.
    assert_eq!(signed(parts(), &NAMES[1..], SCOPE, STAMP).judge(suite_time()), Ok(()));
}

#[test]
fn headers_that_count_stand_there_once() {
    let judged = |name: &str, value: &str| {
        let mut twice = good();
        twice.add(name, value);
        told(twice.judge(suite_time()))
    };
    for name in
        ["host", "x-amz-date", "x-amz-target", "x-amz-security-token", "content-type", "authorization"]
    {
        let error = judged(name, "x");
        assert_eq!(error, format!("The header '{name}' stands in the request more than once."));
    }
    let mut listed_twice = good();
    let authorization = listed_twice.get("authorization").replace("host;", "host;host;");
    listed_twice.set("authorization", &authorization);
    assert!(told(listed_twice.judge(suite_time())).contains("SignedHeaders"));
}

#[test]
fn other_forms_of_signing_are_refused_by_name() {
    let mut presigned = parts();
    presigned.query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00".to_owned();
    assert!(told(presigned.judge(suite_time())).contains("presigned"));
    assert_eq!(parts().judge(suite_time()), Err(SignatureError::Missing));
    for form in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "UNSIGNED-PAYLOAD"] {
        let mut chunked = good();
        chunked.add("x-amz-content-sha256", form);
        assert!(told(chunked.judge(suite_time())).contains(form));
    }
    let mut other = good();
    other.add("x-amz-content-sha256", &"0".repeat(64));
    assert!(told(other.judge(suite_time())).contains("does not match what was computed"));
    for (header, said) in [
        ("AWS4-ECDSA-P256-SHA256 Credential=x", "Unsupported AWS 'algorithm': 'AWS4-ECDSA-P256-SHA256'"),
        ("Basic eDp5", "Unsupported AWS 'algorithm': 'Basic'"),
        ("", "Unsupported AWS 'algorithm': ''"),
        (
            "AWS4-HMAC-SHA256",
            "requires 'Credential' parameter. Authorization header requires 'Signature' parameter.",
        ),
        ("AWS4-HMAC-SHA256 Credential=a, Credential=b", "'Credential' twice"),
        ("AWS4-HMAC-SHA256 Credential=\u{e9}/////, SignedHeaders=host, Signature=\u{e9}", "terminator"),
    ] {
        let mut request = parts();
        request.add("authorization", header);
        let error = told(request.judge(suite_time()));
        assert!(error.contains(said), "{header}: {error}");
    }
}

#[test]
fn a_date_header_serves_where_x_amz_date_is_absent() {
    let mut dated = parts();
    dated.headers.retain(|(name, _)| name != "x-amz-date");
    dated.add("date", "Sun, 30 Aug 2015 12:36:00 GMT");
    let names = ["content-type", "date", "host", "x-amz-security-token", "x-amz-target"];
    assert_eq!(signed(dated.clone(), &names, SCOPE, STAMP).judge(suite_time()), Ok(()));
    let unsigned = ["content-type", "host", "x-amz-security-token", "x-amz-target"];
    assert!(
        told(signed(dated.clone(), &unsigned, SCOPE, STAMP).judge(suite_time())).starts_with("'Date' must")
    );
    dated.set("date", "yesterday");
    assert!(told(signed(dated, &names, SCOPE, STAMP).judge(suite_time())).contains("Got 'yesterday'"));
}

proptest::proptest! {
    #[test]
    fn arbitrary_headers_never_panic(authorization in ".{0,120}", date in "[0-9TZ\u{e9}]{14,17}") {
        let mut request = parts();
        request.set("x-amz-date", &date);
        request.add("authorization", &format!("AWS4-HMAC-SHA256 Credential={authorization}"));
        proptest::prop_assert!(request.judge(suite_time()).is_err());
        request.set("authorization", &authorization);
        proptest::prop_assert!(request.judge(suite_time()).is_err());
    }
}
