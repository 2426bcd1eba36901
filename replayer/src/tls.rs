//! TLS to a target: whom to trust, and who we are.
//!
//! What enters: a target's document. What leaves: a connector. What may be lost: nothing; a
//! file that can't be read is an error when the target is set up, not when traffic comes.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_rustls::TlsConnector;

use reprise_traffic::target::TargetDocument;

/// Why TLS to a target can't be set up. Each is one line for the target's owner.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file isn't there, isn't readable or isn't PEM.
    #[error("read {key} {file}: {reason}")]
    File {
        /// In the document.
        key: &'static str,
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
    /// The host or `server_name` is neither a DNS name nor an address.
    #[error("host {host:?} can't stand in a certificate: {reason}")]
    Host {
        /// As in the document.
        host: String,
        /// What is wrong with it.
        reason: InvalidDnsNameError,
    },
    /// Certificate and key are no pair, or of a kind that isn't known.
    #[error("use client_cert_file {file}: {reason}")]
    ClientCertificate {
        /// As in the document.
        file: String,
        /// What is wrong with it.
        reason: rustls::Error,
    },
    /// rustls refused the set-up.
    #[error("set up TLS: {0}")]
    Setup(#[from] rustls::Error),
}

/// The name of HTTP/1.1 (RFC 7301 §6).
pub(crate) const HTTP1: &[&[u8]] = &[b"http/1.1"];

/// Opens TLS over a TCP connection to one target.
#[derive(Clone)]
pub(crate) struct Tls {
    /// With the trust of the target's document.
    pub(crate) connector: TlsConnector,
    /// Sent as SNI unless it is an address, and looked for in the certificate.
    pub(crate) name: ServerName<'static>,
}

impl Tls {
    /// Reads whom to trust, and who we are, to speak one of `protocols`, or what nobody has a name for.
    ///
    /// # Errors
    /// [`TlsError`].
    pub(crate) fn new(
        host: &str,
        document: &TargetDocument,
        protocols: &[&[u8]],
    ) -> Result<Tls, TlsError> {
        let host = document.server_name.as_deref().unwrap_or(host).to_owned();
        let name =
            ServerName::try_from(host.clone()).map_err(|reason| TlsError::Host { host, reason })?;
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
        let mut config = match (&document.client_cert_file, &document.client_key_file) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(
                    certificates("client_cert_file", certificate)?,
                    private_key(key)?,
                )
                .map_err(|reason| TlsError::ClientCertificate {
                    file: certificate.clone(),
                    reason,
                })?,
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Tls {
            connector: TlsConnector::from(Arc::new(config)),
            name,
        })
    }
}

fn refuse(key: &'static str, file: &str, reason: impl ToString) -> TlsError {
    TlsError::File {
        key,
        file: file.to_owned(),
        reason: reason.to_string(),
    }
}

/// The certificates of a PEM file, at least one.
fn certificates(key: &'static str, file: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    // Read first, as the parser would wrap the system's words.
    let pem = std::fs::read(file).map_err(|error| refuse(key, file, error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let found = found.map_err(|error| refuse(key, file, error))?;
    if found.is_empty() {
        return Err(refuse(key, file, "holds no PEM certificate"));
    }
    Ok(found)
}

fn private_key(file: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    let refuse = |reason: &str| refuse("client_key_file", file, reason);
    let pem = std::fs::read(file).map_err(|error| refuse(&error.to_string()))?;
    // The parser's words may quote what it read.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| refuse("holds no PEM private key"))
}

fn roots_of_file(file: &str) -> Result<RootCertStore, TlsError> {
    const KEY: &str = "ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, file)? {
        roots
            .add(certificate)
            .map_err(|error| refuse(KEY, file, error))?;
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
    use std::io::Write;

    use super::*;

    fn refusal(ca_file: &str) -> String {
        let mut document = TargetDocument::new("https://localhost");
        document.ca_file = Some(ca_file.to_owned());
        let error = Tls::new("localhost", &document, HTTP1)
            .err()
            .unwrap()
            .to_string();
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
    fn a_bad_client_certificate_is_named_in_one_line() {
        let pem = |text: &str| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        let pair = || rcgen::generate_simple_self_signed(vec!["us".to_owned()]).unwrap();
        let (ours, other) = (pair(), pair());
        let certificate = pem(&ours.cert.pem());
        let key = pem(&other.signing_key.serialize_pem());
        let path = |file: &tempfile::NamedTempFile| file.path().to_str().unwrap().to_owned();
        let nowhere = "/nowhere.pem".to_owned();
        for (certificate, key, part) in [
            (
                nowhere.clone(),
                path(&key),
                "client_cert_file /nowhere.pem: No such file",
            ),
            (
                path(&certificate),
                nowhere,
                "client_key_file /nowhere.pem: No such file",
            ),
            (path(&key), path(&key), "no PEM certificate"),
            (path(&certificate), path(&certificate), "no PEM private key"),
            (path(&certificate), path(&key), "use client_cert_file"),
        ] {
            let mut document = TargetDocument::new("https://localhost");
            document.skip_verify = true;
            document.client_cert_file = Some(certificate);
            document.client_key_file = Some(key);
            let error = Tls::new("localhost", &document, HTTP1)
                .err()
                .unwrap()
                .to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn an_address_needs_no_name() {
        let mut document = TargetDocument::new("https://[::1]:8443");
        document.skip_verify = true;
        assert!(matches!(
            Tls::new("::1", &document, HTTP1).unwrap().name,
            ServerName::IpAddress(_)
        ));
    }
}
