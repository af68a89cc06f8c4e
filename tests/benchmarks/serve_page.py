"""How docs/ shows what was measured of servers."""

import textwrap
from collections.abc import Iterable
from statistics import median

from common import ROOT, spread, table
from serve_figures import (
    CLIENTS,
    LONG_SECONDS,
    SECONDS,
    SELECT_8,
    SELECT_64,
    Cell,
    Figures,
    Sample,
    Shape,
    nearness,
)

COMMAND = "make bench"
PICTURES = {"servers": ROOT / "docs/serve.svg", "workers": ROOT / "docs/workers.svg"}
ENDPOINTS = {
    "live": "no database: `GET /health/live`",
    "select": "one SELECT: `GET /users/ID`",
    "insert": "one INSERT: `POST /users`",
    "sleep": "200 ms of waiting for something else",
}
SERVERS = {
    "dev": "`flask run`",
    "tutorial": "`gunicorn --workers 4 --threads 2`",
    "ours": "ours",
}
NEAR = 0.95

# -- small parts


def number(value: float) -> str:
    """Write a figure with as many digits as it deserves."""
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def times(ratio: float) -> str:
    """Write a ratio."""
    return f"{ratio:.2f}"


def noted(said: str, ratio: float, alike: float) -> str:
    """Add to a ratio that it says nothing, where rounds of the same settings were as far apart."""
    return f"{said}, within the noise" if ratio != 1 and nearness(ratio, 1) >= alike else said


def compared(ratios: list[float], alike: float = 1) -> str:
    """Write what a comparison within each round has shown; `alike`: see `Figures.alike`."""
    said = f"{times(min(ratios))} to {times(max(ratios))} times"
    if min(ratios) <= 1 <= max(ratios):
        return f"{said}: no difference seen"
    return noted(said, median(ratios), alike)


def failures(samples: list[Sample]) -> str:
    """Write how many requests failed, of how many."""
    failed = sum(sample.failed for sample in samples)
    asked = sum(sample.requests + sample.broken for sample in samples)
    return f"{failed} of {asked}" if failed else "0"


def milliseconds(samples: list[Sample], clients: int, of: str) -> str:
    """Write a percentile of the answers' times.

    Where clients wait about as long as the load lasts, most of them saw no answer, and those who
    did flatter it.
    """
    rate, limit = median(sample.rate for sample in samples), samples[0].limit
    if clients / max(rate, 0.1) > limit / 2:
        return f"> {limit / 2 * 1000:.0f}"
    return number(median(getattr(sample, of) for sample in samples))


def at_once(figures: Figures, name: str, clients: int) -> float:
    """Return how many requests of 200 ms a server works on at once."""
    return median(figures.get(name, Cell("sleep", clients))) * 0.2


def load_row(title: str, cell: Cell, samples: list[Sample]) -> list[str]:
    """Write what one server made of one load."""
    return [
        title,
        str(cell.clients),
        spread([sample.rate for sample in samples], 0),
        milliseconds(samples, cell.clients, "p50"),
        milliseconds(samples, cell.clients, "p99"),
        failures(samples),
        spread([sample.cost for sample in samples], 0),
        number(median(sample.memory["app"] for sample in samples)),
    ]


# -- tables


def claims_table(figures: Figures) -> str:
    """Put each sentence of the tutorials beside what was measured."""

    def rates(name: str) -> str:
        live, select, insert = (
            f"{median(figures.get(name, Cell(endpoint, 8))):.0f}"
            for endpoint in ("live", "select", "insert")
        )
        return f"{live}/s without a database, {select} with a SELECT, {insert} with an INSERT"

    select = SELECT_8
    factor = figures.ratio("tutorial", "dev", select)
    binary, source = ([run["rate"] for run in figures.loops[f"loop {kind}"]]
                      for kind in ("binary", "source"))  # fmt: skip
    loops = [one / two for one, two in zip(binary, source, strict=True)]
    requests = figures.ratios(str(figures.ours), "source", select)
    best, share = knee(figures, figures.cores)
    rows = [
        ["The dev server: about 100 requests/s", rates("dev")],
        [
            "… and 1 at a time",
            f"{at_once(figures, 'dev', 8):.1f} at once of 8 clients that wait 200 ms each: it has "
            "a thread for each; only `flask run --without-threads` has "
            f"{at_once(figures, 'dev one', 8):.1f}",
        ],
        [
            "gunicorn with 4 workers: about 800 requests/s",
            f"{rates('tutorial')}; with the SELECT {times(factor)} times the dev server's",
        ],
        [
            "… and 8 at a time",
            f"{at_once(figures, 'tutorial', 64):.1f} at once of 64 clients that wait 200 ms each",
        ],
        [
            "50 MB against 200 MB",
            f"{figures.warm('dev'):.0f} MiB against {figures.warm('tutorial'):.0f}, after load; "
            f"ours, {figures.ours.workers} workers with `preload_app`: {figures.warm('ours'):.0f}",
        ],
        [
            "psycopg2-binary is slightly slower than psycopg2, not worth mentioning",
            f"{median(binary):.0f} queries/s of one process against {median(source):.0f} from "
            f"source, by round {compared(loops)}; whole requests, by round: "
            f"{compared(requests, figures.alike(select))}",
        ],
        [
            "workers = 2 x cores + 1",
            f"with {figures.cores} cores, a SELECT and 64 clients {best} workers answer most; "
            f"{2 * figures.cores + 1} answer "
            f"{noted(f'{share:.0%} of that', share, figures.alike(SELECT_64))}",
        ],
    ]
    return table(["claim", "measured"], rows).replace("| ---: |", "| --- |")


def servers_tables(figures: Figures) -> str:
    """Write what the three servers made of every load."""
    head = ["", "clients", "requests/s", "p50, ms", "p99, ms", "failed", "CPU, µs/request"]
    parts = []
    for endpoint, title in ENDPOINTS.items():
        rows = [
            load_row(shown, cell, figures.samples[name][cell])
            for cell in (Cell(endpoint, clients) for clients in CLIENTS)
            for name, shown in SERVERS.items()
        ]
        parts.append(f"{title[0].upper()}{title[1:]}:\n\n{table([*head, 'memory, MiB'], rows)}")
    return "\n\n".join(parts)


def sweep(figures: Figures, cores: int) -> dict[int, str]:
    """Return the numbers of workers that were tried on so many cores, and the servers' names."""
    end = "" if cores == figures.cores else f", {cores} core"
    names = {workers: f"{Shape(workers, 2)}{end}" for workers in range(1, 2 * cores + 6)}
    return {workers: name for workers, name in names.items() if name in figures.samples}


def knee(figures: Figures, cores: int) -> tuple[int, float]:
    """Return which number of workers answers most, and which share of that 2n+1 has."""
    cell, names = SELECT_64, sweep(figures, cores)
    best = max(names, key=lambda workers: median(figures.get(names[workers], cell)))
    return best, figures.ratio(names[2 * cores + 1], names[best], cell)


def swept_cores(figures: Figures) -> list[int]:
    """Return on how many cores workers were tried."""
    return sorted({1, figures.cores})


def workers_table(figures: Figures, cores: int) -> str:
    """Write what each number of workers answers on so many cores."""
    cell, rows = SELECT_64, []
    for workers, name in sweep(figures, cores).items():
        samples = figures.samples[name][cell]
        title = f"{workers} = 2n+1" if workers == 2 * cores + 1 else str(workers)
        rows.append([title, *load_row("", cell, samples)[2:]])
    head = ["workers", "requests/s", "p50, ms", "p99, ms", "failed", "CPU, µs/request"]
    return table([*head, "memory, MiB"], rows)


def workers_text(figures: Figures) -> str:
    """Say where the knee is."""
    parts = []
    for cores in swept_cores(figures):
        best, share = knee(figures, cores)
        cell, names = SELECT_64, sweep(figures, cores)
        near = next(w for w in names if figures.ratio(names[w], names[best], cell) >= NEAR)
        parts.append(
            f"On {cores} core{'s' if cores > 1 else ''} {near} worker{'s' if near > 1 else ''} "
            f"reach {NEAR:.0%} of the most, which {best} have; 2n+1 = {2 * cores + 1} answer "
            f"{noted(f'{share:.0%} of it', share, figures.alike(cell))}."
        )
    return " ".join(parts)


def shapes_table(figures: Figures) -> str:
    """Write what sync and gthread make of some loads, in requests/s."""
    cells = {
        "SELECT, 8 clients": SELECT_8,
        "SELECT, 64": SELECT_64,
        "INSERT, 8": Cell("insert", 8),
        "200 ms, 64": Cell("sleep", 64),
    }
    rows = []
    for shape in figures.key_shapes:
        name = str(shape)
        if name not in figures.samples:
            continue
        title = f"**{name}**" if shape == figures.ours else name
        row = [title, *(spread(figures.get(name, cell), 0) for cell in cells.values())]
        row.append(spread([sample.p99 for sample in figures.samples[name][SELECT_64]], 0))
        row.append(number(median(figures.get(name, SELECT_8, "cost"))))
        rows.append([*row, number(figures.warm(name))])
    head = ["workers x threads", *cells, "p99, SELECT, 64, ms", "CPU, SELECT, 8, µs"]
    return table([*head, "memory, MiB"], rows)


def shapes_text(figures: Figures) -> str:
    """Say how far our default is from the best of them."""
    ours, parts = str(figures.ours), []
    tried = [str(shape) for shape in figures.key_shapes if str(shape) in figures.samples]
    for title, cell in {
        "SELECT and 8 clients": SELECT_8,
        "SELECT and 64": SELECT_64,
        "INSERT and 8": Cell("insert", 8),
        "200 ms of waiting and 64": Cell("sleep", 64),
    }.items():
        best = max(tried, key=lambda name: median(figures.get(name, cell)))
        share = figures.ratio(ours, best, cell)
        parts.append(f"{title}: {best}, ours {noted(f'{share:.0%}', share, figures.alike(cell))}")
    return f"The best of them, and what ours ({ours}) answers beside it: {'; '.join(parts)}."


def even_text(figures: Figures) -> str:
    """Say what it brings that a worker whose threads are busy leaves new connections to others."""
    few, many = Cell("sleep", 8), Cell("sleep", 64)
    plain, ours, select = "gthread", str(figures.ours), SELECT_64
    more = figures.ratio(ours, plain, select)
    return (
        f"With gthread as it comes, 8 clients of pages that wait for 200 ms get "
        f"{spread(figures.get(plain, few), 0)} requests/s, with our worker "
        f"{spread(figures.get(ours, few), 0)}; `flask run`, with a thread for each, "
        f"{spread(figures.get('dev', few), 0)}. 64 clients: "
        f"{spread(figures.get(plain, many), 0)} and {spread(figures.get(ours, many), 0)}; "
        "64 clients of a SELECT: "
        f"{noted(f'{times(more)} times as many', more, figures.alike(select))}."
    )


KNOBS = {
    "direct": "without nginx in front",
    "source": "psycopg2 from source",
    "tcp": "PostgreSQL over TCP, which is TLS on Debian",
    "pool 1": "a pool of 1 connection for 2 threads",
    "pool 4": "a pool of 4",
    "no pool": "no pool (`NullPool`)",
    "unshared": "without `preload_app`",
    "unfrozen": "without `gc.freeze()` before the fork",
    "searched": "without it, and each worker looks for pools among all objects",
}


def knobs_table(figures: Figures) -> str:
    """Write what one changed setting does, beside ours."""
    ours = str(figures.ours)
    titles = {ours: f"ours: {ours}, nginx, socket, pool of 2, preload"} | KNOBS
    rows = []
    for name, title in titles.items():
        row = [title]
        for cell in (SELECT_8, SELECT_64):
            row.append(spread(figures.get(name, cell), 0))
            row.append(times(figures.ratio(name, ours, cell)))
        row.append(times(figures.ratio(name, ours, SELECT_8, "cost")))
        row += [number(median(figures.cold[name])), number(figures.warm(name))]
        row.append(f"{median(figures.ready[name]):.1f}")
        rows.append(row)
    head = ["", "SELECT, 8 clients, 1/s", "ratio", "64 clients, 1/s", "ratio", "CPU ratio"]
    return table([*head, "MiB at first", "MiB after load", "start, s"], rows)


def knobs_text(figures: Figures) -> str:
    """Say what matters: what costs more or less in every round than two of the same differ."""
    ours, cell = str(figures.ours), SELECT_8
    noise = figures.noise(cell, "cost")
    cost = {name: figures.ratios(name, ours, cell, "cost") for name in KNOBS}
    more = {name: median(found) for name, found in cost.items() if min(found) > 1 + noise}
    less = {name: median(found) for name, found in cost.items() if max(found) < 1 - noise}
    memory = {name: figures.warm(name) / figures.warm(ours) for name in KNOBS}

    moved = {name: ratio for name, ratio in memory.items() if abs(ratio - 1) > 0.1}
    loads = (cell, SELECT_64)
    seen = [
        shown
        for name, shown in KNOBS.items()
        if any(nearness(figures.ratio(name, ours, on), 1) < figures.alike(on) for on in loads)
    ]

    def listed(ratios: dict[str, float]) -> str:
        return ", ".join(f"{KNOBS[name]} ({r:.2f})" for name, r in ratios.items()) or "none of them"

    return (
        "Two servers with our settings were measured, as a unit and as all others are; their "
        f"processor time for a request differs by up to {noise:.0%}, so less than that says "
        f"nothing. More in every round: {listed(more)}. Less: {listed(less)}. Requests/s outside "
        f"the noise: {', '.join(seen) or 'none of them'}. Memory is steady; what moves it by more "
        f"than a tenth: {listed(moved)}."
    )


def limits_table(figures: Figures) -> str:
    """Write what is above us."""
    ours = str(figures.ours)
    loops = {name: [run["rate"] for run in runs] for name, runs in figures.loops.items()}
    static, live = Cell("static", 64), Cell("live", 64)
    rows = [
        ["nginx alone: a small file, 64 clients", figures.get("static", static)],
        ["a bare WSGI function, our gunicorn, no nginx, 64", figures.get("bare", Cell("bare", 64))],
        ["Flask without a database, our gunicorn, no nginx, 64", figures.get("direct", live)],
        ["`pgbench --select-only`, 8 clients", figures.pgbench],
        ["psycopg2 in a loop, one process, the socket", loops["loop binary"]],
        ["the same with psycopg2 from source", loops["loop source"]],
        ["the same over TCP, which is TLS", loops["loop tcp"]],
        ["ours: a request with one SELECT, 8 clients", figures.get(ours, SELECT_8)],
        ["ours: the same, 64 clients", figures.get(ours, SELECT_64)],
    ]
    select = median(figures.get(ours, SELECT_64))
    return table(
        ["", "a second", "our SELECT, 64 clients, of that"],
        [[title, spread(rates, 0), f"{select / median(rates):.0%}"] for title, rates in rows],
    )


def limits_text(figures: Figures) -> str:
    """Say which part the time goes to."""
    samples = figures.samples[str(figures.ours)][SELECT_64]
    parts = {
        part: median(sample.cpu[part] / sample.requests * 1e6 for sample in samples)
        for part in samples[0].cpu
    }
    app = parts["app"] / sum(parts.values())
    costs = ", ".join(f"{part} {cost:.0f} µs" for part, cost in parts.items())
    return (
        f"Of the processor time of a request with one SELECT at 64 clients ({costs}) {app:.0%} is "
        "Python's: Flask, SQLAlchemy and gunicorn. Neither nginx nor PostgreSQL is what limits it."
    )


def kills_table(figures: Figures) -> str:
    """Write what a crash costs."""
    rows = [
        [
            title,
            spread([kill["whole"] for kill in figures.kills[whom]], 2),
            spread([kill["gap"] for kill in figures.kills[whom]], 2),
            spread([kill["failed"] for kill in figures.kills[whom]], 0),
        ]
        for whom, title in {
            "worker": "a worker (the master makes a new one)",
            "master": "the master (systemd starts all again, after `RestartSec=200ms`)",
        }.items()
    ]
    head = ["SIGKILL to", "until all workers live, s", "longest gap without an answer, s"]
    return table([*head, "requests that failed"], rows)


# -- the page


def section(figures: Figures, machine: str) -> str:
    """Write our section of the page."""
    cores = figures.cores
    sweeps = "\n\n".join(
        f"Workers of 2 threads on {n} core{'s' if n > 1 else ''}, one SELECT, 64 clients:\n\n"
        f"{workers_table(figures, n)}"
        for n in swept_cores(figures)
    )
    return wrapped(f"""## How fast it answers

`{COMMAND}` on {machine}.
{figures.versions}.

One Debian 12 container made by `site.yml`; `wrk` loads it from inside, on the same {cores} cores,
which costs every server alike. Servers take turns, in {figures.rounds} rounds; each is started,
warmed up, loaded for {SECONDS} s ({LONG_SECONDS} s where many wait) and stopped. Figures are the
median [minimum-maximum] of the rounds, and ratios the median of each round's own ratio.
{noise_text(figures)} A request has failed if its answer was not 2xx, or if none came. CPU is the
processor time of application, PostgreSQL and nginx together; memory that of the application's
processes, in which what they share is counted once (PSS). `> {SECONDS * 500:.0f}` and
`> {LONG_SECONDS * 500:.0f}`, half of a load's time, stand where clients wait too long to see an
answer. All servers have the same code, virtualenv and database, over the Unix socket. `flask run`
and the tutorial's gunicorn are asked at their own TCP port, with SQLAlchemy's usual pool; ours is
the unit that `site.yml` made, through nginx.

### What beginners read, and what is so

{claims_table(figures)}

### Three servers

{servers_text(figures)}

![Requests/s of the three servers by clients]({PICTURES["servers"].name})

{servers_tables(figures)}

### How many workers

{workers_text(figures)} [Decision 24](decisions/0024-how-many-workers.md) says why it is the default
all the same or not, and which number to choose when.

![Requests/s by number of workers]({PICTURES["workers"].name})

{sweeps}

On one core application, PostgreSQL and nginx share it, and `wrk` has the other. Four cores were not
measured: the only machine with four that the project can make here is an emulated one on the same
two (see decision 24).

### sync or gthread, and how many threads

{shapes_text(figures)} A sync worker has no threads and no kept connections. With pages that wait
for something else, threads decide: each is a request more at once.

{shapes_table(figures)}

{even_text(figures)} gthread takes connections whose requests then wait for its own threads while
others' are idle ([decision 30](decisions/0030-a-busy-worker-hesitates.md)).

### One setting changed

{knobs_text(figures)}

{knobs_table(figures)}

### When a process is killed

All under 8 clients that read. {kills_text(figures)}

{kills_table(figures)}

### The limits above

{limits_text(figures)}

{limits_table(figures)}""")


def wrapped(text: str) -> str:
    """Break the lines of paragraphs, and leave headings, tables and pictures alone."""
    return "\n\n".join(
        part
        if part.startswith(("|", "#", "!"))
        else textwrap.fill(part, 100, break_long_words=False, break_on_hyphens=False)
        for part in text.split("\n\n")
    )


def noise_text(figures: Figures) -> str:
    """Say below which difference two servers are called alike."""
    loads = {
        "SELECT and 8 clients": SELECT_8,
        "SELECT and 64": SELECT_64,
        "INSERT and 8": Cell("insert", 8),
    }
    shares = ", ".join(f"{title} {figures.alike(cell):.0%}" for title, cell in loads.items())
    return (
        f"Our settings were measured twice, as `ours` and as `{figures.ours}`: the lowest round of "
        f"one has this share of the highest of the other: {shares}. Servers that are no further "
        "apart are within the noise."
    )


def servers_text(figures: Figures) -> str:
    """Say how the three compare."""
    sentences = []
    for endpoint, what in {
        "live": "no database",
        "select": "one SELECT",
        "insert": "one INSERT",
    }.items():
        few, many = Cell(endpoint, 8), Cell(endpoint, 64)
        sentences.append(
            f"{what}: the tutorial's gunicorn {times(figures.ratio('tutorial', 'dev', few))} and "
            f"{times(figures.ratio('tutorial', 'dev', many))}, ours "
            f"{times(figures.ratio('ours', 'dev', few))} and "
            f"{times(figures.ratio('ours', 'dev', many))}"
        )
    failed = {
        shown: sum(s.failed for samples in figures.samples[name].values() for s in samples)
        for name, shown in SERVERS.items()
    }
    failures_text = ", ".join(f"{shown} {count}" for shown, count in failed.items())
    return (
        f"Times the rate of `flask run`, at 8 and 64 clients: {'; '.join(sentences)}. Failed "
        f"requests in all: {failures_text}."
    )


def kills_text(figures: Figures) -> str:
    """Say what a crash costs."""
    worker, master = (
        median(kill["gap"] for kill in figures.kills[whom]) for whom in ("worker", "master")
    )
    return (
        f"Without a worker the others go on: the longest gap was {worker:.2f} s. Without its "
        f"master gunicorn is gone, and nobody is answered for {master:.1f} s."
    )


def pictures(figures: Figures) -> dict[str, dict]:
    """Return what the pictures show."""

    def line(points: Iterable[tuple[int, list[float]]]) -> list[list[float]]:
        return [[x, median(rates), min(rates), max(rates)] for x, rates in points]

    servers = [
        {
            "title": title.replace("`", ""),
            "lines": {
                shown.replace("`", ""): line(
                    (clients, figures.get(name, Cell(endpoint, clients))) for clients in CLIENTS
                )
                for name, shown in SERVERS.items()
            },
        }
        for endpoint, title in ENDPOINTS.items()
    ]
    workers = [
        {
            "title": f"{cores} core{'s' if cores > 1 else ''}",
            "formula": 2 * cores + 1,
            "line": line(
                (workers, figures.get(name, SELECT_64))
                for workers, name in sweep(figures, cores).items()
            ),
        }
        for cores in swept_cores(figures)
    ]
    return {"servers": {"panels": servers}, "workers": {"panels": workers}}
