//! How long one decision takes.

use std::time::Instant;

use serde_json::json;

use super::*;

/// `cargo test --release --lib iam::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_decision_over_1_10_and_1000_statements() {
    for conditions in [false, true] {
        for count in [1, 10, 1000] {
            // The last statement allows; all others are about other principals.
            let statements: Vec<_> = (0..count)
                .map(|i| {
                    let who = if i + 1 == count { "alice".to_owned() } else { format!("user-{i}") };
                    let mut statement = json!({
                        "Effect": "Allow", "Principal": {"AWS": format!("arn:aws:iam::{OWN}:user/{who}")},
                        "Action": ["kms:Encrypt", "kms:Decrypt", "kms:GenerateDataKey*"], "Resource": "*",
                    });
                    if conditions {
                        statement["Condition"] =
                            json!({"StringLike": {"kms:ViaService": "kmsfs.*.amazonaws.com"}});
                    }
                    statement
                })
                .collect();
            // Longer than a key's policy may be: several managed policies have that many together.
            let text = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
            let started = Instant::now();
            let policy = Policy::parse_any_length(PolicyKind::Key, &text).unwrap();
            let read = started.elapsed();
            let mut scene = Scene::new("arn:aws:iam::000000000000:user/alice");
            scene.context.set("kms:ViaService", "kmsfs.us-east-1.amazonaws.com");
            let owner = account(OWN);
            let access = Access {
                principal: &scene.principal,
                action: "kms:Decrypt",
                resource: KEY,
                context: &scene.context,
                identity: &[],
                boundary: None,
                session: &[],
                resource_policy: Some(ResourcePolicy { owner: &owner, policy: &policy }),
                grant: &|| None,
            };
            let rounds: u32 = 2_000_000 / (count + 10);
            let started = Instant::now();
            for _ in 0..rounds {
                assert!(evaluate(std::hint::black_box(&access)).is_ok());
            }
            let each = started.elapsed() / rounds;
            println!("{count} statements, conditions {conditions}: {each:?} a decision, {read:?} to read");
        }
    }
}
