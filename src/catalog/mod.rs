//! What Consul says at one index, and what it means for routing. Pure: the provider asks, this folder understands.

mod constraint;
mod declared;
pub mod removal;
mod rollout_tags;
#[cfg(test)]
mod scenarios;
mod settle;
mod template;
mod track;
mod translate;

use std::collections::BTreeMap;

pub use translate::{Memory, TranslateSettings, translate};

/// Everything the catalog says that matters to us, by Consul's service name.
pub type Catalog = BTreeMap<String, Vec<Instance>>;

/// One registered instance, as `/v1/health/service/NAME` tells it.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Instance {
    /// `Service.ID`.
    pub id: String,
    /// `Service.Service`: Consul's service name.
    pub service: String,
    /// `Node.Node`.
    pub node: String,
    /// `Node.Datacenter`.
    pub datacenter: String,
    /// `Service.Address`, else `Node.Address`.
    pub address: String,
    /// `Service.Port`.
    pub port: u16,
    /// `Service.Tags`, as they are.
    pub tags: Vec<String>,
    /// `Service.Meta`.
    pub meta: BTreeMap<String, String>,
    /// All checks of node and service together.
    pub status: CheckStatus,
}

/// Consul's aggregated status: maintenance before critical before warning before passing; no checks is passing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
#[expect(missing_docs, reason = "the names are Consul's")]
pub enum CheckStatus {
    #[default]
    Passing,
    Warning,
    Critical,
    Maintenance,
}
