#!/usr/bin/env python3
"""How long from a fresh host to the first answer: a plain script, site.yml, a naive playbook.

Every run gets a fresh container, reached over ssh. The clock runs from the start of the command to
the first 200 that nginx gives for a page that asks PostgreSQL. The playbooks then run once more.
The figures go to docs/benchmarks.md; without `make`:

    .venv/bin/python tests/benchmarks/provision.py [--rounds N | --quick]
"""

import difflib
import re
import secrets
import tarfile
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from common import (
    CERTIFICATES,
    NOT_SOURCE,
    ROOT,
    BenchmarkError,
    fresh_host,
    inventory,
    main,
    play,
    run,
    say,
    spread,
    ssh,
    table,
    tail,
)

HERE = Path(__file__).with_suffix("")
COMMAND = "make bench-provision"

ADDRESSES = {"floor": "127.0.14.11", "site": "127.0.14.12", "naive": "127.0.14.13"}
TITLES = {
    "floor": "plain shell script (the floor)",
    "site": "`site.yml`",
    "naive": "naive playbook",
}
# Without what the script and the naive playbook do not do.
SAME_WORK = {"site_backup": False, "site_monitoring": False}


class Play(NamedTuple):
    """What one ansible-playbook said of itself."""

    tasks: int
    changed: int
    roles: dict[str, float]


class Result(NamedTuple):
    """The figures of one variant in one round; a script has no second run."""

    first: float
    first_play: Play | None = None
    second: float | None = None
    second_play: Play | None = None


def pack(archive: Path, folders: dict[str, Path], files: dict[str, Path]) -> Path:
    """Pack folders (without what is no source) and files under the given names."""

    def is_source(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return None if Path(member.name).name in NOT_SOURCE else member

    with tarfile.open(archive, "w:gz") as tar:
        for name, path in {**folders, **files}.items():
            tar.add(path, name, filter=is_source)
    return archive


def read_play(output: Path) -> Play:
    """Read from the output of ansible-playbook what it did: by role, and by task beside roles."""
    text = output.read_text()
    host = re.search(r"^bench +: ok=(\d+) +changed=(\d+)", text, re.MULTILINE)
    if not host:
        raise BenchmarkError(f"no PLAY RECAP\n{tail(output)}")
    roles = re.findall(r"^(?:ansible\.builtin\.)?(\w+) -{3,} ([\d.]+)s$", text, re.MULTILINE)
    return Play(int(host[1]), int(host[2]), {name: float(seconds) for name, seconds in roles})


def measure_floor(host: dict, url: str, work: Path) -> Result:
    """Measure the script: one ssh call, which brings all it needs in one tar."""
    files = {"floor.sh": HERE / "floor.sh", "uv.txt": ROOT / "roles/flask_app/files/uv.txt"}
    certificates = work / "certificates"
    certificates.mkdir()
    files |= {f"certificates/{path.name}": path for path in CERTIFICATES}
    folders = {"app": ROOT / "app", "certificates": certificates}
    archive = pack(work / "floor.tar.gz", folders, files)
    unpack = "mkdir floor && tar --extract --gzip --directory=floor && floor/floor.sh"
    return Result(run(ssh(host, unpack), work / "first.log", url, stdin=archive))


def measure_playbook(
    playbook: Path, config: Path, variables: dict, host: dict, url: str, work: Path
) -> Result:
    """Measure a playbook on the fresh host, then once more."""
    hosts = inventory(work, host, is_ours=playbook.parent == ROOT)
    results = []
    for name in ("first", "second"):
        output = work / f"{name}.log"
        results.append(play(playbook, hosts, variables, output, "" if results else url, config))
        results.append(read_play(output))
    return Result(*results)


def measure_site(host: dict, url: str, work: Path) -> Result:
    """Measure site.yml; its second run must find nothing to change."""
    result = measure_playbook(ROOT / "site.yml", ROOT / "ansible.cfg", SAME_WORK, host, url, work)
    if result.second_play.changed:
        raise BenchmarkError(f"the second run changed something\n{tail(work / 'second.log')}")
    return result


def measure_naive(host: dict, url: str, work: Path) -> Result:
    """Measure the naive playbook, with Ansible as it comes: its settings are an empty file."""
    config = work / "ansible.cfg"
    config.touch()
    variables = {
        "naive_certificates": [str(path) for path in CERTIFICATES],
        "naive_random_text": secrets.token_urlsafe(48),
        "naive_source": str(pack(work / "app.tar.gz", {".": ROOT / "app"}, {})),
    }
    return measure_playbook(HERE / "naive.yml", config, variables, host, url, work)


MEASURE = {"floor": measure_floor, "site": measure_site, "naive": measure_naive}


def end_state(host: dict, work: Path) -> list[str]:
    """Ask the host what it has become."""
    output = work / "end_state.log"
    run(ssh(host, "bash -s"), output, stdin=HERE / "end_state.sh")
    return output.read_text().splitlines()


def measure(rounds: int) -> dict[str, list[Result]]:
    """Measure every variant in every round, one after another.

    :raises BenchmarkError: where one fails, or the variants did not do the same work.
    """
    results = {variant: [] for variant in MEASURE}
    expected = []
    for number in range(1, rounds + 1):
        for variant, measure_variant in MEASURE.items():
            address = ADDRESSES[variant]
            with (
                tempfile.TemporaryDirectory(prefix="bench-") as folder,
                fresh_host(f"bench-{variant}", address) as host,
            ):
                work = Path(folder)
                try:
                    result = measure_variant(host, f"http://{address}/health/ready", work)
                    state = end_state(host, work)
                except BenchmarkError as error:
                    raise BenchmarkError(f"round {number}, {variant}: {error}") from error
            expected = expected or state
            if state != expected:
                difference = "\n".join(difflib.unified_diff(expected, state, "floor", variant))
                raise BenchmarkError(f"{variant} did other work than the floor:\n{difference}")
            results[variant].append(result)
            second = "" if result.second is None else f", second run {result.second:.1f} s"
            say(f"round {number} of {rounds}: {variant:5} {result.first:6.1f} s{second}")
    return results


def variants_table(results: dict[str, list[Result]]) -> str:
    """Write the figures of the variants side by side."""
    rows = []
    for variant, runs in results.items():
        pairs = zip(runs, results["floor"], strict=True)
        row = [TITLES[variant], spread([result.first for result in runs])]
        row.append(f"{median(result.first / floor.first for result, floor in pairs):.2f}")
        if runs[0].first_play:
            row.append(spread([result.second for result in runs]))
            row += [str(runs[0].first_play.tasks), str(runs[0].second_play.tasks)]
        else:
            row += ["-", "-", "-"]
        rows.append(row)
    head = ["", "first run, s", "ratio", "second run, s", "tasks", "tasks, second run"]
    return table(head, rows)


def roles_table(runs: list[Result]) -> str:
    """Write where the seconds of site.yml go, the longest first."""

    def seconds(plays: list[Play], role: str) -> float:
        return median(play.roles.get(role, 0.0) for play in plays)

    first, second = [run.first_play for run in runs], [run.second_play for run in runs]
    roles = sorted(first[0].roles, key=lambda role: (role == "total", -seconds(first, role)))
    rows = [[role, f"{seconds(first, role):.1f}", f"{seconds(second, role):.1f}"] for role in roles]
    return table(["role or task", "first run, s", "second run, s"], rows)


def section(results: dict[str, list[Result]], machine: str) -> str:
    """Write our section of the page."""
    rounds = len(results["floor"])
    return f"""## From a fresh host to the first answer

`{COMMAND}` on {machine}.

Each run starts with a fresh Debian 12 container, reached over ssh; the machine that runs Ansible
is also the one that runs the container. The clock stops at the first 200 of `GET /health/ready`,
which comes through nginx and gunicorn from PostgreSQL. Variants are interleaved, figures are the
median [minimum-maximum] of {rounds} rounds, and the ratio is the median of each round's own ratio
to the floor. All end in the same state, which is compared. The floor is
`tests/benchmarks/provision/floor.sh`: the same work over one ssh call, without a check and without
a second run. The naive playbook, `tests/benchmarks/provision/naive.yml`, does it as tutorials do.
Backup and monitoring, which `site.yml` brings as it comes, are left out of all three.

{variants_table(results)}

Where the time of `site.yml` goes; a second run changes nothing:

{roles_table(results["site"])}"""


def measured(rounds: int, machine: str, _write: bool) -> str:
    """Measure, and return our section of the page."""
    return section(measure(rounds), machine)


if __name__ == "__main__":
    main("provision", __doc__, measured)
