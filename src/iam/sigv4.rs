//! AWS Signature Version 4 of requests, checked: pure functions, without the network and without a clock.
//!
//! A request is read first ([`Signed::read`]), which checks all that needs no secret; who has looked up the
//! access key's secret then compares the signature ([`Signed::verify`]). Stricter than the scheme where that costs
//! no client anything: headers that count stand there once, Host, the date and X-Amz-Target are signed, and the
//! body's hash is always computed.

use std::collections::HashMap;
use std::fmt::Write as _;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use parking_lot::RwLock;

use crate::crypto::mac::{equal, hmac_sha256, sha256};
use crate::crypto::secret::secret_newtype;
use crate::crypto::{Secret, SecretVec};

/// How far a request's time may be from ours, in either direction.
const SKEW: SignedDuration = SignedDuration::from_mins(15);
const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const TERMINATOR: &str = "aws4_request";
/// Headers that have a meaning here; none may stand there twice, signed or not.
const ONCE: [&str; 6] =
    ["authorization", "host", "x-amz-date", "x-amz-target", "x-amz-security-token", "x-amz-content-sha256"];

/// Why a request is not taken for its sender's. The text is AWS's where AWS has one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// MissingAuthenticationToken: it is not signed at all.
    #[error("Request is missing Authentication Token")]
    Missing,
    /// IncompleteSignature: what is there is no signature of this kind.
    #[error("{0}")]
    Incomplete(String),
    /// InvalidSignature (SignatureDoesNotMatch): what is there does not hold.
    #[error("{0}")]
    Invalid(String),
}

/// A request as it was received.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Such as POST.
    pub method: &'a str,
    /// As it was sent, percent signs included.
    pub path: &'a str,
    /// As it was sent, without the question mark.
    pub query: &'a str,
    /// In the order in which they came; names in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// The value of a header; of several the first.
    fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(n, _)| *n == name).map(|(_, value)| *value)
    }

    fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(n, _)| *n == name).count()
    }
}

/// What a request says of its signature. Only [`Self::verify`] makes it true.
#[derive(Debug)]
pub struct Signed<'a> {
    /// Whose secret must have signed.
    pub access_key_id: &'a str,
    /// Of the credential scope.
    pub region: &'a str,
    /// Of the credential scope.
    pub service: &'a str,
    /// X-Amz-Security-Token.
    pub token: Option<&'a str>,
    date: &'a str,
    stamp: String,
    scope: &'a str,
    header_names: &'a str,
    signature: [u8; 32],
    body_hash: [u8; 32],
}

impl<'a> Signed<'a> {
    /// Reads a request and checks what needs no secret, at the time `now`.
    ///
    /// # Errors
    /// See [`SignatureError`].
    pub fn read(request: &Request<'a>, now: Timestamp) -> Result<Self, SignatureError> {
        let Some(authorization) = request.header("authorization") else {
            return Err(unsigned(request.query));
        };
        for name in ONCE {
            if request.count(name) > 1 {
                return Err(twice(name));
            }
        }
        let parameters = Parameters::parse(authorization)?;
        let parts: Vec<&str> = parameters.credential.rsplitn(5, '/').collect();
        let [terminator, service, region, date, access_key_id] = parts[..] else {
            return Err(incomplete(format!(
                "Credential must have exactly 5 slash-delimited elements, e.g. \
                 keyid/date/region/service/term, got '{}'",
                shown(parameters.credential)
            )));
        };
        if terminator != TERMINATOR {
            return Err(invalid(format!(
                "Credential should be scoped with a valid terminator: '{TERMINATOR}', not '{}'.",
                shown(terminator)
            )));
        }
        let (time, stamp, dated) = time(request)?;
        check_headers(request, parameters.signed_headers, dated)?;
        if stamp.get(..8) != Some(date) {
            return Err(invalid(format!(
                "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: \
                 '{}' != '{}', from '{stamp}'.",
                shown(date),
                stamp.get(..8).unwrap_or_default()
            )));
        }
        check_skew(time, &stamp, now)?;
        let mut signature = [0; 32];
        // What is no 64 digits of hex is compared as the zeros it leaves.
        if hex::decode_to_slice(parameters.signature, &mut signature).is_err() {
            return Err(mismatch());
        }
        let body_hash = sha256(&[request.body]);
        check_body(request, &body_hash)?;
        let scope = &parameters.credential[access_key_id.len() + 1..];
        Ok(Self {
            access_key_id,
            region,
            service,
            token: request.header("x-amz-security-token"),
            date,
            stamp,
            scope,
            header_names: parameters.signed_headers,
            signature,
            body_hash,
        })
    }

    /// Is the scope's service this one?
    ///
    /// # Errors
    /// [`SignatureError::Invalid`].
    pub fn must_be_for(&self, service: &str) -> Result<(), SignatureError> {
        if self.service == service {
            return Ok(());
        }
        Err(invalid(format!("Credential should be scoped to correct service: '{service}'. ")))
    }

    /// The error of a scope whose region is none.
    pub fn wrong_region(&self) -> SignatureError {
        invalid(format!("Credential should be scoped to a valid region, not '{}'. ", shown(self.region)))
    }

    /// Compares the signature, in constant time.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`], which does not say what differs.
    pub fn verify(&self, request: &Request<'_>, key: &SigningKey) -> Result<(), SignatureError> {
        let signature = hmac_sha256(key.expose(), &[self.string_to_sign(request).as_bytes()]);
        if equal(&signature, &self.signature) { Ok(()) } else { Err(mismatch()) }
    }

    fn string_to_sign(&self, request: &Request<'_>) -> String {
        let canonical = canonical_request(request, self.header_names, &self.body_hash);
        let hash = digits(&sha256(&[canonical.as_bytes()]));
        format!("{ALGORITHM}\n{}\n{}\n{hash}", self.stamp, self.scope)
    }
}

/// The parameters of an Authorization header.
struct Parameters<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl<'a> Parameters<'a> {
    fn parse(header: &'a str) -> Result<Self, SignatureError> {
        let (algorithm, rest) = header.split_once(' ').unwrap_or((header, ""));
        if algorithm != ALGORITHM {
            return Err(incomplete(format!("Unsupported AWS 'algorithm': '{}'.", shown(algorithm))));
        }
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for parameter in rest.split(',') {
            let (name, value) = parameter.trim().split_once('=').unwrap_or((parameter, ""));
            let place = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(incomplete(format!("Authorization header has '{name}' twice.")));
            }
        }
        let mut missing = String::new();
        for (name, value) in
            [("Credential", credential), ("Signature", signature), ("SignedHeaders", signed_headers)]
        {
            if value.is_none_or(str::is_empty) {
                // Writing to a String cannot fail.
                let _ = write!(missing, "Authorization header requires '{name}' parameter. ");
            }
        }
        match (credential, signed_headers, signature) {
            (Some(credential), Some(signed_headers), Some(signature)) if missing.is_empty() => {
                Ok(Self { credential, signed_headers, signature })
            }
            _ => Err(incomplete(missing.trim_end().to_owned())),
        }
    }
}

/// A request without an Authorization header.
fn unsigned(query: &str) -> SignatureError {
    if query
        .split('&')
        .any(|pair| pair.starts_with("X-Amz-Signature=") || pair.starts_with("X-Amz-Algorithm="))
    {
        return incomplete(
            "Requests that are signed in the query string (presigned) are not taken; sign with an \
             Authorization header."
                .to_owned(),
        );
    }
    SignatureError::Missing
}

/// The request's time, as it was written in the basic form of ISO 8601, and the header that said it.
fn time(request: &Request<'_>) -> Result<(Timestamp, String, &'static str), SignatureError> {
    let (text, header) = match (request.header("x-amz-date"), request.header("date")) {
        (Some(text), _) => (text, "x-amz-date"),
        (None, Some(text)) => (text, "date"),
        (None, None) => {
            return Err(incomplete(
                "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
                    .to_owned(),
            ));
        }
    };
    let time = basic(text).or_else(|| {
        let dated = (header == "date").then(|| jiff::fmt::rfc2822::parse(text).ok());
        dated.flatten().map(|zoned| zoned.timestamp())
    });
    let Some(time) = time else {
        return Err(incomplete(format!(
            "Date must be in ISO-8601 'basic format'. Got '{}'. See http://en.wikipedia.org/wiki/ISO_8601",
            shown(text)
        )));
    };
    Ok((time, stamp(time), header))
}

/// 20150830T123600Z.
fn basic(text: &str) -> Option<Timestamp> {
    let digits = text.bytes().enumerate().all(|(at, b)| match at {
        8 => b == b'T',
        15 => b == b'Z',
        _ => b.is_ascii_digit(),
    });
    if !digits || text.len() != 16 {
        return None;
    }
    let part = |from: usize, to: usize| text[from..to].parse::<i8>().ok();
    let year = text[..4].parse().ok()?;
    let time =
        DateTime::new(year, part(4, 6)?, part(6, 8)?, part(9, 11)?, part(11, 13)?, part(13, 15)?, 0).ok()?;
    TimeZone::UTC.to_timestamp(time).ok()
}

fn stamp(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

fn check_skew(time: Timestamp, stamped: &str, now: Timestamp) -> Result<(), SignatureError> {
    // Where the calendar ends nothing is signed any more.
    let (Ok(earliest), Ok(latest)) = (now.checked_sub(SKEW), now.checked_add(SKEW)) else {
        return Err(mismatch());
    };
    let (now, minutes) = (stamp(now), SKEW.as_mins());
    if time < earliest {
        let limit = stamp(earliest);
        return Err(invalid(format!(
            "Signature expired: {stamped} is now earlier than {limit} ({now} - {minutes} min.)"
        )));
    }
    if time > latest {
        let limit = stamp(latest);
        return Err(invalid(format!(
            "Signature not yet current: {stamped} is still later than {limit} ({now} + {minutes} min.)"
        )));
    }
    Ok(())
}

/// Each header that is signed is there, once; those that must be signed are.
fn check_headers(request: &Request<'_>, signed: &str, dated: &'static str) -> Result<(), SignatureError> {
    let mut seen: Vec<&str> = Vec::new();
    for name in signed.split(';') {
        if name.bytes().any(|b| b.is_ascii_uppercase()) || seen.contains(&name) {
            return Err(incomplete(format!(
                "'{}' is no name that SignedHeaders can have here.",
                shown(name)
            )));
        }
        match request.count(name) {
            0 => return Err(mismatch()),
            1 => seen.push(name),
            _ => return Err(twice(name)),
        }
    }
    let must = |name: &str, said: &str| {
        if seen.contains(&name) || request.header(name).is_none() && name != "host" {
            return Ok(());
        }
        Err(invalid(format!("{said} must be a 'SignedHeader' in the AWS Authorization.")))
    };
    must("host", "'Host' or ':authority'")?;
    must(dated, if dated == "date" { "'Date'" } else { "'X-Amz-Date'" })?;
    must("x-amz-target", "'X-Amz-Target'")
}

fn check_body(request: &Request<'_>, hash: &[u8; 32]) -> Result<(), SignatureError> {
    let Some(said) = request.header("x-amz-content-sha256") else { return Ok(()) };
    if said.starts_with("STREAMING-") || said == "UNSIGNED-PAYLOAD" {
        return Err(incomplete(format!(
            "Requests whose body is signed in chunks or not at all ('{}') are not taken; sign the whole body.",
            shown(said)
        )));
    }
    if said.eq_ignore_ascii_case(&hex::encode(hash)) {
        return Ok(());
    }
    Err(invalid("The provided 'x-amz-content-sha256' header does not match what was computed.".to_owned()))
}

/// What is hashed and signed.
fn canonical_request(request: &Request<'_>, signed: &str, body_hash: &[u8; 32]) -> String {
    let mut out = String::with_capacity(512);
    out.push_str(request.method);
    out.push('\n');
    canonical_path(request.path, &mut out);
    out.push('\n');
    canonical_query(request.query, &mut out);
    out.push('\n');
    for name in signed.split(';') {
        out.push_str(name);
        out.push(':');
        let mut words = request.header(name).unwrap_or_default().split_ascii_whitespace();
        out.push_str(words.next().unwrap_or_default());
        for word in words {
            out.push(' ');
            out.push_str(word);
        }
        out.push('\n');
    }
    out.push('\n');
    out.push_str(signed);
    out.push('\n');
    out.push_str(&digits(body_hash));
    out
}

/// In hex; `hex::encode` goes character by character, which costs as much as the hash.
fn digits(hash: &[u8; 32]) -> String {
    let mut out = vec![0; 2 * hash.len()];
    // Fails for a buffer of another length only.
    let _ = hex::encode_to_slice(hash, &mut out);
    String::from_utf8(out).unwrap_or_default()
}

/// RFC 3986 section 5.2.4 and without empty segments; then each byte encoded once more.
fn canonical_path(path: &str, out: &mut String) {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    for segment in &segments {
        out.push('/');
        encode(segment.as_bytes(), out);
    }
    let open = path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    if segments.is_empty() || open {
        out.push('/');
    }
}

fn canonical_query(query: &str, out: &mut String) {
    let mut pairs: Vec<(String, String)> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (recode(name), recode(value))
        })
        .collect();
    pairs.sort();
    for (at, (name, value)) in pairs.iter().enumerate() {
        if at > 0 {
            out.push('&');
        }
        out.push_str(name);
        out.push('=');
        out.push_str(value);
    }
}

/// Decodes what is encoded and encodes what must be.
fn recode(text: &str) -> String {
    let (bytes, mut decoded, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let mut byte = [0];
        let coded = bytes[at] == b'%'
            && bytes.get(at + 1..at + 3).is_some_and(|two| hex::decode_to_slice(two, &mut byte).is_ok());
        decoded.push(if coded { byte[0] } else { bytes[at] });
        at += if coded { 3 } else { 1 };
    }
    let mut out = String::with_capacity(text.len());
    encode(&decoded, &mut out);
    out
}

/// Percent-encodes all but the unreserved characters of RFC 3986 section 2.3.
fn encode(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

secret_newtype! {
    /// What signs requests of one access key, day, region and service.
    SigningKey, 32
}

impl SigningKey {
    /// The chain of HMAC-SHA-256 from the secret access key.
    pub fn derive(secret: &[u8], date: &str, region: &str, service: &str) -> Self {
        let first = zeroize::Zeroizing::new([b"AWS4", secret].concat());
        let mut key = Secret::new(hmac_sha256(&first, &[date.as_bytes()]));
        for part in [region, service, TERMINATOR] {
            key = Secret::new(hmac_sha256(key.expose(), &[part.as_bytes()]));
        }
        Self(key)
    }
}

/// Signing keys that were derived, so that a busy client costs one HMAC for each request and not five.
#[derive(Default)]
pub struct SigningKeys(RwLock<HashMap<String, (SecretVec, SigningKey)>>);

impl SigningKeys {
    /// As many as are kept; then all are forgotten. Only those come in that a request was verified with: who holds no
    /// secret fills no memory.
    const MOST: usize = 10_000;

    /// [`Signed::verify`] with the key that follows from this secret.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`].
    pub fn verify(
        &self,
        signed: &Signed<'_>,
        request: &Request<'_>,
        secret: &SecretVec,
    ) -> Result<(), SignatureError> {
        let name = format!("{}/{}", signed.access_key_id, signed.scope);
        let kept = {
            let kept = self.0.read();
            let same = kept.get(&name).filter(|(of, _)| equal(of.expose(), secret.expose()));
            same.map(|(_, key)| key.clone())
        };
        if let Some(key) = kept {
            return signed.verify(request, &key);
        }
        let key = SigningKey::derive(secret.expose(), signed.date, signed.region, signed.service);
        signed.verify(request, &key)?;
        let mut all = self.0.write();
        if all.len() >= Self::MOST {
            all.clear();
        }
        all.insert(name, (secret.clone(), key));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.read().len()
    }
}

fn mismatch() -> SignatureError {
    invalid(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret \
         Access Key and signing method. Consult the service documentation for details."
            .to_owned(),
    )
}

fn twice(name: &str) -> SignatureError {
    invalid(format!("The header '{}' stands in the request more than once.", shown(name)))
}

fn invalid(text: String) -> SignatureError {
    SignatureError::Invalid(text)
}

fn incomplete(text: String) -> SignatureError {
    SignatureError::Incomplete(text)
}

/// As much of what a stranger sent as an answer repeats.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
