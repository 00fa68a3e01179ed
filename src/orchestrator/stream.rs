//! Nomad's event stream: lines out of whatever pieces arrive, and the end of a stream that has fallen silent.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::event::{Batch, Line, parse_line};
use crate::clock;

/// Nomad sends `{}` every 30 s. Without any line for so long a stream is dead.
pub const SILENCE_MAX: Duration = Duration::from_secs(45);
/// A longer line is none of Nomad's. A plan that moves 1000 allocations is about 5 MB.
const LINE_BYTES_MAX: usize = 32 << 20;

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamEnd {
    /// The server said so: it restarts, or the token was changed.
    #[error("nomad ended its event stream")]
    Closed,
    /// The connection was cut.
    #[error("nomad's event stream broke off")]
    Broken(#[source] Option<reqwest::Error>),
    /// Nothing came, not even a sign of life.
    #[error("nomad's event stream was silent for {0:?}")]
    Silent(Duration),
    /// Something came that has no end.
    #[error("nomad's event stream sent a line of more than {LINE_BYTES_MAX} bytes")]
    TooLong,
}

/// What arrived at once.
#[derive(Debug, Default, PartialEq)]
pub struct Burst {
    /// The lines that say something, in order.
    pub batches: Vec<Batch>,
    /// How many lines and events could not be read: what they said is not known.
    pub skipped: usize,
    /// The server says that it ends the stream.
    pub is_closed: bool,
}

/// A stream that is being read.
pub struct Stream {
    response: reqwest::Response,
    rest: Rest,
    silence_max: Duration,
    heard_at: Instant,
}

impl Stream {
    /// Reads on in an answer whose head has come.
    pub fn new(response: reqwest::Response, silence_max: Duration) -> Self {
        Self { response, rest: Rest::default(), silence_max, heard_at: clock::now() }
    }

    /// Waits for what comes next. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Result<Burst, StreamEnd> {
        loop {
            let deadline = tokio::time::Instant::from_std(self.heard_at + self.silence_max);
            let piece = tokio::time::timeout_at(deadline, self.response.chunk()).await;
            let piece = piece.map_err(|_elapsed| StreamEnd::Silent(self.silence_max))?;
            let (lines, is_end) = match piece {
                Ok(Some(piece)) => (self.rest.push(&piece)?, false),
                Ok(None) => (self.rest.take(), true),
                Err(error) => return Err(StreamEnd::Broken(Some(error))),
            };
            if !lines.is_empty() {
                self.heard_at = clock::now();
                return Ok(read(&lines));
            }
            if is_end {
                return Err(StreamEnd::Broken(None));
            }
        }
    }
}

fn read(lines: &[Bytes]) -> Burst {
    let mut burst = Burst::default();
    for line in lines {
        match parse_line(line) {
            Line::Heartbeat => {}
            Line::Batch(batch) => {
                burst.skipped += batch.skipped;
                burst.batches.push(batch);
            }
            Line::Closed => burst.is_closed = true,
            Line::Unreadable => burst.skipped += 1,
        }
    }
    burst
}

/// What has come of a line that is not complete yet.
#[derive(Default)]
struct Rest(Vec<u8>);

impl Rest {
    /// The lines that a piece completes. Empty ones say nothing.
    fn push(&mut self, piece: &[u8]) -> Result<Vec<Bytes>, StreamEnd> {
        let mut lines = Vec::new();
        let mut parts = piece.split(|byte| *byte == b'\n');
        // There is always a last part: what follows the last line end, perhaps nothing.
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.0.extend_from_slice(part);
            lines.extend(self.take());
        }
        self.0.extend_from_slice(last);
        if self.0.len() > LINE_BYTES_MAX { Err(StreamEnd::TooLong) } else { Ok(lines) }
    }

    /// The line as it is, if there is anything of it.
    fn take(&mut self) -> Vec<Bytes> {
        let line = Bytes::from(std::mem::take(&mut self.0));
        if line.trim_ascii().is_empty() { Vec::new() } else { vec![line] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[&str], expected: &[&[&str]]) {
        let mut rest = Rest::default();
        let found: Vec<Vec<Bytes>> = pieces.iter().map(|piece| rest.push(piece.as_bytes()).unwrap()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lines_are_put_together_however_they_are_cut() {
        check(&["{}\n{\"a\":1}\n"], &[&["{}", "{\"a\":1}"]]);
        check(&["{", "}", "\n{", "}\n\n"], &[&[], &[], &["{}"], &["{}"]]);
        check(&["", "\n", "x"], &[&[], &[], &[]]);
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let mut rest = Rest::default();
        assert_eq!(rest.push(b"{}\nsubscription closed by server, client should resubscribe").unwrap().len(), 1);
        let burst = read(&rest.take());
        assert_eq!(burst, Burst { is_closed: true, ..Burst::default() });
        assert!(rest.take().is_empty());
    }

    #[test]
    fn a_line_without_end_is_given_up() {
        let mut rest = Rest::default();
        let piece = vec![b'x'; LINE_BYTES_MAX / 2 + 1];
        assert!(rest.push(&piece).is_ok());
        assert!(matches!(rest.push(&piece), Err(StreamEnd::TooLong)));
    }

    #[test]
    fn what_cannot_be_read_is_counted() {
        let lines =
            [Bytes::from_static(b"{}"), Bytes::from_static(b"nonsense"), Bytes::from_static(br#"{"Index":7,"Events":[3]}"#)];
        let burst = read(&lines);
        assert_eq!((burst.skipped, burst.batches.len()), (2, 1));
    }
}
