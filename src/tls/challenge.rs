//! The answers to HTTP-01 challenges (RFC 8555, 8.3) that are open now.
//!
//! acme opens them, the request path reads them without a lock. They are answered before any middleware of an entrypoint (Traefik
//! lets basicAuth and the like answer the CA), and for the host they were asked for only.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// Below which path a CA asks.
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// What a request for a path gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChallengeAnswer {
    /// 200 with this body: the key authorization.
    Token(Arc<str>),
    /// 404 with an empty body, as Traefik answers: it is a challenge's path, but no such challenge is open.
    Unknown,
    /// The path belongs to somebody else.
    NotAChallenge,
}

/// The open challenges of all resolvers. One per process.
#[derive(Debug, Default)]
pub struct OpenChallenges(ArcSwap<HashMap<Key, Arc<str>>>);

/// Token and host.
type Key = (Box<str>, Box<str>);

impl OpenChallenges {
    /// What a request for `path` (without a query) at `host` (as in its Host header, a port does not matter) gets.
    pub fn answer(&self, path: &str, host: &str) -> ChallengeAnswer {
        let Some(token) = path.strip_prefix(CHALLENGE_PATH) else {
            return ChallengeAnswer::NotAChallenge;
        };
        let open = self.0.load();
        if open.is_empty() {
            return ChallengeAnswer::Unknown;
        }
        match open.get(&(token.into(), host_name(host))) {
            Some(authorization) => ChallengeAnswer::Token(Arc::clone(authorization)),
            None => ChallengeAnswer::Unknown,
        }
    }

    /// Opens a challenge until what is returned is dropped.
    #[must_use]
    pub fn open(self: &Arc<Self>, token: &str, host: &str, authorization: &str) -> OpenChallenge {
        let key: Key = (token.into(), host_name(host));
        let authorization: Arc<str> = authorization.into();
        self.0.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.insert(key.clone(), Arc::clone(&authorization));
            open
        });
        OpenChallenge { challenges: Arc::clone(self), key }
    }
}

/// Keeps one challenge open.
#[derive(Debug)]
pub struct OpenChallenge {
    challenges: Arc<OpenChallenges>,
    key: Key,
}

impl Drop for OpenChallenge {
    fn drop(&mut self) {
        self.challenges.0.rcu(|open| {
            let mut open = HashMap::clone(open);
            open.remove(&self.key);
            open
        });
    }
}

/// A Host header's name in lower case, without its port, brackets and trailing dot.
fn host_name(host: &str) -> Box<str> {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        // A bare IPv6 address has more than one colon and no port.
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            _ => host,
        },
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_for_its_host_while_it_is_open() {
        let challenges = Arc::new(OpenChallenges::default());
        let open = challenges.open("tok", "a.test", "tok.thumb");
        let six = challenges.open("six", "2001:db8::1", "six.thumb");
        let token = |body: &str| ChallengeAnswer::Token(body.into());
        for (path, host, expected) in [
            ("/.well-known/acme-challenge/tok", "a.test", token("tok.thumb")),
            ("/.well-known/acme-challenge/tok", "A.Test.:8080", token("tok.thumb")),
            ("/.well-known/acme-challenge/six", "[2001:db8::1]:80", token("six.thumb")),
            ("/.well-known/acme-challenge/tok", "b.test", ChallengeAnswer::Unknown),
            ("/.well-known/acme-challenge/other", "a.test", ChallengeAnswer::Unknown),
            ("/.well-known/acme-challenge/", "a.test", ChallengeAnswer::Unknown),
            ("/.well-known/acme-challenge", "a.test", ChallengeAnswer::NotAChallenge),
            ("/.well-known/acme-challengeX", "a.test", ChallengeAnswer::NotAChallenge),
            ("/", "a.test", ChallengeAnswer::NotAChallenge),
        ] {
            assert_eq!(challenges.answer(path, host), expected, "{path} at {host}");
        }
        drop((open, six));
        assert_eq!(challenges.answer("/.well-known/acme-challenge/tok", "a.test"), ChallengeAnswer::Unknown);
    }
}
