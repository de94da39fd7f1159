//! Lines of JSON over a socket, bounded in length and in time.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Answer, Asked, Failure, FailureKind, VERSION, Which};

/// The longest line of a request.
const LONGEST: usize = 64 * 1024;
/// How long the other side may leave an answer unread.
const UNREAD: Duration = Duration::from_secs(30);

/// One side of a connection.
pub(super) struct Lines<'a> {
    stream: &'a UnixStream,
    /// Read and not yet taken.
    rest: Vec<u8>,
}

/// What came.
pub(super) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// The other side is gone.
    End,
    /// Nothing until then.
    Late,
}

impl<'a> Lines<'a> {
    pub(super) fn new(stream: &'a UnixStream) -> Self {
        // An answer that cannot be bounded in time is still an answer.
        let _ = stream.set_write_timeout(Some(UNREAD));
        Self { stream, rest: Vec::new() }
    }

    /// The next line, if it comes before `until`.
    pub(super) fn next(&mut self, until: Instant) -> Result<Line, Failure> {
        loop {
            if let Some(end) = self.rest.iter().position(|&b| b == b'\n') {
                let after = self.rest.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.rest, after);
                line.pop();
                return Ok(Line::Whole(line));
            }
            if self.rest.len() > LONGEST {
                return Err(Failure::new(
                    FailureKind::Usage,
                    format!("a request has at most {LONGEST} bytes and ends with a newline"),
                ));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Line::Late);
            }
            let mut more = [0; 4096];
            let read =
                self.stream.set_read_timeout(Some(left)).and_then(|()| (&mut &*self.stream).read(&mut more));
            match read {
                Ok(0) => return Ok(Line::End),
                Ok(read) => self.rest.extend_from_slice(&more[..read]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Line::End),
            }
        }
    }

    /// The next line as a request.
    pub(super) fn request<R: DeserializeOwned>(
        &mut self,
        own: &Which,
        patience: Duration,
    ) -> Result<R, Failure> {
        match self.next(Instant::now() + patience)? {
            Line::Whole(line) => parse(own, &line),
            Line::End => Err(Failure::new(FailureKind::Usage, "the connection ended before its request")),
            Line::Late => Err(Failure::new(FailureKind::Usage, "the request did not come in time")),
        }
    }

    pub(super) fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        (&mut &*self.stream).write_all(&line)
    }
}

/// A request to the mount of the volume `own`. The version first: another one may have other requests.
pub(super) fn parse<R: DeserializeOwned>(own: &Which, line: &[u8]) -> Result<R, Failure> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bad = |e: serde_json::Error| {
        Failure::new(FailureKind::Usage, format!("the mount does not understand the request: {e}"))
    };
    let Versioned { version } = serde_json::from_slice(line).map_err(bad)?;
    if version != VERSION {
        return Err(Failure::new(
            FailureKind::Usage,
            format!(
                "the mount speaks version {VERSION} of the control protocol, and was asked in version {version}; mount the \
                 volume with the kmsfs that asks"
            ),
        ));
    }
    let asked: Asked<serde_json::Value> = serde_json::from_slice(line).map_err(bad)?;
    if asked.volume != *own {
        return Err(Failure::new(
            FailureKind::Failure,
            format!(
                "the control socket in the volume's directory is that of another volume's mount ({}, while {} was meant), which \
                 did nothing; unmount both, look at what stands under .kmsfs there, and mount the volume again",
                own.id, asked.volume.id
            ),
        ));
    }
    serde_json::from_value(asked.request).map_err(bad)
}
