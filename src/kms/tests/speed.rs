//! How fast. Not part of the tests: `cargo test --release --lib kms::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

/// Processor seconds of this process so far: other work on the machine does not count.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // Fields 14 and 15 (user and system time), counted behind the name, in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|f| f.parse::<f64>().unwrap() / 100.0).sum()
}

/// Bytes of this process that are in memory.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 4096.0
}

/// What a mount sends.
fn file() -> EncryptionContext {
    context(&[("kmsfs:volume", "0123456789abcdef"), ("kmsfs:file", "0123456789abcdef0123456789abcdef")])
}

/// Decrypts for some seconds on some threads and prints how many; per second of processor time.
fn measure(what: &str, session: &Session, sealed: &[(String, Vec<u8>)], threads: usize) -> f64 {
    let pairs = file();
    let until = Instant::now() + Duration::from_secs(3);
    let (start, used) = (Instant::now(), cpu());
    let mut waits: Vec<Duration> = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let (mut waits, pairs) = (Vec::new(), &pairs);
            for (key, blob) in sealed.iter().cycle().skip(thread * sealed.len() / threads) {
                let asked = Instant::now();
                session.decrypt(Some(key), blob, pairs).unwrap();
                waits.push(asked.elapsed());
                if Instant::now() > until {
                    break;
                }
            }
            waits
        };
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        running.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    waits.sort();
    let (wall, used) = (start.elapsed().as_secs_f64(), cpu() - used);
    let each = waits.len() as f64 / used;
    println!(
        "{what}, {threads} threads: {:.0} decrypts per second, {each:.0} per second of processor time, \
         p99 {:?}, worst {:?}",
        waits.len() as f64 / wall,
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1],
    );
    each
}

fn sealed(session: &Session, key: &str) -> (String, Vec<u8>) {
    let made = session.generate_data_key(key, &file()).unwrap();
    (made.key_arn, made.ciphertext)
}

#[test]
#[ignore = "a measurement"]
fn decrypts_per_second() {
    let bench = Bench::new();
    let session = bench.session();
    let one = [sealed(&session, &make(&session))];
    for threads in [1, 2, 4, 16] {
        measure("one key", &session, &one, threads);
    }
    let start = Instant::now();
    for _ in 0..100_000 {
        session.generation().unwrap();
    }
    println!("generation: {:.0} ns", start.elapsed().as_nanos() as f64 / 100_000.0);
    let filter = crate::audit::Filter { limit: Some(1), ..Default::default() };
    println!("an event has {} bytes", session.lookup_events(&filter).unwrap()[0].json.len());
}

/// In turn, so that what else the machine does meets all of them.
#[test]
#[ignore = "a measurement"]
fn decrypts_per_second_under_1_10_and_250_statements_of_a_key_policy() {
    let bench = Bench::new();
    let session = bench.session();
    let root = format!("arn:aws:iam::{ACCOUNT}:root");
    let keys = [1, 10, 250].map(|count| {
        // The last one allows; the others do not reach.
        let mut statements: Vec<_> = (1..count)
            .map(|_| json!({"Effect": "Deny", "Principal": "*", "Action": "kms:GetPublicKey", "Resource": "*"}))
            .collect();
        statements.push(
            json!({"Effect": "Allow", "Principal": {"AWS": root}, "Action": "kms:*", "Resource": "*"}),
        );
        let policy = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
        let request = CreateKeyRequest { policy: Some(policy), ..Default::default() };
        let key = session.call(request).unwrap().key_metadata.key_id;
        (count, [sealed(&session, &key)])
    });
    for _ in 0..3 {
        for (count, key) in &keys {
            measure(&format!("{count} statements"), &session, key, 1);
        }
    }
}

/// A user in ten groups with ten managed policies each, of ten statements.
#[test]
#[ignore = "a measurement"]
fn decrypts_per_second_under_1000_statements_of_identity_policies() {
    let bench = Bench::new();
    let session = bench.session();
    let iam = bench.kms.identity(Caller::root(ACCOUNT.parse().unwrap()));
    let ask = |operation: &str, body: serde_json::Value| iam.call_json(operation, body).unwrap();
    for user in ["few", "many"] {
        ask("CreateUser", json!({"UserName": user}));
        let allow = json!({"Effect": "Allow", "Action": "kms:*", "Resource": "*"});
        let document = json!({"Version": "2012-10-17", "Statement": allow}).to_string();
        let body = json!({"UserName": user, "PolicyName": "p", "PolicyDocument": document});
        ask("PutUserPolicy", body);
    }
    for group in 0..10 {
        let group_name = format!("g{group}");
        ask("CreateGroup", json!({"GroupName": group_name}));
        ask("AddUserToGroup", json!({"GroupName": group_name, "UserName": "many"}));
        for policy in 0..10 {
            let statements: Vec<_> = (0..10)
                .map(|n| {
                    let key = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/{group}{policy}{n}-*");
                    json!({"Effect": "Allow", "Action": ["kms:Decrypt", "kms:Encrypt"], "Resource": key})
                })
                .collect();
            let document = json!({"Version": "2012-10-17", "Statement": statements}).to_string();
            let body = json!({"PolicyName": format!("p{group}-{policy}"), "PolicyDocument": document});
            let made = ask("CreatePolicy", body);
            ask("AttachGroupPolicy", json!({"GroupName": group_name, "PolicyArn": made["Policy"]["Arn"]}));
        }
    }
    let one = [sealed(&session, &make(&session))];
    let users = ["few", "many"]
        .map(|user| (user, bench.kms.session(bench.kms.caller(user).unwrap(), &region()).unwrap()));
    for _ in 0..3 {
        let root = measure("root, no identity policies", &session, &one, 1);
        for (user, session) in &users {
            let statements = if *user == "few" { 1 } else { 1001 };
            let each = measure(&format!("{statements} statements of identity policies"), session, &one, 1);
            println!("  ratio {:.2}", each / root);
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn decrypts_per_second_with_100_000_keys_in_the_store() {
    let few = Bench::new();
    let many = Bench::new();
    let (few, many) = (few.session(), many.session());
    let start = Instant::now();
    let keys: Vec<String> = (0..100_000).map(|_| make(&many)).collect();
    println!("100,000 keys made in {:?}", start.elapsed());
    let one = [sealed(&few, &make(&few))];
    let same = [sealed(&many, &keys[50_000])];
    let spread: Vec<_> = keys.iter().step_by(100).map(|key| sealed(&many, key)).collect();
    // Room for the ciphertexts is had before, so that what is counted is the service's own.
    let mut all: Vec<_> = keys.iter().map(|key| (key.clone(), vec![0; 126])).collect();
    let (before, start) = (resident(), Instant::now());
    for (key, place) in keys.iter().zip(&mut all) {
        *place = sealed(&many, key);
    }
    let each = (resident() - before) / keys.len() as f64;
    println!("all of them first used in {:?}; {each:.0} bytes of memory each", start.elapsed());
    // The log of all these calls is indexed meanwhile.
    std::thread::sleep(Duration::from_secs(30));
    for _ in 0..3 {
        let alone = measure("1 key in the store", &few, &one, 1);
        for (what, sealed) in
            [("one of 100,000", &same[..]), ("1000 of them", &spread), ("all of them", &all)]
        {
            let each = measure(what, &many, sealed, 1);
            println!("  ratio {:.2}", each / alone);
        }
    }
}

#[test]
#[ignore = "a measurement"]
fn decrypts_through_grants_per_second() {
    const ALICE: &str = "arn:aws:iam::000000000000:user/alice";
    let bench = Bench::new();
    let session = bench.session();
    let caller = Caller { principal: ALICE.parse().unwrap(), ..Caller::root(ACCOUNT.parse().unwrap()) };
    let alice = bench.kms.session(caller, &region()).unwrap();
    let pairs = context(&[("file", "0")]);
    // To one principal, or each to another; the one that counts among them.
    for (grants, same) in [(1, true), (10, true), (1000, true), (1000, false)] {
        let key = make(&session);
        for n in 0..grants {
            let grantee_principal = if same || n == 0 { ALICE.to_owned() } else { format!("{ALICE}-{n}") };
            let equals = context(&[("file", &n.to_string())]);
            let constraints =
                GrantConstraints { encryption_context_equals: Some(equals), ..Default::default() };
            session
                .call(CreateGrantRequest {
                    key_id: key.clone(),
                    grantee_principal: Some(grantee_principal),
                    operations: Some(vec!["Decrypt".to_owned()]),
                    constraints: Some(constraints),
                    ..Default::default()
                })
                .unwrap();
        }
        let made = session.generate_data_key(&key, &pairs).unwrap();
        for (who, session) in [("by policy", &session), ("by grant", &alice)] {
            session.decrypt(Some(&made.key_arn), &made.ciphertext, &pairs).unwrap();
            let (until, used) = (Instant::now() + Duration::from_secs(2), cpu());
            let mut calls = 0;
            while Instant::now() < until {
                session.decrypt(Some(&made.key_arn), &made.ciphertext, &pairs).unwrap();
                calls += 1;
            }
            let rate = f64::from(calls) / (cpu() - used);
            println!(
                "{grants} grants, same grantee {same}, {who}: {rate:.0} decrypts per second of processor time"
            );
        }
    }
}
