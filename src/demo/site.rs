//! The site of the demo, configured as cljdoc.org is: one install file in Traefik's words, and one set of tags.
//!
//! What differs: free ports of the loopback, no certificate authority (the certificate is made on the spot), and so the
//! redirect to HTTPS names its port.

use std::fs::DirBuilder;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::catalog::{CheckDefinition, Registration};
use super::instance::Instance;

/// The site's name in the catalog.
pub const SERVICE: &str = "cljdoc";

/// Where everything of the site is.
#[derive(Clone, Debug)]
pub struct Site {
    /// Plain HTTP, which redirects to HTTPS.
    pub web: SocketAddr,
    /// HTTPS.
    pub websecure: SocketAddr,
    /// Raw TCP.
    pub jmx: SocketAddr,
    /// Ping, metrics, API and dashboard.
    pub admin: SocketAddr,
    /// The embedded catalog.
    pub catalog: SocketAddr,
    /// The install file and the logs.
    pub folder: PathBuf,
}

impl Site {
    /// Chooses ports and writes the install file into a new folder for temporary files.
    pub fn lay_out(catalog: SocketAddr) -> io::Result<Self> {
        let name = format!("tidegate-demo-{}-{:04x}", std::process::id(), fastrand::u16(..));
        let folder = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&folder)?;
        // Held together until all are chosen, so that they differ.
        let held = [(); 4].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let [web, websecure, jmx, admin] = held.each_ref().map(|held| match held {
            Ok(listener) => listener.local_addr(),
            Err(error) => Err(error.kind().into()),
        });
        let site = Self { web: web?, websecure: websecure?, jmx: jmx?, admin: admin?, catalog, folder };
        std::fs::write(site.install_file(), site.install())?;
        Ok(site)
    }

    /// The install file's path.
    pub fn install_file(&self) -> PathBuf {
        self.folder.join("traefik.yaml")
    }

    /// The proxy's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("traefik.log")
    }

    fn install(&self) -> String {
        let Self { web, websecure, jmx, admin, catalog, folder } = self;
        // A path in quotes, as YAML and JSON read it.
        let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
        let (access_log, log, state) = (quoted(&folder.join("access.log")), quoted(&self.log()), quoted(folder));
        format!(
            r#"# What the demo runs with: cljdoc.org's own file, on free ports, without a certificate authority.
# Traefik would run with it, too: it ignores the section `tidegate`.
global:
  checkNewVersion: false
  sendAnonymousUsage: false
accessLog:
  filePath: {access_log}
  format: json
  fields:
    defaultMode: keep
    headers:
      defaultMode: drop
      names:
        User-Agent: keep
        Referer: keep
log:
  level: INFO
  filePath: {log}
entryPoints:
  web:
    address: "{web}"
  websecure:
    address: "{websecure}"
  jmx:
    address: "{jmx}"
  traefik: # ping, metrics, API and dashboard
    address: "{admin}"
api:
  dashboard: true
  insecure: true
ping: {{}}
metrics:
  prometheus: {{}}
providers:
  consulCatalog:
    prefix: traefik
    exposedByDefault: false
    watch: true
    endpoint:
      address: "{catalog}"
tidegate:
  state: {state}
  rollout:
    trackMeta: version # an instance that replaces a dead one is no new version
    firstByte: 1s      # the age at which a request without an answer is counted against a canary; 2s unless told
"#
        )
    }

    /// How Nomad registers an instance of the site.
    pub fn register(&self, instance: &Instance, id: &str, version: &str) -> Registration {
        Registration {
            name: SERVICE.to_owned(),
            id: id.to_owned(),
            address: instance.address.ip().to_string(),
            port: instance.address.port(),
            tags: self.tags(instance.jmx.port()),
            meta: [("external-source", "nomad"), ("version", version)].map(|(key, value)| (key.into(), value.into())).into(),
            checks: vec![CheckDefinition {
                id: format!("check-{id}"),
                name: "accepts connections".to_owned(),
                status: "passing".to_owned(),
                tcp: instance.address.to_string(),
                interval: "10s".to_owned(),
                ..CheckDefinition::default()
            }],
            check: None,
        }
    }

    /// cljdoc's tags.
    fn tags(&self, jmx_port: u16) -> Vec<String> {
        let redirect_port = self.websecure.port();
        [
            "enable=true",
            "tcp.routers.jmx-router.entrypoints=jmx",
            "tcp.routers.jmx-router.rule=HostSNI(`*`)",
            "tcp.routers.jmx-router.service=jmx-service",
            &format!("tcp.services.jmx-service.loadbalancer.server.port={jmx_port}"),
            "http.middlewares.redirect-to-https.redirectscheme.scheme=https",
            &format!("http.middlewares.redirect-to-https.redirectscheme.port={redirect_port}"),
            "http.middlewares.redirect-to-https.redirectscheme.permanent=true",
            "http.routers.cljdoc-http.entrypoints=web",
            "http.routers.cljdoc-http.middlewares=redirect-to-https",
            "http.routers.cljdoc-http.rule=(PathPrefix(`/`) && !PathPrefix(`/.well-known/acme-challenge`))",
            "http.routers.acme-challenge.entrypoints=web",
            "http.routers.acme-challenge.rule=PathPrefix(`/.well-known/acme-challenge`)",
            "http.routers.acme-challenge.priority=1000",
            "http.middlewares.compress-response.compress=true",
            "http.middlewares.compress-response.compress.encodings=gzip",
            "http.routers.cljdoc-https.entrypoints=websecure",
            "http.routers.cljdoc-https.tls=true",
            "http.routers.cljdoc-https.rule=PathPrefix(`/`)",
            "http.routers.cljdoc-https.middlewares=compress-response",
        ]
        .map(|tag| format!("traefik.{tag}"))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::install::{self, Source};

    #[test]
    fn the_install_file_has_no_problems() {
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let folder = PathBuf::from("/tmp/a \"folder\"");
        let site = Site { web: at(2), websecure: at(3), jmx: at(4), admin: at(5), catalog: address, folder };
        let source = Source::File { path: "traefik.yaml".to_owned(), text: site.install() };
        let (install, problems) = install::read(&source);
        assert!(problems.is_empty(), "{problems:?}");
        let install = install.unwrap();
        assert_eq!(install.entrypoints["traefik"].address, "127.0.0.1:5");
        assert_eq!(install.log.file_path, Some(site.log()));
    }
}
