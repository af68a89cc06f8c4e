#!/usr/bin/env python3
"""What a host survives: every fault of the scenario faults, in one table.

The scenario is run whole, then its rows are written to docs/reliability.md; without `make`:

    .venv/bin/python tests/benchmarks/reliability.py [--last]

--last writes what the last run has measured, and runs nothing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from common import ROOT, write_page

sys.path.append(str(ROOT / "molecule/faults/tests"))

from faults import Table, table

SCENARIO = "faults"
PAGE = ROOT / "docs/reliability.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"


def test() -> None:
    """Run the scenario from its host's creation to its end."""
    molecule = Path(sys.executable).with_name("molecule")
    done = subprocess.run([molecule, "test", "--scenario-name", SCENARIO], cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"Problem: the scenario {SCENARIO} failed, so {PAGE.name} stays as it is.")


def section() -> str:
    """Return the table, and on what it was measured."""
    path = Table(SCENARIO).path
    if not path.exists():
        sys.exit(f"Problem: {SCENARIO} was not run here.\nFix: make faults")
    kept = json.loads(path.read_text())
    measured = f"Measured in a container with Debian 12: {kept['machine']}. Again: `make faults`."
    return f"{BEGIN}\n{table(kept['rows'])}\n\n{measured}\n{END}"


def main() -> None:
    """Run what has to be run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--last", action="store_true", help="run nothing")
    if not parser.parse_args().last:
        test()
    text = section()
    print(text)
    write_page(text, BEGIN, END, PAGE)


if __name__ == "__main__":
    main()
