//! The names by which the parts know each other. One word, one thing.

use std::fmt;
use std::sync::Arc;

/// The name of a router, service or middleware with the provider that declared it: `name@provider`, as Traefik prints it.
///
/// Cheap to clone; ordered by name, then by provider.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    name: Arc<str>,
    provider: Arc<str>,
}

impl Name {
    /// The object `name` of `provider`.
    pub fn new(name: impl Into<Arc<str>>, provider: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), provider: provider.into() }
    }

    /// Reads a reference as users write it: `name@provider`, or `name` alone, which means the provider of whoever refers.
    pub fn resolve(reference: &str, own_provider: &str) -> Self {
        match reference.rsplit_once('@') {
            Some((name, provider)) => Self::new(name, provider),
            None => Self::new(reference, own_provider),
        }
    }

    /// The part before `@`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The part after `@`.
    pub fn provider(&self) -> &str {
        &self.provider
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.provider)
    }
}

/// A share of a service's requests, in ten-thousandths. More than all cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Share(u16);

impl Share {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Every request.
    pub const ALL: Self = Self(10_000);

    /// `value` ten-thousandths, or `None` when that is more than all.
    pub fn new(value: u16) -> Option<Self> {
        (value <= Self::ALL.0).then_some(Self(value))
    }

    /// The nearest share to a fraction; what lies outside 0 to 1 is cut to it, and what is not a number is nothing.
    pub fn from_fraction(fraction: f64) -> Self {
        // A float-to-integer cast saturates and turns NaN into 0, which is what we want.
        Self(((fraction.clamp(0.0, 1.0) * 10_000.0).round() as u16).min(Self::ALL.0))
    }

    /// As a number between 0 and 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// In ten-thousandths.
    pub fn ten_thousandths(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", f64::from(self.0) / 100.0)
    }
}

/// Which side of a rollout an instance is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Track {
    /// Carries the traffic until a canary has earned it.
    #[default]
    Stable,
    /// Newer, and weighed by its observed health.
    Canary,
}

impl Track {
    /// `stable` or `canary`, as logs, metrics and the API print it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
        }
    }
}

impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_provider_means_the_own_one() {
        assert_eq!(Name::resolve("a", "file").to_string(), "a@file");
        assert_eq!(Name::resolve("a@consulcatalog", "file").to_string(), "a@consulcatalog");
    }

    #[test]
    fn a_share_is_never_more_than_all() {
        assert_eq!(Share::new(10_001), None);
        assert_eq!(Share::from_fraction(7.0), Share::ALL);
        assert_eq!(Share::from_fraction(f64::NAN), Share::ZERO);
        assert_eq!(Share::from_fraction(0.067).to_string(), "6.7 %");
    }
}
