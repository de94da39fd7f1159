//! How long an event may be. Its length is the sender's doing, also where the request is refused, and it stays for ever.

use serde_json::{Value, json};

/// CloudTrail's bound of requestParameters, in bytes.
const PARAMETERS: usize = 100 * 1024;
/// And of errorMessage, in characters.
const MESSAGE: usize = 1024;

/// An event's JSON with what is too long in it left out, as CloudTrail does: of the parameters `omitted`, their size and
/// the reason are told.
pub fn bounded(event: Vec<u8>) -> Vec<u8> {
    if event.len() <= PARAMETERS {
        return event;
    }
    let Ok(mut read) = serde_json::from_slice::<Value>(&event) else { return event };
    let size = read["requestParameters"].to_string().len();
    if size > PARAMETERS {
        read["requestParameters"] =
            json!({"omitted": true, "originalSize": size, "reason": "requestParameters too large"});
    }
    if let Some(message) = read["errorMessage"].as_str()
        && message.len() > MESSAGE
    {
        read["errorMessage"] = json!(message.chars().take(MESSAGE).collect::<String>());
    }
    read.to_string().into_bytes()
}
