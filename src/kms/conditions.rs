//! The condition keys that a request's parameters and its keys' rows give to policies. A parameter that was left out says its default.

use super::cache::Key;
use super::call::{Call, Name, Result, Subject, Tx};
use super::events::Parameters;
use super::region::Fault;
use super::rows;
use super::wire::GrantConstraints;
use crate::iam::Context;

/// Says those of one action. ReEncrypt has two actions, each with its own half of the parameters.
pub fn say(parameters: &Parameters<'_>, action: &str, context: &mut Context) {
    let p = parameters;
    let (pairs, algorithm) = match action {
        "kms:ReEncryptFrom" => (p.source_encryption_context, p.source_encryption_algorithm),
        "kms:ReEncryptTo" => (p.destination_encryption_context, p.destination_encryption_algorithm),
        _ => (p.encryption_context, p.encryption_algorithm),
    };
    if let Some(pairs) = pairs {
        say_pairs(pairs.iter(), context);
    }
    let mut set = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            context.set(key, value);
        }
    };
    set("kms:EncryptionAlgorithm", algorithm);
    set("kms:SigningAlgorithm", p.signing_algorithm);
    set("kms:MacAlgorithm", p.mac_algorithm);
    set("kms:KeyAgreementAlgorithm", p.key_agreement_algorithm);
    set("kms:DataKeyPairSpec", p.key_pair_spec);
    match action {
        "kms:Sign" | "kms:Verify" => set("kms:MessageType", Some(p.message_type.unwrap_or("RAW"))),
        "kms:CreateKey" => {
            set("kms:KeySpec", p.key_spec);
            set("kms:KeyUsage", p.key_usage);
            set("kms:KeyOrigin", p.origin);
            // The older names.
            set("kms:CustomerMasterKeySpec", p.key_spec);
            set("kms:CustomerMasterKeyUsage", p.key_usage);
            if let Some(multi_region) = p.multi_region {
                context.set("kms:MultiRegion", multi_region.to_string());
            }
        }
        "kms:ScheduleKeyDeletion" => {
            let days = p.pending_window_in_days.unwrap_or(30);
            context.set("kms:ScheduleKeyDeletionPendingWindowInDays", days.to_string());
        }
        "kms:EnableKeyRotation" => {
            let days = p.rotation_period_in_days.unwrap_or(365);
            context.set("kms:RotationPeriodInDays", days.to_string());
        }
        "kms:ImportKeyMaterial" => {
            set("kms:ExpirationModel", Some(p.expiration_model.unwrap_or("KEY_MATERIAL_EXPIRES")));
        }
        "kms:CreateGrant" => say_grant(p, context),
        _ => {}
    }
    if let Some(tags) = p.tags {
        context.set_all("aws:TagKeys", tags.iter().map(|tag| tag.tag_key.as_str()));
        for tag in tags {
            context.set(&format!("aws:RequestTag/{}", tag.tag_key), tag.tag_value.as_str());
        }
    }
    if let Some(names) = p.tag_keys {
        context.set_all("aws:TagKeys", names.iter().map(String::as_str));
    }
    for (key, value) in [
        ("kms:WrappingAlgorithm", p.wrapping_algorithm),
        ("kms:WrappingKeySpec", p.wrapping_key_spec),
        ("kms:ReplicaRegion", p.replica_region),
        ("kms:PrimaryRegion", p.primary_region),
    ] {
        if let Some(value) = value {
            context.set(key, value);
        }
    }
    if let Some(valid_to) = &p.valid_to {
        context.set("kms:ValidTo", valid_to.as_str());
    }
    if p.bypass_policy_lockout_safety_check.is_some() {
        context.set("kms:BypassPolicyLockoutSafetyCheck", "true");
    }
}

fn say_pairs<'a>(pairs: impl Iterator<Item = (&'a String, &'a String)> + Clone, context: &mut Context) {
    context.set_all("kms:EncryptionContextKeys", pairs.clone().map(|(key, _)| key.as_str()));
    for (key, value) in pairs {
        context.set(&format!("kms:EncryptionContext:{key}"), value.as_str());
    }
}

fn say_grant(p: &Parameters<'_>, context: &mut Context) {
    for (key, value) in [
        ("kms:GranteePrincipal", p.grantee_principal),
        ("kms:GranteeServicePrincipal", p.grantee_service_principal),
        ("kms:RetiringPrincipal", p.retiring_principal),
        ("kms:RetiringServicePrincipal", p.retiring_service_principal),
    ] {
        if let Some(value) = value {
            context.set(key, value);
        }
    }
    if let Some(operations) = p.operations {
        context.set_all("kms:GrantOperations", operations.iter().map(String::as_str));
    }
    if let Some(constraints) = p.constraints {
        say_constraints(constraints, context);
    }
}

/// Says the constraints of a grant that is made or retired.
pub fn say_constraints(constraints: &GrantConstraints, context: &mut Context) {
    let GrantConstraints { encryption_context_equals, encryption_context_subset, source_arn } = constraints;
    let maps = [
        ("EncryptionContextEquals", encryption_context_equals),
        ("EncryptionContextSubset", encryption_context_subset),
    ];
    let mut kinds: Vec<_> = maps.iter().filter_map(|(kind, map)| map.as_ref().map(|_| *kind)).collect();
    kinds.extend(source_arn.as_ref().map(|_| "SourceArn"));
    context.set_all("kms:GrantConstraintType", kinds);
    say_pairs(maps.iter().filter_map(|(_, map)| map.as_ref()).flatten(), context);
    if let Some(arn) = source_arn {
        context.set("kms:GrantConstraintSourceArn", arn.as_str());
    }
}

impl Call<'_, '_> {
    /// All aliases of a key, read once.
    pub fn aliases_of<'k>(&self, key: &'k Key) -> Result<&'k [String]> {
        if let Some(known) = key.aliases.get() {
            return Ok(known);
        }
        let read = |tx| rows::aliases(tx, &key.arn.account, Some(&key.arn.key), None, usize::MAX);
        let found = match &self.tx {
            Tx::Memory => read(&*self.region.read_at(self.generation)?)?,
            Tx::Read(_) | Tx::Write(_) => read(self.reader()?)?,
        };
        let names = found.into_iter().map(|(name, _)| name.to_string()).collect();
        Ok(key.aliases.get_or_init(|| names))
    }

    /// Do the subjects name one and the same key? None where one of them names none.
    pub fn are_one_key(&self, subjects: &[Subject<'_>]) -> Result<Option<bool>> {
        let mut ids = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let found = match subject.name {
                Name::KeyOrAlias(text) => self.named(text, true, subject.action),
                Name::Ciphertext(blob, within) => self.of_ciphertext(blob, within, subject.action),
                _ => return Ok(None),
            };
            match found {
                Ok(key) => ids.push(key.arn.key),
                // Refused where it is its turn.
                Err(Fault::Refused(_) | Fault::Hidden { .. }) => return Ok(None),
                Err(fault) => return Err(fault),
            }
        }
        Ok(Some(ids.windows(2).all(|pair| pair[0] == pair[1])))
    }
}
