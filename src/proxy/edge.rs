//! The one `ProxyHttp`: each of the engine's phases is one call of ours.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};

use super::context::Context;
use super::failure::{self, Failure};
use super::shared::Shared;
use super::{answer, request, upstream};
use crate::clock;
use crate::listener::HEAD_LATE;

/// The error by which a canary's failed answer is taken back, so that stable answers instead.
pub const SHIELDED: ErrorType = ErrorType::Custom("shielded");

/// What serves every request of every entrypoint.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
}

impl Edge {
    /// An edge that reads what control publishes into `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(clock::now(), clock::wall())
    }

    /// No modules: the default would box one per request.
    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        match request::receive(&self.shared, session, context) {
            request::Received::Forward => Ok(false),
            request::Received::Answered(own) => {
                answer::send(session, context, own).await?;
                Ok(true)
            }
            request::Received::Ordered(ordered) => {
                let own = Box::pin(ordered.answer(&self.shared.steering)).await;
                answer::send(session, context, own).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        upstream::choose(&self.shared, session, context)
    }

    async fn upstream_request_filter(&self, _: &mut Session, head: &mut RequestHeader, context: &mut Context) -> Result<()> {
        upstream::address(head, context)
    }

    async fn response_filter(&self, session: &mut Session, head: &mut ResponseHeader, context: &mut Context) -> Result<()> {
        upstream::answered(&self.shared, session, head, context)
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        context.seen.origin_bytes += body.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let now = clock::now();
        *body = context.transform_body(body.take(), end, now)?;
        context.origin_sent(now, end);
        Ok(None)
    }

    /// Trailers end a body too. What compresses it has something left to say then, which the engine sends in their place.
    async fn response_trailer_filter(&self, _: &mut Session, _: &mut HeaderMap, context: &mut Context) -> Result<Option<Bytes>> {
        let now = clock::now();
        let rest = context.transform_body(None, true, now)?;
        context.origin_sent(now, true);
        Ok(rest)
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, context: &mut Context, mut error: Box<Error>) -> Box<Error> {
        let failure = failure_to_connect(&error);
        let repeat = upstream::attempt_failed(&self.shared, context, failure, true);
        error.set_retry(repeat);
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        is_reused: bool,
    ) -> Box<Error> {
        let has_head = session.response_written().is_some();
        let failure = failure_of(&error, is_reused, has_head);
        let is_replayable = !session.as_ref().retry_buffer_truncated();
        let repeat = upstream::attempt_failed(&self.shared, context, failure, is_replayable) && !has_head;
        error.set_retry(repeat);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let own = match error.etype() {
            ErrorType::HTTPStatus(503) => answer::no_server(),
            ErrorType::HTTPStatus(status) => answer::status(*status),
            _ => answer::status(context.seen.failure.unwrap_or(Failure::Internal).status()),
        };
        let code = own.status.as_u16();
        if session.response_written().is_none() && code != 499 {
            if let Err(error) = answer::send(session, context, own).await {
                tracing::debug!(%error, "could not send an error to the client");
            }
        } else {
            context.seen.status = session.response_written().map_or(code, |head| head.status.as_u16());
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, context: &mut Context) {
        context.close(&self.shared, session);
    }

    /// Failures are counted and logged by us, once, when the request ends.
    fn suppress_error_log(&self, _: &Session, _: &Context, error: &Error) -> bool {
        tracing::debug!(%error, "request failed");
        true
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, error: &Error, _: ProxyWarnLogContext) -> bool {
        tracing::debug!(%error, "attempt failed");
        true
    }
}

/// How an attempt failed that got no connection.
fn failure_to_connect(error: &Error) -> Failure {
    match error.etype() {
        ErrorType::ConnectRefused => Failure::Refused,
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Failure::ConnectTimeout,
        // We are out of sockets: nothing that a server could be blamed for.
        ErrorType::InternalError => Failure::Internal,
        _ if failure::is_distrust(error) => Failure::Distrusted,
        _ => Failure::Connect,
    }
}

/// How an attempt failed after its connection stood.
fn failure_of(error: &Error, is_reused: bool, has_head: bool) -> Failure {
    if *error.etype() == SHIELDED {
        return Failure::Shielded;
    }
    if *error.etype() == HEAD_LATE {
        return Failure::Silent;
    }
    let is_unprocessed = error.retry == RetryType::Decided(true);
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, _) => Failure::ClientGone,
        (ErrorSource::Upstream, ErrorType::H2Error | ErrorType::H2Downgrade) if is_unprocessed && !has_head => {
            Failure::Unprocessed
        }
        (_, ErrorType::ReadTimedout) => {
            if has_head {
                Failure::Paused
            } else {
                Failure::Silent
            }
        }
        (ErrorSource::Upstream, _) if has_head => Failure::BodyBroken,
        (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::InvalidH2) => Failure::NotHttp,
        (ErrorSource::Upstream, ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed) if is_reused => {
            Failure::Stale
        }
        (ErrorSource::Upstream, _) => Failure::Broken,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Failure::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: ErrorSource, kind: ErrorType, is_reused: bool, has_head: bool, expected: Failure) {
        let mut error = Error::new(kind);
        error.esource = source;
        assert_eq!(failure_of(&error, is_reused, has_head), expected, "{error}");
    }

    #[test]
    fn an_answer_that_breaks_off_after_its_head_is_the_servers_failure_not_the_clients() {
        check(ErrorSource::Upstream, ErrorType::ConnectionClosed, true, true, Failure::BodyBroken);
        check(ErrorSource::Upstream, ErrorType::ReadTimedout, false, true, Failure::Paused);
        check(ErrorSource::Downstream, ErrorType::WriteError, false, true, Failure::ClientGone);
    }

    #[test]
    fn before_the_head_it_matters_whether_the_connection_was_used_before() {
        check(ErrorSource::Upstream, ErrorType::ConnectionClosed, true, false, Failure::Stale);
        check(ErrorSource::Upstream, ErrorType::ConnectionClosed, false, false, Failure::Broken);
        check(ErrorSource::Upstream, ErrorType::ReadTimedout, true, false, Failure::Silent);
        check(ErrorSource::Upstream, ErrorType::InvalidHTTPHeader, false, false, Failure::NotHttp);
    }

    #[test]
    fn servers_are_not_blamed_when_we_are_out_of_sockets() {
        assert_eq!(failure_to_connect(&Error::new_up(ErrorType::InternalError)), Failure::Internal);
    }

    #[test]
    fn only_a_refusal_is_known_at_once() {
        assert_eq!(failure_to_connect(&Error::new_up(ErrorType::ConnectRefused)), Failure::Refused);
        assert_eq!(failure_to_connect(&Error::new_up(ErrorType::ConnectNoRoute)), Failure::Connect);
        assert_eq!(failure_to_connect(&Error::new_up(ErrorType::TLSHandshakeTimedout)), Failure::ConnectTimeout);
    }

    #[test]
    fn a_stream_that_an_http_2_server_refused_was_not_processed() {
        let mut error = Error::new_up(ErrorType::H2Error);
        assert_eq!(failure_of(&error, true, false), Failure::Broken);
        error.retry = RetryType::Decided(true);
        assert_eq!(failure_of(&error, true, false), Failure::Unprocessed);
    }
}
