"""What was measured of deploys, and how docs/ shows it."""

from statistics import median
from typing import NamedTuple

from common import ROOT, spread, table

COMMAND = "make bench-deploy"
PICTURE = ROOT / "docs/deploy.svg"
DEPLOY_GOAL_SECONDS, ROLLBACK_GOAL_SECONDS = 8, 4
TITLES = {
    "nothing": "nothing (the control)",
    "deploy": "`deploy-application.yml`",
    "low memory": "the same with `gunicorn_generations: 1`",
    "restart": "`systemctl restart` of our instance",
    "socket": "tutorial: `systemctl restart` behind a systemd socket",
    "HUP": "tutorial: `systemctl reload`, which is HUP",
}


class Timing(NamedTuple):
    """Seconds from the start of a command to the first answer of the other release, and its end."""

    switch: float
    end: float


class Memory(NamedTuple):
    """What the application took before, during and after a deploy, in MiB."""

    before: float
    highest: float
    after: float


class Answer(NamedTuple):
    """One request; `since` is when it was sent, in seconds from the start of the command."""

    since: float
    seconds: float
    is_good: bool


class Event(NamedTuple):
    """What the load noticed of one command."""

    answers: list[Answer]
    end: float
    switch: float | None

    @property
    def counted(self) -> list[Answer]:
        """Return the requests that ended after the command began."""
        return [answer for answer in self.answers if answer.since + answer.seconds > 0]

    @property
    def failed(self) -> int:
        """Count the requests without a 2xx answer."""
        return sum(not answer.is_good for answer in self.counted)

    @property
    def worst(self) -> float:
        """Return the seconds that the slowest request took."""
        return max(answer.seconds for answer in self.counted)

    @property
    def gap(self) -> float:
        """Return the longest time in which nobody got a 2xx answer."""
        moments = sorted(answer.since + answer.seconds for answer in self.counted if answer.is_good)
        return max(after - before for before, after in zip([0, *moments], moments, strict=False))

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.failed} of {len(self.counted)} failed, worst {self.worst:.2f} s, "
            f"longest gap {self.gap:.2f} s"
        )


class Figures(NamedTuple):
    """All that was measured."""

    deploys: list[Timing]
    rollbacks: list[Timing]
    memory: list[Memory]
    events: dict[str, list[Event]]


def timing_table(figures: Figures) -> str:
    """Write how long deploys and rollbacks take."""
    rows = [
        [name, spread([t.switch for t in timings]), f"< {goal}", spread([t.end for t in timings])]
        for name, timings, goal in (
            ("`deploy-application.yml`", figures.deploys, DEPLOY_GOAL_SECONDS),
            ("`rollback-application.yml`", figures.rollbacks, ROLLBACK_GOAL_SECONDS),
        )
    ]
    return table(["", "to the switch, s", "goal, s", "to the end, s"], rows)


def memory_table(memory: list[Memory]) -> str:
    """Write what the application takes in memory."""
    row = [spread(list(values), 0) for values in zip(*memory, strict=True)]
    head = ["", "before", "at its highest", "after"]
    return table(head, [["memory, MiB", *row]])


def events_table(events: dict[str, list[Event]]) -> str:
    """Write what users noticed, side by side."""
    rows = [
        [
            TITLES[method],
            spread([seen.failed for seen in seen_by_round], 0),
            spread([len(seen.counted) for seen in seen_by_round], 0),
            spread([seen.worst for seen in seen_by_round], 2),
            spread([seen.gap for seen in seen_by_round], 2),
        ]
        for method, seen_by_round in events.items()
    ]
    head = ["", "failed requests", "of", "slowest answer, s", "longest gap without a 2xx answer, s"]
    return table(head, rows)


def section(figures: Figures, machine: str, settle_seconds: int) -> str:
    """Write our section of the page."""
    rounds = len(figures.deploys)
    control = figures.events["nothing"]
    pace = median(
        len(seen.counted) / max(answer.since for answer in seen.answers) for seen in control
    )
    return f"""## What users notice of a deploy

`{COMMAND}` on {machine}.

One Debian 12 container made by `site.yml` and reached over ssh; the machine that runs Ansible and
the load is also the one that runs the container. Every command makes its own ssh connection.
Figures are the median [minimum-maximum] of {rounds} rounds.

A deploy changes one line of one file. The clock runs from the start of `ansible-playbook`; the
switch is the first answer of another release to a watcher that asks nginx for `/version` every
20 ms, without other load:

{timing_table(figures)}

In deploys of their own, the memory of all processes of the application's user, also of the
migration, is added up every 0.2 s; what they share is counted once (PSS):

{memory_table(figures.memory)}

Now under load, interleaved: four clients (two keep their connection) and a watcher read, write and
list users, each 20 ms after its last answer, in all {pace:.0f} requests/s when nothing happens.
Counted is what ends after the start of the command and is sent up to {settle_seconds} s after its
end; it has failed if its answer was not 2xx, or none. An error comes sooner than an answer and is
followed by the next request, so the number of failures says less than the gap. Whole deploys are
counted, not only their switch; they build on the cores that serve. The tutorial is
`tests/benchmarks/deploy/tutorial.sh`: the same release under the units of gunicorn's own
documentation, with as many workers, but of one thread and without `preload_app`.

{events_table(figures.events)}

![Time to the answer of each request around each event; the table has the figures]({PICTURE.name})

The picture shows, for each, the round whose gap is the median."""


def picture_rows(events: dict[str, list[Event]]) -> list[dict]:
    """Return what the picture shows: of each method the round whose gap is the median."""
    chosen = {
        method: sorted(seen_by_round, key=lambda seen: seen.gap)[(len(seen_by_round) - 1) // 2]
        for method, seen_by_round in events.items()
    }
    return [
        {
            "title": TITLES[method].replace("`", ""),
            "result": f"{seen.failed} of {len(seen.counted)} failed, longest gap {seen.gap:.2f} s",
            "switch": seen.switch,
            "answers": seen.answers,
        }
        for method, seen in chosen.items()
    ]
