//! Who is calling.

use std::str::FromStr;

use super::pattern::arn_parts;
use super::{AccountId, Context, IamError};

/// Somebody who may be allowed something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Principal {
    /// The account itself.
    Root(AccountId),
    /// A user.
    User {
        /// Whose.
        account: AccountId,
        /// With its path, such as `people/alice`.
        name: String,
    },
    /// A role, as policies and grants name it. Who uses it is a session.
    Role {
        /// Whose.
        account: AccountId,
        /// With its path.
        name: String,
    },
    /// Somebody who has assumed a role.
    Session {
        /// The role's.
        account: AccountId,
        /// The role with its path; without where it is read from a session's ARN, which has none.
        role: String,
        /// The session's own name.
        session: String,
    },
    /// A service that calls for an account.
    Service {
        /// Such as kmsfs.us-east-1.amazonaws.com.
        name: String,
        /// For which account.
        account: AccountId,
    },
}

impl Principal {
    /// The root of an account.
    pub fn root(account: AccountId) -> Self {
        Self::Root(account)
    }

    /// The account it belongs to.
    pub fn account(&self) -> &AccountId {
        match self {
            Self::Root(account)
            | Self::User { account, .. }
            | Self::Role { account, .. }
            | Self::Session { account, .. }
            | Self::Service { account, .. } => account,
        }
    }

    /// arn:aws:iam::ACCOUNT:root and so on; a service has its name.
    pub fn arn(&self) -> String {
        match self {
            Self::Root(account) => format!("arn:aws:iam::{account}:root"),
            Self::User { account, name } => format!("arn:aws:iam::{account}:user/{name}"),
            Self::Role { account, name } => format!("arn:aws:iam::{account}:role/{name}"),
            Self::Session { account, role, session } => {
                format!("arn:aws:sts::{account}:assumed-role/{}/{session}", last(role))
            }
            Self::Service { name, .. } => name.clone(),
        }
    }

    /// The ARN that aws:PrincipalArn has: for a session its role's.
    pub fn principal_arn(&self) -> String {
        match self {
            Self::Session { account, role, .. } => format!("arn:aws:iam::{account}:role/{role}"),
            Self::Root(_) | Self::User { .. } | Self::Role { .. } | Self::Service { .. } => self.arn(),
        }
    }

    /// Says the condition keys that follow from the principal alone.
    pub fn describe(&self, context: &mut Context) {
        let account = self.account().as_str();
        context.set("aws:PrincipalAccount", account);
        context.set("kms:CallerAccount", account);
        let kind = match self {
            Self::Root(_) => "Account",
            Self::User { name, .. } => {
                context.set("aws:username", last(name));
                "User"
            }
            Self::Role { .. } | Self::Session { .. } => "AssumedRole",
            Self::Service { name, .. } => {
                context.set("aws:PrincipalServiceName", name.as_str());
                context.set("aws:PrincipalIsAWSService", "true");
                return;
            }
        };
        context.set("aws:PrincipalIsAWSService", "false");
        context.set("aws:PrincipalArn", self.principal_arn());
        context.set("aws:PrincipalType", kind);
    }
}

impl FromStr for Principal {
    type Err = IamError;

    /// From an ARN, of any partition.
    fn from_str(s: &str) -> Result<Self, IamError> {
        let bad = || IamError::Principal(s.to_owned());
        let parts: [&str; 6] = arn_parts(s, false).try_into().map_err(|_| bad())?;
        let ["arn", partition, service, "", account, resource] = parts else { return Err(bad()) };
        if !matches!(partition, "aws" | "aws-cn" | "aws-us-gov") {
            return Err(bad());
        }
        let account: AccountId = account.parse().map_err(|_| bad())?;
        let (kind, name) = resource.split_once('/').unwrap_or((resource, ""));
        match (service, kind) {
            ("iam", "root") if resource == "root" => Ok(Self::Root(account)),
            ("iam", "user") if is_path(name) => Ok(Self::User { account, name: name.to_owned() }),
            ("iam", "role") if is_path(name) => Ok(Self::Role { account, name: name.to_owned() }),
            ("sts", "assumed-role") => match name.split_once('/') {
                Some((role, session)) if is_name(role) && is_name(session) => {
                    Ok(Self::Session { account, role: role.to_owned(), session: session.to_owned() })
                }
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

/// A name without its path.
pub(super) fn last(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, last)| last)
}

fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    (1..=128).contains(&text.len()) && text.bytes().all(allowed)
}

fn is_path(text: &str) -> bool {
    text.len() <= 640 && text.split('/').all(is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arns_are_read_as_they_are_written() {
        for arn in [
            "arn:aws:iam::000000000000:root",
            "arn:aws:iam::000000000000:user/alice",
            "arn:aws:iam::000000000000:user/people/alice@example.org",
            "arn:aws:iam::000000000000:role/aws-service-role/x/R",
            "arn:aws:sts::000000000000:assumed-role/R/s-1",
        ] {
            assert_eq!(arn.parse::<Principal>().unwrap().arn(), arn);
        }
    }

    #[test]
    fn a_session_is_its_role_to_conditions() {
        let account: AccountId = "000000000000".parse().unwrap();
        let session = Principal::Session { account, role: "p/R".to_owned(), session: "s".to_owned() };
        assert_eq!(session.arn(), "arn:aws:sts::000000000000:assumed-role/R/s");
        let mut context = Context::new();
        session.describe(&mut context);
        assert_eq!(context.get("aws:principalarn").unwrap(), ["arn:aws:iam::000000000000:role/p/R"]);
    }

    #[test]
    fn what_is_no_principal_is_refused() {
        for bad in [
            "",
            "root",
            "arn:aws:iam::000000000000:",
            "arn:aws:iam::000000000000:root/x",
            "arn:aws:iam::00000000000:root",
            "arn:aws:iam::000000000000:user/",
            "arn:aws:iam::000000000000:user/*",
            "arn:aws:iam::000000000000:user/a//b",
            "arn:aws:iam:us-east-1:000000000000:root",
            "arn:else:iam::000000000000:root",
            "arn:aws:sts::000000000000:assumed-role/R",
            "arn:aws:iam::000000000000:group/g",
        ] {
            assert!(bad.parse::<Principal>().is_err(), "{bad}");
        }
    }
}
