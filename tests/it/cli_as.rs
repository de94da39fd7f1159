//! `--as`: the command line and a mount in somebody's name.

use std::fs;
use std::time::Duration;

use kmsfs::kms::identity::IdentitySession;
use kmsfs::kms::{Caller, Kms, KmsOptions};
use serde_json::json;

use crate::mounted::bed::{Bed, wait_for};

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";

fn identities(bed: &Bed) -> IdentitySession {
    let account: kmsfs::iam::AccountId = "000000000000".parse().unwrap();
    let kms = Kms::open(&bed.dir().join("home"), KmsOptions::new(account.clone())).unwrap();
    kms.identity(Caller::root(account))
}

fn let_alice(iam: &IdentitySession, action: &str) {
    let statement = json!({"Effect": "Allow", "Action": action, "Resource": "*"});
    let document = json!({"Version": "2012-10-17", "Statement": statement}).to_string();
    let body = json!({"UserName": "alice", "PolicyName": "p", "PolicyDocument": document});
    iam.call_json("PutUserPolicy", body).unwrap();
}

#[test]
fn a_verb_acts_as_whom_it_names() {
    let bed = Bed::with_own_key();
    let (code, words) = bed.refused_with(["--as", "alice", "key", "list"]);
    assert_eq!(code, 3);
    assert!(
        words.contains("NoSuchEntity") && words.contains("a principal is a user's name or ARN"),
        "{words}"
    );
    let iam = identities(&bed);
    iam.call_json("CreateUser", json!({"UserName": "alice"})).unwrap();
    for who in ["alice", ALICE] {
        let (code, words) = bed.refused_with(["--as", who, "key", "list"]);
        assert_eq!(code, 3);
        assert!(words.contains("no identity-based policy allows the kms:ListKeys action"), "{words}");
    }
    let_alice(&iam, "kms:*");
    assert!(bed.run(["--as", "alice", "key", "list"]).contains("CUSTOMER"));
    // To ask about somebody is not to act as somebody.
    bed.run(["audit", "lookup", "--principal", "arn:aws:iam::000000000000:user/nobody"]);
    assert!(bed.run(["audit", "lookup", "--principal", ALICE, "--json"]).contains("\"userName\":\"alice\""));
}

#[test]
fn a_mount_is_its_callers_until_the_caller_is_deleted() {
    let bed = Bed::with_own_key();
    let iam = identities(&bed);
    iam.call_json("CreateUser", json!({"UserName": "alice"})).unwrap();
    let mount = [
        "--as".into(),
        "alice".into(),
        "mount".into(),
        bed.vault().into_os_string(),
        bed.plain("").into_os_string(),
    ];
    let (code, words) = bed.refused_with(&mount);
    assert_eq!(code, 3, "{words}");
    let_alice(&iam, "kms:*");
    bed.run(&mount);
    fs::write(bed.plain("f"), b"alice's").unwrap();
    bed.unmount();
    bed.run(&mount);
    assert_eq!(fs::read(bed.plain("f")).unwrap(), b"alice's");
    iam.call_json("DeleteUserPolicy", json!({"UserName": "alice", "PolicyName": "p"})).unwrap();
    let refused = fs::File::open(bed.plain("f")).map(drop).map_err(|e| e.raw_os_error());
    assert_eq!(refused, Err(Some(libc::EACCES)));
    let_alice(&iam, "kms:*");
    assert_eq!(fs::read(bed.plain("f")).unwrap(), b"alice's");
    iam.call_json("DeleteUserPolicy", json!({"UserName": "alice", "PolicyName": "p"})).unwrap();
    iam.call_json("DeleteUser", json!({"UserName": "alice"})).unwrap();
    wait_for(Duration::from_secs(5), "the mount to refuse", || fs::read(bed.plain("f")).is_err());
    bed.unmount();
}
