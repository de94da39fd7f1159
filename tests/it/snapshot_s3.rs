//! Snapshots in a bucket: moto_server's S3, from PyPI (scripts/clients), directly and through a proxy that cuts
//! connections in the middle.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kmsfs::snapshot::SnapshotError;
use kmsfs::snapshot::catalogue::{self, Snapshot};
use kmsfs::snapshot::create::{self, Ends, Options, Unmounted};
use kmsfs::snapshot::depot::Depot;
use kmsfs::snapshot::s3::{S3Depot, S3Options};
use kmsfs::volume::disk::Time;
use kmsfs::volume::host::HostDir;

use crate::cli::json;
use crate::mounted::bed::Bed;
use crate::served::{self, Running};
use crate::snapshot_copy::{bed, seen, session, take, write_out};

const OWN: &str = "000000000000";
const HERE: &str = "us-east-1";
const BUCKET: &str = "snaps";

/// moto_server with a bucket.
fn moto(bed: &Bed) -> Running {
    let moto = served::moto(bed.dir());
    let mut stream = TcpStream::connect(moto.address).unwrap();
    write!(
        stream,
        "PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        moto.address
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    moto
}

/// Hands connections on, and cuts some of them after so many bytes in either direction.
struct Proxy {
    address: SocketAddr,
    cuts: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

impl Proxy {
    fn before(server: SocketAddr, bytes: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (left, cut) = (cuts.clone(), done.clone());
        // Ends with the process: the tests' servers are few.
        thread::spawn(move || {
            for client in listener.incoming().map_while(io::Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (left, cut) = (left.clone(), cut.clone());
                    thread::spawn(move || {
                        let (mut passed, mut buffer) = (0, vec![0; 1 << 14]);
                        while let Ok(read) = from.read(&mut buffer) {
                            if read == 0 || to.write_all(&buffer[..read]).is_err() {
                                break;
                            }
                            passed += read;
                            let take = |left: usize| left.checked_sub(1);
                            if passed > bytes
                                && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
                            {
                                cut.fetch_add(1, Ordering::SeqCst);
                                let _ = from.shutdown(Shutdown::Both);
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { address, cuts, done }
    }

    /// From now on so many connections are cut. Answers how many were before.
    fn cut(&self, count: usize) -> usize {
        self.cuts.store(count, Ordering::SeqCst);
        self.done.swap(0, Ordering::SeqCst)
    }
}

fn depot(address: SocketAddr, prefix: &str) -> Arc<dyn Depot> {
    patient_depot(address, prefix, Duration::from_secs(60))
}

fn patient_depot(address: SocketAddr, prefix: &str, patience: Duration) -> Arc<dyn Depot> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let options = S3Options {
        bucket: BUCKET.into(),
        prefix: prefix.into(),
        endpoint: Some(format!("http://{address}")),
        settings: vec![
            setting("aws_access_key_id", "test"),
            setting("aws_secret_access_key", "test"),
            setting("aws_region", HERE),
        ],
        patience: Some(patience),
    };
    Arc::new(S3Depot::open(options).unwrap())
}

fn run(bed: &Bed, args: &[&str]) -> String {
    let mut command = bed.command(args);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn copies_go_to_a_bucket_and_come_back_though_connections_are_cut() {
    let (bed, _) = bed(40);
    let moto = moto(&bed);
    let proxy = Proxy::before(moto.address, 300_000);
    // More than one part of an upload, of bytes that are not each other's.
    bed.mount();
    let large: Vec<u8> =
        (0..40_000_000u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect();
    fs::write(bed.plain("forty megabytes"), &large).unwrap();
    bed.unmount();
    let shown = seen(&bed, &bed.vault(), &[]);
    take(&bed, OWN, "t");

    let url = format!("http://{}", proxy.address);
    proxy.cut(8);
    let to =
        ["--to", "eu-west-1", "--dest", "s3://snaps/deep/er", "--name", "far", "--endpoint", &url, "--json"];
    let done: serde_json::Value =
        serde_json::from_str(&run(&bed, &[&["snapshot", "copy", "t", "--in", "snaps"][..], &to].concat()))
            .unwrap();
    assert_eq!(done["depot"], "s3://snaps/deep/er");
    let cut = proxy.cut(8);
    assert!(cut > 3, "only {cut} connections were cut on the way there");

    // And back from there, under the first region's key.
    fs::create_dir(bed.dir().join("back")).unwrap();
    let from = ["snapshot", "copy", "s3://snaps/deep/er/snapshots/far", "--endpoint", &url];
    run(&bed, &[&from[..], &["--to", HERE, "--dest", "back", "--name", "home"]].concat());
    let cut = proxy.cut(8);
    assert!(cut > 3, "only {cut} connections were cut on the way back");
    let back = crate::snapshot_copy::depot(&bed.dir().join("back"));
    write_out(&back, "home", &session(&bed, OWN, HERE), &bed.dir().join("home-copy"));
    assert_eq!(seen(&bed, &bed.dir().join("home-copy"), &[]), shown);

    // What stands in the bucket is the whole copy, and nothing else.
    let there = depot(proxy.address, "deep/er");
    write_out(&there, "far", &session(&bed, OWN, "eu-west-1"), &bed.dir().join("far-copy"));
    assert_eq!(seen(&bed, &bed.dir().join("far-copy"), &["--region", "eu-west-1"]), shown);
    assert_eq!(there.list("snapshots/far").unwrap(), ["manifest", "snapshot.json"]);
    let named = Snapshot::find(there.clone(), "far").unwrap().descriptor.packs;
    assert_eq!(there.list("packs").unwrap().len(), named.len());

    // A changed byte there is found.
    let pack = format!("packs/{}", named[0].id);
    let mut bytes = there.get(&pack, 1 << 28).unwrap();
    let at = bytes.len() - 1000;
    bytes[at] ^= 4;
    there.put(&pack, &bytes).unwrap();
    let mut command = bed.command([&from[..], &["--to", HERE, "--dest", "back", "--name", "bad"]].concat());
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

#[test]
fn snapshots_are_taken_to_a_bucket_listed_and_deleted() {
    let (bed, shown) = bed(30);
    let moto = moto(&bed);
    let there = depot(moto.address, "");
    let service = session(&bed, OWN, HERE);
    let root = HostDir::open(&bed.vault()).unwrap();
    let scratch = HostDir::open(bed.dir()).unwrap();
    let take = |name: &str, sec: i64| {
        let ends =
            Ends { root: &root, depot: &there, scratch: &*scratch, service: &service, ledger: &service };
        let options = Options::new(name.to_owned(), OWN.to_owned(), Time { sec, nsec: 0 });
        create::create(&ends, &Unmounted::new(&*root).unwrap(), &options, &|_| ()).unwrap()
    };
    take("one", 1_800_000_000);
    let second = take("two", 1_800_000_100);
    assert_eq!(second.descriptor.parent.unwrap().name, "one");
    let names =
        || catalogue::list(&there).unwrap().snapshots.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(), ["one", "two"]);
    catalogue::delete(&there, "one", &service).unwrap();
    assert_eq!(names(), ["two"]);
    write_out(&there, "two", &service, &bed.dir().join("two"));
    assert_eq!(seen(&bed, &bed.dir().join("two"), &[]), shown);
    catalogue::delete(&there, "two", &service).unwrap();
    assert!(there.list("packs").unwrap().is_empty() && names().is_empty());
    assert!(there.len("packs/x").unwrap_err().is_not_found());

    // Refusals and absence are told apart, and told with the URL.
    let mut command = bed.command([
        "snapshot",
        "copy",
        "s",
        "--in",
        "snaps",
        "--to",
        HERE,
        "--dest",
        "s3://no-such-bucket",
    ]);
    command.args(["--endpoint", &moto.url()]);
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test");
    let output = command.output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && words.contains("s3://no-such-bucket"), "{words}");
    let events = json(&bed, &["audit", "lookup", "--event", "DeleteSnapshot", "--json"]);
    assert_eq!(events["Events"].as_array().unwrap().len(), 2);
}

/// A server that answers each request as it is told, by its first line, and counts the bytes that were taken.
struct Liar {
    address: SocketAddr,
    written: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
}

/// The head of an answer, and what follows again and again until the other side goes, or 64 MiB.
type Lie = (String, Vec<u8>);

impl Liar {
    fn new(lie: impl Fn(&str, usize) -> Lie + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (written, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, number) = (written.clone(), asked.clone());
        // Ends with the process.
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(io::Result::ok) {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    request.push(byte[0]);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let (head, again) = lie(&request, number.fetch_add(1, Ordering::SeqCst));
                if stream.write_all(head.as_bytes()).is_err() || again.is_empty() {
                    continue;
                }
                for _ in 0..(64 << 20) / again.len() {
                    if stream.write_all(&again).is_err() {
                        break;
                    }
                    count.fetch_add(again.len(), Ordering::SeqCst);
                }
            }
        });
        Self { address, written, asked }
    }

    fn depot(&self) -> Arc<dyn Depot> {
        patient_depot(self.address, "", Duration::from_secs(2))
    }

    /// Bytes of endless answers that were taken since, socket buffers included.
    fn written(&self) -> usize {
        self.written.swap(0, Ordering::SeqCst)
    }
}

const ENDLESS: &str = "Connection: close\r\nETag: \"e\"\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";

/// One page of a listing; the last, if there is no token.
fn page(name: &str, token: Option<&str>) -> Lie {
    let more = token.map_or(String::new(), |t| format!("<NextContinuationToken>{t}</NextContinuationToken>"));
    let body = format!(
        "<ListBucketResult><IsTruncated>{}</IsTruncated>{more}<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>\
         </ListBucketResult>",
        token.is_some()
    );
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length:";
    (format!("{head} {}\r\n\r\n{body}", body.len()), Vec::new())
}

fn assert_endless(liar: &Liar, most: usize) {
    let error = liar.depot().list("snapshots").unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("s3://snaps/snapshots cannot be listed"), "{error}");
    let asked = liar.asked.load(Ordering::SeqCst);
    assert!(asked <= most, "{asked} pages");
}

#[test]
fn a_listing_that_never_ends_is_refused() {
    // A token that leads to itself; a circle of three; new tokens for ever, and no new name. At last they would end.
    let token = |n: usize, token: String| page("snapshots/one", (n < 500).then_some(&token));
    assert_endless(&Liar::new(move |_, n| token(n, "again".into())), 2);
    assert_endless(&Liar::new(move |_, n| token(n, format!("t{}", n % 3))), 110);
    assert_endless(&Liar::new(move |_, n| token(n, format!("t{n}"))), 110);
    // Empty pages between others are none of that, and a name that is told twice is one.
    let honest = Liar::new(|_, n| {
        page(&format!("snapshots/s{}", n / 50), (n < 200).then(|| format!("t{n}")).as_deref())
    });
    assert_eq!(honest.depot().list("snapshots").unwrap(), ["s0", "s1", "s2", "s3", "s4"]);
    // Nor what no directory has.
    let long = Liar::new(|_, n| match n {
        0 => page(&format!("snapshots/{}", "x".repeat(300)), Some("t")),
        _ => page("snapshots/s", None),
    });
    assert_eq!(long.depot().list("snapshots").unwrap(), ["s"]);
}

#[test]
fn no_more_of_an_answer_is_read_than_was_asked_for() {
    // What lies in the sockets' buffers counts as taken, of the answer before too, which the server may still be giving.
    const BUFFERS: usize = 2 * (12 << 20);
    let liar = Liar::new(|request, _| {
        let ranged = request.to_lowercase();
        let range = ranged.split_once("range: bytes=").and_then(|(_, rest)| rest.split("\r\n").next());
        let head = match range {
            _ if request.contains("list-type=2") => {
                let name = "<CommonPrefixes><Prefix>snapshots/one/</Prefix></CommonPrefixes>".repeat(1000);
                return (format!("HTTP/1.1 200 OK\r\n{ENDLESS}\r\n<ListBucketResult>"), name.into_bytes());
            }
            _ if request.contains("denied") => format!("HTTP/1.1 403 Forbidden\r\n{ENDLESS}\r\n"),
            _ if request.starts_with("HEAD") => {
                return (
                    format!("HTTP/1.1 200 OK\r\n{ENDLESS}Content-Length: {}\r\n\r\n", u64::MAX),
                    Vec::new(),
                );
            }
            Some(range) => format!(
                "HTTP/1.1 206 Partial Content\r\n{ENDLESS}Content-Length: {}\r\nContent-Range: bytes {range}/{}\r\n\r\n",
                64 << 20,
                u64::MAX
            ),
            None => format!("HTTP/1.1 500 Internal Server Error\r\n{ENDLESS}\r\n"),
        };
        (head, vec![b'y'; 1 << 16])
    });
    let there = liar.depot();
    // Through the kept pieces, and past them.
    for len in [1000, 700_000] {
        let mut buf = vec![0; len];
        assert_eq!(there.read_at("packs/p", 4096, &mut buf).unwrap(), len);
        assert!(buf.iter().all(|byte| *byte == b'y'));
        let written = liar.written();
        assert!(written < BUFFERS, "{written} for {len}");
    }
    assert_eq!(there.len("packs/p").unwrap(), u64::MAX);
    assert!(matches!(there.get("snapshots/one/snapshot.json", 300_000), Err(SnapshotError::Damaged(_))));
    assert!(liar.written() < BUFFERS);
    let error = there.read_at("packs/denied", 0, &mut [0; 10]).unwrap_err();
    assert!(matches!(error, SnapshotError::Depot { .. }), "{error}");
    assert!(liar.written() < BUFFERS);
    let error = there.list("snapshots").unwrap_err().to_string();
    assert!(error.contains("longer than any can be"), "{error}");
    assert!(liar.written() < BUFFERS + (16 << 20));
}
