//! Key pairs and HMAC: signatures, codes, agreement, public keys, data key pairs.

use std::sync::Arc;

use super::crypto::{material_of, no_enclaves, seal, used_for};
use super::{SYMMETRIC_DEFAULT, invalid, only, refused, usable};
use crate::crypto::CryptoError;
use crate::crypto::asymmetric::{MessageType, PairSpec, PrivateKey, PublicKey, SigningAlgorithm};
use crate::crypto::mac::Hmac;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::{Parameters, some};
use crate::kms::operation::{InTable, Operation};
use crate::kms::region::Fault;
use crate::kms::spec::{KeySpec, KeyUsage};
use crate::kms::wire::{
    DeriveSharedSecretRequest, DeriveSharedSecretResponse, GenerateDataKeyPairRequest,
    GenerateDataKeyPairResponse, GenerateDataKeyPairWithoutPlaintextRequest,
    GenerateDataKeyPairWithoutPlaintextResponse, GenerateMacRequest, GenerateMacResponse,
    GetPublicKeyRequest, GetPublicKeyResponse, SignRequest, SignResponse, VerifyMacRequest,
    VerifyMacResponse, VerifyRequest, VerifyResponse,
};
use crate::kms::{EncryptionContext, KmsError, KmsErrorKind, check};

const MAX_MESSAGE: usize = 4096;
const MAX_SIGNATURE: usize = 6144;
const MAX_PUBLIC_KEY: usize = 8192;
const SIGNING_ALGORITHMS: [&str; 13] = [
    "RSASSA_PSS_SHA_256",
    "RSASSA_PSS_SHA_384",
    "RSASSA_PSS_SHA_512",
    "RSASSA_PKCS1_V1_5_SHA_256",
    "RSASSA_PKCS1_V1_5_SHA_384",
    "RSASSA_PKCS1_V1_5_SHA_512",
    "ECDSA_SHA_256",
    "ECDSA_SHA_384",
    "ECDSA_SHA_512",
    "SM2DSA",
    "ML_DSA_SHAKE_256",
    "ED25519_SHA_512",
    "ED25519_PH_SHA_512",
];
const MAC_ALGORITHMS: [&str; 4] = ["HMAC_SHA_224", "HMAC_SHA_256", "HMAC_SHA_384", "HMAC_SHA_512"];
const DATA_KEY_PAIRS: [&str; 9] = [
    "RSA_2048",
    "RSA_3072",
    "RSA_4096",
    "ECC_NIST_P256",
    "ECC_NIST_P384",
    "ECC_NIST_P521",
    "ECC_SECG_P256K1",
    "SM2",
    "ECC_NIST_EDWARDS25519",
];

/// An algorithm that keys of this spec do not have.
pub fn unsuited(key: &Key, algorithm: &str) -> Fault {
    let (spec, arn) = (key.row.spec.name(), &key.arn_text);
    let message = format!("Algorithm {algorithm} and key spec {spec} of {arn} do not go together.");
    refused(KmsErrorKind::InvalidKeyUsage, message)
}

/// What the requests of nothing but a key, a message and an algorithm have in common.
macro_rules! common {
    ($key:ident) => {
        fn subjects(&self) -> Vec<Subject<'_>> {
            usable(&self.$key, Self::ROW.action)
        }

        fn grant_tokens(&self) -> &[String] {
            &self.grant_tokens
        }

        fn dry_run(&self) -> bool {
            self.dry_run
        }
    };
}

impl Operation for GetPublicKeyRequest {
    type Response = GetPublicKeyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::grant_tokens(&self.grant_tokens)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        usable(&self.key_id, Self::ROW.action)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters { key_id: Some(&self.key_id), ..Parameters::default() }
    }

    fn grant_tokens(&self) -> &[String] {
        &self.grant_tokens
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let KeySpec::Pair(_) = key.row.spec else {
            let (arn, spec) = (&key.arn_text, key.row.spec.name());
            let message = format!("{arn} has the key spec {spec} and so no public key.");
            return Err(refused(KmsErrorKind::UnsupportedOperation, message));
        };
        let public = material_of(call, key)?.pair()?.public_key()?;
        let spec = key.row.spec.name();
        Ok(GetPublicKeyResponse {
            key_id: key.arn_text.clone(),
            public_key: public.der().to_vec(),
            customer_master_key_spec: spec,
            key_spec: spec,
            key_usage: key.row.usage.name(),
            encryption_algorithms: key.row.encryption_algorithms(),
            signing_algorithms: key.row.signing_algorithms(),
            key_agreement_algorithms: key.row.key_agreement_algorithms(),
            encapsulation_algorithms: key.row.encapsulation_algorithms(),
        })
    }
}

/// The bounds of Sign and Verify, and how the two fields read.
fn signing(
    message: &[u8],
    kind: Option<&str>,
    algorithm: &str,
) -> std::result::Result<(MessageType, SigningAlgorithm), KmsError> {
    check::length("message", message.len(), 1, MAX_MESSAGE)?;
    check::one_of("messageType", kind, &["RAW", "DIGEST", "EXTERNAL_MU"])?;
    check::required("signingAlgorithm", algorithm, 64)?;
    check::one_of("signingAlgorithm", Some(algorithm), &SIGNING_ALGORITHMS)?;
    let name = kind.unwrap_or("RAW");
    let kind = match name {
        "DIGEST" => MessageType::Digest,
        "EXTERNAL_MU" => MessageType::ExternalMu,
        _ => MessageType::Raw,
    };
    let Some(parsed) = SigningAlgorithm::from_name(algorithm) else {
        let message = format!("this key service has no signing algorithm {algorithm}");
        return Err(KmsError::new(KmsErrorKind::UnsupportedOperation, message));
    };
    let good = match parsed {
        SigningAlgorithm::RsaPss(_) | SigningAlgorithm::RsaPkcs1(_) | SigningAlgorithm::Ecdsa(_) => {
            kind != MessageType::ExternalMu
        }
        SigningAlgorithm::Ed25519 => kind == MessageType::Raw,
        SigningAlgorithm::Ed25519Ph => kind == MessageType::Digest,
        SigningAlgorithm::MlDsa => kind != MessageType::Digest,
    };
    if !good {
        return Err(invalid(&format!("MessageType {name} is not valid for SigningAlgorithm {algorithm}.")));
    }
    // What Ed25519ph is given as a digest it hashes again, as AWS KMS does; the length is a digest's.
    if parsed == SigningAlgorithm::Ed25519Ph && message.len() != 64 {
        return Err(bad_digest(algorithm));
    }
    Ok((kind, parsed))
}

fn bad_digest(algorithm: &str) -> KmsError {
    invalid(&format!("Digest is invalid length for algorithm {algorithm}."))
}

/// The key, if it is for signatures and has the algorithm.
fn signs(key: &Key, operation: &str, algorithm: SigningAlgorithm) -> Result<()> {
    used_for(key, KeyUsage::SignVerify, operation)?;
    match key.row.spec {
        KeySpec::Pair(spec) if spec.signing_algorithms().contains(&algorithm) => Ok(()),
        _ => Err(unsuited(key, algorithm.name())),
    }
}

fn signing_fault(error: CryptoError, algorithm: SigningAlgorithm) -> Fault {
    match error {
        CryptoError::BadLength { .. } => Fault::Refused(bad_digest(algorithm.name())),
        CryptoError::NotAuthentic => refused(
            KmsErrorKind::InvalidSignature,
            "the signature is not this key's over this message with this algorithm",
        ),
        other => other.into(),
    }
}

impl Operation for SignRequest {
    type Response = SignResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::grant_tokens(&self.grant_tokens)?;
        signing(self.message.expose(), self.message_type.as_deref(), &self.signing_algorithm).map(drop)
    }

    common!(key_id);

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            message_type: Some(self.message_type.as_deref().unwrap_or("RAW")),
            signing_algorithm: Some(&self.signing_algorithm),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let message = self.message.expose();
        let (kind, algorithm) = signing(message, self.message_type.as_deref(), &self.signing_algorithm)?;
        signs(key, "Sign", algorithm)?;
        let signature = material_of(call, key)?.pair()?.sign(algorithm, kind, message);
        Ok(SignResponse {
            key_id: key.arn_text.clone(),
            signature: signature.map_err(|error| signing_fault(error, algorithm))?,
            signing_algorithm: algorithm.name(),
        })
    }
}

impl Operation for VerifyRequest {
    type Response = VerifyResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::length("signature", self.signature.len(), 1, MAX_SIGNATURE)?;
        check::grant_tokens(&self.grant_tokens)?;
        signing(self.message.expose(), self.message_type.as_deref(), &self.signing_algorithm).map(drop)
    }

    common!(key_id);

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            message_type: Some(self.message_type.as_deref().unwrap_or("RAW")),
            signing_algorithm: Some(&self.signing_algorithm),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let message = self.message.expose();
        let (kind, algorithm) = signing(message, self.message_type.as_deref(), &self.signing_algorithm)?;
        signs(key, "Verify", algorithm)?;
        material_of(call, key)?
            .pair()?
            .public_key()?
            .verify(algorithm, kind, message, &self.signature)
            .map_err(|error| signing_fault(error, algorithm))?;
        let (key_id, signing_algorithm) = (key.arn_text.clone(), algorithm.name());
        Ok(VerifyResponse { key_id, signature_valid: true, signing_algorithm })
    }
}

fn check_mac(message: &[u8], algorithm: &str) -> std::result::Result<(), KmsError> {
    check::length("message", message.len(), 1, MAX_MESSAGE)?;
    check::required("macAlgorithm", algorithm, 64)?;
    check::one_of("macAlgorithm", Some(algorithm), &MAC_ALGORITHMS)
}

/// The key's HMAC, if it is for that and this is its algorithm.
fn macs(key: &Key, operation: &str, algorithm: &str) -> Result<Hmac> {
    used_for(key, KeyUsage::GenerateVerifyMac, operation)?;
    match key.row.spec {
        KeySpec::Hmac(hmac) if hmac.name() == algorithm => Ok(hmac),
        _ => Err(unsuited(key, algorithm)),
    }
}

impl Operation for GenerateMacRequest {
    type Response = GenerateMacResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::grant_tokens(&self.grant_tokens)?;
        check_mac(self.message.expose(), &self.mac_algorithm)
    }

    common!(key_id);

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            mac_algorithm: Some(&self.mac_algorithm),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let hmac = macs(key, "GenerateMac", &self.mac_algorithm)?;
        let mac = hmac.code(material_of(call, key)?.hmac()?, self.message.expose());
        Ok(GenerateMacResponse { mac, mac_algorithm: hmac.name(), key_id: key.arn_text.clone() })
    }
}

impl Operation for VerifyMacRequest {
    type Response = VerifyMacResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::length("mac", self.mac.len(), 1, MAX_SIGNATURE)?;
        check::grant_tokens(&self.grant_tokens)?;
        check_mac(self.message.expose(), &self.mac_algorithm)
    }

    common!(key_id);

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            mac_algorithm: Some(&self.mac_algorithm),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let hmac = macs(key, "VerifyMac", &self.mac_algorithm)?;
        let checked = hmac.verify(material_of(call, key)?.hmac()?, self.message.expose(), &self.mac);
        checked
            .map_err(|_| refused(KmsErrorKind::InvalidMac, "the code is not this key's over this message"))?;
        Ok(VerifyMacResponse { key_id: key.arn_text.clone(), mac_valid: true, mac_algorithm: hmac.name() })
    }
}

impl Operation for DeriveSharedSecretRequest {
    type Response = DeriveSharedSecretResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::required("keyAgreementAlgorithm", &self.key_agreement_algorithm, 64)?;
        check::one_of("keyAgreementAlgorithm", Some(&self.key_agreement_algorithm), &["ECDH"])?;
        check::length("publicKey", self.public_key.len(), 1, MAX_PUBLIC_KEY)?;
        check::grant_tokens(&self.grant_tokens)?;
        no_enclaves(self.recipient.as_ref())
    }

    common!(key_id);

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            key_agreement_algorithm: Some(&self.key_agreement_algorithm),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        used_for(key, KeyUsage::KeyAgreement, "DeriveSharedSecret")?;
        let material = material_of(call, key)?;
        let own = material.pair()?;
        let agreed = PublicKey::from_der(own.spec(), &self.public_key).and_then(|peer| own.agree(&peer));
        let shared_secret = agreed.map_err(|error| match error {
            CryptoError::Rejected { .. } => Fault::Refused(invalid(&format!(
                "PublicKey is no public key of {} in DER (SubjectPublicKeyInfo).",
                own.spec().name()
            ))),
            other => other.into(),
        })?;
        Ok(DeriveSharedSecretResponse {
            key_id: key.arn_text.clone(),
            shared_secret,
            key_agreement_algorithm: "ECDH",
            key_origin: key.row.origin(),
        })
    }
}

/// A fresh key pair for use elsewhere: the private key in the clear and under `key`, and the public one.
struct Made {
    private: crate::crypto::SecretVec,
    sealed: Vec<u8>,
    public: Vec<u8>,
    spec: &'static str,
    material: String,
}

fn data_key_pair(
    call: &mut Call<'_, '_>,
    key: &Key,
    spec: &str,
    context: &EncryptionContext,
    operation: &str,
) -> Result<Made> {
    used_for(key, KeyUsage::EncryptDecrypt, operation)?;
    if key.row.spec != KeySpec::Symmetric {
        return Err(unsuited(key, SYMMETRIC_DEFAULT));
    }
    let Some(spec) = PairSpec::from_name(spec) else {
        let message = format!("this key service has no key pairs of the spec {spec}");
        return Err(refused(KmsErrorKind::UnsupportedOperation, message));
    };
    let pair = PrivateKey::generate(spec)?;
    let (private, public) = (pair.to_bytes()?, pair.public_key()?.der().to_vec());
    let (sealed, material) = seal(call, key, private.expose(), context)?;
    Ok(Made { private, sealed, public, spec: spec.name(), material: hex::encode(material) })
}

/// What the two ways to get a data key pair have in common.
macro_rules! data_key_pairs {
    ($($request:ident => $response:ty, |$this:ident| $also:expr, $answer:expr;)*) => {$(
        impl Operation for $request {
            type Response = $response;

            fn check(&self) -> std::result::Result<(), KmsError> {
                let $this = self;
                check::key_id("keyId", &self.key_id)?;
                check::required("keyPairSpec", &self.key_pair_spec, 64)?;
                check::one_of("keyPairSpec", Some(&self.key_pair_spec), &DATA_KEY_PAIRS)?;
                check::context("encryptionContext", &self.encryption_context)?;
                check::grant_tokens(&self.grant_tokens)?;
                $also
            }

            common!(key_id);

            fn parameters(&self) -> Parameters<'_> {
                Parameters {
                    key_id: Some(&self.key_id),
                    encryption_context: some(&self.encryption_context),
                    key_pair_spec: Some(&self.key_pair_spec),
                    dry_run: Some(true).filter(|_| self.dry_run),
                    ..Parameters::default()
                }
            }

            fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
                let key = only(keys)?;
                let (spec, context) = (&self.key_pair_spec, &self.encryption_context);
                let made = data_key_pair(call, key, spec, context, Self::ROW.name)?;
                Ok($answer(key.arn_text.clone(), made))
            }
        }
    )*};
}

data_key_pairs! {
    GenerateDataKeyPairRequest => GenerateDataKeyPairResponse, |this| no_enclaves(this.recipient.as_ref()),
        |key_id, made: Made| GenerateDataKeyPairResponse {
            private_key_ciphertext_blob: made.sealed,
            private_key_plaintext: made.private,
            public_key: made.public,
            key_id,
            key_pair_spec: made.spec,
            key_material_id: made.material,
        };
    GenerateDataKeyPairWithoutPlaintextRequest => GenerateDataKeyPairWithoutPlaintextResponse, |_this| Ok(()),
        |key_id, made: Made| GenerateDataKeyPairWithoutPlaintextResponse {
            private_key_ciphertext_blob: made.sealed,
            public_key: made.public,
            key_id,
            key_pair_spec: made.spec,
            key_material_id: made.material,
        };
}
