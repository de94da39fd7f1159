//! `kmsfs key grant`: made, listed, retired and revoked on the command line.

use serde_json::{Value, json};

use crate::mounted::bed::{Bed, KEY};

const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
const STRANGER: &str = "arn:aws:iam::111122223333:root";

fn answer(bed: &Bed, args: &[&str]) -> Value {
    serde_json::from_str(&bed.run(args)).unwrap()
}

fn grants(bed: &Bed) -> Vec<Value> {
    answer(bed, &["key", "grant", "list", KEY, "--json"])["Grants"].as_array().unwrap().clone()
}

fn arn(bed: &Bed) -> String {
    let described = answer(bed, &["key", "describe", "--json", KEY]);
    described["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
}

/// Makes a grant; its id and a token.
fn make(bed: &Bed, grantee: &str, more: &[&str]) -> (String, String) {
    let mut args = vec!["key", "grant", "create", KEY, "--grantee-principal", grantee, "--json"];
    args.extend_from_slice(more);
    let made = answer(bed, &args);
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("GrantId"), text("GrantToken"))
}

#[test]
fn a_grant_is_made_listed_and_revoked() {
    let bed = Bed::with_own_key();
    let more = [
        "--retiring-principal",
        "arn:aws:iam::000000000000:role/R",
        "--operations",
        "Decrypt",
        "DescribeKey",
        "--constraints",
        "EncryptionContextSubset={Department=IT,File=7}",
        "--name",
        "first",
    ];
    let (id, token) = make(&bed, ALICE, &more);
    let (again, other) = make(&bed, ALICE, &more);
    assert_eq!(id, again);
    assert_ne!(token, other);
    let found = grants(&bed);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0]["KeyId"], json!(arn(&bed)));
    assert_eq!(found[0]["GranteePrincipal"], ALICE);
    assert_eq!(found[0]["Operations"], json!(["Decrypt", "DescribeKey"]));
    let constraints = json!({"EncryptionContextSubset": {"Department": "IT", "File": "7"}});
    assert_eq!(found[0]["Constraints"], constraints);
    let table = bed.run(["key", "grant", "list", KEY, "--grantee-principal", ALICE]);
    let row = table.lines().nth(1).unwrap();
    for part in [&id, ALICE, "Decrypt DescribeKey", "first", "EncryptionContextSubset={Department=IT,File=7}"]
    {
        assert!(row.contains(part), "{part} in {row}");
    }
    let table =
        bed.run(["key", "grant", "retirable", "--retiring-principal", "arn:aws:iam::000000000000:role/R"]);
    assert!(table.contains(&id) && table.contains(&arn(&bed)), "{table}");

    let dry = bed.refused(["key", "grant", "revoke", KEY, "--grant-id", &id, "--dry-run"]);
    assert!(dry.starts_with("kmsfs: DryRunOperationException: "), "{dry}");
    let told = bed.run(["key", "grant", "revoke", KEY, "--grant-id", &id]);
    assert_eq!(told, format!("the grant {id} is revoked\n"));
    assert_eq!(grants(&bed), Vec::<Value>::new());
    let (code, gone) = bed.refused_with(["key", "grant", "revoke", KEY, "--grant-id", &id]);
    assert!(code == 3 && gone.contains(&format!("Grant ID {id} not found")), "{gone}");
    let (_, none) = bed.refused_with(["key", "grant", "revoke", KEY, "--grant-id", "x"]);
    assert!(none.contains("InvalidGrantIdException") && none.contains("kmsfs key grant list"), "{none}");
}

#[test]
fn another_account_works_with_what_it_is_granted() {
    let bed = Bed::with_own_key();
    let key = arn(&bed);
    let describe = ["key", "describe", "--account", "111122223333", "--json", &key];
    assert!(bed.refused(describe).contains("AccessDeniedException"));
    let (id, token) = make(&bed, STRANGER, &["--operations", "DescribeKey,RetireGrant"]);
    assert_eq!(answer(&bed, &describe)["KeyMetadata"]["Arn"], json!(key));
    bed.run(["key", "grant", "retire", "--account", "111122223333", "--grant-token", &token]);
    assert!(bed.refused(describe).contains("AccessDeniedException"));
    let gone = bed.refused(["key", "grant", "retire", &key, "--grant-id", &id]);
    assert!(gone.contains(&format!("NotFoundException: Grant ID {id} not found")), "{gone}");
    let (id, _) = make(&bed, STRANGER, &["--operations", "RetireGrant"]);
    let told = bed.run(["key", "grant", "retire", "--account", "111122223333", &key, "--grant-id", &id]);
    assert_eq!(told, format!("the grant {id} is retired\n"));
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_before_anything_is_asked() {
    let bed = Bed::with_own_key();
    for args in [
        &["create", KEY, "--operations", "Decrypt"][..],
        &["create", KEY, "--grantee-principal", ALICE],
        &["create", KEY, "--grantee-principal", ALICE, "--operations", "Decrypt", "--constraints", "x"],
        &["retire"],
        &["retire", KEY],
        &["retire", "--grant-id", "x"],
        &["retire", KEY, "--grant-token", "x"],
        &["revoke", KEY],
        &["retirable"],
    ] {
        let output = bed.command(["key", "grant"].iter().chain(args)).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
