//! Where the body of an HTTP/1 request ends (RFC 9112 sections 6 and 7): bytes in, body out, no IO.
//!
//! What lies behind the end stays in the input for the next request; no other parser ever sees it. Chunked framing is read
//! strictly: sizes are hexadecimal digits only, lines end with CRLF only, extensions and trailers are bounded. Trailers are
//! checked and dropped: the engine has no door for the trailers of a request.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memchr;

use super::head;

/// Digits of a chunk's size: sixteen hold every `u64`, and leading zeros do not hide more.
const SIZE_DIGITS_MAX: usize = 16;
/// Bytes of one chunk's size line, extensions included.
const SIZE_LINE_BYTES_MAX: usize = 1024;
/// Bytes of all extensions of one body: more is no message but an attempt to keep us busy.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;
/// Bytes of the trailer section.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// A piece at least so large leaves the input without being copied.
const SHARED_BYTES_MIN: usize = 4096;

/// How a request says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes; none is no body.
    Length(u64),
    /// With the last chunk.
    Chunked,
}

/// The framing is broken; where the message ends cannot be known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBody {
    /// Not hexadecimal digits, too many of them, or something behind them that is no extension.
    #[error("malformed chunk size")]
    Size,
    /// Too long, or with a control character.
    #[error("malformed or oversized chunk extension")]
    Extension,
    /// A chunk that does not end with CRLF.
    #[error("chunk does not end with CRLF")]
    ChunkEnd,
    /// Not headers, or too many.
    #[error("malformed or oversized trailers")]
    Trailer,
}

/// What the input held.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Body.
    Data(Bytes),
    /// Nothing yet; more input is needed.
    More,
    /// The body is complete.
    End,
}

/// A body being read.
#[derive(Debug)]
pub struct Body {
    state: State,
    extension_bytes: usize,
    trailer_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// So many bytes to go.
    Length(u64),
    /// At a chunk's size line.
    Size,
    /// So many bytes of a chunk to go.
    Chunk(u64),
    /// At the CRLF behind a chunk.
    ChunkEnd,
    /// In the trailer section.
    Trailer,
    /// Complete.
    Done,
}

impl Body {
    /// A body framed so, from its beginning.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
        };
        Self { state, extension_bytes: 0, trailer_bytes: 0 }
    }

    /// Whether all of it was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// How many bytes are still to come, where the framing says it.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// So many of the bytes that come next are body and nothing else: they may be read past the input and reported to [`Self::took`].
    pub fn plain_bytes(&self) -> u64 {
        match self.state {
            State::Length(left) | State::Chunk(left) => left,
            _ => 0,
        }
    }

    /// `count` bytes of [`Self::plain_bytes`] were read.
    pub fn took(&mut self, count: u64) {
        self.state = match self.state {
            State::Length(left) if left > count => State::Length(left - count),
            State::Length(_) => State::Done,
            State::Chunk(left) if left > count => State::Chunk(left - count),
            State::Chunk(_) => State::ChunkEnd,
            other => other,
        };
    }

    /// Takes from `input` what it has of the body, and nothing beyond. Small chunks that came together leave together.
    ///
    /// # Errors
    /// Framing that is broken or beyond a limit.
    pub fn read(&mut self, input: &mut BytesMut) -> Result<Piece, InvalidBody> {
        let mut gathered = BytesMut::new();
        loop {
            let plain = usize::try_from(self.plain_bytes()).unwrap_or(usize::MAX).min(input.len());
            if plain > 0 {
                // Counted only when it is taken: a large piece behind gathered ones waits for the next call.
                if plain >= SHARED_BYTES_MIN && gathered.is_empty() {
                    let piece = input.split_to(plain).freeze();
                    self.took(plain as u64);
                    self.skip_framing(input)?;
                    return Ok(Piece::Data(piece));
                }
                if plain >= SHARED_BYTES_MIN {
                    return Ok(Piece::Data(gathered.freeze()));
                }
                gathered.extend_from_slice(&input.split_to(plain));
                self.took(plain as u64);
            }
            self.skip_framing(input)?;
            if self.plain_bytes() == 0 || input.is_empty() {
                break;
            }
        }
        Ok(match (gathered.is_empty(), self.is_done()) {
            (false, _) => Piece::Data(gathered.freeze()),
            (true, true) => Piece::End,
            (true, false) => Piece::More,
        })
    }

    /// Goes over complete lines of framing, until body bytes come or the input ends.
    fn skip_framing(&mut self, input: &mut BytesMut) -> Result<(), InvalidBody> {
        loop {
            self.state = match self.state {
                State::Size => match self.read_size(input)? {
                    Some(0) => State::Trailer,
                    Some(size) => State::Chunk(size),
                    None => return Ok(()),
                },
                State::ChunkEnd => match input.get(..2) {
                    Some(b"\r\n") => {
                        input.advance(2);
                        State::Size
                    }
                    Some(_) => return Err(InvalidBody::ChunkEnd),
                    None if input.first().is_none_or(|&byte| byte == b'\r') => return Ok(()),
                    None => return Err(InvalidBody::ChunkEnd),
                },
                State::Trailer => match self.skip_trailer(input)? {
                    true => State::Done,
                    false => return Ok(()),
                },
                State::Length(_) | State::Chunk(_) | State::Done => return Ok(()),
            };
        }
    }

    /// RFC 9112 section 7.1: `chunk-size [ chunk-ext ] CRLF`.
    fn read_size(&mut self, input: &mut BytesMut) -> Result<Option<u64>, InvalidBody> {
        let end = memchr(b'\n', input);
        let line = input.get(..end.unwrap_or(input.len())).unwrap_or_default();
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = line.get(digits..).unwrap_or_default();
        if digits > SIZE_DIGITS_MAX || (digits == 0 && !line.is_empty()) || line.len() > SIZE_LINE_BYTES_MAX {
            return Err(InvalidBody::Size);
        }
        // Complete or not, what is there must be able to become a size line.
        if !matches!(extension, [] | [b'\r'] | [b';', ..]) {
            return Err(InvalidBody::Size);
        }
        let Some(end) = end else { return Ok(None) };
        let (true, Some(extension)) = (digits > 0, extension.strip_suffix(b"\r")) else { return Err(InvalidBody::Size) };
        self.extension_bytes += extension.len();
        if self.extension_bytes > EXTENSION_BYTES_MAX || !head::is_field_value(extension) {
            return Err(InvalidBody::Extension);
        }
        let size = line
            .iter()
            .take(digits)
            .try_fold(0_u64, |size, &digit| Some((size << 4) | u64::from(char::from(digit).to_digit(16)?)))
            .ok_or(InvalidBody::Size)?;
        input.advance(end + 1);
        Ok(Some(size))
    }

    /// RFC 9112 section 7.1.2. True when its empty line was reached.
    fn skip_trailer(&mut self, input: &mut BytesMut) -> Result<bool, InvalidBody> {
        while let Some(end) = memchr(b'\n', input) {
            self.trailer_bytes += end + 1;
            let line = input.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(InvalidBody::Trailer)?;
            let is_last = line.is_empty();
            let (name, value) = line.split_at_checked(memchr(b':', line).unwrap_or(0)).unwrap_or_default();
            let is_field = !name.is_empty() && head::is_token(name) && head::is_field_value(value);
            if self.trailer_bytes > TRAILER_BYTES_MAX || !(is_last || is_field) {
                return Err(InvalidBody::Trailer);
            }
            input.advance(end + 1);
            if is_last {
                return Ok(true);
            }
        }
        if self.trailer_bytes + input.len() > TRAILER_BYTES_MAX { Err(InvalidBody::Trailer) } else { Ok(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces` one after another; gives the body and what was left, or the error.
    fn read(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Vec<u8>, bool), InvalidBody> {
        let mut body = Body::new(framing);
        let mut input = BytesMut::new();
        let mut out = Vec::new();
        for piece in pieces {
            input.extend_from_slice(piece);
            while let Piece::Data(data) = body.read(&mut input)? {
                assert!(!data.is_empty());
                out.extend_from_slice(&data);
            }
        }
        Ok((out, input.to_vec(), body.is_done()))
    }

    #[track_caller]
    fn check(input: &str, expected: Result<&str, InvalidBody>) {
        let got = read(Framing::Chunked, &[input.as_bytes()]);
        let expected = expected.map(|body| body.as_bytes().to_vec());
        assert_eq!(got.map(|(body, _, _)| body), expected, "{input:?}");
    }

    #[test]
    fn chunks_are_read_strictly() {
        check("3\r\nabc\r\n0\r\n\r\n", Ok("abc"));
        check("3;a=b;c=\"d\"\r\nabc\r\n1\r\nd\r\n00\r\nX: y\r\n\r\n", Ok("abcd"));
        check("000000000000000A\r\n0123456789\r\n0\r\n\r\n", Ok("0123456789"));
        for size in ["x", "", " 3", "3 ", "+3", "-1", "0x3", "3\t;a", "10000000000000000", "3\n", "\n", "ffffffffffffffffff"] {
            check(&format!("{size}\r\nabc\r\n0\r\n\r\n"), Err(InvalidBody::Size));
        }
        check("3\nabc\r\n0\r\n\r\n", Err(InvalidBody::Size));
        check("3\r\nabcd\r\n", Err(InvalidBody::ChunkEnd));
        check("3\r\nabc\n0\r\n\r\n", Err(InvalidBody::ChunkEnd));
        check("3\r\nabcX", Err(InvalidBody::ChunkEnd));
        check("3;a\rb\r\nabc", Err(InvalidBody::Extension));
        check("3;a\0\r\nabc", Err(InvalidBody::Extension));
        check(&format!("3;{}\r\nabc", "a".repeat(SIZE_LINE_BYTES_MAX)), Err(InvalidBody::Size));
        check(&format!("1;{}\r\na\r\n", "x".repeat(999)).repeat(20), Err(InvalidBody::Extension));
        for trailer in [" a: b", "a b: c", "ab", ": x", "a: b\nc: d", "a: \0", "\u{e9}: a"] {
            check(&format!("0\r\n{trailer}\r\n\r\n"), Err(InvalidBody::Trailer));
        }
        check(&format!("0\r\na: {}", "b".repeat(TRAILER_BYTES_MAX)), Err(InvalidBody::Trailer));
        check(&format!("0\r\n{}", "a: b\r\n".repeat(TRAILER_BYTES_MAX / 6 + 1)), Err(InvalidBody::Trailer));
        check("0\r\n\n", Err(InvalidBody::Trailer));
    }

    #[test]
    fn a_body_split_anywhere_is_the_same_body() {
        let large = "x".repeat(SHARED_BYTES_MIN + 1);
        let chunked = format!("3;e\r\nabc\r\n{:x}\r\n{large}\r\n1\r\nd\r\n0\r\nT: u\r\n\r\n", large.len());
        for (framing, wire, body) in [
            (Framing::Chunked, chunked.clone(), format!("abc{large}d")),
            (Framing::Length(5), "hello".to_owned(), "hello".to_owned()),
            (Framing::Length(0), String::new(), String::new()),
        ] {
            let wire = [wire.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            for cut in 0..wire.len() {
                let (got, left, done) = read(framing, &[&wire[..cut], &wire[cut..]]).unwrap();
                assert!(got == body.as_bytes(), "cut at {cut}");
                assert_eq!(left, b"GET / HTTP/1.1\r\n", "cut at {cut}");
                assert!(done);
            }
        }
    }

    #[test]
    fn small_chunks_that_came_together_leave_together() {
        let mut body = Body::new(Framing::Chunked);
        let mut input = BytesMut::from("1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n");
        assert_eq!(body.read(&mut input), Ok(Piece::Data(Bytes::from_static(b"abc"))));
        assert!(body.is_done(), "the end is noticed with the last piece");
        assert_eq!(body.read(&mut input), Ok(Piece::End));
    }

    #[test]
    fn plain_bytes_may_be_read_past_the_input() {
        let mut body = Body::new(Framing::Chunked);
        let mut input = BytesMut::from("8\r\nab");
        assert_eq!(body.read(&mut input), Ok(Piece::Data(Bytes::from_static(b"ab"))));
        assert_eq!(body.plain_bytes(), 6);
        body.took(6);
        assert_eq!(body.plain_bytes(), 0);
        let mut input = BytesMut::from("\r\n0\r\n\r\n");
        assert_eq!(body.read(&mut input), Ok(Piece::End));
    }
}
