//! What a request must not be: each refusal of a signature through the socket, with AWS's error.

use serde_json::json;

use super::bed::{Ask, Bed, OTHER_ID, exchange};

const INVALID: &str = "InvalidSignatureException";

fn ask(bed: &Bed) -> Ask {
    bed.ask("ListKeys", &json!({}))
}

fn stamp(minutes: i64) -> (String, String) {
    let time = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes);
    (time.strftime("%Y%m%d").to_string(), time.strftime("%Y%m%dT%H%M%SZ").to_string())
}

#[test]
fn a_request_without_a_signature_is_refused() {
    let bed = Bed::new();
    let answer = exchange(&mut bed.connect(), &ask(&bed).bare());
    answer.is_error(400, "MissingAuthenticationTokenException");
    let mut presigned = ask(&bed);
    presigned.target = "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00".to_owned();
    let message =
        exchange(&mut bed.connect(), &presigned.bare()).is_error(400, "IncompleteSignatureException");
    assert!(message.contains("presigned"), "{message}");
    let basic = ask(&bed).header("Authorization", "Basic eDp5");
    exchange(&mut bed.connect(), &basic.bare()).is_error(400, "IncompleteSignatureException");
    bed.is_well();
}

#[test]
fn a_wrong_secret_or_key_or_token_is_refused() {
    let bed = Bed::new();
    let mut wrong = ask(&bed);
    wrong.secret.push('x');
    let message = wrong.send(&bed).is_error(400, INVALID);
    assert!(message.starts_with("The request signature we calculated does not match"), "{message}");
    let mut unknown = ask(&bed);
    unknown.id = "AKIANOBODY".to_owned();
    let message = unknown.send(&bed).is_error(400, "UnrecognizedClientException");
    assert_eq!(message, "The security token included in the request is invalid.");
    ask(&bed).header("X-Amz-Security-Token", "AAAA").send(&bed).is_error(400, "UnrecognizedClientException");
    // Somebody else's key with this secret's signature: the other account's own request, and nothing more.
    let mut other = ask(&bed);
    other.id = OTHER_ID.to_owned();
    assert_eq!(other.send(&bed).status, 200);
    bed.is_well();
}

#[test]
fn a_wrong_time_or_scope_is_refused() {
    let bed = Bed::new();
    for (minutes, said) in [(-16, "Signature expired"), (16, "Signature not yet current")] {
        let (day, time) = stamp(minutes);
        let mut late = ask(&bed).header("X-Amz-Date", &time);
        late.scope[0] = day;
        let message = late.send(&bed).is_error(400, INVALID);
        assert!(message.starts_with(said), "{message}");
    }
    for minutes in [-14, 14] {
        let (day, time) = stamp(minutes);
        let mut near = ask(&bed).header("X-Amz-Date", &time);
        near.scope[0] = day;
        assert_eq!(near.send(&bed).status, 200);
    }
    for (part, value, said) in [
        (0, "20150830", "Date in Credential scope"),
        (1, "eu-west-1", "valid region, not 'eu-west-1'"),
        (2, "s3", "correct service: 'kms'"),
        (2, "sts", "correct service: 'kms'"),
        (3, "aws4", "valid terminator"),
    ] {
        let mut other = ask(&bed);
        other.scope[part] = value.to_owned();
        let message = other.send(&bed).is_error(400, INVALID);
        assert!(message.contains(said), "{message}");
    }
    bed.is_well();
}

#[test]
fn what_must_be_signed_is_signed() {
    let bed = Bed::new();
    for name in ["Host", "X-Amz-Date", "X-Amz-Target"] {
        let message = ask(&bed).unsigned(name).send(&bed).is_error(400, INVALID);
        assert!(message.contains("must be a 'SignedHeader'"), "{message}");
    }
    assert_eq!(ask(&bed).unsigned("Content-Type").send(&bed).status, 200);
    // The Host as it was received, port included.
    let mut other = ask(&bed);
    let authorization = other.authorization();
    other = other.header("Host", "127.0.0.1").header("Authorization", &authorization);
    exchange(&mut bed.connect(), &other.bare()).is_error(400, INVALID);
    bed.is_well();
}

#[test]
fn what_was_changed_on_the_way_is_refused() {
    let bed = Bed::new();
    let good = bed.ask("CreateKey", &json!({"Description": "one"}));
    let authorization = good.authorization();
    let spoilt = |change: &dyn Fn(&mut Ask)| {
        let mut request = good.clone();
        change(&mut request);
        let request = request.header("Authorization", &authorization);
        exchange(&mut bed.connect(), &request.bare()).is_error(400, INVALID)
    };
    spoilt(&|ask| ask.body[3] ^= 1);
    spoilt(&|ask| ask.body.clear());
    spoilt(&|ask| ask.target = "/?x=1".to_owned());
    spoilt(&|ask| *ask = ask.clone().header("X-Amz-Target", "TrentService.ListKeys"));
    spoilt(&|ask| *ask = ask.clone().without("Content-Type"));
    // The signature itself.
    let last = authorization.len() - 1;
    let other = if authorization.ends_with('0') { "1" } else { "0" };
    let request = good.clone().header("Authorization", &format!("{}{other}", &authorization[..last]));
    exchange(&mut bed.connect(), &request.bare()).is_error(400, INVALID);
    // None of them made a key.
    assert_eq!(bed.done("ListKeys", &json!({}))["Keys"], json!([]));
}

#[test]
fn the_bodys_hash_is_checked() {
    let bed = Bed::new();
    let right = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(ask(&bed).header("X-Amz-Content-Sha256", right).send(&bed).status, 200);
    let wrong = right.replace('4', "5");
    let message = ask(&bed).header("X-Amz-Content-Sha256", &wrong).send(&bed).is_error(400, INVALID);
    assert!(message.contains("does not match what was computed"), "{message}");
    for form in ["STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "UNSIGNED-PAYLOAD"] {
        let answer = ask(&bed).header("X-Amz-Content-Sha256", form).send(&bed);
        assert!(answer.is_error(400, "IncompleteSignatureException").contains(form));
    }
}

#[test]
fn a_header_that_stands_there_twice_is_refused() {
    let bed = Bed::new();
    for (name, value) in [
        ("Host", "other"),
        ("X-Amz-Date", "20150830T123600Z"),
        ("X-Amz-Target", "TrentService.ScheduleKeyDeletion"),
        ("Content-Type", "text/plain"),
        ("Authorization", "AWS4-HMAC-SHA256 x"),
    ] {
        for first in [false, true] {
            let mut twice = ask(&bed);
            twice.headers.push(("Authorization".to_owned(), ask(&bed).authorization()));
            let at = if first { 0 } else { twice.headers.len() };
            twice.headers.insert(at, (name.to_owned(), value.to_owned()));
            let answer = exchange(&mut bed.connect(), &twice.bare());
            assert_eq!(answer.status, 400, "{name}: {}", answer.text());
            if name == "Authorization" && first {
                continue;
            }
            let message = answer.is_error(400, INVALID);
            assert!(message.contains("more than once"), "{name}: {message}");
        }
    }
    bed.is_well();
}

#[test]
fn a_target_of_no_service_is_refused() {
    let bed = Bed::new();
    let message = ask(&bed).header("X-Amz-Target", "DynamoDB_20120810.ListTables").send(&bed);
    message.is_error(400, "UnknownOperationException");
    ask(&bed).without("X-Amz-Target").send(&bed).is_error(400, "UnknownOperationException");
}
