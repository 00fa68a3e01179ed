//! `tidegate healthcheck`: asks the running proxy for `/ping`, as `traefik healthcheck` does.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use super::load;
use crate::config::install::Install;

/// How long each step may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The head of an answer to `/ping` is far shorter.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Prints `OK: URL` and exits with 0, or says what is wrong and exits with 1.
pub fn run(flags: &[String], out: &mut impl Write) -> ExitCode {
    let loaded = load(flags);
    let result = match &loaded.install {
        None => Err(super::check::report(&[super::check::install(&loaded)])),
        Some(install) => ping(install),
    };
    let (text, code) = match result {
        Ok(url) => (format!("OK: {url}\n"), ExitCode::SUCCESS),
        Err(reason) => (format!("Error calling healthcheck: {reason}\n"), ExitCode::FAILURE),
    };
    // Whoever does not read the text has the exit code.
    let _ = out.write_all(text.as_bytes());
    code
}

fn ping(install: &Install) -> Result<String, String> {
    let settings = install.ping.as_ref().ok_or("please enable `ping` to use health check")?;
    let entrypoint = install
        .entrypoints
        .get(&settings.entrypoint)
        .ok_or_else(|| format!("there is no entrypoint `{}`", settings.entrypoint))?;
    let address =
        if entrypoint.address.starts_with(':') { format!("127.0.0.1{}", entrypoint.address) } else { entrypoint.address.clone() };
    let url = format!("http://{address}/ping");
    let status = head(&address).map_err(|error| format!("{url}: {error}"))?;
    if status == 200 { Ok(url) } else { Err(format!("bad status {status} of {url}")) }
}

/// The status of `HEAD /ping`.
fn head(address: &str) -> std::io::Result<u16> {
    let target = address.to_socket_addrs()?.next().ok_or(std::io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&target, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "HEAD /ping HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "the answer is not HTTP"))
}
