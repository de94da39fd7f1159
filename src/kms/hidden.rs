//! What those who are denied are told. Of another account's key that lets nobody of theirs in they must not learn so
//! much as that it is there: not by the words, not by another error that comes first, and not by their own log.

use super::blob::CiphertextBlob;
use super::cache::Key;
use super::call::{Call, Name, Result, Subject};
use super::grants::By;
use super::region::Fault;
use super::{KmsError, KmsErrorKind};
use crate::iam::{Access, KeyId, Layer, Principal, Refusal, ResourcePolicy, evaluate};

/// AWS's one answer where a ciphertext's key is unknown, foreign or forbidden.
fn unspecific(principal: &Principal, action: &str) -> KmsError {
    let message = format!(
        "User: {} is not authorized to perform: {action} on the resource associated with this ciphertext \
         because the resource does not exist in this Region, no resource-based policies allow access, or a \
         resource-based policy explicitly denies access",
        principal.arn()
    );
    KmsError::new(KmsErrorKind::AccessDenied, message)
}

impl Call<'_, '_> {
    fn hidden(&self, action: &str, reason: String) -> Fault {
        Fault::Hidden { answer: unspecific(&self.caller.principal, action), reason }
    }

    /// A ciphertext names a key that is not there, or that is another account's.
    pub fn no_key_of(&self, id: &KeyId, action: &str) -> Fault {
        let reason =
            format!("the key {id} does not exist in this Region, or its account does not let the caller in");
        self.hidden(action, reason)
    }

    /// A denial as its answer has it: those of a ciphertext are all one.
    pub fn told(&self, fault: Fault, subject: &Subject<'_>) -> Fault {
        match (fault, subject.name) {
            (Fault::Refused(error), Name::Ciphertext(..)) if error.kind == KmsErrorKind::AccessDenied => {
                self.hidden(subject.action, error.message)
            }
            (fault, _) => fault,
        }
    }

    /// The same of a key that the caller must not know of.
    pub fn as_if_absent(&self, fault: Fault, subject: &Subject<'_>) -> Fault {
        let Fault::Refused(KmsError { kind: KmsErrorKind::AccessDenied, .. }) = fault else { return fault };
        let text = match subject.name {
            Name::Ciphertext(bytes, None) => {
                return match CiphertextBlob::parse(bytes) {
                    Some(blob) => self.no_key_of(&blob.key, subject.action),
                    None => fault,
                };
            }
            Name::Ciphertext(_, Some(text))
            | Name::KeyOrAlias(text)
            | Name::Key(text)
            | Name::Alias(text)
            | Name::NewAlias(text)
            | Name::Principal(text)
            | Name::Grant(text, _)
            | Name::GrantToken(text) => text,
        };
        let denial = self.denial(&Refusal::Missing(Layer::Resource), subject.action, text);
        self.told(Fault::Refused(denial), subject)
    }

    /// May the caller know that the key is there? In its own account yes; elsewhere if the key's policy or a grant
    /// lets it in, whatever its own policies then say, or the key's policy denies it, which AWS tells too.
    pub fn lets_know(&self, key: &Key, action: &str, alias: Option<&str>) -> Result<bool> {
        if key.arn.account == *self.account() {
            return Ok(true);
        }
        if !self.works_on(&key.arn) {
            return Ok(false);
        }
        let context = self.key_context(action, &key.arn, key.row.kind(), &key.policy, alias, Some(key))?;
        let by_policy = evaluate(&Access {
            principal: &self.caller.principal,
            action,
            resource: &key.arn_text,
            context: &context,
            identity: &[],
            boundary: None,
            session: &[],
            resource_policy: Some(ResourcePolicy { owner: &key.arn.account, policy: &key.policy }),
            grant: &|| None,
        });
        Ok(match by_policy {
            Ok(_) | Err(Refusal::Missing(Layer::Identity) | Refusal::Explicit(_)) => true,
            Err(Refusal::Missing(_)) => {
                self.granted(key, action, By::Name)?.is_some()
                    || self.granted(key, action, By::Account)?.is_some()
            }
        })
    }
}
