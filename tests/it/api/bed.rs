//! A server in this process on a free port, and a client that can do everything wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use kmsfs::api::{DevCredentials, HomeCredentials, Server, ServerOptions};
use kmsfs::kms::{Home, Kms, KmsOptions, Session};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub const ID: &str = "AKIAIOSFODNN7EXAMPLE";
pub const SECRET: &str = "wJalrXUtnFEMI/K7MDENG=bPxRfiCYEXAMPLEKEY";
pub const ACCOUNT: &str = "000000000000";
/// The root of another account.
pub const OTHER_ID: &str = "AKIAI44QH8DHBEXAMPLE";
pub const OTHER_ACCOUNT: &str = "111122223333";

pub struct Bed {
    pub dir: tempfile::TempDir,
    pub kms: Arc<Kms>,
    pub server: Server,
}

impl Bed {
    pub fn new() -> Self {
        Self::with(ServerOptions::default())
    }

    pub fn with(options: ServerOptions) -> Self {
        let dir = tempfile::Builder::new().prefix("kmsfs-api-").tempdir().unwrap();
        let home = dir.path().join("home");
        Home::open_or_create(&home).unwrap();
        let kms = Kms::open(&home, KmsOptions::new(ACCOUNT.parse().unwrap())).unwrap();
        kms.create_region(&"us-east-1".parse().unwrap(), None).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::start(kms.clone(), credentials(&kms), listener, None, options).unwrap();
        Self { dir, kms, server }
    }

    pub fn session(&self) -> Session {
        self.kms.root_session(&"us-east-1".parse().unwrap()).unwrap()
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.server.address())
    }

    /// A good request for an operation of KMS.
    pub fn ask(&self, operation: &str, body: &Value) -> Ask {
        Ask::new(self.server.address(), operation, body)
    }

    /// The answer to a good request, which succeeds.
    pub fn done(&self, operation: &str, body: &Value) -> Value {
        let answer = self.ask(operation, body).send(self);
        assert_eq!(answer.status, 200, "{operation}: {}", answer.text());
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// A request of the query protocol: `sts` or `iam`.
    pub fn query(&self, service: &str, action: &str, parameters: &[(&str, &str)]) -> Ask {
        Ask::query(self.server.address(), service, action, parameters)
    }

    /// The server answers as ever.
    pub fn is_well(&self) {
        self.done("ListKeys", &serde_json::json!({}));
    }
}

/// Two accounts' roots, and behind them the home's own users.
pub fn credentials(kms: &Arc<Kms>) -> Box<DevCredentials> {
    let fixed = [format!("{ID}:{SECRET}={ACCOUNT}"), format!("{OTHER_ID}:{SECRET}={OTHER_ACCOUNT}")];
    Box::new(DevCredentials::new(
        fixed.map(|text| text.parse().unwrap()),
        Some(Box::new(HomeCredentials(kms.clone()))),
    ))
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// A request in parts, each of which can be spoilt.
#[derive(Clone)]
pub struct Ask {
    pub method: String,
    pub target: String,
    /// With Host; the signature comes last.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub id: String,
    pub secret: String,
    /// Date, region, service, terminator.
    pub scope: [String; 4],
    /// Headers that go unsigned.
    pub unsigned: Vec<String>,
}

impl Ask {
    pub fn new(address: SocketAddr, operation: &str, body: &Value) -> Self {
        let now = jiff::Timestamp::now();
        let (day, time) = (now.strftime("%Y%m%d").to_string(), now.strftime("%Y%m%dT%H%M%SZ").to_string());
        let headers = [
            ("Host", address.to_string()),
            ("User-Agent", "test/1".to_owned()),
            ("Content-Type", "application/x-amz-json-1.1".to_owned()),
            ("X-Amz-Date", time),
            ("X-Amz-Target", format!("TrentService.{operation}")),
        ];
        Self {
            method: "POST".to_owned(),
            target: "/".to_owned(),
            headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            body: body.to_string().into_bytes(),
            id: ID.to_owned(),
            secret: SECRET.to_owned(),
            scope: [day, "us-east-1".to_owned(), "kms".to_owned(), "aws4_request".to_owned()],
            unsigned: vec!["User-Agent".to_owned()],
        }
    }

    /// A good request of the query protocol: `sts` or `iam`.
    pub fn query(address: SocketAddr, service: &str, action: &str, parameters: &[(&str, &str)]) -> Self {
        let version = if service == "sts" { "2011-06-15" } else { "2010-05-08" };
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action).append_pair("Version", version).extend_pairs(parameters);
        let mut ask = Self::new(address, "", &Value::Null)
            .without("X-Amz-Target")
            .header("Content-Type", "application/x-www-form-urlencoded; charset=utf-8");
        ask.body = form.finish().into_bytes();
        ask.scope[2] = service.to_owned();
        ask
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(n, _)| n != name);
        self
    }

    pub fn unsigned(mut self, name: &str) -> Self {
        self.unsigned.push(name.to_owned());
        self
    }

    /// The Authorization header, by AWS's description of Signature Version 4.
    pub fn authorization(&self) -> String {
        let mut signed: Vec<(String, String)> = self
            .headers
            .iter()
            .filter(|(name, _)| !self.unsigned.contains(name))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        signed.sort();
        let names = signed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        let canonical = format!("{}\n{path}\n{query}\n{lines}\n{names}\n{}", self.method, hash(&self.body));
        let date = self.headers.iter().find(|(name, _)| name == "X-Amz-Date").map_or("", |(_, value)| value);
        let scope = self.scope.join("/");
        let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hash(canonical.as_bytes()));
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for part in &self.scope {
            key = hmac(&key, part);
        }
        let signature = hex::encode(hmac(&key, &to_sign));
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.id
        )
    }

    /// The bytes, without signature.
    pub fn bare(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        [text.as_bytes(), &self.body].concat()
    }

    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut signed = self.clone();
        signed.headers.push(("Authorization".to_owned(), self.authorization()));
        signed.bare()
    }

    pub fn send(&self, bed: &Bed) -> Answer {
        exchange(&mut bed.connect(), &self.bytes())
    }
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn get(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// It is an error of this status and name in JSON; its message.
    pub fn is_error(&self, status: u16, name: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let body = self.json();
        assert_eq!(body["__type"], name, "{body}");
        assert_eq!(self.get("content-type"), "application/x-amz-json-1.1");
        assert_eq!(self.get("x-amzn-requestid").len(), 36);
        body["message"].as_str().unwrap().to_owned()
    }
}

/// The text of the first element of this name in an XML document.
pub fn element<'a>(document: &'a str, name: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("<{name}>")).unwrap_or_else(|| panic!("{name}: {document}"));
    rest.split_once(&format!("</{name}>")).unwrap().0
}

/// Sends bytes and reads one answer.
pub fn exchange(stream: &mut (impl Read + Write), bytes: &[u8]) -> Answer {
    // A server that has refused already need not take the rest.
    let _ = stream.write_all(bytes);
    read(stream).expect("no answer")
}

/// One answer; None if the connection ends instead.
pub fn read(stream: &mut impl Read) -> Option<Answer> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) => return None,
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(e) => panic!("{e}, after {:?}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let mut body = vec![0; length.map_or(0, |(_, value)| value.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(Answer { status, headers, body })
}
