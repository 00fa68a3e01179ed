#!/usr/bin/env python3
"""Draws one rollout as an SVG, from what a proxy wrote down about it. Needs Python 3.9 and nothing else.

    python3 draw.py --log tidegate.log --access access.log --list
    python3 draw.py --log tidegate.log --access access.log --out rollout.svg

--log     the proxy's log at level INFO (`log.filePath`), `format: common` or `json`: when which share was decided, and why
--access  its access log with `format: json`; it must keep StartUTC, ServiceName, ServiceURL, DownstreamStatus and RetryAttempts
--out     where the picture goes
--list    only lists the rollouts that the log tells of, and numbers them
--number  which of these; the last one unless told
--title   the line at the top
--before, --after   seconds that are shown around the rollout (5 and 30)

Shares are those of the log. Everything else is counted in the access log: requests by the instance that answered them, failures that
a client saw (a status of 500 or more, or none at all), and shielded ones: a first instance failed and another one answered. The instances
of the new version are those that are taken in after the rollout began and were asked nothing before.
"""

import argparse
import datetime
import json
import math
import re
import sys
from collections import Counter
from html import escape

WIDTH, LEFT, RIGHT = 860, 56, 132
PLOT = WIDTH - LEFT - RIGHT
BINS_MAX = 200  # a bin is a second, or longer where the rollout is long ...
BIN_REQUESTS = 30  # ... or traffic thin
LINE_CHARACTERS = 118

BEGINS = re.compile(r"a deployment with \d+ canaries has begun")
SHARE = re.compile(r"canary share (?:([\d.]+) % -> |stays )([\d.]+) %")
DRAINS = re.compile(r"instances that the promotion stops get no new requests")
DECIDED = re.compile(r"it is promoted|it is failed: |canary is stable now")
ENDS = re.compile(r"the deployment has ended|canary is stable now")
TOLD = re.compile(r"canary|deployment with|paused|promot|fail|hold|given back|resumed|stays|drain|serve again|person")

STYLE = """
  text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
  .back { fill: #ffffff } .title { font-size: 16px; font-weight: 600 } .soft { fill: #59636e } .axis { fill: #59636e; font-size: 11px }
  .grid { stroke: #d8dee4; stroke-width: 1; fill: none } .mark { stroke: #59636e; stroke-dasharray: 2 3; fill: none }
  .new { stroke: #0969da } .old { stroke: #6e7781 } .line { stroke-width: 1.8; fill: none; stroke-linejoin: round }
  .newfill { fill: #0969da } .oldfill { fill: #59636e } .area { fill: #0969da; fill-opacity: .12 } .dot { fill: #0969da; fill-opacity: .45 }
  .shielded { fill: #bf8700 } .failed { fill: #cf222e } .disc { fill: #59636e } .number { fill: #ffffff; font-size: 10px; font-weight: 600 }
"""
DARK = """
  text { fill: #e6edf3 } .back { fill: #0d1117 } .soft, .axis { fill: #9198a1 } .grid { stroke: #30363d } .mark { stroke: #9198a1 }
  .new { stroke: #58a6ff } .old { stroke: #8b949e } .newfill, .dot, .area { fill: #58a6ff } .oldfill { fill: #9198a1 }
  .shielded { fill: #e3b341 } .failed { fill: #ff7b72 } .disc { fill: #9198a1 } .number { fill: #0d1117 }
"""


# ------------------------------------------------------------------------------------------------------------- reading


def seconds(text):
    """A moment such as 2026-11-25T10:49:20.81Z, in seconds since 1970."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)?", text)
    if not match:
        return None
    zone = match[3] if match[3] and match[3] != "Z" else "+00:00"
    return datetime.datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0)


def read_log(path):
    """The lines of the proxy's log as (moment, sentence, fields)."""
    lines = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("{"):
                fields = json.loads(line)
                at, sentence = seconds(str(fields.get("time"))), str(fields.get("message", ""))
            else:
                at = seconds(line)
                rest = line.rstrip("\n").split(" ", 2)[-1]
                tail = re.search(r'(?: [a-z_]+=(?:"(?:[^"\\]|\\.)*"|\S+))*$', rest)
                fields = dict(re.findall(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|\S+)', tail[0]))
                sentence = rest[: tail.start()]
            if at is not None:
                lines.append((at, sentence, fields))
    return lines


class Rollout:
    """One rollout as the log tells it: `events` are (moment, sentence), `steps` are (moment, share in per cent)."""

    def __init__(self, at, version, job, deployment):
        self.begin, self.end, self.version, self.job, self.deployment = at, at, version, job, deployment
        self.service, self.events, self.steps, self.is_decided, self.is_over = None, [], [(at, 0.0)], False, False
        self.drained_at, self.told = None, []

    def shortened(self, sentence):
        """Without what was said before word for word."""
        for told in self.told:
            sentence = sentence.replace(told, "\u2026") if len(told) > 20 else sentence
        return sentence

    def name(self):
        """Whose it is."""
        return f"{self.version} of job {self.job}" if self.job else f"{self.version} of {self.service}"

    def take(self, at, sentence, fields):
        """One more line about it."""
        self.service = self.service or fields.get("service")
        share = SHARE.match(sentence)
        if share and not self.is_decided:
            # A drain gives the canary everything without a line of its own; the next one says so.
            before = float(share[1]) if share[1] else None
            if before is not None and before != self.steps[-1][1]:
                self.steps.append((self.drained_at or at, before))
            if "there is no canary any more" not in sentence:
                self.steps.append((at, float(share[2])))
        if DRAINS.search(sentence):
            self.drained_at = at
        is_after = self.is_decided and not sentence.startswith("the job's current version")
        if TOLD.search(sentence) and not is_after and "there is no canary any more" not in sentence:
            self.events.append((at, self.shortened(sentence)))
            self.told.append(sentence)
            self.end = at
        self.is_decided |= bool(DECIDED.match(sentence))
        self.is_over |= bool(ENDS.match(sentence))


def find_rollouts(lines):
    """Every rollout of the log, each with the lines that are about it."""
    found = []
    for at, sentence, fields in lines:
        version, deployment = fields.get("version"), fields.get("deployment")
        if not version or sentence.startswith(("asks nomad", "nomad answers", "tidegate starts")):
            continue
        is_new_deployment = BEGINS.match(sentence) and all(rollout.deployment != deployment for rollout in found)
        of_it = [rollout for rollout in found if not rollout.is_over and is_about(rollout, fields)]
        share = SHARE.match(sentence)
        if is_new_deployment or (not of_it and share and share[1] == "0"):
            of_it = [Rollout(at, version, fields.get("job"), deployment)]
            found += of_it
        for rollout in of_it:
            rollout.take(at, sentence, fields)
    return [rollout for rollout in found if len(rollout.steps) > 1 or rollout.deployment]


def is_about(rollout, fields):
    """Whether a line with these fields belongs to a rollout."""
    if "deployment" in fields:
        return fields["deployment"] == rollout.deployment
    return fields.get("version") == rollout.version and rollout.service in (None, fields.get("service"))


def taken_in(lines, rollout):
    """The servers that were taken in while it went on."""
    of_service = (fields for at, sentence, fields in lines if at >= rollout.begin and sentence.startswith("taken in:") and
                  fields.get("service") == rollout.service)
    return {fields.get("server") for fields in of_service}


class Traffic:
    """What the access log says of the service's requests, in bins from `start` to `end`."""

    def __init__(self, path, rollout, candidates, start, end):
        first, rows = {}, []
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                if rollout.service not in line:
                    continue
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # cut off by a rotation
                at = seconds(entry.get("StartUTC", ""))
                if entry.get("ServiceName") != rollout.service or at is None:
                    continue
                server = entry.get("ServiceURL")
                first[server] = min(first.get(server, at), at)
                if start <= at < end:
                    rows.append((at, server, entry.get("DownstreamStatus", 0), entry.get("RetryAttempts", 0)))
        if not rows:
            sys.exit(f"the access log has no request to {rollout.service} in this time")
        # The first and the last second with a request are seldom whole.
        self.start = min(rollout.begin, max(start, float(int(min(row[0] for row in rows)) + 1)))
        self.end = min(end, float(int(max(row[0] for row in rows))))
        span = max(self.end - self.start, 1)
        self.bin = max(1, math.ceil(span / BINS_MAX), math.ceil(BIN_REQUESTS * span / len(rows)))
        new = {server for server in candidates if first.get(server, 0) >= rollout.begin}
        self.old, self.new, self.failed, self.shielded, self.all = Counter(), Counter(), Counter(), Counter(), 0
        for at, server, status, retries in rows:
            if self.start <= at < self.end:
                self.count(int((at - self.start) // self.bin), server in new, status, retries)

    def count(self, bin_, is_new, status, retries):
        """One request."""
        self.all += 1
        (self.new if is_new else self.old)[bin_] += 1
        if status >= 500 or status == 0:
            self.failed[bin_] += 1
        elif retries:
            self.shielded[bin_] += 1

    def bins(self):
        """All whole bins, each with the moment in its middle."""
        return [(index, self.start + (index + 0.5) * self.bin) for index in range(int((self.end - self.start) // self.bin))]


# ------------------------------------------------------------------------------------------------------------- drawing


class Picture:
    """An SVG that grows downwards."""

    def __init__(self, traffic, origin):
        self.parts, self.traffic, self.origin, self.y = [], traffic, origin, 0

    def x(self, at):
        """Where a moment is."""
        span = self.traffic.end - self.traffic.start
        return LEFT + PLOT * min(max((at - self.traffic.start) / span, 0), 1)

    def put(self, part):
        """Adds an element."""
        self.parts.append(part)

    def text(self, x, y, text, kind="", anchor="start"):
        """A line of text."""
        self.put(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>')

    def frame(self, height, top, ticks, unit):
        """A plot's lines and labels; gives the function from a value to its place."""
        base = self.y + height
        for tick in ticks:
            y = base - height * tick / top
            self.put(f'<path d="M{LEFT} {y:.1f}H{LEFT + PLOT}" class="grid"/>')
            self.text(LEFT - 8, y + 4, f"{tick:g}{unit}", "axis", "end")
        return lambda value: base - height * min(value, top) / top

    def caption(self, text):
        """A plot's name, above it."""
        self.text(LEFT, self.y, text, "soft")
        self.y += 10


def clock_face(span):
    """0:05 or 1:02:03."""
    sign, span = ("-", -span) if span < 0 else ("", span)
    hours, minutes, rest = int(span // 3600), int(span // 60 % 60), int(span % 60)
    return f"{sign}{hours}:{minutes:02}:{rest:02}" if hours else f"{sign}{minutes}:{rest:02}"


def round_up(value):
    """The next round number, for the top of an axis."""
    for power in range(9):
        for step in (1, 2, 4, 5):
            if step * 10**power >= value:
                return step * 10**power
    return value


def clusters(picture, events):
    """Events that stand too close for a number each, together."""
    groups = []
    for event in events:
        if groups and picture.x(event[0]) - picture.x(groups[-1][0][0]) < 18:
            groups[-1].append(event)
        else:
            groups.append([event])
    return groups


def draw_share(picture, rollout, groups):
    """The decided share as steps, the measured one as dots, and the numbers of the events."""
    traffic = picture.traffic
    picture.caption("share of the new version: as decided (line) and as measured (dots)")
    picture.y += 16
    height, top = 110, picture.y
    most = round_up(max([share for _, share in rollout.steps] + [measured for _, measured in measured_shares(traffic)] + [10]))
    place = picture.frame(height, most, (0, most / 4, most / 2, most * 3 / 4, most), " %")
    for number, group in enumerate(groups, 1):
        x = picture.x(group[0][0])
        picture.put(f'<path d="M{x:.1f} {top - 6}V{top + height}" class="mark"/><circle cx="{x:.1f}" cy="{top - 14}" r="8" class="disc"/>')
        picture.text(x, top - 10.5, str(number), "number", "middle")
    path, share = f"M{picture.x(rollout.begin):.1f} {place(0):.1f}", 0.0
    for at, share in rollout.steps:
        path += f"H{picture.x(at):.1f}V{place(share):.1f}"
    path += f"H{picture.x(rollout.end if rollout.is_decided else traffic.end):.1f}"
    picture.put(f'<path d="{path}V{place(0):.1f}Z" class="area"/><path d="{path}" class="line new"/>')
    for at, measured in measured_shares(traffic):
        picture.put(f'<circle cx="{picture.x(at):.1f}" cy="{place(measured):.1f}" r="1.6" class="dot"/>')
    picture.y = top + height + 26


def measured_shares(traffic):
    """How many per cent of the answers in each bin came from the new version."""
    counts = [(at, traffic.new[bin_], traffic.new[bin_] + traffic.old[bin_]) for bin_, at in traffic.bins()]
    return [(at, 100 * new / both) for at, new, both in counts if both]


def draw_requests(picture):
    """Requests a second to each version."""
    traffic, height = picture.traffic, 90
    picture.caption("requests a second, by the version that answered")
    rates = {kind: [(at, counts[bin_] / traffic.bin) for bin_, at in traffic.bins()]
             for kind, counts in (("old", traffic.old), ("new", traffic.new))}
    top = round_up(max(rate for series in rates.values() for _, rate in series))
    place = picture.frame(height, top, (0, top / 2, top), "")
    ends = []
    for kind, series in rates.items():
        points = " ".join(f"{picture.x(at):.1f},{place(rate):.1f}" for at, rate in series)
        picture.put(f'<polyline points="{points}" class="line {kind}"/>')
        ends.append((place(series[-1][1]), kind))
    ends.sort()
    gap = max(0, 14 - (ends[1][0] - ends[0][0]))
    for (y, kind), shift in zip(ends, (-gap / 2, gap / 2)):
        picture.text(LEFT + PLOT + 8, y + 4 + shift, {"old": "older version", "new": "new version"}[kind], kind + "fill")
    picture.y += height + 26


def draw_failures(picture):
    """Failures that clients saw, and those that they were shielded from."""
    traffic, height = picture.traffic, 40
    picture.caption("failures a second: seen by clients, and shielded (another instance answered)")
    peak = max((traffic.failed[bin_] + traffic.shielded[bin_]) / traffic.bin for bin_, _ in traffic.bins())
    top = round_up(max(peak, 1))
    place = picture.frame(height, top, (0, top), "")
    width = max(PLOT * traffic.bin / (traffic.end - traffic.start) * 0.8, 1.5)
    for bin_, at in traffic.bins():
        base = 0.0
        for kind, counts in (("failed", traffic.failed), ("shielded", traffic.shielded)):
            rate = counts[bin_] / traffic.bin
            if rate:
                upper, lower = place(base + rate), place(base)
                picture.put(f'<rect x="{picture.x(at) - width / 2:.1f}" y="{upper:.1f}" width="{width:.1f}" '
                            f'height="{lower - upper:.1f}" class="{kind}"/>')
                base += rate
    picture.text(LEFT + PLOT + 8, picture.y + 13, f"{sum(traffic.failed.values())} seen", "failed")
    picture.text(LEFT + PLOT + 8, picture.y + 31, f"{sum(traffic.shielded.values())} shielded", "shielded")
    picture.y += height


def draw_time(picture):
    """The axis of time, from the beginning of the rollout."""
    traffic = picture.traffic
    span = traffic.end - traffic.start
    step = next((step for step in (2, 5, 10, 15, 30, 60, 120, 300, 600, 1800) if span / step <= 12), 3600)
    at = picture.origin - step * int((picture.origin - traffic.start) // step)
    while at <= traffic.end:
        picture.text(picture.x(at), picture.y + 16, clock_face(at - picture.origin), "axis", "middle")
        at += step
    picture.y += 40


def draw_events(picture, groups):
    """What the log said, below the plots."""
    for number, group in enumerate(groups, 1):
        picture.put(f'<circle cx="{LEFT - 34}" cy="{picture.y - 4}" r="8" class="disc"/>')
        picture.text(LEFT - 34, picture.y - 0.5, str(number), "number", "middle")
        for at, sentence in group:
            picture.text(LEFT + 22, picture.y, clock_face(at - picture.origin), "axis", "end")
            for line in wrapped(sentence):
                picture.text(LEFT + 32, picture.y, line)
                picture.y += 17
        picture.y += 3


def wrapped(sentence):
    """Lines that are short enough."""
    lines = [""]
    for word in sentence.split():
        if len(lines[-1]) + len(word) >= LINE_CHARACTERS:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def draw(rollout, traffic, title):
    """The whole picture."""
    picture = Picture(traffic, rollout.begin)
    count = f"{traffic.all:,}".replace(",", " ")
    failed, shielded = sum(traffic.failed.values()), sum(traffic.shielded.values())
    facts = f"{count} requests in {traffic.end - traffic.start:.0f} s: {failed} failed, {shielded} were shielded from a failure"
    picture.text(LEFT - 42, 28, title, "title")
    picture.text(LEFT - 42, 48, facts, "soft")
    picture.y = 78
    groups = clusters(picture, rollout.events)
    draw_share(picture, rollout, groups)
    draw_requests(picture)
    draw_failures(picture)
    draw_time(picture)
    draw_events(picture, groups)
    height = picture.y + 4
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">\n'
            f"<title>{escape(title)}</title><desc>{escape(facts)}</desc>\n"
            f"<style>{STYLE}  @media (prefers-color-scheme: dark) {{{DARK}  }}\n</style>\n"
            f'<rect width="{WIDTH}" height="{height}" class="back"/>\n')
    return head + "\n".join(picture.parts) + "\n</svg>\n"


def main():
    """Arguments in, a picture out."""
    summary, details = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", required=True)
    parser.add_argument("--access")
    parser.add_argument("--out")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--number", type=int)
    parser.add_argument("--title")
    parser.add_argument("--before", type=float, default=5)
    parser.add_argument("--after", type=float, default=30)
    options = parser.parse_args()
    lines = read_log(options.log)
    rollouts = find_rollouts(lines)
    if options.list or not rollouts:
        for number, rollout in enumerate(rollouts, 1):
            moment = datetime.datetime.fromtimestamp(rollout.begin, datetime.timezone.utc)
            print(f"{number:3}  {moment:%Y-%m-%d %H:%M:%S}  {rollout.name()}")
        sys.exit(0 if rollouts else "the log tells of no rollout")
    if not options.access or not options.out:
        parser.error("--access and --out are needed to draw")
    if options.number is not None and not 1 <= options.number <= len(rollouts):
        parser.error(f"--number is between 1 and {len(rollouts)}")
    rollout = rollouts[(options.number or len(rollouts)) - 1]
    if rollout.service is None:
        sys.exit("this rollout moved no share, so there is nothing to draw")
    start, end = rollout.begin - options.before, rollout.end + options.after
    traffic = Traffic(options.access, rollout, taken_in(lines, rollout), start, end)
    picture = draw(rollout, traffic, options.title or f"Rollout of {rollout.name()}")
    with open(options.out, "w", encoding="utf-8") as file:
        file.write(picture)


if __name__ == "__main__":
    main()
