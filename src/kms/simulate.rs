//! What would be decided, and why: the way of a real request up to the decision, without doing or recording it.

use std::cell::RefCell;

use super::call::{Call, Tx};
use super::events::{Notes, Parameters};
use super::operation::{OPERATIONS, Row};
use super::region::Fault;
use super::service::EncryptionContext;
use super::session::Session;
use super::{KmsError, KmsErrorKind, rows};
use crate::iam::{Context, Decision, Refusal};
use crate::store::Store;

/// What would be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simulated {
    /// It would be allowed.
    pub allowed: bool,
    /// The sentence of the denial, as its event has it; of what is allowed: by what.
    pub words: String,
    /// Every statement, grant or other ground that was needed, or the one that denied.
    pub grounds: Vec<String>,
}

/// A simulation on its way: what is said in place of a request, and by what it was decided.
pub struct Simulation<'a> {
    context: &'a [(String, Vec<String>)],
    grounds: RefCell<Vec<String>>,
}

impl Simulation<'_> {
    /// Says the condition keys that were given.
    pub fn say(&self, context: &mut Context) {
        for (key, values) in self.context {
            context.set_all(key, values.iter().map(String::as_str));
        }
    }

    /// Notes what was needed beside.
    pub fn note_also(&self, ground: String) {
        self.grounds.borrow_mut().push(ground);
    }

    /// Notes by what it was decided.
    pub fn note(&self, decision: &Decision<'_>) {
        match decision {
            Ok(found) => *self.grounds.borrow_mut() = found.iter().map(ToString::to_string).collect(),
            Err(Refusal::Explicit(ground)) => *self.grounds.borrow_mut() = vec![ground.to_string()],
            Err(Refusal::Missing(_)) => {}
        }
    }
}

/// The row of an action of the key service; ReEncrypt has two actions.
fn row_of(action: &str) -> Option<&'static Row> {
    let name = match action.split_once(':') {
        Some((service, "ReEncryptFrom" | "ReEncryptTo")) if service.eq_ignore_ascii_case("kms") => {
            "ReEncrypt"
        }
        Some((service, name)) if service.eq_ignore_ascii_case("kms") => name,
        _ => return None,
    };
    OPERATIONS.iter().map(|(row, _)| *row).find(|row| row.name.eq_ignore_ascii_case(name))
}

impl Session {
    /// What would be decided if the session's caller asked for this `action` (such as kms:Decrypt) on this `resource`: a
    /// key by any of its names, or any ARN, or `*`. `context` are condition keys with their values, in place of what the
    /// request would say of itself; the encryption context is said as a request's is, and grants with constraints look at it.
    /// Actions of the key service on keys are decided with the key's policy and its
    /// grants, all others by the caller's own policies.
    ///
    /// # Errors
    /// NotFoundException: the key is not there. ValidationException: what is no action.
    pub fn simulate(
        &self,
        action: &str,
        resource: &str,
        context: &[(String, Vec<String>)],
        encryption_context: &EncryptionContext,
    ) -> Result<Simulated, KmsError> {
        let known = row_of(action);
        if known.is_none() && (action.starts_with("kms:") || !action.contains(':')) {
            let message = format!("{action} is no action of the key service, such as kms:Decrypt");
            return Err(KmsError::new(KmsErrorKind::Validation, message));
        }
        let region = self.region_core();
        let tx = region.store.read()?;
        let simulation = Simulation { context, grounds: RefCell::default() };
        let pairs = Some(encryption_context).filter(|pairs| !pairs.is_empty());
        // Each action looks at the one that is its own.
        let parameters = Parameters {
            encryption_context: pairs,
            source_encryption_context: pairs,
            destination_encryption_context: pairs,
            ..Parameters::default()
        };
        // Of actions that are not the key service's own the row says nothing.
        let row = known.unwrap_or(OPERATIONS[0].0);
        let call = Call {
            region,
            caller: self.caller(),
            via: None,
            row,
            now: region.clock.now(),
            generation: rows::generation(&*tx)?,
            tx: Tx::Read(&*tx),
            authority: region.identities.authority(self.caller())?,
            simulation: Some(&simulation),
            prepared: None,
            parameters: &parameters,
            elsewhere: None,
            same_key: None,
            notes: Notes::default(),
            service_events: Vec::new(),
            shares: false,
        };
        // What has to do with no key is decided by the caller's own policies; an alias's ARN names its key, but for what
        // is done with the alias.
        let of_alias =
            known.is_some_and(|row| matches!(row.name, "CreateAlias" | "UpdateAlias" | "DeleteAlias"));
        let alone = known.is_none() || resource == "*" || of_alias && resource.contains(":alias/");
        let decided = if alone {
            call.simulate_alone(action, resource)
        } else {
            call.simulate_on_key(action, resource)
        };
        let refusal = match decided {
            Ok(()) => None,
            Err(Fault::Refused(error)) if error.kind == KmsErrorKind::AccessDenied => Some(error.message),
            Err(Fault::Hidden { reason, .. }) => Some(reason),
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Moved | Fault::Due) => {
                let message = "keys are being changed; try again";
                return Err(KmsError::new(KmsErrorKind::DependencyTimeout, message));
            }
        };
        drop(call);
        let grounds = simulation.grounds.into_inner();
        let allowed = refusal.is_none();
        let words = refusal.unwrap_or_else(|| {
            let who = self.caller().principal.arn();
            format!("{who} may {action} on {resource}: {}", grounds.join("; "))
        });
        Ok(Simulated { allowed, words, grounds })
    }
}
