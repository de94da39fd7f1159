//! The condition keys that a request's parameters give to policies.

use super::events::Parameters;
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
        context.set_all("kms:EncryptionContextKeys", pairs.keys().map(String::as_str));
        for (key, value) in pairs {
            context.set(&format!("kms:EncryptionContext:{key}"), value.as_str());
        }
    }
    if let Some(algorithm) = algorithm {
        context.set("kms:EncryptionAlgorithm", algorithm);
    }
    if let Some(days) = p.pending_window_in_days {
        context.set("kms:ScheduleKeyDeletionPendingWindowInDays", days.to_string());
    }
    if let Some(days) = p.rotation_period_in_days {
        context.set("kms:RotationPeriodInDays", days.to_string());
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
    if p.bypass_policy_lockout_safety_check.is_some() {
        context.set("kms:BypassPolicyLockoutSafetyCheck", "true");
    }
}
