//! Listening sockets: bound by us, or inherited from whoever started us (systemd's socket activation).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How many connections may wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 4096;
/// How long a connection may be silent before the system asks whether the other side is still there, as in Go.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A socket that has its address, but does not listen yet: connections are refused until it does.
#[derive(Debug)]
pub struct Bound(Socket);

impl Bound {
    /// Begins to listen.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen(self) -> io::Result<TcpListener> {
        self.0.listen(BACKLOG)?;
        // Its connections inherit it.
        keep_alive(&self.0)?;
        Ok(self.0.into())
    }
}

impl From<TcpListener> for Bound {
    /// One that somebody else made to listen already.
    fn from(socket: TcpListener) -> Self {
        Self(socket.into())
    }
}

/// Finds out when the other side of a connection has gone without a word: else a raw TCP connection would be kept for ever.
///
/// # Errors
/// When the system refuses.
pub fn keep_alive<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    socket.into().set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE))
}

/// Binds an entrypoint's `[host]:port`. Without a host it is dual-stack, or IPv4 only where the system has no IPv6.
///
/// # Errors
/// When the address cannot be read, resolved or bound.
pub fn bind(address: &str) -> io::Result<Bound> {
    let Some(port) = address.strip_prefix(':') else {
        return bind_to(resolve(address)?, false);
    };
    let port =
        port.parse().map_err(|_invalid| io::Error::new(io::ErrorKind::InvalidInput, format!("`{address}` has no port")))?;
    match bind_to(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port), true) {
        // A taken port is taken; only a missing IPv6 is worth another try.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse && error.kind() != io::ErrorKind::PermissionDenied => {
            bind_to(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port), false)
        }
        result => result,
    }
}

/// The address, or the first that the name stands for; IPv4 first, as Go's listeners do.
fn resolve(address: &str) -> io::Result<SocketAddr> {
    let mut found: Vec<_> = address.to_socket_addrs()?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.first().copied().ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, format!("`{address}` has no address")))
}

fn bind_to(address: SocketAddr, is_dual_stack: bool) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!is_dual_stack)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(Bound(socket))
}

/// The sockets handed to this process by name (`LISTEN_FDS`, `LISTEN_FDNAMES`): the names are entrypoints'. One name may have
/// several sockets. Empty when there are none; call it once, at start.
pub fn inherited() -> BTreeMap<String, Vec<TcpListener>> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut handed = listenfd::ListenFd::from_env();
    let mut sockets: BTreeMap<String, Vec<TcpListener>> = BTreeMap::new();
    for (index, name) in (0..handed.len()).zip(names.split(':').map(str::to_lowercase).chain(std::iter::repeat(String::new()))) {
        match handed.take_tcp_listener(index) {
            Ok(Some(socket)) => sockets.entry(name).or_default().push(socket),
            Ok(None) => {}
            Err(error) => tracing::warn!(%name, %error, "could not use an inherited socket"),
        }
    }
    sockets
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn an_address_without_host_is_reached_by_both_families() {
        let listener = bind(":0").unwrap().listen().unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn an_address_with_host_is_that_one_only() {
        assert_eq!(bind("127.0.0.1:0").unwrap().listen().unwrap().local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        assert_eq!(bind("localhost:0").unwrap().listen().unwrap().local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        assert!(bind("no port").is_err());
        assert!(bind(":http").is_err());
        let taken = bind("127.0.0.1:0").unwrap().listen().unwrap();
        let again = bind(&taken.local_addr().unwrap().to_string());
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn a_client_that_vanished_without_a_word_is_found_out() {
        let listener = bind("127.0.0.1:0").unwrap().listen().unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(SockRef::from(&accepted).keepalive().unwrap());
        assert_eq!(SockRef::from(&accepted).tcp_keepalive_time().unwrap(), KEEP_ALIVE);
    }
}
