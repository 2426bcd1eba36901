//! A real Kafka: one node that is broker and controller.
//!
//! What enters: where it runs. What leaves: its listeners (plain, SASL, TLS with a client's certificate, both), the files
//! that clients need for these, topics. What may be lost: nothing; after [`Kafka::stop`] it starts again on the same data
//! and the same ports.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tempfile::TempDir;

use crate::java::java;
use crate::place::Place;
use crate::process::{Process, Signal, output, tail};
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(30);

/// Who may log in, in whichever way; [`Kafka::password_file`] has the password.
pub const USER: &str = "alice";

const PASSWORD: &str = "open sesame";

/// A running (or stopped) broker.
#[derive(Debug)]
pub struct Kafka {
    place: Place,
    plain: SocketAddr,
    sasl: SocketAddr,
    tls: SocketAddr,
    both: SocketAddr,
    process: Option<Process>,
    dir: TempDir,
}

impl Kafka {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it wasn't fetched, can't be started or doesn't answer.
    pub fn start() -> Result<Kafka> {
        let place = Place::loopback();
        let mut kafka = Kafka {
            plain: place.free()?,
            sasl: place.free()?,
            tls: place.free()?,
            both: place.free()?,
            process: None,
            dir: tempfile::Builder::new()
                .prefix("reprise-kafka-")
                .tempdir()?,
            place,
        };
        certify(kafka.dir.path())?;
        fs::write(kafka.file("password"), format!("{PASSWORD}\n"))?;
        fs::write(kafka.file("wrong"), "close sesame\n")?;
        let settings = kafka.settings(kafka.place.free()?);
        fs::write(kafka.file("settings"), settings)?;
        kafka.format()?;
        kafka.start_again()?;
        Ok(kafka)
    }

    /// `HOST:PORT` without any security.
    pub fn bootstrap(&self) -> String {
        self.plain.to_string()
    }

    /// `HOST:PORT` that asks for user and password, in whichever way.
    pub fn bootstrap_sasl(&self) -> String {
        self.sasl.to_string()
    }

    /// `HOST:PORT` that speaks TLS and asks for a client's certificate.
    pub fn bootstrap_tls(&self) -> String {
        self.tls.to_string()
    }

    /// `HOST:PORT` that speaks TLS and asks for user and password.
    pub fn bootstrap_both(&self) -> String {
        self.both.to_string()
    }

    /// The authority of all certificates here.
    pub fn ca_file(&self) -> String {
        self.name_of("ca.pem")
    }

    /// A client's certificate.
    pub fn cert_file(&self) -> String {
        self.name_of("client.pem")
    }

    /// The key of [`Kafka::cert_file`].
    pub fn key_file(&self) -> String {
        self.name_of("client.key")
    }

    /// The password of [`USER`].
    pub fn password_file(&self) -> String {
        self.name_of("password")
    }

    /// Another.
    pub fn wrong_password_file(&self) -> String {
        self.name_of("wrong")
    }

    /// Makes a topic of so many partitions.
    ///
    /// # Errors
    /// When the broker is away, or has it.
    pub fn topic(&self, name: &str, partitions: i32) -> Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("max.message.bytes", "20000000");
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let made = runtime.block_on(admin.create_topics([&topic], &options))?;
        for topic in made {
            topic.map_err(|(topic, code)| anyhow::anyhow!("make topic {topic}: {code}"))?;
        }
        Ok(())
    }

    /// What a group has committed in a partition.
    ///
    /// # Errors
    /// When the broker is away, or it has committed nothing.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Result<i64> {
        let asking: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, partition);
        let answered = asking.committed_offsets(asked, LIMIT)?;
        match answered.elements().first().map(|entry| entry.offset()) {
            Some(Offset::Offset(offset)) => Ok(offset),
            other => anyhow::bail!("{group} has committed {other:?} in {topic}/{partition}"),
        }
    }

    /// Ends the broker, data and ports kept.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take()
            && process.signal(Signal::TERM).is_ok()
        {
            // Whatever is left then is killed.
            let _ = process.wait(LIMIT);
        }
    }

    /// Starts it again where it was, and waits until it answers.
    ///
    /// # Errors
    /// As [`Kafka::start`].
    pub fn start_again(&mut self) -> Result<()> {
        let mut command = java(&self.place, "kafka", 384)?;
        command.arg("kafka.Kafka").arg(self.file("settings"));
        let log = self.file("log");
        let process = Process::start("kafka", command, &log)?;
        let process = self.process.insert(process);
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.plain.to_string())
            .set("reconnect.backoff.max.ms", "100")
            .create()?;
        eventually("start of Kafka", LIMIT, || {
            client
                .fetch_metadata(None, Duration::from_millis(500))
                .with_context(|| {
                    let log = process.log().unwrap_or_default();
                    format!("its log ends\n{}", tail(&log, 5))
                })
        })?;
        Ok(())
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.plain.to_string());
        config
    }

    /// Lays out the data directory, with the users that are kept there.
    fn format(&self) -> Result<()> {
        let mut command = java(&self.place, "kafka", 128)?;
        command.args(["kafka.tools.StorageTool", "format"]);
        command.args(["--cluster-id", "AAAAAAAAAAAAAAAAAAAAAA"]);
        command.arg("--config").arg(self.file("settings"));
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let user = format!("{mechanism}=[name={USER},password={PASSWORD}]");
            command.args(["--add-scram", &user]);
        }
        output(command, LIMIT).map(drop)
    }

    fn settings(&self, controller: SocketAddr) -> String {
        let dir = self.dir.path().display();
        let Kafka {
            plain,
            sasl,
            tls,
            both,
            ..
        } = self;
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
        let users = format!(
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";"
        );
        let mut settings = format!(
            "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{controller}
controller.listener.names=CONTROLLER
inter.broker.listener.name=OPEN
listeners=OPEN://{plain},SASL://{sasl},TLS://{tls},BOTH://{both},CONTROLLER://{controller}
advertised.listeners=OPEN://{plain},SASL://{sasl},TLS://{tls},BOTH://{both}
listener.security.protocol.map=OPEN:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL,BOTH:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
ssl.keystore.type=PEM
ssl.keystore.location={dir}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={dir}/ca.pem
listener.name.tls.ssl.client.auth=required
log.dirs={dir}/data
auto.create.topics.enable=false
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
"
        );
        for listener in ["sasl", "both"] {
            let name = format!("listener.name.{listener}");
            settings += &format!("{name}.plain.sasl.jaas.config={users}\n");
            for mechanism in ["scram-sha-256", "scram-sha-512"] {
                settings += &format!("{name}.{mechanism}.sasl.jaas.config={scram}\n");
            }
        }
        settings
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn name_of(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }
}

/// Makes an authority, and certificates of it for the broker and a client.
fn certify(dir: &Path) -> Result<()> {
    let mut authority = named("authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    fs::write(dir.join("ca.pem"), authority.pem())?;
    let (server, server_key) = signed(&authority, "127.0.0.1")?;
    fs::write(dir.join("server.pem"), server_key + &server)?;
    let (client, client_key) = signed(&authority, "client")?;
    fs::write(dir.join("client.pem"), client)?;
    fs::write(dir.join("client.key"), client_key)?;
    Ok(())
}

fn signed(authority: &CertifiedIssuer<'_, KeyPair>, name: &str) -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    let certificate = named(name)?.signed_by(&key, authority)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn named(name: &str) -> Result<CertificateParams> {
    let mut certificate = CertificateParams::new(vec![name.to_owned()])?;
    // An issuer and what it signs must not be called the same.
    certificate
        .distinguished_name
        .push(DnType::CommonName, name);
    Ok(certificate)
}
