use super::*;
use crate::crypto::wrap;

const MESSAGE: &[u8] = b"what is signed";

fn signing() -> impl Iterator<Item = PairSpec> {
    PairSpec::ALL.into_iter().filter(|spec| !spec.signing_algorithms().is_empty())
}

/// RSA of one size is enough where the size does not matter; it is slow to make.
fn quick() -> impl Iterator<Item = PairSpec> {
    PairSpec::ALL.into_iter().filter(|spec| spec.modulus_len().is_none_or(|len| len == 256))
}

#[test]
fn every_spec_is_made_kept_and_loaded_again() {
    for spec in PairSpec::ALL {
        let key = PrivateKey::generate(spec).unwrap();
        let again = PrivateKey::from_bytes(spec, key.to_bytes().unwrap().expose()).unwrap();
        assert_eq!(again.to_bytes().unwrap().expose(), key.to_bytes().unwrap().expose(), "{spec:?}");
        let public = key.public_key().unwrap();
        assert_eq!(again.public_key().unwrap(), public);
        assert_eq!(PublicKey::from_der(spec, public.der()).unwrap(), public);
        assert_eq!(PublicKey::parse(public.der()).unwrap().spec(), spec);
        assert_eq!(PairSpec::from_name(spec.name()), Some(spec));
    }
}

#[test]
fn a_key_of_another_spec_or_cut_is_refused() {
    for spec in quick() {
        let key = PrivateKey::generate(spec).unwrap();
        let (private, public) = (key.to_bytes().unwrap(), key.public_key().unwrap());
        let len = private.len();
        assert!(PrivateKey::from_bytes(spec, &private.expose()[..len - 1]).is_err());
        assert!(PrivateKey::from_bytes(spec, &[private.expose(), &[0]].concat()).is_err());
        assert!(PrivateKey::from_bytes(spec, &[]).is_err());
        for bad in [&public.der()[..public.der().len() - 1], &[public.der(), &[0]].concat(), &[]] {
            assert_eq!(
                PublicKey::from_der(spec, bad).err(),
                Some(CryptoError::Rejected { what: "public key" }),
                "{spec:?}"
            );
        }
        for other in PairSpec::ALL.into_iter().filter(|other| *other != spec) {
            assert!(PrivateKey::from_bytes(other, private.expose()).is_err(), "{spec:?} as {other:?}");
            assert!(PublicKey::from_der(other, public.der()).is_err(), "{spec:?} as {other:?}");
        }
    }
}

#[test]
fn bare_public_keys_are_not_taken_for_wrapped_ones() {
    for spec in
        [PairSpec::P256, PairSpec::Secp256k1, PairSpec::Ed25519, PairSpec::MlDsa44, PairSpec::MlKem512]
    {
        let der = PrivateKey::generate(spec).unwrap().public_key().unwrap().der;
        let bare = match spec {
            PairSpec::Ed25519 => 32,
            PairSpec::MlDsa44 => 1312,
            PairSpec::MlKem512 => 800,
            _ => 65,
        };
        assert!(PublicKey::from_der(spec, &der[der.len() - bare..]).is_err(), "{spec:?}");
    }
}

#[test]
fn every_algorithm_signs_and_a_change_shows() {
    for spec in signing() {
        let key = PrivateKey::generate(spec).unwrap();
        let public = key.public_key().unwrap();
        for &algorithm in spec.signing_algorithms() {
            assert_eq!(SigningAlgorithm::from_name(algorithm.name()), Some(algorithm));
            let signature = key.sign(algorithm, MessageType::Raw, MESSAGE).unwrap();
            public.verify(algorithm, MessageType::Raw, MESSAGE, &signature).unwrap();
            let not = Err(CryptoError::NotAuthentic);
            assert_eq!(public.verify(algorithm, MessageType::Raw, b"another", &signature), not);
            for at in [0, signature.len() / 2, signature.len() - 1] {
                let mut bad = signature.clone();
                bad[at] ^= 1;
                assert_eq!(public.verify(algorithm, MessageType::Raw, MESSAGE, &bad), not, "{spec:?} {at}");
            }
            for bad in [&signature[..signature.len() - 1], &[&signature[..], &[0]].concat(), &[]] {
                assert_eq!(public.verify(algorithm, MessageType::Raw, MESSAGE, bad), not);
            }
        }
    }
}

#[test]
fn a_digest_gives_the_signature_of_its_message() {
    for spec in signing() {
        let key = PrivateKey::generate(spec).unwrap();
        let public = key.public_key().unwrap();
        for &algorithm in spec.signing_algorithms() {
            let hash = match algorithm {
                SigningAlgorithm::RsaPss(hash)
                | SigningAlgorithm::RsaPkcs1(hash)
                | SigningAlgorithm::Ecdsa(hash) => hash,
                _ => continue,
            };
            let digest = match hash {
                Sha2::Sha256 => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, MESSAGE),
                Sha2::Sha384 => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, MESSAGE),
                Sha2::Sha512 => aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, MESSAGE),
            };
            let signature = key.sign(algorithm, MessageType::Digest, digest.as_ref()).unwrap();
            public.verify(algorithm, MessageType::Raw, MESSAGE, &signature).unwrap();
            public.verify(algorithm, MessageType::Digest, digest.as_ref(), &signature).unwrap();
            let short = &digest.as_ref()[1..];
            let bad = CryptoError::BadLength { what: "message digest" };
            assert_eq!(key.sign(algorithm, MessageType::Digest, short), Err(bad));
            assert_eq!(public.verify(algorithm, MessageType::Digest, short, &signature), Err(bad));
            let mu = Err(BAD_KIND);
            assert_eq!(public.verify(algorithm, MessageType::ExternalMu, &[0; 64], &signature), mu);
            assert_eq!(key.sign(algorithm, MessageType::ExternalMu, &[0; 64]).err(), mu.err());
        }
    }
}

#[test]
fn algorithms_of_other_keys_are_refused() {
    for spec in quick() {
        let key = PrivateKey::generate(spec).unwrap();
        let public = key.public_key().unwrap();
        for algorithm in PairSpec::ALL.into_iter().flat_map(PairSpec::signing_algorithms) {
            if !spec.signing_algorithms().contains(algorithm) {
                assert_eq!(key.sign(*algorithm, MessageType::Raw, MESSAGE), Err(UNSUITED));
                assert_eq!(public.verify(*algorithm, MessageType::Raw, MESSAGE, b"x"), Err(UNSUITED));
            }
        }
        if spec.modulus_len().is_none() {
            assert_eq!(key.decrypt(Oaep::Sha256, &[0; 256]).err(), Some(UNSUITED));
            assert_eq!(public.encrypt(Oaep::Sha256, b"x").err(), Some(UNSUITED));
        }
        if !spec.agrees() {
            assert_eq!(key.agree(&public).err(), Some(UNSUITED));
        }
        if !spec.encapsulates() {
            assert_eq!(key.decapsulate(&[0; 768]).err(), Some(UNSUITED));
            assert_eq!(public.encapsulate().err(), Some(UNSUITED));
        }
    }
}

/// RFC 8032 section 7.3.
#[test]
fn ed25519ph_agrees_with_rfc_8032() {
    let seed = hex::decode("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42").unwrap();
    let expected = concat!(
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41",
        "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
    );
    let signature = native::sign_ed25519ph(seed.as_slice().try_into().unwrap(), b"abc").unwrap();
    assert_eq!(hex::encode(signature), expected);
    // RFC 8410: version 0, algorithm 1.3.101.112, the seed in two octet strings.
    let pkcs8 = [hex::decode("302e020100300506032b657004220420").unwrap(), seed].concat();
    let key = PrivateKey::from_bytes(PairSpec::Ed25519, &pkcs8).unwrap();
    assert_eq!(
        hex::encode(key.sign(SigningAlgorithm::Ed25519Ph, MessageType::Digest, b"abc").unwrap()),
        expected
    );
    assert_eq!(key.sign(SigningAlgorithm::Ed25519, MessageType::Digest, b"abc"), Err(BAD_KIND));
}

#[test]
fn ml_dsa_signs_an_external_mu() {
    let mu = [7; 64];
    for spec in [PairSpec::MlDsa44, PairSpec::MlDsa65, PairSpec::MlDsa87] {
        let key = PrivateKey::generate(spec).unwrap();
        let public = key.public_key().unwrap();
        let algorithm = SigningAlgorithm::MlDsa;
        let signature = key.sign(algorithm, MessageType::ExternalMu, &mu).unwrap();
        public.verify(algorithm, MessageType::ExternalMu, &mu, &signature).unwrap();
        let not = Err(CryptoError::NotAuthentic);
        assert_eq!(public.verify(algorithm, MessageType::ExternalMu, &[8; 64], &signature), not);
        assert_eq!(public.verify(algorithm, MessageType::Raw, &mu, &signature), not);
        assert_eq!(public.verify(algorithm, MessageType::ExternalMu, &mu, &signature[1..]), not);
        assert!(key.sign(algorithm, MessageType::ExternalMu, &mu[1..]).is_err());
        assert_eq!(key.sign(algorithm, MessageType::Digest, &mu), Err(BAD_KIND));
    }
}

#[test]
fn oaep_takes_up_to_its_bound_and_opens_nothing_changed() {
    for spec in [PairSpec::Rsa2048, PairSpec::Rsa3072, PairSpec::Rsa4096] {
        let key = PrivateKey::generate(spec).unwrap();
        let public = key.public_key().unwrap();
        for (algorithm, other) in [(Oaep::Sha1, Oaep::Sha256), (Oaep::Sha256, Oaep::Sha1)] {
            let most = public.encrypts_at_most(algorithm).unwrap();
            for len in [0, 1, most] {
                let plaintext = vec![0x5a; len];
                let mut ciphertext = public.encrypt(algorithm, &plaintext).unwrap();
                assert_eq!(ciphertext.len(), spec.modulus_len().unwrap());
                assert_eq!(key.decrypt(algorithm, &ciphertext).unwrap().expose(), plaintext);
                let not = Some(CryptoError::NotAuthentic);
                assert_eq!(key.decrypt(other, &ciphertext).err(), not);
                assert_eq!(key.decrypt(algorithm, &ciphertext[1..]).err(), not);
                ciphertext[100] ^= 1;
                assert_eq!(key.decrypt(algorithm, &ciphertext).err(), not);
            }
            assert!(public.encrypt(algorithm, &vec![0; most + 1]).is_err());
        }
    }
}

/// The bounds that AWS publishes.
#[test]
fn oaep_bounds_are_the_published_ones() {
    let bound = |spec, algorithm| PublicKey { spec, der: Vec::new() }.encrypts_at_most(algorithm);
    let specs = [PairSpec::Rsa2048, PairSpec::Rsa3072, PairSpec::Rsa4096];
    assert_eq!(specs.map(|spec| bound(spec, Oaep::Sha256)), [Some(190), Some(318), Some(446)]);
    assert_eq!(specs.map(|spec| bound(spec, Oaep::Sha1)), [Some(214), Some(342), Some(470)]);
}

#[test]
fn two_keys_of_a_curve_agree_and_of_two_curves_do_not() {
    for spec in [PairSpec::P256, PairSpec::P384, PairSpec::P521] {
        let (a, b) = (PrivateKey::generate(spec).unwrap(), PrivateKey::generate(spec).unwrap());
        let secret = a.agree(&b.public_key().unwrap()).unwrap();
        assert_eq!(secret.expose(), b.agree(&a.public_key().unwrap()).unwrap().expose());
        let field = match spec {
            PairSpec::P256 => 32,
            PairSpec::P384 => 48,
            _ => 66,
        };
        assert_eq!(secret.len(), field);
        let other = PrivateKey::generate(PairSpec::Secp256k1).unwrap().public_key().unwrap();
        assert_eq!(a.agree(&other).err(), Some(UNSUITED));
    }
}

#[test]
fn ml_kem_gives_both_sides_one_secret_and_rejects_implicitly() {
    for spec in [PairSpec::MlKem512, PairSpec::MlKem768, PairSpec::MlKem1024] {
        let key = PrivateKey::generate(spec).unwrap();
        let (mut ciphertext, secret) = key.public_key().unwrap().encapsulate().unwrap();
        assert_eq!(key.decapsulate(&ciphertext).unwrap().expose(), secret.expose());
        assert_eq!(secret.len(), 32);
        ciphertext[5] ^= 1;
        let other = key.decapsulate(&ciphertext).unwrap();
        assert_ne!(other.expose(), secret.expose());
        assert_eq!(other.expose(), key.decapsulate(&ciphertext).unwrap().expose());
        let bad = Some(CryptoError::BadLength { what: "ciphertext of ML-KEM" });
        assert_eq!(key.decapsulate(&ciphertext[1..]).err(), bad);
    }
}

#[test]
fn a_private_key_travels_under_rsa_and_aes() {
    let wrapping = PrivateKey::generate(PairSpec::Rsa2048).unwrap();
    let public = wrapping.public_key().unwrap();
    let travelling = PrivateKey::generate(PairSpec::P384).unwrap().to_bytes().unwrap();
    for algorithm in [Oaep::Sha1, Oaep::Sha256] {
        let mut wrapped = wrap::rsa_aes_wrap(&public, algorithm, travelling.expose()).unwrap();
        let opened = wrap::rsa_aes_unwrap(&wrapping, algorithm, &wrapped).unwrap();
        assert_eq!(opened.expose(), travelling.expose());
        let not = Some(CryptoError::NotAuthentic);
        for cut in [0, 255, 256, 271, wrapped.len() - 1] {
            assert_eq!(wrap::rsa_aes_unwrap(&wrapping, algorithm, &wrapped[..cut]).err(), not, "{cut}");
        }
        wrapped[260] ^= 1;
        assert_eq!(wrap::rsa_aes_unwrap(&wrapping, algorithm, &wrapped).err(), not);
        assert!(wrap::rsa_aes_wrap(&public, algorithm, b"").is_err());
    }
}

mod rustcrypto {
    //! The crates of RustCrypto open what ours made and the other way round.

    use ::rsa::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey};
    use aes_gcm::Aes256Gcm;
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use sha1::Sha1;
    use sha2::{Sha256, Sha512};

    use super::*;
    use crate::crypto::AeadKey;

    #[test]
    fn aes_gcm_both_ways() {
        let key = [9; 32];
        let theirs = Aes256Gcm::new(&key.into());
        let ours = AeadKey::new(&key).unwrap();
        let sealed = ours.seal_message(b"aad", b"plain").unwrap();
        let nonce: [u8; 12] = sealed[..12].try_into().unwrap();
        // Ours is nonce | tag | ciphertext, theirs ciphertext | tag.
        let turned = [&sealed[28..], &sealed[12..28]].concat();
        let opened = theirs.decrypt(&nonce.into(), Payload { msg: &turned, aad: b"aad" }).unwrap();
        assert_eq!(opened, b"plain");
        let made = theirs.encrypt(&nonce.into(), Payload { msg: b"other", aad: b"aad" }).unwrap();
        let turned = [&nonce[..], &made[5..], &made[..5]].concat();
        assert_eq!(ours.open_message(b"aad", &turned).unwrap(), b"other");
    }

    #[test]
    fn rsa_oaep_both_ways_and_with_each_others_keys() {
        let ours = PrivateKey::generate(PairSpec::Rsa2048).unwrap();
        let our_public = ours.public_key().unwrap();
        let theirs = ::rsa::PrivateKey::from_pkcs8_der(ours.to_bytes().unwrap().expose()).unwrap();
        let public = ::rsa::PublicKey::from_public_key_der(our_public.der()).unwrap();
        assert_eq!(public.to_public_key_der().unwrap().as_bytes(), our_public.der());
        let again = PrivateKey::from_bytes(PairSpec::Rsa2048, theirs.to_pkcs8_der().unwrap().as_bytes());
        assert_eq!(again.unwrap().public_key().unwrap(), our_public);

        let made = public.oaep_encrypt::<Sha256>(b"to us").unwrap();
        assert_eq!(ours.decrypt(Oaep::Sha256, &made).unwrap().expose(), b"to us");
        let made = public.oaep_encrypt::<Sha1>(b"to us").unwrap();
        assert_eq!(ours.decrypt(Oaep::Sha1, &made).unwrap().expose(), b"to us");
        let made = our_public.encrypt(Oaep::Sha256, b"to them").unwrap();
        assert_eq!(theirs.oaep_decrypt::<Sha256>(&made).unwrap(), b"to them");
        let made = our_public.encrypt(Oaep::Sha1, b"to them").unwrap();
        assert_eq!(theirs.oaep_decrypt::<Sha1>(&made).unwrap(), b"to them");
    }

    #[test]
    fn rsa_signatures_both_ways() {
        let ours = PrivateKey::generate(PairSpec::Rsa2048).unwrap();
        let our_public = ours.public_key().unwrap();
        let theirs = ::rsa::PrivateKey::from_pkcs8_der(ours.to_bytes().unwrap().expose()).unwrap();

        let algorithm = SigningAlgorithm::RsaPkcs1(Sha2::Sha256);
        let made = theirs.pkcs1v15_sign::<Sha256>(MESSAGE).unwrap();
        // Deterministic: the very bytes.
        assert_eq!(ours.sign(algorithm, MessageType::Raw, MESSAGE).unwrap(), made);

        let algorithm = SigningAlgorithm::RsaPss(Sha2::Sha512);
        let made = theirs.pss_sign::<Sha512>(MESSAGE).unwrap();
        our_public.verify(algorithm, MessageType::Raw, MESSAGE, &made).unwrap();
        let made = ours.sign(algorithm, MessageType::Raw, MESSAGE).unwrap();
        theirs.to_public_key().pss_verify::<Sha512>(MESSAGE, &made).unwrap();
    }
}
