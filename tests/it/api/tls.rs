//! TLS with the home's own authority.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use kmsfs::api::tls::{Authority, given};
use kmsfs::api::{Server, ServerOptions};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use super::bed::{Ask, Bed, connect, credentials, exchange};

fn client(authority: &Path, name: &str, protocols: &[&[u8]]) -> rustls::ClientConnection {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap()
}

#[test]
fn requests_go_over_tls_under_an_authority_of_the_home() {
    let bed = Bed::new();
    let authority = Authority::open_or_create(bed.kms.home().path()).unwrap();
    assert!(authority.new && authority.fingerprint.len() == 95, "{}", authority.fingerprint);
    let path = authority.path.clone();
    for name in ["ca.pem", "ca.key"] {
        let mode = std::fs::metadata(path.with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    // The second start finds the first one's authority, and clients still trust what it issues.
    let again = Authority::open_or_create(bed.kms.home().path()).unwrap();
    assert_eq!((again.new, &again.fingerprint), (false, &authority.fingerprint));
    let tls = again.issue(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    // With TLS any address will do.
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server =
        Server::start(bed.kms.clone(), credentials(&bed.kms), listener, Some(tls), ServerOptions::default())
            .unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    for name in ["localhost", "127.0.0.1"] {
        let mut stream = rustls::StreamOwned::new(client(&path, name, &[b"http/1.1"]), connect(address));
        let answer = exchange(&mut stream, &Ask::new(address, "ListKeys", &json!({})).bytes());
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    // HTTP/2 is there for who asks for it.
    let mut stream =
        rustls::StreamOwned::new(client(&path, "localhost", &[b"h2", b"http/1.1"]), connect(address));
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    assert_eq!(stream.conn.alpn_protocol(), Some(b"h2".as_slice()));
    drop(stream);
    // A name that the certificate does not have.
    let mut stream = rustls::StreamOwned::new(client(&path, "example.com", &[]), connect(address));
    assert!(stream.conn.complete_io(&mut stream.sock).is_err());
    // Somebody who speaks plain HTTP there gets nothing and breaks nothing.
    let mut plain = connect(address);
    let _ = std::io::Write::write_all(&mut plain, &Ask::new(address, "ListKeys", &json!({})).bytes());
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut plain, &mut rest);
    assert!(!rest.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&rest));
    drop((stream, plain));
    assert!(server.stop(std::time::Duration::from_secs(5)));
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_by_its_file() {
    let bed = Bed::new();
    let authority = Authority::open_or_create(bed.kms.home().path()).unwrap();
    let (certificate, key) = (authority.path.clone(), authority.path.with_file_name("ca.key"));
    assert!(given(&certificate, &key).is_ok());
    let empty = bed.dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (certificate, key, named) in [
        (&empty, &key, &empty),
        (&certificate, &empty, &empty),
        (&bed.dir.path().join("none"), &key, &bed.dir.path().join("none")),
    ] {
        let error = given(certificate, key).unwrap_err().to_string();
        assert!(error.contains(named.to_str().unwrap()), "{error}");
    }
}
