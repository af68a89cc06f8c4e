#!/usr/bin/env python3
"""What a host survives: every fault of the scenarios faults and faults-vm, in one table.

Each scenario is run whole, then the rows are written to docs/reliability.md; without `make`:

    .venv/bin/python tests/benchmarks/reliability.py [--last] [SCENARIO …]

With names only those are run, with --last none; of the others stands what their last run measured.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import ROOT, write_page

sys.path.append(str(ROOT / "molecule/faults/tests"))

from faults import Table, table

HOSTS = {
    "faults": "Measured in a container with Debian 12",
    "faults-vm": "Those at the end (VM) in a machine with Debian 12, 1 vCPU and 1 GiB, emulated",
}
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def test(scenario: str) -> None:
    """Run a scenario from its host's creation to its end."""
    molecule = Path(sys.executable).with_name("molecule")
    done = subprocess.run([molecule, "test", "--scenario-name", scenario], cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"Problem: the scenario {scenario} failed, so {PAGE.name} stays as it is.")


def section() -> str:
    """Return the table, and on what it was measured."""
    rows, measured = {}, []
    for scenario, host in HOSTS.items():
        path = Table(scenario).path
        if not path.exists():
            sys.exit(f"Problem: {scenario} was not run here.\nFix: make faults")
        kept = json.loads(path.read_text())
        mark = " (VM)" if scenario.endswith("-vm") else ""
        rows |= {name + mark: row for name, row in kept["rows"].items()}
        measured.append(f"{host}: {kept['machine']}.")
    return "\n".join([BEGIN, table(rows), "", *measured, "Again: `make faults`.", END])


def main() -> None:
    """Run what has to be run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--last", action="store_true", help="run nothing")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=" or ".join(HOSTS))
    given = parser.parse_args()
    if unknown := set(given.scenarios) - set(HOSTS):
        parser.error(f"there is no {', '.join(unknown)}; choose of {', '.join(HOSTS)}")
    for scenario in [] if given.last else given.scenarios or HOSTS:
        test(scenario)
    text = section()
    print(text)
    write_page(text, BEGIN, END, PAGE)


if __name__ == "__main__":
    main()
