"""Playbooks: wiring, and only wiring."""

import re
from collections.abc import Iterator
from pathlib import Path

from house.tree import Mapping, Offence, files, listed, load, module, rule

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


@rule
def nouns_hold_only_wiring(root: Path) -> Iterator[Offence]:
    """Logic lives in roles, knobs in the inventory; operations, and who only looks, have tasks."""
    for path in files(root, "playbooks/*.yml"):
        operation = "-" in path.stem or path.stem in LOOKING
        for play in load(path):
            for key in play.keys() - WIRING:
                if key == "vars_files" or not operation:
                    fix = "move logic into a role and values into inventory/group_vars/."
                    yield Offence(path, play.key_lines[key], f"{key} in a playbook.", fix)


@rule
def roles_are_called_with_their_tag(root: Path) -> Iterator[Offence]:
    """`--tags nginx` reaches the role nginx; a play tagged `always` needs no other."""
    for path in files(root, "playbooks/*.yml"):
        for play in load(path):
            for call in play.get("roles", []):
                role = call if isinstance(call, Mapping) else Mapping(role=call)
                tags = {*listed(role.get("tags")), *listed(play.get("tags"))}
                if not tags & {role["role"], "always"}:
                    wrong = f"{role['role']} lacks its tag."
                    yield Offence(path, play.line, wrong, f"add tags: [{role['role']}] to it.")
