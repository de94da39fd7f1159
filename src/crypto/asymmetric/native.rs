//! Two primitives that AWS-LC has and aws-lc-rs's safe interface does not: Ed25519ph (RFC 8032) and ML-DSA of an
//! external mu (FIPS 204 section 6.2). A second cryptographic library for the two would be the alternative.

use std::ptr::{self, NonNull};

use aws_lc_sys as lc;
use zeroize::Zeroizing;

use crate::crypto::CryptoError;

/// Which ML-DSA.
#[derive(Clone, Copy)]
pub(super) enum ParameterSet {
    MlDsa44,
    MlDsa65,
    MlDsa87,
}

impl ParameterSet {
    fn id(self) -> i32 {
        match self {
            Self::MlDsa44 => lc::NID_MLDSA44,
            Self::MlDsa65 => lc::NID_MLDSA65,
            Self::MlDsa87 => lc::NID_MLDSA87,
        }
    }
}

/// Ed25519ph without context: signs SHA-512 of the message.
pub(super) fn sign_ed25519ph(seed: &[u8; 32], message: &[u8]) -> Result<[u8; 64], CryptoError> {
    let mut public = [0; 32];
    let mut private = Zeroizing::new([0; 64]);
    let mut out = [0; 64];
    // SAFETY: curve25519.h: 32 bytes are written to the first, 64 to the second, 32 read from the third.
    unsafe { lc::ED25519_keypair_from_seed(public.as_mut_ptr(), private.as_mut_ptr(), seed.as_ptr()) };
    // SAFETY: curve25519.h: 64 bytes are written to the first, 64 read from the private key, the message with
    // its length; a context of length 0 is not read.
    let done = unsafe {
        lc::ED25519ph_sign(
            out.as_mut_ptr(),
            message.as_ptr(),
            message.len(),
            private.as_ptr(),
            ptr::null(),
            0,
        )
    };
    if done == 1 { Ok(out) } else { Err(CryptoError::Library { what: "to sign" }) }
}

/// Checks what [`sign_ed25519ph`] made.
pub(super) fn verify_ed25519ph(
    public: &[u8; 32],
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), CryptoError> {
    // SAFETY: curve25519.h: the message is read with its length, 64 bytes of the signature and 32 of the public
    // key; a context of length 0 is not read.
    let valid = unsafe {
        lc::ED25519ph_verify(
            message.as_ptr(),
            message.len(),
            signature.as_ptr(),
            public.as_ptr(),
            ptr::null(),
            0,
        )
    };
    if valid == 1 { Ok(()) } else { forget_errors(CryptoError::NotAuthentic) }
}

/// ML-DSA.Sign_internal's second half: signs `mu` with the expanded private key, hedged. `signature` has the
/// length of the parameter set's signatures.
pub(super) fn sign_mu(
    set: ParameterSet,
    private: &[u8],
    mu: &[u8; 64],
    signature: &mut [u8],
) -> Result<(), CryptoError> {
    // SAFETY: evp.h: the bytes are copied with their length, which the library checks against the set.
    let key = Key::take(unsafe {
        lc::EVP_PKEY_pqdsa_new_raw_private_key(set.id(), private.as_ptr(), private.len())
    })?;
    let context = key.context()?;
    let mut len = signature.len();
    // SAFETY: evp.h: the context is live and owned; at most `len` bytes are written to the signature, fewer are
    // an error; mu is read with its length.
    let done = unsafe {
        lc::EVP_PKEY_sign_init(context.0.as_ptr()) == 1
            && lc::EVP_PKEY_sign(context.0.as_ptr(), signature.as_mut_ptr(), &mut len, mu.as_ptr(), mu.len())
                == 1
    };
    if done && len == signature.len() {
        Ok(())
    } else {
        forget_errors(CryptoError::Library { what: "to sign" })
    }
}

/// Checks a signature of the message whose representative `mu` is.
pub(super) fn verify_mu(
    set: ParameterSet,
    public: &[u8],
    mu: &[u8; 64],
    signature: &[u8],
) -> Result<(), CryptoError> {
    // SAFETY: evp.h: the bytes are copied with their length, which the library checks against the set.
    let key =
        Key::take(unsafe { lc::EVP_PKEY_pqdsa_new_raw_public_key(set.id(), public.as_ptr(), public.len()) })?;
    let context = key.context()?;
    // SAFETY: evp.h: the context is live and owned; both slices are read with their lengths.
    let valid = unsafe {
        lc::EVP_PKEY_verify_init(context.0.as_ptr()) == 1
            && lc::EVP_PKEY_verify(
                context.0.as_ptr(),
                signature.as_ptr(),
                signature.len(),
                mu.as_ptr(),
                mu.len(),
            ) == 1
    };
    if valid { Ok(()) } else { forget_errors(CryptoError::NotAuthentic) }
}

/// The library queues the reasons of a failure for its thread; nobody reads them here.
fn forget_errors<T>(error: CryptoError) -> Result<T, CryptoError> {
    // SAFETY: err.h: empties the calling thread's queue.
    unsafe { lc::ERR_clear_error() };
    Err(error)
}

/// An owned key of the library.
struct Key(NonNull<lc::EVP_PKEY>);

impl Key {
    fn take(key: *mut lc::EVP_PKEY) -> Result<Self, CryptoError> {
        match NonNull::new(key) {
            Some(key) => Ok(Self(key)),
            None => forget_errors(CryptoError::Rejected { what: "ML-DSA key" }),
        }
    }

    fn context(&self) -> Result<Context, CryptoError> {
        // SAFETY: evp.h: the key is live; the context takes a reference of its own to it.
        let context = unsafe { lc::EVP_PKEY_CTX_new(self.0.as_ptr(), ptr::null_mut()) };
        NonNull::new(context).map(Context).ok_or(CryptoError::Library { what: "memory" })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // SAFETY: owned, and freed once; the library cleanses a private key.
        unsafe { lc::EVP_PKEY_free(self.0.as_ptr()) };
    }
}

/// An owned operation on a key.
struct Context(NonNull<lc::EVP_PKEY_CTX>);

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: owned, and freed once.
        unsafe { lc::EVP_PKEY_CTX_free(self.0.as_ptr()) };
    }
}
