//! A depot in a bucket that speaks the S3 protocol. The server is not trusted: of no answer more is read than can be, and no
//! listing goes on for ever.
//!
//! Large objects are uploaded in parts, each of which is sent again if its connection is cut; nothing is seen of one until
//! it is completed. An upload that a kill cut off leaves parts that cost storage and are not seen: a bucket's lifecycle
//! rule for incomplete uploads takes them away. A bucket has no lock: one command at a time is the caller's matter.

mod bounded;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, RetryConfig,
};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::depot::{Depot, Sink};
use super::error::{Result, SnapshotError};

/// Bytes of a part; smaller objects are put at once. A pack of 256 MiB has sixteen.
const PART: usize = 16 << 20;
/// Parts of an object that are under way at once.
const AT_ONCE: usize = 4;
/// Bytes that are read at once where less is asked for.
const PIECE: u64 = 256 << 10;
/// Such pieces that are kept: 16 MiB.
const KEPT: usize = 64;
/// Names that a listing may have: packs of 256 TiB, or as many snapshots.
const MOST_NAMES: usize = 1 << 20;
/// Longer names are none of ours, as in a directory.
const LONGEST_NAME: usize = 255;
/// Pages of a listing without a new name, one after the other. There are some where many objects were deleted.
const IDLE_PAGES: usize = 100;
/// How long one attempt may take, by what it does.
const CONNECT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
const WHOLE: Duration = Duration::from_secs(300);

/// Which bucket, and how to get there.
#[derive(Clone, Default)]
pub struct S3Options {
    /// The bucket.
    pub bucket: String,
    /// Before the depot's paths; may be empty.
    pub prefix: String,
    /// Another server than AWS's. Plain HTTP is for loopback only.
    pub endpoint: Option<String>,
    /// Settings under the names of the AWS tools' environment variables in lower case (`aws_access_key_id`, `aws_region`).
    /// Those that mean nothing here are passed over.
    pub settings: Vec<(String, String)>,
    /// How long requests are tried again. None: two minutes.
    pub patience: Option<Duration>,
}

/// See above.
pub struct S3Depot {
    store: Arc<AmazonS3>,
    runtime: Arc<Runtime>,
    url: String,
    prefix: String,
    patience: Duration,
    /// Pieces of objects, the newest last. Objects do not change but by this depot's own hands.
    kept: Arc<Mutex<Vec<Piece>>>,
}

struct Piece {
    path: String,
    number: u64,
    bytes: Arc<Vec<u8>>,
}

impl S3Depot {
    /// Makes ready; nothing is asked yet.
    ///
    /// # Errors
    /// [`SnapshotError::Refused`] if the options do not fit together.
    pub fn open(options: S3Options) -> Result<Self> {
        let url = match &*options.prefix {
            "" => format!("s3://{}", options.bucket),
            prefix => format!("s3://{}/{prefix}", options.bucket),
        };
        let refused = |why: String| SnapshotError::Refused(format!("{url} cannot be used: {why}"));
        if options.bucket.is_empty() || options.prefix.split('/').any(|part| part == "." || part == "..") {
            return Err(refused("it is not s3://BUCKET or s3://BUCKET/PREFIX".to_owned()));
        }
        let patience = options.patience.unwrap_or(Duration::from_secs(120));
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            base: 2.,
        };
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_read_timeout(IDLE)
            .with_timeout(WHOLE)
            .with_user_agent(user_agent());
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &options.settings {
            // The address is told by itself: AWS_ENDPOINT_URL may be that of a key service.
            match name.parse::<AmazonS3ConfigKey>() {
                Ok(AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::Bucket) | Err(_) => {}
                Ok(AmazonS3ConfigKey::Client(_)) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        if let Some(endpoint) = &options.endpoint {
            let plain = endpoint.starts_with("http://");
            if plain && !is_loopback(endpoint) {
                return Err(refused(format!(
                    "{endpoint} is plain HTTP to another machine; use https://, or a tunnel to 127.0.0.1"
                )));
            }
            builder = builder.with_endpoint(endpoint).with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
            // Behind the client's options, which would set it again.
            builder = builder.with_client_options(client.with_allow_http(plain));
        } else {
            builder = builder.with_client_options(client);
        }
        let store = builder
            .with_bucket_name(&options.bucket)
            .with_http_connector(bounded::Bounded)
            .with_retry(RetryConfig { backoff, max_retries: 20, retry_timeout: patience })
            .build()
            .map_err(|e| refused(e.to_string()))?;
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("s3").enable_all().build();
        let runtime = runtime.map_err(|e| refused(format!("no threads for it: {e}")))?;
        let prefix = options.prefix.trim_matches('/').to_owned();
        let kept = Arc::default();
        Ok(Self { store: Arc::new(store), runtime: Arc::new(runtime), url, prefix, patience, kept })
    }

    fn path(&self, path: &str) -> Path {
        // Every component was made or checked by this layer, or by whoever named the prefix.
        if self.prefix.is_empty() { Path::from(path) } else { Path::from(format!("{}/{path}", self.prefix)) }
    }

    /// Asks for bytes until they come, or patience ends.
    fn fetch(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let (key, end) = (self.path(path), offset + buf.len() as u64);
        let begun = Instant::now();
        let mut wait = Duration::from_millis(100);
        loop {
            let got = self.runtime.block_on(self.store.get_range(&key, offset..end));
            match got {
                Ok(bytes) => {
                    let len = bytes.len().min(buf.len());
                    buf[..len].copy_from_slice(&bytes[..len]);
                    return Ok(len);
                }
                Err(error) => {
                    // A range that begins behind the end is an error of the protocol, and no more than that.
                    if self.len(path)? <= offset {
                        return Ok(0);
                    }
                    if !may_pass(&error) || begun.elapsed() + wait > self.patience {
                        return Err(self.failed("reading", path, error));
                    }
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// A piece of an object, kept or fetched.
    fn piece(&self, path: &str, number: u64) -> Result<Arc<Vec<u8>>> {
        let mut kept = self.kept.lock();
        if let Some(at) = kept.iter().position(|piece| piece.number == number && piece.path == path) {
            let piece = kept.remove(at);
            let bytes = piece.bytes.clone();
            kept.push(piece);
            return Ok(bytes);
        }
        drop(kept);
        let mut bytes = vec![0; PIECE as usize];
        let read = self.fetch(path, number * PIECE, &mut bytes)?;
        bytes.truncate(read);
        let bytes = Arc::new(bytes);
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Piece { path: path.to_owned(), number, bytes: bytes.clone() });
        Ok(bytes)
    }

    /// An object is written anew, or goes: what is kept of it is stale.
    fn forget(&self, path: &str) {
        self.kept.lock().retain(|piece| piece.path != path);
    }

    fn failed(&self, what: &'static str, path: &str, error: object_store::Error) -> SnapshotError {
        failed(what, &format!("{}/{path}", self.url), error)
    }
}

fn user_agent() -> object_store::HeaderValue {
    object_store::HeaderValue::from_static(concat!("kmsfs/", env!("CARGO_PKG_VERSION")))
}

/// The host in a URL is this machine.
fn is_loopback(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return false;
    }
    let host = match authority.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn failed(what: &'static str, path: &str, error: object_store::Error) -> SnapshotError {
    use object_store::Error;
    let kind = match &error {
        Error::NotFound { .. } => io::ErrorKind::NotFound,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    SnapshotError::Depot { what, path: path.to_owned(), source: io::Error::new(kind, told(&error)) }
}

/// The error with all its causes, each once.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let more = next.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = next.source();
    }
    text
}

/// Worth another attempt: a connection that was cut while an answer came, which the client does not mend by itself where
/// the server gave no name to the object's state.
fn may_pass(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
}

impl Depot for S3Depot {
    fn location(&self) -> String {
        self.url.clone()
    }

    fn len(&self, path: &str) -> Result<u64> {
        let head = self.runtime.block_on(self.store.head(&self.path(path)));
        Ok(head.map_err(|e| self.failed("looking for", path, e))?.size)
    }

    fn read_at(&self, path: &str, offset: u64, buf: &mut [u8]) -> Result<usize> {
        // What is read in one go, or nearly, is asked for as it is.
        if buf.len() as u64 >= PIECE {
            return self.fetch(path, offset, buf);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let piece = self.piece(path, at / PIECE)?;
            let from = piece.get((at % PIECE) as usize..).unwrap_or_default();
            let len = from.len().min(buf.len() - done);
            if len == 0 {
                break;
            }
            buf[done..done + len].copy_from_slice(&from[..len]);
            done += len;
        }
        Ok(done)
    }

    fn create(&self, path: &str) -> Result<Box<dyn Sink>> {
        self.forget(path);
        Ok(Box::new(S3Sink {
            store: self.store.clone(),
            runtime: self.runtime.clone(),
            key: self.path(path),
            shown: format!("{}/{path}", self.url),
            buffer: Vec::new(),
            upload: None,
        }))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let below = format!("{}/", self.path(prefix));
        let endless = |why: &str| {
            let place = format!("{}/{prefix}", self.url);
            SnapshotError::damaged(format!("{place} cannot be listed, for the server {why}"))
        };
        let mut names = BTreeSet::new();
        let (mut token, mut idle) = (None, 0);
        loop {
            let options = PaginatedListOptions {
                delimiter: Some("/".into()),
                page_token: token.clone(),
                ..PaginatedListOptions::default()
            };
            let page = self.runtime.block_on(self.store.list_paginated(Some(&below), options));
            let page = page.map_err(|e| self.failed("listing", prefix, e))?;
            let before = names.len();
            let objects = page.result.objects.iter().map(|object| &object.location);
            let found = objects.chain(&page.result.common_prefixes).filter_map(Path::filename);
            names.extend(found.filter(|name| name.len() <= LONGEST_NAME).map(str::to_owned));
            let next = page.page_token.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(names.into_iter().collect());
            }
            if next == token {
                return Err(endless("goes on where it began"));
            }
            token = next;
            idle = if names.len() > before { 0 } else { idle + 1 };
            if idle > IDLE_PAGES {
                return Err(endless("goes on and tells nothing new"));
            }
            if names.len() > MOST_NAMES {
                return Err(endless("tells of over a million names"));
            }
        }
    }

    fn delete(&self, path: &str) -> Result<()> {
        self.forget(path);
        match self.runtime.block_on(self.store.delete(&self.path(path))) {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            done => done.map_err(|e| self.failed("deleting", path, e)),
        }
    }

    fn sweep(&self) -> Result<()> {
        // An object is there whole or not at all; see above for the parts of uploads that were cut off.
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
}

struct S3Sink {
    store: Arc<dyn ObjectStore>,
    runtime: Arc<Runtime>,
    key: Path,
    shown: String,
    buffer: Vec<u8>,
    upload: Option<Upload>,
}

struct Upload {
    upload: Box<dyn MultipartUpload>,
    parts: JoinSet<object_store::Result<()>>,
}

impl S3Sink {
    /// Sends what is in the buffer as the next part, when there is room among those under way.
    fn part(&mut self) -> object_store::Result<()> {
        let payload = PutPayload::from(std::mem::take(&mut self.buffer));
        let runtime = self.runtime.clone();
        runtime.block_on(async {
            if self.upload.is_none() {
                let upload = self.store.put_multipart(&self.key).await?;
                self.upload = Some(Upload { upload, parts: JoinSet::new() });
            }
            if let Some(Upload { upload, parts }) = &mut self.upload {
                while parts.len() >= AT_ONCE {
                    joined(parts).await?;
                }
                parts.spawn(upload.put_part(payload));
            }
            Ok(())
        })
    }

    fn end(&mut self) -> object_store::Result<()> {
        if self.upload.is_none() {
            let payload = PutPayload::from(std::mem::take(&mut self.buffer));
            return self.runtime.clone().block_on(self.store.put(&self.key, payload)).map(|_| ());
        }
        if !self.buffer.is_empty() {
            self.part()?;
        }
        let runtime = self.runtime.clone();
        runtime.block_on(async {
            if let Some(Upload { upload, parts }) = &mut self.upload {
                while !parts.is_empty() {
                    joined(parts).await?;
                }
                upload.complete().await?;
            }
            Ok::<(), object_store::Error>(())
        })?;
        self.upload = None;
        Ok(())
    }
}

/// Waits for one of the parts under way.
async fn joined(parts: &mut JoinSet<object_store::Result<()>>) -> object_store::Result<()> {
    match parts.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(source)) => Err(object_store::Error::JoinError { source }),
        None => Ok(()),
    }
}

impl Write for S3Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PART {
            self.part().map_err(|e| io::Error::other(told(&e)))?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for S3Sink {
    fn finish(mut self: Box<Self>) -> Result<()> {
        self.end().map_err(|e| failed("uploading", &self.shown, e))
    }
}

impl Drop for S3Sink {
    fn drop(&mut self) {
        if let Some(Upload { mut upload, mut parts }) = self.upload.take() {
            // Best effort: see the module's beginning.
            let _ = self.runtime.block_on(async {
                parts.shutdown().await;
                upload.abort().await
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine() {
        for here in ["http://127.0.0.1:9000", "http://localhost/x", "http://[::1]:80", "http://127.1.2.3"] {
            assert!(is_loopback(here), "{here}");
        }
        for there in
            ["http://10.0.0.1", "http://localhost.example.org", "http://127.0.0.1@evil.org", "http://[::2]"]
        {
            assert!(!is_loopback(there), "{there}");
            let options = S3Options {
                bucket: "b".into(),
                endpoint: Some(there.into()),
                settings: vec![("aws_region".into(), "us-east-1".into())],
                ..S3Options::default()
            };
            assert!(matches!(S3Depot::open(options), Err(SnapshotError::Refused(_))));
        }
        let options = S3Options { bucket: "b".into(), prefix: "a/../c".into(), ..S3Options::default() };
        assert!(matches!(S3Depot::open(options), Err(SnapshotError::Refused(_))));
    }
}
