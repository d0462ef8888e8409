//! TLS from a certificate and a key on disk.

use std::sync::Arc;

use fleetcore::{Error, ErrorKind, Result};
use rustls::{
    ServerConfig as RustlsConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsConfig;

/// An acceptor for TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1.
pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor> {
    let bad = |field: &'static str, path: &std::path::Path, e: &dyn std::fmt::Display| {
        Error::new(ErrorKind::InvalidInput, format!("{field} cannot be used: {e}"))
            .with_operation("tls")
            .with_context("field", field)
            .with_context("path", path.display())
    };
    let chain = CertificateDer::pem_file_iter(&config.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| bad("tls.cert", &config.cert, &e))?;
    if chain.is_empty() {
        return Err(bad("tls.cert", &config.cert, &"it holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(|e| bad("tls.key", &config.key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = RustlsConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad("tls", &config.cert, &e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad("tls.key", &config.key, &e))?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}
