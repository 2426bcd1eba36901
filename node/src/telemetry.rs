//! Log lines on stderr, and spans to a collector where one is configured.
//!
//! What enters: `tracing` events and spans of this process. What leaves: text or JSON lines on stderr; spans by
//! OTLP/gRPC where `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set. What may be lost:
//! spans, when the collector is slow, wrong or gone; a thread of its own exports them from a bounded queue, so
//! nothing ever waits for a collector.

use std::env;
use std::io::IsTerminal as _;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::{LogLimit, identity};

/// Environment variable for the level where no flag gives one.
const LEVEL_VARIABLE: &str = "REPRISE_LOG";

/// How long the last spans may take to leave.
const FLUSH: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; colours on a terminal only.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<LogFormat, String> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("log format {text:?}: write text or json")),
        }
    }
}

/// What [`init`] needs to know.
#[derive(Debug, Clone, Default)]
pub struct TelemetrySettings {
    /// `listener`, `relay`, `replayer`, `run` …: spans are those of the service `reprise-ROLE`.
    pub role: &'static str,
    /// The node's id, as `service.instance.id`.
    pub node: Option<String>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives as in `info,reprise_relay=debug`. Without it the
    /// variable `REPRISE_LOG` counts, without that `usual_log`.
    pub log: Option<String>,
    /// The level of those who didn't ask for one; `None` for `info`.
    pub usual_log: Option<&'static str>,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Keeps the exporter; flush it with [`Telemetry::shutdown`] before the process ends.
#[derive(Debug)]
#[must_use = "the last spans are lost without shutdown()"]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts logging and, where a collector is configured, exporting spans. Once a process, in a tokio runtime.
///
/// # Errors
/// One line, when the level or the collector's address can't be understood; never because the collector is absent.
pub fn init(settings: &TelemetrySettings) -> anyhow::Result<Telemetry> {
    let directives = settings
        .log
        .clone()
        .or_else(|| env::var(LEVEL_VARIABLE).ok())
        .filter(|text| !text.trim().is_empty())
        .unwrap_or_else(|| settings.usual_log.unwrap_or("info").to_owned());
    let filter = filter(&directives)?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // It would panic where stderr is closed.
        .log_internal_errors(false);
    let lines = match settings.log_format {
        LogFormat::Text => lines
            .with_ansi(std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let provider = if wants_spans() {
        let exporter = SpanExporter::builder().with_tonic().build();
        let exporter = exporter.map_err(|error| {
            anyhow!("span exporter, configured by OTEL_EXPORTER_OTLP_ENDPOINT: {error}")
        })?;
        Some(provider(settings, exporter))
    } else {
        None
    };
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("reprise"))
            // Our own only: the exporter's HTTP/2 spans would make new ones for ever.
            .with_filter(filter_fn(|meta| {
                meta.target().starts_with("reprise") && *meta.level() <= tracing::Level::INFO
            }))
    });
    tracing_subscriber::registry()
        .with(lines)
        .with(spans)
        .try_init()
        .context("start logging")?;
    if provider.is_some()
        && let Ok(protocol) = env::var("OTEL_EXPORTER_OTLP_PROTOCOL")
        && protocol != "grpc"
    {
        tracing::warn!(
            protocol,
            "OTEL_EXPORTER_OTLP_PROTOCOL is not supported, spans go by grpc"
        );
    }
    Ok(Telemetry { provider })
}

impl Telemetry {
    /// Sends the last spans, for a few seconds at most.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        let (done, flushed) = tokio::sync::oneshot::channel();
        // A thread that nobody joins: an absent collector must not keep the process from ending.
        std::thread::spawn(move || {
            let result = provider.shutdown_with_timeout(FLUSH);
            done.send(result).ok();
        });
        match tokio::time::timeout(FLUSH, flushed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::debug!(%error, "spans not flushed"),
            _ => tracing::debug!("spans not flushed in time"),
        }
    }
}

/// A bare level is for our own crates; the libraries' chatter needs a directive of its own.
fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let text = directives.trim();
    let full = match text.parse::<tracing::level_filters::LevelFilter>() {
        Ok(level) if level < tracing::level_filters::LevelFilter::WARN => text.to_owned(),
        Ok(_) => format!("warn,reprise={text}"),
        Err(_) => text.to_owned(),
    };
    EnvFilter::builder().parse(&full).map_err(|error| {
        anyhow!(
            "log level {text:?}: {error}; write error, warn, info, debug, trace or directives like info,reprise_relay=debug"
        )
    })
}

fn wants_spans() -> bool {
    let set = |name| env::var(name).is_ok_and(|value| !value.trim().is_empty());
    let is = |name, what: &str| env::var(name).is_ok_and(|value| value.eq_ignore_ascii_case(what));
    (set("OTEL_EXPORTER_OTLP_ENDPOINT") || set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
        && !is("OTEL_SDK_DISABLED", "true")
        && !is("OTEL_TRACES_EXPORTER", "none")
}

fn provider(settings: &TelemetrySettings, exporter: SpanExporter) -> SdkTracerProvider {
    let mut resource =
        Resource::builder().with_attribute(KeyValue::new("service.version", identity::VERSION));
    if env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(format!("reprise-{}", settings.role));
    }
    if let Some(node) = &settings.node {
        resource = resource.with_attribute(KeyValue::new("service.instance.id", node.clone()));
    }
    let exporter = Complaining {
        exporter,
        limit: LogLimit::every(Duration::from_secs(60)),
    };
    SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(exporter)
        .build()
}

/// Says, once a minute at most, that spans can't be delivered; the SDK itself would keep silent.
#[derive(Debug)]
struct Complaining {
    exporter: SpanExporter,
    limit: LogLimit,
}

impl opentelemetry_sdk::trace::SpanExporter for Complaining {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        if let Err(error) = &result
            && let Some(suppressed) = self.limit.allow()
        {
            tracing::warn!(%error, spans, suppressed, "spans lost: the collector doesn't take them");
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use opentelemetry::trace::Tracer as _;
    use opentelemetry_otlp::WithExportConfig as _;
    use opentelemetry_proto::tonic::collector::trace::v1 as otlp;
    use otlp::trace_service_server::{TraceService, TraceServiceServer};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    fn telemetry(collector: SocketAddr) -> Telemetry {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(format!("http://{collector}"))
            .build()
            .unwrap();
        let settings = TelemetrySettings {
            role: "relay",
            ..TelemetrySettings::default()
        };
        Telemetry {
            provider: Some(provider(&settings, exporter)),
        }
    }

    fn spans(telemetry: &Telemetry, n: usize) {
        let tracer = telemetry.provider.as_ref().unwrap().tracer("test");
        for _ in 0..n {
            drop(tracer.start("batch"));
        }
    }

    struct Collector(mpsc::UnboundedSender<otlp::ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<otlp::ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<otlp::ExportTraceServiceResponse>, tonic::Status> {
            self.0.send(request.into_inner()).ok();
            Ok(tonic::Response::new(
                otlp::ExportTraceServiceResponse::default(),
            ))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn shutdown_delivers_the_last_spans() {
        let (sender, mut received) = mpsc::unbounded_channel();
        let address = TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let collector = TraceServiceServer::new(Collector(sender));
        let server = tonic::transport::Server::builder().add_service(collector);
        let server = tokio::spawn(server.serve(address));
        while tokio::net::TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let telemetry = telemetry(address);
        spans(&telemetry, 3);
        telemetry.shutdown().await;
        let request = received.recv().await.unwrap();
        let spans = &request.resource_spans[0];
        assert_eq!(spans.scope_spans[0].spans.len(), 3);
        let resource = format!("{:?}", spans.resource);
        assert!(resource.contains("reprise-relay"), "{resource}");
        server.abort();
    }

    #[tokio::test]
    async fn an_absent_or_silent_collector_holds_nothing_up() {
        // Accepts and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for collector in [
            SocketAddr::from(([127, 0, 0, 1], 1)),
            silent.local_addr().unwrap(),
        ] {
            let telemetry = telemetry(collector);
            let start = Instant::now();
            spans(&telemetry, 10_000);
            assert!(start.elapsed() < Duration::from_secs(5));
            let start = Instant::now();
            telemetry.shutdown().await;
            assert!(start.elapsed() < 2 * FLUSH, "{:?}", start.elapsed());
        }
    }

    #[test]
    fn a_bare_level_is_for_our_own_crates() {
        for (text, full) in [
            ("debug", "reprise=debug,warn"),
            ("error", "error"),
            ("info,h2=trace", "h2=trace,info"),
        ] {
            assert_eq!(filter(text).unwrap().to_string(), full);
        }
        let error = filter("loud=very").unwrap_err().to_string();
        assert!(error.contains("loud=very"), "{error}");
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
