//! One order from its beginning to its certificate (RFC 8555, 7.4), by HTTP-01. The only file that knows the ACME client.
//!
//! What a network or a CA can lose on the way is asked for again: each round looks at the order's state anew, so a lost answer to
//! any step costs a round and not the order.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::BodyExt;
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, ChallengeStatus, ChallengeType, Error, ExternalAccountKey,
    HttpClient, Identifier, NewAccount, NewOrder, Order, OrderStatus,
};
use rustls::pki_types::UnixTime;
use serde_json::Value;

use super::ca::{Ca, CaError, LastAnswer, chain_of};
use super::issue::{self, SigningRequest};
use super::schedule::{self, Failure};
use super::storage::StoredCertificate;
use crate::clock;
use crate::config::dynamic::Domain;
use crate::tls::challenge::{OpenChallenge, OpenChallenges};

/// How long one order may take in all.
const ORDER_TIMEOUT: Duration = Duration::from_secs(150);
/// The first wait for the CA's work; it grows by half up to [`POLL_MAX`].
const POLL_FIRST: Duration = Duration::from_millis(250);
/// The longest wait between two looks at an order, even if the CA asks for a longer one.
const POLL_MAX: Duration = Duration::from_secs(10);
/// How often a request is made anew because the CA did not like its nonce. The client below tries three times in each.
const NONCE_ROUNDS_MAX: usize = 8;
/// How many rounds of an order may fail for reasons that may pass before the order is given up.
const ROUNDS_LOST_MAX: usize = 16;

const BAD_NONCE: &str = "urn:ietf:params:acme:error:badNonce";
const UNKNOWN_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";

/// One certificate to obtain.
#[derive(Clone, Debug)]
pub struct Job {
    /// From whom.
    pub ca: Arc<Ca>,
    /// The account, as an earlier order registered it; without one a new one is registered.
    pub account: Option<Value>,
    /// For which names.
    pub domain: Domain,
    /// Where the CA's questions are answered.
    pub challenges: Arc<OpenChallenges>,
}

/// What became of a job.
#[derive(Debug)]
pub struct Outcome {
    /// The account that was registered on the way, if one was. It is to be kept whatever became of the order.
    pub registered: Option<Value>,
    /// The certificate, checked.
    pub result: Result<StoredCertificate, Failure>,
}

/// Why an order brought no certificate.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("{}", chain_of(.0))]
    Acme(#[from] Error),
    #[error("the CA could not verify {0}")]
    Unverified(String),
    #[error("the CA offers no HTTP-01 challenge for `{0}`")]
    NoChallenge(String),
    #[error("the CA's certificate was refused: {0}")]
    Refused(#[from] issue::Refused),
    #[error("the key could not be made: {0}")]
    Key(String),
    #[error("the order took longer than {} s{}", ORDER_TIMEOUT.as_secs(), .0)]
    Timeout(String),
}

/// Obtains one certificate. Waits at most `ORDER_TIMEOUT`; the challenges it opens are closed when it ends, or is dropped.
pub async fn obtain(job: &Job) -> Outcome {
    let last = Arc::new(LastAnswer::default());
    let mut progress = Progress::default();
    let result = match tokio::time::timeout(ORDER_TIMEOUT, run(job, &last, &mut progress)).await {
        Ok(result) => result,
        Err(_) => Err(OrderError::Timeout(progress.last_error.take().map(|error| format!(": {error}")).unwrap_or_default())),
    };
    Outcome { registered: progress.registered, result: result.map_err(|error| failure(&error, &last)) }
}

/// What is known of an order under way.
#[derive(Default)]
struct Progress {
    registered: Option<Value>,
    last_error: Option<String>,
    /// Challenges that the CA was told about, by authorization.
    announced: BTreeSet<String>,
    open: Vec<OpenChallenge>,
    request: Option<SigningRequest>,
}

async fn run(job: &Job, last: &Arc<LastAnswer>, progress: &mut Progress) -> Result<StoredCertificate, OrderError> {
    let mut order = match begin(job, job.account.clone(), last, progress).await {
        // The CA has lost or closed the account: a new one is as good.
        Err(OrderError::Acme(Error::Api(problem))) if problem.r#type.as_deref() == Some(UNKNOWN_ACCOUNT) => {
            begin(job, None, last, progress).await?
        }
        other => other?,
    };
    let mut wait = POLL_FIRST;
    let mut rounds_lost = 0;
    loop {
        let error = match step(&mut order, job, progress).await {
            Ok(Some(chain)) => return finish(job, chain, progress),
            Ok(None) => None,
            Err(OrderError::Acme(error)) if may_pass(&error, last) => Some(error),
            Err(error) => return Err(error),
        };
        let is_work_of_ca = matches!(order.state().status, OrderStatus::Pending | OrderStatus::Processing);
        let is_to_wait = error.as_ref().map_or(is_work_of_ca, |error| !is_bad_nonce(error));
        if is_to_wait {
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(1.5).min(POLL_MAX);
        }
        let refreshed = order.refresh().await.err();
        if let Some(after) = last.retry_after().filter(|_| refreshed.is_none()) {
            wait = wait.max(after).min(POLL_MAX);
        }
        let passes = refreshed.as_ref().is_none_or(|error| may_pass(error, last));
        match refreshed.or(error) {
            Some(error) if rounds_lost == ROUNDS_LOST_MAX || !passes => return Err(error.into()),
            Some(error) => {
                rounds_lost += 1;
                progress.last_error = Some(chain_of(&error));
            }
            None => {}
        }
    }
}

/// Restores or registers the account and creates the order.
async fn begin(job: &Job, account: Option<Value>, last: &Arc<LastAnswer>, progress: &mut Progress) -> Result<Order, OrderError> {
    let known = account.and_then(|account| serde_json::from_value::<AccountCredentials>(account).ok());
    let account = match known {
        Some(credentials) => Account::builder_with_http(http_client(job, last)).from_credentials(credentials).await?,
        None => register(job, last, progress).await?,
    };
    let identifiers: Vec<Identifier> = schedule::names(&job.domain).into_iter().map(identifier).collect();
    let mut new_order = NewOrder::new(&identifiers);
    if let Some(profile) = &job.ca.profile {
        new_order = new_order.profile(profile);
    }
    for _ in 1..NONCE_ROUNDS_MAX {
        match account.new_order(&new_order).await {
            Err(error) if is_bad_nonce(&error) => {}
            other => return Ok(other?),
        }
    }
    Ok(account.new_order(&new_order).await?)
}

async fn register(job: &Job, last: &Arc<LastAnswer>, progress: &mut Progress) -> Result<Account, OrderError> {
    let contact = job.ca.email.as_ref().map(|email| format!("mailto:{email}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let new_account = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
    let external = job.ca.external_account.as_ref().map(|(id, key)| ExternalAccountKey::new(id.clone(), key));
    let mut rounds = 1;
    let (account, credentials) = loop {
        let builder = Account::builder_with_http(http_client(job, last));
        match builder.create(&new_account, job.ca.directory.clone(), external.as_ref()).await {
            Err(error) if is_bad_nonce(&error) && rounds < NONCE_ROUNDS_MAX => rounds += 1,
            other => break other?,
        }
    };
    tracing::info!(directory = job.ca.directory, account = account.id(), "registered account with certificate authority");
    progress.registered = serde_json::to_value(&credentials).ok();
    Ok(account)
}

/// Does what the order's state asks for; the chain, once it is there.
async fn step(order: &mut Order, job: &Job, progress: &mut Progress) -> Result<Option<String>, OrderError> {
    match order.state().status {
        OrderStatus::Pending => announce(order, job, progress).await?,
        OrderStatus::Ready => {
            let request = match progress.request.take() {
                Some(request) => request,
                None => make_request(job).await?,
            };
            let request = progress.request.insert(request);
            order.finalize_csr(&request.der).await?;
            if order.state().status == OrderStatus::Valid {
                return Ok(order.certificate().await?);
            }
        }
        OrderStatus::Valid => return Ok(order.certificate().await?),
        OrderStatus::Processing => {}
        OrderStatus::Invalid => return Err(OrderError::Unverified(why_invalid(order).await)),
    }
    Ok(None)
}

/// Opens each challenge that is not open yet, and tells the CA.
async fn announce(order: &mut Order, job: &Job, progress: &mut Progress) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let url = authorization.url().to_owned();
        let name = authorization.identifier().to_string();
        if authorization.status != instant_acme::AuthorizationStatus::Pending || progress.announced.contains(&url) {
            continue;
        }
        let mut challenge = authorization.challenge(ChallengeType::Http01).ok_or(OrderError::NoChallenge(name.clone()))?;
        progress.open.push(job.challenges.open(&challenge.token, &name, challenge.key_authorization().as_str()));
        // After a lost answer the CA may be at it already.
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await?;
        }
        progress.announced.insert(url);
    }
    Ok(())
}

async fn make_request(job: &Job) -> Result<SigningRequest, OrderError> {
    let (domain, key_type) = (job.domain.clone(), job.ca.key_type);
    let made = tokio::task::spawn_blocking(move || issue::make_request(&domain, key_type)).await;
    made.map_err(|error| OrderError::Key(error.to_string()))?.map_err(|error| OrderError::Key(error.to_string()))
}

/// What the CA says of the first name it could not verify.
async fn why_invalid(order: &mut Order) -> String {
    let of_order = order.state().error.as_ref().map(ToString::to_string);
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let error = authorization.challenges.iter().find_map(|challenge| challenge.error.as_ref());
        if let Some(error) = error {
            return format!("`{}`: {error}", authorization.identifier());
        }
    }
    of_order.unwrap_or_else(|| "the order, and does not say why".to_owned())
}

fn finish(job: &Job, chain: String, progress: &mut Progress) -> Result<StoredCertificate, OrderError> {
    // The order was made valid by an earlier request of ours whose key is known: one order has one key.
    let request = progress.request.take().ok_or_else(|| OrderError::Key("the order was finished by somebody else".to_owned()))?;
    let now = UnixTime::since_unix_epoch(clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default());
    issue::check(&chain, &request.key, &job.domain, now)?;
    Ok(StoredCertificate { domain: job.domain.clone(), chain: chain.into_bytes(), key: request.key.into_bytes() })
}

fn identifier(name: String) -> Identifier {
    name.parse().map_or(Identifier::Dns(name), Identifier::Ip)
}

fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if problem.r#type.as_deref() == Some(BAD_NONCE))
}

/// Whether the same step may succeed later: no answer, a cut one, or an error of the CA's own.
fn may_pass(error: &Error, last: &LastAnswer) -> bool {
    match error {
        Error::Api(_) => is_bad_nonce(error) || last.status().is_none_or(|status| status.is_server_error()),
        Error::Json(_) | Error::Hyper(_) | Error::Timeout(_) | Error::Other(_) | Error::Str(_) => true,
        _ => false,
    }
}

fn failure(error: &OrderError, last: &LastAnswer) -> Failure {
    let (is_ca_down, is_refusal) = match error {
        OrderError::Acme(error @ Error::Api(problem)) => {
            (may_pass(error, last), problem.r#type.as_deref() == Some(RATE_LIMITED) || problem.status == Some(429))
        }
        OrderError::Acme(error) => (may_pass(error, last), false),
        OrderError::Timeout(_) => (true, false),
        OrderError::Unverified(_) | OrderError::NoChallenge(_) | OrderError::Refused(_) | OrderError::Key(_) => (false, false),
    };
    let is_refusal = is_refusal || last.status().is_some_and(|status| status == 429 || status.is_server_error());
    Failure { error: error.to_string(), retry_after: last.retry_after().filter(|_| is_refusal), is_ca_down }
}

fn http_client(job: &Job, last: &Arc<LastAnswer>) -> Box<dyn HttpClient> {
    Box::new(Adapter { ca: Arc::clone(&job.ca), last: Arc::clone(last) })
}

/// Our HTTP client as the ACME client wants one.
struct Adapter {
    ca: Arc<Ca>,
    last: Arc<LastAnswer>,
}

impl HttpClient for Adapter {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (ca, last) = (Arc::clone(&self.ca), Arc::clone(&self.last));
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // The client names itself; the CA shall know whom to write to.
            parts.headers.remove(http::header::USER_AGENT);
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let response = ca.send(http::Request::from_parts(parts, body), &last).await;
            let (parts, body) = response.map_err(|error: CaError| Error::Other(Box::new(error)))?.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use instant_acme::Problem;

    use super::*;

    /// An order that ended with `error` after an answer with this status and `Retry-After`: its `Retry-After`, and whether the CA is
    /// to blame.
    #[track_caller]
    fn check(error: impl Into<OrderError>, answer: (u16, Option<u64>), expected: (Option<u64>, bool)) {
        let error = error.into();
        let last = LastAnswer::default();
        last.record(StatusCode::from_u16(answer.0).ok(), answer.1.map(Duration::from_secs));
        let failure = failure(&error, &last);
        assert_eq!((failure.retry_after.map(|after| after.as_secs()), failure.is_ca_down), expected, "{error}");
    }

    fn api(kind: &str) -> Error {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        Error::Api(Problem { r#type: Some(kind), detail: None, status: None, subproblems: Vec::new() })
    }

    #[test]
    fn a_failure_tells_whose_it_is_and_how_long_to_wait() {
        check(api("rejectedIdentifier"), (400, None), (None, false));
        check(api("rateLimited"), (429, Some(20)), (Some(20), false));
        check(api("serverInternal"), (500, None), (None, true));
        check(api("serverInternal"), (503, Some(60)), (Some(60), true));
        check(api("badNonce"), (400, None), (None, true));
        check(Error::Json(serde_json::from_str::<Value>("<html>").unwrap_err()), (200, None), (None, true));
        // What the CA said of its pace while all was well is not about this failure.
        check(OrderError::Unverified("`a.test`".to_owned()), (200, Some(3)), (None, false));
        check(issue::Refused::NoIntermediate, (200, None), (None, false));
    }

    #[test]
    fn an_address_is_ordered_as_one() {
        assert_eq!(identifier("10.0.0.1".to_owned()), Identifier::Ip([10, 0, 0, 1].into()));
        assert_eq!(identifier("a.test".to_owned()), Identifier::Dns("a.test".to_owned()));
    }
}
