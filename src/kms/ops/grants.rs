//! Grants: made, listed, retired, revoked.

use std::sync::Arc;

use jiff::Timestamp;

use super::{bad_marker, invalid, key, limit, only, page, refused};
use crate::audit::Additional;
use crate::iam::{KeyArn, KeyId, Principal};
use crate::kms::cache::Key;
use crate::kms::call::{Call, Name, Result, Subject, would_succeed};
use crate::kms::events::{Notes, Parameters};
use crate::kms::grant_rows::{self, ConstraintRow, GrantId, GrantRow, Party};
use crate::kms::grants::{self, GRANT_OPERATIONS, GrantOperation, MOST_GRANTS};
use crate::kms::operation::{InTable, Operation};
use crate::kms::spec::KeySpec;
use crate::kms::state::Needs;
use crate::kms::wire::{
    CreateGrantRequest, CreateGrantResponse, GrantListEntry, ListGrantsRequest, ListGrantsResponse,
    ListRetirableGrantsRequest, RetireGrantRequest, RevokeGrantRequest,
};
use crate::kms::{KmsError, KmsErrorKind, check};

/// Longest grant id of AWS's model.
const MAX_ID: usize = 128;
/// Longest grant token of AWS's model.
const MAX_TOKEN: usize = 8192;

/// A principal or a service, or neither; both are refused.
fn check_party(
    (name, principal): (&str, Option<&str>),
    (service_name, service): (&str, Option<&str>),
) -> std::result::Result<(), KmsError> {
    if let Some(arn) = principal {
        check::length(name, arn.len(), 1, 256)?;
        if !arn.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c)) {
            return Err(check::failed(name, r"satisfy regular expression pattern: ^[\w+=,.@:/-]+$"));
        }
    }
    if let Some(service) = service {
        check::length(service_name, service.len(), 1, 128)?;
        let part =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if service.split('.').count() < 3 || !service.split('.').all(part) {
            return Err(check::failed(
                service_name,
                r"satisfy regular expression pattern: ^([A-Za-z0-9\-]+)\.([A-Za-z0-9\-]+)(\.[A-Za-z0-9\-]+)+$",
            ));
        }
        if principal.is_some() {
            return Err(invalid(&format!("Specify {name} or {service_name}, not both.")));
        }
    }
    Ok(())
}

/// A principal as grants name it; it must exist.
fn principal(call: &Call<'_, '_>, arn: &str) -> Result<Party> {
    match arn.parse::<Principal>() {
        Ok(known) if call.principal_exists(&known)? => Ok(Party::Principal(arn.to_owned())),
        _ => Err(not_a_principal(arn)),
    }
}

fn not_a_principal(arn: &str) -> crate::kms::region::Fault {
    refused(KmsErrorKind::InvalidArn, format!("ARN does not refer to a valid principal: {arn}"))
}

fn party(call: &Call<'_, '_>, arn: Option<&str>, service: Option<&str>) -> Result<Option<Party>> {
    match (arn, service) {
        (Some(arn), _) => principal(call, arn).map(Some),
        (None, Some(service)) => Ok(Some(Party::Service(service.to_owned()))),
        (None, None) => Ok(None),
    }
}

impl CreateGrantRequest {
    /// The operations, each once. Their names were checked.
    fn granted(&self) -> Vec<GrantOperation> {
        let mut all = Vec::new();
        for operation in self.operations.iter().flatten().filter_map(|name| GrantOperation::from_name(name)) {
            if !all.contains(&operation) {
                all.push(operation);
            }
        }
        all
    }

    /// Refuses what the key cannot do.
    fn suits(&self, key: &Key) -> Result<()> {
        let (spec, usage) = (key.row.spec, key.row.usage);
        let unsuited: Vec<_> =
            self.granted().into_iter().filter(|o| !o.suits(spec, usage)).map(GrantOperation::name).collect();
        if !unsuited.is_empty() {
            let (arn, names) = (&key.arn_text, unsuited.join(", "));
            let (spec, usage) = (spec.name(), usage.name());
            let message = format!(
                "The operations [{names}] cannot be granted: {arn} has key spec {spec} and usage {usage}."
            );
            return Err(invalid(&message).into());
        }
        let by_context = self
            .constraints
            .as_ref()
            .is_some_and(|c| c.encryption_context_subset.is_some() || c.encryption_context_equals.is_some());
        if by_context && spec != KeySpec::Symmetric {
            let message = format!(
                "{} takes no encryption context, so that grants of it cannot have encryption context constraints.",
                key.arn_text
            );
            return Err(invalid(&message).into());
        }
        Ok(())
    }
}

impl Operation for CreateGrantRequest {
    type Response = CreateGrantResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        let (grantee, service) =
            (self.grantee_principal.as_deref(), self.grantee_service_principal.as_deref());
        check_party(("granteePrincipal", grantee), ("granteeServicePrincipal", service))?;
        let (retiring, retiring_service) =
            (self.retiring_principal.as_deref(), self.retiring_service_principal.as_deref());
        check_party(("retiringPrincipal", retiring), ("retiringServicePrincipal", retiring_service))?;
        if grantee.is_none() && service.is_none() {
            return Err(invalid("Specify GranteePrincipal or GranteeServicePrincipal."));
        }
        let operations = check::given("operations", self.operations.as_ref())?;
        if operations.is_empty() {
            return Err(check::failed("operations", "have length greater than or equal to 1"));
        }
        let known = GRANT_OPERATIONS.map(|(_, name)| name);
        operations.iter().try_for_each(|name| check::one_of("operations", Some(name.as_str()), &known))?;
        if let Some(constraints) = &self.constraints {
            constraints.check()?;
        }
        if service.is_some() {
            if self.constraints.as_ref().is_none_or(|c| c.source_arn.is_none()) {
                return Err(invalid("GranteeServicePrincipal needs the grant constraint SourceArn."));
            }
            if retiring.is_none() && retiring_service.is_none() {
                let message = "GranteeServicePrincipal needs RetiringPrincipal or RetiringServicePrincipal.";
                return Err(invalid(message));
            }
        }
        check::grant_tokens(&self.grant_tokens)?;
        let Some(name) = &self.name else { return Ok(()) };
        check::length("name", name.len(), 1, 256)?;
        if name.chars().all(|c| c.is_ascii_alphanumeric() || ":/_-".contains(c)) {
            Ok(())
        } else {
            Err(check::failed("name", "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"))
        }
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Usable)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            grantee_principal: self.grantee_principal.as_deref(),
            retiring_principal: self.retiring_principal.as_deref(),
            grantee_service_principal: self.grantee_service_principal.as_deref(),
            retiring_service_principal: self.retiring_service_principal.as_deref(),
            operations: self.operations.as_deref(),
            constraints: self.constraints.as_ref(),
            name: self.name.as_deref(),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn grant_tokens(&self) -> &[String] {
        &self.grant_tokens
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let key = only(keys)?;
        self.suits(key)?;
        let grantee =
            party(call, self.grantee_principal.as_deref(), self.grantee_service_principal.as_deref())?;
        let row = GrantRow {
            name: self.name.clone(),
            created: call.now.as_millisecond(),
            grantee: grantee
                .ok_or_else(|| invalid("Specify GranteePrincipal or GranteeServicePrincipal."))?,
            retiring: party(
                call,
                self.retiring_principal.as_deref(),
                self.retiring_service_principal.as_deref(),
            )?,
            issuer: call.account().to_string(),
            operations: self.granted(),
            constraints: self.constraints.as_ref().map(ConstraintRow::from),
        };
        let at = key.arn.key;
        let id = match grant_rows::made_before(call.reader()?, &at, &row)? {
            Some(id) => {
                would_succeed(self.dry_run)?;
                id
            }
            None => {
                if grant_rows::count(call.reader()?, &at)? >= MOST_GRANTS {
                    let message =
                        format!("{} has {MOST_GRANTS} grants, and no more are allowed", key.arn_text);
                    return Err(refused(KmsErrorKind::LimitExceeded, message));
                }
                would_succeed(self.dry_run)?;
                let id = GrantId::generate()?;
                grant_rows::put(call.writer()?, &at, &id, &row)?;
                id
            }
        };
        call.notes.changed = Some(key.arn_text.clone());
        call.notes.grant = Some(id.to_string());
        let grant_token = grants::new_token(&call.region.root, &at, &id)?;
        Ok(CreateGrantResponse { grant_id: id.to_string(), grant_token })
    }
}

fn entry(arn: &KeyArn, id: &GrantId, row: GrantRow) -> Result<GrantListEntry> {
    let creation_date = Timestamp::from_millisecond(row.created)
        .map_err(|_| refused(KmsErrorKind::Internal, "the row of a grant is damaged"))?;
    Ok(GrantListEntry {
        key_id: arn.to_string(),
        grant_id: id.to_string(),
        creation_date,
        grantee_principal: row.grantee.principal(),
        retiring_principal: row.retiring.as_ref().and_then(Party::principal),
        issuing_account: format!("arn:{}:iam::{}:root", arn.region.partition(), row.issuer),
        operations: row.operations.iter().map(|o| o.name()).collect(),
        constraints: row.constraints.as_ref().map(Into::into),
        grantee_service_principal: row.grantee.service(),
        retiring_service_principal: row.retiring.as_ref().and_then(Party::service),
        name: row.name,
    })
}

/// A list by a service's name is for services.
fn for_services(call: &Call<'_, '_>, what: &str) -> Result<()> {
    if matches!(call.caller.principal, Principal::Service { .. }) {
        return Ok(());
    }
    let message = format!(
        "User: {} is not authorized to perform: {} with {what}, which is for service principals alone",
        call.caller.principal.arn(),
        call.row.action
    );
    Err(refused(KmsErrorKind::AccessDenied, message))
}

impl Operation for ListGrantsRequest {
    type Response = ListGrantsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::list(self.limit, self.marker.as_deref())?;
        self.grant_id.as_deref().map_or(Ok(()), |id| check::length("grantId", id.len(), 1, MAX_ID))?;
        check_party(
            ("granteePrincipal", self.grantee_principal.as_deref()),
            ("granteeServicePrincipal", self.grantee_service_principal.as_deref()),
        )
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            grant_id: self.grant_id.as_deref(),
            grantee_principal: self.grantee_principal.as_deref(),
            grantee_service_principal: self.grantee_service_principal.as_deref(),
            limit: self.limit,
            marker: self.marker.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<Self::Response> {
        let (key, limit) = (only(keys)?, limit(self.limit, 50));
        let at = key.arn.key;
        let id = self.grant_id.as_deref().map(grants::grant_id).transpose()?;
        let after = self.marker.as_ref().map(|m| m.parse::<GrantId>()).transpose();
        let after = after.map_err(|()| bad_marker())?;
        let grantee = match (&self.grantee_principal, &self.grantee_service_principal) {
            (Some(arn), _) => {
                let known = arn.parse::<Principal>().map_err(|_| not_a_principal(arn))?;
                Some(known.arn())
            }
            (None, Some(service)) => {
                for_services(call, "GranteeServicePrincipal")?;
                Some(service.clone())
            }
            (None, None) => None,
        };
        let tx = call.reader()?;
        let mut found = match (&id, &grantee) {
            (Some(id), _) => {
                let fits =
                    |row: &GrantRow| grantee.as_ref().is_none_or(|name| row.grantee.indexed() == *name);
                let row = grant_rows::grant(tx, &at, id)?.filter(fits);
                row.filter(|_| after.is_none_or(|after| after < *id))
                    .map(|row| (*id, row))
                    .into_iter()
                    .collect()
            }
            (None, Some(name)) => grant_rows::of_grantee(tx, &at, name, after.as_ref(), limit + 1)?,
            (None, None) => grant_rows::of_key(tx, &at, after.as_ref(), limit + 1)?,
        };
        let truncated = page(&mut found, limit);
        let next_marker = found.last().filter(|_| truncated).map(|(id, _)| id.to_string());
        let grants =
            found.into_iter().map(|(id, row)| entry(&key.arn, &id, row)).collect::<Result<Vec<_>>>()?;
        Ok(ListGrantsResponse { grants, next_marker, truncated })
    }
}

impl Operation for ListRetirableGrantsRequest {
    type Response = ListGrantsResponse;

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::list(self.limit, self.marker.as_deref())?;
        let (principal, service) =
            (self.retiring_principal.as_deref(), self.retiring_service_principal.as_deref());
        check_party(("retiringPrincipal", principal), ("retiringServicePrincipal", service))?;
        if principal.is_none() && service.is_none() {
            return Err(invalid("Specify RetiringPrincipal or RetiringServicePrincipal."));
        }
        Ok(())
    }

    /// AWS authorises the retiring principal itself.
    fn subjects(&self) -> Vec<Subject<'_>> {
        let subject =
            |arn| Subject { name: Name::Principal(arn), action: Self::ROW.action, needs: Needs::Nothing };
        self.retiring_principal.as_deref().map(subject).into_iter().collect()
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            retiring_principal: self.retiring_principal.as_deref(),
            retiring_service_principal: self.retiring_service_principal.as_deref(),
            limit: self.limit,
            marker: self.marker.as_deref(),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, _: &[Arc<Key>]) -> Result<Self::Response> {
        let limit = limit(self.limit, 50);
        // A marker is the last key and grant in hex.
        let after = self.marker.as_ref().map(hex::decode).transpose().map_err(|_| bad_marker())?;
        if after.as_deref().is_some_and(|after| grant_rows::parted(after).is_none()) {
            return Err(bad_marker());
        }
        let name = match &self.retiring_principal {
            Some(arn) => Party::Principal(arn.clone()).indexed(),
            None => {
                for_services(call, "RetiringServicePrincipal")?;
                self.retiring_service_principal.clone().unwrap_or_default()
            }
        };
        let tx = call.reader()?;
        let mut found = grant_rows::retirable_by(tx, &name, after.as_deref(), limit + 1)?;
        let truncated = page(&mut found, limit);
        let marker = |(key, id, _): &(KeyId, GrantId, GrantRow)| hex::encode(grant_rows::joined(key, id));
        let next_marker = found.last().filter(|_| truncated).map(marker);
        let mut grants = Vec::with_capacity(found.len());
        for (key, id, row) in found {
            let arn = call.arn_of(&key)?;
            grants.push(entry(&arn, &id, row)?);
        }
        Ok(ListGrantsResponse { grants, next_marker, truncated })
    }
}

/// Deletes a grant.
fn delete(call: &mut Call<'_, '_>, key: &Key, id: &GrantId) -> Result<()> {
    let row = grant_rows::grant(call.reader()?, &key.arn.key, id)?.ok_or_else(|| grants::no_grant(id))?;
    grant_rows::delete(call.writer()?, &key.arn.key, id, &row)?;
    call.notes.changed = Some(key.arn_text.clone());
    Ok(())
}

fn note_grant(notes: &mut Notes, id: &GrantId) {
    notes.additional = Some(Additional { grant_id: Some(id.to_string()), ..Additional::default() });
}

impl Operation for RetireGrantRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        self.grant_token
            .as_deref()
            .map_or(Ok(()), |token| check::length("grantToken", token.len(), 1, MAX_TOKEN))?;
        check::key_id_option("keyId", self.key_id.as_deref())?;
        self.grant_id.as_deref().map_or(Ok(()), |id| check::length("grantId", id.len(), 1, MAX_ID))?;
        match (&self.grant_token, &self.key_id, &self.grant_id) {
            (Some(_), None, None) | (None, Some(_), Some(_)) => Ok(()),
            _ => Err(invalid("Specify either GrantToken, or KeyId and GrantId.")),
        }
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        let name = match (&self.grant_token, &self.key_id, &self.grant_id) {
            (Some(token), ..) => Name::GrantToken(token),
            (None, Some(key), Some(id)) => Name::Grant(key, id),
            // Refused by the check before.
            (None, ..) => return Vec::new(),
        };
        vec![Subject { name, action: Self::ROW.action, needs: Needs::Nothing }]
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: self.key_id.as_deref(),
            grant_id: self.grant_id.as_deref(),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn dry_run(&self) -> bool {
        self.dry_run
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let id = match (&self.grant_token, &self.grant_id) {
            (Some(token), _) => grants::read_token(&call.region.root, token)?.1,
            (None, Some(id)) => grants::grant_id(id)?,
            (None, None) => return Err(invalid("Specify either GrantToken, or KeyId and GrantId.").into()),
        };
        delete(call, only(keys)?, &id)?;
        note_grant(&mut call.notes, &id);
        Ok(())
    }
}

impl Operation for RevokeGrantRequest {
    type Response = ();

    fn check(&self) -> std::result::Result<(), KmsError> {
        check::key_id("keyId", &self.key_id)?;
        check::required("grantId", &self.grant_id, MAX_ID)
    }

    fn subjects(&self) -> Vec<Subject<'_>> {
        key(&self.key_id, Self::ROW.action, Needs::Nothing)
    }

    fn parameters(&self) -> Parameters<'_> {
        Parameters {
            key_id: Some(&self.key_id),
            grant_id: Some(&self.grant_id),
            dry_run: Some(true).filter(|_| self.dry_run),
            ..Parameters::default()
        }
    }

    fn act(&self, call: &mut Call<'_, '_>, keys: &[Arc<Key>]) -> Result<()> {
        let (key, id) = (only(keys)?, grants::grant_id(&self.grant_id)?);
        if self.dry_run && grant_rows::grant(call.reader()?, &key.arn.key, &id)?.is_some() {
            would_succeed(true)?;
        }
        delete(call, key, &id)
    }
}
