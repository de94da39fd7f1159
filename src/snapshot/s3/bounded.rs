//! Answers of a server, of which no more is read than what was asked for can be: neither memory nor time is the server's to
//! choose.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::Method;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::RANGE;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};

/// The longest page of a listing: a thousand names of a kilobyte each, escaped.
const PAGE_OF_NAMES: u64 = 16 << 20;
/// The longest answer to anything else but a read: errors, what became of an upload, credentials.
const OTHER: u64 = 1 << 20;

/// Makes clients that read no more.
#[derive(Debug, Default)]
pub(super) struct Bounded;

impl HttpConnector for Bounded {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Service(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Service(HttpClient);

impl HttpService for Service {
    // As async_trait has it, by which the trait was made.
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        let range = request.headers().get(RANGE).and_then(|range| range_len(range.to_str().ok()?));
        let is_list = request.method() == Method::GET
            && request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "list-type=2"));
        Box::pin(async move {
            let (parts, inner) = self.0.execute(request).await?.into_parts();
            let partial = parts.status == hyper::StatusCode::PARTIAL_CONTENT;
            let (left, cut) = match range {
                // What is behind it was not asked for.
                Some(len) if partial => (len, true),
                _ if is_list => (PAGE_OF_NAMES, false),
                _ => (OTHER, false),
            };
            let body = BoundedBody { inner, left, cut, ended: false };
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        })
    }
}

/// Bytes that `bytes=FIRST-LAST` asks for.
fn range_len(range: &str) -> Option<u64> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    last.checked_sub(first)?.checked_add(1)
}

struct BoundedBody {
    inner: HttpResponseBody,
    /// Bytes that may still come.
    left: u64,
    /// The rest is left unread; else more is an error.
    cut: bool,
    ended: bool,
}

impl Body for BoundedBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(frame) = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context)).transpose()?
        else {
            return Poll::Ready(None);
        };
        // What is no data is trailers, which nobody reads.
        let Ok(mut bytes) = frame.into_data() else { return Poll::Ready(None) };
        if bytes.len() as u64 > self.left {
            self.ended = true;
            if !self.cut {
                let error = HttpError::new(HttpErrorKind::Decode, TooLong);
                return Poll::Ready(Some(Err(error)));
            }
            bytes.truncate(self.left as usize);
        }
        self.left -= bytes.len() as u64;
        // Whoever goes on giving would be waited for.
        self.ended |= self.cut && self.left == 0;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Room is made for what is hinted at.
        let mut hint = SizeHint::new();
        hint.set_lower(self.inner.size_hint().lower().min(self.left));
        hint
    }
}

#[derive(Debug)]
struct TooLong;

impl std::fmt::Display for TooLong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server's answer is longer than any can be")
    }
}

impl Error for TooLong {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_as_long_as_they_say() {
        assert_eq!(range_len("bytes=0-0"), Some(1));
        assert_eq!(range_len("bytes=4096-8191"), Some(4096));
        for none in ["bytes=5-4", "bytes=-5", "bytes=5-", "bytes=0-18446744073709551615", "0-1", ""] {
            assert_eq!(range_len(none), None, "{none}");
        }
    }
}
