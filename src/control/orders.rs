//! Carries out what people order: asks the rollouts, drains servers, and answers in sentences.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Control;
use super::chronicle::Moment;
use super::deployments;
use super::registry::Layer;
use super::telling::{self, Drained, Shown};
use super::weigh::News;
use crate::clock;
use crate::config::problem::nearest;
use crate::health::Standing;
use crate::names::{Name, Track};
use crate::orchestrator::{JobKey, deploy};
use crate::rollout::{Pointless, Report, Steer, Steered};
use crate::routing::server::{Draining, Server};
use crate::steering::{Answer, Job, Order, Request, Target};

/// A service in one of its two worlds.
type Key = (Layer, Name);

impl Control {
    /// Carries out an order and answers it.
    pub(super) fn obey(&mut self, request: Request) {
        let Request { order, by, reply } = request;
        if !order.is_question() {
            tracing::info!(by, ?order, "received an order");
        }
        let answer = match order {
            Order::List => self.list(),
            Order::Show { rollout } => self.show(rollout.as_ref()),
            Order::Hold { rollout } => self.steer(&rollout, Steer::Hold, &by),
            Order::Resume { rollout } => self.steer(&rollout, Steer::Resume, &by),
            Order::Promote { rollout } => self.steer(&rollout, Steer::Promote, &by),
            Order::Abort { rollout } => self.steer(&rollout, Steer::Abort, &by),
            Order::SetShare { rollout, share } => self.steer(&rollout, Steer::SetShare(share), &by),
            Order::Release { rollout } => self.steer(&rollout, Steer::Release, &by),
            Order::ReleaseAll => self.release_all(&by),
            Order::Drain { server, force } => self.drain(&server, force, &by),
            Order::Undrain { server } => self.undrain(&server, &by),
        };
        // Whoever asked may have given up; the order is carried out all the same.
        let _ = reply.send(answer);
    }

    /// Remembers what was decided about a service and passes it on.
    pub(super) fn tell(&mut self, key: &Key, news: &[News]) {
        if news.is_empty() || key.0 != Layer::Http {
            return;
        }
        let report = self.weighings.get(key).map(|weighing| weighing.report()).unwrap_or_default();
        let job = self.job_of(&key.1).map(|job| job.to_string());
        let moment = Moment { now: clock::now(), wall: clock::wall() };
        let report = serde_json::to_value(report).unwrap_or_default();
        self.chronicle.note(moment, &key.1, job.as_deref(), news, &report);
    }
}

/// Questions.
impl Control {
    fn list(&self) -> Answer {
        let drained: Vec<Drained> = self.servers().filter_map(|(key, server, _)| drained(key, &server)).collect();
        let (text, value) = telling::list(&self.under_way(), &drained);
        Answer { value, ..Answer::done(text) }
    }

    fn show(&self, target: Option<&Target>) -> Answer {
        let shown = match target.map(|target| self.find(target)) {
            None => self.under_way(),
            Some(Ok(names)) => names.iter().map(|name| self.shown(name)).collect(),
            Some(Err(reason)) => return Answer::refused(reason),
        };
        let (text, value) = telling::show(clock::wall(), self.chronicle.began, &shown);
        Answer { value, ..Answer::done(text) }
    }

    fn under_way(&self) -> Vec<Shown<'_>> {
        self.names().map(|name| self.shown(name)).filter(|shown| shown.report.version.is_some()).collect()
    }

    fn shown(&self, name: &Name) -> Shown<'_> {
        let report = self.weighings.get(&(Layer::Http, name.clone())).map(|weighing| weighing.report()).unwrap_or_default();
        Shown {
            service: name.to_string(),
            job: self.job_of(name).map(|job| job.to_string()),
            lines: self.chronicle.lines(name),
            ended: self.chronicle.ended(name),
            verdict: self.verdict(name, &report),
            deployment: self
                .deployment_of(name)
                .map(|deploy| telling::Deployment { report: deploy.report(), now: self.time().since_start }),
            report,
        }
    }

    /// The newest deployment of the job behind a service, until an hour after its end.
    fn deployment_of(&self, name: &Name) -> Option<&deploy::Deploy> {
        let key = (Layer::Http, name.clone());
        self.deployments.as_ref()?.of_job(&self.job_key_of(&key)?)
    }

    /// How a rollout ended, for whoever waits for that; none while it is open.
    fn verdict(&self, name: &Name, report: &Report) -> Option<&'static str> {
        if let Some(deploy) = self.deployment_of(name) {
            return deployments::verdict(deploy);
        }
        match report.phase {
            "failed" => Some("failed"),
            "released" => Some("released"),
            // Nobody is asked to promote, so there is nothing more to wait for.
            "earned" => Some("passed"),
            _ if report.version.is_some() => None,
            _ => self.chronicle.just_ended(name, clock::now()).map(|ended| ended.outcome.as_str()),
        }
    }

    /// The services whose canaries are judged.
    fn names(&self) -> impl Iterator<Item = &Name> {
        self.weighings.keys().filter(|(layer, _)| *layer == Layer::Http).map(|(_, name)| name)
    }

    /// The services that an order means.
    fn find(&self, target: &Target) -> Result<Vec<Name>, String> {
        let wanted = match target {
            Target::Job(job) => return self.services_of(job),
            Target::Service(wanted) => wanted,
        };
        let found: Vec<Name> =
            self.names().filter(|name| name.to_string() == *wanted || name.name() == wanted).cloned().collect();
        let all: Vec<String> = self.names().map(ToString::to_string).collect();
        match found.as_slice() {
            [_] => Ok(found),
            [] => {
                let known = all.iter().map(String::as_str).chain(self.names().map(Name::name));
                let hint = nearest(wanted, known).map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default();
                Err(format!("there is no service `{wanted}`{hint}"))
            }
            _ => {
                let names: Vec<String> = found.iter().map(|name| format!("`{name}`")).collect();
                Err(format!("`{wanted}` may be {}", names.join(" or ")))
            }
        }
    }
}

/// Rollouts.
impl Control {
    fn steer(&mut self, target: &Target, steer: Steer, by: &str) -> Answer {
        match self.find(target) {
            Ok(names) => self.steer_all(&names, steer, by),
            Err(reason) => Answer::refused(reason),
        }
    }

    fn steer_all(&mut self, names: &[Name], steer: Steer, by: &str) -> Answer {
        if let Some(answer) = self.order_deployment(names, steer, by) {
            return answer;
        }
        let time = self.time();
        let (mut done, mut refused) = (Vec::new(), Vec::new());
        for name in names {
            let key = (Layer::Http, name.clone());
            let steered = Steered { steer, by: by.to_owned() };
            let weighing = self.weighings.get_mut(&key).ok_or(Pointless::NoRollout);
            match weighing.and_then(|weighing| weighing.steer(time, steered)) {
                Ok(to_do) => {
                    done.extend(to_do.news.iter().map(|news| format!("{name}: {}", news.sentence)));
                    self.carry_out(&key, to_do);
                }
                Err(pointless) => refused.push(format!("{name}: {pointless}")),
            }
        }
        if done.is_empty() { Answer::refused(refused.join("\n")) } else { Answer::done([done, refused].concat().join("\n")) }
    }

    fn release_all(&mut self, by: &str) -> Answer {
        let open = |shown: &Shown<'_>| !matches!(shown.report.phase, "failed" | "released");
        let services: Vec<String> = self.under_way().into_iter().filter(open).map(|shown| shown.service).collect();
        let names: Vec<Name> = self.names().filter(|name| services.contains(&name.to_string())).cloned().collect();
        if names.is_empty() {
            return Answer::done("nothing is held: no rollout is judged");
        }
        self.steer_all(&names, Steer::Release, by)
    }
}

/// Servers.
impl Control {
    /// All servers, with their services and sides.
    fn servers(&self) -> impl Iterator<Item = (&Key, Arc<Server>, Track)> {
        self.weighings.iter().flat_map(|(key, weighing)| {
            let members = weighing.service().arms().members().to_vec();
            members.into_iter().map(move |member| (key, member.server, member.track))
        })
    }

    fn named(&self, wanted: &str) -> Result<Vec<(Key, Arc<Server>, Track)>, String> {
        let found: Vec<_> = self
            .servers()
            .filter(|(_, server, _)| is_named(server, wanted))
            .map(|(key, server, track)| (key.clone(), server, track))
            .collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let known: Vec<String> = self
            .servers()
            .flat_map(|(_, server, _)| [Some(server.url.clone()), Some(server.authority.clone()), server.instance.clone()])
            .flatten()
            .collect();
        let hint = nearest(wanted, known.iter().map(String::as_str)).map(|near| format!(" (did you mean `{near}`?)"));
        Err(format!("there is no server `{wanted}`{}", hint.unwrap_or_default()))
    }

    fn drain(&mut self, wanted: &str, force: bool, by: &str) -> Answer {
        let found = match self.named(wanted) {
            Ok(found) => found,
            Err(reason) => return Answer::refused(reason),
        };
        if !force && let Some(reason) = found.iter().find_map(|(key, _, track)| self.why_last(key, wanted, *track)) {
            return Answer::refused(reason);
        }
        let draining = if force { Draining::Closed } else { Draining::Spared };
        self.set_draining(&found, draining, by)
    }

    fn undrain(&mut self, wanted: &str, by: &str) -> Answer {
        match self.named(wanted) {
            Ok(found) if found.iter().all(|(_, server, _)| server.draining() == Draining::No) => {
                Answer::refused(format!("`{wanted}` is not drained"))
            }
            Ok(found) => self.set_draining(&found, Draining::No, by),
            Err(reason) => Answer::refused(reason),
        }
    }

    /// Why a service cannot spare a server. A canary can always be spared, and does not stand in for stable.
    fn why_last(&self, key: &Key, wanted: &str, track: Track) -> Option<String> {
        let now = clock::now();
        let arms = self.weighings.get(key)?.service().arms();
        let serves = |server: &&Arc<Server>| {
            let is_fit = matches!(server.health.standing(now), Standing::Available { .. });
            is_fit && server.draining() == Draining::No && !is_named(server, wanted)
        };
        if track == Track::Canary || arms.of(Track::Stable).any(|server| serves(&server)) {
            return None;
        }
        let instead = if arms.has_canary() { "; `tidegate rollout promote` gives the canary its traffic" } else { "" };
        Some(format!("no other stable server of {} is fit to serve{instead}; `--force` drains it all the same", key.1))
    }

    fn set_draining(&mut self, found: &[(Key, Arc<Server>, Track)], draining: Draining, by: &str) -> Answer {
        let time = self.time();
        let mut said = Vec::new();
        for (key, server, _) in found {
            server.set_draining(draining);
            let (url, running) = (&server.url, server.in_flight());
            let (kind, sentence) = match draining {
                Draining::No => ("undrained", format!("{url} of {} gets requests again", key.1)),
                _ => ("drained", format!("{url} of {} gets no new request; {running} are running", key.1)),
            };
            tracing::info!(service = %key.1, server = url, by, "{sentence}");
            self.chronicle.note_server(clock::wall(), &key.1, kind, sentence.clone());
            said.push(sentence);
            if let Some(to_do) = self.weighings.get_mut(key).map(|weighing| weighing.step(time, None)) {
                self.carry_out(key, to_do);
            }
        }
        Answer::done(said.join("\n"))
    }
}

/// What Nomad's deployments add.
impl Control {
    /// The job behind a service, as far as Nomad tells.
    fn job_of(&self, name: &Name) -> Option<Job> {
        let JobKey { namespace, job } = self.job_key_of(&(Layer::Http, name.clone()))?;
        Some(Job { namespace, name: job })
    }

    /// The services of a job.
    fn services_of(&self, job: &Job) -> Result<Vec<Name>, String> {
        let names: Vec<Name> = self.names().filter(|name| self.job_of(name).as_ref() == Some(job)).cloned().collect();
        if !names.is_empty() {
            return Ok(names);
        }
        Err(if self.install.own.nomad.is_none() {
            format!("jobs are not known without `tidegate.nomad`, so job `{job}` is not; name the service instead")
        } else {
            format!("no service that is routed belongs to job `{job}`")
        })
    }

    /// Orders the deployment that moves these services, and answers for it. None when no deployment does.
    fn order_deployment(&mut self, names: &[Name], steer: Steer, by: &str) -> Option<Answer> {
        let order = match steer {
            Steer::Hold => deploy::Order::Hold,
            Steer::Resume => deploy::Order::Resume,
            Steer::Promote => deploy::Order::Promote,
            Steer::Abort => deploy::Order::Abort,
            Steer::Release => deploy::Order::Release,
            // The share is the rollout's own.
            Steer::SetShare(_) => return None,
        };
        let jobs: BTreeSet<JobKey> = names.iter().filter_map(|name| self.job_key_of(&(Layer::Http, name.clone()))).collect();
        let mut said = Vec::new();
        let mut is_ordered = false;
        for job in jobs {
            let Some(sentences) = self.order_job(&job, order) else { continue };
            is_ordered = true;
            said.push(format!("{job}: {} says `{}`", by, order.name()));
            said.extend(sentences.into_iter().map(|sentence| format!("{job}: {sentence}")));
        }
        is_ordered.then(|| Answer::done(said.join("\n")))
    }
}

fn drained(key: &Key, server: &Server) -> Option<Drained> {
    let draining = server.draining();
    (draining != Draining::No).then(|| Drained {
        service: key.1.to_string(),
        server: server.url.clone(),
        instance: server.instance.clone(),
        in_flight: server.in_flight(),
        is_closed: draining == Draining::Closed,
    })
}

/// By its URL, its address and port, or its instance.
fn is_named(server: &Server, wanted: &str) -> bool {
    let url = wanted.trim_end_matches('/');
    server.url.trim_end_matches('/') == url || server.authority == wanted || server.instance.as_deref() == Some(wanted)
}
