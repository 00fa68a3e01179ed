//! What a rollout, balance and health cost: per request (draw, record, pick) and per step of the machine.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
#![expect(missing_docs, reason = "criterion's macros")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate::config::dynamic::Strategy;
use tidegate::health::{Attempt, Budget, Health, Start};
use tidegate::rollout::{Arm, Ledger, Machine, Nature, Policy, Probed, Rollout, Situation, Verdict};
use tidegate::routing::balance::{Candidate, Wheel, pick};

/// A ramp at ten requests a second that never ends.
fn ramped(ledger: &Ledger) -> (Rollout, Duration) {
    let mut now = Duration::from_secs(1);
    let mut rollout = Rollout::new(now, ledger, Machine::new(Policy::default()));
    for _ in 0..300 {
        step(&mut rollout, &mut now, ledger);
    }
    (rollout, now)
}

fn step(rollout: &mut Rollout, now: &mut Duration, ledger: &Ledger) {
    *now += Duration::from_millis(500);
    let one = Arm { instances: 1, fit: 1 };
    let probed = Some(Probed { status: Some(200) });
    let situation = Situation { version: "2", nature: Nature::Declared, canary: one, stable: one, probed };
    black_box(rollout.step(*now, ledger, &situation));
}

fn requests(c: &mut Criterion) {
    let ledger = Ledger::new();
    c.bench_function("ledger: draw and record, no canary", |b| b.iter(|| one_request(&ledger)));
    ramped(&ledger);
    c.bench_function("ledger: draw and record, canary at its share", |b| b.iter(|| one_request(&ledger)));

    let born = Instant::now();
    for n in [1, 2, 3, 10] {
        let servers: Vec<Health> = (0..n).map(|_| Health::new(born, Start::Established)).collect();
        for strategy in [Strategy::Wrr, Strategy::P2c] {
            let wheel = Wheel::default();
            c.bench_function(&format!("balance: {strategy:?} of {n}"), |b| {
                b.iter(|| {
                    let view = |health: &Health| {
                        let standing = health.standing(born);
                        Some(Candidate { weight: 1, standing, in_flight: 0, tried: false, suspended: false })
                    };
                    pick(&servers, strategy, &wheel, fastrand::u64(..), view, |_| false)
                });
            });
        }
    }

    let health = Health::new(born, Start::Established);
    c.bench_function("health: record a success", |b| b.iter(|| health.record(born, born, Attempt::Ok, 0.0)));
    c.bench_function("health: record a failure", |b| {
        b.iter(|| (health.record(born, born, Attempt::Failed, 0.0), health.record(born, born, Attempt::Ok, 0.0)));
    });
    let budget = Budget::new(born);
    c.bench_function("health: deposit into the retry budget", |b| b.iter(|| budget.deposit(born)));
}

fn one_request(ledger: &Ledger) {
    let draw = ledger.draw(fastrand::u32(..));
    black_box(ledger.record(black_box(draw), Verdict::Ok, Some(Duration::from_millis(7))));
}

fn steps(c: &mut Criterion) {
    let ledger = Ledger::new();
    let (mut rollout, mut now) = ramped(&ledger);
    c.bench_function("rollout: one step", |b| {
        b.iter(|| {
            for _ in 0..5 {
                one_request(&ledger);
            }
            step(&mut rollout, &mut now, &ledger);
        });
    });
}

criterion_group!(benches, requests, steps);
criterion_main!(benches);
