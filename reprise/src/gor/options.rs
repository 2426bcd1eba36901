//! What a command line of `gor` asks for, without its flags.
//!
//! What enters: nothing; `assembly` fills it. What leaves: inputs, outputs in the order in which they were given, and
//! their settings. What may be lost: nothing. `--print-config` prints it, passwords hidden.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use reprise_listener::capture::{NamePattern, Tunnel};
use reprise_listener::packet::VniRule;
use reprise_node::ListenAddress;
use reprise_node::config::{self, ByteSize};
use reprise_node::telemetry::LogFormat;
use serde::Serialize;

use super::limit::Limit;
use super::place::{Elasticsearch, Login, Server};
use super::raw::RawAddress;
use super::rule::{Header, HeaderRewrite, HeaderRule, Param, Pattern, Rewrite, ValueShare};

/// All of it. There is one input and one output at least; without an output only where `dry_run` is set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Options {
    /// Lines to print on stderr before anything starts: what was asked for and is not done, and why.
    pub(crate) notes: Vec<String>,
    /// For the whole process.
    pub(crate) globals: Globals,
    /// In the order given.
    pub(crate) inputs: Vec<Input>,
    /// In the order given, which `--split-output` follows.
    pub(crate) outputs: Vec<Output>,
    /// For all of [`Input::Raw`].
    pub(crate) raw: RawSettings,
    /// For all of [`Input::File`].
    pub(crate) file_input: FileInput,
    /// For all of [`Input::Tcp`].
    pub(crate) tcp_input: TcpInput,
    /// For all of [`Output::File`].
    pub(crate) file_output: FileOutput,
    /// For all of [`Output::Tcp`].
    pub(crate) tcp_output: StreamOutput,
    /// For all of [`Output::Ws`]; the URL says whether it is `secure`.
    pub(crate) ws_output: StreamOutput,
    /// For all of [`Output::Binary`].
    pub(crate) binary_output: BinaryOutput,
    /// For all of [`Output::Http`].
    pub(crate) http_output: HttpOutput,
    /// What is done to requests before they reach any output.
    pub(crate) modifiers: Modifiers,
}

/// Where messages come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Input {
    /// Captured packets, live or from a file.
    Raw {
        /// What is captured.
        address: RawAddress,
        /// Of requests; a response follows its request.
        limit: Option<Limit>,
    },
    /// Recordings, all in one stream in order of time.
    File {
        /// Paths, or patterns with `*`, `?` and `[…]` that nobody has looked up yet; one at least.
        paths: Vec<String>,
        /// Production's pace times this; above 0.
        speed: f64,
        /// So many a second; the excess is dropped and counted.
        at_most: Option<NonZeroU32>,
    },
    /// Records from other processes.
    Tcp {
        /// Where to listen.
        address: ListenAddress,
        /// Of requests; a response follows its request.
        limit: Option<Limit>,
    },
    /// Requests that arrive here.
    Http {
        /// Where to listen.
        address: ListenAddress,
        /// Of requests.
        limit: Option<Limit>,
    },
    /// A topic.
    Kafka {
        /// Whose it is.
        client: KafkaClient,
        /// Where to begin.
        offset: Offset,
        /// Production's pace times this; above 0. None: as messages come.
        speed: Option<f64>,
        /// So many a second; the excess is dropped and counted.
        at_most: Option<NonZeroU32>,
    },
    /// `GET /` once a second.
    Dummy {
        /// Of requests.
        limit: Option<Limit>,
    },
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Output {
    /// A web server.
    Http {
        /// `http://` or `https://`; a path goes in front of the requests' own. Its login overwrites `Authorization`.
        server: Server,
        /// Of requests.
        limit: Option<Limit>,
    },
    /// Another process.
    Tcp {
        /// `HOST:PORT`.
        address: String,
        /// Of requests; a response follows its request.
        limit: Option<Limit>,
    },
    /// A WebSocket server.
    Ws {
        /// `ws://` or `wss://`.
        server: Server,
        /// Of requests; a response follows its request.
        limit: Option<Limit>,
    },
    /// Recordings.
    File {
        /// With placeholders.
        path: String,
        /// Of requests; a response follows its request.
        limit: Option<Limit>,
    },
    /// Records on standard output.
    Stdout,
    /// Nothing.
    Null,
    /// A topic.
    Kafka {
        /// Whose it is.
        client: KafkaClient,
    },
    /// A server of a protocol that isn't HTTP.
    Binary {
        /// `HOST:PORT`.
        address: String,
        /// Of messages.
        limit: Option<Limit>,
    },
}

/// For the whole process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Globals {
    /// 0 to 9: warnings, what happens, each connection, all.
    pub(crate) verbose: u8,
    /// Counters of all inputs and outputs on stderr.
    pub(crate) stats: bool,
    /// None: until the inputs end, or a signal.
    #[serde(with = "config::duration::option")]
    pub(crate) exit_after: Option<Duration>,
    /// Outputs take turns instead of each getting all.
    pub(crate) split_output: bool,
    /// They take turns by connection, not by message.
    pub(crate) tcp_sessions: bool,
    /// A larger message is dropped whole.
    pub(crate) max_message: ByteSize,
    /// Chunks joined, gzip unpacked.
    pub(crate) prettify: bool,
    /// Program and arguments; never empty.
    pub(crate) middleware: Option<Vec<String>>,
    /// The summary as JSON.
    pub(crate) json: bool,
    /// Print this and exit.
    pub(crate) print_config: bool,
    /// Metrics, health and ledger.
    pub(crate) admin: ListenAddress,
    /// As everywhere in Reprise.
    pub(crate) log: Option<String>,
    /// As everywhere in Reprise.
    pub(crate) log_format: LogFormat,
}

/// `--input-raw-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct RawSettings {
    /// Responses too.
    pub(crate) track_response: bool,
    /// So long after its last byte an unfinished message is given up.
    #[serde(with = "config::duration")]
    pub(crate) expire: Duration,
    /// The header that gets the client's address.
    pub(crate) realip_header: Option<String>,
    /// Instead of the filter that is made of the addresses.
    pub(crate) bpf_filter: Option<String>,
    /// Kernel memory; None: the usual size.
    pub(crate) ring: Option<ByteSize>,
    /// Packets for other hosts too.
    pub(crate) promiscuous: bool,
    /// Interfaces that are left out.
    pub(crate) ignore: Vec<NamePattern>,
    /// VLANs, 0 to 4094; all where it is empty.
    pub(crate) vlans: Vec<u16>,
    /// Look into this one.
    pub(crate) tunnel: Option<Tunnel>,
    /// Networks of the tunnel.
    pub(crate) vnis: Vec<VniRule>,
}

/// `--input-file-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FileInput {
    /// Again and again.
    pub(crate) repeat: bool,
    /// The longest pause, after the speed.
    #[serde(with = "config::duration::option")]
    pub(crate) max_wait: Option<Duration>,
    /// Only say what is in the files.
    pub(crate) dry_run: bool,
}

/// `--input-tcp-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TcpInput {
    /// Over TLS, with this.
    pub(crate) tls: Option<Identity>,
}

/// A certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Identity {
    /// PEM.
    pub(crate) certificate: PathBuf,
    /// PEM.
    pub(crate) key: PathBuf,
}

/// `--output-file-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FileOutput {
    /// One file without numbers.
    pub(crate) append: bool,
    /// The longest that a record waits.
    #[serde(with = "config::duration")]
    pub(crate) flush_interval: Duration,
    /// Of a chunk; 0 for no bound.
    pub(crate) size_limit: ByteSize,
    /// Records in a chunk; 0 for no bound.
    pub(crate) queue_limit: u64,
    /// Of all chunks; 0 for no bound.
    pub(crate) max_size: ByteSize,
}

/// `--output-tcp-…`, `--output-ws-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct StreamOutput {
    /// Over TLS.
    pub(crate) secure: bool,
    /// Take any certificate.
    pub(crate) skip_verify: bool,
    /// One id, one connection.
    pub(crate) sticky: bool,
    /// Connections.
    pub(crate) workers: NonZeroU32,
    /// Counters on stderr.
    pub(crate) stats: bool,
}

/// `--output-binary-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct BinaryOutput {
    /// Connections; None: as many as are usual.
    pub(crate) workers: Option<NonZeroU32>,
}

/// `--output-http-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct HttpOutput {
    /// Requests under way to each server; None: the usual bound.
    pub(crate) workers: Option<NonZeroU32>,
    /// For a response.
    #[serde(with = "config::duration")]
    pub(crate) timeout: Duration,
    /// To follow, 0 to 20.
    pub(crate) redirects: u32,
    /// Take any certificate.
    pub(crate) skip_verify: bool,
    /// The request's own `Host`.
    pub(crate) original_host: bool,
    /// Responses go to the other outputs and the middleware.
    pub(crate) track_response: bool,
    /// What is kept of a response's body.
    pub(crate) response_buffer: ByteSize,
    /// Counters on stderr.
    pub(crate) stats: bool,
    /// Between two lines of them; above 0.
    #[serde(with = "config::duration")]
    pub(crate) stats_interval: Duration,
    /// A document for each request.
    pub(crate) elasticsearch: Option<Elasticsearch>,
}

/// `--input-kafka-…`, `--output-kafka-…`, `--kafka-tls-…`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct KafkaClient {
    /// `HOST:PORT`; one at least.
    pub(crate) hosts: Vec<String>,
    /// Never empty.
    pub(crate) topic: String,
    /// JSON instead of records as they stand.
    pub(crate) json: bool,
    /// None: without a login.
    pub(crate) sasl: Option<Sasl>,
    /// None: without TLS.
    pub(crate) tls: Option<KafkaTls>,
}

/// A login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Sasl {
    /// How.
    pub(crate) mechanism: Mechanism,
    /// Who.
    pub(crate) login: Login,
}

/// How a password is shown to a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mechanism {
    /// RFC 4616.
    Plain,
    /// RFC 7677.
    ScramSha256,
    /// The same with SHA-512.
    ScramSha512,
}

/// TLS to brokers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KafkaTls {
    /// PEM; None: the system's authorities.
    pub(crate) authority: Option<PathBuf>,
    /// What we show.
    pub(crate) identity: Option<Identity>,
}

/// Where in a topic to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Offset {
    /// What comes from now on.
    Newest,
    /// All that is there.
    Oldest,
    /// There.
    At(i64),
}

/// `--http-…`; they act in this order, after the middleware.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(crate) struct Modifiers {
    /// One of them; all methods where it is empty.
    pub(crate) allow_methods: Vec<String>,
    /// In the order given.
    pub(crate) set_headers: Vec<Header>,
    /// In the order given.
    pub(crate) set_params: Vec<Param>,
    /// One of them.
    pub(crate) allow_urls: Vec<Pattern>,
    /// None of them.
    pub(crate) disallow_urls: Vec<Pattern>,
    /// All of them; a header that isn't there refuses.
    pub(crate) allow_headers: Vec<HeaderRule>,
    /// None of them; a header that isn't there passes.
    pub(crate) disallow_headers: Vec<HeaderRule>,
    /// All of them, on the decoded `USER:PASSWORD`; a request without one passes.
    pub(crate) basic_auth: Vec<Pattern>,
    /// All of them; a header that isn't there passes.
    pub(crate) header_limits: Vec<ValueShare>,
    /// All of them; a parameter that isn't there passes.
    pub(crate) param_limits: Vec<ValueShare>,
    /// One after the other.
    pub(crate) rewrite_urls: Vec<Rewrite>,
    /// One after the other.
    pub(crate) rewrite_headers: Vec<HeaderRewrite>,
}

/// As many as GoReplay has.
const CONNECTIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

impl Default for Options {
    fn default() -> Options {
        let stream = StreamOutput {
            secure: false,
            skip_verify: false,
            sticky: false,
            workers: CONNECTIONS,
            stats: false,
        };
        Options {
            notes: Vec::new(),
            globals: Globals {
                verbose: 0,
                stats: false,
                exit_after: None,
                split_output: false,
                tcp_sessions: false,
                max_message: ByteSize::mib(24),
                prettify: false,
                middleware: None,
                json: false,
                print_config: false,
                admin: ListenAddress::loopback(0),
                log: None,
                log_format: LogFormat::Text,
            },
            inputs: Vec::new(),
            outputs: Vec::new(),
            raw: RawSettings {
                track_response: false,
                expire: Duration::from_secs(2),
                realip_header: None,
                bpf_filter: None,
                ring: None,
                promiscuous: false,
                ignore: Vec::new(),
                vlans: Vec::new(),
                tunnel: None,
                vnis: Vec::new(),
            },
            file_input: FileInput {
                repeat: false,
                max_wait: None,
                dry_run: false,
            },
            tcp_input: TcpInput { tls: None },
            file_output: FileOutput {
                append: false,
                flush_interval: Duration::from_secs(1),
                size_limit: ByteSize::mib(32),
                queue_limit: 256,
                max_size: ByteSize(1 << 40),
            },
            tcp_output: stream.clone(),
            ws_output: stream,
            binary_output: BinaryOutput { workers: None },
            http_output: HttpOutput {
                workers: None,
                timeout: Duration::from_secs(5),
                redirects: 0,
                skip_verify: false,
                original_host: false,
                track_response: false,
                response_buffer: ByteSize(100 << 10),
                stats: false,
                stats_interval: Duration::from_secs(5),
                elasticsearch: None,
            },
            modifiers: Modifiers::default(),
        }
    }
}
