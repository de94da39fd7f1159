//! An endpoint that answers what it likes.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kmsfs::client::AwsKms;
use kmsfs::kms::{FileEvent, KeyService, KmsErrorKind};
use serde_json::{Value, json};

use super::calls::{config, context, load};
use crate::fake::FakeKms;

const ASKED: &str = "arn:aws:kms:us-east-1:111122223333:key/00000000-0000-0000-0000-000000000001";
const OTHER: &str = "arn:aws:kms:us-east-1:666666666666:key/00000000-0000-0000-0000-000000000002";

/// Answers every request with this; None: with a body that never ends.
fn server(answer: Option<Value>) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    // Ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, sent) = (answer.clone(), counted.clone());
            thread::spawn(move || serve(stream, answer.as_ref(), &sent));
        }
    });
    (url, sent)
}

fn serve(mut stream: TcpStream, answer: Option<&Value>, sent: &AtomicU64) -> Option<()> {
    loop {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            request.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&request).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
        stream.read_exact(&mut body).ok()?;
        let status = if answer.is_some_and(|a| a.get("__type").is_some()) { 400 } else { 200 };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/x-amz-json-1.1\r\n");
        if let Some(answer) = answer {
            let body = answer.to_string();
            let whole = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(whole.as_bytes()).ok()?;
            continue;
        }
        stream.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).ok()?;
        let chunk = [&b"10000\r\n"[..], &[b' '; 0x10000], b"\r\n"].concat();
        loop {
            stream.write_all(&chunk).ok()?;
            sent.fetch_add(0x10000, Ordering::Relaxed);
        }
    }
}

fn client(url: &str) -> (AwsKms, Arc<FakeKms>) {
    let ledger = FakeKms::new();
    (AwsKms::new(&load(config("id", "secret", "us-east-1")), Some(url), ledger.clone()).unwrap(), ledger)
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

#[test]
fn an_answer_without_an_end_is_given_up() {
    let (url, sent) = server(None);
    let (client, _) = client(&url);
    let begun = Instant::now();
    let error = client.decrypt(Some(ASKED), b"x", &context("a")).err().unwrap();
    assert_eq!(error.kind, KmsErrorKind::DependencyTimeout, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3), "it was read for {:?}", begun.elapsed());
    // What the sockets of three attempts take beside.
    assert!(sent.load(Ordering::Relaxed) < 48 << 20, "{sent:?} bytes");
}

#[test]
fn an_answer_under_another_key_than_was_asked_for_is_none() {
    for (named, good) in [
        (json!(ASKED), true),
        (json!(OTHER), false),
        (json!("alias/x"), false),
        (json!("arn:\u{1b}[2J"), false),
    ] {
        let (url, _) = server(Some(json!({
            "KeyId": named,
            "SourceKeyId": OTHER,
            "Plaintext": base64(&[7; 32]),
            "CiphertextBlob": base64(&[8; 100]),
            "KeyMetadata": { "KeyId": "x", "Arn": named, "KeyState": "Enabled" },
        })));
        let (client, ledger) = client(&url);
        let context = context("a");
        let answers = [
            client.generate_data_key(ASKED, &context).map(drop),
            client.generate_data_keys(ASKED, &[context.clone(), context.clone()]).map(drop),
            client.encrypt(ASKED, b"x", &context).map(drop),
            client.decrypt(Some(ASKED), b"x", &context).map(drop),
            client.re_encrypt(b"x", &context, ASKED, &context).map(drop),
            client.describe_key(ASKED).map(drop),
        ];
        for (nth, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(()) => assert!(good, "call {nth}, {named}"),
                Err(error) => {
                    assert!(!good && error.kind == KmsErrorKind::DependencyTimeout, "call {nth}: {error}");
                    assert!(!error.message.contains(char::is_control), "{error:?}");
                }
            }
        }
        for (event, _) in ledger.events() {
            let FileEvent::RemoteCall(call) = event else { panic!("{event:?}") };
            assert!(call.key_arns.iter().all(|arn| !arn.contains(char::is_control)), "{call:?}");
        }
    }
}

#[test]
fn keys_of_another_length_and_long_words_of_errors_do_no_harm() {
    for len in [0, 16, 31, 33, 4096] {
        let plaintext = base64(&vec![7; len]);
        let (url, _) = server(Some(
            json!({ "KeyId": ASKED, "Plaintext": plaintext, "CiphertextBlob": base64(&[8; 100]) }),
        ));
        let error = client(&url).0.generate_data_key(ASKED, &context("a")).err().unwrap();
        assert!(error.message.contains("32 bytes"), "{len}: {error}");
    }
    let (url, _) =
        server(Some(json!({ "__type": "Evil\u{1b}Exception", "message": "\u{1b}[2J".repeat(20_000) })));
    let (client, ledger) = client(&url);
    let error = client.decrypt(Some(ASKED), b"x", &context("a")).err().unwrap();
    let told = &error.message;
    assert!(told.len() < 2000 && !told.contains(char::is_control), "{} characters", told.len());
    let (FileEvent::RemoteCall(call), _) = ledger.events().pop().unwrap() else { panic!("no call") };
    let (code, text) = call.error.unwrap();
    assert!(code.len() < 200 && text.len() < 2000 && !(code + &text).contains(char::is_control));
}
