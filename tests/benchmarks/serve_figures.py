"""What was measured of servers: loads, samples, and how they compare."""

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import NamedTuple

CLIENTS = (1, 8, 64, 256)
# How long a load lasts, and where many clients wait for few threads.
SECONDS, LONG_SECONDS = 1.2, 2.5


class Cell(NamedTuple):
    """One load: what is asked, by how many clients at once."""

    endpoint: str
    clients: int

    def __str__(self) -> str:
        """Say it."""
        return f"{self.endpoint}, {self.clients} clients"


SELECT_8, SELECT_64 = Cell("select", 8), Cell("select", 64)


class Shape(NamedTuple):
    """How many workers of how many threads; a worker of one thread is a sync one, else ours."""

    workers: int
    threads: int

    def settings(self) -> dict:
        """Return what gunicorn is told."""
        kind = {"worker_class": "sync"} if self.threads == 1 else {}
        return {"workers": self.workers, "threads": self.threads, **kind}

    def __str__(self) -> str:
        """Say it."""
        return f"{self.workers} sync" if self.threads == 1 else f"{self.workers} x {self.threads}"


class Sample(NamedTuple):
    """What one load has shown; times in ms, processor time in s, memory in MiB, by part."""

    requests: int
    seconds: float
    p50: float
    p99: float
    refused: int  # answered, but not with 2xx or 3xx
    broken: int  # not answered: no connection, cut off, or too late
    cpu: dict
    memory: dict
    limit: float  # the seconds that the load was meant to last

    @property
    def rate(self) -> float:
        """Return the good answers per second."""
        return (self.requests - self.refused) / self.seconds

    @property
    def failed(self) -> int:
        """Count the requests without a good answer."""
        return self.refused + self.broken

    @property
    def cost(self) -> float:
        """Return the microseconds of processor time for each request, of all parts."""
        return sum(self.cpu.values()) / max(self.requests, 1) * 1e6

    def __str__(self) -> str:
        """Say it."""
        return (
            f"{self.rate:.0f}/s, p50 {self.p50:.1f} ms, p99 {self.p99:.1f} ms, "
            f"{self.failed} failed, {self.cost:.0f} µs, {self.memory['app']:.0f} MiB"
        )


def nearness(one: float, two: float) -> float:
    """Return which share of the higher figure the lower one is."""
    low, high = sorted(max(figure, 0.1) for figure in (one, two))
    return low / high


def by_server_and_load() -> dict:
    """Return an empty place for samples."""
    return defaultdict(lambda: defaultdict(list))


@dataclasses.dataclass
class Figures:
    """All that was measured; samples by server and load, one for each round."""

    ours: Shape
    key_shapes: list[Shape]
    cores: int
    rounds: int
    versions: str = ""
    samples: dict = dataclasses.field(default_factory=by_server_and_load)
    cold: dict = dataclasses.field(default_factory=lambda: defaultdict(list))
    ready: dict = dataclasses.field(default_factory=lambda: defaultdict(list))
    pgbench: list = dataclasses.field(default_factory=list)
    loops: dict = dataclasses.field(default_factory=lambda: defaultdict(list))
    kills: dict = dataclasses.field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, endpoint: str, clients: int, sample: Sample) -> None:
        """Keep what a load has shown."""
        self.samples[name][Cell(endpoint, clients)].append(sample)

    def get(self, name: str, cell: Cell, of: str = "rate") -> list[float]:
        """Return one figure of each round."""
        return [getattr(sample, of) for sample in self.samples[name][cell]]

    def ratios(self, name: str, other: str, cell: Cell, of: str = "rate") -> list[float]:
        """Compare two servers within each round."""
        pairs = zip(self.get(name, cell, of), self.get(other, cell, of), strict=True)
        # On a busy machine, in a quick run, nothing may have been answered.
        return [max(one, 0.1) / max(two, 0.1) for one, two in pairs]

    def ratio(self, name: str, other: str, cell: Cell, of: str = "rate") -> float:
        """Compare two servers: the median of each round's own ratio."""
        return median(self.ratios(name, other, cell, of))

    def noise(self, cell: Cell, of: str) -> float:
        """Return how far two servers with the same settings were apart, at most: ours, twice."""
        return max(abs(ratio - 1) for ratio in self.ratios("ours", str(self.ours), cell, of))

    def alike(self, cell: Cell) -> float:
        """Return which share of a round's rate another round had at least, of the same settings.

        Ours was measured twice, as the unit and as all others are. Rates of two servers that are as
        near to each other as any two rounds of those do not differ by what was seen.
        """
        one, two = self.get("ours", cell), self.get(str(self.ours), cell)
        return min(nearness(a, b) for a in one for b in two)

    def warm(self, name: str) -> float:
        """Return what a server takes in memory after its loads, in MiB."""
        last = list(self.samples[name].values())[-1]
        return median(sample.memory["app"] for sample in last)

    def save(self, path: Path, machine: str) -> None:
        """Write everything to a file, from which the page can be written again."""
        rows = [
            [name, *cell, sample._asdict()]
            for name, cells in self.samples.items()
            for cell, samples in cells.items()
            for sample in samples
        ]
        path.write_text(json.dumps({**vars(self), "samples": rows, "machine": machine}))

    @classmethod
    def load(cls, path: Path) -> tuple["Figures", str]:
        """Read what `save` has written: the figures, and the machine."""
        data = json.loads(path.read_text())
        machine, rows = data.pop("machine"), data.pop("samples")
        data["ours"] = Shape(*data["ours"])
        data["key_shapes"] = [Shape(*shape) for shape in data["key_shapes"]]
        figures = cls(**data)
        for name, endpoint, clients, sample in rows:
            figures.add(name, endpoint, clients, Sample(**sample))
        return figures, machine
