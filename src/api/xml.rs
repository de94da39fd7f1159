//! XML as AWS's query protocol writes it.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};
use serde_json::{Map, Value};

/// Room for every answer that holds a secret, so that no copy of it stays where a smaller buffer was.
const ROOM: usize = 16 * 1024;
/// Objects of answers that are maps: their names are values and not elements.
const MAPS: [&str; 1] = ["SummaryMap"];

/// The document of an answer. Names become elements, the items of lists `member`, those of maps `entry`; what is null is left out.
pub fn answer(namespace: &str, operation: &str, answer: &Value, request_id: &str) -> Vec<u8> {
    document(|out| {
        let response = format!("{operation}Response");
        open(out, &response, Some(namespace))?;
        if let Value::Object(members) = answer {
            let result = format!("{operation}Result");
            open(out, &result, None)?;
            object(out, members)?;
            close(out, &result)?;
        }
        open(out, "ResponseMetadata", None)?;
        text(out, "RequestId", request_id)?;
        close(out, "ResponseMetadata")?;
        close(out, &response)
    })
}

/// The document of an error.
pub fn error(namespace: &str, whose: &str, code: &str, message: &str, request_id: &str) -> Vec<u8> {
    document(|out| {
        open(out, "ErrorResponse", Some(namespace))?;
        open(out, "Error", None)?;
        text(out, "Type", whose)?;
        text(out, "Code", code)?;
        text(out, "Message", message)?;
        close(out, "Error")?;
        text(out, "RequestId", request_id)?;
        close(out, "ErrorResponse")
    })
}

type Out = Writer<Vec<u8>>;

fn document(write: impl FnOnce(&mut Out) -> io::Result<()>) -> Vec<u8> {
    let mut out = Writer::new(Vec::with_capacity(ROOM));
    // Writing to a Vec cannot fail.
    let _ = write(&mut out);
    out.into_inner()
}

fn open(out: &mut Out, name: &str, namespace: Option<&str>) -> io::Result<()> {
    let mut start = BytesStart::new(name);
    if let Some(namespace) = namespace {
        start.push_attribute(("xmlns", namespace));
    }
    out.write_event(Event::Start(start))
}

fn close(out: &mut Out, name: &str) -> io::Result<()> {
    out.write_event(Event::End(BytesEnd::new(name)))
}

fn text(out: &mut Out, name: &str, value: &str) -> io::Result<()> {
    open(out, name, None)?;
    // XML 1.0 section 2.2: what has no form in it, not even an escaped one.
    let none =
        |c: char| matches!(c, '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}');
    if value.contains(none) {
        out.write_event(Event::Text(BytesText::new(&value.replace(none, "\u{fffd}"))))?;
    } else {
        out.write_event(Event::Text(BytesText::new(value)))?;
    }
    close(out, name)
}

fn object(out: &mut Out, members: &Map<String, Value>) -> io::Result<()> {
    members.iter().try_for_each(|(name, value)| element(out, name, value))
}

fn element(out: &mut Out, name: &str, value: &Value) -> io::Result<()> {
    match value {
        Value::Null => return Ok(()),
        Value::String(value) => return text(out, name, value),
        Value::Bool(_) | Value::Number(_) => return text(out, name, &value.to_string()),
        Value::Array(_) | Value::Object(_) => {}
    }
    open(out, name, None)?;
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| element(out, "member", item))?,
        Value::Object(entries) if MAPS.contains(&name) => {
            for (key, value) in entries {
                open(out, "entry", None)?;
                text(out, "key", key)?;
                element(out, "value", value)?;
                close(out, "entry")?;
            }
        }
        Value::Object(members) => object(out, members)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    close(out, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(value: &Value) -> String {
        String::from_utf8(answer("https://x/", "Get", value, "id")).unwrap()
    }

    #[test]
    fn structures_lists_and_maps_have_aws_form() {
        let value = json!({
            "User": {"Name": "alice", "Path": "/", "Tags": [{"Key": "a", "Value": ""}, {"Key": "b"}]},
            "Names": [],
            "IsTruncated": false,
            "SummaryMap": {"Users": 1},
            "Marker": null,
        });
        let metadata = "<ResponseMetadata><RequestId>id</RequestId></ResponseMetadata>";
        assert_eq!(
            written(&value),
            format!(
                "<GetResponse xmlns=\"https://x/\"><GetResult><IsTruncated>false</IsTruncated><Names></Names>\
                 <SummaryMap><entry><key>Users</key><value>1</value></entry></SummaryMap><User><Name>alice</Name>\
                 <Path>/</Path><Tags><member><Key>a</Key><Value></Value></member><member><Key>b</Key></member></Tags></User>\
                 </GetResult>{metadata}</GetResponse>"
            )
        );
        assert_eq!(
            written(&Value::Null),
            format!("<GetResponse xmlns=\"https://x/\">{metadata}</GetResponse>")
        );
    }

    #[test]
    fn texts_are_escaped_and_what_xml_cannot_say_is_replaced() {
        assert!(
            written(&json!({"A": "<a & \"b\">\u{1}\n\u{e9}"})).contains("<A>&lt;a &amp; "),
            "{}",
            written(&json!({"A": "<a & \"b\">"}))
        );
        assert!(written(&json!({"A": "\u{1}\n\u{e9}"})).contains("<A>\u{fffd}\n\u{e9}</A>"));
        let error = String::from_utf8(error("n", "Sender", "Bad", "a < b", "id")).unwrap();
        assert_eq!(
            error,
            "<ErrorResponse xmlns=\"n\"><Error><Type>Sender</Type><Code>Bad</Code><Message>a &lt; b</Message></Error>\
             <RequestId>id</RequestId></ErrorResponse>"
        );
    }
}
