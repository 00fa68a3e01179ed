//! What we answer ourselves, in Traefik's words and with its headers.

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::proxy::Session;
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::context::Context;
use crate::middleware::Answer;

/// Traefik's 404.
pub fn not_found() -> Answer {
    Answer::text(StatusCode::NOT_FOUND, "404 page not found")
}

/// Traefik's answer when a service has no server.
pub fn no_server() -> Answer {
    Answer::text(StatusCode::SERVICE_UNAVAILABLE, "no available server")
}

/// The connection was made for another host.
pub fn misdirected() -> Answer {
    Answer::text(StatusCode::MISDIRECTED_REQUEST, "Misdirected Request")
}

/// A request that cannot be understood.
pub fn bad_request() -> Answer {
    Answer::text(StatusCode::BAD_REQUEST, "400 Bad Request")
}

/// A status with its reason as body, without a content type, as Traefik's own proxy answers failures.
pub fn status(status: u16) -> Answer {
    Answer::named(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
}

/// A status and nothing else.
pub fn empty(status: u16) -> Answer {
    Answer { body: Bytes::new(), ..self::status(status) }
}

/// A header's name as Traefik writes it to HTTP/1 clients, some of which look for `Location` letter by letter.
fn titled(name: &str) -> String {
    let mut is_first = true;
    let letter = |letter: char| {
        let written = if is_first { letter.to_ascii_uppercase() } else { letter };
        is_first = letter == '-';
        written
    };
    name.chars().map(letter).collect()
}

/// Sends an answer of ours to the client, after the response side of the middlewares that the request went through.
pub async fn send(session: &mut Session, context: &mut Context, mut own: Answer) -> Result<()> {
    if let (Some(route), Some(memo)) = (&context.route, &context.memo) {
        route.chain.on_answer(memo, &mut own);
    }
    let length = own.body.len();
    let is_head = session.req_header().method == http::Method::HEAD;
    let body = if is_head { Bytes::new() } else { own.body };
    context.seen.withheld_bytes = if is_head { length as u64 } else { 0 };
    let mut head = ResponseHeader::build(own.status, Some(own.headers.len() + 2))?;
    for (name, value) in &own.headers {
        head.append_header(titled(name.as_str()), value.clone())?;
    }
    head.insert_header(header::CONTENT_LENGTH, length)?;
    context.seen.status = own.status.as_u16();
    session.write_response_header(Box::new(head), body.is_empty()).await?;
    // Also when it is empty: the engine does not say with a head that nothing follows, and the head would wait for ever.
    session.write_response_body(Some(body), true).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_traefik_writes_them() {
        for name in ["Location", "X-Content-Type-Options", "Www-Authenticate", "X-1a-B"] {
            assert_eq!(titled(&name.to_ascii_lowercase()), name);
        }
    }
}
