//! What a user sees of a catalog: tags in, routers, servers and sentences out.

use std::collections::BTreeMap;

use super::{Catalog, CheckStatus, Instance, Memory, TranslateSettings, translate};
use crate::config::dynamic::{MiddlewareKind, Provided, ServiceKind};
use crate::config::install::{ConsulCatalog, Own};
use crate::names::Track;

/// The tags that cljdoc's job gives each instance; Nomad has filled in the port.
fn cljdoc_tags(jmx_port: u16) -> Vec<String> {
    let service: serde_json::Value = serde_json::from_str(include_str!("../../tests/cljdoc/service.json")).unwrap();
    let tags: Vec<String> = serde_json::from_value(service["tags"].clone()).unwrap();
    tags.iter().map(|tag| tag.replace("${NOMAD_HOST_PORT_jmx}", &jmx_port.to_string())).collect()
}

/// A passing instance of `service`, whose port follows from its id.
fn instance(service: &str, id: &str, tags: &[&str]) -> Instance {
    Instance {
        id: id.to_owned(),
        service: service.to_owned(),
        node: "n1".to_owned(),
        datacenter: "dc1".to_owned(),
        address: "10.0.0.1".to_owned(),
        port: 20_000 + u16::from(id.bytes().last().unwrap_or_default()),
        tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        meta: BTreeMap::new(),
        status: CheckStatus::Passing,
    }
}

/// A catalog that changes, and what is served meanwhile.
struct Scene {
    settings: TranslateSettings,
    memory: Memory,
    seen: Provided,
}

impl Scene {
    fn new(change: impl FnOnce(&mut ConsulCatalog, &mut Own)) -> Self {
        let (mut consul, mut own) = (ConsulCatalog::default(), Own::default());
        change(&mut consul, &mut own);
        let (settings, problems) = TranslateSettings::new(&consul, &own);
        assert_eq!(problems, []);
        Self { settings, memory: Memory::default(), seen: Provided::default() }
    }

    fn plain() -> Self {
        Self::new(|_, _| {})
    }

    /// The catalog says this now.
    fn now(&mut self, instances: &[Instance]) -> &mut Self {
        let mut catalog = Catalog::new();
        for instance in instances {
            catalog.entry(instance.service.clone()).or_default().push(instance.clone());
        }
        (self.seen, self.memory) = translate(&catalog, &self.settings, &self.memory);
        self
    }

    fn one(&mut self, tags: &[&str]) -> &mut Self {
        self.now(&[instance("web", "a", tags)])
    }

    /// `router: rule -> service` for each HTTP router.
    fn routers(&self) -> Vec<String> {
        let routers = self.seen.definitions.routers.iter();
        routers.map(|(name, router)| format!("{name}: {} -> {}", router.rule, router.service)).collect()
    }

    #[track_caller]
    fn serves(&self, routers: &[&str]) -> &Self {
        assert_eq!(self.routers(), routers);
        self
    }

    /// `id` for each server of a service, with `?` behind one that is not fit.
    #[track_caller]
    fn servers(&self, service: &str, expected: &[&str]) -> &Self {
        let endpoints = self.seen.endpoints.http.get(service).map(Vec::as_slice).unwrap_or_default();
        let mark = |is_passing: bool| if is_passing { "" } else { "?" };
        let name = |id: &Option<String>| id.clone().unwrap_or_default();
        let found: Vec<String> = endpoints.iter().map(|e| format!("{}{}", name(&e.instance), mark(e.is_passing))).collect();
        assert_eq!(found, expected, "servers of {service}");
        self
    }

    #[track_caller]
    fn url(&self, service: &str, expected: &str) -> &Self {
        assert_eq!(self.seen.endpoints.http[service][0].url(), expected);
        self
    }

    #[track_caller]
    fn says(&self, problems: &[&str]) -> &Self {
        let found: Vec<String> = self.seen.problems.iter().map(ToString::to_string).collect();
        assert_eq!(found, problems);
        self
    }
}

const RULE_A: &str = "traefik.http.routers.r.rule=Host(`a`)";
const RULE_B: &str = "traefik.http.routers.r.rule=Host(`b`)";

#[test]
fn cljdoc_gets_exactly_what_its_tags_say() {
    let mut scene = Scene::new(|consul, _| consul.exposed_by_default = false);
    let tags = cljdoc_tags(21_279);
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    scene.now(&[instance("cljdoc", "a", &tags)]).says(&[]);
    insta::assert_debug_snapshot!("cljdoc", scene.seen);
}

#[test]
fn two_cljdoc_instances_share_everything_but_their_ports() {
    let mut scene = Scene::plain();
    let both = [1_u16, 2].map(|n| Instance { tags: cljdoc_tags(n), ..instance("cljdoc", &n.to_string(), &[]) });
    scene.now(&both).says(&[]).servers("cljdoc", &["1", "2"]);
    let ports: Vec<u16> = scene.seen.endpoints.tcp["jmx-service"].iter().map(|endpoint| endpoint.port).collect();
    assert_eq!(ports, [1, 2]);
}

// What a catalog without mistakes gives: Traefik's semantics.

#[test]
fn a_service_without_tags_gets_the_default_router() {
    let mut scene = Scene::plain();
    scene.now(&[instance("lab-svc.x_1", "a", &[])]).serves(&["lab-svc-x-1: Host(`lab-svc-x-1`) -> lab-svc-x-1"]).says(&[]);
}

#[test]
fn a_service_with_middlewares_only_gets_the_default_router() {
    let tags = ["traefik.http.middlewares.m.addprefix.prefix=/x"];
    Scene::plain().one(&tags).serves(&["web: Host(`web`) -> web"]).says(&[]);
}

#[test]
fn a_router_without_rule_gets_the_default_one() {
    let mut scene =
        Scene::new(|consul, _| consul.default_rule = "Host(`{{ .Name }}.{{ index .Labels \"traefik.zone\" }}`)".to_owned());
    let tags = ["traefik.http.routers.r.entrypoints=web", "traefik.zone=test"];
    scene.one(&tags).serves(&["r: Host(`web.test`) -> web"]).says(&[]);
}

#[test]
fn a_default_rule_may_name_the_instance() {
    let mut scene = Scene::new(|consul, _| consul.default_rule = "Host(`{{ .ID }}.{{ .Datacenter }}`)".to_owned());
    scene.one(&[]).serves(&["web: Host(`a.dc1`) -> web"]);
}

#[test]
fn an_unreadable_default_rule_costs_only_who_needs_it() {
    let consul = ConsulCatalog { default_rule: "{{ if true }}".to_owned(), ..ConsulCatalog::default() };
    let (settings, problems) = TranslateSettings::new(&consul, &Own::default());
    assert_eq!(problems[0].to_string(), "providers.consulCatalog.defaultRule: `if` is not supported in a default rule");
    let mut scene = Scene { settings, memory: Memory::default(), seen: Provided::default() };
    scene.one(&[RULE_A]).serves(&["r: Host(`a`) -> web"]).says(&[]);
    scene.one(&[]).serves(&[]);
    assert_eq!(scene.seen.definitions.refused.len(), 1);
}

#[test]
fn tcp_only_tags_make_no_http() {
    let mut scene = Scene::plain();
    scene.one(&["traefik.tcp.routers.db.rule=HostSNI(`*`)", "traefik.tcp.services.db.loadbalancer.server.port=5432"]);
    scene.serves(&[]).says(&[]);
    assert!(scene.seen.definitions.services.is_empty());
    assert_eq!(scene.seen.definitions.tcp_routers["db"].service, "db");
    assert_eq!(scene.seen.endpoints.tcp["db"][0].url(), "10.0.0.1:5432");
}

#[test]
fn a_tcp_router_alone_leads_to_the_registered_port() {
    let mut scene = Scene::plain();
    scene.one(&["traefik.tcp.routers.db.rule=HostSNI(`*`)"]);
    assert_eq!(scene.seen.definitions.tcp_routers["db"].service, "web");
    assert_eq!(scene.seen.endpoints.tcp["web"][0].url(), "10.0.0.1:20097");
}

#[test]
fn the_server_may_be_somewhere_else() {
    let on = |tags: &[&str], url| {
        let tags: Vec<String> = tags.iter().map(|tag| format!("traefik.http.services.s.loadbalancer.server.{tag}")).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        Scene::plain().one(&tags).says(&[]).url("s", url);
    };
    on(&["port=9"], "http://10.0.0.1:9");
    on(&["scheme=h2c"], "h2c://10.0.0.1:20097");
    on(&["url=https://elsewhere:8443"], "https://elsewhere:8443");
    on(&["weight=7", "port=0"], "http://10.0.0.1:0");
}

#[test]
fn instances_that_agree_share_a_service_and_no_server_is_there_twice() {
    let url = "traefik.http.services.s.loadbalancer.server.url=http://one:1";
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "a", &[url]), instance("web", "b", &[url])]).servers("s", &["a"]);
    scene.now(&[instance("web", "b", &[]), instance("web", "a", &[])]).servers("web", &["a", "b"]).says(&[]);
}

#[test]
fn a_dead_instance_does_not_hide_the_one_that_took_its_port() {
    let dead = Instance { status: CheckStatus::Critical, port: 1, ..instance("web", "a", &[]) };
    let alive = Instance { port: 1, ..instance("web", "b", &[]) };
    Scene::plain().now(&[dead, alive]).servers("web", &["b"]);
}

#[test]
fn a_router_cannot_choose_between_two_services() {
    let tags =
        [RULE_A, "traefik.http.services.s.loadbalancer.server.port=1", "traefik.http.services.t.loadbalancer.server.port=2"];
    Scene::plain()
        .one(&tags)
        .serves(&[])
        .says(&["tags of instance a: router `r` is disabled: it names no service and there are several: s, t"]);
}

#[test]
fn only_enabled_instances_are_served_unless_all_are() {
    let mut scene = Scene::new(|consul, _| consul.exposed_by_default = false);
    scene.one(&[]).serves(&[]);
    scene.one(&["traefik.enable=true"]).serves(&["web: Host(`web`) -> web"]);
    Scene::plain().one(&["traefik.enable=false"]).serves(&[]).says(&[]);
}

#[test]
fn constraints_choose_instances() {
    let mut scene = Scene::new(|consul, _| consul.constraints = Some("Tag(`zone=public`) && !TagRegex(`^hid`)".to_owned()));
    scene.now(&[
        instance("web", "a", &["zone=public"]),
        instance("web", "b", &["zone=public", "hidden"]),
        instance("web", "c", &[]),
    ]);
    scene.servers("web", &["a"]);
}

#[test]
fn unreadable_constraints_expose_nobody_and_say_so() {
    let consul = ConsulCatalog { constraints: Some("Tag(a)".to_owned()), ..ConsulCatalog::default() };
    let (settings, problems) = TranslateSettings::new(&consul, &Own::default());
    assert_eq!(
        problems[0].to_string(),
        "providers.consulCatalog.constraints: a text in back quotes is wanted at `a)`; no instance satisfies it"
    );
    Scene { settings, memory: Memory::default(), seen: Provided::default() }.one(&[]).serves(&[]);
}

#[test]
fn another_prefix_is_just_another_word() {
    let mut scene = Scene::new(|consul, _| consul.prefix = "lb".to_owned());
    scene.one(&["lb.http.routers.r.rule=Host(`a`)", "traefik.http.routers.t.rule=Host(`b`)"]);
    scene.serves(&["r: Host(`a`) -> web"]).says(&[]);
}

#[test]
fn an_unfit_instance_is_kept_for_when_there_is_no_other() {
    let with = |id, status| Instance { status, ..instance("web", id, &[]) };
    let all = [
        with("a", CheckStatus::Passing),
        with("b", CheckStatus::Warning),
        with("c", CheckStatus::Critical),
        with("d", CheckStatus::Maintenance),
    ];
    Scene::plain().now(&all).servers("web", &["a", "b", "c?"]);
    Scene::new(|consul, _| consul.strict_checks = vec!["Passing".to_owned()]).now(&all).servers("web", &["a", "b?", "c?"]);
    Scene::new(|consul, _| consul.strict_checks = vec!["any".to_owned()]).now(&all).servers("web", &["a", "b", "c", "d"]);
}

#[test]
fn when_all_turn_critical_the_router_stays() {
    let mut scene = Scene::plain();
    scene.one(&[RULE_A]);
    let critical = Instance { status: CheckStatus::Critical, ..instance("web", "a", &[RULE_A]) };
    scene.now(&[critical]).serves(&["r: Host(`a`) -> web"]).servers("web", &["a?"]);
}

#[test]
fn when_the_last_instance_leaves_the_router_goes() {
    let mut scene = Scene::plain();
    scene.one(&[RULE_A]).now(&[]).serves(&[]).says(&[]);
}

#[test]
fn an_instance_without_address_is_named() {
    let lost = Instance { address: String::new(), ..instance("web", "a", &[]) };
    Scene::plain().now(&[lost]).servers("web", &[]).says(&["registration of instance a: the address is missing"]);
}

// Values and keys.

#[test]
fn compress_true_with_encodings_is_no_mistake() {
    let tags = ["traefik.http.middlewares.c.compress=true", "traefik.http.middlewares.c.compress.encodings=gzip"];
    let mut scene = Scene::plain();
    scene.one(&tags).says(&[]);
    let MiddlewareKind::Compress { encodings, .. } = &scene.seen.definitions.middlewares["c"].kind else { panic!() };
    assert_eq!(encodings, &["gzip"]);
}

#[test]
fn tls_false_drops_what_stands_below_it() {
    let with = |tls: &str| {
        let tls = format!("traefik.http.routers.r.tls={tls}");
        let mut scene = Scene::plain();
        scene.one(&[RULE_A, &tls, "traefik.http.routers.r.tls.certresolver=le"]).says(&[]);
        scene.seen.definitions.routers["r"].tls.clone().map(|tls| tls.resolver)
    };
    assert_eq!(with("false"), None);
    assert_eq!(with("maybe"), None);
    assert_eq!(with("True"), Some(Some("le".to_owned())));
    assert_eq!(with(""), Some(Some("le".to_owned())));
}

#[test]
fn domains_and_lists_are_read_as_traefik_does() {
    let mut scene = Scene::plain();
    scene.one(&[
        RULE_A,
        "traefik.http.routers.r.entrypoints=web , websecure",
        "traefik.http.routers.r.tls.domains[1].main=b",
        "traefik.http.routers.r.tls.domains[0].main=a",
        "traefik.http.routers.r.tls.domains[0].sans=x, y",
    ]);
    scene.says(&[]);
    let router = &scene.seen.definitions.routers["r"];
    assert_eq!(router.entrypoints, ["web", "websecure"]);
    let domains: Vec<(&str, usize)> =
        router.tls.iter().flat_map(|tls| &tls.domains).map(|domain| (domain.main.as_str(), domain.sans.len())).collect();
    assert_eq!(domains, [("a", 2), ("b", 0)]);
}

#[test]
fn a_bare_number_is_seconds() {
    let mut scene = Scene::plain();
    scene.one(&["traefik.http.services.s.loadbalancer.healthcheck.interval=15"]);
    let ServiceKind::LoadBalancer(balancer) = &scene.seen.definitions.services["s"].kind else { panic!() };
    assert_eq!(balancer.health_check.as_ref().map(|check| check.interval.as_secs()), Some(15));
}

// Mistakes.

#[test]
fn a_bad_tag_costs_only_what_it_defines() {
    let tags = ["traefik.http.routers.bad.rule=Host(`b`)", "traefik.http.routers.bad.entrypoint=web", RULE_A];
    let mut scene = Scene::plain();
    scene.one(&tags).serves(&["r: Host(`a`) -> web"]).servers("web", &["a"]).says(&[
        "tag `traefik.http.routers.bad.entrypoint=web` of instance a: unknown key `http.routers.bad.entrypoint` (did you mean `entryPoints`?)",
    ]);
    assert_eq!(scene.seen.definitions.refused[0].name, "bad");
}

#[test]
fn strict_tags_drop_the_instance_as_traefik_does() {
    let mut scene = Scene::new(|_, own| own.strict_tags = true);
    let tags = ["traefik.http.routers.bad.rule=Host(`b`)", "traefik.http.routers.bad.priority=high"];
    scene.now(&[instance("web", "a", &tags), instance("web", "b", &[])]).servers("web", &["b"]).says(&[
        "tag `traefik.http.routers.bad.priority=high` of instance a: `http.routers.bad.priority` is `high`, but wants a whole number",
        "tags of instance a: the instance is left out because of its tags, as Traefik does (consul.strictTags)",
    ]);
    // What cannot work, but is written well, does not count: Traefik disables the one object too.
    scene.one(&[RULE_A, "traefik.http.middlewares.m.redirectregex.regex=("]).servers("web", &["a"]);
}

#[test]
fn yes_is_no_truth_value() {
    Scene::plain()
        .one(&["traefik.enable=yes"])
        .serves(&[])
        .says(&["tag `traefik.enable=yes` of instance a: `enable` is `yes`, but wants `true` or `false`"]);
}

#[test]
fn weighted_services_are_for_files() {
    let mut scene = Scene::plain();
    scene.one(&["traefik.http.services.s.weighted.services[0].name=a"]).says(&[
        "tag `traefik.http.services.s.weighted.services[0].name=a` of instance a: `weighted` is for files only, in tags a service has a `loadBalancer`",
    ]);
}

#[test]
fn a_mistake_of_many_instances_is_said_once() {
    let typo = ["traefik.htpp.x=1"];
    let many = ["a", "b", "c"].map(|id| instance("web", id, &typo));
    Scene::plain().now(&many).says(&["tag `traefik.htpp.x=1` of instance a and 2 others: is ignored (did you mean `http`?)"]);
}

#[test]
fn a_middleware_that_waits_for_its_turn_is_refused_by_name() {
    let mut scene = Scene::plain();
    scene.one(&["traefik.http.middlewares.m.ratelimit.average=1", RULE_A]).serves(&["r: Host(`a`) -> web"]).says(&[
        "tag `traefik.http.middlewares.m.ratelimit.average=1` of instance a: middleware `m` is disabled: `rateLimit` is not supported yet",
    ]);
}

#[test]
fn connect_is_named_and_left_out() {
    Scene::plain().one(&["traefik.consulcatalog.connect=true"]).serves(&[]).says(&[
        "tag `traefik.consulcatalog.connect` of instance a: Consul Connect is not supported yet, the instance is left out",
    ]);
}

// Instances that disagree.

#[test]
fn a_canary_with_another_tag_does_not_disturb_what_serves() {
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "m", &[RULE_A])]).serves(&["r: Host(`a`) -> web"]);
    // It would win a tie by its id.
    scene.now(&[instance("web", "m", &[RULE_A]), instance("web", "c", &[RULE_B])]);
    scene.serves(&["r: Host(`a`) -> web"]).servers("web", &["c", "m"]).says(&[
        "the catalog: router `r` of instance c differs from the one that serves, of instance m: `rule` is `Host(`b`)` instead of `Host(`a`)`; it waits until those are gone",
    ]);
    // Promotion: the older instance leaves.
    scene.now(&[instance("web", "c", &[RULE_B])]).serves(&["r: Host(`b`) -> web"]).says(&[]);
}

#[test]
fn what_serves_goes_on_even_against_the_majority() {
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "a", &[RULE_A])]);
    let newer = ["b", "c", "d"].map(|id| instance("web", id, &[RULE_B]));
    let mut all = newer.to_vec();
    all.push(instance("web", "a", &[RULE_A]));
    scene.now(&all).serves(&["r: Host(`a`) -> web"]);
    assert!(scene.seen.problems[0].message.contains("of instance b and 2 others differs"), "{:?}", scene.seen.problems);
    scene.now(&newer).serves(&["r: Host(`b`) -> web"]);
}

#[test]
fn at_first_sight_the_majority_decides_and_then_the_lowest_id() {
    let [a, b, c] = [("a", RULE_A), ("b", RULE_B), ("c", RULE_B)].map(|(id, rule)| instance("web", id, &[rule]));
    Scene::plain().now(&[c.clone(), b.clone(), a.clone()]).serves(&["r: Host(`b`) -> web"]);
    Scene::plain().now(&[b, a]).serves(&["r: Host(`a`) -> web"]);
}

#[test]
fn at_first_sight_a_canary_or_an_unfit_instance_does_not_decide() {
    let canary = |id| instance("web", id, &[RULE_B, "canary"]);
    let stable = instance("web", "s", &[RULE_A]);
    Scene::plain().now(&[canary("a"), canary("b"), stable.clone()]).serves(&["r: Host(`a`) -> web"]);
    let unfit = Instance { status: CheckStatus::Critical, ..instance("web", "a", &[RULE_B]) };
    Scene::plain().now(&[unfit, stable]).serves(&["r: Host(`a`) -> web"]);
}

#[test]
fn a_canary_with_another_middleware_or_service_option_waits() {
    let gzip = "traefik.http.middlewares.c.compress.encodings=gzip";
    let br = "traefik.http.middlewares.c.compress.encodings=br";
    let check = "traefik.http.services.web.loadbalancer.healthcheck.path=/ok";
    let port = "traefik.http.services.web.loadbalancer.server.port=9";
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "m", &[gzip, port])]);
    scene.now(&[instance("web", "m", &[gzip, port]), instance("web", "n", &[br, check])]);
    let MiddlewareKind::Compress { encodings, .. } = &scene.seen.definitions.middlewares["c"].kind else { panic!() };
    assert_eq!(encodings, &["gzip"]);
    scene.servers("web", &["m", "n"]).says(&[
        "the catalog: service `web` of instance n differs from the one that serves, of instance m: `loadbalancer.healthcheck.path` is `/ok` and was not set; it waits until those are gone",
        "the catalog: middleware `c` of instance n differs from the one that serves, of instance m: `compress.encodings` is `br` instead of `gzip`; it waits until those are gone",
    ]);
}

#[test]
fn a_canary_with_a_broken_router_leaves_stables_alone() {
    let broken = "traefik.http.routers.r.priority=high";
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "a", &[RULE_A])]);
    scene.now(&[instance("web", "a", &[RULE_A]), instance("web", "b", &[RULE_A, broken])]);
    scene.serves(&["r: Host(`a`) -> web"]).servers("web", &["a", "b"]);
    assert_eq!(scene.seen.definitions.refused, []);
    assert_eq!(scene.seen.problems.len(), 1);
}

#[test]
fn enable_false_on_a_canary_takes_out_the_canary_only() {
    let mut scene = Scene::new(|consul, _| consul.exposed_by_default = false);
    let stable = instance("web", "a", &["traefik.enable=true", RULE_A]);
    scene.now(std::slice::from_ref(&stable));
    scene.now(&[stable, instance("web", "b", &["traefik.enable=false"])]);
    scene.serves(&["r: Host(`a`) -> web"]).servers("web", &["a"]).says(&[]);
}

/// Traefik asks Consul for the tag, and Consul compares texts.
#[test]
fn what_enables_is_looked_for_as_a_text() {
    let enabled_by = |tag: &str| {
        let mut scene = Scene::new(|consul, _| consul.exposed_by_default = false);
        scene.now(&[instance("web", "a", &[tag])]);
        scene.seen.endpoints.http.contains_key("web")
    };
    assert!(enabled_by("traefik.enable=true") && enabled_by("traefik.ENABLE=TRUE"));
    assert!(!enabled_by("traefik.enable=T") && !enabled_by("traefik.enable=1"));
}

#[test]
fn changed_tags_of_the_only_instance_count_at_once() {
    let mut scene = Scene::plain();
    scene.one(&[RULE_A]).one(&[RULE_B]).serves(&["r: Host(`b`) -> web"]).says(&[]);
}

#[test]
fn two_services_may_declare_the_same_middleware() {
    let tags = ["traefik.http.middlewares.m.addprefix.prefix=/x"];
    let mut scene = Scene::plain();
    scene.now(&[instance("one", "a", &tags), instance("two", "b", &tags)]).says(&[]);
    assert_eq!(scene.seen.definitions.middlewares["m"].at.to_string(), "tags of service `one` and 1 more");
}

#[test]
fn two_services_that_mean_different_things_by_one_name_do_not_mix() {
    let mut scene = Scene::plain();
    let service = "traefik.http.services.s.loadbalancer.server.port=1";
    let other = "traefik.http.services.s.loadbalancer.passhostheader=false";
    scene.now(&[instance("one", "a", &[RULE_A, service])]);
    scene.now(&[instance("one", "a", &[RULE_A, service]), instance("two", "b", &[RULE_B, other])]);
    scene.serves(&["r: Host(`a`) -> s"]).servers("s", &["a"]);
    assert_eq!(scene.seen.problems.len(), 2);
}

#[test]
fn a_router_that_differs_only_in_its_implied_service_says_that() {
    let mut scene = Scene::plain();
    scene.now(&[instance("one", "a", &[RULE_A]), instance("two", "b", &[RULE_A])]).says(&[
        "the catalog: router `r` of instance b differs from the one that serves, of instance a: `service` is `two` instead of `one`; it waits until those are gone",
    ]);
    scene.serves(&["r: Host(`a`) -> one"]);
}

#[test]
fn nothing_changes_where_nothing_changed() {
    let mut scene = Scene::plain();
    let all = [instance("web", "a", &[RULE_A]), instance("web", "b", &[RULE_B])];
    let before = scene.now(&all).seen.clone();
    assert_eq!(scene.now(&all).seen, before);
    let turned = [all[1].clone(), all[0].clone()];
    assert_eq!(scene.now(&turned).seen, before);
}

// Canaries and their own settings.

#[test]
fn a_router_that_only_a_canary_declares_leads_to_the_canary() {
    let canary = |id| instance("web", id, &["canary=true", "traefik.http.routers.preview.rule=Host(`preview`)"]);
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "a", &[RULE_A]), canary("b")]);
    scene.serves(&["preview: Host(`preview`) -> web-canary", "r: Host(`a`) -> web"]).says(&[]);
    scene.servers("web", &["a", "b"]).servers("web-canary", &["b"]);
    // Once there is nobody else, it needs no service of its own.
    scene.now(&[canary("b")]).serves(&["preview: Host(`preview`) -> web"]).servers("web", &["b"]);
}

#[test]
fn whoever_calls_itself_canary_is_one() {
    let track = |change: fn(&mut Own), tags: &[&str], meta: &[(&str, &str)]| {
        let mut scene = Scene::new(|_, own| change(own));
        let meta = meta.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        scene.now(&[Instance { meta, ..instance("web", "a", tags) }]);
        let endpoint = &scene.seen.endpoints.http["web"][0];
        (endpoint.track, endpoint.version.clone())
    };
    let (by_default, canary) = (|_: &mut Own| {}, (Some(Track::Canary), None));
    assert_eq!(track(by_default, &[], &[("external-source", "nomad")]), (None, None));
    assert_eq!(track(by_default, &["canary"], &[]), canary);
    assert_eq!(track(by_default, &["canary=true"], &[]), canary);
    assert_eq!(track(by_default, &["canary=false"], &[]), (None, None));
    assert_eq!(track(by_default, &["traefik.consulcatalog.canary=true"], &[]), canary);
    assert_eq!(track(by_default, &[], &[("canary", "true")]), canary);
    let by_tag = |own: &mut Own| own.rollout.track_tag = Some("release".to_owned());
    assert_eq!(track(by_tag, &["release=v7"], &[]), (None, Some("v7".to_owned())));
    assert_eq!(track(by_tag, &["release=stable"], &[]), (Some(Track::Stable), Some("stable".to_owned())));
    let by_meta = |own: &mut Own| own.rollout.track_meta = Some("sha".to_owned());
    assert_eq!(track(by_meta, &[], &[("sha", "ab12")]), (None, Some("ab12".to_owned())));
}

#[test]
fn a_job_says_how_it_is_rolled_out_and_its_canary_does_not() {
    let mut scene = Scene::plain();
    scene.now(&[instance("web", "a", &["tidegate.rollout.warmUp=90s"])]);
    scene.now(&[instance("web", "a", &["tidegate.rollout.warmUp=90s"]), instance("web", "b", &["tidegate.rollout.warmUp=0s"])]);
    let ServiceKind::LoadBalancer(balancer) = &scene.seen.definitions.services["web"].kind else { panic!() };
    assert_eq!(balancer.rollout, BTreeMap::from([("warmup".to_owned(), "90s".to_owned())]));
    assert!(scene.seen.problems[0].message.contains("`tidegate.rollout` differs"), "{:?}", scene.seen.problems);
}
