//! What rules have in common once they are compiled: tests joined by not, and, or.

use super::host::HostPattern;
use super::{Call, InvalidRule, Node};

/// Tests of one kind joined as the rule joins them. As deep as the rule, which the grammar bounds.
#[derive(Clone, Debug)]
pub enum Formula<T> {
    /// One matcher.
    Test(T),
    /// Its opposite.
    Not(Box<Self>),
    /// All of them, in the order written.
    All(Box<[Self]>),
    /// Any of them.
    Any(Box<[Self]>),
}

impl<T> Formula<T> {
    /// Makes a test of every matcher of an expression.
    pub fn compile(node: &Node, test: &impl Fn(&Call) -> Result<T, InvalidRule>) -> Result<Self, InvalidRule> {
        let each = |nodes: &[Node]| nodes.iter().map(|node| Self::compile(node, test)).collect::<Result<Box<[_]>, _>>();
        Ok(match node {
            Node::Call(call) => Self::Test(test(call)?),
            Node::Not(inner) => Self::Not(Box::new(Self::compile(inner, test)?)),
            Node::All(nodes) => Self::All(each(nodes)?),
            Node::Any(nodes) => Self::Any(each(nodes)?),
        })
    }

    /// Whether it holds, given what each test says.
    pub fn holds(&self, test: &impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Test(inner) => test(inner),
            Self::Not(inner) => !inner.holds(test),
            Self::All(parts) => parts.iter().all(|part| part.holds(test)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(test)),
        }
    }

    /// The hosts without one of which it cannot hold, given those of each test; `None` when it may hold for any host.
    pub(super) fn hosts(&self, of_test: &impl Fn(&T) -> Option<HostPattern>) -> Option<Vec<HostPattern>> {
        match self {
            Self::Test(test) => of_test(test).map(|host| vec![host]),
            Self::Not(_) => None,
            Self::All(parts) => parts.iter().filter_map(|part| part.hosts(of_test)).min_by_key(Vec::len),
            Self::Any(parts) => {
                let each: Option<Vec<_>> = parts.iter().map(|part| part.hosts(of_test)).collect();
                each.map(|hosts| hosts.into_iter().flatten().collect())
            }
        }
    }
}
