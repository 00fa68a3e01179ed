//! What a person may order, and what is answered. On the wire each is one JSON object on a line of its own.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::names::Share;

/// Orders that may wait for control.
pub const ORDERS_MAX: usize = 16;
/// Control answers within this time, or the asker is told that it did not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a person may order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Order {
    /// Which rollouts are under way, and which servers are drained?
    List,
    /// Explain one rollout, or all that are under way.
    Show {
        /// Which one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rollout: Option<Target>,
    },
    /// Freeze the canary's share as it is.
    Hold {
        /// Which one.
        rollout: Target,
    },
    /// Let it be judged on.
    Resume {
        /// Which one.
        rollout: Target,
    },
    /// The canary has earned everything, whatever was seen.
    Promote {
        /// Which one.
        rollout: Target,
    },
    /// The canary has failed, whatever was seen.
    Abort {
        /// Which one.
        rollout: Target,
    },
    /// Fix the canary's share until [`Order::Resume`].
    SetShare {
        /// Which one.
        rollout: Target,
        /// Between 0 and 1 on the wire.
        #[serde(with = "fraction")]
        share: Share,
    },
    /// Judge no longer, and hold nothing back.
    Release {
        /// Which one.
        rollout: Target,
    },
    /// The same of every rollout.
    ReleaseAll,
    /// A server gets no new request.
    Drain {
        /// Its URL, its address and port, or its instance's id.
        server: String,
        /// Even if it is the last one: then requests are answered with 503.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        force: bool,
    },
    /// A drained server gets requests again.
    Undrain {
        /// As in [`Order::Drain`].
        server: String,
    },
}

impl Order {
    /// Whether it only asks.
    pub fn is_question(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. })
    }
}

/// Whose rollout is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// All services of a Nomad job.
    Job(Job),
    /// One service: `web@consulcatalog`, or `web` where only one provider has one of that name.
    Service(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(job) => write!(f, "job `{job}`"),
            Self::Service(name) => write!(f, "service `{name}`"),
        }
    }
}

/// A Nomad job as people write it: `job`, or `namespace/job`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Job {
    /// Nomad's namespace; `default` unless told.
    pub namespace: String,
    /// The job's id.
    pub name: String,
}

/// A job's name with an empty part.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no job (such as `web` or `namespace/web`)")]
pub struct InvalidJob(String);

impl FromStr for Job {
    type Err = InvalidJob;

    fn from_str(text: &str) -> Result<Self, InvalidJob> {
        // Only the first slash: a job's own name may have more of them.
        let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
        if namespace.is_empty() || name.is_empty() {
            return Err(InvalidJob(text.to_owned()));
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl TryFrom<String> for Job {
    type Error = InvalidJob;

    fn try_from(text: String) -> Result<Self, InvalidJob> {
        text.parse()
    }
}

impl From<Job> for String {
    fn from(job: Job) -> Self {
        format!("{}/{}", job.namespace, job.name)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace == "default" { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What is answered to an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    #[serde(rename = "ok")]
    pub is_ok: bool,
    /// For people.
    pub text: String,
    /// For programs; null when the text says everything.
    #[serde(default)]
    pub value: Value,
}

impl Answer {
    /// It was done.
    pub fn done(text: impl Into<String>) -> Self {
        Self { is_ok: true, text: text.into(), value: Value::Null }
    }

    /// It was not done, and why.
    pub fn refused(text: impl Into<String>) -> Self {
        Self { is_ok: false, text: text.into(), value: Value::Null }
    }
}

/// An order on its way to control.
#[derive(Debug)]
pub struct Request {
    /// What is wanted.
    pub order: Order,
    /// Who wants it, as log lines and sentences name them.
    pub by: String,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Gives control an order and waits for its answer.
pub async fn ask(orders: &mpsc::Sender<Request>, order: Order, by: String) -> Answer {
    let (reply, answer) = oneshot::channel();
    if orders.try_send(Request { order, by, reply }).is_err() {
        return Answer::refused("too many orders are waiting; nothing was done, ask again");
    }
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_ended)) => Answer::refused("the proxy is ending; nothing was done"),
        Err(_elapsed) => Answer::refused("control did not answer in time; it is not known whether the order was carried out"),
    }
}

/// A share as a number between 0 and 1.
mod fraction {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::names::Share;

    pub(super) fn serialize<S: Serializer>(share: &Share, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(share.fraction())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let fraction = f64::deserialize(deserializer)?;
        if (0.0..=1.0).contains(&fraction) {
            Ok(Share::from_fraction(fraction))
        } else {
            Err(D::Error::custom("a share is a number between 0 and 1"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, order: &Order) {
        assert_eq!(serde_json::to_string(order).unwrap(), line);
        assert_eq!(&serde_json::from_str::<Order>(line).unwrap(), order);
    }

    #[test]
    fn an_order_is_one_line_of_json() {
        let web = || Target::Service("web@consulcatalog".to_owned());
        let job = Target::Job("blue/web/edge".parse().unwrap());
        check(r#"{"order":"list"}"#, &Order::List);
        check(r#"{"order":"show"}"#, &Order::Show { rollout: None });
        check(r#"{"order":"hold","rollout":{"service":"web@consulcatalog"}}"#, &Order::Hold { rollout: web() });
        check(r#"{"order":"promote","rollout":{"job":"blue/web/edge"}}"#, &Order::Promote { rollout: job });
        let share = Share::from_fraction(0.2);
        let line = r#"{"order":"set-share","rollout":{"service":"web@consulcatalog"},"share":0.2}"#;
        check(line, &Order::SetShare { rollout: web(), share });
        check(r#"{"order":"release-all"}"#, &Order::ReleaseAll);
        check(r#"{"order":"drain","server":"10.0.0.1:80"}"#, &Order::Drain { server: "10.0.0.1:80".to_owned(), force: false });
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for line in [
            r#"{"order":"stop"}"#,
            r#"{"order":"hold"}"#,
            r#"{"order":"hold","rollout":{"job":""}}"#,
            r#"{"order":"set-share","rollout":{"service":"web"},"share":1.5}"#,
            r#"{"order":"drain","server":"a","forced":true}"#,
        ] {
            assert!(serde_json::from_str::<Order>(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_job_is_named_with_its_namespace_unless_that_is_the_default_one() {
        let job: Job = "web".parse().unwrap();
        assert_eq!((job.to_string(), String::from(job)), ("web".to_owned(), "default/web".to_owned()));
        assert_eq!("blue/web".parse::<Job>().unwrap().to_string(), "blue/web");
        assert!("blue/".parse::<Job>().is_err());
    }

    #[tokio::test]
    async fn an_order_that_finds_no_place_is_refused_at_once() {
        let (orders, mut waiting) = mpsc::channel(1);
        let first = tokio::spawn({
            let orders = orders.clone();
            async move { ask(&orders, Order::List, "root".to_owned()).await }
        });
        let request = waiting.recv().await.unwrap();
        orders.try_send(Request { order: Order::List, by: String::new(), reply: oneshot::channel().0 }).unwrap();
        let refused = ask(&orders, Order::List, "root".to_owned()).await;
        assert!(!refused.is_ok && refused.text.contains("too many orders"), "{refused:?}");
        request.reply.send(Answer::done("seen")).unwrap();
        assert_eq!(first.await.unwrap(), Answer::done("seen"));
    }
}
