"""Secrets: never written down, never logged."""

import re
from collections.abc import Iterator
from pathlib import Path

from house.tree import Offence, Vault, files, load, mappings, role_tasks, rule

SECRET = re.compile(r"_(password|secret|token|key)$", re.IGNORECASE)
# A policy of the user module, not a password.
NOT_SECRET = {"update_password"}


@rule
def secrets_are_never_literals(root: Path) -> Iterator[Offence]:
    """A password in the repository is everybody's password."""
    for path in files(root, "*.yml", "*.yaml"):
        for mapping in mappings(load(path)):
            for key, value in mapping.items():
                if not SECRET.search(str(key)) or key in NOT_SECRET:
                    continue
                literal = value is None or (isinstance(value, str) and "{{" not in value)
                if literal and not isinstance(value, Vault):
                    fix = "let the host create it, read it from a vault_ variable, or use undef()."
                    yield Offence(path, mapping.key_lines[key], f"{key} is a literal.", fix)


@rule
def logging_of_secrets_has_one_switch_per_role(root: Path) -> Iterator[Offence]:
    """Whoever debugs a role can open its log on purpose; nobody edits tasks for it."""
    for role, path, task in role_tasks(root):
        switch = f"{{{{ {role.name}_secure_logging }}}}"
        if task.get("no_log", switch) != switch:
            wrong = f"no_log is {task['no_log']!r}."
            yield Offence(path, task.key_lines["no_log"], wrong, f'write no_log: "{switch}".')
