"""Write the status of every machine, and its last 24 hours, as one page of HTML."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import tempfile
import time
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.filter.core import comment
from ansible.utils.display import Display
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

# What a figure above the plots shows already.
IN_FIGURES = ("workers", "requests")
RED = re.compile(r"RED|UNKNOWN|does not answer|\d+ FIRING")
HISTORY = ("start", "now", "bin_seconds", "known_from", "apps", "machine")
DASH = "\N{EN DASH}"
TICK_HOURS = 6
DECADES = (1, 10, 100, 1000, 10_000, 100_000)
MACHINE_PLOTS = {
    "processor": "Processors at work",
    "memory": "Memory used",
    "disk": "Disk used, the fullest",
    "connections": "Connections used",
}


def beside(name: str):
    """Return a plugin of this folder as a module; Ansible finds plugins, but not their parts."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tell = beside("tell_status")


# -- values


def number(value: float) -> str:
    """Return a number with about three digits."""
    if value and abs(value) < 1:
        return f"{value:.2g}"
    return f"{value:,.1f}".removesuffix(".0") if abs(value) < 100 else f"{value:,.0f}"


def milliseconds(value: float | None) -> str:
    """Return a duration as people say it; a dash where there was no request."""
    if value is None:
        return DASH
    return f"{number(value)} ms" if value < 1000 else f"{number(value / 1000)} s"


def clock(moment: float) -> str:
    """Return the time of day, here."""
    return time.strftime("%H:%M", time.localtime(moment))


def zone(moment: float) -> str:
    """Return what the time here is called."""
    offset = time.strftime("%z", time.localtime(moment))
    return f"UTC{offset[:3]}:{offset[3:]}"


# -- plots: geometry in a box as wide as there are bins, and 100 high


class Day:
    """The bins of the last 24 hours."""

    def __init__(self, history: dict):
        self.start, self.now = history["start"], history["now"]
        self.size, self.known_from = history["bin_seconds"], history["known_from"]
        self.bins = 86400 // self.size + 1

    def seconds(self, place: int) -> int:
        """Return how much of a bin is over, and in the logs."""
        begin = self.start + place * self.size
        return max(1, min(begin + self.size, self.now) - max(begin, self.known_from))

    def span(self, place: int) -> str:
        """Return from when to when a bin is."""
        begin = self.start + place * self.size
        return f"{clock(begin)}{DASH}{clock(min(begin + self.size, self.now))}"

    @property
    def unknown(self) -> int:
        """Return how many bins are older than the logs."""
        return (self.known_from - self.start) // self.size

    @property
    def ticks(self) -> list[dict]:
        """Return the round hours, and where they are in percent of the width."""
        found = []
        for place in range(self.bins):
            moment = self.start + place * self.size
            local = time.localtime(moment)
            if local.tm_min == 0 and local.tm_hour % TICK_HOURS == 0:
                text = clock(moment) if local.tm_hour else time.strftime("%a %d", local)
                found.append({"at": place, "text": text})
        return found


def steps(largest: float) -> list[float]:
    """Return the numbers beside a plot: nothing, half and all of a round number."""
    if largest <= 0:
        return [0, 1]
    size = 10 ** math.floor(math.log10(largest))
    top = next(factor * size for factor in (1, 2, 4, 6, 8, 10) if factor * size >= largest * 0.999)
    return [0, top / 2, top]


def line(heights: list[float | None]) -> str:
    """Return a path through the middle of the bins, with a gap where there is no value."""
    path, before = [], None
    for place, height in enumerate(heights):
        if height is not None:
            path.append(f"{'M' if before is None else 'L'}{place + 0.5:g} {100 - height:.1f}")
            if before is None:
                path.append("h0")  # a value without neighbours is a dot
        before = height
    return "".join(path)


def columns(heights: list[float | None]) -> str:
    """Return a path around columns, side by side."""
    return "".join(
        f"M{place} 100V{100 - height:.1f}h1V100z" for place, height in enumerate(heights) if height
    )


def plot(day: Day, title: str, said: str, series: dict, scale: list, say) -> dict:
    """Return what the template draws.

    series is {name: (kind, values, heights)}, scale is [(height, text)], and say(name, value)
    returns what a reader gets who points at a bin.
    """
    spans = []
    for place in range(day.bins):
        values = {name: one[1][place] for name, one in series.items()}
        if any(value is not None for value in values.values()):
            text = ", ".join(say(name, value) for name, value in values.items())
            spans.append({"at": place, "text": f"{day.span(place)}: {text}"})
    drawn = [
        {"name": name, "kind": kind, "path": (columns if "columns" in kind else line)(heights)}
        for name, (kind, _, heights) in series.items()
    ]
    return {
        "title": title,
        "said": said,
        "bins": day.bins,
        "unknown": day.unknown,
        "ticks": day.ticks,
        "scale": [{"at": round(100 - height, 1), "text": text} for height, text in scale],
        "series": drawn,
        "spans": spans,
    }


def linear(values: list[float | None], top: float) -> list[float | None]:
    """Return heights in percent; what is not nothing can be seen."""
    return [None if value is None else max(100 * value / top, 2 if value else 0)
            for value in values]  # fmt: skip


def requests_plot(day: Day, counts: list[int | None]) -> dict:
    """Return the plot of requests per second."""
    rates = [None if count is None else count / day.seconds(place)
             for place, count in enumerate(counts)]  # fmt: skip
    most = max(filter(None, rates))
    over = sum(day.seconds(place) for place, count in enumerate(counts) if count is not None)
    mean = sum(filter(None, counts)) / over
    scale = steps(most)
    return plot(
        day, "Requests per second", f"{number(mean)} on average, at most {number(most)}",
        {"requests": ("columns", rates, linear(rates, scale[-1]))},
        [(100 * value / scale[-1], number(value)) for value in scale],
        lambda _, value: f"{number(value)} per second",
    )  # fmt: skip


def errors_plot(day: Day, errors: list[int | None]) -> dict:
    """Return the plot of the answers 5xx."""
    total, top = sum(filter(None, errors)), steps(max(filter(None, errors), default=0))[-1]
    return plot(
        day, "Answers 5xx", f"{total:,} in all" if total else "none",
        {"5xx": ("columns bad", errors, linear(errors, top))},
        [(0, "0"), (100, number(top))],
        lambda _, value: f"{value} answers 5xx",
    )  # fmt: skip


def durations_plot(day: Day, bins: dict) -> dict:
    """Return the plot of the percentiles; each line of its scale is ten times the one below."""
    asked = {"p99": bins["p99_ms"], "p50": bins["p50_ms"]}
    known = [max(value, 1) for row in asked.values() for value in row if value is not None]
    low = max(step for step in DECADES if step <= min(known))
    high = min((step for step in DECADES if step >= max(known)), default=DECADES[-1])
    high = max(high, 10 * low)

    def height(value: float) -> float:
        place = math.log10(max(value, low) / low) / math.log10(high / low)
        return min(100.0, 100 * place)

    def heights(row: list[int | None]) -> list[float | None]:
        return [None if value is None else height(value) for value in row]

    worst = max(value for value in asked["p99"] if value is not None)
    return plot(
        day, "Time to the answer", f"p99 at most {milliseconds(worst)}",
        {name: ("first" if name == "p50" else "second", row, heights(row))
         for name, row in asked.items()},
        [(height(step), milliseconds(step)) for step in DECADES if low <= step <= high],
        lambda name, value: f"{name} {milliseconds(value)}",
    )  # fmt: skip


def machine_plot(day: Day, title: str, values: list[float | None]) -> dict:
    """Return a plot of percents."""
    known = [value for value in values if value is not None]
    drawn = plot(
        day, title, f"last {number(known[-1])} %, at most {number(max(known))} %",
        {title: ("first", values, [value if value is None else min(value, 100)
                                   for value in values])},
        [(0, "0"), (50, "50"), (100, "100 %")],
        lambda _, value: f"{number(value)} %",
    )  # fmt: skip
    return {**drawn, "unknown": 0}


# -- the page


def application(app: dict, history: dict, day: Day) -> dict:
    """Return what the page says of an application."""
    asked, workers, of_day = app["requests"], app["workers"], history["apps"][app["app"]]
    total, bins = of_day["total"], of_day["bins"]
    plots = []
    if total["count"]:
        plots = [
            requests_plot(day, bins["count"]),
            durations_plot(day, bins),
            errors_plot(day, bins["answers_5xx"]),
        ]
    table = [
        (clock(day.start + place * day.size), number(count / day.seconds(place)),
         milliseconds(bins["p50_ms"][place]), milliseconds(bins["p99_ms"][place]),
         bins["answers_5xx"][place])
        for place, count in enumerate(bins["count"]) if count
    ]  # fmt: skip
    return {
        "name": app["app"],
        "wrong": tell.wrong(app),
        "warns": app["maintenance"],
        "figures": [
            ("Requests", number(asked["per_second"]), "per second", False),
            ("p50", milliseconds(asked["p50_ms"]), "median", False),
            ("p99", milliseconds(asked["p99_ms"]), "slowest 1 %", False),
            ("5xx", asked["answers_5xx"], "answers", asked["answers_5xx"] > 0),
            ("Workers", f"{workers['alive']}/{workers['promised']}", "alive",
             workers["alive"] < workers["promised"]),
        ],
        "window": tell.duration(asked["window_seconds"]),
        "rows": [row for row in tell.app_lines(app) if row[0] not in IN_FIGURES],
        "total": total,
        "plots": plots,
        "table": table,
    }  # fmt: skip


def bars(machine: dict) -> list[tuple[str, str, float]]:
    """Return what can run out: its name, how much is used, and that in percent."""
    memory, database = machine["memory"], machine["database"]
    used = memory["total_mib"] - memory["available_mib"]
    found = [
        (f"Disk {disk['path']}", f"{disk['used_percent']} %", disk["used_percent"])
        for disk in machine["disks"]
    ]
    percent = round(100 * used / memory["total_mib"])
    found.append(("Memory", f"{percent} %", percent))
    if database:
        text = f"{database['used']}/{database['allowed']}"
        found.append(("Connections", text, round(100 * database["used"] / database["allowed"])))
    return found


def report_of(host: dict) -> dict:
    """Return what the page says of a machine and its applications."""
    history, machine = host["history"], host["machine"]
    day = Day(history)
    seen = history["machine"]
    return {
        "name": host["host"],
        "apps": [application(app, history, day) for app in host["apps"]],
        "since": "" if day.known_from <= day.start else clock(day.known_from),
        "bars": bars(machine),
        "rows": [(*row, bool(RED.match(row[1]))) for row in tell.machine_lines(machine)],
        "has_prometheus": seen is not None,
        "plots": [machine_plot(day, title, seen[name]) for name, title in MACHINE_PLOTS.items()
                  if any(value is not None for value in seen[name])] if seen else [],
    }  # fmt: skip


def render(template: str, hosts: list[dict], silent: list[str], now: float, managed: str) -> str:
    """Return the page; whatever a value holds, it is text in it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["comment"] = lambda text, style: Markup(comment(text, style))  # noqa: S704
    environment.filters["number"] = number
    environment.filters["milliseconds"] = milliseconds
    moment = time.localtime(now)
    reports = [report_of(host) for host in hosts]
    wrong = [(app["name"], app["wrong"]) for one in reports for app in one["apps"] if app["wrong"]]
    red = [(one["name"], f"{name}: {text}") for one in reports for name, text, is_red in one["rows"]
           if is_red]  # fmt: skip
    return environment.from_string(template).render(
        ansible_managed=managed,
        hosts=reports,
        silent=silent,
        wrong=wrong,
        red=red,
        date=time.strftime("%A %d %B %Y", moment),
        clock=clock(now),
        zone=zone(now),
    )


def write(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=f".{path.name}.", encoding="utf-8", delete=False
        ) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as error:
        raise AnsibleActionFail(
            f"The page cannot be written: {error.strerror}.\nSeen at: {path}.\n"
            "Allowed: a file in a folder that there is, and that you may write to.\n"
            "Fix: give another place, as ./ops report --output ~/report.html"
        ) from error


class ActionModule(ActionBase):
    """Runs on the control node only."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Write; fail as the status does."""
        super().run(tmp, task_vars)
        arguments, hostvars = self._task.args, task_vars["hostvars"]
        hosts = []
        for name in task_vars["ansible_play_hosts"]:
            status = hostvars[name].get(arguments["status"], {})
            history = hostvars[name].get(arguments["history"], {})
            if "machine" in status and "start" in history:
                kept = {key: history[key] for key in HISTORY}
                hosts.append({"host": name, "machine": status["machine"], "apps": status["apps"],
                              "history": kept})  # fmt: skip
        silent = [name for name in task_vars["ansible_play_hosts_all"]
                  if name not in task_vars["ansible_play_hosts"]]  # fmt: skip
        path = Path(arguments["path"]).expanduser().absolute()
        template = Path(arguments["template"]).read_text(encoding="utf-8")
        if not self._task.check_mode:
            managed = str(task_vars.get("ansible_managed", "Ansible managed"))
            write(path, render(template, hosts, silent, time.time(), managed))
        if arguments["as_json"]:
            Display().display(json.dumps({"page": str(path), "hosts": hosts}))
        else:
            Display().display(f"The report is written: {path}\n")
        bad = [f"{app['app']} on {host['host']} {why}"
               for host in hosts for app in host["apps"] if (why := tell.wrong(app))]  # fmt: skip
        return {"changed": False, "failed": bool(bad), "msg": "; ".join(bad)}
