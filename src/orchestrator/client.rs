//! Asks Nomad one thing and reads the answer, or asks it to do one thing.
//!
//! Every answer is bounded in size and time. A token file is read again when Nomad refuses the token, and the question asked
//! once more: a refused call was not carried out. No other call is repeated here: what became of it is read back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Url;
use serde_json::{Value, json};

use super::access::Access;
use super::answer::{self, ListedJob};
use super::connect::{self, SetUpError, read_token};
use super::{Allocation, CALL_TIMEOUT, Call, CallOutcome, Deployment, JobKey};

/// How long an answer that need not wait may take. An agent without a leader takes 7 s to say so.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// What an answer may take beyond the wait and Nomad's own jitter.
const MARGIN: Duration = Duration::from_secs(10);
/// A larger list is refused: 50 000 allocations are about 60 MB.
const LIST_BYTES_MAX: usize = 128 << 20;
/// A larger answer about one thing is refused.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// So much of a refusal's text is kept.
pub const TEXT_BYTES_MAX: usize = 500;

/// Nomad's HTTP API, as far as a deployment needs it.
pub struct Client {
    http: reqwest::Client,
    base: Url,
    token: ArcSwapOption<HeaderValue>,
    token_file: Option<PathBuf>,
    basic_auth: Option<HeaderValue>,
    region: Option<String>,
    namespaces: Vec<String>,
}

/// What Nomad said, and with how much authority.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<T> {
    /// What it said.
    pub value: T,
    /// `X-Nomad-Index`; 0 when it is missing.
    pub index: u64,
    /// `X-Nomad-KnownLeader`; a missing one is false. Without a leader an answer may be empty by mistake.
    pub known_leader: bool,
}

/// Why there is no answer to a question.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nomad could not be reached, or the connection broke.
    #[error("asked nomad for {asked}: {reason}")]
    Unreachable {
        /** The path asked for. */
        asked: String,
        /** What happened, with its causes. */
        reason: String,
    },
    /// Nomad answered with an error.
    #[error("asked nomad for {asked}: it answered {status}: {text}")]
    Refused {
        /** The path asked for. */
        asked: String,
        /** The status. */
        status: StatusCode,
        /** Its text, cut to a limit. */
        text: String,
    },
    /// Nomad answered something else than its API describes.
    #[error("asked nomad for {asked}: its answer cannot be read: {reason}")]
    Unreadable {
        /** The path asked for. */
        asked: String,
        /** What is wrong with it. */
        reason: serde_json::Error,
    },
}

impl Client {
    /// Reads the files that `access` names; nothing is asked yet. A process-wide crypto provider must be installed before.
    pub fn new(access: &Access) -> Result<Self, SetUpError> {
        let token = match &access.token_file {
            Some(file) => Some(read_token(file)?),
            None => access.token.clone(),
        };
        let (http, base) = connect::build(access)?;
        Ok(Self {
            http,
            base,
            token: ArcSwapOption::from_pointee(token),
            token_file: access.token_file.clone(),
            basic_auth: access.basic_auth.clone(),
            region: access.region.clone(),
            namespaces: access.namespaces.clone(),
        })
    }

    /// The namespaces asked for; every one that the token may read when empty.
    pub fn namespaces(&self) -> &[String] {
        &self.namespaces
    }

    /// Asks Nomad to do something with a deployment. What a token file change or a silence leaves unknown is not repeated.
    ///
    /// A promotion that names no group, or one that the deployment does not have, is refused here: Nomad would accept it and
    /// promote nothing.
    pub async fn call(&self, deployment: &Deployment, call: &Call) -> CallOutcome {
        if let Some(message) = senseless(deployment, call) {
            return CallOutcome::Refused { status: 400, message };
        }
        let (path, body) = order(deployment, call);
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let url = self.url(&path, &[("namespace", &deployment.job.namespace)]);
        let ask = Ask { method: Method::POST, url, body };
        let unknown = |error: String| CallOutcome::Unknown { error };
        let told = tokio::time::timeout(CALL_TIMEOUT, async {
            let response = self.send(&ask).await.map_err(|error| chain(&error))?;
            let status = response.status();
            read_body(response, ANSWER_BYTES_MAX).await.map(|body| (status, body))
        });
        match told.await {
            Err(_elapsed) => unknown(format!("no answer within {CALL_TIMEOUT:?}")),
            Ok(Err(error)) => unknown(error),
            Ok(Ok((StatusCode::OK, body))) => match answer::parse_accepted(&body) {
                Ok(index) => CallOutcome::Accepted { index },
                Err(error) => unknown(format!("its answer cannot be read: {error}: {}", cut(&body))),
            },
            Ok(Ok((status, body))) if leaves_open(status, &cut(&body)) => {
                unknown(format!("it answered {status}: {}", cut(&body)))
            }
            Ok(Ok((status, body))) => CallOutcome::Refused { status: status.as_u16(), message: cut(&body) },
        }
    }

    /// One deployment; `None` when Nomad has none of that id.
    pub async fn deployment(&self, namespace: &str, id: &str) -> Result<Option<Deployment>, ClientError> {
        self.ask_one(&["v1", "deployment", id], namespace, answer::parse_deployment).await
    }

    /// One allocation, with its job's version; `None` when Nomad has none of that id. Without the right to read it Nomad
    /// answers 500.
    pub async fn allocation(&self, namespace: &str, id: &str) -> Result<Option<Allocation>, ClientError> {
        self.ask_one(&["v1", "allocation", id], namespace, answer::parse_allocation).await
    }

    /// One job, with its version; `None` when Nomad has none of that id.
    pub async fn job(&self, key: &JobKey) -> Result<Option<ListedJob>, ClientError> {
        self.ask_one(&["v1", "job", &key.job], &key.namespace, answer::parse_job).await
    }

    /// All deployments of a namespace, or of all (`*`). With `after` the answer waits until the index is above it, or the time is over.
    pub async fn deployments(
        &self,
        namespace: &str,
        after: Option<(u64, Duration)>,
    ) -> Result<Answer<Vec<Deployment>>, ClientError> {
        self.ask_list("deployments", namespace, after, answer::parse_deployments).await
    }

    /// All allocations, as [`Client::deployments`].
    pub async fn allocations(
        &self,
        namespace: &str,
        after: Option<(u64, Duration)>,
    ) -> Result<Answer<Vec<Allocation>>, ClientError> {
        self.ask_list("allocations", namespace, after, answer::parse_allocations).await
    }

    /// All jobs, without their versions.
    pub async fn jobs(&self, namespace: &str) -> Result<Answer<Vec<ListedJob>>, ClientError> {
        self.ask_list("jobs", namespace, None, answer::parse_jobs).await
    }

    /// Opens the event stream at an index. An index that nothing has yet is silent until something has it.
    pub async fn stream(&self, namespace: &str, index: u64) -> Result<reqwest::Response, ClientError> {
        let index = index.to_string();
        let topics = [("topic", "Deployment"), ("topic", "Allocation"), ("topic", "Job")];
        let query: Vec<(&str, &str)> = topics.into_iter().chain([("namespace", namespace), ("index", &index)]).collect();
        let ask = Ask { method: Method::GET, url: self.url(&["v1", "event", "stream"], &query), body: None };
        let unreachable = |reason| ClientError::Unreachable { asked: ask.path(), reason };
        let sent = tokio::time::timeout(ANSWER_TIMEOUT, self.send(&ask)).await;
        let response = sent.map_err(|_elapsed| unreachable(format!("no answer within {ANSWER_TIMEOUT:?}")))?;
        let response = response.map_err(|error| unreachable(chain(&error)))?;
        if response.status() == StatusCode::OK { Ok(response) } else { Err(refused(&ask, response).await) }
    }

    async fn ask_one<T>(&self, path: &[&str], namespace: &str, parse: Parse<T>) -> Result<Option<T>, ClientError> {
        let ask = Ask { method: Method::GET, url: self.url(path, &[("namespace", namespace)]), body: None };
        match self.ask(&ask, ANSWER_TIMEOUT, ANSWER_BYTES_MAX, parse).await {
            Ok(answer) => Ok(Some(answer.value)),
            Err(ClientError::Refused { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn ask_list<T>(
        &self,
        what: &str,
        namespace: &str,
        after: Option<(u64, Duration)>,
        parse: Parse<T>,
    ) -> Result<Answer<T>, ClientError> {
        let (index, wait) = after.unwrap_or_default();
        let (index, timeout) = (index.to_string(), if index == 0 { ANSWER_TIMEOUT } else { wait + wait / 16 + MARGIN });
        let wait = format!("{}ms", wait.as_millis());
        let mut query = vec![("namespace", namespace)];
        if what == "allocations" {
            // Nine tenths of the answer that nobody reads.
            query.push(("task_states", "false"));
        }
        if after.is_some() {
            query.extend([("index", index.as_str()), ("wait", wait.as_str())]);
        }
        let ask = Ask { method: Method::GET, url: self.url(&["v1", what], &query), body: None };
        self.ask(&ask, timeout, LIST_BYTES_MAX, parse).await
    }

    async fn ask<T>(&self, ask: &Ask, timeout: Duration, bytes_max: usize, parse: Parse<T>) -> Result<Answer<T>, ClientError> {
        let unreachable = |reason| ClientError::Unreachable { asked: ask.path(), reason };
        let told = tokio::time::timeout(timeout, async {
            let response = self.send(ask).await.map_err(|error| unreachable(chain(&error)))?;
            if response.status() != StatusCode::OK {
                return Err(refused(ask, response).await);
            }
            let headers = response.headers().clone();
            Ok((headers, read_body(response, bytes_max).await.map_err(unreachable)?))
        });
        let (headers, body) = told.await.map_err(|_elapsed| unreachable(format!("no answer within {timeout:?}")))??;
        let value = parse(&body).map_err(|reason| ClientError::Unreadable { asked: ask.path(), reason })?;
        let index = text(&headers, "x-nomad-index").and_then(|index| index.parse().ok()).unwrap_or(0);
        Ok(Answer { value, index, known_leader: text(&headers, "x-nomad-knownleader") == Some("true") })
    }

    /// Sends it, and once more if the token was refused and its file now holds another.
    async fn send(&self, ask: &Ask) -> Result<reqwest::Response, reqwest::Error> {
        let response = self.send_once(ask).await?;
        let is_refused = matches!(response.status(), StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED);
        if is_refused && self.read_token_again() { self.send_once(ask).await } else { Ok(response) }
    }

    async fn send_once(&self, ask: &Ask) -> Result<reqwest::Response, reqwest::Error> {
        let mut request = self.http.request(ask.method.clone(), ask.url.clone());
        if let Some(token) = self.token.load_full() {
            request = request.header("x-nomad-token", HeaderValue::clone(&token));
        }
        if let Some(basic_auth) = &self.basic_auth {
            request = request.header(AUTHORIZATION, basic_auth.clone());
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        request.send().await
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let region = self.region.as_deref().map(|region| ("region", region));
        url.query_pairs_mut().extend_pairs(query.iter().copied().chain(region));
        url
    }

    /// Whether the token file now holds another token than the one that was refused.
    fn read_token_again(&self) -> bool {
        let Some(file) = &self.token_file else { return false };
        let token = match read_token(file) {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(file = %file.display(), error = chain(&error), "nomad refused the token and its file is of no use");
                return false;
            }
        };
        let is_new = self.token.load_full().is_none_or(|old| *old != token);
        if is_new {
            tracing::info!(file = %file.display(), "read a new nomad token");
            self.token.store(Some(Arc::new(token)));
        }
        is_new
    }
}

type Parse<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

/// One request.
struct Ask {
    method: Method,
    url: Url,
    body: Option<Value>,
}

impl Ask {
    fn path(&self) -> String {
        self.url.path().to_owned()
    }
}

/// Why Nomad would take the call and do nothing.
fn senseless(deployment: &Deployment, call: &Call) -> Option<String> {
    let Call::Promote { groups } = call else { return None };
    if groups.is_empty() {
        return Some("no group to promote was named".to_owned());
    }
    let unknown = groups.iter().find(|group| !deployment.groups.contains_key(*group))?;
    Some(format!("the deployment has no group `{unknown}` to promote"))
}

/// Where the call goes, and with what.
fn order(deployment: &Deployment, call: &Call) -> (Vec<String>, Option<Value>) {
    let Deployment { id, job, .. } = deployment;
    let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect();
    let of_deployment = |verb| path(&["v1", "deployment", verb, id]);
    match call {
        // Without the field Nomad resumes.
        Call::Pause => (of_deployment("pause"), Some(json!({"DeploymentID": id, "Pause": true}))),
        Call::Resume => (of_deployment("pause"), Some(json!({"DeploymentID": id, "Pause": false}))),
        // Never `All`, which beats the groups.
        Call::Promote { groups } => (of_deployment("promote"), Some(json!({"DeploymentID": id, "Groups": groups}))),
        Call::Fail => (of_deployment("fail"), None),
        Call::Stop { allocation } => (path(&["v1", "allocation", allocation, "stop"]), None),
        Call::Revert { to, from } => {
            let body = json!({"JobID": job.job, "JobVersion": to, "EnforcePriorVersion": from});
            (path(&["v1", "job", &job.job, "revert"]), Some(body))
        }
    }
}

/// Whether the call may have been carried out although the answer is an error: somebody between us and Nomad gave up, or a
/// server lost its leadership with the change under way.
fn leaves_open(status: StatusCode, text: &str) -> bool {
    let is_between = matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
    is_between
        || status.is_server_error() && ["leadership lost", "timed out", "timeout", "EOF"].iter().any(|word| text.contains(word))
}

async fn refused(ask: &Ask, response: reqwest::Response) -> ClientError {
    let status = response.status();
    let text = read_body(response, ANSWER_BYTES_MAX).await.map_or_else(|reason| reason, |body| cut(&body));
    ClientError::Refused { asked: ask.path(), status, text }
}

async fn read_body(mut response: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(|error| chain(&error))? {
        if body.len() + piece.len() > bytes_max {
            return Err(format!("the answer is larger than {bytes_max} bytes"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The beginning of an answer, on one line.
fn cut(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..TEXT_BYTES_MAX).unwrap_or(body));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// An error and its causes on one line, without the address, which the reader knows.
fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::orchestrator::{DeploymentGroup, DeploymentStatus};

    fn deployment() -> Deployment {
        Deployment {
            id: "d-1".to_owned(),
            job: JobKey { namespace: "default".to_owned(), job: "a/b".to_owned() },
            job_version: 3,
            is_multiregion: false,
            status: DeploymentStatus::Running,
            description: String::new(),
            groups: BTreeMap::from([("web".to_owned(), DeploymentGroup::default())]),
            modify_index: 9,
        }
    }

    #[track_caller]
    fn check(call: &Call, path: &str, body: &str) {
        let (found, sent) = order(&deployment(), call);
        assert_eq!((found.join("/").as_str(), sent.unwrap_or_default().to_string().as_str()), (path, body));
    }

    #[test]
    fn every_call_says_outright_what_it_wants() {
        check(&Call::Pause, "v1/deployment/pause/d-1", r#"{"DeploymentID":"d-1","Pause":true}"#);
        check(&Call::Resume, "v1/deployment/pause/d-1", r#"{"DeploymentID":"d-1","Pause":false}"#);
        let promote = Call::Promote { groups: vec!["web".to_owned()] };
        check(&promote, "v1/deployment/promote/d-1", r#"{"DeploymentID":"d-1","Groups":["web"]}"#);
        check(&Call::Fail, "v1/deployment/fail/d-1", "null");
        check(&Call::Stop { allocation: "a-1".to_owned() }, "v1/allocation/a-1/stop", "null");
        let revert = r#"{"JobID":"a/b","JobVersion":2,"EnforcePriorVersion":3}"#;
        check(&Call::Revert { to: 2, from: 3 }, "v1/job/a/b/revert", revert);
    }

    #[test]
    fn a_promotion_that_would_promote_nothing_is_not_sent() {
        let promote = |groups: &[&str]| Call::Promote { groups: groups.iter().map(|group| (*group).to_owned()).collect() };
        assert_eq!(senseless(&deployment(), &promote(&["web"])), None);
        assert_eq!(senseless(&deployment(), &promote(&[])).unwrap(), "no group to promote was named");
        let unknown = senseless(&deployment(), &promote(&["web", "db"])).unwrap();
        assert_eq!(unknown, "the deployment has no group `db` to promote");
    }

    #[test]
    fn only_an_answer_of_nomads_own_says_that_nothing_happened() {
        let check = |status: u16, text: &str| leaves_open(StatusCode::from_u16(status).unwrap(), text);
        assert!(!check(500, "can't promote terminal deployment"));
        assert!(!check(500, "rpc error: deployment not found"));
        assert!(!check(500, "No cluster leader"));
        assert!(!check(403, "Permission denied"));
        assert!(check(500, "leadership lost while committing log"));
        assert!(check(500, "rpc error: EOF"));
        assert!(check(502, ""));
    }

    #[test]
    fn addresses_are_escaped_and_carry_the_region() {
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let settings = crate::config::install::NomadSettings {
            address: Some("http://10.0.0.1:4646/".to_owned()),
            region: Some("eu west".to_owned()),
            ..Default::default()
        };
        let client = Client::new(&Access::read(&settings, &|_| None).0.unwrap()).unwrap();
        let url = client.url(&["v1", "job", "a/b"], &[("namespace", "*")]);
        assert_eq!(url.as_str(), "http://10.0.0.1:4646/v1/job/a%2Fb?namespace=*&region=eu+west");
    }
}
