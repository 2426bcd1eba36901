//! TLS to a target: whom to trust.
//!
//! What enters: a target's document. What leaves: a connector that speaks HTTP/1.1. What may be lost: nothing; a CA
//! file that can't be read is an error when the target is set up, not when traffic comes.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use reprise_traffic::target::{Endpoint, TargetDocument};

/// Why TLS to a target can't be set up. Each is one line for the target's owner.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// `ca_file` isn't there, isn't readable or isn't PEM.
    #[error("read ca_file {file}: {reason}")]
    CaFile {
        /// As in the document.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This machine has no list of authorities.
    #[error(
        "no certificate authorities found on this machine; install ca-certificates or set ca_file ({reason})"
    )]
    NoSystemRoots {
        /// What the search met.
        reason: String,
    },
    /// The host is neither a DNS name nor an address.
    #[error("host {host:?} can't stand in a certificate: {reason}")]
    Host {
        /// As in the URL.
        host: String,
        /// What is wrong with it.
        reason: InvalidDnsNameError,
    },
    /// rustls refused the set-up.
    #[error("set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// Opens TLS over a TCP connection to one target.
#[derive(Clone)]
pub(crate) struct Tls {
    /// With the trust of the target's document.
    pub(crate) connector: TlsConnector,
    /// Sent as SNI unless it is an address, and looked for in the certificate.
    pub(crate) name: ServerName<'static>,
}

impl Tls {
    /// Reads whom to trust.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(endpoint: &Endpoint, document: &TargetDocument) -> Result<Tls, TlsError> {
        let name =
            ServerName::try_from(endpoint.host.clone()).map_err(|reason| TlsError::Host {
                host: endpoint.host.clone(),
                reason,
            })?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = if document.skip_verify {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        } else {
            let roots = match &document.ca_file {
                Some(file) => roots_of_file(file)?,
                None => system_roots()?,
            };
            builder.with_root_certificates(roots)
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }
}

fn roots_of_file(file: &str) -> Result<RootCertStore, TlsError> {
    let refuse = |reason: String| TlsError::CaFile {
        file: file.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    // Read first, as the parser would wrap the system's words.
    let pem = std::fs::read(file).map_err(|error| refuse(error.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("holds no PEM certificate".to_owned()));
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A machine's list may hold certificates that are too old for rustls; the others count.
    let (_, ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = found.errors.first().map_or_else(
            || format!("{ignored} unusable certificates"),
            |error| error.to_string(),
        );
        return Err(TlsError::NoSystemRoots { reason });
    }
    Ok(roots)
}

/// `skip_verify`: whoever answers is the target.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    // The signatures prove possession of the certificate's key, which means nothing where any certificate will do.
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(ca_file: &str) -> String {
        let mut document = TargetDocument::new("https://localhost");
        document.ca_file = Some(ca_file.to_owned());
        let endpoint = Endpoint::parse(&document.url).unwrap();
        let error = Tls::new(&endpoint, &document).err().unwrap().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    #[test]
    fn a_bad_ca_file_is_named_in_one_line() {
        assert!(refusal("/nowhere/ca.pem").contains("/nowhere/ca.pem: No such file"));
        assert!(refusal("/dev/null").contains("no PEM certificate"));
        let here = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert!(refusal(here).contains("no PEM certificate"));
    }

    #[test]
    fn an_address_needs_no_name() {
        let mut document = TargetDocument::new("https://[::1]:8443");
        document.skip_verify = true;
        let endpoint = Endpoint::parse(&document.url).unwrap();
        assert!(matches!(
            Tls::new(&endpoint, &document).unwrap().name,
            ServerName::IpAddress(_)
        ));
    }
}
