"""Resolve every input of the named roles as they will see it, and check it against the specs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

RANGE = re.compile(r"Allowed: (-?[\d.]+) to (-?[\d.]+)\.$")
VAULT_FIX = "give the vault's password, by --vault-password-file or --ask-vault-pass."
PATTERN = re.compile(r"Allowed: /(.+)/\.$")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
CONTROL_BUT_LINES = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
SHAPES = {"list": list, "dict": dict}
# What a description says of a text, and of a bool that playbooks use as it was written.
SEVERAL_LINES = "may have several lines"
AS_WRITTEN = "true or false without quotes"


def bound_offence(value, description: str) -> str | None:
    """Say which bound a value breaks.

    The bound is the last sentence of the option's description: `Allowed: 1 to 64.` for a number,
    `Allowed: /^[a-z]+$/.` for a string, or for every element of a list.

    :param value: the input, already of its type.
    :param description: the option's description in meta/argument_specs.yml.
    :returns: what is allowed, or None where the value is.
    """
    values = value if isinstance(value, list) else [value]
    if match := RANGE.search(description):
        low, high = float(match[1]), float(match[2])
        return None if all(low <= item <= high for item in values) else f"{match[1]} to {match[2]}"
    if match := PATTERN.search(description):
        fits = all(re.search(match[1], str(item)) for item in values)
        return None if fits else f"what matches {match[1]}"
    return None


def control_offence(name: str, value, pattern: re.Pattern) -> str:
    """Say which text of a value, at any depth, has a control character; a key is always one line.

    The text itself is not shown: it may be a secret.
    """
    if isinstance(value, dict):
        parts = [(f"a key of {name}", key, CONTROL) for key in value]
        parts += [(f"{key} of {name}", item, pattern) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [(name, item, pattern) for item in value]
    else:
        found = pattern.search(value) if isinstance(value, str) else None
        return f"{name} has {found[0]!r} in it" if found else ""
    return next(filter(None, (control_offence(*part) for part in parts)), "")


def inner(name: str, spec: dict, value) -> Iterator[tuple[str, dict, object]]:
    """Yield each option that a dictionary, or one of a list, has: its name, spec and value."""
    for element in value if isinstance(value, list) else [value]:
        for key, option in spec.get("options", {}).items():
            if element.get(key) is not None:
                yield f"{key} of {name}", option, element[key]


def broken(name: str, spec: dict, value) -> tuple[str, str | None]:
    """Say what in a value of the right type breaks its bound, or "", and what is allowed.

    A text is one line, where its description does not say otherwise.
    """
    if value is None or spec["type"] == "raw":
        return "", None
    if spec.get("options"):
        found = (broken(*part) for part in inner(name, spec, value))
        return next((one for one in found if one[0]), ("", None))
    description = str(spec["description"])
    pattern = CONTROL_BUT_LINES if SEVERAL_LINES in description else CONTROL
    if said := control_offence(name, value, pattern):
        return said, "text without control characters, such as a line break"
    allowed = bound_offence(value, description)
    return f"{name} is {value!r}" if allowed else "", allowed


def shown(value) -> str:
    """Return a value as people know it; of a list or a dictionary only what it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a dictionary"
    return repr(value)


def misshapen(name: str, spec: dict, value) -> tuple[str, object]:
    """Say what, at any depth, is no list or dictionary where one is wanted, or "", and is allowed.

    Ansible takes 25 and 'a,b' for lists, 'a=1' and JSON for dictionaries, and a list for a text.
    But a role reads its inputs as they were written.
    """
    wanted = spec["type"]
    if wanted in SHAPES:
        is_wrong = not isinstance(value, SHAPES[wanted])
    else:
        is_wrong = isinstance(value, list | dict) and wanted != "raw"
    if is_wrong:
        return f"{name} is {shown(value)}", spec.get("choices", wanted)
    if AS_WRITTEN in str(spec.get("description")) and not isinstance(value, bool):
        return f"{name} is {shown(value)}", AS_WRITTEN
    element = {"type": spec.get("elements", "raw")}
    elements = value if wanted == "list" else []
    found = [misshapen(f"an element of {name}", element, item) for item in elements]
    if not any(said for said, _ in found):
        found = [misshapen(*part) for part in inner(name, spec, value)]
    return next((one for one in found if one[0]), ("", None))


def validated(name: str, spec: dict, value) -> tuple[str, object, object]:
    """Check type and choices; return the offence or "", what is allowed, and the value in its type.

    An input that was left empty is None, which Ansible takes for any type. And it raises where a
    value cannot even be compared, as infinity with a whole number.
    """
    allowed = spec.get("choices") or spec["type"]
    if value is None:
        return f"{name} is empty", allowed, None
    said, wanted = misshapen(name, spec, value)
    if said:
        return said, wanted, None
    bare = {key: item for key, item in spec.items() if key not in ("required", "description")}
    try:
        result = ArgumentSpecValidator({name: bare}).validate({name: value})
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        return f"{name} is {value!r}: {error}", allowed, None
    if result.error_messages:
        said = result.error_messages[0]
        if said.startswith(f"argument '{name}' is of type"):  # and then in Python's words
            said = f"{name} is {shown(value)}"
        return said, allowed, None
    return "", allowed, result.validated_parameters[name]


def check_inputs(role: str, options: dict, values: dict) -> tuple[dict, list[str]]:
    """Check one role's inputs for type, choices and bounds.

    :param role: the role's name, for the message.
    :param options: the options that the role's argument_specs describe.
    :param values: the inputs that are known; a missing one is not checked.
    :returns: the good inputs in their own types, and a four-part message for each wrong one.
    """
    checked, problems = {}, []
    for name, value in values.items():
        spec = options[name]
        offence, allowed, valid = validated(name, spec, value)
        if not offence:
            checked[name] = valid
            offence, allowed = broken(name, spec, valid)
        if offence:
            problems.append(
                f"{offence}.\nInput of the role {role}: {spec['description']}\n"
                f"Allowed: {allowed}.\n"
                f"Fix: set {name} in your inventory, or remove it to get the default."
            )
    return checked, problems


class ActionModule(ActionBase):
    """Runs on the control node only."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Return the inputs and the problems of every entry of this machine, by its name."""
        super().run(tmp, task_vars)
        me = task_vars["inventory_hostname"]
        inputs, problems = {}, {}
        for entry in self._task.args["entries"]:
            if entry == me:
                inputs[entry], problems[entry] = self.resolve(task_vars)
            else:
                inputs[entry], found = self.resolve(self.neighbour_variables(entry, task_vars))
                problems[entry] = [f"{entry}: {problem}" for problem in found]
        # Plain values: what is registered is copied for each later task, and tags cost 9 ms a copy.
        return {"changed": False} | json.loads(json.dumps({"inputs": inputs, "problems": problems}))

    def neighbour_variables(self, entry: str, task_vars: dict) -> dict:
        """Return the variables of another entry of this machine, also of one that --limit omits.

        The playbook hands the same expressions over to it as to this entry, and as it is the same
        machine its facts are known.
        """
        shared = {name: task_vars[name] for name in ("ansible_facts", "hostvars")}
        return task_vars["hostvars"].raw_get(entry) | self._task._role.vars | shared

    def resolve(self, variables: dict) -> tuple[dict, list[str]]:
        """Compute the inputs of all roles that an entry gets, and check them.

        :param variables: all that the entry knows, not yet computed; `preflight_roles` names the
            roles.
        :returns: the good inputs, and a message for each wrong one.
        """
        folder = Path(self._task._role._role_path).parent
        roles = self._templar.copy_with_new_env(available_variables=variables)
        defaults, specs = {}, {}
        for role in roles.template(variables["preflight_roles"]):
            read = self._loader.load_from_file
            path = str(folder / role / "defaults/main.yml")
            defaults |= read(path, trusted_as_template=True) or {}
            specs[role] = read(str(folder / role / "meta/argument_specs.yml"))
        templar = self._templar.copy_with_new_env(available_variables=defaults | variables)

        resolved, problems = {}, []
        for role, spec in specs.items():
            options = spec["argument_specs"]["main"]["options"]
            inputs = {}
            for name in options:
                try:
                    inputs[name] = templar.template(templar.available_variables[name])
                except AnsibleUndefinedVariable:
                    continue  # handed over by the playbook: the role itself checks it
                except AnsibleError as error:
                    is_locked = "decrypt" in error.message.lower()
                    fix = VAULT_FIX if is_locked else f"set {name} in your inventory."
                    problems.append(
                        f"{name} cannot be computed: {error.message}\nInput of the role {role}.\n"
                        f"Allowed: {options[name]['type']}.\nFix: {fix}"
                    )
            checked, offences = check_inputs(role, options, inputs)
            resolved |= checked
            problems += offences
        site = specs["preflight"]["argument_specs"]["site"]["options"]
        checked, offences = check_inputs("preflight", site, resolved.pop("preflight_site", {}))
        return resolved | checked, problems + offences
