"""Tasks and handlers: their names, their order, their excuses."""

import re
from collections.abc import Iterator
from pathlib import Path

from house.tree import (
    ANSIBLE,
    Mapping,
    Offence,
    arguments,
    files,
    listed,
    load,
    mappings,
    module,
    role_tasks,
    roles,
    rule,
    says_why,
    tasks,
)

VAGUE = re.compile(r"\b(ensure|make sure|handle)\b", re.IGNORECASE)
LAST_RESORTS = {"lineinfile", "set_fact", "shell"}
MOST_HANDLERS = 3


@rule
def main_is_a_table_of_contents(root: Path) -> Iterator[Offence]:
    """The phases of a role can be read at a glance."""
    for _, path, task in role_tasks(root):
        contents = path.match("tasks/main.yml")
        if contents and module(task) not in {"import_tasks", "include_tasks"}:
            fix = "move the task into install.yml, configure.yml or start.yml."
            yield Offence(path, task.line, "main.yml holds more than imports.", fix)


@rule
def task_names_lead_to_their_file(root: Path) -> Iterator[Offence]:
    """A failing task says where it stands: `configure | Write the unit`."""
    for _, path, task in role_tasks(root):
        if path.parent.name == "handlers" or path.match("tasks/main.yml"):
            continue
        name = task.get("name", "")
        if not re.match(rf"{path.stem} \| [A-Z]\w* \S", name):
            wrong = f"'{name}' does not lead to its file."
            yield Offence(path, task.line, wrong, f"call it '{path.stem} | Verb object'.")


@rule
def names_say_what_is_done(root: Path) -> Iterator[Offence]:
    """`Ensure`, `Make sure` and `Handle` fit every task and so describe none."""
    for path in files(root, *ANSIBLE):
        for mapping in mappings(load(path)) if path.suffix == ".yml" else ():
            name = mapping.get("name")
            if isinstance(name, str) and VAGUE.search(name):
                wrong = f"'{name}' is vague."
                yield Offence(path, mapping.line, wrong, "say what is done: Write, Install, Start.")


@rule
def handlers_are_few_named_and_notified(root: Path) -> Iterator[Offence]:
    """A handler is `Verb service`, and some task of its role needs it."""
    for role in roles(root):
        everything = [task for owner, _, task in role_tasks(root) if owner == role]
        notified = {name for task in everything for name in listed(task.get("notify"))}
        path = role / "handlers/main.yml"
        handlers = list(tasks(load(path)))
        for handler in handlers:
            name = handler.get("name", "")
            if not re.match(r"[A-Z][a-z]+ \S", name):
                fix = "call it 'Restart service' or 'Reload service'."
                yield Offence(path, handler.line, f"handler '{name}' is not Verb service.", fix)
            if not notified & {name, *listed(handler.get("listen"))}:
                wrong = f"nobody notifies the handler '{name}'."
                yield Offence(path, handler.line, wrong, "notify it from a task, or delete it.")
        for handler in handlers[MOST_HANDLERS:]:
            wrong = f"{role.name} has more than {MOST_HANDLERS} handlers."
            yield Offence(path, handler.line, wrong, "split the role, or make one of them a task.")


@rule
def last_resorts_say_why(root: Path) -> Iterator[Offence]:
    """`shell`, `lineinfile`, `set_fact` and `ignore_errors` are there when nothing better is."""
    for _, path, task in role_tasks(root):
        used = {module(task), *task} & {*LAST_RESORTS, "ignore_errors"}
        if used and not says_why(path, task):
            wrong = f"{', '.join(sorted(used))} without a reason."
            fix = "use a module made for the purpose, or say in a comment why there is none."
            yield Offence(path, task.line, wrong, fix)


@rule
def internals_carry_a_double_underscore(root: Path) -> Iterator[Offence]:
    """What a role keeps for itself cannot be mistaken for an input."""
    for role in roles(root):
        for path in files(role, "vars/*.yml"):
            values = load(path)
            for name in values:
                yield from _visible(role, path, values.key_lines[name], name)
    for role, path, task in role_tasks(root):
        for name in _internals(task):
            yield from _visible(role, path, task.line, name)


def _internals(task: Mapping) -> Iterator[str]:
    """Name every variable that a task creates."""
    yield from task.get("vars", {})
    if module(task) == "set_fact":
        yield from arguments(task).keys() - {"cacheable"}
    loop = task.get("loop_control", {})
    yield from filter(None, [task.get("register"), loop.get("loop_var"), loop.get("index_var")])


def _visible(role: Path, path: Path, line: int, name: str) -> Iterator[Offence]:
    if not name.startswith((f"__{role.name}_", "ansible_")):
        fix = f"call it __{role.name}_{name.removeprefix(f'{role.name}_')}."
        yield Offence(path, line, f"{name} looks like an input.", fix)


@rule
def tags_stay_in_the_playbooks(root: Path) -> Iterator[Offence]:
    """One tag per role, set where the role is called, so that `--tags` is predictable."""
    for _, path, task in role_tasks(root):
        if "tags" in task:
            fix = "remove it; the playbook tags the whole role."
            yield Offence(path, task.key_lines["tags"], "a task has its own tag.", fix)
