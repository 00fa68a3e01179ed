//! All metrics: Traefik's under Traefik's names, labels, buckets and switches, and ours as `tidegate_*`.
//!
//! Whoever counts asks for a handle once, when it is made (an entrypoint at start, a route and a service when a snapshot is
//! compiled), and keeps it. Series live as long as a handle: when a router, service or server is gone and the last request
//! with it, the next scrape shows its series once more and then forgets them.

use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::HeaderName;
use prometheus::TextEncoder;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;

use super::exposition::{Exposition, Kind};
use super::handle::{NO, Pool, UNKNOWN, YES, lock};
use super::series::{Chain, Requests, Shape, Way};
use crate::config::install;

pub use super::handle::{EntrypointMetrics, OpenConnection, RolloutMetrics, RolloutSeen, ServerMetrics, ServiceMetrics};

/// How many servers have series of their own; further ones share `server="other"`.
pub const SERVERS_MAX: usize = 2_000;

/// The server that all further ones are counted as.
const OTHER: &str = "other";

/// Service, URL and handle of each server.
type Servers = Vec<((String, String), Arc<ServerMetrics>)>;

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    settings: install::Prometheus,
    has_servers: bool,
    shape: Arc<Shape>,
    entrypoints: Pool<String, EntrypointMetrics>,
    routers: Pool<(String, String), Requests>,
    services: Pool<String, ServiceMetrics>,
    servers: Pool<(String, String), ServerMetrics>,
    rollouts: Pool<String, RolloutMetrics>,
    certificates: Mutex<Vec<CertificateExpiry>>,
    config: Mutex<Option<Published>>,
    reloads: AtomicU64,
    problems: [AtomicU64; 2],
    consul: AtomicU8,
    nomad: AtomicU8,
    state_writable: AtomicU8,
    refused: Chain<&'static str, AtomicU64>,
    access_log_dropped: Arc<AtomicU64>,
    webhook_dropped: Arc<AtomicU64>,
    process: ProcessCollector,
}

/// When a certificate in use ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateExpiry {
    /// The subject's common name.
    pub cn: String,
    /// The serial number in decimal.
    pub serial: String,
    /// Its names, sorted and joined by commas.
    pub sans: String,
    /// The end of its validity.
    pub not_after: SystemTime,
}

/// A snapshot that was published.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// When.
    pub now: SystemTime,
    /// Its generation.
    pub generation: u64,
    /// How many routers it has, HTTP and TCP.
    pub routers: usize,
    /// How many services.
    pub services: usize,
    /// How long it took to compile.
    pub compile: Duration,
}

impl Metrics {
    /// No series yet. `has_servers` is `tidegate.metrics.perServer`.
    pub fn new(settings: &install::Prometheus, has_servers: bool) -> Self {
        let mut buckets: Vec<f64> = settings.buckets.iter().copied().filter(|bound| bound.is_finite()).collect();
        buckets.sort_by(f64::total_cmp);
        let labels = settings.header_labels.iter();
        let header_labels = labels.filter_map(|(label, name)| Some((label.clone(), name.parse::<HeaderName>().ok()?))).collect();
        Self {
            settings: settings.clone(),
            has_servers,
            shape: Arc::new(Shape { buckets, header_labels }),
            entrypoints: Pool::default(),
            routers: Pool::default(),
            services: Pool::default(),
            servers: Pool::default(),
            rollouts: Pool::default(),
            certificates: Mutex::default(),
            config: Mutex::default(),
            reloads: AtomicU64::new(0),
            problems: Default::default(),
            consul: AtomicU8::new(UNKNOWN),
            nomad: AtomicU8::new(UNKNOWN),
            state_writable: AtomicU8::new(UNKNOWN),
            refused: Chain::default(),
            access_log_dropped: Arc::default(),
            webhook_dropped: Arc::default(),
            process: ProcessCollector::for_self(),
        }
    }

    /// The handle of an entrypoint.
    pub fn entrypoint(&self, name: &str) -> Arc<EntrypointMetrics> {
        let requests = || self.settings.add_entrypoints_labels.then(|| Requests::new(&self.shape));
        self.entrypoints.get(&name.to_owned(), || EntrypointMetrics { requests: requests(), open: AtomicI64::new(0) })
    }

    /// The handle of a router and its service, both `name@provider`; `None` unless `addRoutersLabels` is set.
    pub fn router(&self, router: &str, service: &str) -> Option<Arc<Requests>> {
        let key = (router.to_owned(), service.to_owned());
        self.settings.add_routers_labels.then(|| self.routers.get(&key, || Requests::new(&self.shape)))
    }

    /// The handle of a service, `name@provider`.
    pub fn service(&self, name: &str) -> Arc<ServiceMetrics> {
        let requests = || self.settings.add_services_labels.then(|| Requests::new(&self.shape));
        self.services.get(&name.to_owned(), || ServiceMetrics { requests: requests(), retries: AtomicU64::new(0) })
    }

    /// The handle of a server: the service's `name@provider` and the server's URL.
    pub fn server(&self, service: &str, url: &str) -> Arc<ServerMetrics> {
        let url = if self.servers.has_room(SERVERS_MAX, &(service.to_owned(), url.to_owned())) { url } else { OTHER };
        self.servers.get(&(service.to_owned(), url.to_owned()), ServerMetrics::default)
    }

    /// The handle of a service's rollout.
    pub fn rollout(&self, service: &str) -> Arc<RolloutMetrics> {
        self.rollouts.get(&service.to_owned(), RolloutMetrics::default)
    }

    /// A snapshot was published.
    pub fn config_published(&self, published: Published) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        *lock(&self.config) = Some(published);
    }

    /// How many problems the configuration has now.
    pub fn set_problems(&self, warnings: u64, errors: u64) {
        for (gauge, count) in self.problems.iter().zip([warnings, errors]) {
            gauge.store(count, Ordering::Relaxed);
        }
    }

    /// Whether Consul answers.
    pub fn set_consul_up(&self, is_up: bool) {
        self.consul.store(if is_up { YES } else { NO }, Ordering::Relaxed);
    }

    /// Whether what Nomad said last is up to date. The gauge does not exist where Nomad is not asked.
    pub fn set_nomad_up(&self, is_up: bool) {
        self.nomad.store(if is_up { YES } else { NO }, Ordering::Relaxed);
    }

    /// Whether the state of rollouts can be written to disk.
    pub fn set_state_writable(&self, is_writable: bool) {
        self.state_writable.store(if is_writable { YES } else { NO }, Ordering::Relaxed);
    }

    /// The certificates in use.
    pub fn set_certificates(&self, certificates: Vec<CertificateExpiry>) {
        *lock(&self.certificates) = certificates;
    }

    /// How many connections or requests were refused before they were routed. `reason` is one of few fixed words.
    pub fn set_refused(&self, reason: &'static str, times: u64) {
        let count = self.refused.find_or_add(|other| *other == reason, || (reason, AtomicU64::new(0)));
        count.store(times, Ordering::Relaxed);
    }

    /// Where the access log counts the lines it loses.
    pub fn access_log_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.access_log_dropped)
    }

    /// Where the events are counted that did not reach the webhook.
    pub fn webhook_dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.webhook_dropped)
    }

    /// All of it in Prometheus' text format (`text/plain; version=0.0.4`).
    pub fn render(&self) -> Vec<u8> {
        let mut out = Exposition::default();
        let mut process = self.process.collect();
        process.sort_by(|a, b| a.name().cmp(b.name()));
        // A process that cannot read its own /proc goes without these.
        out.text(&TextEncoder::new().encode_to_string(&process).unwrap_or_default());
        let servers = self.servers.list();
        self.render_own(&mut out);
        self.render_servers(&mut out, &servers);
        self.render_state(&mut out);
        self.render_webhook(&mut out);
        self.render_config(&mut out);
        self.render_requests(&mut out);
        self.render_states(&mut out, &servers);
        out.into_bytes()
    }

    fn render_own(&self, out: &mut Exposition) {
        let dropped = self.access_log_dropped.load(Ordering::Relaxed);
        out.counter(
            "tidegate_access_log_dropped_total",
            "Access log lines that were lost, to a full disk or a full buffer.",
            dropped,
        );
        if let Some(published) = *lock(&self.config) {
            let compile = published.compile.as_secs_f64();
            out.gauge("tidegate_config_compile_seconds", "How long the serving configuration took to compile.", compile);
            out.gauge("tidegate_config_generation", "The generation of the serving configuration.", published.generation as f64);
            out.gauge("tidegate_config_routers", "Routers of the serving configuration.", published.routers as f64);
            out.gauge("tidegate_config_services", "Services of the serving configuration.", published.services as f64);
        }
        match self.consul.load(Ordering::Relaxed) {
            UNKNOWN => {}
            up => out.gauge("tidegate_consul_up", "Whether Consul answers.", f64::from(up == YES)),
        }
        let mut problems = out.family("tidegate_problems", "Mistakes found in the configuration.", Kind::Gauge);
        for (severity, count) in ["warning", "error"].iter().zip(&self.problems) {
            problems.count("", &[("severity", severity)], count.load(Ordering::Relaxed));
        }
        let help = "Connections and requests that were refused before they were routed.";
        let mut refused = out.family("tidegate_refused_total", help, Kind::Counter);
        for (reason, count) in self.refused.iter() {
            refused.count("", &[("reason", reason)], count.load(Ordering::Relaxed));
        }
        self.render_rollouts(out);
    }

    fn render_rollouts(&self, out: &mut Exposition) {
        let rollouts: Vec<_> = self
            .rollouts
            .list()
            .into_iter()
            .filter_map(|(service, rollout)| Some((service, lock(&rollout.0).clone()?)))
            .collect();
        let help = "What a running test of the canary has gathered against it.";
        let mut evidence = out.family("tidegate_rollout_evidence", help, Kind::Gauge);
        for (service, seen) in &rollouts {
            for (test, value, _) in &seen.tests {
                evidence.number("", &[("service", service), ("test", test)], *value);
            }
        }
        let mut phase = out.family("tidegate_rollout_phase", "The phase of a rollout: 1 for the one it is in.", Kind::Gauge);
        for (service, seen) in &rollouts {
            phase.count("", &[("phase", seen.phase), ("service", service)], 1);
        }
        let mut share =
            out.family("tidegate_rollout_share", "The canary's share of a service's requests, from 0 to 1.", Kind::Gauge);
        for (service, seen) in &rollouts {
            share.number("", &[("service", service)], seen.share.fraction());
        }
        let help = "The evidence at which a test acts against the canary.";
        let mut threshold = out.family("tidegate_rollout_threshold", help, Kind::Gauge);
        for (service, seen) in &rollouts {
            for (test, _, value) in &seen.tests {
                threshold.number("", &[("service", service), ("test", test)], *value);
            }
        }
    }

    fn render_webhook(&self, out: &mut Exposition) {
        let help = "Events that did not reach the webhook, because it failed or the queue was full.";
        out.counter("tidegate_webhook_dropped_total", help, self.webhook_dropped.load(Ordering::Relaxed));
    }

    fn render_servers(&self, out: &mut Exposition, servers: &Servers) {
        if !self.has_servers {
            return;
        }
        let help = "Attempts at a server, partitioned by what came of them.";
        let mut family = out.family("tidegate_server_requests_total", help, Kind::Counter);
        for ((service, url), server) in servers {
            for (outcome, count) in server.outcomes.iter() {
                let labels = [("outcome", *outcome), ("server", &**url), ("service", &**service)];
                family.count("", &labels, count.load(Ordering::Relaxed));
            }
        }
    }

    fn render_state(&self, out: &mut Exposition) {
        match self.nomad.load(Ordering::Relaxed) {
            UNKNOWN => {}
            up => out.gauge("tidegate_nomad_up", "Whether Nomad answers and its event stream goes on.", f64::from(up == YES)),
        }
        match self.state_writable.load(Ordering::Relaxed) {
            UNKNOWN => {}
            is_writable => {
                let help = "Whether the state of rollouts can be written to disk.";
                out.gauge("tidegate_state_writable", help, f64::from(is_writable == YES));
            }
        }
    }

    fn render_config(&self, out: &mut Exposition) {
        if let Some(published) = *lock(&self.config) {
            out.gauge("traefik_config_last_reload_success", "Last config reload success", unix_seconds(published.now));
        }
        out.counter("traefik_config_reloads_total", "Config reloads", self.reloads.load(Ordering::Relaxed));
    }

    fn render_requests(&self, out: &mut Exposition) {
        let entrypoints = self.entrypoints.list();
        let labelled = entrypoints.iter().filter_map(|(name, one)| Some((vec![("entrypoint", &**name)], one.requests.as_ref()?)));
        write_requests(out, &ENTRYPOINT, &labelled.collect::<Vec<_>>());
        let help = "How many open connections exist, by entryPoint and protocol";
        let mut open = out.family("traefik_open_connections", help, Kind::Gauge);
        for (name, entrypoint) in &entrypoints {
            let count = entrypoint.open.load(Ordering::Relaxed).max(0);
            open.number("", &[("entrypoint", name), ("protocol", "TCP")], count as f64);
        }
        let routers = self.routers.list();
        let labelled =
            routers.iter().map(|((router, service), one)| (vec![("router", &**router), ("service", &**service)], &**one));
        write_requests(out, &ROUTER, &labelled.collect::<Vec<_>>());
        let services = self.services.list();
        let labelled = services.iter().filter_map(|(name, one)| Some((vec![("service", &**name)], one.requests.as_ref()?)));
        write_requests(out, &SERVICE, &labelled.collect::<Vec<_>>());
        let help = "How many request retries happened on a service.";
        let mut retries = out.family("traefik_service_retries_total", help, Kind::Counter);
        for (name, service) in &services {
            match service.retries.load(Ordering::Relaxed) {
                0 => {}
                count => retries.count("", &[("service", name)], count),
            }
        }
    }

    fn render_states(&self, out: &mut Exposition, servers: &Servers) {
        let help = "service server is up, described by gauge value of 0 or 1.";
        let mut up = out.family("traefik_service_server_up", help, Kind::Gauge);
        for ((service, url), server) in servers.iter().filter(|((_, url), _)| url != OTHER) {
            match server.up.load(Ordering::Relaxed) {
                UNKNOWN => {}
                is_up => up.count("", &[("service", service), ("url", url)], u64::from(is_up == YES)),
            }
        }
        let mut expiry = out.family("traefik_tls_certs_not_after", "Certificate expiration timestamp", Kind::Gauge);
        for one in &*lock(&self.certificates) {
            let labels = [("cn", &*one.cn), ("sans", &*one.sans), ("serial", &*one.serial)];
            expiry.number("", &labels, unix_seconds(one.not_after));
        }
    }
}

/// The five metrics of requests: a prefix, and their help in the order of their names.
struct RequestNames {
    prefix: &'static str,
    duration: &'static str,
    request_bytes: &'static str,
    tls: &'static str,
    count: &'static str,
    response_bytes: &'static str,
}

const ENTRYPOINT: RequestNames = RequestNames {
    prefix: "traefik_entrypoint",
    duration: "How long it took to process the request on an entrypoint, partitioned by status code, protocol, and method.",
    request_bytes: "The total size of requests in bytes handled by an entrypoint, partitioned by status code, protocol, and method.",
    tls: "How many HTTP requests with TLS processed on an entrypoint, partitioned by TLS Version and TLS cipher Used.",
    count: "How many HTTP requests processed on an entrypoint, partitioned by status code, protocol, and method.",
    response_bytes: "The total size of responses in bytes handled by an entrypoint, partitioned by status code, protocol, and method.",
};

const ROUTER: RequestNames = RequestNames {
    prefix: "traefik_router",
    duration: "How long it took to process the request on a router, partitioned by service, status code, protocol, and method.",
    request_bytes: "The total size of requests in bytes handled by a router, partitioned by service, status code, protocol, and method.",
    tls: "How many HTTP requests with TLS are processed on a router, partitioned by service, TLS Version, and TLS cipher Used.",
    count: "How many HTTP requests are processed on a router, partitioned by service, status code, protocol, and method.",
    response_bytes: "The total size of responses in bytes handled by a router, partitioned by service, status code, protocol, and method.",
};

const SERVICE: RequestNames = RequestNames {
    prefix: "traefik_service",
    duration: "How long it took to process the request on a service, partitioned by status code, protocol, and method.",
    request_bytes: "The total size of requests in bytes received by a service, partitioned by status code, protocol, and method.",
    tls: "How many HTTP requests with TLS processed on a service, partitioned by TLS version and TLS cipher.",
    count: "How many HTTP requests processed on a service, partitioned by status code, protocol, and method.",
    response_bytes: "The total size of responses in bytes returned by a service, partitioned by status code, protocol, and method.",
};

fn write_requests(out: &mut Exposition, names: &RequestNames, all: &[(Vec<(&str, &str)>, &Requests)]) {
    let name = |suffix: &str| format!("{}_{suffix}", names.prefix);
    let full = name("request_duration_seconds");
    let mut family = out.family(&full, names.duration, Kind::Histogram);
    all.iter().for_each(|(labels, requests)| requests.write_durations(&mut family, labels));
    let full = name("requests_bytes_total");
    let mut family = out.family(&full, names.request_bytes, Kind::Counter);
    all.iter().for_each(|(labels, requests)| requests.write_bytes(&mut family, labels, Way::Request));
    let full = name("requests_tls_total");
    let mut family = out.family(&full, names.tls, Kind::Counter);
    all.iter().for_each(|(labels, requests)| requests.write_tls(&mut family, labels));
    let full = name("requests_total");
    let mut family = out.family(&full, names.count, Kind::Counter);
    all.iter().for_each(|(labels, requests)| requests.write_counts(&mut family, labels));
    let full = name("responses_bytes_total");
    let mut family = out.family(&full, names.response_bytes, Kind::Counter);
    all.iter().for_each(|(labels, requests)| requests.write_bytes(&mut family, labels, Way::Response));
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as f64
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::super::series::{Finished, Protocol};
    use super::*;
    use crate::names::Share;

    fn record(count: impl Fn(&Finished<'_>)) {
        count(&Finished {
            code: 200,
            method: "GET",
            protocol: Protocol::Http,
            duration: Duration::from_millis(5),
            request_bytes: 0,
            response_bytes: 391,
            tls: Some(("1.3", "TLS_AES_128_GCM_SHA256")),
            headers: &HeaderMap::new(),
        });
    }

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    fn all_switched_on() -> Metrics {
        Metrics::new(&install::Prometheus { add_routers_labels: true, ..install::Prometheus::default() }, true)
    }

    /// Names and help texts that Traefik 3.7.15 shows, and which of our own stand beside them.
    #[test]
    fn every_metric_has_its_name_and_help() {
        let metrics = all_switched_on();
        let entrypoint = metrics.entrypoint("web");
        let router = metrics.router("r@file", "s@file").unwrap();
        let service = metrics.service("s@file");
        record(|finished| {
            entrypoint.record(finished);
            router.record(finished);
            service.record(finished);
        });
        service.retried();
        let server = metrics.server("s@file", "http://127.0.0.1:1");
        server.record("ok");
        server.set_up(true);
        let rollout = metrics.rollout("s@file");
        rollout.set(RolloutSeen { share: Share::ALL, phase: "ramp", tests: vec![("C", 0.5, 100.0)] });
        let now = UNIX_EPOCH + Duration::from_secs(1_795_376_414);
        let compile = Duration::from_millis(1);
        metrics.config_published(Published { now, generation: 1, routers: 3, services: 2, compile });
        metrics.set_consul_up(true);
        metrics.set_state_writable(true);
        metrics.set_refused("head too large", 1);
        let (cn, serial, sans) = ("a.test".to_owned(), "1".to_owned(), "a.test,b.test".to_owned());
        metrics.set_certificates(vec![CertificateExpiry { cn, serial, sans, not_after: now }]);

        let text = text(&metrics);
        let help: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# HELP ")).collect();
        let names: Vec<&str> = help.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert!(names.is_sorted(), "{names:?}");
        for traefiks in TRAEFIKS.lines().filter(|line| !line.is_empty()) {
            assert!(help.contains(&traefiks), "{traefiks}");
        }
        let of_traefik = names.iter().filter(|name| name.starts_with("traefik_")).count();
        assert_eq!(of_traefik, TRAEFIKS.lines().filter(|line| !line.is_empty()).count());
        let ours: Vec<&str> = names.into_iter().filter(|name| name.starts_with("tidegate_")).collect();
        assert_eq!(ours.join(" "), OURS.split_whitespace().collect::<Vec<_>>().join(" "));
        for process in
            ["process_cpu_seconds_total", "process_open_fds", "process_resident_memory_bytes", "process_start_time_seconds"]
        {
            assert!(text.contains(&format!("\n{process} ")), "{process}");
        }
    }

    const OURS: &str = "tidegate_access_log_dropped_total tidegate_config_compile_seconds tidegate_config_generation
        tidegate_config_routers tidegate_config_services tidegate_consul_up tidegate_problems tidegate_refused_total
        tidegate_rollout_evidence tidegate_rollout_phase tidegate_rollout_share tidegate_rollout_threshold
        tidegate_server_requests_total tidegate_state_writable tidegate_webhook_dropped_total";

    const TRAEFIKS: &str = "
traefik_config_last_reload_success Last config reload success
traefik_config_reloads_total Config reloads
traefik_entrypoint_request_duration_seconds How long it took to process the request on an entrypoint, partitioned by status code, protocol, and method.
traefik_entrypoint_requests_bytes_total The total size of requests in bytes handled by an entrypoint, partitioned by status code, protocol, and method.
traefik_entrypoint_requests_tls_total How many HTTP requests with TLS processed on an entrypoint, partitioned by TLS Version and TLS cipher Used.
traefik_entrypoint_requests_total How many HTTP requests processed on an entrypoint, partitioned by status code, protocol, and method.
traefik_entrypoint_responses_bytes_total The total size of responses in bytes handled by an entrypoint, partitioned by status code, protocol, and method.
traefik_open_connections How many open connections exist, by entryPoint and protocol
traefik_router_request_duration_seconds How long it took to process the request on a router, partitioned by service, status code, protocol, and method.
traefik_router_requests_bytes_total The total size of requests in bytes handled by a router, partitioned by service, status code, protocol, and method.
traefik_router_requests_tls_total How many HTTP requests with TLS are processed on a router, partitioned by service, TLS Version, and TLS cipher Used.
traefik_router_requests_total How many HTTP requests are processed on a router, partitioned by service, status code, protocol, and method.
traefik_router_responses_bytes_total The total size of responses in bytes handled by a router, partitioned by service, status code, protocol, and method.
traefik_service_request_duration_seconds How long it took to process the request on a service, partitioned by status code, protocol, and method.
traefik_service_requests_bytes_total The total size of requests in bytes received by a service, partitioned by status code, protocol, and method.
traefik_service_requests_tls_total How many HTTP requests with TLS processed on a service, partitioned by TLS version and TLS cipher.
traefik_service_requests_total How many HTTP requests processed on a service, partitioned by status code, protocol, and method.
traefik_service_responses_bytes_total The total size of responses in bytes returned by a service, partitioned by status code, protocol, and method.
traefik_service_retries_total How many request retries happened on a service.
traefik_service_server_up service server is up, described by gauge value of 0 or 1.
traefik_tls_certs_not_after Certificate expiration timestamp
";

    #[track_caller]
    fn check(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line} in {text}");
        }
    }

    #[test]
    fn series_look_as_traefiks() {
        let metrics = all_switched_on();
        let (entrypoint, service) = (metrics.entrypoint("websecure"), metrics.service("one@file"));
        let router = metrics.router("ba@file", "one@file").unwrap();
        record(|finished| {
            entrypoint.record(finished);
            service.record(finished);
            router.record(finished);
        });
        let server = metrics.server("hc@file", "http://127.0.0.1:21019");
        server.set_up(false);
        let _open = entrypoint.open_connection();
        drop(entrypoint.open_connection());
        let text = text(&metrics);
        check(
            &text,
            &[
                r#"traefik_entrypoint_request_duration_seconds_bucket{code="200",entrypoint="websecure",method="GET",protocol="http",le="0.1"} 1"#,
                r#"traefik_entrypoint_request_duration_seconds_bucket{code="200",entrypoint="websecure",method="GET",protocol="http",le="5"} 1"#,
                r#"traefik_entrypoint_request_duration_seconds_bucket{code="200",entrypoint="websecure",method="GET",protocol="http",le="+Inf"} 1"#,
                r#"traefik_entrypoint_requests_tls_total{entrypoint="websecure",tls_cipher="TLS_AES_128_GCM_SHA256",tls_version="1.3"} 1"#,
                r#"traefik_open_connections{entrypoint="websecure",protocol="TCP"} 1"#,
                r#"traefik_router_responses_bytes_total{code="200",method="GET",protocol="http",router="ba@file",service="one@file"} 391"#,
                r#"traefik_service_requests_total{code="200",method="GET",protocol="http",service="one@file"} 1"#,
                r#"traefik_service_server_up{service="hc@file",url="http://127.0.0.1:21019"} 0"#,
                "# TYPE traefik_service_request_duration_seconds histogram",
            ],
        );
    }

    #[test]
    fn switches_leave_families_out() {
        let off =
            install::Prometheus { add_entrypoints_labels: false, add_services_labels: false, ..install::Prometheus::default() };
        let metrics = Metrics::new(&off, false);
        let (entrypoint, service) = (metrics.entrypoint("web"), metrics.service("s@file"));
        let server = metrics.server("s@file", "http://127.0.0.1:1");
        server.record("ok");
        record(|finished| {
            entrypoint.record(finished);
            service.record(finished);
        });
        assert!(metrics.router("r@file", "s@file").is_none());
        let text = text(&metrics);
        for left_out in ["traefik_entrypoint_", "traefik_service_", "traefik_router_", "tidegate_server_"] {
            assert!(!text.contains(left_out), "{left_out}");
        }
        check(&text, &[r#"traefik_open_connections{entrypoint="web",protocol="TCP"} 0"#]);
    }

    #[test]
    fn a_router_that_is_gone_is_shown_once_more() {
        let metrics = all_switched_on();
        let (old, kept) = (metrics.router("old@file", "s@file").unwrap(), metrics.router("kept@file", "s@file").unwrap());
        record(|finished| old.record(finished));
        record(|finished| kept.record(finished));
        drop(old);
        assert!(text(&metrics).contains("old@file"));
        assert!(!text(&metrics).contains("old@file"));
        // A reload asks for the same handle again and goes on counting.
        let again = metrics.router("kept@file", "s@file").unwrap();
        drop(kept);
        record(|finished| again.record(finished));
        check(
            &text(&metrics),
            &[r#"traefik_router_requests_total{code="200",method="GET",protocol="http",router="kept@file",service="s@file"} 2"#],
        );
    }

    #[test]
    fn a_server_has_series_of_its_own_however_many_came_and_went_while_nobody_read() {
        let metrics = all_switched_on();
        for n in 0..SERVERS_MAX {
            metrics.server("s@file", &format!("http://127.0.0.1:{n}")).record("ok");
        }
        let server = metrics.server("s@file", "http://127.0.0.2:1");
        server.record("ok");
        check(
            &text(&metrics),
            &[r#"tidegate_server_requests_total{outcome="ok",server="http://127.0.0.2:1",service="s@file"} 1"#],
        );
    }

    #[test]
    fn servers_beyond_the_limit_share_series() {
        let metrics = all_switched_on();
        let servers: Vec<_> = (0..SERVERS_MAX + 5).map(|n| metrics.server("s@file", &format!("http://127.0.0.1:{n}"))).collect();
        servers.iter().for_each(|server| server.record("ok"));
        let text = text(&metrics);
        assert_eq!(text.matches("tidegate_server_requests_total{").count(), SERVERS_MAX + 1);
        check(&text, &[r#"tidegate_server_requests_total{outcome="ok",server="other",service="s@file"} 5"#]);
    }

    #[test]
    fn a_rollout_is_seen() {
        let metrics = all_switched_on();
        let rollout = metrics.rollout("s@file");
        let tests = vec![("C", 3.5, 100.0), ("H", f64::INFINITY, 100.0)];
        rollout.set(RolloutSeen { share: Share::new(670).unwrap(), phase: "ramp", tests });
        check(
            &text(&metrics),
            &[
                r#"tidegate_rollout_share{service="s@file"} 0.067"#,
                r#"tidegate_rollout_phase{phase="ramp",service="s@file"} 1"#,
                r#"tidegate_rollout_evidence{service="s@file",test="C"} 3.5"#,
                r#"tidegate_rollout_evidence{service="s@file",test="H"} +Inf"#,
                r#"tidegate_rollout_threshold{service="s@file",test="C"} 100"#,
            ],
        );
    }
}
