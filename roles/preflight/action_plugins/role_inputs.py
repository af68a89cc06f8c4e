"""Resolve every input of the named roles as they will see it, and check it against the specs."""

from __future__ import annotations

import re
from pathlib import Path

from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

RANGE = re.compile(r"Allowed: (-?[\d.]+) to (-?[\d.]+)\.$")
PATTERN = re.compile(r"Allowed: /(.+)/\.$")


def bound_offence(value, description: str) -> str | None:
    """Say which bound a value breaks.

    The bound is the last sentence of the option's description: `Allowed: 1 to 64.` for a number,
    `Allowed: /^[a-z]+$/.` for a string, or for every element of a list.

    :param value: the input, already of its type; None is not checked.
    :param description: the option's description in meta/argument_specs.yml.
    :returns: what is allowed, or None where the value is.
    """
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if match := RANGE.search(description):
        low, high = float(match[1]), float(match[2])
        return None if all(low <= item <= high for item in values) else f"{match[1]} to {match[2]}"
    if match := PATTERN.search(description):
        fits = all(re.search(match[1], str(item)) for item in values)
        return None if fits else f"what matches {match[1]}"
    return None


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
        result = ArgumentSpecValidator({name: spec}).validate({name: value})
        if result.error_messages:
            offence, allowed = result.error_messages[0], spec.get("choices") or spec["type"]
        else:
            checked[name] = result.validated_parameters[name]
            allowed = bound_offence(checked[name], description)
            offence = f"{name} is {checked[name]!r}"
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
        """Return `resolved` (name to value) and `problems` (list of messages) of `roles`."""
        super().run(tmp, task_vars)
        roles = Path(self._task._role._role_path).parent
        roots = [roles / name for name in self._task.args["roles"]]
        defaults, specs = {}, {}
        for root in roots:
            read = self._loader.load_from_file
            defaults |= read(str(root / "defaults/main.yml"), trusted_as_template=True) or {}
            specs[root.name] = read(str(root / "meta/argument_specs.yml"))
        templar = self._templar.copy_with_new_env(available_variables=defaults | task_vars)

        resolved, problems = {}, []
        for role, spec in specs.items():
            options = spec["argument_specs"]["main"]["options"]
            inputs = {}
            for name in options:
                try:
                    inputs[name] = templar.template(templar.available_variables.get(name))
                except AnsibleUndefinedVariable:
                    continue  # handed over by the playbook: the role itself checks it
                except AnsibleError as error:
                    problems.append(
                        f"{name} cannot be computed: {error.message}\nInput of the role {role}.\n"
                        f"Allowed: {options[name]['type']}.\nFix: set {name} in your inventory."
                    )
            checked, offences = check_inputs(role, options, inputs)
            resolved |= checked
            problems += offences
        return {"changed": False, "resolved": resolved, "problems": problems}
