//! What the server counts, for Prometheus. Labels come from the tables of operations and errors, never from what
//! strangers send.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds: from what is decided out of memory to what waits for a disk.
const BUCKETS: [f64; 14] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// One kind of request and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    service: &'static str,
    operation: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    service: &'static str,
    operation: &'static str,
}

/// The counters.
pub struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    seconds: Family<Kind, Histogram, fn() -> Histogram>,
    /// Connections that are open.
    pub connections: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kmsfs");
        let requests = Family::<Outcome, Counter>::default();
        registry.register(
            "requests",
            "Requests by operation and result: ok, or the error's name",
            requests.clone(),
        );
        let new: fn() -> Histogram = || Histogram::new(BUCKETS);
        let seconds = Family::new_with_constructor(new);
        let help = "Time from a request's last byte to its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, seconds.clone());
        let connections = Gauge::default();
        registry.register("connections", "Open connections", connections.clone());
        Self { registry, requests, seconds, connections }
    }

    /// Counts a request.
    pub fn count(
        &self,
        service: &'static str,
        operation: &'static str,
        result: &'static str,
        took: Duration,
    ) {
        self.requests.get_or_create(&Outcome { service, operation, result }).inc();
        self.seconds.get_or_create(&Kind { service, operation }).observe(took.as_secs_f64());
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}
