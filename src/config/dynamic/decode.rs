//! From the tree to typed definitions: one decoder for files and for tags.
//!
//! A bad object costs only itself: it becomes a [`Refused`] with its reason and a problem, all else stands. What Traefik
//! knows and we do not yet is refused or ignored by name, never silently; an unknown key refuses the object it stands in.

use std::collections::BTreeMap;

use super::server::{Location, ServerTemplate};
use super::{Definitions, Endpoint, Endpoints, Kind, Provided, Refused};
use super::{middleware, router, service, tcp, tls};
use crate::config::node::{Children, Entry, Fields, Node};
use crate::config::problem::{At, Problem, Problems, Severity, has_error, nearest};

/// What one list of tags defines, before anything is known of the instance that carries it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Labelled {
    /// Routers may lack a rule and a service: the catalog fills in the default rule and the instance's only service.
    pub definitions: Definitions,
    /// Where the instance's server is, by name in `http.services`.
    pub http: BTreeMap<String, ServerTemplate>,
    /// Where the instance's server is, by name in `tcp.services`.
    pub tcp: BTreeMap<String, ServerTemplate>,
    /// What could not be used, and why.
    pub problems: Problems,
    /// Whether Traefik would drop the whole instance for one of these mistakes (`consul.strictTags`).
    pub is_malformed: bool,
}

/// Reads a whole file of dynamic configuration.
pub fn file(node: &Node) -> Provided {
    let mut decoder = Decoder::new(Source::File);
    let mut fields = Fields::new("", node);
    decoder.sections(&mut fields);
    for entry in fields.unknown() {
        let message = format!("unknown section `{}` is ignored, as Traefik does", entry.key);
        let problem = Problem::warning(&entry.key_at, message);
        decoder.problems.push(match nearest(&entry.key, ["http", "tcp", "udp", "tls"]) {
            Some(known) => problem.hint(format!("did you mean `{known}`?")),
            None => problem.hint("known here: http, tcp, udp, tls"),
        });
    }
    Provided { definitions: decoder.definitions, endpoints: decoder.endpoints, problems: decoder.problems }
}

/// Reads the tree of [`super::labels::parse`]. Its definitions carry no place, since many instances declare the same ones.
pub fn labels(tree: &Node) -> Labelled {
    let mut decoder = Decoder::new(Source::Labels);
    decoder.sections(&mut Fields::new("", tree));
    Labelled {
        definitions: decoder.definitions,
        http: decoder.templates_http,
        tcp: decoder.templates_tcp,
        problems: decoder.problems,
        is_malformed: decoder.is_malformed,
    }
}

/// Who wrote what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Several servers a service, every router complete.
    File,
    /// One server a service, and what is left out is filled in later.
    Labels,
}

/// What has been read so far.
pub(super) struct Decoder {
    pub(super) source: Source,
    pub(super) definitions: Definitions,
    pub(super) endpoints: Endpoints,
    pub(super) templates_http: BTreeMap<String, ServerTemplate>,
    pub(super) templates_tcp: BTreeMap<String, ServerTemplate>,
    pub(super) problems: Problems,
    is_malformed: bool,
}

/// Why a well-formed object cannot be used, in one sentence.
pub(super) type Unusable = String;

/// The servers that stand in a service: many in a file, one template in tags.
#[derive(Default)]
pub(super) struct Servers {
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) template: Option<ServerTemplate>,
}

impl Decoder {
    fn new(source: Source) -> Self {
        Self {
            source,
            definitions: Definitions::default(),
            endpoints: Endpoints::default(),
            templates_http: BTreeMap::new(),
            templates_tcp: BTreeMap::new(),
            problems: Vec::new(),
            is_malformed: false,
        }
    }

    fn sections(&mut self, fields: &mut Fields<'_>) {
        if let Some(http) = self.section(fields, "http") {
            self.http(http);
        }
        if let Some(tcp) = self.section(fields, "tcp") {
            tcp::read(self, tcp);
        }
        if let Some(udp) = self.section(fields, "udp") {
            tcp::read_udp(self, udp);
        }
        if let Some(section) = self.section(fields, "tls") {
            tls::read(self, section);
        }
    }

    fn http(&mut self, mut fields: Fields<'_>) {
        for (entry, path) in self.named(&mut fields, "routers") {
            let source = self.source;
            let read = |fields: &mut Fields<'_>, problems: &mut Problems| router::read(fields, source, problems);
            if let Some(mut router) = self.object(Kind::Router, entry, path, read) {
                router.at = self.place(entry);
                self.definitions.routers.insert(entry.key.clone(), router);
            }
        }
        for (entry, path) in self.named(&mut fields, "services") {
            service::read_entry(self, entry, path);
        }
        for (entry, path) in self.named(&mut fields, "middlewares") {
            if let Some(kind) = self.object(Kind::Middleware, entry, path, middleware::read) {
                let at = self.place(entry);
                self.definitions.middlewares.insert(entry.key.clone(), super::Middleware { kind, at });
            }
        }
        for (entry, path) in self.named(&mut fields, "serversTransports") {
            if let Some(transport) = self.nameless("servers transport", entry, path, service::read_transport) {
                self.definitions.servers_transports.insert(entry.key.clone(), transport);
            }
        }
        self.finish(fields);
    }

    /// A section of the top level; null is the same as not there.
    fn section<'n>(&mut self, fields: &mut Fields<'n>, key: &'static str) -> Option<Fields<'n>> {
        let mut problems = Vec::new();
        let section = block(fields, key, &mut problems);
        self.shape(problems);
        section
    }

    /// The named objects below a key, with their paths. What is null is not there.
    pub(super) fn named<'n>(&mut self, fields: &mut Fields<'n>, key: &'static str) -> Vec<(&'n Entry, String)> {
        let path = fields.path(key);
        let mut problems = Vec::new();
        let entries = block(fields, key, &mut problems).map(|fields| fields.node().entries()).unwrap_or_default();
        self.shape(problems);
        entries.iter().filter(|entry| !entry.node.is_empty()).map(|entry| (entry, format!("{path}.{}", entry.key))).collect()
    }

    /// Where a definition says it was declared.
    pub(super) fn place(&self, entry: &Entry) -> At {
        match self.source {
            Source::File => entry.key_at.clone(),
            Source::Labels => At::default(),
        }
    }

    /// Reads one object; an unusable one is refused with its reason.
    pub(super) fn object<T>(
        &mut self,
        kind: Kind,
        entry: &Entry,
        path: String,
        read: impl FnOnce(&mut Fields<'_>, &mut Problems) -> Result<T, Unusable>,
    ) -> Option<T> {
        match self.read(&kind.to_string(), entry, path, read) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.definitions.refused.push(Refused { kind, name: entry.key.clone(), reason });
                None
            }
        }
    }

    /// Reads one object of a kind that the API does not list; an unusable one is only a problem.
    pub(super) fn nameless<T>(
        &mut self,
        noun: &str,
        entry: &Entry,
        path: String,
        read: impl FnOnce(&mut Fields<'_>, &mut Problems) -> Result<T, Unusable>,
    ) -> Option<T> {
        self.read(noun, entry, path, read).ok()
    }

    fn read<T>(
        &mut self,
        noun: &str,
        entry: &Entry,
        path: String,
        read: impl FnOnce(&mut Fields<'_>, &mut Problems) -> Result<T, Unusable>,
    ) -> Result<T, Unusable> {
        let mut problems = Vec::new();
        let mut fields = Fields::new(path, &entry.node);
        if !matches!(entry.node.children, Children::Map(_)) {
            problems.push(Problem::error(&entry.node.at, format!("{noun} `{}` wants keys below it", entry.key)));
        }
        let result = read(&mut fields, &mut problems);
        fields.finish(&mut problems);
        let malformed = problems.iter().find(|problem| problem.severity == Severity::Error).map(reason);
        self.shape(problems);
        // A value that could not be read may be why it looks unusable: the first mistake is the one to show.
        if let Some(malformed) = malformed {
            return Err(malformed);
        }
        if let Err(unusable) = &result {
            let message = format!("{noun} `{}` is disabled: {unusable}", entry.key);
            self.problems.push(Problem::error(&entry.key_at, message));
        }
        result
    }

    /// Ends a section: what nobody asked for is an error of its own, and refuses nothing else.
    pub(super) fn finish(&mut self, fields: Fields<'_>) {
        let mut problems = Vec::new();
        let strays: Vec<&Entry> = fields.unknown().filter(|entry| is_section(&entry.key)).collect();
        for entry in &strays {
            let problem = Problem::error(&entry.key_at, format!("`{}` stands too deep", fields.path(&entry.key)));
            problems.push(problem.hint(format!("`{}` belongs to the top level", entry.key)));
        }
        if strays.is_empty() {
            fields.finish(&mut problems);
        }
        self.shape(problems);
    }

    /// Takes problems of shape: those for which Traefik gives up the whole source.
    pub(super) fn shape(&mut self, problems: Problems) {
        self.is_malformed |= has_error(&problems);
        self.problems.extend(problems);
    }
}

/// Whether it is a section of the top level; people write `tls` below `http`.
fn is_section(key: &str) -> bool {
    ["http", "tcp", "udp", "tls"].iter().any(|section| section.eq_ignore_ascii_case(key))
}

/// A problem without its place, as the reason of a refusal.
fn reason(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{} ({hint})", problem.message),
        None => problem.message.clone(),
    }
}

/// A key that wants keys below it; standing alone it is an error, as in Traefik. Null is the same as not there.
pub(super) fn block<'n>(fields: &mut Fields<'n>, key: &'static str, problems: &mut Problems) -> Option<Fields<'n>> {
    let path = fields.path(key);
    let child = fields.child(key)?;
    let node = child.node();
    match &node.children {
        Children::Map(_) => Some(child),
        Children::None if node.scalar.is_none() => None,
        Children::None | Children::List(_) => {
            problems.push(Problem::error(&node.at, format!("`{path}` wants keys below it and cannot stand alone")));
            None
        }
    }
}

/// A key that is switched on by standing there or by `true`, with or without keys below it; any other value switches it off
/// with all that stands below it.
pub(super) fn switch<'n>(fields: &mut Fields<'n>, key: &'static str) -> Option<Fields<'n>> {
    let child = fields.child(key)?;
    let node = child.node();
    let is_off = node.scalar.as_ref().is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case("true"));
    (!is_off && !node.is_empty()).then_some(child)
}

/// A key that wants a list of things with keys below them.
pub(super) fn items<'n>(fields: &mut Fields<'n>, key: &'static str, problems: &mut Problems) -> Vec<Fields<'n>> {
    let path = fields.path(key);
    match fields.get(key) {
        Some(node) if !node.is_empty() && !matches!(node.children, Children::List(_)) => {
            let how = if node.is_text { format!("write `{path}[0].…`") } else { "write `- …` lines".to_owned() };
            problems.push(Problem::error(&node.at, format!("`{path}` wants a list")).hint(how));
            Vec::new()
        }
        Some(_) | None => fields.items(key),
    }
}

/// Where a key's value was written; where the block was, if the key is not there.
pub(super) fn place_of<'n>(fields: &Fields<'n>, key: &str) -> &'n At {
    let node = fields.node();
    &node.get(key).unwrap_or(node).at
}

/// A key whose value maps names to texts, such as headers.
pub(super) fn texts(fields: &mut Fields<'_>, key: &'static str, problems: &mut Problems) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let Some(block) = block(fields, key, problems) else { return texts };
    for entry in block.node().entries() {
        if let Some(text) = entry.node.string(&block.path(&entry.key), problems) {
            texts.insert(entry.key.clone(), text);
        }
    }
    texts
}

/// Keys that Traefik knows and we do not yet, and whose absence only makes things less fine: each is ignored by name.
pub(super) fn ignore(fields: &mut Fields<'_>, keys: &[&'static str], problems: &mut Problems) {
    for key in keys {
        let path = fields.path(key);
        if let Some(node) = fields.get(key).filter(|node| !node.is_empty()) {
            problems.push(Problem::warning(&node.at, format!("`{path}` is not supported yet and is ignored")));
        }
    }
}

/// The first of the keys that asks for something, if one does. For what must not be ignored, since it protects somebody.
pub(super) fn asked(fields: &mut Fields<'_>, keys: &[&'static str]) -> Option<String> {
    let mut found = None;
    for key in keys {
        let path = fields.path(key);
        let is_asked = fields.get(key).is_some_and(|node| match (&node.children, node.scalar.as_deref()) {
            (Children::None, None | Some("" | "false" | "False" | "FALSE" | "f" | "F" | "0")) => false,
            (Children::None, Some(_)) => true,
            (Children::List(items), _) => !items.is_empty(),
            (Children::Map(entries), _) => !entries.is_empty(),
        });
        if is_asked && found.is_none() {
            found = Some(path);
        }
    }
    found
}

impl Servers {
    /// One server of a file.
    pub(super) fn push(&mut self, location: Location, weight: u32, preserve_path: bool) {
        self.endpoints.push(location.endpoint(weight, preserve_path));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::dynamic::{MiddlewareKind, ServiceKind, Strategy, TlsVersion};

    /// A file as its reader hands it over.
    fn tree(value: &Value) -> Node {
        let mut node = Node { at: At { source: "f.yaml".into(), line: 1, column: 1 }, ..Node::default() };
        match value {
            Value::Null => {}
            Value::String(text) => node.scalar = Some(text.clone()),
            Value::Array(items) => node.children = Children::List(items.iter().map(tree).collect()),
            Value::Object(map) => {
                let entry = |(key, value): (&String, &Value)| {
                    let node = tree(value);
                    Entry { key: key.clone(), key_at: node.at.clone(), node }
                };
                node.children = Children::Map(map.iter().map(entry).collect());
            }
            Value::Bool(_) | Value::Number(_) => node.scalar = Some(value.to_string()),
        }
        node
    }

    #[track_caller]
    fn check(value: Value, problems: &[&str]) -> Provided {
        let provided = file(&tree(&value));
        let found: Vec<String> =
            provided.problems.iter().map(|problem| problem.to_string().replace("f.yaml:1:1: ", "")).collect();
        assert_eq!(found, problems);
        provided
    }

    #[track_caller]
    fn check_middleware(value: Value, refused: Option<&str>) -> Option<MiddlewareKind> {
        let mut provided = file(&tree(&json!({ "http": { "middlewares": { "m": value } } })));
        let reasons: Vec<&str> = provided.definitions.refused.iter().map(|refused| refused.reason.as_str()).collect();
        assert_eq!(reasons.first().copied(), refused);
        assert_eq!(refused.is_some(), has_error(&provided.problems), "{:?}", provided.problems);
        provided.definitions.middlewares.remove("m").map(|middleware| middleware.kind)
    }

    #[test]
    fn a_plain_file_is_read_whole() {
        let provided = check(
            json!({ "http": {
                "routers": { "r": { "rule": "Host(`a`)", "service": "s", "entryPoints": ["web"], "priority": 7, "tls": {} } },
                "services": { "s": { "loadBalancer": { "strategy": "p2c", "passHostHeader": false, "servers": [
                    { "url": "http://10.0.0.1:8080", "weight": 3 }, { "url": "https://b/base", "preservePath": true },
                ] } } },
            } }),
            &[],
        );
        let router = &provided.definitions.routers["r"];
        assert_eq!((router.priority, router.entrypoints.as_slice()), (7, ["web".to_owned()].as_slice()));
        assert!(router.tls.is_some() && router.access_logs && router.metrics);
        let ServiceKind::LoadBalancer(balancer) = &provided.definitions.services["s"].kind else { panic!() };
        assert_eq!((balancer.strategy, balancer.pass_host_header), (Strategy::P2c, false));
        let urls: Vec<(String, u32)> =
            provided.endpoints.http["s"].iter().map(|endpoint| (endpoint.url(), endpoint.weight)).collect();
        assert_eq!(urls, [("http://10.0.0.1:8080".to_owned(), 3), ("https://b:443/base".to_owned(), 1)]);
    }

    #[test]
    fn a_bad_object_costs_only_itself() {
        let provided = check(
            json!({ "http": {
                "routers": {
                    "good": { "rule": "Path(`/`)", "service": "s" },
                    "typo": { "rule": "Path(`/`)", "service": "s", "entrypoint": ["web"] },
                    "number": { "rule": "Path(`/`)", "service": "s", "priority": "high" },
                    "bare": { "rule": "Path(`/`)" },
                    "ruleless": { "service": "s" },
                    "eager": { "rule": "Path(`/`)", "service": "s", "priority": 9_223_372_036_854_775_000_i64 },
                    "old": { "rule": "Host:a", "service": "s", "ruleSyntax": "v2" },
                    "scalar": "web",
                    "nothing": null,
                },
            } }),
            &[
                "unknown key `http.routers.typo.entrypoint` (did you mean `entryPoints`?)",
                "`http.routers.number.priority` is `high`, but wants a whole number",
                "router `bare` is disabled: it names no service",
                "router `ruleless` is disabled: it has no rule",
                "router `eager` is disabled: its priority 9223372036854775000 is above the highest allowed, 9223372036854774807",
                "router `old` is disabled: rules in the syntax `v2` are not supported, only `v3` is",
                "router `scalar` wants keys below it",
            ],
        );
        assert_eq!(provided.definitions.routers.keys().collect::<Vec<_>>(), ["good"]);
        let refused: Vec<&str> = provided.definitions.refused.iter().map(|refused| refused.name.as_str()).collect();
        assert_eq!(refused, ["typo", "number", "bare", "ruleless", "eager", "old", "scalar"]);
        assert_eq!(
            provided.definitions.refused[0].reason,
            "unknown key `http.routers.typo.entrypoint` (did you mean `entryPoints`?)"
        );
    }

    #[test]
    fn sections_in_the_wrong_place_are_named() {
        check(
            json!({ "htpp": {}, "entryPoints": {}, "http": { "tls": { "options": {} }, "routers": {} } }),
            &[
                "`http.tls` stands too deep (`tls` belongs to the top level)",
                "unknown section `htpp` is ignored, as Traefik does (did you mean `http`?)",
                "unknown section `entryPoints` is ignored, as Traefik does (known here: http, tcp, udp, tls)",
            ],
        );
        check(json!({ "http": { "router": {} } }), &["unknown key `http.router` (did you mean `routers`?)"]);
        check(json!({ "http": "yes" }), &["`http` wants keys below it and cannot stand alone"]);
        check(json!({ "http": null }), &[]);
    }

    #[test]
    fn a_service_of_another_kind_says_so() {
        let provided = check(
            json!({ "http": { "services": {
                "w": { "weighted": { "services": [{ "name": "a", "weight": 3 }, { "name": "b" }] } },
                "m": { "mirroring": { "service": "a", "mirors": [] } },
                "f": { "failover": { "service": "a", "fallback": "b" } },
                "e": {},
                "two": { "weighted": { "services": [{ "name": "a" }] }, "loadBalancer": { "servers": [] } },
                "s": { "loadBalancer": { "strategy": "random" } },
            } } }),
            &[
                "unknown key `http.services.m.mirroring.mirors` (did you mean `mirrors`?)",
                "service `f` is disabled: `failover` is not supported yet",
                "service `e` is disabled: it is of no kind, a `loadBalancer` for example",
                "service `two` is disabled: it is of several kinds at once",
                "service `s` is disabled: its strategy is `random`, but `wrr` or `p2c` is wanted",
            ],
        );
        let weighted = ServiceKind::Weighted(vec![("a".to_owned(), 3), ("b".to_owned(), 1)]);
        assert_eq!(provided.definitions.services["w"].kind, weighted);
    }

    #[test]
    fn a_bad_server_leaves_the_others() {
        let servers = json!([{ "url": "10.0.0.1:80" }, { "url": "http://b:1" }, { "weight": 2 }]);
        let provided = check(
            json!({ "http": { "services": { "s": { "loadBalancer": { "servers": servers } } } } }),
            &[
                "`http.services.s.loadBalancer.servers[0].url`: `10.0.0.1:80` is no URL such as `http://10.0.0.1:8080`; the server is left out",
                "`http.services.s.loadBalancer.servers[2].url` is missing, the server is left out",
            ],
        );
        assert_eq!(provided.endpoints.http["s"].len(), 1);
        check(
            json!({ "http": { "services": { "s": { "loadBalancer": { "servers": "http://a" } } } } }),
            &["`http.services.s.loadBalancer.servers` wants a list (write `- …` lines)"],
        );
    }

    #[test]
    fn a_health_check_has_traefiks_defaults() {
        let health = json!({ "path": "/ok", "interval": "0s", "headers": { "X-A": "1" } });
        let provided = check(json!({ "http": { "services": { "s": { "loadBalancer": { "healthCheck": health } } } } }), &[]);
        insta::assert_debug_snapshot!(provided.definitions.services["s"].kind, @r#"
        LoadBalancer(
            LoadBalancer {
                strategy: Wrr,
                pass_host_header: true,
                servers_transport: None,
                health_check: Some(
                    HealthCheck {
                        path: "/ok",
                        scheme: None,
                        method: "GET",
                        status: None,
                        port: None,
                        interval: 30s,
                        unhealthy_interval: None,
                        timeout: 5s,
                        hostname: None,
                        follow_redirects: true,
                        headers: {
                            "X-A": "1",
                        },
                    },
                ),
                rollout: {},
            },
        )
        "#);
    }

    #[test]
    fn what_is_less_fine_is_ignored_by_name() {
        check(
            json!({ "http": { "services": { "s": { "loadBalancer": {
                "sticky": { "cookie": { "name": "a", "secur": true } },
                "strategy": "hrw",
                "responseForwarding": { "flushInterval": "1ms" },
            } } } } }),
            &[
                "strategy `hrw` is not supported yet, `wrr` takes its place",
                "unknown key `http.services.s.loadBalancer.sticky.cookie.secur` (did you mean `secure`?)",
                "`sticky` is not supported yet, clients are not kept on their server",
            ],
        );
    }

    #[test]
    fn compress_has_traefiks_defaults_and_limits() {
        let all = MiddlewareKind::Compress {
            encodings: vec!["gzip".to_owned(), "br".to_owned(), "zstd".to_owned()],
            body_bytes_min: 1024,
            excluded: vec![],
            included: vec![],
            default_encoding: None,
        };
        assert_eq!(check_middleware(json!({ "compress": {} }), None), Some(all.clone()));
        assert_eq!(check_middleware(json!({ "compress": true }), None), Some(all));
        check_middleware(json!({ "compress": false }), Some("it is of no kind"));
        check_middleware(
            json!({ "compress": { "excludedContentTypes": ["a/b"], "includedContentTypes": ["c/d"] } }),
            Some("`compress` has both `excludedContentTypes` and `includedContentTypes`"),
        );
        check_middleware(
            json!({ "compress": { "encodings": ["lzma"] } }),
            Some("`compress.encodings` has `lzma`, but wants gzip, br, zstd"),
        );
    }

    #[test]
    fn a_middleware_that_cannot_work_is_refused() {
        check_middleware(json!({ "redirectScheme": { "permanent": true } }), Some("`redirectScheme` has no scheme"));
        check_middleware(
            json!({ "redirectScheme": true }),
            Some("`http.middlewares.m.redirectScheme` wants keys below it and cannot stand alone"),
        );
        check_middleware(json!({ "redirectRegex": { "replacement": "a" } }), Some("`redirectRegex` has no regex"));
        check_middleware(
            json!({ "redirectRegex": { "regex": "a(", "replacement": "a" } }),
            Some("`redirectRegex.regex` cannot be read: unclosed group"),
        );
        check_middleware(json!({ "basicAuth": { "realm": "a" } }), Some("`basicAuth` has no users"));
        check_middleware(json!({ "basicAuth": { "users": ["a"] } }), Some("user 1 of `basicAuth` is not `name:hash`"));
        check_middleware(json!({ "addPrefix": { "prefix": "" } }), Some("`addPrefix` has no prefix"));
        check_middleware(json!({ "rateLimit": { "average": 1 } }), Some("`rateLimit` is not supported yet"));
        check_middleware(
            json!({ "rateLimit": { "averge": 1 } }),
            Some("unknown key `http.middlewares.m.rateLimit.averge` (did you mean `average`?)"),
        );
        check_middleware(
            json!({ "redirectSheme": { "scheme": "a" } }),
            Some("unknown key `http.middlewares.m.redirectSheme` (did you mean `redirectScheme`?)"),
        );
        check_middleware(
            json!({ "chain": { "middlewares": [] }, "addPrefix": { "prefix": "/a" } }),
            Some("it is of several kinds at once, which wants several middlewares and a `chain`"),
        );
    }

    #[test]
    fn a_header_that_protects_somebody_is_not_left_out_silently() {
        let custom = check_middleware(
            json!({ "headers": { "customResponseHeaders": { "X-A": "1", "Server": "" }, "frameDeny": false, "stsSeconds": 0 } }),
            None,
        );
        let response = BTreeMap::from([("X-A".to_owned(), "1".to_owned()), ("Server".to_owned(), String::new())]);
        assert_eq!(custom, Some(MiddlewareKind::Headers { request: BTreeMap::new(), response }));
        let reason = "`http.middlewares.m.headers.frameDeny` is not supported yet";
        check_middleware(json!({ "headers": { "frameDeny": true } }), Some(reason));
    }

    #[test]
    fn doubled_dollars_get_a_word() {
        check(
            json!({ "http": { "middlewares": { "a": { "basicAuth": { "users": ["u:$$apr1$$x"] } } } } }),
            &[
                "the hash of user `u` starts with `$$`, so that no password fits it (compose files double `$`, tags and files do not)",
            ],
        );
    }

    #[test]
    fn tcp_and_udp_are_read_as_far_as_they_go() {
        let provided = check(
            json!({
                "tcp": {
                    "routers": { "r": { "rule": "HostSNI(`*`)", "service": "s", "tls": { "passthrough": true } } },
                    "services": {
                        "s": { "loadBalancer": { "servers": [{ "address": "a:1", "tls": true }, { "address": "a" }] } },
                        "p": { "loadBalancer": { "proxyProtocol": { "version": 2 } } },
                    },
                    "middlewares": { "m": { "ipAllowList": { "sourceRange": ["10.0.0.0/8"] } } },
                },
                "udp": { "routers": { "u": { "servise": "s" } } },
            }),
            &[
                "`tcp.services.s.loadBalancer.servers[1].address`: `a` is no address such as `10.0.0.1:5432`; the server is left out",
                "TCP service `p` is disabled: `tcp.services.p.loadBalancer.proxyProtocol` is not supported yet",
                "TCP middleware `m` is disabled: `ipAllowList` of TCP is not supported yet",
                "unknown key `udp.routers.u.servise` (did you mean `service`?)",
                "UDP router `u` is not supported yet and is ignored",
            ],
        );
        assert!(provided.definitions.tcp_routers["r"].tls.as_ref().is_some_and(|tls| tls.passthrough));
        assert_eq!(provided.endpoints.tcp["s"][0].scheme, super::super::Scheme::Tls);
    }

    #[test]
    fn tls_material_is_read() {
        let provided = check(
            json!({ "tls": {
                "certificates": [{ "certFile": "a.crt", "keyFile": "a.key", "stores": ["x"] }, { "certFile": "b.crt" }],
                "options": {
                    "default": { "minVersion": "VersionTLS13", "sniStrict": true, "alpnProtocols": ["h2"] },
                    "old": { "minVersion": "VersionTLS10" },
                    "wrong": { "minVersion": "1.2" },
                    "mutual": { "clientAuth": { "clientAuthType": "RequireAnyClientCert" } },
                },
                "stores": { "default": { "defaultCertificate": { "certFile": "d.crt", "keyFile": "d.key" } }, "other": {} },
            } }),
            &[
                "`tls.certificates[1].keyFile` is missing, the certificate is left out",
                "`tls.options.old.minVersion` is below TLS 1.2, the oldest that is spoken",
                "set of TLS options `wrong` is disabled: its `minVersion` is `1.2`, but wants `VersionTLS12` or `VersionTLS13`",
                "set of TLS options `mutual` is disabled: `tls.options.mutual.clientAuth` is not supported yet",
                "TLS store `other` is ignored, as in Traefik: only `default` is used",
            ],
        );
        let tls = &provided.definitions.tls;
        assert_eq!(tls.options.keys().collect::<Vec<_>>(), ["default", "old"]);
        assert_eq!(tls.options["default"].version_min, Some(TlsVersion::Tls13));
        assert!(tls.options["default"].sni_strict);
        assert_eq!((tls.certificates.len(), tls.default_certificate.is_some()), (1, true));
    }

    #[test]
    fn a_servers_transport_that_protects_what_we_cannot_is_left_out() {
        let provided = check(
            json!({ "http": { "serversTransports": {
                "t": { "insecureSkipVerify": true, "forwardingTimeouts": { "dialTimeout": "1s", "pingTimeout": "2s" } },
                "u": { "peerCertURI": "spiffe://a" },
            } } }),
            &[
                "`http.serversTransports.t.forwardingTimeouts.pingTimeout` is not supported yet and is ignored",
                "servers transport `u` is disabled: `http.serversTransports.u.peerCertURI` is not supported yet",
            ],
        );
        let transport = &provided.definitions.servers_transports["t"];
        assert_eq!((transport.dial_timeout.as_secs(), transport.idle_timeout.as_secs()), (1, 90));
    }
}
