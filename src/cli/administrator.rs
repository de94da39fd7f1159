//! The first user of a home: an administrator with an access key, made when the service is first served.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::{CliError, Result};
use crate::kms::identity::wire::{AttachUserPolicyRequest, CreateAccessKeyRequest, CreateUserRequest};
use crate::kms::{Caller, Kms};

/// Its name.
const NAME: &str = "administrator";
/// What it may.
const POLICY: &str = "arn:aws:iam::aws:policy/AdministratorAccess";
/// Where the key goes if nobody sits at a terminal: what is printed then is kept in some log.
const FILE: &str = "administrator.credentials";

/// Makes the administrator, if nobody could sign a request: the home has neither a user nor an access key. What to tell of it.
pub fn first(kms: &Arc<Kms>) -> Result<Option<Zeroizing<String>>> {
    if kms.has_users()? {
        return Ok(None);
    }
    if io::stdout().is_terminal() {
        let mut text = make(kms)?;
        text.insert_str(0, "the administrator's access key, shown this once (for ~/.aws/credentials):\n");
        return Ok(Some(text));
    }
    let path = kms.home().path().join(FILE);
    let failed = |e| CliError::io("the file for the administrator's access key", &path, e);
    // Before the key, which would be lost without it.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    let made = make(kms)
        .and_then(|text| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed));
    if let Err(error) = made {
        // Best effort: the error above is the one to tell.
        let _ = fs::remove_file(&path);
        return Err(error);
    }
    Ok(Some(Zeroizing::new(format!(
        "administrator's access key in {} (AWS_SHARED_CREDENTIALS_FILE; AWS_PROFILE=kmsfs); move it to where it is safe",
        path.display()
    ))))
}

/// The user, and its access key as a file of credentials has it.
fn make(kms: &Kms) -> Result<Zeroizing<String>> {
    let session = kms.identity(Caller::root(kms.account().clone()));
    session.call(CreateUserRequest { user_name: NAME.to_owned(), ..CreateUserRequest::default() })?;
    session.call(AttachUserPolicyRequest { user_name: NAME.to_owned(), policy_arn: POLICY.to_owned() })?;
    let made = session.call(CreateAccessKeyRequest { user_name: Some(NAME.to_owned()) })?.access_key;
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str("[kmsfs]\naws_access_key_id = ");
    text.push_str(&made.access_key_id);
    text.push_str("\naws_secret_access_key = ");
    text.push_str(made.secret_access_key.expose());
    text.push('\n');
    Ok(text)
}
