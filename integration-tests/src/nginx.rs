//! A real nginx, in front of an application or as a staging server.
//!
//! What enters: what it answers and where. What leaves: its access log, a line for each request with the request
//! line as it came. What may be lost: nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::http;
use crate::place::Place;
use crate::process::{Process, Signal, output, tail};
use crate::wait::eventually;

const LIMIT: Duration = Duration::from_secs(10);

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    address: SocketAddr,
    https: Option<SocketAddr>,
    process: Process,
    dir: TempDir,
}

impl Nginx {
    /// Starts one that reads each request to its end and answers 200.
    ///
    /// # Errors
    /// When it can't be started or doesn't answer.
    pub fn start(place: &Place) -> Result<Nginx> {
        Nginx::start_with(place, |prefix, address| {
            configuration(prefix, address, "$request", "")
        })
    }

    /// The same, but that its log ([`Nginx::records`]) has more to tell: `CLIENT STATUS BYTES METHOD TARGET VERSION`,
    /// where the bytes are those of head and body.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_recording(place: &Place) -> Result<Nginx> {
        let format = "$remote_addr:$remote_port $status $request_length $request";
        Nginx::start_logging(place, format)
    }

    /// The same with a line of one's own (`log_format`).
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_logging(place: &Place, format: &str) -> Result<Nginx> {
        Nginx::start_with(place, |prefix, address| {
            configuration(prefix, address, format, "")
        })
    }

    /// Starts one with a single worker that answers 200 as cheaply as it can, reads bodies only to be rid of them, and
    /// keeps no log: production for measurements.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_plain(place: &Place) -> Result<Nginx> {
        Nginx::start_with(place, |_, address| plain(address, "access_log off;"))
    }

    /// The same, but that it logs ([`Nginx::records`]) as cheaply as that goes: `CONNECTION BYTES PATH`, where connections
    /// are counted and the bytes are those of head and body.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_counting(place: &Place) -> Result<Nginx> {
        let log = "log_format count '$connection $request_length $request_uri';
    access_log access.log count buffer=256k;";
        Nginx::start_with(place, |_, address| plain(address, log))
    }

    /// Starts one that besides terminates TLS on a unix socket ([`Nginx::tls_socket`]), passes the requests on to
    /// itself and mirrors them to `mirror`. Its certificate ([`Nginx::certificate`]) is for `localhost`.
    ///
    /// # Errors
    /// As [`Nginx::start`], and without `openssl`.
    pub fn start_mirroring(place: &Place, mirror: SocketAddr) -> Result<Nginx> {
        let server = format!(
            "server {{
        listen unix:tls.sock ssl;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        access_log off;
        location / {{
            mirror /mirror;
            proxy_pass http://unix:app.sock;
        }}
        location = /mirror {{
            internal;
            proxy_pass http://{mirror}$request_uri;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Connection '';
        }}
    }}"
        );
        let dir = directory()?;
        certify(place, dir.path())?;
        let config = |prefix: &str, address| configuration(prefix, address, "$request", &server);
        Nginx::start_in(dir, place, config)
    }

    /// The same as [`Nginx::start`] by HTTPS only, but for `/ready`: [`Nginx::https`] says where. Its certificate
    /// ([`Nginx::certificate`]) is for `localhost`.
    ///
    /// # Errors
    /// As [`Nginx::start`], and without `openssl`.
    pub fn start_tls(place: &Place) -> Result<Nginx> {
        let https = place.free()?;
        let server = format!(
            "server {{
        listen {https} ssl;
        ssl_certificate cert.pem;
        ssl_certificate_key key.pem;
        access_log access.log request;
        location / {{
            proxy_pass http://inner;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
        }}
    }}"
        );
        let dir = directory()?;
        certify(place, dir.path())?;
        let config = |prefix: &str, address| configuration(prefix, address, "$request", &server);
        let mut nginx = Nginx::start_in(dir, place, config)?;
        nginx.https = Some(https);
        Ok(nginx)
    }

    fn start_with(place: &Place, config: impl FnOnce(&str, SocketAddr) -> String) -> Result<Nginx> {
        Nginx::start_in(directory()?, place, config)
    }

    fn start_in(
        dir: TempDir,
        place: &Place,
        config: impl FnOnce(&str, SocketAddr) -> String,
    ) -> Result<Nginx> {
        let address = place.free()?;
        let prefix = dir.path().to_str().context("path of nginx")?;
        fs::write(dir.path().join("nginx.conf"), config(prefix, address))?;
        // The master ends its workers itself when it is told to, not when it is killed.
        let mut command = place.command_ending_by("TERM", "nginx");
        command.args(["-p", prefix, "-c", "nginx.conf", "-e", "error.log"]);
        let process = Process::start("nginx", command, &dir.path().join("error.log"))?;
        let nginx = Nginx {
            address,
            https: None,
            process,
            dir,
        };
        eventually("start of nginx", LIMIT, || {
            let ready = http::get(place, address, "/ready").is_ok_and(|(status, _)| status == 200);
            anyhow::ensure!(ready, "its log ends\n{}", tail(&nginx.process.log()?, 5));
            Ok(())
        })?;
        Ok(nginx)
    }

    /// Where it serves plain HTTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://ADDRESS`, for `--to`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `https://localhost:PORT` of one that serves HTTPS.
    pub fn https(&self) -> Option<String> {
        let port = self.https?.port();
        Some(format!("https://localhost:{port}"))
    }

    /// Where one that mirrors serves HTTPS.
    pub fn tls_socket(&self) -> PathBuf {
        self.dir.path().join("tls.sock")
    }

    /// The certificate of one that mirrors or serves HTTPS, to be trusted by its clients.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// What one that records or counts has in its log. Its master ends first, so that all that was answered is there.
    ///
    /// # Errors
    /// When it doesn't end, or logs what is no text.
    pub fn records(mut self) -> Result<Vec<String>> {
        // It finishes what is under way, logs it, and closes the connections that are idle.
        self.process.signal(Signal::QUIT)?;
        self.process.wait(LIMIT)?;
        let log = fs::read_to_string(self.dir.path().join("access.log"))?;
        Ok(log.lines().map(str::to_owned).collect())
    }

    /// The request lines that came to [`Nginx::address`], byte for byte, in the order in which they were answered.
    /// A line is written when its answer has left, so that the last ones are waited for.
    ///
    /// # Errors
    /// When there are fewer than `count`.
    pub fn request_lines(&self, count: usize) -> Result<Vec<Vec<u8>>> {
        let path = self.dir.path().join("access.log");
        eventually("lines in the access log", LIMIT, || {
            let log = fs::read(&path)?;
            let lines = log.split(|byte| *byte == b'\n');
            let lines: Vec<_> = lines
                .filter(|l| !l.is_empty())
                .map(<[u8]>::to_vec)
                .collect();
            anyhow::ensure!(lines.len() >= count, "{} of {count}", lines.len());
            Ok(lines)
        })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // A master that is killed leaves its workers to be buried by others.
        if self.process.signal(Signal::TERM).is_ok() {
            let _ = self.process.wait(LIMIT);
        }
    }
}

fn directory() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    Ok(builder.prefix("reprise-nginx-").tempdir()?)
}

/// A server that does next to nothing itself.
fn plain(address: SocketAddr, log: &str) -> String {
    format!(
        "daemon off;
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
    {log}
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    server {{
        listen {address};
        location / {{ return 200 ok; }}
        location = /ready {{
            access_log off;
            return 200;
        }}
    }}
}}
"
    )
}

/// A server that passes on to an inner one: only a proxy reads a body to its end before it answers.
fn configuration(prefix: &str, address: SocketAddr, format: &str, extra: &str) -> String {
    let extra = extra.replace("unix:", &format!("unix:{prefix}/"));
    format!(
        "daemon off;
worker_processes 2;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
    log_format request escape=none '{format}';
    keepalive_requests 1000000;
    client_max_body_size 0;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    scgi_temp_path scgi;
    uwsgi_temp_path uwsgi;
    upstream inner {{
        server unix:{prefix}/app.sock;
        keepalive 64;
    }}
    server {{
        listen {address};
        access_log access.log request;
        location / {{
            proxy_pass http://inner;
            proxy_http_version 1.1;
            proxy_set_header Connection '';
        }}
        location = /ready {{
            access_log off;
            return 200;
        }}
    }}
    server {{
        listen unix:{prefix}/app.sock;
        access_log off;
        location / {{ return 200 ok; }}
    }}
    {extra}
}}
"
    )
}

/// Makes a certificate for `localhost`, that of a server and of no authority, and its key: `cert.pem` and `key.pem`.
///
/// # Errors
/// Without `openssl`.
pub fn certify(place: &Place, dir: &Path) -> Result<()> {
    let mut command = place.command("openssl");
    command.current_dir(dir);
    command.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-subj", "/CN=localhost"]);
    command.args(["-addext", "subjectAltName=DNS:localhost"]);
    // Some take an authority's for no server's.
    command.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    command.args(["-keyout", "key.pem", "-out", "cert.pem"]);
    output(command, LIMIT).map(drop)
}
