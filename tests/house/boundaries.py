"""Boundaries: what a role may know of the world outside it."""

from collections.abc import Iterator
from pathlib import Path

from house.tree import ANSIBLE, Offence, files, roles, rule, variables

DEPLOYMENT = {"group_names", "groups", "hostvars"}
# What Ansible itself provides. Any other ansible_* is a fact in its old, injected form.
MAGIC = {
    "ansible_become_user",
    "ansible_check_mode",
    "ansible_collection_name",
    "ansible_config_file",
    "ansible_connection",
    "ansible_dependent_role_names",
    "ansible_diff_mode",
    "ansible_facts",
    "ansible_failed_result",
    "ansible_failed_task",
    "ansible_forks",
    "ansible_host",
    "ansible_index_var",
    "ansible_inventory_sources",
    "ansible_limit",
    "ansible_local",
    "ansible_loop",
    "ansible_loop_var",
    "ansible_managed",
    "ansible_parent_role_names",
    "ansible_parent_role_paths",
    "ansible_play_batch",
    "ansible_play_hosts",
    "ansible_play_hosts_all",
    "ansible_play_name",
    "ansible_play_role_names",
    "ansible_playbook_python",
    "ansible_port",
    "ansible_python_interpreter",
    "ansible_role_name",
    "ansible_role_names",
    "ansible_run_tags",
    "ansible_search_path",
    "ansible_skip_tags",
    "ansible_ssh_port",
    "ansible_ssh_user",
    "ansible_user",
    "ansible_verbosity",
    "ansible_version",
}


def _owner(name: str, names: list[str]) -> str:
    """Name the role a variable belongs to; the longest prefix decides."""
    plain = name.removeprefix("__")
    return max((role for role in names if plain.startswith(f"{role}_")), key=len, default="")


@rule
def roles_know_only_themselves(root: Path) -> Iterator[Offence]:
    """A role gets what it needs as its own input; the playbook does the wiring."""
    names = [role.name for role in roles(root)]
    for role in roles(root):
        code = ("defaults/*.yml", "handlers/*.yml", "tasks/*.yml", "templates/*", "vars/*.yml")
        for path in files(role, *code):
            for line, name in variables(path):
                owner = _owner(name, names)
                foreign = owner and owner != role.name
                if foreign or name in DEPLOYMENT or name.startswith(("site_", "vault_")):
                    fix = f"make it an input {role.name}_… and hand it over in the playbook."
                    yield Offence(path, line, f"role {role.name} reads {name}.", fix)


@rule
def facts_enter_a_role_in_its_defaults(root: Path) -> Iterator[Offence]:
    """A value from a fact is an input like any other: visible, and open to change."""
    code = ("handlers/*.yml", "tasks/*.yml", "templates/*", "vars/*.yml")
    for role in roles(root):
        for path in files(role, *code):
            for line, name in variables(path):
                if name == "ansible_facts":
                    fix = f"read the fact into {role.name}_… in defaults/main.yml."
                    yield Offence(path, line, "a fact is read outside the defaults.", fix)


@rule
def facts_are_not_injected(root: Path) -> Iterator[Offence]:
    """Facts have one home, ansible_facts; the injected names leave Ansible in core 2.24."""
    for path in files(root, *ANSIBLE):
        for line, name in variables(path):
            if name.startswith("ansible_") and name not in MAGIC:
                fix = f"write ansible_facts['{name.removeprefix('ansible_')}']."
                yield Offence(path, line, f"{name} is an injected fact.", fix)
