//! Layer 6: AWS KMS, or what speaks as it does, over the network, as the key service of a volume.
//!
//! Calls block their thread; underneath runs the AWS SDK with its credential chain, its retries (with jitter) and the
//! timeouts below. Each call, whatever comes of it, is recorded in a ledger of this machine before its answer is used.
//! Plaintext keys are zeroized from where the SDK hands them over; its buffers, and those of TLS, are not ours to clear.

mod error;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_kms::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::operation::generate_data_key::{GenerateDataKeyError, GenerateDataKeyOutput};
use aws_sdk_kms::primitives::Blob;
use aws_smithy_types::body::SdkBody;
use http_body_util::Limited;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::crypto::SecretVec;
use crate::kms::{
    DataKey, Decrypted, Encrypted, EncryptionContext, FileEvent, KeyHolder, KeyMetadata, KeyService,
    KeyState, KmsError, KmsErrorKind, Ledger, ReEncrypted, RemoteCall,
};

/// Bytes of a data key.
const DATA_KEY_LEN: i32 = 32;
/// Data keys that are asked for at once.
const AT_ONCE: usize = 16;
/// How long one attempt waits for a connection, for an answer, and as a whole; and how long a call with all its attempts.
/// So long an open() hangs at most when the key service is out of reach.
const CONNECT: Duration = Duration::from_secs(3);
const READ: Duration = Duration::from_secs(5);
const ATTEMPT: Duration = Duration::from_secs(6);
const OPERATION: Duration = Duration::from_secs(15);
/// Bytes of an answer; those of AWS KMS to these operations have less than 20,000. What is longer is not read.
const LONGEST_ANSWER: usize = 256 << 10;

type Response = aws_sdk_kms::config::http::HttpResponse;

/// AWS KMS in one region, with the credentials of the configuration it was made of.
///
/// Nothing tells it when a key or a policy changes there: it has no generation, and a decision holds for its lease.
pub struct AwsKms {
    /// Taken when it is dropped: what hangs in it is not waited for.
    runtime: Option<Runtime>,
    client: Client,
    region: String,
    ledger: Arc<dyn Ledger>,
}

impl AwsKms {
    /// A client of the configuration's region, at `endpoint` instead of where the configuration says. Timeouts that the
    /// configuration does not say are set here. `ledger` is where calls, and what happens to files, are recorded.
    ///
    /// To be made after a fork, never before: it has threads.
    pub fn new(
        config: &SdkConfig,
        endpoint: Option<&str>,
        ledger: Arc<dyn Ledger>,
    ) -> Result<Self, KmsError> {
        let region = config.region().map(ToString::to_string).ok_or_else(|| {
            KmsError::at_aws(KmsErrorKind::Validation, "no region is given for AWS KMS; give the key's ARN")
        })?;
        let given = config.timeout_config();
        let mut timeouts = given.map_or_else(TimeoutConfig::builder, TimeoutConfig::to_builder);
        // The SDK's own default is not told apart from a wish for it; it is about the same.
        timeouts.set_connect_timeout(given.and_then(TimeoutConfig::connect_timeout).or(Some(CONNECT)));
        timeouts.set_read_timeout(given.and_then(TimeoutConfig::read_timeout).or(Some(READ)));
        timeouts.set_operation_attempt_timeout(
            given.and_then(TimeoutConfig::operation_attempt_timeout).or(Some(ATTEMPT)),
        );
        timeouts.set_operation_timeout(given.and_then(TimeoutConfig::operation_timeout).or(Some(OPERATION)));
        let mut conf = aws_sdk_kms::config::Builder::from(config).timeout_config(timeouts.build());
        if let Some(endpoint) = endpoint {
            conf = conf.endpoint_url(endpoint);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("aws-kms")
            .enable_all()
            .build()
            .map_err(|e| {
                KmsError::at_aws(KmsErrorKind::Internal, format!("no thread for calls to AWS KMS: {e}"))
            })?;
        Ok(Self { runtime: Some(runtime), client: Client::from_conf(conf.build()), region, ledger })
    }

    /// Its region.
    pub fn region(&self) -> &str {
        &self.region
    }

    fn block_on<T>(&self, work: impl Future<Output = T>) -> Result<T, KmsError> {
        let gone = || KmsError::at_aws(KmsErrorKind::Internal, "the client of AWS KMS has ended");
        Ok(self.runtime.as_ref().ok_or_else(gone)?.block_on(work))
    }

    /// Begins the record of a call.
    fn record_of(&self, operation: &'static str, key_id: Option<&str>) -> RemoteCall {
        RemoteCall {
            operation,
            region: self.region.clone(),
            key_id: key_id.map(str::to_owned),
            // Where the answer names none.
            key_arns: key_id.filter(|key| key.starts_with("arn:")).map(str::to_owned).into_iter().collect(),
            ..RemoteCall::default()
        }
    }

    /// Completes a call's record, without writing it, and translates its error.
    fn settle<T, E>(
        &self,
        record: &mut RemoteCall,
        attempts: &Attempts,
        answer: Result<T, SdkError<E, Response>>,
    ) -> Result<T, KmsError>
    where
        T: RequestId,
        E: ProvideErrorMetadata + std::error::Error + 'static,
        SdkError<E, Response>: RequestId,
    {
        record.attempts = attempts.0.load(Ordering::Relaxed);
        match answer {
            Ok(answer) => {
                record.request_id = answer.request_id().map(str::to_owned);
                Ok(answer)
            }
            Err(error) => {
                record.request_id = error.request_id().map(str::to_owned);
                let failed = error::failed(&self.region, &error);
                record.error = Some((failed.code, failed.error.message.clone()));
                Err(failed.error)
            }
        }
    }

    /// A call, from its record to its record's end. `keys` are the ARNs, and the key material, that the answer names.
    fn call<T, E>(
        &self,
        mut record: RemoteCall,
        attempts: &Attempts,
        call: impl Future<Output = Result<T, SdkError<E, Response>>>,
        keys: impl FnOnce(&T) -> (Vec<Option<&str>>, Option<&str>),
    ) -> Result<T, KmsError>
    where
        T: RequestId,
        E: ProvideErrorMetadata + std::error::Error + 'static,
        SdkError<E, Response>: RequestId,
    {
        let answer = self.settle(&mut record, attempts, self.block_on(call)?);
        if let Ok(answer) = &answer {
            note(&mut record, keys(answer));
        }
        // What is not recorded is not answered.
        self.ledger.record(FileEvent::RemoteCall(record), true)?;
        answer
    }

    fn missing(&self, operation: &str, member: &str) -> KmsError {
        let region = &self.region;
        let message = format!("AWS KMS in {region} answered {operation} without {member}");
        KmsError::at_aws(KmsErrorKind::DependencyTimeout, message)
    }

    /// The key that an answer names. It becomes part of headers and descriptors, so it must be an ARN, and if a key was asked for
    /// by its ARN, that one: under another name nothing would find it again.
    fn answered(
        &self,
        operation: &str,
        asked: Option<&str>,
        named: Option<String>,
        member: &str,
    ) -> Result<String, KmsError> {
        let named = named.filter(|named| is_arn(named)).ok_or_else(|| self.missing(operation, member))?;
        match asked.filter(|asked| asked.starts_with("arn:") && asked.contains(":key/")) {
            Some(asked) if asked != named => {
                let region = &self.region;
                let message = format!(
                    "AWS KMS in {region} answered {operation} under {asked} as if it were under {named}"
                );
                Err(KmsError::at_aws(KmsErrorKind::DependencyTimeout, message))
            }
            _ => Ok(named),
        }
    }

    fn data_key(&self, asked: &str, answer: GenerateDataKeyOutput) -> Result<DataKey, KmsError> {
        let missing = |member| self.missing("GenerateDataKey", member);
        let plaintext = answer.plaintext.map(|blob| SecretVec::new(blob.into_inner()));
        let plaintext = plaintext.filter(|key| key.expose().len() == DATA_KEY_LEN as usize);
        Ok(DataKey {
            plaintext: plaintext.ok_or_else(|| missing("a key of 32 bytes"))?,
            key_arn: self.answered("GenerateDataKey", Some(asked), answer.key_id, "KeyId")?,
            ciphertext: answer.ciphertext_blob.ok_or_else(|| missing("CiphertextBlob"))?.into_inner(),
        })
    }
}

impl Drop for AwsKms {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Puts what an answer names into its record; what is no name is not worth a place there.
fn note(record: &mut RemoteCall, (arns, material): (Vec<Option<&str>>, Option<&str>)) {
    let arns: Vec<String> = arns.into_iter().flatten().filter(|arn| is_arn(arn)).map(str::to_owned).collect();
    if !arns.is_empty() {
        record.key_arns = arns;
    }
    let is_id = |id: &&str| id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    record.key_material_id = material.filter(is_id).map(str::to_owned);
}

/// As AWS limits them, and as descriptors take them.
fn is_arn(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    text.starts_with("arn:") && text.len() <= 2048 && text.bytes().all(plain)
}

/// Counts how often a call is sent, and sends none where others could read plaintext keys. Reads no endless answers.
#[derive(Debug, Clone, Default)]
struct Attempts(Arc<AtomicU32>);

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "kmsfs"
    }

    /// The endpoint is known by now, and nothing is sent yet.
    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Whoever set the endpoint: an option, a variable, a profile.
        if !is_private(context.request().uri()) {
            return Err(PLAIN_HTTP.into());
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The head is there by now, and nothing behind it was read.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().body_mut();
        let whole = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(Limited::new(whole, LONGEST_ANSWER));
        Ok(())
    }
}

/// Said where an endpoint would show keys to the network.
const PLAIN_HTTP: &str =
    "plain HTTP to another machine would show plaintext keys to the network; the endpoint must be https://";

/// TLS, or this machine's loopback.
fn is_private(uri: &str) -> bool {
    let Some(rest) = uri.strip_prefix("http://") else { return uri.starts_with("https://") };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // Behind a user's name and before a port.
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// None for an empty one, as callers of AWS KMS have it.
fn pairs(context: &EncryptionContext) -> Option<std::collections::HashMap<String, String>> {
    (!context.is_empty()).then(|| context.iter().map(|(k, v)| (k.clone(), v.clone())).collect())
}

async fn generate(
    client: Client,
    key_id: String,
    context: EncryptionContext,
    attempts: Attempts,
) -> Result<GenerateDataKeyOutput, SdkError<GenerateDataKeyError, Response>> {
    let request = client.generate_data_key().key_id(key_id).number_of_bytes(DATA_KEY_LEN);
    request.set_encryption_context(pairs(&context)).customize().interceptor(attempts).send().await
}

impl KeyService for AwsKms {
    fn holder(&self) -> KeyHolder {
        KeyHolder::Aws
    }

    fn generate_data_key(&self, key_id: &str, context: &EncryptionContext) -> Result<DataKey, KmsError> {
        let mut record = self.record_of("GenerateDataKey", Some(key_id));
        record.context = Some(context.clone());
        let attempts = Attempts::default();
        let call = generate(self.client.clone(), key_id.to_owned(), context.clone(), attempts.clone());
        let answer = self.call(record, &attempts, call, |a| (vec![a.key_id()], a.key_material_id()))?;
        self.data_key(key_id, answer)
    }

    /// As many calls, some at once; one transaction of the log.
    fn generate_data_keys(
        &self,
        key_id: &str,
        contexts: &[EncryptionContext],
    ) -> Result<Vec<DataKey>, KmsError> {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let answers = self.block_on(async {
            let begun: Vec<_> = contexts
                .iter()
                .map(|context| {
                    let (places, attempts) = (places.clone(), Attempts::default());
                    let call =
                        generate(self.client.clone(), key_id.to_owned(), context.clone(), attempts.clone());
                    let task = tokio::spawn(async move {
                        // Closed by nobody.
                        let _place = places.acquire().await;
                        call.await
                    });
                    (task, attempts)
                })
                .collect();
            let mut answers = Vec::with_capacity(begun.len());
            for (task, attempts) in begun {
                answers.push((task.await, attempts));
            }
            answers
        })?;
        let count = answers.len();
        let mut made = Vec::with_capacity(count);
        for (n, ((answer, attempts), context)) in answers.into_iter().zip(contexts).enumerate() {
            let mut record = self.record_of("GenerateDataKey", Some(key_id));
            record.context = Some(context.clone());
            let fell_over =
                |e| KmsError::at_aws(KmsErrorKind::Internal, format!("a call to AWS KMS broke off: {e}"));
            let answer = match answer {
                Ok(answer) => self.settle(&mut record, &attempts, answer),
                Err(broken) => {
                    let error = fell_over(broken);
                    record.error = Some((error.kind.name().to_owned(), error.message.clone()));
                    Err(error)
                }
            };
            if let Ok(answer) = &answer {
                note(&mut record, (vec![answer.key_id()], answer.key_material_id()));
            }
            // The last one brings the others into the log's store too.
            self.ledger.record(FileEvent::RemoteCall(record), n + 1 == count)?;
            made.push(answer.and_then(|answer| self.data_key(key_id, answer)));
        }
        made.into_iter().collect()
    }

    fn encrypt(
        &self,
        key_id: &str,
        plaintext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Encrypted, KmsError> {
        let mut record = self.record_of("Encrypt", Some(key_id));
        record.context = Some(context.clone());
        let attempts = Attempts::default();
        let request = self.client.encrypt().key_id(key_id).plaintext(Blob::new(plaintext));
        let request = request.set_encryption_context(pairs(context));
        let call = request.customize().interceptor(attempts.clone()).send();
        let answer = self.call(record, &attempts, call, |a| (vec![a.key_id()], None))?;
        let missing = |member| self.missing("Encrypt", member);
        Ok(Encrypted {
            key_arn: self.answered("Encrypt", Some(key_id), answer.key_id, "KeyId")?,
            ciphertext: answer.ciphertext_blob.ok_or_else(|| missing("CiphertextBlob"))?.into_inner(),
        })
    }

    fn decrypt(
        &self,
        key_id: Option<&str>,
        ciphertext: &[u8],
        context: &EncryptionContext,
    ) -> Result<Decrypted, KmsError> {
        let mut record = self.record_of("Decrypt", key_id);
        record.context = Some(context.clone());
        let attempts = Attempts::default();
        let request = self.client.decrypt().set_key_id(key_id.map(str::to_owned));
        let request = request.ciphertext_blob(Blob::new(ciphertext)).set_encryption_context(pairs(context));
        let call = request.customize().interceptor(attempts.clone()).send();
        let answer = self.call(record, &attempts, call, |a| (vec![a.key_id()], a.key_material_id()))?;
        let missing = |member| self.missing("Decrypt", member);
        let plaintext = answer.plaintext.map(|blob| SecretVec::new(blob.into_inner()));
        Ok(Decrypted {
            plaintext: plaintext.ok_or_else(|| missing("Plaintext"))?,
            key_arn: self.answered("Decrypt", key_id, answer.key_id, "KeyId")?,
            key_material_id: answer.key_material_id,
        })
    }

    fn re_encrypt(
        &self,
        ciphertext: &[u8],
        source_context: &EncryptionContext,
        destination_key_id: &str,
        destination_context: &EncryptionContext,
    ) -> Result<ReEncrypted, KmsError> {
        let mut record = self.record_of("ReEncrypt", Some(destination_key_id));
        record.context = Some(source_context.clone());
        record.destination_context = Some(destination_context.clone());
        let attempts = Attempts::default();
        let request = self.client.re_encrypt().ciphertext_blob(Blob::new(ciphertext));
        let request = request.set_source_encryption_context(pairs(source_context));
        let request = request.destination_key_id(destination_key_id);
        let request = request.set_destination_encryption_context(pairs(destination_context));
        let call = request.customize().interceptor(attempts.clone()).send();
        let answer = self.call(record, &attempts, call, |a| {
            (vec![a.source_key_id(), a.key_id()], a.destination_key_material_id())
        })?;
        let missing = |member| self.missing("ReEncrypt", member);
        Ok(ReEncrypted {
            source_key_arn: self.answered("ReEncrypt", None, answer.source_key_id, "SourceKeyId")?,
            key_arn: self.answered("ReEncrypt", Some(destination_key_id), answer.key_id, "KeyId")?,
            ciphertext: answer.ciphertext_blob.ok_or_else(|| missing("CiphertextBlob"))?.into_inner(),
        })
    }

    fn describe_key(&self, key_id: &str) -> Result<KeyMetadata, KmsError> {
        let record = self.record_of("DescribeKey", Some(key_id));
        let attempts = Attempts::default();
        let request = self.client.describe_key().key_id(key_id);
        let call = request.customize().interceptor(attempts.clone()).send();
        let answer =
            self.call(record, &attempts, call, |a| (vec![a.key_metadata().and_then(|key| key.arn())], None))?;
        let missing = |member| self.missing("DescribeKey", member);
        let key = answer.key_metadata.ok_or_else(|| missing("KeyMetadata"))?;
        let key_arn = self.answered("DescribeKey", Some(key_id), key.arn, "Arn")?;
        let state = key.key_state.ok_or_else(|| missing("KeyState"))?;
        let state = state_of(state.as_str()).ok_or_else(|| {
            let message =
                format!("{key_arn} cannot be used now: its state is {}", error::plain(state.as_str(), 64));
            KmsError::at_aws(KmsErrorKind::DependencyTimeout, message)
        })?;
        // The fourth part of an ARN.
        let region = key_arn.split(':').nth(3).unwrap_or(&self.region).to_owned();
        Ok(KeyMetadata { key_arn, region, state })
    }
}

impl Ledger for AwsKms {
    /// AWS KMS has no such number.
    fn generation(&self) -> Result<Option<u64>, KmsError> {
        Ok(None)
    }

    fn record(&self, event: FileEvent, sync: bool) -> Result<(), KmsError> {
        self.ledger.record(event, sync)
    }
}

/// None: of a custom key store that is not connected, or one that came after this was written.
fn state_of(name: &str) -> Option<KeyState> {
    Some(match name {
        "Enabled" => KeyState::Enabled,
        "Disabled" => KeyState::Disabled,
        "PendingDeletion" => KeyState::PendingDeletion,
        "PendingImport" => KeyState::PendingImport,
        "Creating" => KeyState::Creating,
        "PendingReplicaDeletion" => KeyState::PendingReplicaDeletion,
        "Updating" => KeyState::Updating,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_goes_to_this_machine_only() {
        for uri in [
            "https://kms.eu-west-1.amazonaws.com/",
            "http://127.0.0.1:4566",
            "http://[::1]:1/",
            "http://localhost/",
        ] {
            assert!(is_private(uri), "{uri}");
        }
        for uri in [
            "http://kms.eu-west-1.amazonaws.com/",
            "http://10.0.0.1:80/",
            "http://127.0.0.1@example.org/",
            "http://localhost.example.org",
            "http://[::2]/",
            "ftp://localhost/",
            "",
        ] {
            assert!(!is_private(uri), "{uri}");
        }
    }

    #[test]
    fn states_that_are_not_known_are_none() {
        assert_eq!(state_of("PendingReplicaDeletion"), Some(KeyState::PendingReplicaDeletion));
        assert_eq!(state_of("Unavailable"), None);
    }
}
