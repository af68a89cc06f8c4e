"""Resolve every input of the named roles as they will see it, and check it against the specs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

RANGE = re.compile(r"Allowed: (-?[\d.]+) to (-?[\d.]+)\.$")
VAULT_FIX = "give the vault's password, by --vault-password-file or --ask-vault-pass."
PATTERN = re.compile(r"Allowed: /(.+)/\.$")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
SEVERAL_LINES = "may have several lines"  # what a description says of such a text


def bound_offence(value, description: str) -> str | None:
    """Say which bound a value breaks.

    The bound is the last sentence of the option's description: `Allowed: 1 to 64.` for a number,
    `Allowed: /^[a-z]+$/.` for a string, or for every element of a list. A string is one line.

    :param value: the input, already of its type; None is not checked.
    :param description: the option's description in meta/argument_specs.yml.
    :returns: what is allowed, or None where the value is.
    """
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    texts = [item for item in values if isinstance(item, str)]
    if SEVERAL_LINES in description:
        texts = [re.sub(r"[\n\t]", "", text) for text in texts]
    if any(CONTROL.search(text) for text in texts):
        return "text without control characters, such as a line break"
    if match := RANGE.search(description):
        low, high = float(match[1]), float(match[2])
        return None if all(low <= item <= high for item in values) else f"{match[1]} to {match[2]}"
    if match := PATTERN.search(description):
        fits = all(re.search(match[1], str(item)) for item in values)
        return None if fits else f"what matches {match[1]}"
    return None


def inner_offence(name: str, values: list | dict, options: dict) -> tuple[str, str | None]:
    """Say which option of which element breaks its bound, and what is allowed."""
    for element in values if isinstance(values, list) else [values]:
        for inner, spec in options.items():
            allowed = bound_offence(element.get(inner), str(spec["description"]))
            if allowed:
                return f"{inner} of {name} is {element[inner]!r}", allowed
    return "", None


def shown(value) -> str:
    """Return a value as people know it; of a list or a dictionary only what it is."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a dictionary"
    return repr(value)


def validated(name: str, spec: dict, value) -> tuple[str, object]:
    """Let Ansible check type and choices; return its complaint or "", and the value in its type.

    An input that was left empty is None, which Ansible takes for any type. And it raises where a
    value cannot even be compared, as infinity with a whole number.
    """
    if value is None:
        return f"{name} is empty", None
    try:
        result = ArgumentSpecValidator({name: spec}).validate({name: value})
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        return f"{name} is {value!r}: {error}", None
    if result.error_messages:
        said = result.error_messages[0]
        if said.startswith(f"argument '{name}' is of type"):  # and then in Python's words
            return f"{name} is {shown(value)}", None
        return said, None
    return "", result.validated_parameters[name]


def check_inputs(role: str, options: dict, values: dict) -> tuple[dict, list[str]]:
    """Check one role's inputs for type, choices and bounds.

    :param role: the role's name, for the message.
    :param options: `argument_specs.main.options` of the role.
    :param values: the inputs that are known; a missing one is not checked.
    :returns: the good inputs in their own types, and a four-part message for each wrong one.
    """
    checked, problems = {}, []
    for name, value in values.items():
        spec = {key: item for key, item in options[name].items() if key != "required"}
        description = str(spec.pop("description"))
        offence, valid = validated(name, spec, value)
        if offence:
            allowed = spec.get("choices") or spec["type"]
        else:
            checked[name] = valid
            allowed = bound_offence(checked[name], description)
            offence = f"{name} is {checked[name]!r}"
            if spec.get("options") and not allowed:
                offence, allowed = inner_offence(name, checked[name], spec["options"])
        if allowed:
            problems.append(
                f"{offence}.\nInput of the role {role}: {description}\nAllowed: {allowed}.\n"
                f"Fix: set {name} in your inventory, or remove it to get the role's default."
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
        return resolved, problems
