//! The first user of a home: an administrator with an access key, made when the service is first served.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::error::{CliError, Result};
use super::{files, output};
use crate::kms::identity::wire::AccessKey;
use crate::kms::{Caller, Kms};

/// Its name.
const NAME: &str = "administrator";
/// What it may.
const POLICY: &str = "arn:aws:iam::aws:policy/AdministratorAccess";
/// Where the key goes if nobody sits at a terminal: what is printed then is kept in some log.
const FILE: &str = "administrator.credentials";
/// How that begins.
const HEAD: &str = "[kmsfs]\naws_access_key_id = ";

/// Makes the administrator, if nobody could sign a request: the home has neither a user nor an access key. Its key is told or
/// on disk before it counts, and counts when there is an administrator. What is still to be told of it.
pub fn first(kms: &Arc<Kms>) -> Result<Option<String>> {
    let path = kms.home().path().join(FILE);
    let session = kms.identity(Caller::root(kms.account().clone()));
    let told = session.make_first_user(NAME, POLICY, |key| {
        let text = credentials(key);
        if io::stdout().is_terminal() {
            output::line("the administrator's access key, shown this once (for ~/.aws/credentials):")?;
            output::line(&text)?;
            return Ok(None);
        }
        write(&path, &text)?;
        Ok::<_, CliError>(Some(format!(
            "administrator's access key in {} (AWS_SHARED_CREDENTIALS_FILE; AWS_PROFILE=kmsfs); move it to where it is safe",
            path.display()
        )))
    })?;
    Ok(told.flatten())
}

/// An access key as a file of credentials has it.
fn credentials(key: &AccessKey) -> Zeroizing<String> {
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str(HEAD);
    text.push_str(&key.access_key_id);
    text.push_str("\naws_secret_access_key = ");
    text.push_str(key.secret_access_key.expose());
    text.push('\n');
    text
}

/// What was written there for a key that never counted, because a kill or an error came between, is replaced: there is no access
/// key in the home. Nothing else is.
fn write(path: &Path, text: &str) -> Result<()> {
    let failed = |e| CliError::io("the file for the administrator's access key", path, e);
    match fs::read(path) {
        Ok(there) if there.starts_with(HEAD.as_bytes()) && there.split(|b| *b == b'\n').count() == 4 => {}
        Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(failed(e)),
    }
    files::Target { out: Some(path), force: true }.print(text.as_bytes())
}
