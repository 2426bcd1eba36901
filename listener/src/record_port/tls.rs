//! TLS for a port that takes streams of records: who we are.
//!
//! What enters: a certificate and its key, as PEM files. What leaves: what accepts connections. What may be lost: nothing; a
//! file that can't be used is an error at the start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// PEM files, read once at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads both.
    ///
    /// # Errors
    /// One line with the file that can't be used.
    pub(crate) fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        let pem = read(&self.certificate)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let file = self.certificate.display();
        let certificates = certificates.map_err(|error| anyhow!("read {file}: {error}"))?;
        if certificates.is_empty() {
            bail!("read {file}: holds no PEM certificate");
        }
        // The parser's words may quote what it read.
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?)
            .map_err(|_| anyhow!("read {}: holds no PEM private key", self.key.display()))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("set up TLS")?
            .with_no_client_auth()
            .with_single_cert(certificates, key)
            .with_context(|| format!("use certificate {file}"))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("read {}", file.display()))
}
