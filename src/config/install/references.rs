//! Names that one part of the install configuration uses of another.
//!
//! Traefik starts with any of them unknown and does without; so do we, with a warning that names the nearest.

use super::Install;
use super::read::place;
use crate::config::node::Node;
use crate::config::problem::{Problem, Problems, nearest};

/// Warns of every entrypoint and resolver that is named and does not exist; a redirection to nowhere is dropped, as in Traefik.
pub(super) fn check(install: &mut Install, tree: &Node, problems: &mut Problems) {
    if let Some(ping) = install.ping.as_ref().filter(|ping| !ping.manual_routing) {
        entrypoint(install, tree, &["ping", "entryPoint"], &ping.entrypoint, "ping is not served", problems);
    }
    if let Some(metrics) = install.prometheus.as_ref().filter(|metrics| !metrics.manual_routing) {
        let path = ["metrics", "prometheus", "entryPoint"];
        entrypoint(install, tree, &path, &metrics.entrypoint, "metrics are not served", problems);
    }
    for (name, acme) in &install.resolvers {
        let Some(used) = &acme.http_challenge_entrypoint else { continue };
        let path = ["certificatesResolvers", name, "acme", "httpChallenge", "entryPoint"];
        entrypoint(install, tree, &path, used, "no challenge can be answered", problems);
    }
    let mut dropped = Vec::new();
    for (name, from) in &install.entrypoints {
        let path = ["entryPoints", name, "http", "redirections", "entryPoint", "to"];
        if let Some(redirection) = from.redirection.as_ref().filter(|redirection| !redirection.to.starts_with(':'))
            && !entrypoint(install, tree, &path, &redirection.to, "nothing is redirected", problems)
        {
            dropped.push(name.clone());
        }
        let resolver = from.tls.as_ref().and_then(|tls| tls.resolver.as_ref());
        if let Some(resolver) = resolver.filter(|resolver| !install.resolvers.contains_key(*resolver)) {
            let path = ["entryPoints", name, "http", "tls", "certResolver"];
            let message = format!("`{}` names the certificate resolver `{resolver}`, which does not exist", path.join("."));
            let problem = Problem::warning(place(tree, &path), message);
            problems.push(match nearest(resolver, install.resolvers.keys().map(String::as_str)) {
                Some(known) => problem.hint(format!("did you mean `{known}`?")),
                None => problem.hint("the default certificate is used"),
            });
        }
    }
    for name in dropped {
        if let Some(entrypoint) = install.entrypoints.get_mut(&name) {
            entrypoint.redirection = None;
        }
    }
}

/// Whether the entrypoint exists; if not, that is a warning.
fn entrypoint(install: &Install, tree: &Node, path: &[&str], used: &str, otherwise: &str, problems: &mut Problems) -> bool {
    if install.entrypoints.contains_key(used) {
        return true;
    }
    let message = format!("`{}` names the entrypoint `{used}`, which does not exist, so {otherwise}", path.join("."));
    let problem = Problem::warning(place(tree, path), message);
    problems.push(match nearest(used, install.entrypoints.keys().map(String::as_str)) {
        Some(known) => problem.hint(format!("did you mean `{known}`?")),
        None => problem.hint("as in Traefik, everything else goes on"),
    });
    false
}
