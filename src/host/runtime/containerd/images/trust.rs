//! Trust in the certificates of a registry's host that has authorities of its own.
//!
//! Docker's manual makes a registry's certificate as an authority that signs itself, and names that very certificate as
//! the one to trust. Go takes it; the rules by which certificates are built do not, as an authority is no server. So a
//! certificate that is named itself is taken for what it is, by its bytes, if it is valid now and for that name.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_platform_verifier::Verifier;

use super::error::Fault;

/// Returns the TLS of a client that believes this machine's authorities, and those in these files.
pub(super) fn config(files: &[Vec<u8>]) -> Result<ClientConfig, Fault> {
    let mut named = Vec::new();
    for file in files {
        for certificate in CertificateDer::pem_slice_iter(file) {
            named.push(certificate.map_err(|error| wrong(&error.to_string()))?);
        }
    }
    if named.is_empty() {
        return Err(wrong("there is no certificate in it"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let inner = Verifier::new_with_extra_roots(named.iter().cloned(), provider.clone())
        .map_err(|error| wrong(&error.to_string()))?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::Foreign(error.to_string()))?;
    let trust = Arc::new(Trust { inner, named });
    Ok(config.dangerous().with_custom_certificate_verifier(trust).with_no_client_auth())
}

fn wrong(reason: &str) -> Fault {
    Fault::Foreign(format!("its CA file is not one: {reason}"))
}

#[derive(Debug)]
struct Trust {
    inner: Verifier,
    /// The certificates in the files.
    named: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(refused) = verified else { return verified };
        // Both are found after its times, and before its name.
        let is_of_its_signer = matches!(&refused, Error::InvalidCertificate(CertificateError::UnknownIssuer))
            || refused.to_string().contains("CaUsedAsEndEntity");
        if !is_of_its_signer || !self.named.iter().any(|named| named == end_entity) {
            return Err(refused);
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
