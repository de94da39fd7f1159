//! The server: sockets, connections, their limits, and its end.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::credentials::Credentials;
use super::handle::handle;
use super::metrics::Metrics;
use super::run::{MayWait, Recorder};
use crate::iam::Region;
use crate::iam::sigv4::SigningKeys;
use crate::kms::{Clock, HomeError, Kms, Session, SystemClock};

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 64 * 1024;
/// Most headers of a request.
const MAX_HEADERS: usize = 100;
/// Requests that one HTTP/2 connection has under way.
const MAX_STREAMS: u32 = 32;
/// Threads that do the key service's work, made when there is work for them.
const MAX_WORKERS: usize = 64;
/// How long accepting rests after an error such as too many open files.
const REST: Duration = Duration::from_millis(100);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Signatures protect requests from change, but nothing protects answers without TLS.
    #[error(
        "{address} is no loopback address, and plain HTTP would show plaintexts to the network; give --tls, or --tls-cert and --tls-key"
    )]
    PlainHttp {
        /// The address.
        address: SocketAddr,
    },
    /// The key service cannot be opened.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The system refused.
    #[error("the server cannot start: {0}")]
    Io(#[from] io::Error),
    /// A certificate or its key cannot be used.
    #[error("{0}")]
    Tls(String),
}

/// Limits and surroundings.
#[derive(Clone)]
pub struct ServerOptions {
    /// Connections that are open at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Until a request's head must be there: from the connection's beginning, or from the answer before.
    pub head_timeout: Duration,
    /// Until a request's body must be there.
    pub body_timeout: Duration,
    /// Longest body in bytes.
    pub max_body: usize,
    /// Threads that serve the network.
    pub threads: usize,
    /// The time that signatures are judged by.
    pub clock: Arc<dyn Clock>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            head_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(20),
            max_body: 256 * 1024,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            clock: Arc::new(SystemClock),
        }
    }
}

/// What all connections share.
pub struct Shared {
    pub kms: Arc<Kms>,
    pub credentials: Box<dyn Credentials>,
    pub options: ServerOptions,
    pub metrics: Metrics,
    pub signing_keys: SigningKeys,
    regions: RwLock<HashMap<Region, OpenRegion>>,
    may_wait: Arc<MayWait>,
}

/// A region that is open.
#[derive(Clone)]
pub struct OpenRegion {
    pub session: Session,
    pub recorder: Arc<Recorder>,
}

impl Shared {
    /// A region that is open.
    pub fn open_region(&self, region: &Region) -> Option<OpenRegion> {
        self.regions.read().get(region).cloned()
    }

    /// A region of the home, which is opened when it is first asked for.
    pub fn region(&self, region: &Region) -> Result<OpenRegion, HomeError> {
        if let Some(open) = self.open_region(region) {
            return Ok(open);
        }
        let session = self.kms.root_session(region)?;
        let recorder = Recorder::new(self.may_wait.clone());
        // Two may have come first.
        Ok(self.regions.write().entry(region.clone()).or_insert(OpenRegion { session, recorder }).clone())
    }
}

/// A server that runs. Dropped, it ends at once; [`Self::stop`] ends it in order.
pub struct Server {
    runtime: Option<Runtime>,
    address: SocketAddr,
    end: watch::Sender<bool>,
    done: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Server {
    /// Serves what arrives at a listener, over TLS if it is given.
    ///
    /// # Errors
    /// See [`ApiError`]; plain HTTP is for loopback addresses.
    pub fn start(
        kms: Arc<Kms>,
        credentials: Box<dyn Credentials>,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        options: ServerOptions,
    ) -> Result<Self, ApiError> {
        let address = listener.local_addr()?;
        if tls.is_none() && !address.ip().is_loopback() {
            return Err(ApiError::PlainHttp { address });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .max_blocking_threads(MAX_WORKERS)
            .thread_name("kms-api")
            .enable_all()
            .build()?;
        let may_wait = MayWait::of(options.threads);
        let shared = Arc::new(Shared {
            kms,
            credentials,
            options,
            metrics: Metrics::new(),
            signing_keys: SigningKeys::default(),
            regions: RwLock::default(),
            may_wait,
        });
        for region in shared.kms.home().regions()? {
            shared.region(&region)?;
        }
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let (end, ended) = watch::channel(false);
        let (finished, done) = std::sync::mpsc::channel();
        runtime.spawn(accept(shared, listener, tls.map(TlsAcceptor::from), ended, finished));
        Ok(Self { runtime: Some(runtime), address, end, done: Mutex::new(done) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, answers the requests that are under way, and ends; at the latest after
    /// `grace`. True if all were answered.
    pub fn stop(mut self, grace: Duration) -> bool {
        // Without a receiver nobody accepts any more.
        let _ = self.end.send(true);
        // The channel closes when the last connection is gone.
        let answered =
            self.done.lock().recv_timeout(grace) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        answered
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Takes connections until the end. Each holds a copy of `finished` as long as it lives.
async fn accept(
    shared: Arc<Shared>,
    listener: tokio::net::TcpListener,
    tls: Option<TlsAcceptor>,
    mut ended: watch::Receiver<bool>,
    finished: std::sync::mpsc::Sender<()>,
) {
    let room = Arc::new(Semaphore::new(shared.options.max_connections));
    loop {
        // The semaphore is never closed.
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ended.wait_for(|end| *end) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection cannot be taken: {error}");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        // Answers are small; waiting for more of them only delays.
        let _ = stream.set_nodelay(true);
        let (shared, tls, ended, finished) = (shared.clone(), tls.clone(), ended.clone(), finished.clone());
        tokio::spawn(async move {
            shared.metrics.connections.inc();
            let served = serve(&shared, stream, peer, tls, ended).await;
            shared.metrics.connections.dec();
            if let Err(error) = served {
                tracing::debug!(%peer, "a connection ended: {error}");
            }
            drop((place, finished));
        });
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    shared: &Arc<Shared>,
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let Some(tls) = tls else { return http_1(shared, stream, peer, ended).await };
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(shared.options.body_timeout, tls.accept(stream)) => shaken,
        _ = ended.wait_for(|end| *end) => return Ok(()),
    };
    let stream = shaken.map_err(|_| "the TLS handshake took too long")??;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http_2(shared, stream, peer, ended).await
    } else {
        http_1(shared, stream, peer, ended).await
    }
}

async fn http_1(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: SocketAddr,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let service = service_fn(|request| handle(shared.clone(), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(shared.options.head_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return Ok(done?),
        _ = ended.wait_for(|end| *end) => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}

async fn http_2(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let shared = shared.clone();
    let timeout = shared.options.head_timeout;
    let service = service_fn(move |request| handle(shared.clone(), peer, request));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD as u32)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        done = connection.as_mut() => return Ok(done?),
        _ = ended.wait_for(|end| *end) => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}
