//! From the tree to typed definitions: one decoder for files and for tags.
//!
//! A bad object costs only itself: it becomes a [`Refused`] with its reason and a problem, all else stands. What Traefik
//! knows and we do not yet is refused or ignored by name, never silently; an unknown key refuses the object it stands in.

use std::collections::BTreeMap;

use super::server::{Location, ServerTemplate};
use super::shape::block;
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

impl Servers {
    /// One server of a file.
    pub(super) fn push(&mut self, location: Location, weight: u32, preserve_path: bool) {
        self.endpoints.push(location.endpoint(weight, preserve_path));
    }
}
