//! The PROXY protocol, versions 1 and 2: who the client is when a load balancer stands in front. Bytes in, no IO.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of a version 1 line, CRLF included.
const LINE_BYTES_MAX: usize = 107;
/// Bytes behind a version 2 header: addresses, and what a sender may add to them.
const BLOCK_BYTES_MAX: usize = 4096;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// No header: the connection begins with the client's own bytes.
    None,
    /// Perhaps a header, not complete.
    More,
    /// A header of so many bytes. It may speak for the sender itself (health checks), or of a family that is not TCP.
    Found {
        /// How long it is.
        length: usize,
        /// The client, when it names one.
        client: Option<SocketAddr>,
    },
}

/// A header that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY protocol header")]
pub(super) struct InvalidHeader;

/// Reads a header, if `input` begins with one.
pub(super) fn read(input: &[u8]) -> Result<Header, InvalidHeader> {
    let begins = |with: &[u8]| input.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        return if input.len() < 16 { Ok(Header::More) } else { read_block(input) };
    }
    if begins(b"PROXY ") {
        return if input.len() < 6 { Ok(Header::More) } else { read_line(input) };
    }
    Ok(Header::None)
}

/// Version 1: `PROXY TCP4 client proxy port port CRLF`, or `PROXY UNKNOWN ... CRLF`.
fn read_line(input: &[u8]) -> Result<Header, InvalidHeader> {
    let head = input.get(..LINE_BYTES_MAX.min(input.len())).unwrap_or_default();
    let Some(end) = memchr::memchr(b'\n', head) else {
        return if head.len() == LINE_BYTES_MAX { Err(InvalidHeader) } else { Ok(Header::More) };
    };
    let line = head.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(InvalidHeader)?;
    let line = std::str::from_utf8(line).map_err(|_invalid| InvalidHeader)?;
    let length = end + 1;
    if line == "PROXY UNKNOWN" || line.starts_with("PROXY UNKNOWN ") {
        return Ok(Header::Found { length, client: None });
    }
    let fields: Vec<&str> = line.split(' ').collect();
    let [_, family, client, proxy, client_port, proxy_port] = fields.as_slice() else { return Err(InvalidHeader) };
    let address = |text: &str| -> Result<IpAddr, InvalidHeader> {
        match *family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_invalid| InvalidHeader),
            "TCP6" => text.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_invalid| InvalidHeader),
            _ => Err(InvalidHeader),
        }
    };
    let port = |text: &str| -> Result<u16, InvalidHeader> {
        let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain).ok_or(InvalidHeader)
    };
    address(proxy)?;
    port(proxy_port)?;
    Ok(Header::Found { length, client: Some(SocketAddr::new(address(client)?, port(client_port)?)) })
}

/// Version 2: signature, version and command, family, length, addresses, additions.
fn read_block(input: &[u8]) -> Result<Header, InvalidHeader> {
    let Some([command, family, high, low]) = input.get(12..16) else { return Ok(Header::More) };
    let size = usize::from(u16::from_be_bytes([*high, *low]));
    if size > BLOCK_BYTES_MAX || command >> 4 != 2 {
        return Err(InvalidHeader);
    }
    let length = 16 + size;
    let Some(block) = input.get(16..length) else { return Ok(Header::More) };
    let client = match (command & 15, family) {
        // LOCAL: the sender speaks for itself.
        (0, _) => None,
        (1, 0x11) => Some(read_addresses::<4>(block)?),
        (1, 0x21) => Some(read_addresses::<16>(block)?),
        (1, _) => None,
        _ => return Err(InvalidHeader),
    };
    Ok(Header::Found { length, client })
}

fn read_addresses<const SIZE: usize>(block: &[u8]) -> Result<SocketAddr, InvalidHeader>
where
    [u8; SIZE]: Into<IpAddr>,
{
    let client: [u8; SIZE] = block.first_chunk().copied().ok_or(InvalidHeader)?;
    let port: [u8; 2] = block.get(SIZE * 2..).and_then(|ports| ports.first_chunk()).copied().ok_or(InvalidHeader)?;
    if block.len() < SIZE * 2 + 4 {
        return Err(InvalidHeader);
    }
    Ok(SocketAddr::new(client.into(), u16::from_be_bytes(port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(length: usize, client: &str) -> Result<Header, InvalidHeader> {
        Ok(Header::Found { length, client: client.parse().ok() })
    }

    /// The whole input gives `expected`; each beginning of it asks for more.
    #[track_caller]
    fn check(input: &[u8], expected: Result<Header, InvalidHeader>) {
        assert_eq!(read(input), expected, "{input:?}");
        if let Ok(Header::Found { length, .. }) = expected {
            for end in 0..length {
                assert_eq!(read(&input[..end]), Ok(Header::More), "{end} bytes of {input:?}");
            }
        }
    }

    fn block(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let size = u16::try_from(body.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &size, body].concat()
    }

    #[test]
    fn version_1() {
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET", found(33, "1.2.3.4:9"));
        check(b"PROXY TCP6 ::1 ::2 9 10\r\n", found(25, "[::1]:9"));
        check(b"PROXY UNKNOWN\r\n", found(15, ""));
        check(b"PROXY UNKNOWN a b c d\r\n", found(23, ""));
        for line in [
            "TCP4 1.2.3.4 5.6.7.8 9",
            "TCP4 1.2.3.4 5.6.7.8 9 10 11",
            "TCP4 ::1 ::2 9 10",
            "TCP6 1.2.3.4 ::2 9 10",
            "TCP4 1.2.3.4 5.6.7.8 +9 10",
            "TCP4 1.2.3.4 5.6.7.8 99999 10",
            "UDP4 1.2.3.4 5.6.7.8 9 10",
            "TCP4  1.2.3.4 5.6.7.8 9 10",
            "",
        ] {
            check(format!("PROXY {line}\r\n").as_bytes(), Err(InvalidHeader));
        }
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\n", Err(InvalidHeader));
        check(&[b'P'; 200], Ok(Header::None));
        check(format!("PROXY {}", "x".repeat(200)).as_bytes(), Err(InvalidHeader));
    }

    #[test]
    fn version_2() {
        let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10];
        check(&block(0x21, 0x11, &v4), found(28, "1.2.3.4:9"));
        check(&block(0x21, 0x11, &[v4.as_slice(), &[3, 0, 1, 0]].concat()), found(32, "1.2.3.4:9"));
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 9;
        check(&block(0x21, 0x21, &v6), found(52, "[::1]:9"));
        check(&block(0x20, 0, &[]), found(16, ""));
        check(&block(0x21, 0, &[]), found(16, ""));
        check(&block(0x21, 0x11, &v4[..11]), Err(InvalidHeader));
        check(&block(0x11, 0x11, &v4), Err(InvalidHeader));
        check(&block(0x22, 0x11, &v4), Err(InvalidHeader));
        check(&block(0x21, 0x11, &[0; BLOCK_BYTES_MAX + 1]), Err(InvalidHeader));
    }

    #[test]
    fn anything_else_is_the_clients_own() {
        for input in ["GET / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n", "\x16\x03\x01", "PROXZ"] {
            assert_eq!(read(input.as_bytes()), Ok(Header::None));
        }
    }
}
