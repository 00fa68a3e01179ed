//! What became of everything that was declared: filled while a snapshot is compiled, read by the API.
//!
//! Plain data. Objects that could not be used stand here too, with the reason; they route nothing.

use std::collections::BTreeMap;

use crate::config::dynamic::{Middleware, Router, Service, TcpRouter, TcpService};
use crate::names::Name;

/// All objects of one snapshot by name.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// HTTP routers: with the entrypoints they got (declared or default), their priority in effect, and every middleware,
    /// an entrypoint's included, by its full name.
    pub routers: BTreeMap<Name, Reported<Router>>,
    /// HTTP services.
    pub services: BTreeMap<Name, Reported<Service>>,
    /// HTTP middlewares.
    pub middlewares: BTreeMap<Name, Reported<Middleware>>,
    /// TCP routers, as the HTTP ones.
    pub tcp_routers: BTreeMap<Name, Reported<TcpRouter>>,
    /// TCP services.
    pub tcp_services: BTreeMap<Name, Reported<TcpService>>,
    /// TCP middlewares. We have none yet: all are disabled.
    pub tcp_middlewares: BTreeMap<Name, Reported<()>>,
}

/// One declared object.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported<D> {
    /// What was declared, completed. `None` for our own services, and for what could not be read at all.
    pub definition: Option<D>,
    /// Whether it works.
    pub status: Status,
    /// Why it does not, or not wholly; each reason once.
    pub errors: Vec<String>,
    /// A router: the entrypoints it really is on (Traefik's `using`). Anything else: who uses it (`usedBy`), by full name.
    pub links: Vec<String>,
}

/// Whether an object works. Worse ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It does.
    #[default]
    Enabled,
    /// In part.
    Warning,
    /// It does not; nothing is routed by it.
    Disabled,
}

impl Status {
    /// As Traefik's API prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Warning => "warning",
            Self::Disabled => "disabled",
        }
    }
}

impl<D> Reported<D> {
    /// An object that works, as far as is known yet.
    pub fn new(definition: D) -> Self {
        Self { definition: Some(definition), status: Status::Enabled, errors: Vec::new(), links: Vec::new() }
    }

    /// One of our own services, which nobody declared.
    pub fn internal() -> Self {
        Self { definition: None, status: Status::Enabled, errors: Vec::new(), links: Vec::new() }
    }

    /// An object that could not even be read.
    pub fn refused(reason: impl Into<String>) -> Self {
        let mut refused = Self::internal();
        refused.disable(reason);
        refused
    }

    /// Something of it does not work.
    pub fn warn(&mut self, reason: impl Into<String>) {
        self.note(reason.into(), Status::Warning);
    }

    /// It does not work at all.
    pub fn disable(&mut self, reason: impl Into<String>) {
        self.note(reason.into(), Status::Disabled);
    }

    fn note(&mut self, reason: String, status: Status) {
        self.status = self.status.max(status);
        if !self.errors.contains(&reason) {
            self.errors.push(reason);
        }
    }

    /// Adds an entrypoint or a user; the list stays sorted and free of doubles.
    pub fn link(&mut self, to: impl Into<String>) {
        let to = to.into();
        if let Err(place) = self.links.binary_search(&to) {
            self.links.insert(place, to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disabled_object_stays_disabled_and_tells_each_reason_once() {
        let mut reported = Reported::new(());
        reported.disable("no");
        reported.warn("hm");
        reported.disable("no");
        assert_eq!((reported.status, reported.errors), (Status::Disabled, vec!["no".to_owned(), "hm".to_owned()]));
    }

    #[test]
    fn links_are_sorted_and_unique() {
        let mut reported = Reported::new(());
        for to in ["web", "jmx", "web"] {
            reported.link(to);
        }
        assert_eq!(reported.links, ["jmx", "web"]);
    }
}
