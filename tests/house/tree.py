"""How rules read a tree: its files, YAML with line numbers, Jinja as Jinja."""

import os
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from jinja2 import Environment, nodes

# What .gitignore keeps out.
NOT_OURS = {
    ".ansible",
    ".cache",
    ".git",
    ".hypothesis",
    ".molecule",
    ".pytest_cache",
    ".ruff_cache",
    ".venv",
    "__pycache__",
    "instance",
}
ANSIBLE = (
    "*.j2",
    "inventory/*.yml",
    "molecule/*.yml",
    "playbooks/*.yml",
    "roles/*.yml",
    "site.yml",
)
# Under these keys a string is Jinja without its braces.
BARE_EXPRESSIONS = {"changed_when", "failed_when", "that", "until", "when"}


class Offence(NamedTuple):
    """One broken rule: where it is, what is wrong, and what mends it."""

    path: Path
    line: int
    wrong: str
    fix: str


Rule = Callable[[Path], Iterator[Offence]]
RULES: list[Rule] = []


def rule(check: Rule) -> Rule:
    """Add a function to the rules of the house."""
    RULES.append(check)
    return check


def report(offences: list[Offence], root: Path) -> str:
    """Say every offence on a line of its own, as `path:line what is wrong. Fix: …`."""
    return "\n".join(
        f"{offence.path.relative_to(root)}:{offence.line} {offence.wrong} Fix: {offence.fix}"
        for offence in offences
    )


def files(root: Path, *patterns: str) -> list[Path]:
    """Find our own files whose path below the root matches a pattern; `*` crosses folders."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        found += [Path(folder, name) for name in names]
    return sorted(
        path
        for path in found
        if any(fnmatchcase(path.relative_to(root).as_posix(), pattern) for pattern in patterns)
    )


def seen_lines(path: Path) -> list[str]:
    """Return the lines of a page that its readers see: all but comments of one line."""
    lines = path.read_text().splitlines()
    return [line for line in lines if not re.fullmatch(r"\s*<!--.*-->\s*", line)]


def roles(root: Path) -> list[Path]:
    """Find the folder of every role."""
    return sorted(path for path in root.glob("roles/*") if path.is_dir())


class Mapping(dict):
    """A YAML mapping that remembers the lines of itself and of its keys."""

    line: int
    end: int
    key_lines: dict[object, int]


class Vault(str):
    """A value behind `!vault`."""


class Unsafe(str):
    """A value behind `!unsafe`, which Ansible never templates."""


class _Loader(yaml.SafeLoader):
    """Safe YAML, Ansible's two tags, and mappings with line numbers."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Mapping:
    mapping = Mapping(loader.construct_mapping(node, deep=True))
    mapping.line = node.start_mark.line + 1
    mapping.end = node.end_mark.line
    mapping.key_lines = {
        loader.construct_object(key): key.start_mark.line + 1 for key, _ in node.value
    }
    return mapping


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("!vault", lambda loader, node: Vault(loader.construct_scalar(node)))
_Loader.add_constructor("!unsafe", lambda loader, node: Unsafe(loader.construct_scalar(node)))


@cache
def _parse(text: str, name: str) -> object:
    loader = _Loader(text)
    loader.name = name  # PyYAML puts it into its error messages.
    return loader.get_single_data()


def load(path: Path) -> object:
    """Read a YAML file; one that is missing or empty is an empty mapping."""
    if not path.exists():
        return Mapping()
    return _parse(path.read_text(), str(path)) or Mapping()


def mappings(node: object) -> Iterator[Mapping]:
    """Visit every mapping in a YAML document."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from mappings(child)


def tasks(items: list[Mapping]) -> Iterator[Mapping]:
    """Visit every task and block of a list of tasks."""
    for task in items:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part, []))


def role_tasks(root: Path) -> Iterator[tuple[Path, Path, Mapping]]:
    """Visit the tasks and handlers of every role, as role, file, task."""
    for role in roles(root):
        for path in files(role, "tasks/*.yml", "handlers/*.yml"):
            for task in tasks(load(path)):
                yield role, path, task


def listed(value: str | list[str] | None) -> list[str]:
    """Return what Ansible takes as one name or as a list of names, as a list."""
    return [value] if isinstance(value, str) else value or []


def module(task: Mapping) -> str:
    """Name a task's module without its collection; ansible-lint refuses a short name."""
    return next((key.rsplit(".")[-1] for key in task if "." in key), "")


def arguments(task: Mapping) -> Mapping:
    """Return what a task gives its module, when that is a mapping."""
    given = next((value for key, value in task.items() if "." in key), None)
    return given if isinstance(given, Mapping) else Mapping()


def says_why(path: Path, task: Mapping) -> bool:
    """Tell whether a comment stands directly above a task or inside it."""
    lines = path.read_text().splitlines()
    first, last = task.line - 1, task.end
    while last > first and re.match(r"\s*(#|$)", lines[last - 1]):
        last -= 1  # These lines belong to the next task.
    while first > 0 and re.match(r"\s*#", lines[first - 1]):
        first -= 1
    return any(re.search(r"(^|\s)#\s*(?!noqa)\w", line) for line in lines[first:last])


def templated(path: Path) -> Iterator[tuple[int, nodes.Template]]:
    """Parse all the Jinja in a template, or in the strings of a YAML file, with its line."""
    if path.suffix == ".j2":
        yield 1, Environment(autoescape=True).parse(path.read_text(), filename=str(path))
        return
    for line, key, value in _strings(load(path), 1, ""):
        source = f"{{{{ {value} }}}}" if key in BARE_EXPRESSIONS and "{{" not in value else value
        yield line, Environment(autoescape=True).parse(source, filename=str(path))


def _strings(node: object, line: int, key: str) -> Iterator[tuple[int, str, str]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _strings(value, node.key_lines[name], name)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, line, key)
    elif isinstance(node, str) and not isinstance(node, Unsafe):
        yield line, key, node


def variables(path: Path) -> Iterator[tuple[int, str]]:
    """Name every variable that the Jinja of a file reads from outside itself."""
    for line, tree in templated(path):
        names = list(tree.find_all(nodes.Name))
        own = {name.name for name in names if name.ctx != "load"}
        for name in names:
            if name.name not in own:
                yield line + name.lineno - 1, name.name
