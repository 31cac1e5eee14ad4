//! Certificates: those that are trusted, and the client's own.

use std::path::{Path, PathBuf};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::error::{Error, Result};
use crate::file;

/// How a connection is encrypted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// A file with the certificates that are trusted; without it they are those of the public web.
    pub authorities: Option<PathBuf>,
    /// A file with the client's certificate and key.
    pub identity: Option<PathBuf>,
    /// Whether any certificate is accepted.
    pub accepts_any: bool,
}

impl Tls {
    /// For the server, and for others that it leads to, which see no certificate of the client.
    ///
    /// # Errors
    /// When a file cannot be read, or lacks what it is for.
    pub(super) fn configs(&self) -> Result<(TlsConfig, TlsConfig)> {
        let roots = match &self.authorities {
            None => RootCerts::WebPki,
            Some(path) => RootCerts::new_with_certs(&items(path)?.0),
        };
        let identity = self.identity.as_deref().map(identity).transpose()?;
        let config = |identity, accepts_any| {
            TlsConfig::builder()
                .root_certs(roots.clone())
                .client_cert(identity)
                .disable_verification(accepts_any)
                .build()
        };
        Ok((config(identity, self.accepts_any), config(None, false)))
    }
}

fn identity(path: &Path) -> Result<ClientCert> {
    let (certificates, key) = items(path)?;
    let key = key.ok_or_else(|| {
        lacks(path, "private key: the client's certificate and its key belong into one file")
    })?;
    Ok(ClientCert::new_with_certs(&certificates, key))
}

/// The certificates in a PEM file, of which there is one at least, and its key.
fn items(path: &Path) -> Result<(Vec<Certificate<'static>>, Option<PrivateKey<'static>>)> {
    let (mut certificates, mut key) = (Vec::new(), None);
    for item in parse_pem(&file::read(path)?) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(PemItem::PrivateKey(found)) => key = Some(found),
            Ok(_) => {}
            Err(_) => return Err(lacks(path, "readable certificate: its PEM is damaged")),
        }
    }
    match certificates.is_empty() {
        true => Err(lacks(path, "certificate: a PEM file is needed")),
        false => Ok((certificates, key)),
    }
}

fn lacks(path: &Path, what: &str) -> Error {
    Error::Usage(format!("{} has no {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_certificates_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "no PEM").unwrap();
        let message = |tls: Tls| tls.configs().unwrap_err().to_string();
        let with = |path: &Path| Tls { authorities: Some(path.into()), ..Tls::default() };
        assert!(message(with(&path)).contains("has no certificate"));
        assert!(message(with(&folder.path().join("none"))).contains("none"));
        let identity = Tls { identity: Some(path), ..Tls::default() };
        assert!(message(identity).contains("has no certificate"));
        assert!(Tls::default().configs().is_ok());
    }
}
