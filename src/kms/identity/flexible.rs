//! Requests as the query protocol has them: everything is text, and nested names are flat.

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

/// A number, or its digits.
pub fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|_| de::Error::custom("not a number")),
        other => other.as_i64().map(Some).ok_or_else(|| de::Error::custom("not a number")),
    }
}

/// A truth value, or its name.
pub fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(false),
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(de::Error::custom("neither true nor false")),
    }
}

/// Members of a list that a request may have.
const MOST_MEMBERS: usize = 1000;
/// How deep names nest in AWS's model: a list of structures.
const DEEPEST: usize = 6;

/// Flat names (`Tags.member.1.Key`) as the JSON that requests are read from. None if they contradict one another,
/// nest too deep, or count too far. `Action` and `Version` are no part of the request.
pub fn nested(pairs: &[(String, String)]) -> Option<Value> {
    let mut all = Map::new();
    for (name, text) in pairs {
        if matches!(name.as_str(), "Action" | "Version") {
            continue;
        }
        let parts: Vec<&str> = name.split('.').collect();
        if parts.len() > DEEPEST || parts.iter().any(|part| part.is_empty()) {
            return None;
        }
        insert(&mut all, &parts, text)?;
    }
    Some(lists(Value::Object(all)))
}

fn insert(into: &mut Map<String, Value>, parts: &[&str], text: &str) -> Option<()> {
    let (first, rest) = parts.split_first()?;
    if rest.is_empty() {
        let taken = into.insert((*first).to_owned(), Value::String(text.to_owned()));
        return taken.is_none().then_some(());
    }
    let inner = into.entry((*first).to_owned()).or_insert_with(|| Value::Object(Map::new()));
    insert(inner.as_object_mut()?, rest, text)
}

/// Objects whose one name is `member` become lists, in the order of their numbers.
fn lists(value: Value) -> Value {
    let Value::Object(mut map) = value else { return value };
    if map.len() == 1
        && let Some(Value::Object(members)) = map.remove("member")
    {
        let mut numbered: Vec<(usize, Value)> = Vec::new();
        for (number, value) in members {
            // What is not numbered is left out, and then missed by the request's checks.
            if let Ok(number) = number.parse()
                && numbered.len() < MOST_MEMBERS
            {
                numbered.push((number, lists(value)));
            }
        }
        numbered.sort_by_key(|(number, _)| *number);
        return Value::Array(numbered.into_iter().map(|(_, value)| value).collect());
    }
    Value::Object(map.into_iter().map(|(name, value)| (name, lists(value))).collect())
}

/// Documents in answers are percent-encoded (RFC 3986) in the query protocol.
pub fn encode_documents(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (name.as_str(), &mut *value) {
                    ("Document" | "PolicyDocument" | "AssumeRolePolicyDocument", Value::String(text)) => {
                        *text = percent(text);
                    }
                    _ => encode_documents(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(encode_documents),
        _ => {}
    }
}

fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// As events spell it: names begin small; without what is empty and without secrets.
pub fn for_event(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let secret = |name: &str| matches!(name, "SecretAccessKey" | "SessionToken" | "TokenCode");
            let empty = |value: &Value| match value {
                Value::Null | Value::Bool(false) => true,
                Value::Array(items) => items.is_empty(),
                Value::Object(map) => map.is_empty(),
                _ => false,
            };
            let small = |name: &str| match name.chars().next() {
                Some(first) => format!("{}{}", first.to_ascii_lowercase(), &name[first.len_utf8()..]),
                None => String::new(),
            };
            let kept = map.into_iter().filter(|(name, value)| !secret(name) && !empty(value));
            Value::Object(kept.map(|(name, value)| (small(&name), for_event(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(for_event).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn flat_names_become_structures_and_lists_in_their_order() {
        let found = nested(&pairs(&[
            ("Action", "CreateUser"),
            ("Version", "2010-05-08"),
            ("UserName", "alice"),
            ("Tags.member.2.Key", "b"),
            ("Tags.member.10.Key", "c"),
            ("Tags.member.1.Key", "a"),
            ("Tags.member.1.Value", "1"),
        ]));
        let expected = json!({
            "UserName": "alice", "Tags": [{"Key": "a", "Value": "1"}, {"Key": "b"}, {"Key": "c"}]
        });
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn names_that_contradict_one_another_are_refused() {
        for bad in [
            &[("A", "1"), ("A", "2")][..],
            &[("A", "1"), ("A.B", "2")],
            &[("A..B", "1")],
            &[("a.b.c.d.e.f.g", "1")],
        ] {
            assert_eq!(nested(&pairs(bad)), None, "{bad:?}");
        }
    }

    #[test]
    fn events_have_no_secrets_and_small_names() {
        let event = for_event(
            json!({"AccessKey": {"SecretAccessKey": "x", "AccessKeyId": "y"}, "Tags": [], "Path": null}),
        );
        assert_eq!(event, json!({"accessKey": {"accessKeyId": "y"}}));
    }
}
