#!/usr/bin/env python3
"""What a host survives: every fault of the scenarios faults and faults-vm, in one table.

Both scenarios are run whole, then their rows are written to docs/reliability.md; without `make`:

    .venv/bin/python tests/benchmarks/faults.py [--last]

--last writes what the last runs of the two have measured, and runs nothing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import ROOT, write_page

sys.path.append(str(ROOT / "molecule/faults/tests"))

from faults import Table, table

PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"
SCENARIOS = {
    "faults": "Debian 12 in a container",
    "faults-vm": "Debian 12 as an emulated machine, ten times slower (VM)",
}


def test(scenario: str) -> None:
    """Run a scenario from its hosts' creation to their end."""
    Table(scenario).clear()
    molecule = Path(sys.executable).with_name("molecule")
    done = subprocess.run([molecule, "test", "--scenario-name", scenario], cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"Problem: the scenario {scenario} failed, so {PAGE.name} stays as it is.")


def section() -> str:
    """Return the table of both scenarios, and what was measured where and when."""
    rows, where = {}, []
    for scenario, host in SCENARIOS.items():
        path = Table(scenario).path
        if not path.exists():
            sys.exit(f"Problem: {scenario} was not run here.\nFix: make faults")
        kept = json.loads(path.read_text())
        rows |= kept["rows"]
        where.append(f"{host}: {kept['machine']}")
    return f"{BEGIN}\n{table(rows)}\n\nMeasured by `make faults`. {'; '.join(where)}.\n{END}"


def main() -> None:
    """Run what has to be run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--last", action="store_true", help="run nothing")
    if not parser.parse_args().last:
        for scenario in SCENARIOS:
            test(scenario)
    text = section()
    print(text)
    write_page(text, BEGIN, END, PAGE)


if __name__ == "__main__":
    main()
