//! A client's bytes with one buffer each way and one timer: what every protocol here reads from and writes to.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::clock;

use super::timer::Timer;
use super::transport::Transport;

/// What is read at once when the amount is not known.
pub(super) const READ_BYTES: usize = 8 * 1024;
/// What is read at once of a large body.
const LARGE_READ_BYTES: u64 = 64 * 1024;
/// How long a client may take no byte of what we send where `writeTimeout` sets no limit.
pub(super) const WRITE_SILENCE_MAX: Duration = Duration::from_secs(300);
/// How long we read on after our last byte, so that the client gets to see it: closing with unread bytes would reset the connection.
const LINGER_MAX: Duration = Duration::from_secs(1);
/// How much is read then.
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Why reading or writing ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The deadline passed.
    #[error("deadline passed")]
    TimedOut,
    /// The connection failed.
    #[error("connection failed")]
    Io(#[source] io::Error),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pipe {
    pub(super) transport: Transport,
    /// Read, but not understood yet.
    pub(super) input: BytesMut,
    /// To be written with the next flush.
    pub(super) output: Vec<u8>,
    pub(super) timer: Timer,
    /// How long the client may take nothing of what we write.
    pub(super) write_silence: Duration,
    /// A write was given up half way: what follows would be read as part of it.
    pub(super) is_torn: bool,
}

impl Pipe {
    /// Nothing read, nothing to write.
    pub(super) fn new(transport: Transport, write_timeout: Duration) -> Self {
        let write_silence = if write_timeout.is_zero() { WRITE_SILENCE_MAX } else { write_timeout };
        Self { transport, input: BytesMut::new(), output: Vec::new(), timer: Timer::default(), write_silence, is_torn: false }
    }

    /// Reads more into the input; 0 is the end. No buffer is held while nothing comes. Nothing is lost when this is given up.
    pub(super) async fn fill(&mut self, deadline: Option<Instant>) -> Result<usize, Failure> {
        let Self { transport, input, timer, .. } = self;
        let read = pin!(async {
            poll_fn(|cx| transport.poll_readable(cx)).await?;
            input.reserve(READ_BYTES);
            transport.read_buf(input).await
        });
        timer.race(deadline, read).await.map_err(|_elapsed| Failure::TimedOut)?.map_err(Failure::Io)
    }

    /// Reads up to `max` bytes past the input, which must be empty; an empty piece is the end.
    pub(super) async fn read_past(&mut self, max: u64, deadline: Option<Instant>) -> Result<Bytes, Failure> {
        debug_assert!(self.input.is_empty(), "what was read first comes first");
        let Self { transport, timer, .. } = self;
        let read = pin!(async {
            poll_fn(|cx| transport.poll_readable(cx)).await?;
            let size = usize::try_from(max.min(LARGE_READ_BYTES)).unwrap_or(READ_BYTES);
            let mut piece = BytesMut::with_capacity(size);
            transport.read_buf(&mut (&mut piece).limit(size)).await?;
            Ok(piece.freeze())
        });
        timer.race(deadline, read).await.map_err(|_elapsed| Failure::TimedOut)?.map_err(Failure::Io)
    }

    /// Writes the output and then `piece` and `tail`, without copying them.
    pub(super) async fn send(&mut self, piece: &[u8], tail: &[u8]) -> Result<(), Failure> {
        if self.output.is_empty() && piece.is_empty() && tail.is_empty() {
            return Ok(());
        }
        self.is_torn = true;
        let Self { transport, output, timer, write_silence, .. } = self;
        let mut slices = [IoSlice::new(output), IoSlice::new(piece), IoSlice::new(tail)];
        let mut slices = slices.as_mut_slice();
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let write = poll_fn(|cx| match &*slices {
                [only] => Pin::new(&mut *transport).poll_write(cx, only),
                several => Pin::new(&mut *transport).poll_write_vectored(cx, several),
            });
            let count = within(timer, *write_silence, write).await?;
            if count == 0 {
                return Err(Failure::Io(io::ErrorKind::WriteZero.into()));
            }
            IoSlice::advance_slices(&mut slices, count);
        }
        if matches!(transport, Transport::Tls(_)) {
            within(timer, *write_silence, pin!(transport.flush())).await?;
        }
        self.output.clear();
        self.is_torn = false;
        Ok(())
    }

    /// The transport, and what was read from it already.
    pub(crate) fn into_parts(self) -> (Transport, BytesMut) {
        (self.transport, self.input)
    }

    /// Writes the output.
    pub(super) async fn flush(&mut self) -> Result<(), Failure> {
        self.send(b"", b"").await
    }

    /// Says goodbye: writes what is left, ends our direction, and lets the client's last bytes come in for a moment.
    pub(super) async fn close(&mut self) {
        if self.is_torn || self.flush().await.is_err() {
            return;
        }
        let deadline = Some(clock::now() + LINGER_MAX);
        if !matches!(self.timer.race(deadline, pin!(self.transport.shutdown())).await, Ok(Ok(()))) {
            return;
        }
        let mut left = LINGER_BYTES_MAX;
        while let Ok(count @ 1..) = self.fill(deadline).await {
            self.input.clear();
            left = left.saturating_sub(count);
            if left == 0 {
                return;
            }
        }
    }
}

/// Waits for one step of writing. The clock is read only when it does not succeed at once.
async fn within<T, F>(timer: &mut Timer, silence: Duration, mut step: F) -> Result<T, Failure>
where
    F: Future<Output = io::Result<T>> + Unpin,
{
    // One poll without a deadline: the usual case ends here.
    let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut step).poll(cx))).await;
    let done = match first {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => timer.race(Some(clock::now() + silence), step).await,
    };
    done.map_err(|_elapsed| Failure::TimedOut)?.map_err(Failure::Io)
}
