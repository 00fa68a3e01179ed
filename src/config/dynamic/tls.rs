//! `tls`: certificates, options and the default store.

use super::decode::{Decoder, Source, Unusable};
use super::shape::{asked, block, ignore, items, place_of};
use super::{CertificateFiles, TlsOptions, TlsVersion};
use crate::config::node::Fields;
use crate::config::problem::{At, Problem, Problems};

/// Reads the section `tls`.
pub(super) fn read(decoder: &mut Decoder, mut fields: Fields<'_>) {
    let mut problems = Vec::new();
    for mut item in items(&mut fields, "certificates", &mut problems) {
        // Traefik serves the default store only; which stores a certificate names makes no difference.
        item.strings("stores", &mut problems);
        decoder.definitions.tls.certificates.extend(certificate(&mut item, &mut problems));
        item.finish(&mut problems);
    }
    decoder.shape(problems);
    for (entry, path) in decoder.named(&mut fields, "options") {
        if let Some(mut options) = decoder.nameless("set of TLS options", entry, path, options) {
            options.at = decoder.place(entry);
            decoder.definitions.tls.options.insert(entry.key.clone(), options);
        }
    }
    for (entry, path) in decoder.named(&mut fields, "stores") {
        let is_default = entry.key.eq_ignore_ascii_case("default");
        let source = decoder.source;
        let read = |fields: &mut Fields<'_>, problems: &mut Problems| store(fields, source, problems);
        let found = decoder.nameless("TLS store", entry, path, read);
        if !is_default {
            let message = format!("TLS store `{}` is ignored, as in Traefik: only `default` is used", entry.key);
            decoder.problems.push(Problem::warning(&entry.key_at, message));
        } else if let Some(certificate) = found.flatten() {
            decoder.definitions.tls.default_certificate = Some(certificate);
        }
    }
    decoder.finish(fields);
}

fn certificate(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<CertificateFiles> {
    let at = fields.node().at.clone();
    let cert = fields.string("certFile", problems).unwrap_or_default();
    let key = fields.string("keyFile", problems).unwrap_or_default();
    for (text, name) in [(&cert, "certFile"), (&key, "keyFile")] {
        if text.is_empty() {
            problems.push(Problem::error(&at, format!("`{}` is missing, the certificate is left out", fields.path(name))));
            return None;
        }
    }
    Some(CertificateFiles { cert, key, at })
}

fn store(fields: &mut Fields<'_>, source: Source, problems: &mut Problems) -> Result<Option<CertificateFiles>, Unusable> {
    let mut found = None;
    if source == Source::File
        && let Some(mut block) = block(fields, "defaultCertificate", problems)
    {
        found = certificate(&mut block, problems);
        block.finish(problems);
    }
    if let Some(mut generated) = block(fields, "defaultGeneratedCert", problems) {
        generated.string("resolver", problems);
        if let Some(mut domain) = block(&mut generated, "domain", problems) {
            domain.string("main", problems);
            domain.strings("sans", problems);
            domain.finish(problems);
        }
        let message = format!("`{}` is not supported yet and is ignored", fields.path("defaultGeneratedCert"));
        problems.push(Problem::warning(&generated.node().at, message));
        generated.finish(problems);
    }
    Ok(found)
}

fn options(fields: &mut Fields<'_>, problems: &mut Problems) -> Result<TlsOptions, Unusable> {
    let version_min = version(fields, "minVersion", problems);
    let version_max = version(fields, "maxVersion", problems);
    let mut options = TlsOptions {
        version_min: None,
        version_max: None,
        sni_strict: fields.bool("sniStrict", problems).unwrap_or(false),
        alpn: fields.strings("alpnProtocols", problems).filter(|protocols| !protocols.is_empty()),
        at: At::default(),
    };
    ignore(fields, &["cipherSuites", "curvePreferences", "disableSessionTickets"], problems);
    // Go stopped to obey it, and so did Traefik.
    fields.get("preferServerCipherSuites");
    // Whoever wants client certificates must not be served without them.
    let client_auth = asked(fields, &["clientAuth"]);
    let (version_min, version_max) = (version_min?, version_max?);
    options.version_min = version_min.map(|(version, _)| version);
    options.version_max = version_max.map(|(version, _)| version);
    if let Some((_, false)) = version_max {
        return Err("its `maxVersion` is below TLS 1.2, the oldest that is spoken".to_owned());
    }
    if let Some((_, false)) = version_min {
        let message = format!("`{}` is below TLS 1.2, the oldest that is spoken", fields.path("minVersion"));
        problems.push(Problem::warning(place_of(fields, "minVersion"), message));
    }
    if options.version_max.is_some() && options.version_max < options.version_min {
        return Err("its `maxVersion` is below its `minVersion`".to_owned());
    }
    match client_auth {
        Some(path) => Err(format!("`{path}` is not supported yet")),
        None => Ok(options),
    }
}

/// The version and whether we speak it.
fn version(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> Result<Option<(TlsVersion, bool)>, Unusable> {
    match fields.string(key, problems).as_deref() {
        None | Some("") => Ok(None),
        Some("VersionTLS13") => Ok(Some((TlsVersion::Tls13, true))),
        Some("VersionTLS12") => Ok(Some((TlsVersion::Tls12, true))),
        Some("VersionTLS11" | "VersionTLS10") => Ok(Some((TlsVersion::Tls12, false))),
        Some(other) => Err(format!("its `{key}` is `{other}`, but wants `VersionTLS12` or `VersionTLS13`")),
    }
}
