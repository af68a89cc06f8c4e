"""Alerts: each was seen to fire and to clear, and its page says when it does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house.pages import first_column
from house.tree import Offence, files, load, rule

ALERT = re.compile(r"^ *- alert: (.+)$", re.MULTILINE)
LOOP = re.compile(r"\{% for .+ in (\w+) %\}")
# The first column of such a table names alerts.
HEADS = {"Alert"}


@rule
def alerts_are_seen_and_listed(root: Path) -> Iterator[Offence]:
    """An alert that nobody saw may never fire; one that no page names tells its reader little."""
    alerts = dict(_defined(root))
    tested, listed = list(_tested(root)), list(_listed(root))
    for name, (path, line) in alerts.items():
        if name not in {one for one, _, _ in tested}:
            fix = "break what it watches in a test: watch.fires(…), and mended: watch.clears(…)."
            yield Offence(path, line, f"{name} was never seen to fire, and then to clear.", fix)
        if name not in {one for one, _, _ in listed}:
            fix = "say in the table headed Alert when it fires."
            yield Offence(path, line, f"{name} stands in no table of alerts.", fix)
    for name, path, line in tested + listed:
        if name not in alerts:
            fix = "name an alert of roles/*/templates/rules.yml.j2."
            yield Offence(path, line, f"there is no alert {name}.", fix)


def _defined(root: Path) -> Iterator[tuple[str, tuple[Path, int]]]:
    """Visit the alerts that Prometheus is given; a loop has its names from the role's vars."""
    for path in files(root, "roles/*/templates/rules.yml.j2"):
        text = path.read_text()
        for found in ALERT.finditer(text):
            names = [found[1]]
            if "{{" in found[1]:
                rows = LOOP.findall(text, 0, found.start())[-1]
                names = [name for name, *_ in load(path.parents[1] / "vars/main.yml")[rows]]
            for name in names:
                yield name, (path, text.count("\n", 0, found.start()) + 1)


def _listed(root: Path) -> Iterator[tuple[str, Path, int]]:
    """Visit the alerts of the pages' tables."""
    for path in files(root, "docs/*.md"):
        for line, name in first_column(path, HEADS):
            yield name, path, line


def _tested(root: Path) -> Iterator[tuple[str, Path, int]]:
    """Visit the alerts for which a test waits until they fire, and then until they clear."""
    for path in files(root, "molecule/*.py"):
        for test in ast.walk(ast.parse(path.read_text(), filename=str(path))):
            if isinstance(test, ast.FunctionDef):
                fires, clears = _waits(test, "fires"), _waits(test, "clears")
                for name, line in fires.items():
                    if line < clears.get(name, 0):
                        yield name, path, line


def _waits(test: ast.FunctionDef, method: str) -> dict[str, int]:
    """Return for which alerts a test calls this method of `watch`, and in which line at last."""
    values = _parameters(test)
    found = {}
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"watch.{method}":
            first = node.args[0]
            names = [first.value] if isinstance(first, ast.Constant) else values[first.id]
            found |= {name: max(node.lineno, found.get(name, 0)) for name in names}
    return found


def _parameters(test: ast.FunctionDef) -> dict[str, list]:
    """Return the literal values that a test is run with, by the names of its arguments."""
    found = {}
    for mark in test.decorator_list:
        if not isinstance(mark, ast.Call) or ast.unparse(mark.func) != "pytest.mark.parametrize":
            continue
        names, rows = mark.args
        if not isinstance(names, ast.Tuple) or not isinstance(rows, ast.List):
            continue
        for place, name in enumerate(names.elts):
            column = [row.elts[place] for row in rows.elts if isinstance(row, ast.Tuple)]
            found[name.value] = [one.value for one in column if isinstance(one, ast.Constant)]
    return found
