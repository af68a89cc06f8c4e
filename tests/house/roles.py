"""Roles: the rooms that each of them has."""

from collections.abc import Iterator
from pathlib import Path

from house.tree import Offence, roles, rule, seen_lines

ROOMS = ("README.md", "defaults/main.yml", "meta/argument_specs.yml", "tasks/main.yml")
README_LINES = 40


@rule
def roles_are_complete(root: Path) -> Iterator[Offence]:
    """Every role is documented, specified and tested."""
    for role in roles(root):
        test = root / f"molecule/tests/test_{role.name}.py"
        for path in [*(role / room for room in ROOMS), test]:
            if not path.exists():
                yield Offence(path, 1, f"role {role.name} lacks this file.", "write it.")


@rule
def role_readmes_are_short(root: Path) -> Iterator[Offence]:
    """A promise, a boundary, the second run, one example."""
    for path in (role / "README.md" for role in roles(root)):
        lines = len(seen_lines(path)) if path.exists() else 0
        if lines > README_LINES:
            fix = f"keep it within {README_LINES}; the inputs are described in the specs."
            yield Offence(path, lines, f"{lines} lines are more than one look.", fix)
