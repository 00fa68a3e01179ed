//! What all requests share: what control publishes, and where outcomes go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::answer;
use crate::admin;
use crate::clock;
use crate::config::dynamic::Kind;
use crate::config::install::Install;
use crate::health::Standing;
use crate::listener::{Counters, Refused};
use crate::middleware::Answer;
use crate::names::Name;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::{CertificateExpiry, EntrypointMetrics, Metrics};
use crate::routing::server::{Draining, Member};
use crate::routing::snapshot::{Snapshot, SnapshotHandle};
use crate::steering;
use crate::tls::certificate::Certificate;
use crate::tls::challenge::OpenChallenges;
use crate::tls::store::CertificateStore;

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Routes are not known yet.
    Starting,
    /// The first whole snapshot is published.
    Serving,
    /// On its way out.
    Draining,
}

/// The stage, readable by every request.
#[derive(Debug)]
pub struct StageCell(AtomicU8);

impl Default for StageCell {
    fn default() -> Self {
        Self(AtomicU8::new(Stage::Starting as u8))
    }
}

impl StageCell {
    /// Where we are.
    pub fn get(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            _ => Stage::Draining,
        }
    }

    /// Goes on to a later stage; never back.
    pub fn advance(&self, stage: Stage) {
        self.0.fetch_max(stage as u8, Ordering::AcqRel);
    }
}

/// What all requests share.
#[derive(Debug)]
pub struct Shared {
    /// The install configuration.
    pub install: Arc<Install>,
    /// The current snapshot.
    pub snapshots: Arc<SnapshotHandle>,
    /// Open HTTP-01 challenges.
    pub challenges: Arc<OpenChallenges>,
    /// The entrypoints, by index, on which challenges are answered.
    pub challenge_entrypoints: BTreeSet<usize>,
    /// All counters.
    pub metrics: Arc<Metrics>,
    /// `traefik_entrypoint_*` by entrypoint index, when wanted.
    pub entrypoint_metrics: Vec<Arc<EntrypointMetrics>>,
    /// What the listening side counts.
    pub counters: Arc<Counters>,
    /// Where requests are logged, when wanted.
    pub access_log: Option<Arc<AccessLog>>,
    /// Where the process is in its life.
    pub stage: StageCell,
    /// What `X-Forwarded-Server` says.
    pub hostname: HeaderValue,
    /// The age at which an attempt is judged.
    pub judged_at: Duration,
    /// The certificates that handshakes may get.
    pub certificates: Arc<CertificateStore>,
    /// Orders over the API.
    pub steering: steering::api::Api,
    /// Where each service's rollout stands, as the API shows it.
    pub rollouts: Arc<ArcSwap<BTreeMap<Name, serde_json::Value>>>,
    /// When we started.
    pub started_at: SystemTime,
}

impl Shared {
    /// `/ping`: OK once routes are known, 503 before and (by `terminatingStatusCode`) while draining.
    pub fn ping(&self) -> Answer {
        let terminating = self.install.ping.as_ref().map_or(503, |ping| ping.terminating_status);
        match self.stage.get() {
            Stage::Serving => Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: Bytes::from_static(b"OK") },
            Stage::Starting => answer::status(503),
            Stage::Draining => answer::status(terminating),
        }
    }

    /// `/metrics` in Prometheus' text format.
    pub fn render_metrics(&self) -> Answer {
        for reason in Refused::ALL {
            self.metrics.set_refused(reason.as_str(), self.counters.refused(reason));
        }
        let table = self.certificates.current();
        self.metrics.set_certificates(table.certificates().map(|certificate| expiry(certificate)).collect());
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
        Answer { status: StatusCode::OK, headers, body: self.metrics.render().into() }
    }

    /// The read-only API and the dashboard.
    pub fn answer_api(&self, snapshot: &Snapshot, request: admin::AdminRequest<'_>) -> Answer {
        let table = self.certificates.current();
        let certificates: Vec<admin::CertificateView> =
            table.certificates().map(|certificate| certificate_view(certificate)).collect();
        let rollouts = self.rollouts.load();
        let servers = |kind: Kind, name: &Name| servers_of(snapshot, kind, name);
        let view = admin::AdminView {
            install: &self.install,
            report: &snapshot.report,
            servers: &servers,
            certificates: &certificates,
            rollouts: &rollouts,
            started_at: self.started_at,
            now: clock::wall(),
        };
        admin::answer(request, &view)
    }
}

fn servers_of(snapshot: &Snapshot, kind: Kind, name: &Name) -> Vec<admin::ServerView> {
    let services = if kind == Kind::TcpService { &snapshot.tcp_services } else { &snapshot.services };
    let Some(service) = services.get(name) else { return Vec::new() };
    let now = clock::now();
    let view = |member: &Member| admin::ServerView {
        url: member.server.url.clone(),
        weight: member.server.weight(),
        preserves_path: !member.server.path.is_empty(),
        is_up: member.server.draining() == Draining::No
            && matches!(member.server.health.standing(now), Standing::Available { .. }),
    };
    service.arms().members().iter().map(view).collect()
}

fn expiry(certificate: &Certificate) -> CertificateExpiry {
    CertificateExpiry {
        cn: certificate.common_name.clone(),
        serial: certificate.serial.clone(),
        sans: certificate.sans.clone(),
        not_after: certificate.not_after,
    }
}

fn certificate_view(certificate: &Certificate) -> admin::CertificateView {
    let sans = certificate.names.iter().map(ToString::to_string).chain(certificate.addresses.iter().map(ToString::to_string));
    admin::CertificateView {
        fingerprint: certificate.fingerprint.clone(),
        common_name: certificate.common_name.clone(),
        sans: sans.collect(),
        issuer_organisation: certificate.issuer_organisation.clone(),
        issuer_name: certificate.issuer_name.clone(),
        serial: certificate.serial.clone(),
        not_before: certificate.not_before,
        not_after: certificate.not_after,
    }
}
