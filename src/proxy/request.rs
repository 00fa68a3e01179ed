//! From a request's head to who answers it: path and headers made safe, route, middlewares, target.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Uri, Version, header};
use pingora::proxy::Session;
use pingora_http::RequestHeader;

use super::context::Context;
use super::order::Ordered;
use super::shared::Shared;
use super::{answer, failure};
use crate::admin::AdminRequest;
use crate::listener;
use crate::middleware::{Answer, Memo, RequestView, Step, forwarded};
use crate::routing::entrypoint::Connection;
use crate::routing::snapshot::{Internal, Route, Table, Target};
use crate::rule::http::{RequestFacts, normal_host, normal_path, normal_query};
use crate::tls::challenge::ChallengeAnswer;

/// What becomes of a request after its head was read.
pub enum Received {
    /// It goes to `context.service`.
    Forward,
    /// We answer it ourselves.
    Answered(Answer),
    /// It orders something, and is answered when that is done.
    Ordered(Ordered),
}

/// Reads the head of a request and settles who answers it.
pub fn receive(shared: &Shared, session: &mut Session, context: &mut Context) -> Received {
    let Some(connection) = listener::connection_of(session).cloned() else { return Received::Answered(answer::status(500)) };
    let mut head = take_head(session);
    context.count = shared.access_log.as_ref().map_or(0, |log| log.begin());
    context.method = head.method.clone();
    context.connection = Some(Arc::clone(&connection));
    context.snapshot = Some(shared.snapshots.current());
    let received = settle(shared, &connection, &mut head, context).unwrap_or_else(|own| Received::Answered(*own));
    *session.req_header_mut() = RequestHeader::from(head);
    received
}

/// Takes the head out of the session, as the `http` crate's type. The caller puts it back.
fn take_head(session: &mut Session) -> http::request::Parts {
    let (empty, ()) = http::Request::new(()).into_parts();
    std::mem::replace(session.req_header_mut(), RequestHeader::from(empty)).into()
}

/// `Err` is an answer of ours.
fn settle(
    shared: &Shared,
    connection: &Connection,
    head: &mut http::request::Parts,
    context: &mut Context,
) -> Result<Received, Box<Answer>> {
    if head.method == Method::CONNECT {
        return Err(Box::new(answer::empty(501)));
    }
    if head.method == Method::OPTIONS && head.uri.path() == "*" {
        return Err(Box::new(answer::empty(200)));
    }
    // For the log, should it be one that we cannot read.
    context.uri = head.uri.clone();
    let host = host_of(head).ok_or_else(|| Box::new(answer::bad_request()))?;
    let routing_path = clean_target(connection, head).map_err(|BadTarget| Box::new(answer::bad_request()))?;
    // What rules and servers see; redirections lead to the query as it came.
    context.uri = match served_query(connection, &head.uri) {
        Some(query) => with_query(&head.uri, &query)?,
        None => head.uri.clone(),
    };
    let host_text = host.to_str().map_err(|_opaque| Box::new(answer::bad_request()))?;
    context.host = Some(host.clone());
    let name = normal_host(host_text);
    if let Some(own) = answer_challenge(shared, connection, head, &name) {
        context.is_challenge = true;
        return Err(Box::new(own));
    }
    forwarded::receive(&mut head.headers, Some(&host), &connection.peer, &connection.entrypoint.forwarded);
    if connection.peer.is_trusted() {
        context.forwarded_for = head.headers.get("x-forwarded-for").cloned();
    }
    let snapshot = context.snapshot.clone().ok_or_else(|| Box::new(answer::not_found()))?;
    let table = snapshot.tables.get(connection.entrypoint.index).ok_or_else(|| Box::new(answer::not_found()))?;
    let facts = RequestFacts {
        host: &name,
        method: head.method.as_str(),
        path: routing_path.as_deref().unwrap_or(head.uri.path()),
        query: context.uri.query(),
        headers: &head.headers,
        client: connection.client.ip(),
    };
    let routes = if connection.tls.is_some() { &table.https } else { &table.http };
    let route = routes.find(&facts).ok_or_else(|| Box::new(answer::not_found()))?;
    context.route = Some(Arc::clone(route));
    if is_misdirected(table, connection, &name) {
        return Err(Box::new(answer::misdirected()));
    }
    let hides_client = run_middlewares(route, connection, head, host_text, context)?;
    finish(shared, route, connection, head, hides_client, context)
}

/// The Host that the client means. An absolute target wins over the header (RFC 9112 section 3.2.2); HTTP/2 has `:authority`.
fn host_of(head: &mut http::request::Parts) -> Option<HeaderValue> {
    let from_target = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let from_header = hosts.next().cloned();
    if hosts.next().is_some() {
        return None;
    }
    let host = match (from_target, from_header) {
        // An HTTP/2 request whose Host contradicts its `:authority` is malformed (RFC 9113 section 8.3.1).
        (Some(target), Some(header))
            if head.version == Version::HTTP_2 && !header.as_bytes().eq_ignore_ascii_case(target.as_bytes()) =>
        {
            return None;
        }
        (Some(target), _) => target,
        (None, Some(header)) => return is_host(&header).then_some(header),
        (None, None) => return (head.version == Version::HTTP_10).then(|| HeaderValue::from_static("")),
    };
    if !is_host(&host) {
        return None;
    }
    head.headers.insert(header::HOST, host.clone());
    Some(host)
}

/// A host has no user in front of it.
fn is_host(host: &HeaderValue) -> bool {
    !host.as_bytes().contains(&b'@')
}

/// The target is not one that we can route.
struct BadTarget;

/// Brings the path into the form that servers get. Gives what rules see when that differs: they ask about the path with
/// its escapes undone.
fn clean_target(connection: &Connection, head: &mut http::request::Parts) -> Result<Option<String>, BadTarget> {
    let settings = &connection.entrypoint.settings;
    let path = normal_path(head.uri.path(), settings.sanitize_path).map_err(|_bad| BadTarget)?;
    let routing = (path.routing() != path.sent()).then(|| path.routing().to_owned());
    if path.is_changed() || head.uri.authority().is_some() {
        let target = match head.uri.query() {
            Some(query) => format!("{}?{query}", path.sent()),
            None => path.sent().to_owned(),
        };
        head.uri = Uri::from(PathAndQuery::try_from(target).map_err(|_bad| BadTarget)?);
    }
    Ok(routing)
}

/// The query as servers get it, if that is not how it came: without semicolons, which some of them take for `&` and some do not.
fn served_query(connection: &Connection, uri: &Uri) -> Option<String> {
    let query = uri.query()?;
    if connection.entrypoint.settings.encode_query_semicolons {
        return query.contains(';').then(|| query.replace(';', "%3B"));
    }
    match normal_query(query) {
        Cow::Owned(normal) => Some(normal),
        Cow::Borrowed(_) => None,
    }
}

/// The same target with another query.
fn with_query(uri: &Uri, query: &str) -> Result<Uri, Box<Answer>> {
    let target = PathAndQuery::try_from(format!("{}?{query}", uri.path()));
    target.map(Uri::from).map_err(|_bad| Box::new(answer::bad_request()))
}

/// Answers HTTP-01 challenges before any middleware, so that nothing in front of the site can keep its certificate away.
fn answer_challenge(shared: &Shared, connection: &Connection, head: &http::request::Parts, host: &str) -> Option<Answer> {
    if !shared.challenge_entrypoints.contains(&connection.entrypoint.index) {
        return None;
    }
    match shared.challenges.answer(head.uri.path(), host) {
        ChallengeAnswer::NotAChallenge => None,
        ChallengeAnswer::Unknown => Some(answer::empty(404)),
        ChallengeAnswer::Token(body) => {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Some(Answer { status: http::StatusCode::OK, headers, body: Bytes::copy_from_slice(body.as_bytes()) })
        }
    }
}

/// Whether the connection was made with TLS options other than the ones this host needs (RFC 9110 section 15.5.20).
fn is_misdirected(table: &Table, connection: &Connection, host: &str) -> bool {
    let Some(tls) = &connection.tls else { return false };
    tls.server_name.as_deref() != Some(host) && table.tls.as_ref().is_some_and(|table| table.options_id(host) != tls.options)
}

/// Runs the request side of the route's middlewares. `Err` is what one of them answers; `Ok` tells whether one hides the client.
fn run_middlewares(
    route: &Route,
    connection: &Connection,
    head: &mut http::request::Parts,
    host: &str,
    context: &mut Context,
) -> Result<bool, Box<Answer>> {
    if route.chain.is_empty() {
        return Ok(false);
    }
    let is_slow = route.chain.is_slow_for(&head.headers);
    let mut view = RequestView {
        method: &head.method,
        is_tls: connection.tls.is_some(),
        host: Cow::Borrowed(host),
        target: Cow::Borrowed(head.uri.path_and_query().map_or("/", PathAndQuery::as_str)),
        headers: &mut head.headers,
        client: connection.client.ip(),
        user: None,
        hides_client: false,
    };
    let run = |view: &mut RequestView<'_>| route.chain.on_request(view);
    // Checking a new password takes milliseconds: other requests of this thread go on elsewhere meanwhile.
    let (memo, step): (Memo, Step) =
        if is_slow && has_other_threads() { tokio::task::block_in_place(|| run(&mut view)) } else { run(&mut view) };
    context.memo = Some(memo);
    context.seen.user = view.user.take();
    let hides_client = view.hides_client;
    let host = if let Cow::Owned(host) = view.host { Some(host) } else { None };
    let target = if let Cow::Owned(target) = view.target { Some(target) } else { None };
    if let Step::Answer(own) = step {
        return Err(Box::new(own));
    }
    if let Some(host) = host {
        head.headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|_invalid| Box::new(answer::bad_request()))?);
    }
    if let Some(target) = target {
        head.uri = Uri::from(PathAndQuery::try_from(target).map_err(|_invalid| Box::new(answer::bad_request()))?);
    }
    Ok(hides_client)
}

/// Whether other requests can go on while this thread computes.
fn has_other_threads() -> bool {
    tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread
}

/// Finds who answers in the end, and makes the head ready for a server.
fn finish(
    shared: &Shared,
    route: &Route,
    connection: &Connection,
    head: &mut http::request::Parts,
    hides_client: bool,
    context: &mut Context,
) -> Result<Received, Box<Answer>> {
    let mut target = Some(&route.target);
    while let Some(Target::Weighted(weighted)) = target {
        target = weighted.pick();
    }
    match target {
        Some(Target::Service(service)) => {
            context.is_idempotent = failure::is_idempotent(&head.method);
            context.service = Some(Arc::clone(service));
            if let Some(query) = served_query(connection, &head.uri) {
                head.uri = with_query(&head.uri, &query)?;
            }
            forwarded::send(&mut head.headers, &connection.peer, &connection.entrypoint.forwarded, hides_client);
            Ok(Received::Forward)
        }
        Some(Target::Internal(Internal::Api)) if let Some(ordered) = Ordered::find(shared, head) => {
            Ok(Received::Ordered(ordered))
        }
        Some(Target::Internal(internal)) => Err(Box::new(answer_internal(shared, *internal, head, context))),
        Some(Target::Nobody) => Err(Box::new(answer::empty(418))),
        // No weight is above nothing; a weighted target was gone through above.
        None | Some(Target::Weighted(_)) => Err(Box::new(answer::no_server())),
    }
}

fn answer_internal(shared: &Shared, internal: Internal, head: &http::request::Parts, context: &Context) -> Answer {
    let Some(snapshot) = &context.snapshot else { return answer::not_found() };
    match internal {
        Internal::Ping => shared.ping(),
        Internal::Prometheus => shared.render_metrics(),
        Internal::Api | Internal::Dashboard => shared.answer_api(
            snapshot,
            AdminRequest {
                method: &head.method,
                scheme: if context.connection.as_ref().is_some_and(|connection| connection.tls.is_some()) {
                    "https"
                } else {
                    "http"
                },
                host: context.host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
                target: head.uri.path_and_query().map_or("/", PathAndQuery::as_str),
            },
        ),
    }
}
