//! What somebody of another account needs to open a snapshot, and no more: Decrypt, of what belongs to this volume.

use serde_json::{Value, json};

use super::descriptor::Descriptor;
use super::error::{Result, SnapshotError};

/// The context key by which a volume's wrapped keys are known; its value is the volume's id in hex.
pub const VOLUME_CONTEXT: &str = "kmsfs:volume";
/// The one operation: whoever copies, restores or mounts opens the volume key and the files' data keys, and needs nothing
/// else of the old KMS key.
pub const OPERATION: &str = "Decrypt";

/// What is needed of the KMS keys of a snapshot.
pub struct Sharing {
    /// ARNs of the KMS keys that open the volume key and the files: of each, the first that a header names.
    pub key_arns: Vec<String>,
    /// Hex.
    pub volume_id: String,
    sid: String,
}

impl Sharing {
    /// Of a snapshot, with the account `account`.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if that is the snapshot's own.
    pub fn new(snapshot: &Descriptor, account: &str) -> Result<Self> {
        if snapshot.account == account {
            return Err(SnapshotError::Refused(format!(
                "snapshot {:?} is of account {account} itself; name another one with --account",
                snapshot.name
            )));
        }
        let volume_key = snapshot.volume_keys.first().map(|key| key.key_arn.clone());
        let files =
            snapshot.keys.iter().filter(|of| of.files > 0).filter_map(|of| of.key_arns.first().cloned());
        let mut key_arns: Vec<_> = volume_key.into_iter().chain(files).collect();
        key_arns.sort();
        key_arns.dedup();
        // Anybody who can write to the volume's directory can have written a name into a header; these become parts of commands.
        let plain = |arn: &String| arn.bytes().all(|b| b.is_ascii_alphanumeric() || b":/_-".contains(&b));
        if let Some(bad) = key_arns.iter().find(|arn| !plain(arn)) {
            return Err(SnapshotError::damaged(format!(
                "the snapshot names the KMS key {bad:?}, which is no key's ARN: it was put into a file's header or snapshot.json"
            )));
        }
        let volume_id = snapshot.volume_id.to_string();
        // One statement for a volume and an account: all its snapshots are under the same context.
        let sid = format!("KmsfsVolume{}For{account}", &volume_id[..16]);
        Ok(Self { key_arns, volume_id, sid })
    }

    /// The context that binds it to the volume.
    fn condition(&self) -> Value {
        json!({ "StringEquals": { format!("kms:EncryptionContext:{VOLUME_CONTEXT}"): self.volume_id } })
    }

    /// The statement for a key's policy, which lets `principal` (an account's or a role's ARN) in.
    pub fn key_statement(&self, principal: &str) -> Value {
        json!({
            "Sid": self.sid,
            "Effect": "Allow",
            "Principal": { "AWS": principal },
            "Action": format!("kms:{OPERATION}"),
            "Resource": "*",
            "Condition": self.condition(),
        })
    }

    /// The policy for the identity in the other account, which its own account must attach.
    pub fn identity_policy(&self) -> Value {
        json!({
            "Version": "2012-10-17",
            "Statement": [{
                "Sid": self.sid,
                "Effect": "Allow",
                "Action": format!("kms:{OPERATION}"),
                "Resource": self.key_arns,
                "Condition": self.condition(),
            }],
        })
    }

    /// `policy` with the statement in it; one of the same volume and account is replaced. None if it is there as it is.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if it is no policy.
    pub fn add_to(&self, policy: &str, principal: &str) -> Result<Option<String>> {
        let no_policy =
            |why: String| SnapshotError::Refused(format!("the key's policy cannot be added to: {why}"));
        let mut policy: Value = serde_json::from_str(policy).map_err(|e| no_policy(e.to_string()))?;
        let statement = self.key_statement(principal);
        let Some(statements) = policy.get_mut("Statement") else {
            return Err(no_policy("it has no statements".to_owned()));
        };
        // A policy of one statement may have it without a list.
        if statements.is_object() {
            *statements = Value::Array(vec![statements.take()]);
        }
        let Some(statements) = statements.as_array_mut() else {
            return Err(no_policy("its statements are no list".to_owned()));
        };
        if statements.contains(&statement) {
            return Ok(None);
        }
        statements.retain(|there| there.get("Sid") != statement.get("Sid"));
        statements.push(statement);
        serde_json::to_string(&policy).map(Some).map_err(|e| no_policy(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::descriptor::{Counts, Id, KeyUse, SNAPSHOT_FORMAT, SealedKey};

    fn snapshot() -> Descriptor {
        let key = |n: u8| format!("arn:aws:kms:us-east-1:111111111111:key/{n}");
        Descriptor {
            format: SNAPSHOT_FORMAT,
            features: Vec::new(),
            snapshot_id: Id([1; 16]),
            name: "s".into(),
            volume_id: Id([2; 16]),
            region: "us-east-1".into(),
            account: "111111111111".into(),
            created: 0,
            epoch: String::new(),
            parent: None,
            copied_from: None,
            manifest: Id([4; 16]),
            packs: Vec::new(),
            counts: Counts::default(),
            keys: vec![
                KeyUse { key_arns: vec![key(1)], files: 1 },
                KeyUse { key_arns: vec![key(2), key(3)], files: 1 },
                KeyUse { key_arns: vec![key(4)], files: 0 },
            ],
            recipients: Vec::new(),
            volume_keys: vec![SealedKey { key_arn: key(1), ciphertext: String::new() }],
            mac: String::new(),
        }
    }

    #[test]
    fn a_statement_is_added_once_and_replaces_its_like() {
        let sharing = Sharing::new(&snapshot(), "222222222222").unwrap();
        assert_eq!(sharing.key_arns.len(), 2);
        let root = "arn:aws:iam::222222222222:root";
        let own = r#"{"Version":"2012-10-17","Statement":{"Sid":"own","Effect":"Allow"}}"#;
        let first = sharing.add_to(own, root).unwrap().unwrap();
        assert_eq!(sharing.add_to(&first, root).unwrap(), None);
        let role = "arn:aws:iam::222222222222:role/r";
        let second: Value = serde_json::from_str(&sharing.add_to(&first, role).unwrap().unwrap()).unwrap();
        let statements = second["Statement"].as_array().unwrap();
        assert_eq!((statements.len(), &statements[0]["Sid"]), (2, &json!("own")));
        assert_eq!(statements[1]["Principal"]["AWS"], role);
        assert!(sharing.add_to("{}", root).is_err());
        for bad in ["arn:aws:kms:us-east-1:111111111111:key/$(id)", "a;b", "a'b", "a b"] {
            let key = KeyUse { key_arns: vec![bad.to_owned()], files: 1 };
            let snapshot = Descriptor { keys: vec![key], ..snapshot() };
            assert!(
                matches!(Sharing::new(&snapshot, "222222222222"), Err(SnapshotError::Damaged(_))),
                "{bad}"
            );
        }
        assert!(matches!(Sharing::new(&snapshot(), "111111111111"), Err(SnapshotError::Refused(_))));
    }
}
