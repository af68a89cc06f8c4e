"""Playbooks: wiring, and only wiring."""

import re
from collections.abc import Iterator
from pathlib import Path

from house.tree import Mapping, Offence, arguments, files, listed, load, module, rule, tasks

WIRING = {
    "become",
    "gather_facts",
    "hosts",
    "name",
    "roles",
    "tags",
    "vars",
}
# They only look: preflight refuses what it finds, doctor, status and report tell it.
LOOKING = {"doctor", "preflight", "report", "status"}


@rule
def site_only_imports(root: Path) -> Iterator[Offence]:
    """site.yml is the table of contents of the project."""
    path = root / "site.yml"
    for play in load(path):
        if module(play) != "import_playbook":
            yield Offence(path, play.line, "site.yml holds a play.", "move it into playbooks/.")


@rule
def playbooks_have_telling_names(root: Path) -> Iterator[Offence]:
    """A noun is a state to apply every day; verb-noun is an operation run on purpose."""
    for path in files(root, "playbooks/*.yml"):
        if not re.fullmatch(r"[a-z]+(-[a-z]+)*", path.stem):
            fix = "call it noun.yml or verb-noun.yml."
            yield Offence(path, 1, f"{path.name} is neither noun nor verb-noun.", fix)


def is_operation(path: Path) -> bool:
    """Tell whether a playbook has tasks of its own."""
    return "-" in path.stem or path.stem in LOOKING


def imports(play: Mapping) -> Iterator[Mapping]:
    """Yield the tasks of a play that import a role."""
    for task in tasks(play.get("tasks", [])):
        if module(task) == "import_role":
            yield task


@rule
def nouns_hold_only_wiring(root: Path) -> Iterator[Offence]:
    """Logic lives in roles, knobs in the inventory; operations, and who only looks, have tasks."""
    for path in files(root, "playbooks/*.yml"):
        for play in load(path):
            is_wiring = [*imports(play)] == [*tasks(play.get("tasks", []))]
            for key in play.keys() - WIRING - ({"tasks"} if is_wiring else set()):
                if key == "vars_files" or not is_operation(path):
                    fix = "move logic into a role and values into inventory/group_vars/."
                    yield Offence(path, play.key_lines[key], f"{key} in a playbook.", fix)


@rule
def roles_are_called_with_their_tag(root: Path) -> Iterator[Offence]:
    """`--tags nginx` reaches the role nginx; a play tagged `always` needs no other."""
    for path in files(root, "playbooks/*.yml"):
        for play in load(path):
            calls = [
                call if isinstance(call, Mapping) else Mapping(role=call)
                for call in play.get("roles", [])
            ]
            if not is_operation(path):
                calls += [Mapping(call, role=arguments(call)["name"]) for call in imports(play)]
            for role in calls:
                tags = {*listed(role.get("tags")), *listed(play.get("tags"))}
                if not tags & {role["role"], "always"}:
                    wrong = f"{role['role']} lacks its tag."
                    yield Offence(path, play.line, wrong, f"add tags: [{role['role']}] to it.")


@rule
def inputs_are_unchecked_only_after_preflight(root: Path) -> Iterator[Offence]:
    """Ansible checks a role's inputs as it begins; `rolespec_validate: false` is for site.yml."""
    site, preflight = root / "site.yml", root / "playbooks/preflight.yml"
    judged = preflight.read_text() if preflight.exists() else ""
    playbooks = files(root, "playbooks/*.yml")
    for path in playbooks:
        is_only_of_site = f"playbooks/{path.name}" in site.read_text() and not any(
            f"import_playbook: {path.name}" in other.read_text() for other in playbooks
        )
        for call in (call for play in load(path) for call in imports(play)):
            role = arguments(call)["name"]
            if arguments(call).get("rolespec_validate") is not False:
                continue
            fix = "leave rolespec_validate: false out."
            if path != preflight and not is_only_of_site:
                yield Offence(path, call.line, f"{role} may run without preflight here.", fix)
            if f"'{role}'" not in judged:
                wrong = f"preflight does not judge the inputs of {role}."
                yield Offence(path, call.line, wrong, f"name it in preflight_roles, or {fix}")
