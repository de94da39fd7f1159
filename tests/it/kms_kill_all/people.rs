//! Identities, as the log tells them and as the service answers.

use std::collections::{BTreeMap, BTreeSet};

use kmsfs::kms::identity::IdentitySession;
use serde_json::{Value, json};

use super::text;

/// A user, as the log tells it.
#[derive(Debug, Default, PartialEq)]
pub struct User {
    policies: BTreeMap<String, String>,
    /// Status by id.
    pub access_keys: BTreeMap<String, String>,
    groups: BTreeSet<String>,
    attached: BTreeSet<String>,
}

/// All identities, as the log tells it.
#[derive(Debug, Default, PartialEq)]
pub struct People {
    pub users: BTreeMap<String, User>,
    groups: BTreeSet<String>,
    /// Versions and the default one, by ARN.
    policies: BTreeMap<String, (BTreeSet<String>, String)>,
}

impl People {
    pub fn follow(&mut self, event: &Value) {
        let (asked, told) = (&event["requestParameters"], &event["responseElements"]);
        let of = |name: &str| text(&asked[name]);
        let name = event["eventName"].as_str().unwrap();
        match name {
            "CreateGroup" => {
                assert!(self.groups.insert(of("groupName")));
                return;
            }
            "CreatePolicy" => {
                let made = (BTreeSet::from(["v1".to_owned()]), "v1".to_owned());
                assert_eq!(self.policies.insert(text(&told["policy"]["arn"]), made), None);
                return;
            }
            "DeletePolicy" => {
                self.policies.remove(&of("policyArn")).unwrap();
                return;
            }
            "CreatePolicyVersion" => {
                let (versions, default) = self.policies.get_mut(&of("policyArn")).unwrap();
                let version = text(&told["policyVersion"]["versionId"]);
                if told["policyVersion"]["isDefaultVersion"] == true {
                    default.clone_from(&version);
                }
                assert!(versions.insert(version));
                return;
            }
            "DeletePolicyVersion" => {
                assert!(self.policies.get_mut(&of("policyArn")).unwrap().0.remove(&of("versionId")));
                return;
            }
            "CreateUser" => {
                assert_eq!(self.users.insert(of("userName"), User::default()), None);
                return;
            }
            "DeleteUser" => {
                assert_eq!(self.users.remove(&of("userName")), Some(User::default()));
                return;
            }
            _ => {}
        }
        let user = self.users.get_mut(&of("userName")).unwrap();
        match name {
            "PutUserPolicy" => drop(user.policies.insert(of("policyName"), of("policyDocument"))),
            "DeleteUserPolicy" => drop(user.policies.remove(&of("policyName")).unwrap()),
            "CreateAccessKey" => {
                let id = text(&told["accessKey"]["accessKeyId"]);
                assert_eq!(user.access_keys.insert(id, "Active".to_owned()), None);
            }
            "UpdateAccessKey" => *user.access_keys.get_mut(&of("accessKeyId")).unwrap() = of("status"),
            "DeleteAccessKey" => drop(user.access_keys.remove(&of("accessKeyId")).unwrap()),
            "AddUserToGroup" => drop(user.groups.insert(of("groupName"))),
            "RemoveUserFromGroup" => drop(user.groups.remove(&of("groupName"))),
            "AttachUserPolicy" => drop(user.attached.insert(of("policyArn"))),
            "DetachUserPolicy" => drop(user.attached.remove(&of("policyArn"))),
            other => panic!("the log has a {other} that nobody called"),
        }
    }

    pub fn asked(iam: &IdentitySession) -> Self {
        let ask = |operation: &str, body: Value| iam.call_json(operation, body).unwrap();
        let list = |answer: Value, name: &str| answer[name].as_array().unwrap().clone();
        let mut people = Self::default();
        for group in list(ask("ListGroups", json!({})), "Groups") {
            people.groups.insert(text(&group["GroupName"]));
        }
        for policy in list(ask("ListPolicies", json!({"Scope": "Local"})), "Policies") {
            let versions = ask("ListPolicyVersions", json!({"PolicyArn": policy["Arn"]}));
            let versions = list(versions, "Versions").iter().map(|v| text(&v["VersionId"])).collect();
            people.policies.insert(text(&policy["Arn"]), (versions, text(&policy["DefaultVersionId"])));
        }
        for user in list(ask("ListUsers", json!({})), "Users") {
            let body = json!({"UserName": user["UserName"]});
            let named = |operation: &str, list_name: &str, name: &str| -> BTreeSet<String> {
                list(ask(operation, body.clone()), list_name).iter().map(|found| text(&found[name])).collect()
            };
            let policy = |name: &Value| {
                let found = ask("GetUserPolicy", json!({"UserName": user["UserName"], "PolicyName": name}));
                (text(name), text(&found["PolicyDocument"]))
            };
            let keys = list(ask("ListAccessKeys", body.clone()), "AccessKeyMetadata");
            let user_state = User {
                policies: list(ask("ListUserPolicies", body.clone()), "PolicyNames")
                    .iter()
                    .map(policy)
                    .collect(),
                access_keys: keys.iter().map(|k| (text(&k["AccessKeyId"]), text(&k["Status"]))).collect(),
                groups: named("ListGroupsForUser", "Groups", "GroupName"),
                attached: named("ListAttachedUserPolicies", "AttachedPolicies", "PolicyArn"),
            };
            people.users.insert(text(&user["UserName"]), user_state);
        }
        people
    }
}
