//! XML as AWS's query protocol writes it.

use quick_xml::escape::escape;

/// An error's document.
pub fn error(namespace: &str, whose: &str, code: &str, message: &str, request_id: &str) -> String {
    format!(
        "<ErrorResponse xmlns=\"{}\"><Error><Type>{}</Type><Code>{}</Code><Message>{}</Message></Error>\
         <RequestId>{}</RequestId></ErrorResponse>\n",
        escape(namespace),
        escape(whose),
        escape(code),
        escape(message),
        escape(request_id)
    )
}
