"""Templates: they substitute and loop, and the file on the server names its source."""

import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import nodes

from house.tree import Offence, files, roles, rule, templated

HEAD_LINES = 5
# These must come first where they are needed.
BEFORE_MANAGED = ("#!", "#jinja2:")
MANAGED = re.compile(r"\{\{ ansible_managed \| comment(\(.*\))? \}\}$")


@rule
def templates_name_themselves(root: Path) -> Iterator[Offence]:
    """Whoever reads a file on the server learns who owns it and where to change it."""
    for role in roles(root):
        for path in files(role, "templates/*"):
            if path.suffix != ".j2":
                fix = "add .j2 to its name, or move it to files/."
                yield Offence(path, 1, "a template without .j2.", fix)
            head = path.read_text().splitlines()[:HEAD_LINES]
            source = path.relative_to(root).as_posix()
            first = next((line for line in head if not line.startswith(BEFORE_MANAGED)), "")
            if not MANAGED.match(first):
                fix = "start with {{ ansible_managed | comment }}."
                yield Offence(path, 1, "the file does not say that Ansible owns it.", fix)
            if not any(f"Source: {source}" in line for line in head):
                fix = f"write 'Source: {source}' in a comment of the first {HEAD_LINES} lines."
                yield Offence(path, 1, "the file does not name its source.", fix)


@rule
def templates_never_fall_back(root: Path) -> Iterator[Offence]:
    """A default in a template is a second default."""
    for role in roles(root):
        for path in files(role, "templates/*.j2"):
            for _, tree in templated(path):
                for used in tree.find_all(nodes.Filter):
                    if used.name in {"d", "default"}:
                        fix = f"give the input its value in {role.name}/defaults/main.yml."
                        yield Offence(path, used.lineno, "a template calls default().", fix)


@rule
def templates_are_used(root: Path) -> Iterator[Offence]:
    """A template that no task names is dead."""
    for role in roles(root):
        users = files(role, "tasks/*.yml", "handlers/*.yml", "defaults/*.yml", "vars/*.yml")
        text = "\n".join(path.read_text() for path in users)
        for path in files(role, "templates/*.j2"):
            name = path.relative_to(role / "templates").as_posix()
            if not re.search(rf"(?<![\w./-]){re.escape(name)}\b", text):
                fix = f"name {name} in a task, or delete the template."
                yield Offence(path, 1, "no task uses this template.", fix)
