//! Gives the running proxy an order over its socket, and prints the answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::{check, load_file};
use crate::config::install::Own;
use crate::steering::{Answer, Order, socket};

/// Exit code: it was done.
pub const DONE: u8 = 0;
/// Exit code: it was refused.
pub const REFUSED: u8 = 1;
/// Exit code: nobody could be asked.
pub const NOT_ASKED: u8 = 3;

/// The proxy answers an order sooner.
const TIMEOUT: Duration = Duration::from_secs(15);
/// An answer is shorter.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// Where the running proxy takes orders.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The proxy's socket [default: /var/lib/tidegate/tidegate.sock]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "config_file")]
    socket: Option<PathBuf>,
    /// The install configuration that the proxy runs with: the socket is in its `tidegate.state`
    #[arg(long = "configFile", alias = "configfile", global = true, value_name = "FILE")]
    config_file: Option<PathBuf>,
}

impl Place {
    /// The socket. `Err` says why the file does not tell.
    pub fn socket(&self) -> Result<PathBuf, String> {
        let state = match (&self.socket, &self.config_file) {
            (Some(socket), _) => return Ok(socket.clone()),
            (None, None) => Own::default().state,
            (None, Some(file)) => {
                let loaded = load_file(file);
                match &loaded.install {
                    Some(install) => install.own.state.clone(),
                    None => return Err(check::report(&[check::install(&loaded)])),
                }
            }
        };
        Ok(state.join(socket::FILE_NAME))
    }
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Gives the order, prints the answer, and says with which code to exit.
pub fn run(place: &Place, order: &Order, format: Format, out: &mut impl Write, err: &mut impl Write) -> u8 {
    let asked = place.socket().and_then(|socket| ask(&socket, order).map_err(|error| unreachable(&socket, &error)));
    let (answer, code) = match asked {
        Ok(answer) if answer.is_ok => (answer, DONE),
        Ok(answer) => (answer, REFUSED),
        Err(reason) => (Answer::refused(reason), NOT_ASKED),
    };
    // Whoever does not read the text has the exit code.
    let _ = match (code, format) {
        (DONE, Format::Json) => writeln!(out, "{:#}", answer.value),
        (DONE, Format::Text) => writeln!(out, "{}", answer.text.trim_end()),
        _ => writeln!(err, "{}", answer.text.trim_end()),
    };
    code
}

/// Asks the proxy behind a socket.
pub fn ask(socket: &Path, order: &Order) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    // Whoever refuses us may have closed already; the reason is there to be read.
    let written = (&stream).write_all(&line);
    let mut answer = String::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_line(&mut answer)?;
    if answer.is_empty() {
        written?;
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer"));
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Why nobody answers, and what helps.
pub fn unreachable(socket: &Path, error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => " (does Tidegate run? `--socket` or `--configFile` says where)",
        io::ErrorKind::ConnectionRefused => " (Tidegate has ended)",
        io::ErrorKind::PermissionDenied => " (root, the user that Tidegate runs as, and the socket's group may steer)",
        _ => "",
    };
    format!("{} cannot be asked: {error}{hint}", socket.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_the_state_folder_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.yaml");
        std::fs::write(&file, "tidegate: {state: /run/edge}").unwrap();
        let at = |place: &Place| place.socket().map(|path| path.display().to_string());
        assert_eq!(at(&Place::default()), Ok("/var/lib/tidegate/tidegate.sock".to_owned()));
        let place = Place { socket: None, config_file: Some(file.clone()) };
        assert_eq!(at(&place), Ok("/run/edge/tidegate.sock".to_owned()));
        std::fs::write(&file, "tidegate: {state: [}").unwrap();
        assert!(at(&place).unwrap_err().contains("t.yaml"), "{:?}", at(&place));
    }

    #[test]
    fn a_proxy_that_does_not_run_is_told_apart_from_one_that_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place { socket: Some(folder.path().join("t.sock")), config_file: None };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&place, &Order::List, Format::Text, &mut out, &mut err), NOT_ASKED);
        let said = String::from_utf8(err).unwrap();
        assert!(out.is_empty() && said.contains("does Tidegate run?"), "{said}");
    }
}
