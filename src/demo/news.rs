//! What the proxy says about the site: the sentences of its log, read as they are written.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::site::SERVICE;

/// Read at once; the rest follows at the next look.
const READ_BYTES_MAX: u64 = 64 * 1024;

/// The log, read from its beginning.
pub struct News {
    file: File,
    /// The beginning of a line whose end is not there yet.
    rest: String,
}

impl News {
    /// Begins to read a log that exists.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, rest: String::new() })
    }

    /// The sentences that were added since the last look.
    pub fn read(&mut self) -> io::Result<Vec<String>> {
        let mut bytes = Vec::new();
        (&self.file).take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.rest.rfind('\n') else { return Ok(Vec::new()) };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        Ok(lines.lines().filter_map(sentence).collect())
    }
}

/// The sentence of a line that is about the site or about trouble: what happened, with the address of the server it is about.
fn sentence(line: &str) -> Option<String> {
    let mut words = line.splitn(3, ' ');
    let (_time, level, text) = (words.next()?, words.next()?, words.next()?);
    let is_trouble = matches!(level, "ERR" | "WRN");
    let is_ours = text.split_once(" service=").is_some_and(|(_, service)| service.starts_with(&format!("{SERVICE}@")));
    if !is_ours && !is_trouble {
        return None;
    }
    let ends = [" error=", " server=", " service="].into_iter().filter_map(|field| text.find(field));
    let message = text.get(..ends.min().unwrap_or(text.len()))?;
    let server = text.split_once(" server=http://").and_then(|(_, rest)| rest.split(' ').next());
    Some(match server {
        Some(server) => format!("{server} {message}"),
        None => message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        assert_eq!(sentence(line).as_deref(), expected, "{line}");
    }

    #[test]
    fn what_is_about_the_site_or_about_trouble_is_news() {
        check(
            "2026-01-01T00:00:00Z INF canary share 0 % -> 5 %: it answered 3 probes in a row service=cljdoc@consulcatalog version=v2",
            Some("canary share 0 % -> 5 %: it answered 3 probes in a row"),
        );
        check(
            "2026-01-01T00:00:00Z WRN ejected for 10 s: why server=http://127.0.0.1:1 service=cljdoc@consulcatalog",
            Some("127.0.0.1:1 ejected for 10 s: why"),
        );
        check("2026-01-01T00:00:00Z ERR it broke error=\"a word\"", Some("it broke"));
        check("2026-01-01T00:00:00Z INF listening address=127.0.0.1:1 entrypoint=web", None);
        check("no log line", None);
    }
}
