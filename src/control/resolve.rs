//! Resolves the names of servers, so that a request never waits for DNS.
//!
//! Each name is asked again when its answer's time to live is over; both address families are asked. A name that cannot
//! be resolved keeps its last good answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use crate::clock;
use crate::routing::server::Server;

/// No name is asked more often than this, whatever its time to live.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// No name is asked less often than this.
const INTERVAL_MAX: Duration = Duration::from_secs(60);
/// How soon a name that could not be resolved is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The system's resolver, its hosts file included. Without a usable configuration of the system it asks this host, as Go does.
pub fn resolver() -> Result<TokioResolver, NetError> {
    let builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::warn!(%error, "the system says nothing usable about DNS, names are asked of this host");
        let here = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![here]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    });
    builder.build()
}

/// Keeps the addresses of `server` current until the server is gone.
pub async fn follow(resolver: Arc<TokioResolver>, server: Weak<Server>) {
    let mut is_failing = false;
    loop {
        let Some((host, port)) = server.upgrade().map(|server| (server.host.clone(), server.port)) else { return };
        let answer = lookup(&resolver, &host).await;
        let Some(server) = server.upgrade() else { return };
        let wait = match answer {
            Ok((addresses, wait)) => {
                if is_failing {
                    tracing::info!(host, "resolved again");
                }
                is_failing = false;
                server.set_addresses(addresses.into_iter().map(|ip| SocketAddr::new(ip, port)).collect());
                wait
            }
            Err(error) => {
                if !is_failing {
                    tracing::warn!(host, %error, "could not resolve the name of a server, its last addresses go on serving");
                }
                is_failing = true;
                RETRY_INTERVAL
            }
        };
        drop(server);
        tokio::time::sleep(wait).await;
    }
}

/// The addresses of a name, IPv4 first, and how long they are good for.
async fn lookup(resolver: &TokioResolver, host: &str) -> Result<(Vec<IpAddr>, Duration), NetError> {
    let answer = resolver.lookup_ip(host).await?;
    let mut addresses: Vec<IpAddr> = answer.iter().collect();
    addresses.sort_by_key(|address| (address.is_ipv6(), *address));
    Ok((addresses, interval(answer.valid_until(), clock::now())))
}

/// How long to wait before asking again.
fn interval(valid_until: Instant, now: Instant) -> Duration {
    valid_until.saturating_duration_since(now).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_again_when_the_answer_is_over_but_within_limits() {
        let now = clock::now();
        assert_eq!(interval(now, now), INTERVAL_MIN);
        assert_eq!(interval(now + Duration::from_secs(30), now), Duration::from_secs(30));
        assert_eq!(interval(now + Duration::from_secs(3600), now), INTERVAL_MAX);
    }
}
