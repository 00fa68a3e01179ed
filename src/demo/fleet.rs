//! What Nomad does in the demo: it starts instances and registers them, and it takes them away.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::catalog::{EmbeddedCatalog, Status};
use super::instance::{Behaviour, Instance, Witness};
use super::load::Tally;
use super::site::Site;

/// What a good instance does: cljdoc's answers take some milliseconds.
pub const GOOD: Behaviour = Behaviour::Good(Duration::from_millis(4));

/// All instances of the site.
pub struct Fleet {
    site: Site,
    catalog: EmbeddedCatalog,
    tally: Arc<Tally>,
    witness: Arc<Witness>,
    placed: Vec<Placed>,
}

struct Placed {
    id: String,
    version: String,
    is_good: bool,
    instance: Instance,
}

impl Fleet {
    /// No instance yet. The tally is told of kills.
    pub fn new(site: Site, catalog: EmbeddedCatalog, tally: Arc<Tally>, witness: Arc<Witness>) -> Self {
        Self { site, catalog, tally, witness, placed: Vec::new() }
    }

    /// The site that the instances belong to.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Starts so many instances of a version and registers each when it listens.
    pub async fn deploy(&mut self, version: &str, count: usize) -> io::Result<()> {
        for _ in 0..count {
            let instance = Instance::start_watched(version, GOOD, Arc::clone(&self.witness)).await?;
            let id = format!("_nomad-task-{}-backend-cljdoc-http", allocation());
            self.catalog.register(self.site.register(&instance, &id, version)).map_err(io::Error::other)?;
            self.placed.push(Placed { id, version: version.to_owned(), is_good: true, instance });
        }
        Ok(())
    }

    /// Makes a version behave otherwise from now on.
    pub fn behave(&mut self, version: &str, behaviour: Behaviour) {
        for placed in self.placed.iter_mut().filter(|placed| placed.version == version) {
            placed.is_good = matches!(behaviour, Behaviour::Good(_));
            placed.instance.behave(behaviour);
        }
    }

    /// Takes all instances of a version away: deregistered and killed at the same moment.
    pub async fn withdraw(&mut self, version: &str) {
        self.end(|placed| placed.version == version).await;
    }

    /// Takes away whatever does not answer well, so that nobody waits for it.
    pub async fn withdraw_bad(&mut self) {
        self.end(|placed| !placed.is_good).await;
    }

    async fn end(&mut self, is_going: impl Fn(&Placed) -> bool) {
        let going: Vec<Placed> = self.placed.extract_if(.., |placed| is_going(placed)).collect();
        self.tally.kill_begins();
        for Placed { id, instance, .. } in going {
            self.catalog.deregister(&id);
            instance.kill_and_wait().await;
        }
        self.tally.kill_ends();
    }

    /// Kills one instance of a version without a word to the catalog. Gives its id and address.
    pub async fn kill_one(&mut self, version: &str) -> Option<(String, SocketAddr)> {
        let index = self.placed.iter().position(|placed| placed.version == version)?;
        let Placed { id, instance, .. } = self.placed.remove(index);
        let address = instance.address;
        self.tally.kill_begins();
        instance.kill_and_wait().await;
        self.tally.kill_ends();
        Some((id, address))
    }

    /// The catalog's check finds that an instance is dead.
    pub fn find_dead(&self, id: &str) {
        self.catalog.set_check(&format!("check-{id}"), Status::Critical);
    }

    /// Takes a dead instance out of the catalog.
    pub fn bury(&self, id: &str) {
        self.catalog.deregister(id);
    }

    /// Requests that instances of a version have had, probes included.
    pub fn requests(&self, version: &str) -> u64 {
        self.placed.iter().filter(|placed| placed.version == version).map(|placed| placed.instance.requests()).sum()
    }
}

/// An id as Nomad gives one to an allocation.
fn allocation() -> String {
    let bits = format!("{:032x}", fastrand::u128(..));
    let parts: Vec<&str> = [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().filter_map(|range| bits.get(range)).collect();
    parts.join("-")
}
