//! Writes results.txt: every cell at every rate, 3 000 runs each (`SIM_RUNS`, `SIM_SEED` as in the tests).

#![expect(clippy::expect_used, reason = "a tool may stop")]

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tidegate_simulation::cells::{self, RATES};
use tidegate_simulation::shown::{HEAD, bounds, show};

fn main() {
    let asked = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    let (runs, seed) = (asked("SIM_RUNS").unwrap_or(3000), u64::from(asked("SIM_SEED").unwrap_or(1)));
    let cells = cells::all();
    let jobs: Vec<_> = cells.iter().flat_map(|cell| RATES.map(|rate| (cell, rate))).collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(vec![String::new(); jobs.len()]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((index, (cell, rate))) = take(&next, &jobs) {
                    let shown = show(cell, *rate, runs, seed);
                    let broken = shown.keeps_promise().err().map_or(String::new(), |wrong| format!("\n    !! {wrong}"));
                    rows.lock().expect("no thread stops")[index] = shown.row() + &broken;
                }
            });
        }
    });
    let mut text = format!("{INTRODUCTION}\nSeed {seed}, {runs} runs to a cell.\n\n{HEAD}\n");
    for row in rows.into_inner().expect("no thread stops") {
        text.extend([row.as_str(), "\n"]);
    }
    write!(text, "\n{BOUNDS}\n").expect("a string takes it");
    for (rate, share) in [(1.0, 0.5), (1.0, 0.75), (3.0, 2.0 / 3.0), (10.0, 0.2), (300.0, 0.05)] {
        text.extend(bounds(share, rate).into_iter().map(|row| row + "\n"));
    }
    text.push_str("\nThe design's own simulation (400 runs to a cell), at 1/3/10 requests a second: part that failed, seconds to the suspension or to the end of the ramp\n\n");
    for cell in &cells {
        if let Some(design) = cell.design {
            writeln!(text, "{:<40} {design}", cell.name).expect("a string takes it");
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("results.txt");
    std::fs::write(path, text).expect("results.txt can be written");
}

fn take<'a, T>(next: &AtomicUsize, jobs: &'a [T]) -> Option<(usize, &'a T)> {
    let index = next.fetch_add(1, Relaxed);
    jobs.get(index).map(|job| (index, job))
}

const INTRODUCTION: &str = "\
Simulated rollouts: the production machine and ledger against seeded Poisson streams of requests; written by
`cargo run -p tidegate-simulation --example table`. Rates in the names are failure rates; stable's is 0.2 % where none is named.

failed            share of the rollouts that ended with the canary blamed
share taken away  of those: seconds from the first share to the first suspension, median and 95th percentile, and the part within 60 s
verdict           ... and median seconds to the verdict
canary failures   ... and how often the canary failed until then; the worst run's failures until the share was first taken away
users' fails      failures of the canary that users saw, because no other server could answer (mean of all runs)
passed            of those that passed undisturbed: median seconds to the end of the ramp
suspended ...     of those that passed: the part whose share was taken away and given back, and how many seconds later these passed (median);
                  for nothing where nothing was wrong, that is in the equal cells
longest           seconds to the end of the longest run
";

const BOUNDS: &str = "\
What a minute can show at all of a canary that fails 20 %: no rule that looks only at its requests misses fewer than `none fails`, and none
that suspends at most 5 % of those that fail as stable does misses fewer than `at best`

 req/s   share %  attempts  failures  none fails % stable %   at best %";
