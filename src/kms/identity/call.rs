//! What an operation of IAM or STS sees while it runs, and how it is allowed.

use jiff::Timestamp;

use super::IdentityErrorKind;
use super::authority::Authority;
use super::error::refused;
use super::operation::Row;
use super::service::{Core, Identities};
use crate::audit::Resource;
use crate::iam::directory::{self, Kind};
use crate::iam::{Access, AccountId, Context, Principal, ResourcePolicy, evaluate};
use crate::kms::call::{Result, Tx};
use crate::kms::region::Fault;
use crate::kms::session::Caller;
use crate::kms::{KmsError, KmsErrorKind};
use crate::store::{ReadTx, WriteTx};

/// The region that events of IAM name: it has none, and AWS's is this one.
pub const HOME_REGION: &str = "us-east-1";

/// What a request concerns.
pub enum Target<'a> {
    /// A user, group or role.
    Entity(Kind, &'a str),
    /// The same, to be made under a path.
    NewEntity(Kind, Option<&'a str>, &'a str),
    /// A managed policy, by its ARN.
    Policy(&'a str),
    /// The same, to be made under a path.
    NewPolicy(Option<&'a str>, &'a str),
    /// All of a kind, such as `user/`.
    All(&'static str),
    /// Nothing by name.
    Account,
}

/// One attempt at a request.
pub struct IdentityCall<'a, 't> {
    pub identities: &'a Identities,
    pub core: &'a Core,
    pub caller: &'a Caller,
    pub authority: Authority,
    pub row: &'static Row,
    pub now: Timestamp,
    pub tx: Tx<'t>,
    /// For the event.
    pub resources: Vec<Resource>,
}

impl IdentityCall<'_, '_> {
    /// The caller's.
    pub fn account(&self) -> &AccountId {
        self.caller.principal.account()
    }

    /// The view.
    pub fn reader(&self) -> Result<&dyn ReadTx> {
        match &self.tx {
            Tx::Read(tx) => Ok(*tx),
            Tx::Write(tx) => Ok(&**tx),
            Tx::Memory => Err(no_view()),
        }
    }

    /// The transaction of a change.
    pub fn writer(&mut self) -> Result<&mut dyn WriteTx> {
        match &mut self.tx {
            Tx::Write(tx) => Ok(&mut **tx),
            Tx::Memory | Tx::Read(_) => Err(no_view()),
        }
    }

    /// Milliseconds since 1970.
    pub fn millis(&self) -> i64 {
        self.now.as_millisecond()
    }

    /// The user that a request without a name is about; None: root.
    pub fn own_name(&self, given: Option<&str>) -> Result<Option<String>> {
        match (given, &self.caller.principal) {
            (Some(name), _) => Ok(Some(name.to_owned())),
            (None, Principal::Root(_)) => Ok(None),
            (None, Principal::User { name, .. }) => {
                Ok(Some(name.rsplit('/').next().unwrap_or(name).to_owned()))
            }
            (None, _) => {
                let message = "Must specify userName when calling with non-User credentials";
                Err(Fault::Refused(refused(IdentityErrorKind::Validation, message)))
            }
        }
    }

    /// The ARN of what a request concerns, and the condition keys that follow from it.
    fn resource(&self, target: &Target<'_>, context: &mut Context) -> Result<String> {
        let account = self.account();
        Ok(match *target {
            Target::Entity(kind, name) => {
                match directory::find_entity(self.reader()?, kind, account, name)? {
                    Some(row) => {
                        for (key, value) in &row.tags {
                            context.set(&format!("aws:ResourceTag/{key}"), value.as_str());
                            context.set(&format!("iam:ResourceTag/{key}"), value.as_str());
                        }
                        if let Some(boundary) = &row.boundary {
                            context.set("iam:PermissionsBoundary", boundary.as_str());
                        }
                        row.arn(kind, account)
                    }
                    None => format!("arn:aws:iam::{account}:{}/{name}", kind.name()),
                }
            }
            Target::NewEntity(kind, path, name) => {
                format!("arn:aws:iam::{account}:{}{}{name}", kind.name(), path.unwrap_or("/"))
            }
            Target::Policy(arn) => {
                if let Some(row) = directory::find_policy(self.reader()?, account, arn)? {
                    for (key, value) in &row.tags {
                        context.set(&format!("aws:ResourceTag/{key}"), value.as_str());
                    }
                }
                arn.to_owned()
            }
            Target::NewPolicy(path, name) => {
                format!("arn:aws:iam::{account}:policy{}{name}", path.unwrap_or("/"))
            }
            Target::All(kind) => format!("arn:aws:iam::{account}:{kind}"),
            Target::Account => "*".to_owned(),
        })
    }

    /// Says what every request is.
    pub fn say(&self, context: &mut Context) {
        let Caller { principal, identified, source_ip, user_agent, .. } = self.caller;
        principal.describe(context);
        self.authority.say(principal, identified.as_deref(), context);
        context.set("aws:RequestedRegion", HOME_REGION);
        context.set("aws:SourceIp", source_ip.as_str());
        context.set("aws:UserAgent", user_agent.as_str());
        context.set("aws:CurrentTime", self.now.to_string());
        context.set("aws:EpochTime", self.now.as_second().to_string());
        context.set("aws:ViaAWSService", "false");
    }

    /// May the caller do this? By its own policies alone.
    pub fn authorise(
        &self,
        action: &str,
        target: &Target<'_>,
        own_keys: &dyn Fn(&mut Context),
    ) -> Result<()> {
        let mut context = Context::new();
        self.say(&mut context);
        let resource = self.resource(target, &mut context)?;
        own_keys(&mut context);
        self.decide(action, &resource, &context, None).map_err(Fault::Refused)
    }

    /// The decision, with a role's trust policy or without.
    pub fn decide(
        &self,
        action: &str,
        resource: &str,
        context: &Context,
        resource_policy: Option<ResourcePolicy<'_>>,
    ) -> std::result::Result<(), KmsError> {
        self.authority.check(self.caller.identified.as_deref(), self.now)?;
        let access = Access {
            principal: &self.caller.principal,
            action,
            resource,
            context,
            identity: &self.authority.identity(),
            boundary: self.authority.boundary(),
            session: &self.authority.session(),
            resource_policy,
            grant: &|| None,
        };
        match evaluate(&access) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                let message = refusal.sentence(&self.caller.principal, action, resource);
                Err(refused(IdentityErrorKind::AccessDenied, message))
            }
        }
    }
}

fn no_view() -> Fault {
    Fault::Refused(KmsError::new(KmsErrorKind::Internal, "no view of the store of identities is open"))
}
