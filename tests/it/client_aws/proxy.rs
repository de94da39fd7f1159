//! A way to a server on which things go wrong: it passes HTTP requests on, or does with them what a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// What happens to requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// After this long.
    Delay(Duration),
    /// So many are answered with ThrottlingException, then they pass.
    Throttle(u64),
    /// Of so many only half of the answer comes, then they pass.
    Cut(u64),
    /// They are taken and never answered.
    Hang,
}

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

struct State {
    upstream: SocketAddr,
    mode: Mutex<Mode>,
    requests: AtomicU64,
    /// Under way now, and at most.
    busy: Mutex<(u64, u64)>,
}

impl Proxy {
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, requests, busy) = (Mutex::new(Mode::Pass), AtomicU64::new(0), Mutex::default());
        let state = Arc::new(State { upstream, mode, requests, busy });
        let shared = state.clone();
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mode: Mode) {
        *self.state.mode.lock() = mode;
    }

    /// Requests that have come.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The most that were under way at once.
    pub fn most(&self) -> u64 {
        self.state.busy.lock().1
    }
}

impl State {
    fn serve(&self, mut client: TcpStream) {
        client.set_nodelay(true).unwrap();
        let mut upstream = None;
        while let Some(request) = message(&mut client) {
            self.requests.fetch_add(1, Ordering::SeqCst);
            {
                let busy = &mut *self.busy.lock();
                busy.0 += 1;
                busy.1 = busy.1.max(busy.0);
            }
            let goes_on = self.pass(&mut client, &mut upstream, &request);
            self.busy.lock().0 -= 1;
            if goes_on.is_none() {
                return;
            }
        }
    }

    /// None: the connection ends.
    fn pass(&self, client: &mut TcpStream, upstream: &mut Option<TcpStream>, request: &[u8]) -> Option<()> {
        let mode = {
            let mode = &mut *self.mode.lock();
            let now = *mode;
            match mode {
                Mode::Throttle(0) | Mode::Cut(0) => *mode = Mode::Pass,
                Mode::Throttle(left) | Mode::Cut(left) => *left -= 1,
                Mode::Pass | Mode::Delay(_) | Mode::Hang => {}
            }
            now
        };
        match mode {
            Mode::Delay(time) => thread::sleep(time),
            Mode::Throttle(1..) => {
                let body = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
                let head = format!(
                    "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                return client.write_all(format!("{head}{body}").as_bytes()).ok();
            }
            Mode::Hang => {
                thread::sleep(Duration::from_secs(60));
                return None;
            }
            _ => {}
        }
        if upstream.is_none() {
            *upstream = TcpStream::connect(self.upstream).ok();
        }
        let server = upstream.as_mut()?;
        server.write_all(request).ok()?;
        let answer = message(server)?;
        if matches!(mode, Mode::Cut(1..)) {
            let _ = client.write_all(&answer[..answer.len() - 20]);
            return None;
        }
        client.write_all(&answer).ok()
    }
}

/// One request or answer, whole; None if the connection ends before.
fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    bytes.extend(body);
    Some(bytes)
}
