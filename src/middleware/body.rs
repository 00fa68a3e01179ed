//! Compresses a body while it passes: gzip, br or zstd, chunk by chunk.

use std::io::{self, Write};
use std::mem;
use std::time::{Duration, Instant};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use bytes::Bytes;
use flate2::write::GzEncoder;

/// What Traefik's gzip library uses unless told otherwise.
const GZIP_LEVEL: u32 = 5;
/// What Traefik's brotli library uses unless told otherwise.
const BROTLI_QUALITY: i32 = 6;
/// Traefik's library may look back 4 MiB; we stop at 1 MiB, which a page never notices and thousands of streams do.
const BROTLI_WINDOW_BITS_MAX: u32 = 20;
/// The smallest window that brotli knows is 10; less than this saves nothing.
const BROTLI_WINDOW_BITS_MIN: u32 = 16;
/// The level that Traefik's zstd library calls its default is zstd's own.
const ZSTD_LEVEL: i32 = 3;
/// The longest that bytes of a body of known length stay in the compressor: Traefik's `flushInterval`.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// A content coding that we can produce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Brotli,
    Zstd,
}

impl Coding {
    /// By its name, case included.
    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Gzip, Self::Brotli, Self::Zstd].into_iter().find(|coding| coding.as_str() == name)
    }

    /// As it stands in `Content-Encoding`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// When compressed bytes are sent on although more could be packed with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// After each chunk: streams, and whatever has no known length.
    EachChunk,
    /// When a chunk comes so long after the last flush.
    EachInterval,
}

/// Turns the chunks of a body into those of its compressed form. One per answer.
pub struct BodyTransform {
    /// `None` once the end was written.
    encoder: Option<Encoder>,
    flush: Flush,
    flushed_at: Option<Instant>,
}

enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl std::fmt::Debug for BodyTransform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyTransform").field("flush", &self.flush).field("is_over", &self.encoder.is_none()).finish()
    }
}

impl BodyTransform {
    /// `length` is the body's, where it is known.
    pub(super) fn new(coding: Coding, length: Option<u64>, flush: Flush) -> io::Result<Self> {
        let encoder = match coding {
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))),
            Coding::Brotli => Encoder::Brotli(Box::new(brotli(length))),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                // As Traefik's library does.
                encoder.include_checksum(true)?;
                Encoder::Zstd(encoder)
            }
        };
        Ok(Self { encoder: Some(encoder), flush, flushed_at: None })
    }

    /// The compressed form of a whole body.
    pub(super) fn pack(self, body: &[u8]) -> io::Result<Vec<u8>> {
        let Some(mut encoder) = self.encoder else { return Ok(Vec::new()) };
        encoder.writer().write_all(body)?;
        encoder.finish()
    }

    /// Takes the next chunk (`None`: there is none, only the end) and gives what is to be sent in its place, if anything.
    /// `is_end` closes the compressed form; what comes after it is dropped.
    pub fn chunk(&mut self, data: Option<Bytes>, is_end: bool, now: Instant) -> io::Result<Option<Bytes>> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(None);
        };
        let data = data.unwrap_or_default();
        encoder.writer().write_all(&data)?;
        let out = if is_end {
            self.encoder.take().map_or(Ok(Vec::new()), Encoder::finish)?
        } else {
            let flushed_at = *self.flushed_at.get_or_insert(now);
            let is_due = self.flush == Flush::EachChunk || now.saturating_duration_since(flushed_at) >= FLUSH_INTERVAL;
            if is_due && !data.is_empty() {
                encoder.writer().flush()?;
                self.flushed_at = Some(now);
            }
            mem::take(encoder.output())
        };
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }
}

fn brotli(length: Option<u64>) -> CompressorWriter<Vec<u8>> {
    let bits = length.map_or(BROTLI_WINDOW_BITS_MAX, |length| {
        (u64::BITS - length.leading_zeros()).clamp(BROTLI_WINDOW_BITS_MIN, BROTLI_WINDOW_BITS_MAX)
    });
    let params = BrotliEncoderParams {
        quality: BROTLI_QUALITY,
        lgwin: i32::try_from(bits).unwrap_or_default(),
        size_hint: length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default(),
        ..BrotliEncoderParams::default()
    };
    CompressorWriter::with_params(Vec::new(), 4096, &params)
}

impl Encoder {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Gzip(encoder) => encoder,
            Self::Brotli(encoder) => encoder,
            Self::Zstd(encoder) => encoder,
        }
    }

    fn output(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Brotli(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Brotli(encoder) => Ok(encoder.into_inner()),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::clock::now;

    fn decode(coding: Coding, compressed: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::MultiGzDecoder::new(compressed).read_to_end(&mut out),
            Coding::Brotli => brotli::Decompressor::new(compressed, 4096).read_to_end(&mut out),
            Coding::Zstd => zstd::stream::read::Decoder::new(compressed).unwrap().read_to_end(&mut out),
        }
        .unwrap();
        out
    }

    /// Sends `chunks` at the given milliseconds, then the end; gives the sizes that came out, after checking the content.
    #[track_caller]
    fn run(coding: Coding, flush: Flush, length: Option<u64>, chunks: &[(u64, &[u8])]) -> Vec<usize> {
        let start = now();
        let mut transform = BodyTransform::new(coding, length, flush).unwrap();
        let mut sizes = Vec::new();
        let mut all = Vec::new();
        for (at, chunk) in chunks {
            let out = transform.chunk(Some(Bytes::copy_from_slice(chunk)), false, start + Duration::from_millis(*at)).unwrap();
            all.extend_from_slice(out.as_deref().unwrap_or_default());
            sizes.push(out.map_or(0, |out| out.len()));
        }
        let end = transform.chunk(None, true, start).unwrap().unwrap();
        all.extend_from_slice(&end);
        assert_eq!(decode(coding, &all), chunks.iter().flat_map(|(_, chunk)| chunk.iter().copied()).collect::<Vec<_>>());
        assert_eq!(transform.chunk(Some(Bytes::from_static(b"late")), true, start).unwrap(), None);
        sizes
    }

    const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    #[test]
    fn each_event_of_a_stream_can_be_read_at_once() {
        for coding in CODINGS {
            let mut transform = BodyTransform::new(coding, None, Flush::EachChunk).unwrap();
            let out = transform.chunk(Some(Bytes::from_static(b"data: 1\n\n")), false, now()).unwrap().unwrap();
            let mut read = [0; 9];
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&*out).read_exact(&mut read),
                Coding::Brotli => brotli::Decompressor::new(&*out, 4096).read_exact(&mut read),
                Coding::Zstd => zstd::stream::read::Decoder::new(&*out).unwrap().read_exact(&mut read),
            }
            .unwrap();
            assert_eq!(&read, b"data: 1\n\n", "{coding:?}");
        }
    }

    #[test]
    fn a_body_of_known_length_is_packed_and_flushed_only_when_it_is_slow() {
        for coding in CODINGS {
            let quick = run(coding, Flush::EachInterval, Some(12), &[(0, b"hello "), (99, b"world ")]);
            let slow = run(coding, Flush::EachInterval, Some(12), &[(0, b"hello "), (100, b"world ")]);
            assert!(quick[1] == 0 && slow[1] > 6, "{coding:?} {quick:?} {slow:?}");
        }
    }

    #[test]
    fn large_bodies_survive_in_any_pieces() {
        let text: Vec<u8> = (0..2_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
        for coding in CODINGS {
            for pieces in [1, 7] {
                let chunks: Vec<(u64, &[u8])> = text.chunks(text.len() / pieces).map(|chunk| (0, chunk)).collect();
                run(coding, Flush::EachChunk, Some(text.len() as u64), &chunks);
            }
        }
    }

    #[test]
    fn an_empty_body_becomes_an_empty_compressed_one() {
        for coding in CODINGS {
            assert!(run(coding, Flush::EachChunk, None, &[]).is_empty());
        }
    }
}
