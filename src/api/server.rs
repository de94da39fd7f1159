//! The server: sockets, connections, their limits, and its end.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::{Mutex, RwLock};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::credentials::Credentials;
use super::handle::{Origin, handle};
use super::metrics::Metrics;
use super::run::Recorder;
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
/// See [`tick`]; shorter than any timeout that is usual.
const TICK: Duration = Duration::from_secs(1);
/// How long the end waits for work that nobody waits for any more.
const LAST_WORK: Duration = Duration::from_secs(1);

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
        let recorder = Recorder::new(self.options.threads);
        // Two may have come first.
        Ok(self.regions.write().entry(region.clone()).or_insert(OpenRegion { session, recorder }).clone())
    }
}

/// A server that runs. Dropped, it ends at once; [`Self::stop`] ends it in order.
pub struct Server {
    /// The threads run as long as it is there.
    stop: Option<watch::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
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
        let options = ServerOptions { threads: options.threads.max(1), ..options };
        let mut runtimes = Vec::with_capacity(options.threads);
        for _ in 0..options.threads {
            let mut builder = Builder::new_current_thread();
            builder.max_blocking_threads(MAX_WORKERS.div_ceil(options.threads)).thread_name("kms-work");
            runtimes.push(builder.enable_all().build()?);
        }
        let lanes: Vec<Lane> = runtimes
            .iter()
            .map(|runtime| Lane { handle: runtime.handle().clone(), connections: Arc::default() })
            .collect();
        let shared = Arc::new(Shared {
            kms,
            credentials,
            options,
            metrics: Metrics::new(),
            signing_keys: SigningKeys::default(),
            regions: RwLock::default(),
        });
        for region in shared.kms.home().regions()? {
            shared.region(&region)?;
        }
        listener.set_nonblocking(true)?;
        let (end, ended) = watch::channel(false);
        let (finished, done) = std::sync::mpsc::channel();
        if let Some(first) = runtimes.first() {
            let _inside = first.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            first.spawn(accept(shared, lanes, listener, tls.map(TlsAcceptor::from), ended, finished));
        }
        let (stop, stopped) = watch::channel(());
        let mut threads = Vec::with_capacity(runtimes.len());
        for runtime in runtimes {
            let mut stopped = stopped.clone();
            let thread = thread::Builder::new().name("kms-api".to_owned()).spawn(move || {
                // Ends when the sender is gone.
                let _ = runtime.block_on(async {
                    tokio::select! {
                        gone = stopped.changed() => gone,
                        () = tick() => Ok(()),
                    }
                });
                runtime.shutdown_timeout(LAST_WORK);
            })?;
            threads.push(thread);
        }
        Ok(Self { stop: Some(stop), threads, address, end, done: Mutex::new(done) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, answers the requests that are under way, and ends; at the latest after
    /// `grace`. True if all were answered.
    pub fn stop(self, grace: Duration) -> bool {
        // Without a receiver nobody accepts any more.
        let _ = self.end.send(true);
        // The channel closes when the last connection is gone.
        self.done.lock().recv_timeout(grace) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        for thread in self.threads.drain(..) {
            // A panic of the thread has been reported by its own message.
            let _ = thread.join();
        }
    }
}

/// A thread of the network. A connection stays with the one that it was given to: threads that share them wake one
/// another, which for a client that waits for each answer cost more than the answers.
struct Lane {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// Keeps a timer that is due before those of requests. Without one the runtime wakes itself by a write to its eventfd
/// for each timer that is set, which is for each request.
async fn tick() {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
    }
}

/// A connection's place among its thread's.
struct Seat(Arc<AtomicUsize>);

impl Lane {
    fn seat(&self) -> Seat {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Seat(self.connections.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes connections until the end, each for the thread that has the fewest. Each holds a copy of `finished` as long as it lives.
async fn accept(
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
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
        let count = |(_, lane): &(usize, &Lane)| lane.connections.load(Ordering::Relaxed);
        let Some((thread, lane)) = lanes.iter().enumerate().min_by_key(count) else { return };
        let seat = lane.seat();
        let (shared, tls, ended, finished) = (shared.clone(), tls.clone(), ended.clone(), finished.clone());
        let served = async move {
            shared.metrics.connections.inc();
            let served = serve(&shared, stream.into_std(), Origin { peer, thread }, tls, ended).await;
            shared.metrics.connections.dec();
            if let Err(error) = served {
                tracing::debug!(%peer, "a connection ended: {error}");
            }
            drop((place, seat, finished));
        };
        lane.handle.spawn(served);
    }
}

type Fault = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    shared: &Arc<Shared>,
    stream: std::io::Result<std::net::TcpStream>,
    from: Origin,
    tls: Option<TlsAcceptor>,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    // It belongs to this thread from here on.
    let stream = tokio::net::TcpStream::from_std(stream?)?;
    let Some(tls) = tls else { return http_1(shared, stream, from, ended).await };
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(shared.options.body_timeout, tls.accept(stream)) => shaken,
        _ = ended.wait_for(|end| *end) => return Ok(()),
    };
    let stream = shaken.map_err(|_| "the TLS handshake took too long")??;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http_2(shared, stream, from, ended).await
    } else {
        http_1(shared, stream, from, ended).await
    }
}

async fn http_1(
    shared: &Arc<Shared>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: Origin,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let service = service_fn(|request| handle(shared.clone(), from, request));
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
    from: Origin,
    mut ended: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let shared = shared.clone();
    let timeout = shared.options.head_timeout;
    let service = service_fn(move |request| handle(shared.clone(), from, request));
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
