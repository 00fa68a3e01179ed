use super::*;
use crate::config::dynamic::{LoadBalancer, Router, ServiceKind};
use crate::config::install::Prometheus;
use crate::config::problem::At;

/// Control with nothing but what a test tells it.
struct Scene {
    control: Control,
    _state: tempfile::TempDir,
    snapshots: Arc<SnapshotHandle>,
}

fn scene() -> Scene {
    scene_of(Install::default())
}

fn scene_of(mut install: Install) -> Scene {
    crate::tls::install_crypto_provider();
    let default = certificate::generate_default(clock::wall()).unwrap();
    let snapshots = Arc::<SnapshotHandle>::default();
    let outputs = Outputs {
        snapshots: Arc::clone(&snapshots),
        connections: Vec::new(),
        certificates: Arc::new(CertificateStore::new(Arc::new(default))),
        wanted: watch::channel(Vec::new()).0,
        rollouts: Arc::default(),
        metrics: Arc::new(Metrics::new(&Prometheus::default(), true)),
        events: steering::Events::default(),
        ready: watch::channel(true).0,
    };
    let state = tempfile::tempdir().unwrap();
    install.own.state = state.path().to_owned();
    let (control, _task) = Control::new(Arc::new(install), Vec::new(), outputs).unwrap();
    Scene { control, _state: state, snapshots }
}

fn endpoint(instance: Option<&str>) -> Endpoint {
    Endpoint { instance: instance.map(str::to_owned), ..Endpoint::local(1) }
}

/// A provider that declares these services, each with its one instance.
fn provided(services: &[(&str, Option<&str>)], check: Option<&HealthCheck>) -> Provided {
    let mut provided = Provided::default();
    for (name, instance) in services {
        let balancer = LoadBalancer { health_check: check.cloned(), ..LoadBalancer::default() };
        let service = crate::config::dynamic::Service { kind: ServiceKind::LoadBalancer(balancer), at: At::default() };
        provided.definitions.services.insert((*name).to_owned(), service);
        provided.endpoints.http.insert((*name).to_owned(), vec![endpoint(*instance)]);
    }
    provided
}

impl Scene {
    /// A provider speaks, and routers are compiled.
    fn take(&mut self, provided: Provided) {
        self.control.take(CONSUL, provided);
        self.control.rebuild(clock::now());
    }

    fn service(&self, name: &str) -> Arc<Service> {
        Arc::clone(&self.snapshots.current().services[&Name::new(name, CONSUL)])
    }
}

#[tokio::test]
async fn the_last_instance_of_a_service_loses_its_requests_before_routers_are_compiled() {
    let mut scene = scene();
    scene.take(provided(&[("web", Some("i-1"))], None));
    let service = scene.service("web");
    assert_eq!(service.arms().members().len(), 1);
    scene.control.take(CONSUL, Provided::default());
    assert!(service.arms().members().is_empty());
}

#[tokio::test]
async fn one_service_that_cannot_be_read_at_the_start_keeps_no_other_from_serving() {
    let mut install = Install::default();
    install.providers.consul_catalog = Some(crate::config::install::ConsulCatalog::default());
    let mut scene = scene_of(install);
    let mut state = ConsulState::unknown(clock::now());
    scene.control.take_catalog(&state);
    assert!(!scene.control.provided.contains_key(CONSUL), "nothing is known yet");
    let rendered = String::from_utf8(scene.control.outputs.metrics.render()).unwrap();
    assert!(rendered.contains("tidegate_consul_up 0"), "{rendered}");
    let instance = catalog::Instance {
        id: "w1".to_owned(),
        service: "web".to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 1,
        tags: vec!["traefik.enable=true".to_owned()],
        ..catalog::Instance::default()
    };
    state.catalog.insert("web".to_owned(), vec![instance]);
    scene.control.take_catalog(&state);
    scene.control.rebuild(clock::now());
    assert_eq!(scene.service("web").arms().members().len(), 1);
}

#[tokio::test]
async fn an_instance_whose_service_was_renamed_serves_until_routers_lead_to_the_new_name() {
    let mut scene = scene();
    scene.take(provided(&[("web", Some("i-1"))], None));
    let service = scene.service("web");
    scene.control.take(CONSUL, provided(&[("site", Some("i-1"))], None));
    assert_eq!(service.arms().members().len(), 1);
    scene.control.rebuild(clock::now());
    assert_eq!(scene.service("site").arms().members().len(), 1);
}

#[tokio::test]
async fn a_server_that_failed_its_check_serves_again_when_nobody_asks_for_the_check_any_more() {
    let mut scene = scene();
    let check = HealthCheck {
        path: "/".to_owned(),
        scheme: None,
        method: "GET".to_owned(),
        status: None,
        port: None,
        interval: Duration::from_secs(3600),
        unhealthy_interval: None,
        timeout: Duration::from_secs(1),
        hostname: None,
        follow_redirects: true,
        headers: BTreeMap::new(),
    };
    scene.take(provided(&[("web", None)], Some(&check)));
    let server = Arc::clone(&scene.service("web").arms().members()[0].server);
    server.set_checked(clock::now(), false);
    assert!(matches!(server.health.standing(clock::now()), crate::health::Standing::Failing));
    scene.take(provided(&[("web", None)], None));
    assert!(matches!(server.health.standing(clock::now()), crate::health::Standing::Available { .. }));
    assert!(scene.control.checks.is_empty());
}

#[tokio::test]
async fn the_api_names_the_routers_that_use_a_service_each_once() {
    let mut scene = scene();
    let mut declared = provided(&[("web", None), ("idle", None)], None);
    for (name, service) in [("b", "web"), ("a", "web@consulcatalog"), ("c", "elsewhere")] {
        let router = Router { service: service.to_owned(), rule: "Path(`/`)".to_owned(), ..Router::default() };
        declared.definitions.routers.insert(name.to_owned(), router);
    }
    scene.take(declared);
    let snapshot = scene.snapshots.current();
    let links = |name: &str| snapshot.report.services[&Name::new(name, CONSUL)].links.clone();
    assert_eq!(links("web"), ["a@consulcatalog", "b@consulcatalog"]);
    assert!(links("idle").is_empty());
}
