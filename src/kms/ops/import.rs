//! Key material of one's own: its way in, and its end.

use std::sync::Arc;

use jiff::Timestamp;

use super::replicas::{not_updating, only_primary};
use super::{invalid, key, only, refused, unsupported};
use crate::crypto::asymmetric::{PairSpec, PrivateKey};
use crate::crypto::{CryptoError, SecretVec};
use crate::kms::blob::MaterialId;
use crate::kms::cache::Key;
use crate::kms::call::{Call, Result, Subject};
use crate::kms::events::Parameters;
use crate::kms::imported::{self, Import, ImportRow};
use crate::kms::operation::{InTable, Operation, Preparation};
use crate::kms::region::Fault;
use crate::kms::related;
use crate::kms::rows::{self, MaterialRow, Rotation};
use crate::kms::schedule::DAY;
use crate::kms::spec::KeySpec;
use crate::kms::state::Needs;
use crate::kms::token::{self, Token, Wrapping};
use crate::kms::wire::{
    DeleteImportedKeyMaterialRequest, GetParametersForImportRequest, GetParametersForImportResponse,
    ImportKeyMaterialRequest, ImportKeyMaterialResponse,
};
use crate::kms::{KmsError, KmsErrorKind, check};

/// What AWS's model knows; not all of it is offered.
const WRAPPING_ALGORITHMS: [&str; 6] = [
    "RSAES_PKCS1_V1_5",
    "RSAES_OAEP_SHA_1",
    "RSAES_OAEP_SHA_256",
    "RSA_AES_KEY_WRAP_SHA_1",
    "RSA_AES_KEY_WRAP_SHA_256",
    "SM2PKE",
];
const WRAPPING_KEYS: [&str; 4] = ["RSA_2048", "RSA_3072", "RSA_4096", "SM2"];
const EXPIRES: &str = "KEY_MATERIAL_EXPIRES";
const LASTS: &str = "KEY_MATERIAL_DOES_NOT_EXPIRE";
const NEW: &str = "NEW_KEY_MATERIAL";
const EXISTING: &str = "EXISTING_KEY_MATERIAL";
/// Days that imported material lasts at most, if it expires.
const LONGEST: i64 = 365;
const MAX_BLOB: usize = 6144;

/// AWS's name of whether material expires.
pub fn expiration_model(import: &ImportRow) -> &'static str {
    if import.valid_to.is_some() { EXPIRES } else { LASTS }
}

/// The import facts of a key that has such.
fn external(key: &Key) -> Result<&Import> {
    key.row.import.as_ref().ok_or_else(|| {
        let (arn, origin) = (&key.arn_text, key.row.origin());
        let message = format!("{arn} origin is {origin} which is not valid for this operation.");
        refused(KmsErrorKind::UnsupportedOperation, message)
    })
}

fn incorrect(message: impl Into<String>) -> Fault {
    refused(KmsErrorKind::IncorrectKeyMaterial, message)
}

impl GetParametersForImportRequest {
    fn wrapping(&self) -> std::result::Result<(Wrapping, PairSpec), KmsError> {
        let (algorithm, spec) = (&self.wrapping_algorithm, &self.wrapping_key_spec);
        let wrapping = Wrapping::from_name(algorithm);
        let wrapping = wrapping.ok_or_else(|| unsupported(&format!("{algorithm} is not supported")))?;
        let pair = PairSpec::from_name(spec).filter(|pair| pair.modulus_len().is_some());
        let pair = pair.ok_or_else(|| unsupported(&format!("wrapping keys of {spec} are not supported")))?;
        Ok((wrapping, pair))
    }
}

impl Operation for GetParametersForImportRequest {
    type Response = GetParametersForImportResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::required("wrappingAlgorithm", &self.wrapping_algorithm, 64)?;
        check::one_of("wrappingAlgorithm", Some(&self.wrapping_algorithm), &WRAPPING_ALGORITHMS)?;
        check::required("wrappingKeySpec", &self.wrapping_key_spec, 64)?;
        check::one_of("wrappingKeySpec", Some(&self.wrapping_key_spec), &WRAPPING_KEYS)?;
        self.wrapping().map(drop)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::NotPendingDeletion)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            wrapping_algorithm: Some(&self.wrapping_algorithm),
            wrapping_key_spec: Some(&self.wrapping_key_spec),
            ..Parameters::default()
        }
    }

    /// The wrapping key.
    fn preparation(&self) -> Option<Preparation<'_>> {
        Some(Box::new(|| Ok(PrivateKey::generate(self.wrapping()?.1)?.to_bytes()?)))
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        external(key)?;
        let (wrapping, pair) = self.wrapping()?;
        let direct = matches!(wrapping, Wrapping::Direct(_));
        let too_long = match key.row.spec {
            KeySpec::Pair(PairSpec::P521) => pair == PairSpec::Rsa2048,
            KeySpec::Pair(spec) => spec.modulus_len().is_some(),
            KeySpec::Symmetric | KeySpec::Hmac(_) => false,
        };
        if direct && too_long {
            let (algorithm, spec) = (wrapping.name(), key.row.spec.name());
            let message = format!(
                "{algorithm} with {} cannot wrap the key material of {spec}; use RSA_AES_KEY_WRAP_SHA_256.",
                pair.name()
            );
            return Err(refused(KmsErrorKind::UnsupportedOperation, message));
        }
        let made =
            call.prepared.ok_or_else(|| refused(KmsErrorKind::Internal, "no wrapping key was made"))?;
        let public = PrivateKey::from_bytes(pair, made.expose())?.public_key()?;
        let expires = call.now.as_millisecond() + token::LIFE;
        let import_token = token::seal(&call.region.root, &key.arn, expires, wrapping, pair, made)?;
        Ok(GetParametersForImportResponse {
            key_id: key.arn_text.clone(),
            import_token,
            public_key: public.der().to_vec(),
            parameters_valid_to: related::moment(expires)?,
        })
    }
}

/// Material as it is kept: that a key pair was written in another way makes it no other.
fn canonical(spec: KeySpec, material: SecretVec) -> Result<SecretVec> {
    let fits = |len: usize| {
        if material.len() == len {
            return Ok(());
        }
        let (name, given) = (spec.name(), material.len());
        Err(incorrect(format!("Key material of {name} has {len} bytes; these are {given}.")))
    };
    match spec {
        KeySpec::Symmetric => fits(32)?,
        KeySpec::Hmac(hmac) => fits(hmac.code_len())?,
        KeySpec::Pair(pair) => {
            let read = PrivateKey::from_bytes(pair, material.expose()).and_then(|key| key.to_bytes());
            return read.map_err(|_| {
                let message = format!("This is no private key of {} in PKCS#8, DER.", pair.name());
                incorrect(message)
            });
        }
    }
    Ok(material)
}

/// What an import is to the key.
enum Place {
    /// The first material it has.
    First,
    /// Material for the next rotation.
    Next,
    /// Material it has or had, by its number.
    Again(u32, MaterialRow),
}

impl ImportKeyMaterialRequest {
    /// When the material is to be erased.
    fn expiry(&self, now: Timestamp) -> Result<Option<i64>> {
        let bad = |message: &str| Err(Fault::Refused(invalid(message)));
        match (self.expiration_model.as_deref().unwrap_or(EXPIRES), self.valid_to) {
            (EXPIRES, Some(valid_to)) => {
                let (due, now) = (valid_to.as_millisecond(), now.as_millisecond());
                if due <= now {
                    bad("ValidTo must be in the future.")
                } else if due > now + LONGEST * DAY {
                    bad("ValidTo must be within 365 days.")
                } else {
                    Ok(Some(due))
                }
            }
            (EXPIRES, None) => {
                bad("A validTo date must be set if the ExpirationModel is KEY_MATERIAL_EXPIRES.")
            }
            (_, Some(_)) => bad("ValidTo goes with the ExpirationModel KEY_MATERIAL_EXPIRES only."),
            (_, None) => Ok(None),
        }
    }

    /// Opens what the request brings.
    fn unwrap(&self, call: &Call<'_, '_>, key: &Key) -> Result<SecretVec> {
        let opened = token::open(&call.region.root, &key.arn, &self.import_token);
        let Ok(Token { expires, wrapping, private }) = opened else {
            let message = format!("The import token is not one that was made for {}.", key.arn_text);
            return Err(refused(KmsErrorKind::InvalidImportToken, message));
        };
        if expires <= call.now.as_millisecond() {
            let message = "The import token has expired; get new parameters and wrap the key material anew.";
            return Err(refused(KmsErrorKind::ExpiredImportToken, message));
        }
        let unwrapped =
            wrapping.unwrap(&private, &self.encrypted_key_material).map_err(|error| match error {
                CryptoError::NotAuthentic | CryptoError::BadLength { .. } => refused(
                    KmsErrorKind::InvalidCiphertext,
                    format!(
                        "the key material is not wrapped with {} under the token's public key",
                        wrapping.name()
                    ),
                ),
                other => Fault::from(other),
            })?;
        canonical(key.row.spec, unwrapped)
    }

    fn place(&self, call: &Call<'_, '_>, key: &Key, id: &MaterialId) -> Result<Place> {
        let known = key.materials.iter().find(|(_, row)| row.id == *id).cloned();
        let usual = if key.materials.is_empty() { NEW } else { EXISTING };
        let kind = self.import_type.as_deref().unwrap_or(usual);
        if kind == NEW && self.key_material_id.is_some() {
            return Err(Fault::Refused(invalid(
                "KeyMaterialId does not go with the ImportType NEW_KEY_MATERIAL.",
            )));
        }
        if self.key_material_id.as_ref().is_some_and(|given| *given != hex::encode(id)) {
            return Err(incorrect("The key material is not the one that KeyMaterialId names."));
        }
        match (kind, known) {
            (NEW, Some(_)) => Err(incorrect("The key material is already associated with the KMS key.")),
            (NEW, None) => {
                only_primary(key, &call.region.region)?;
                if key.materials.is_empty() {
                    return Ok(Place::First);
                }
                if key.materials.iter().any(|(_, row)| row.rotation == Rotation::Pending) {
                    let message = format!(
                        "{} has key material that is pending rotation; rotate the key or delete that material first.",
                        key.arn_text
                    );
                    return Err(refused(KmsErrorKind::InvalidState(key.row.state.visible()), message));
                }
                Ok(Place::Next)
            }
            (_, Some((number, row))) => Ok(Place::Again(number, row)),
            (_, None) => {
                Err(incorrect("The key material is not the one that was imported into the KMS key before."))
            }
        }
    }
}

impl Operation for ImportKeyMaterialRequest {
    type Response = ImportKeyMaterialResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::length("importToken", self.import_token.len(), 1, MAX_BLOB)?;
        check::length("encryptedKeyMaterial", self.encrypted_key_material.len(), 1, MAX_BLOB)?;
        check::one_of("expirationModel", self.expiration_model.as_deref(), &[EXPIRES, LASTS])?;
        check::one_of("importType", self.import_type.as_deref(), &[NEW, EXISTING])?;
        check_material_id(self.key_material_id.as_deref())?;
        let Some(description) = &self.key_material_description else { return Ok(()) };
        check::length("keyMaterialDescription", description.chars().count(), 0, 256)?;
        let good = |c: char| c.is_ascii_alphanumeric() || c.is_whitespace() || ":/_.-".contains(c);
        if description.chars().all(good) {
            return Ok(());
        }
        Err(check::failed(
            "keyMaterialDescription",
            "satisfy regular expression pattern: ^[a-zA-Z0-9:/_\\s.-]+$",
        ))
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::NotPendingDeletion)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            expiration_model: self.expiration_model.as_deref(),
            valid_to: self.valid_to.map(|time| time.to_string()),
            import_type: self.import_type.as_deref(),
            key_material_id: self.key_material_id.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        let import = external(key)?;
        let symmetric = key.row.spec == KeySpec::Symmetric;
        let said = [&self.import_type, &self.key_material_description, &self.key_material_id];
        if !symmetric && said.into_iter().any(Option::is_some) {
            let message = "ImportType, KeyMaterialId and KeyMaterialDescription are for symmetric encryption keys only.";
            return Err(Fault::Refused(invalid(message)));
        }
        not_updating(key)?;
        let now = call.now.as_millisecond();
        let valid_to = self.expiry(call.now)?;
        let material = self.unwrap(call, key)?;
        let (root, spec) = (&call.region.root, key.row.spec);
        let id = import.name(root, &key.arn, spec, &material)?;
        let (number, since, how, shares) = match self.place(call, key, &id)? {
            Place::First => (0, now, Rotation::First, true),
            Place::Next => {
                let last = key.materials.last().map_or(0, |(number, _)| number + 1);
                (last, now, Rotation::Pending, true)
            }
            Place::Again(number, row) => (number, row.since, row.rotation, false),
        };
        let sealed = rows::seal_named(root, &key.arn, spec, id, &material, since, how)?;
        let before = key.imports.get(&number).cloned().unwrap_or_default();
        let description = self.key_material_description.clone().unwrap_or(before.description);
        let (region, tx) = (&call.region.region, call.writer()?);
        rows::put_material(tx, &key.arn.key, number, &sealed)?;
        imported::put(tx, &key.arn.key, number, Some(&ImportRow { valid_to, description, expired: false }))?;
        let row = imported::settle(tx, &key.arn.key, key.row.clone())?;
        if shares {
            related::changed(tx, region, &key.arn.key, row)?;
            call.shares = true;
        }
        call.notes.changed = Some(key.arn_text.clone());
        call.notes.material(&id);
        Ok(ImportKeyMaterialResponse {
            key_id: key.arn_text.clone(),
            key_material_id: symmetric.then(|| hex::encode(id)),
        })
    }
}

fn check_material_id(id: Option<&str>) -> std::result::Result<(), KmsError> {
    let Some(id) = id else { return Ok(()) };
    check::length("keyMaterialId", id.len(), 64, 64)?;
    if id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        Ok(())
    } else {
        Err(check::failed("keyMaterialId", "satisfy regular expression pattern: ^[a-f0-9]+$"))
    }
}

impl Operation for DeleteImportedKeyMaterialRequest {
    type Response = ImportKeyMaterialResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check_material_id(self.key_material_id.as_deref())
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            key_material_id: self.key_material_id.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        external(key)?;
        not_updating(key)?;
        let symmetric = key.row.spec == KeySpec::Symmetric;
        let found = key.materials.iter().find(|(number, row)| match &self.key_material_id {
            Some(id) => *id == hex::encode(row.id),
            None => *number == key.row.current,
        });
        let Some((number, material)) = found else {
            let Some(id) = &self.key_material_id else {
                // Nothing was ever imported: there is nothing to delete, and that is no failure.
                let key_id = key.arn_text.clone();
                return Ok(ImportKeyMaterialResponse { key_id, key_material_id: None });
            };
            let message = format!("{} has no key material {id}.", key.arn_text);
            return Err(refused(KmsErrorKind::NotFound, message));
        };
        let (id, region) = (key.arn.key, &call.region.region);
        // What waits for a rotation is not the key's yet: it goes without a trace, in the replicas too.
        let pending = material.rotation == Rotation::Pending && key.row.leads(region);
        let (tx, known) = (call.writer()?, key.imports.get(number).cloned().unwrap_or_default());
        imported::erase(tx, &id, *number, Some(material).filter(|_| !pending))?;
        let left = ImportRow { valid_to: None, expired: false, ..known };
        imported::put(tx, &id, *number, Some(&left).filter(|_| !pending))?;
        let row = imported::settle(tx, &id, key.row.clone())?;
        if pending {
            related::changed(tx, region, &id, row)?;
            call.shares = true;
        }
        call.notes.changed = Some(key.arn_text.clone());
        call.notes.material(&material.id);
        Ok(ImportKeyMaterialResponse {
            key_id: key.arn_text.clone(),
            key_material_id: symmetric.then(|| hex::encode(material.id)),
        })
    }
}
