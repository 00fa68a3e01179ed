//! `tidegate demo`: what a newcomer sees first.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A demo of 30 s is over by then, or something hangs.
const OVER_AFTER: Duration = Duration::from_secs(90);

/// A running demo.
struct Demo {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Where it leaves its files.
    _folder: tempfile::TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("demo").args(arguments).env("TMPDIR", folder.path()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        Self { child, lines, _folder: folder }
    }

    /// Reads until a line contains `text`, or to the end.
    fn read_until(&self, text: Option<&str>) -> String {
        let mut read = String::new();
        while let Some(line) = match self.lines.recv_timeout(OVER_AFTER) {
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing follows any more:\n{read}"),
            line => line.ok(),
        } {
            read.extend([&line, "\n"]);
            if text.is_some_and(|text| line.contains(text)) {
                return read;
            }
        }
        assert!(text.is_none(), "`{}` is missing in\n{read}", text.unwrap_or_default());
        read
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads the rest; the demo must have ended well.
    fn end(mut self) -> String {
        let text = self.read_until(None);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}:\n{text}");
        text
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not.
        let _ = self.child.kill();
    }
}

#[test]
fn the_demo_tells_its_whole_story_and_loses_nothing() {
    let text = Demo::start(&["--for", "30s"]).end();
    for told in [
        "Nomad starts",
        "canary share 0 % -> 5 %",
        "is promoted",
        "canary is stable now: the older instances have left",
        "is greeted with \"jmx of version v2\"",
        "is killed",
        "fails 50 %",
        "so the canary has failed",
        "never answers",
        "had no answer after 1 s",
        "v4 is taken back",
        "Nothing was lost.",
    ] {
        assert!(text.contains(told), "`{told}` is missing in\n{text}");
    }
    let requests: u64 = text.lines().find_map(|line| line.trim().strip_prefix("requests")).unwrap().trim().parse().unwrap();
    assert!(requests >= 3_000, "at least 100 requests a second: {requests}");
}

#[test]
fn ctrl_c_ends_the_demo_with_its_summary() {
    let demo = Demo::start(&[]);
    demo.read_until(Some(" 0:01 "));
    demo.signal(Signal::INT);
    let text = demo.end();
    assert!(text.contains("Summary after 0:0") && text.ends_with("Nothing was lost.\n"), "{text}");
}
