//! Single calls, without a volume: against the server in this process, through a proxy on which things go wrong.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{Credentials, SharedCredentialsProvider};
use kmsfs::client::AwsKms;
use kmsfs::kms::{
    EncryptionContext, FileEvent, KeyHolder, KeyService, KeyState, KmsError, KmsErrorKind, Ledger, RemoteCall,
};
use serde_json::{Value, json};

use super::proxy::{Mode, Proxy};
use crate::api::bed::{ACCOUNT, Bed, ID, OTHER_ID, SECRET};
use crate::fake::FakeKms;

/// A server, the way to it, a client, and the ledger where its calls are recorded.
struct Line {
    server: Bed,
    proxy: Proxy,
    ledger: Arc<FakeKms>,
    client: AwsKms,
}

pub fn config(id: &str, secret: &str, region: &str) -> aws_config::ConfigLoader {
    // No file and no variable of this machine counts: what the loader would look for is given.
    let credentials = SharedCredentialsProvider::new(Credentials::new(id, secret, None, None, "test"));
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(region.to_owned()))
        .credentials_provider(credentials)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(20)))
        .timeout_config(
            TimeoutConfig::builder()
                .operation_attempt_timeout(Duration::from_millis(1500))
                .operation_timeout(Duration::from_secs(4))
                .build(),
        )
}

pub fn load(loader: aws_config::ConfigLoader) -> SdkConfig {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(loader.load())
}

impl Line {
    fn new() -> Self {
        Self::with(ID, SECRET, "us-east-1")
    }

    fn with(id: &str, secret: &str, region: &str) -> Self {
        let server = Bed::new();
        server.kms.create_region(&"eu-west-1".parse().unwrap(), None).unwrap();
        let proxy = Proxy::to(server.server.address());
        let ledger = FakeKms::new();
        let client =
            AwsKms::new(&load(config(id, secret, region)), Some(&proxy.url()), ledger.clone()).unwrap();
        Self { server, proxy, ledger, client }
    }

    fn key(&self) -> String {
        self.made(&json!({}))
    }

    fn made(&self, request: &Value) -> String {
        self.server.done("CreateKey", request)["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }

    /// The calls that were recorded so far.
    fn calls(&self) -> Vec<RemoteCall> {
        let events = self.ledger.events().into_iter();
        let calls = events.map(|(event, _)| match event {
            FileEvent::RemoteCall(call) => call,
            other => panic!("{other:?}"),
        });
        calls.collect()
    }

    fn last(&self) -> RemoteCall {
        self.calls().pop().unwrap()
    }
}

pub fn context(value: &str) -> EncryptionContext {
    [("kmsfs:file".to_owned(), value.to_owned())].into()
}

fn kind<T>(answer: Result<T, KmsError>) -> KmsErrorKind {
    let error = answer.err().expect("it was to fail");
    assert_eq!(error.holder, KeyHolder::Aws, "{error}");
    assert!(error.message.contains("AWS KMS in us-east-1"), "{error}");
    error.kind
}

#[test]
fn the_five_operations_work_and_are_recorded() {
    let line = Line::new();
    let client = &line.client;
    let (key, other) = (line.key(), line.key());
    assert_eq!((client.holder(), client.generation().unwrap()), (KeyHolder::Aws, None));
    let described = client.describe_key(&key).unwrap();
    assert_eq!((described.region.as_str(), described.state), ("us-east-1", KeyState::Enabled));
    assert_eq!(described.key_arn, key);

    let made = client.generate_data_key(&key, &context("a")).unwrap();
    assert_eq!((made.plaintext.expose().len(), &made.key_arn), (32, &key));
    let opened = client.decrypt(Some(&key), &made.ciphertext, &context("a")).unwrap();
    assert_eq!(opened.plaintext.expose(), made.plaintext.expose());
    // It is passed on, as the server's own log has it.
    assert_eq!(opened.key_material_id.as_ref().map(String::len), Some(64));
    let wrapped = client.encrypt(&other, b"some words", &context("b")).unwrap();
    let moved = client.re_encrypt(&wrapped.ciphertext, &context("b"), &key, &context("c")).unwrap();
    assert_eq!((&moved.source_key_arn, &moved.key_arn), (&other, &key));
    let opened = client.decrypt(None, &moved.ciphertext, &context("c")).unwrap();
    assert_eq!(opened.plaintext.expose(), b"some words");

    let calls = line.calls();
    let names: Vec<&str> = calls.iter().map(|call| call.operation).collect();
    assert_eq!(names, ["DescribeKey", "GenerateDataKey", "Decrypt", "Encrypt", "ReEncrypt", "Decrypt"]);
    for call in &calls {
        assert_eq!((call.attempts, &call.error, call.region.as_str()), (1, &None, "us-east-1"), "{call:?}");
    }
    assert_eq!(calls[4].key_arns, [other, key.clone()]);
    assert_eq!(
        (&calls[4].context, &calls[4].destination_context),
        (&Some(context("b")), &Some(context("c")))
    );
    assert_eq!(calls[5].key_arns, [key]);
    assert_eq!(calls[2].key_material_id.as_ref().map(String::len), Some(64));
    assert!(line.ledger.events().iter().all(|(_, sync)| *sync));
    // The server's log has the same calls by the same request ids.
    let there = line.server.session().lookup_events(&kmsfs::audit::Filter::default()).unwrap();
    for call in &calls {
        let id = call.request_id.as_deref().unwrap();
        let found = there.iter().find(|found| found.event.request_id == id);
        assert_eq!(found.unwrap_or_else(|| panic!("{call:?}")).event.event_name, call.operation);
    }
}

#[test]
fn refusals_keep_their_kind_and_are_recorded() {
    let line = Line::new();
    let client = &line.client;
    let key = line.key();
    let made = client.generate_data_key(&key, &context("a")).unwrap();
    let open = |value: &str| client.decrypt(Some(&key), &made.ciphertext, &context(value));

    assert_eq!(kind(open("b")), KmsErrorKind::InvalidCiphertext);
    assert_eq!(kind(client.decrypt(None, b"no such blob", &context("a"))), KmsErrorKind::InvalidCiphertext);
    let other = line.key();
    assert_eq!(
        kind(client.decrypt(Some(&other), &made.ciphertext, &context("a"))),
        KmsErrorKind::IncorrectKey
    );
    let absent = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000";
    assert_eq!(kind(client.describe_key(absent)), KmsErrorKind::NotFound);
    let pair = line.made(&json!({"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"}));
    assert_eq!(kind(client.generate_data_key(&pair, &context("a"))), KmsErrorKind::InvalidKeyUsage);

    line.server.done("DisableKey", &json!({"KeyId": key}));
    assert_eq!(kind(open("a")), KmsErrorKind::Disabled);
    assert_eq!(client.describe_key(&key).unwrap().state, KeyState::Disabled);
    line.server.done("ScheduleKeyDeletion", &json!({"KeyId": key, "PendingWindowInDays": 7}));
    assert_eq!(kind(open("a")), KmsErrorKind::InvalidState(KeyState::PendingDeletion));
    let call = line.last();
    let (code, message) = call.error.unwrap();
    assert_eq!((code.as_str(), call.operation), ("KMSInvalidStateException", "Decrypt"));
    assert!(message.contains("pending deletion") && call.request_id.is_some());
    let import = line.made(&json!({"Origin": "EXTERNAL"}));
    assert_eq!(
        kind(client.generate_data_key(&import, &context("a"))),
        KmsErrorKind::InvalidState(KeyState::PendingImport)
    );
    // A key of another region is not there.
    assert_eq!(line.calls().iter().filter(|call| call.error.is_some()).count(), 8);
    let europe = Line::with(ID, SECRET, "eu-west-1");
    let error = europe.client.describe_key(&europe.key()).err().unwrap();
    assert!(matches!(error.kind, KmsErrorKind::NotFound | KmsErrorKind::InvalidArn), "{error:?}");
}

#[test]
fn who_may_not_is_denied_and_who_is_not_known_too() {
    let line = Line::new();
    let key = line.key();
    for (id, secret, said) in [
        // The root of another account, of which the key's policy says nothing.
        (OTHER_ID, SECRET, "not authorized"),
        // Wrong credentials.
        (ID, "wrong", "InvalidSignatureException"),
        ("AKIAIOSFODNN7NOBODY0", SECRET, "UnrecognizedClientException"),
    ] {
        let config = load(config(id, secret, "us-east-1"));
        let client = AwsKms::new(&config, Some(&line.proxy.url()), line.ledger.clone()).unwrap();
        let error = client.generate_data_key(&key, &context("a")).err().unwrap();
        assert_eq!(error.kind, KmsErrorKind::AccessDenied, "{error:?}");
        assert!(error.message.contains(said), "{error:?}");
        assert!(line.last().error.is_some());
    }
    assert!(!ACCOUNT.is_empty());
    // None at all: nothing is sent, and it is said what to give.
    let none = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .no_credentials();
    let before = line.proxy.requests();
    let client = AwsKms::new(&load(none), Some(&line.proxy.url()), line.ledger.clone()).unwrap();
    let error = client.describe_key(&key).err().unwrap();
    assert_eq!((error.kind, line.proxy.requests()), (KmsErrorKind::AccessDenied, before), "{error:?}");
}

#[test]
fn throttled_and_cut_calls_are_tried_again() {
    let line = Line::new();
    let key = line.key();
    line.proxy.set(Mode::Throttle(2));
    line.client.generate_data_key(&key, &context("a")).unwrap();
    assert_eq!((line.last().attempts, line.last().error), (3, None));
    line.proxy.set(Mode::Cut(1));
    line.client.generate_data_key(&key, &context("a")).unwrap();
    assert_eq!((line.last().attempts, line.last().error), (2, None));
    // Too often.
    line.proxy.set(Mode::Throttle(100));
    let error = line.client.generate_data_key(&key, &context("a")).err().unwrap();
    assert_eq!(error.kind, KmsErrorKind::DependencyTimeout, "{error}");
    assert!(error.message.contains("ThrottlingException"), "{error}");
    let call = line.last();
    assert_eq!((call.attempts, call.error.unwrap().0), (3, "ThrottlingException".to_owned()));
}

#[test]
fn a_service_that_does_not_answer_is_out_of_reach_in_bounded_time() {
    let line = Line::new();
    let key = line.key();
    line.proxy.set(Mode::Hang);
    let begun = Instant::now();
    let error = line.client.describe_key(&key).err().unwrap();
    assert_eq!(error.kind, KmsErrorKind::DependencyTimeout, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let call = line.last();
    assert_eq!((call.request_id, call.error.unwrap().0), (None, "DependencyTimeoutException".to_owned()));
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = load(config(ID, SECRET, "us-east-1"));
    let client = AwsKms::new(&config, Some(&format!("http://{nobody}")), line.ledger.clone()).unwrap();
    let error = client.describe_key(&key).err().unwrap();
    assert_eq!(error.kind, KmsErrorKind::DependencyTimeout, "{error}");
    assert!(line.last().attempts > 1);
    // Keys are not sent in the clear to another machine, nor anything else.
    let client = AwsKms::new(&config, Some("http://192.0.2.1"), line.ledger.clone()).unwrap();
    let begun = Instant::now();
    let error = client.describe_key(&key).err().unwrap();
    assert_eq!((error.kind, line.last().attempts), (KmsErrorKind::Validation, 0), "{error}");
    assert!(error.message.contains("https://") && begun.elapsed() < Duration::from_secs(1), "{error}");
}

#[test]
fn data_keys_are_asked_for_some_at_once() {
    let line = Line::new();
    let key = line.key();
    let contexts: Vec<_> = (0..48).map(|n| context(&n.to_string())).collect();
    line.proxy.set(Mode::Delay(Duration::from_millis(100)));
    let begun = Instant::now();
    let made = line.client.generate_data_keys(&key, &contexts).unwrap();
    let took = begun.elapsed();
    // One after the other it would be 4.8 s.
    assert!(took < Duration::from_millis(2400), "{took:?}");
    assert!((2..=16).contains(&line.proxy.most()), "{} at once", line.proxy.most());
    line.proxy.set(Mode::Pass);
    for (made, context) in made.iter().zip(&contexts) {
        let opened = line.client.decrypt(Some(&key), &made.ciphertext, context).unwrap();
        assert_eq!(opened.plaintext.expose(), made.plaintext.expose());
    }
    let calls = line.calls();
    let asked: Vec<_> = calls.iter().filter(|call| call.operation == "GenerateDataKey").collect();
    assert!(asked.iter().zip(&contexts).all(|(call, context)| call.context.as_ref() == Some(context)));
    // They go into the log together.
    let synced = line.ledger.events().iter().take(48).filter(|(_, sync)| *sync).count();
    assert_eq!((asked.len(), synced), (48, 1));
    // One that is refused: no key is answered, and each call is recorded.
    line.server.done("DisableKey", &json!({"KeyId": key}));
    let refused = line.client.generate_data_keys(&key, &contexts[..3]).err().unwrap();
    assert_eq!((refused.kind, line.calls().len()), (KmsErrorKind::Disabled, 48 + 48 + 3));
}
