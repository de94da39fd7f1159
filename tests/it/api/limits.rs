//! Requests that are too long, too slow, or none: a clear answer or a closed connection, and the server goes on.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use kmsfs::api::{ApiError, Server, ServerOptions};
use serde_json::json;

use super::bed::{Bed, credentials, exchange, read};

fn hasty() -> ServerOptions {
    ServerOptions {
        head_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..ServerOptions::default()
    }
}

#[test]
fn a_body_that_is_too_long_is_refused() {
    let bed = Bed::new();
    let head = |more: &str| {
        format!("POST / HTTP/1.1\r\nHost: x\r\nX-Amz-Target: TrentService.Encrypt\r\n{more}\r\n\r\n")
    };
    let said = head("Content-Length: 9000000000");
    exchange(&mut bed.connect(), said.as_bytes()).is_error(413, "RequestEntityTooLargeException");
    // In chunks, without saying how long it will be.
    let mut stream = bed.connect();
    stream.write_all(head("Transfer-Encoding: chunked").as_bytes()).unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    for _ in 0..8 {
        // The server may have refused already.
        let _ = stream.write_all(&chunk);
    }
    read(&mut stream).unwrap().is_error(413, "RequestEntityTooLargeException");
    // A long one within the limit reaches the key service.
    let long = "x".repeat(100_000);
    bed.ask("CreateKey", &json!({"Description": long})).send(&bed).is_error(400, "ValidationException");
    bed.is_well();
}

#[test]
fn json_that_nests_too_deep_is_refused() {
    let bed = Bed::new();
    for open in ["[", "{\"a\":"] {
        let mut ask = bed.ask("CreateKey", &json!({}));
        ask.body = open.repeat(100_000 / open.len()).into_bytes();
        ask.send(&bed).is_error(400, "SerializationException");
        ask.body = format!("{{\"Unknown\": {}", open.repeat(50_000 / open.len())).into_bytes();
        ask.send(&bed).is_error(400, "SerializationException");
    }
    for body in [&b"\xff\xfe"[..], b"{\"KeyId\": \"\\ud800\"}", b"null", b"{} {}", b"{\"KeyId\": 1e999}"] {
        let mut ask = bed.ask("DescribeKey", &json!({}));
        ask.body = body.to_vec();
        ask.send(&bed).is_error(400, "SerializationException");
    }
    bed.is_well();
}

#[test]
fn what_is_no_http_is_refused() {
    let bed = Bed::new();
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2000));
    for bytes in [
        b"hello\r\n\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        long.as_bytes(),
        many.as_bytes(),
    ] {
        let mut stream = bed.connect();
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        if let Some(answer) = read(&mut stream) {
            assert!(
                (400..500).contains(&answer.status),
                "{:?}: {}",
                String::from_utf8_lossy(bytes),
                answer.text()
            );
        }
    }
    // A header that is no ASCII.
    let mut odd = bed.ask("ListKeys", &json!({})).bytes();
    let at = odd.windows(6).position(|w| w == b"test/1").unwrap();
    odd[at] = 0xff;
    exchange(&mut bed.connect(), &odd).is_error(400, "SerializationException");
    bed.is_well();
}

#[test]
fn who_is_too_slow_is_not_waited_for() {
    let bed = Bed::with(hasty());
    // Nothing, or half a head: the connection is closed.
    for begun in [&b""[..], b"POST / HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = bed.connect();
        stream.write_all(begun).unwrap();
        let since = Instant::now();
        let answer = read(&mut stream);
        assert!(answer.is_none_or(|a| a.status == 408), "{begun:?}");
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    }
    // Half a body.
    let bytes = bed.ask("ListKeys", &json!({})).bytes();
    let mut stream = bed.connect();
    stream.write_all(&bytes[..bytes.len() - 1]).unwrap();
    read(&mut stream).unwrap().is_error(408, "RequestTimeoutException");
    bed.is_well();
}

#[test]
fn a_client_that_goes_away_leaves_nothing_behind() {
    let bed = Bed::new();
    let bytes = bed.ask("ListKeys", &json!({})).bytes();
    for at in (0..bytes.len()).step_by(37) {
        let mut stream = bed.connect();
        stream.write_all(&bytes[..at]).unwrap();
    }
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = exchange(&mut bed.connect(), b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").text();
        if metrics.contains("kmsfs_connections 1\n") {
            break;
        }
        assert!(Instant::now() < until, "{metrics}");
        std::thread::sleep(Duration::from_millis(20));
    }
    bed.is_well();
}

#[test]
fn more_connections_than_allowed_wait_for_their_turn() {
    let bed = Bed::with(ServerOptions { max_connections: 2, ..ServerOptions::default() });
    let health = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
    let (mut one, mut two) = (bed.connect(), bed.connect());
    assert_eq!(exchange(&mut one, health).status, 200);
    assert_eq!(exchange(&mut two, health).status, 200);
    let mut three = bed.connect();
    three.write_all(health).unwrap();
    three.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(three.read(&mut [0]).is_err());
    drop(one);
    three.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(read(&mut three).unwrap().status, 200);
}

#[test]
fn a_server_that_ends_answers_what_is_under_way() {
    let bed = Bed::new();
    let bytes = bed.ask("CreateKey", &json!({})).bytes();
    let (mut idle, mut busy) = (bed.connect(), bed.connect());
    assert_eq!(exchange(&mut idle, &bytes).status, 200);
    // Half of a request is there when the end comes.
    busy.write_all(&bytes[..bytes.len() - 1]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let Bed { dir: _dir, server, kms: _kms } = bed;
    let address = server.address();
    let ending = std::thread::spawn(move || server.stop(Duration::from_secs(10)));
    std::thread::sleep(Duration::from_millis(100));
    busy.write_all(&bytes[bytes.len() - 1..]).unwrap();
    assert_eq!(read(&mut busy).unwrap().status, 200);
    assert!(ending.join().unwrap());
    assert!(read(&mut idle).is_none());
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn plain_http_is_for_loopback_alone() {
    let bed = Bed::new();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let refused =
        Server::start(bed.kms.clone(), credentials(&bed.kms), listener, None, ServerOptions::default());
    match refused {
        Err(error @ ApiError::PlainHttp { .. }) => assert!(error.to_string().contains("--tls"), "{error}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it serves plain HTTP to everybody"),
    }
}
