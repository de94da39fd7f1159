//! CloudTrail's digest: what names the log files of an hour, and the digest before it, and is signed.
//!
//! Shape and signature are those of CloudTrail's guide ("CloudTrail digest file structure"), so that its
//! validators take them. One field is our own, `kmsfsHead`: the end of the chain that the digest reaches.

use jiff::Timestamp;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::chain::ChainHead;
use crate::crypto::asymmetric::{MessageType, PairSpec, PrivateKey, Sha2, SigningAlgorithm};
use crate::crypto::{CryptoError, mac};

/// The spec of the keys that sign digests.
pub const DIGEST_KEY_SPEC: PairSpec = PairSpec::Rsa2048;
/// CloudTrail's name of the signature.
const SIGNATURE_ALGORITHM: &str = "SHA256withRSA";
/// CloudTrail's name of the hash.
const HASH_ALGORITHM: &str = "SHA-256";
/// Bytes of a fingerprint.
const FINGERPRINT: usize = 16;

/// A time to the second, as digests and names of files have it: seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Second(pub i64);

impl Second {
    /// Seconds of an hour.
    pub const HOUR: i64 = 3600;

    /// The second that a time is in.
    pub fn of(time: Timestamp) -> Self {
        Self(time.as_second())
    }

    /// Its beginning.
    pub fn time(self) -> Timestamp {
        // Only seconds of times are made.
        Timestamp::from_second(self.0).unwrap_or_default()
    }

    /// The beginning of its hour.
    pub fn hour(self) -> Self {
        Self(self.0.div_euclid(Self::HOUR) * Self::HOUR)
    }

    /// The beginning of the hour behind its own.
    pub fn next_hour(self) -> Self {
        Self(self.hour().0.saturating_add(Self::HOUR))
    }

    /// 2026/11/24: the folder of its day.
    pub fn day(self) -> String {
        self.to_string().chars().take(10).map(|c| if c == '-' { '/' } else { c }).collect()
    }

    /// 20261124T120000Z.
    pub fn compact(self) -> String {
        self.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect()
    }

    /// 20261124T1200Z.
    pub fn minute(self) -> String {
        let mut name: String = self.compact().chars().take(13).collect();
        name.push('Z');
        name
    }
}

impl std::fmt::Display for Second {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.time().fmt(f)
    }
}

impl Serialize for Second {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let time = Timestamp::from_second(self.0).map_err(S::Error::custom)?;
        to.collect_str(&time)
    }
}

impl<'de> Deserialize<'de> for Second {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self::of).map_err(D::Error::custom)
    }
}

/// A log file as its digest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedLogFile {
    /// The bucket.
    pub s3_bucket: String,
    /// The path below the exported directory.
    pub s3_object: String,
    /// SHA-256 of the file's content before compression, hex.
    pub hash_value: String,
    /// SHA-256.
    pub hash_algorithm: String,
    /// Of its newest event.
    pub newest_event_time: Second,
    /// Of its oldest event.
    pub oldest_event_time: Second,
}

impl NamedLogFile {
    /// A file of that content.
    pub fn new(bucket: &str, object: String, hash: &[u8; 32], oldest: Second, newest: Second) -> Self {
        Self {
            s3_bucket: bucket.to_owned(),
            s3_object: object,
            hash_value: hex::encode(hash),
            hash_algorithm: HASH_ALGORITHM.to_owned(),
            newest_event_time: newest,
            oldest_event_time: oldest,
        }
    }
}

/// The digest before a digest.
#[derive(Debug, Clone)]
pub struct Previous {
    /// Its path below the exported directory.
    pub object: String,
    /// SHA-256 of its content before compression, hex.
    pub hash: String,
    /// Its signature, hex.
    pub signature: String,
}

/// A digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Digest {
    /// Whose log it is.
    pub aws_account_id: String,
    /// Where it begins: where the one before ended.
    pub digest_start_time: Second,
    /// Where it ends.
    pub digest_end_time: Second,
    /// The bucket it is for.
    pub digest_s3_bucket: String,
    /// Its path below the exported directory.
    pub digest_s3_object: String,
    /// Names the key that signed it.
    pub digest_public_key_fingerprint: String,
    /// SHA256withRSA.
    pub digest_signature_algorithm: String,
    /// Of the newest event in its files.
    pub newest_event_time: Option<Second>,
    /// Of the oldest event in its files.
    pub oldest_event_time: Option<Second>,
    /// The bucket of the digest before it; null in the first, as the five below.
    pub previous_digest_s3_bucket: Option<String>,
    /// Its path.
    pub previous_digest_s3_object: Option<String>,
    /// Its hash.
    pub previous_digest_hash_value: Option<String>,
    /// SHA-256.
    pub previous_digest_hash_algorithm: Option<String>,
    /// Its signature.
    pub previous_digest_signature: Option<String>,
    /// SHA256withRSA.
    pub previous_digest_signature_algorithm: Option<String>,
    /// The files, in the order of their events.
    pub log_files: Vec<NamedLogFile>,
    /// Not CloudTrail's: the head of the chain (`number:hash`) that this digest reaches.
    pub kmsfs_head: String,
}

impl Digest {
    /// A digest of one stretch of an account's log.
    pub fn new(
        account: &str,
        (start, end): (Second, Second),
        (bucket, object): (&str, String),
        previous: Option<&Previous>,
        log_files: Vec<NamedLogFile>,
        head: &ChainHead,
        key: &DigestKey,
    ) -> Self {
        Self {
            aws_account_id: account.to_owned(),
            digest_start_time: start,
            digest_end_time: end,
            digest_s3_bucket: bucket.to_owned(),
            digest_s3_object: object,
            digest_public_key_fingerprint: key.fingerprint.clone(),
            digest_signature_algorithm: SIGNATURE_ALGORITHM.to_owned(),
            newest_event_time: log_files.iter().map(|f| f.newest_event_time).max(),
            oldest_event_time: log_files.iter().map(|f| f.oldest_event_time).min(),
            previous_digest_s3_bucket: previous.map(|_| bucket.to_owned()),
            previous_digest_s3_object: previous.map(|p| p.object.clone()),
            previous_digest_hash_value: previous.map(|p| p.hash.clone()),
            previous_digest_hash_algorithm: previous.map(|_| HASH_ALGORITHM.to_owned()),
            previous_digest_signature: previous.map(|p| p.signature.clone()),
            previous_digest_signature_algorithm: previous.map(|_| SIGNATURE_ALGORITHM.to_owned()),
            log_files,
            kmsfs_head: head.to_string(),
        }
    }

    /// What is signed: end time, place, hash of the content as it is written, signature before it.
    fn to_sign(&self, content: &[u8]) -> String {
        format!(
            "{}\n{}/{}\n{}\n{}",
            self.digest_end_time,
            self.digest_s3_bucket,
            self.digest_s3_object,
            hex::encode(mac::sha256(&[content])),
            self.previous_digest_signature.as_deref().unwrap_or("null")
        )
    }
}

/// What stands beside a digest: the metadata that it has as an object of S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signature {
    /// Hex.
    pub signature: String,
    /// SHA256withRSA.
    pub signature_algorithm: String,
}

/// A key that signs digests, RSA of 2048 bits.
pub struct DigestKey {
    private: PrivateKey,
    public: Vec<u8>,
    fingerprint: String,
}

impl DigestKey {
    /// Takes an RSA key.
    ///
    /// # Errors
    /// [`CryptoError::Rejected`] if the key is another.
    pub fn new(private: PrivateKey) -> Result<Self, CryptoError> {
        let public = private.public_pkcs1().ok_or(CryptoError::Rejected { what: "digest key" })?;
        let fingerprint = hex::encode(&mac::sha256(&[&public])[..FINGERPRINT]);
        Ok(Self { private, public, fingerprint })
    }

    /// The public half: PKCS#1 (RFC 8017, RSAPublicKey), DER.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Its name: the first 16 bytes of the public half's SHA-256, hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Signs a digest; `content` is its JSON.
    pub fn sign(&self, digest: &Digest, content: &[u8]) -> Result<Signature, CryptoError> {
        let text = digest.to_sign(content);
        let signed =
            self.private.sign(SigningAlgorithm::RsaPkcs1(Sha2::Sha256), MessageType::Raw, text.as_bytes())?;
        Ok(Signature { signature: hex::encode(signed), signature_algorithm: SIGNATURE_ALGORITHM.to_owned() })
    }

    /// Checks the signature of a digest that was read from `content`.
    pub fn verify(&self, digest: &Digest, content: &[u8], signature: &Signature) -> Result<(), CryptoError> {
        let bytes = hex::decode(&signature.signature).map_err(|_| CryptoError::NotAuthentic)?;
        let text = digest.to_sign(content);
        let algorithm = SigningAlgorithm::RsaPkcs1(Sha2::Sha256);
        self.private.public_key()?.verify(algorithm, MessageType::Raw, text.as_bytes(), &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_named_as_cloudtrail_names_them() {
        let time = Second::of("2026-11-24T09:05:07.9Z".parse().unwrap());
        assert_eq!(time.to_string(), "2026-11-24T09:05:07Z");
        assert_eq!(time.day(), "2026/11/24");
        assert_eq!(time.compact(), "20261124T090507Z");
        assert_eq!(time.minute(), "20261124T0905Z");
        assert_eq!(time.hour().to_string(), "2026-11-24T09:00:00Z");
        assert_eq!(time.next_hour().to_string(), "2026-11-24T10:00:00Z");
        assert_eq!(serde_json::from_str::<Second>("\"2026-11-24T09:05:07Z\"").unwrap(), time);
    }

    #[test]
    fn a_digest_has_the_fields_that_cloudtrail_gives_it() {
        let key = DigestKey::new(PrivateKey::generate(DIGEST_KEY_SPEC).unwrap()).unwrap();
        assert_eq!(key.fingerprint().len(), 32);
        let file = NamedLogFile::new("b", "o".to_owned(), &[7; 32], Second(60), Second(90));
        let make = |previous: Option<&Previous>, files| {
            Digest::new(
                "000000000000",
                (Second(0), Second(3600)),
                ("b", "d".to_owned()),
                previous,
                files,
                &ChainHead::EMPTY,
                &key,
            )
        };
        let first = make(None, Vec::new());
        let text = serde_json::to_value(&first).unwrap();
        // The fields of CloudTrail's guide.
        for field in [
            "newestEventTime",
            "oldestEventTime",
            "previousDigestS3Bucket",
            "previousDigestS3Object",
            "previousDigestHashValue",
            "previousDigestHashAlgorithm",
            "previousDigestSignature",
            "previousDigestSignatureAlgorithm",
        ] {
            assert_eq!(text.get(field), Some(&serde_json::Value::Null), "{field}");
        }
        assert_eq!(text["digestEndTime"], "1970-01-01T01:00:00Z");
        let content = serde_json::to_vec(&first).unwrap();
        assert_eq!(
            first.to_sign(&content),
            format!("1970-01-01T01:00:00Z\nb/d\n{}\nnull", hex::encode(mac::sha256(&[&content])))
        );
        let signature = key.sign(&first, &content).unwrap();
        assert!(key.verify(&first, &content, &signature).is_ok());
        assert!(key.verify(&first, b"{}", &signature).is_err());
        let previous = Previous {
            object: "d".to_owned(),
            hash: "00".to_owned(),
            signature: signature.signature.clone(),
        };
        let second = make(Some(&previous), vec![file]);
        let text = serde_json::to_value(&second).unwrap();
        assert_eq!(text["newestEventTime"], "1970-01-01T00:01:30Z");
        assert_eq!(text["previousDigestS3Bucket"], "b");
        assert_eq!(text["logFiles"][0]["s3Object"], "o");
        assert_eq!(text["logFiles"][0]["hashValue"], "07".repeat(32));
        assert!(second.to_sign(&content).ends_with(&format!("\n{}", signature.signature)));
        let other = DigestKey::new(PrivateKey::generate(DIGEST_KEY_SPEC).unwrap()).unwrap();
        assert!(other.verify(&first, &content, &signature).is_err());
    }
}
