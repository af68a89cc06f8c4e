"""Inputs: what a role lets its users set, said once in defaults and once in the specs."""

import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import nodes

from house.tree import Mapping, Offence, files, load, roles, rule, templated

UNDEFINED = re.compile(r"""\{\{ undef\(hint=(['"]).+\1\) \}\}""", re.DOTALL)
RANGE = re.compile(r"Allowed: (-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)\.$")
PATTERN = re.compile(r"Allowed: /(.+)/\.$")
# Preflight refuses a text there.
AS_WRITTEN = "true or false without quotes"
CAST = {"bool", "int", "float"}


def _places(role: Path) -> tuple[Path, Mapping, Path, Mapping]:
    """Return the defaults and the options of a role, each after its file."""
    defaults, specs = role / "defaults/main.yml", role / "meta/argument_specs.yml"
    main = load(specs).get("argument_specs", {}).get("main", {})
    return defaults, load(defaults), specs, main.get("options") or Mapping()


def _options(options: Mapping) -> Iterator[tuple[str, int, Mapping]]:
    """Visit every option, those inside other options included."""
    for name, option in options.items():
        yield name, options.key_lines[name], option
        yield from _options(option.get("options", Mapping()))


def _every_option(root: Path) -> Iterator[tuple[Path, int, str, Mapping]]:
    for role in roles(root):
        _, _, specs, options = _places(role)
        for name, line, option in _options(options):
            yield specs, line, name, option


def _description(option: Mapping) -> str:
    text = option.get("description", "")
    return (" ".join(text) if isinstance(text, list) else text).strip()


@rule
def defaults_and_specs_name_the_same_inputs(root: Path) -> Iterator[Offence]:
    """An input has a value in the defaults and a meaning in the specs."""
    for role in roles(root):
        defaults, values, specs, options = _places(role)
        for name in values.keys() - options.keys():
            fix = f"describe it in {specs.relative_to(root)}."
            yield Offence(defaults, values.key_lines[name], f"{name} has no spec.", fix)
        for name in options.keys() - values.keys():
            fix = f"give it a value, or undef(hint='…'), in {defaults.relative_to(root)}."
            yield Offence(specs, options.key_lines[name], f"{name} has no default.", fix)


@rule
def inputs_carry_the_name_of_their_role(root: Path) -> Iterator[Offence]:
    """The prefix of a variable leads to its role."""
    for role in roles(root):
        defaults, values, _, _ = _places(role)
        for name in values:
            if not name.startswith(f"{role.name}_"):
                wrong = f"{name} does not carry the name of its role."
                fix = f"call it {role.name}_{name.lstrip('_')}."
                yield Offence(defaults, values.key_lines[name], wrong, fix)


@rule
def required_inputs_are_undefined_with_a_hint(root: Path) -> Iterator[Offence]:
    """`required: true` in the specs and `undef(hint=…)` in the defaults go together."""
    for role in roles(root):
        defaults, values, _, options = _places(role)
        for name in values.keys() & options.keys():
            line, value = values.key_lines[name], str(values[name]).strip()
            required = options[name].get("required", False)
            if "undef(" in value and not UNDEFINED.fullmatch(value):
                fix = f"""write {name}: "{{{{ undef(hint='where to set it') }}}}"."""
                yield Offence(defaults, line, f"{name} is undefined without a hint.", fix)
            elif required and "undef(" not in value:
                fix = "drop `required: true` from its spec, or the value from here."
                yield Offence(defaults, line, f"{name} is required, yet has a value.", fix)
            elif not required and "undef(" in value:
                fix = "add `required: true` to its spec, or give it a value here."
                yield Offence(defaults, line, f"{name} is undefined, yet not required.", fix)


@rule
def specs_hold_no_defaults(root: Path) -> Iterator[Offence]:
    """A default lives in defaults/main.yml; a copy in the specs would drift."""
    for specs, line, name, option in _every_option(root):
        if "default" in option:
            fix = "keep the value in defaults/main.yml only."
            yield Offence(specs, line, f"{name} has a second default here.", fix)


@rule
def options_have_a_type_and_a_description(root: Path) -> Iterator[Offence]:
    """The specs are the reference page of a role."""
    for specs, line, name, option in _every_option(root):
        if "type" not in option:
            yield Offence(specs, line, f"{name} has no type.", "add `type:`.")
        if not _description(option).endswith("."):
            fix = "write a description that ends with a full stop."
            yield Offence(specs, line, f"{name} is not described in a sentence.", fix)


@rule
def options_state_their_bounds(root: Path) -> Iterator[Offence]:
    """Preflight reads the bounds from the descriptions, so their form is exact."""
    for specs, line, name, option in _every_option(root):
        text = _description(option)
        if {"int", "float"} & {option.get("type"), option.get("elements")}:
            bounds = RANGE.search(text)
            if not bounds or float(bounds[1]) > float(bounds[2]):
                fix = "end its description with `Allowed: 1 to 256.`, the lower bound first."
                yield Offence(specs, line, f"{name} is a number without a range.", fix)
        elif "Allowed:" in text:
            pattern = PATTERN.search(text)
            if not pattern or not _compiles(pattern[1]):
                fix = "end its description with `Allowed: /^[a-z]+$/.`, a valid regex."
                yield Offence(specs, line, f"{name} has a bound nobody can read.", fix)


@rule
def inputs_are_cast_where_they_count(root: Path) -> Iterator[Offence]:
    """Whatever -e brings is a text: "false" is true in Jinja, and so is "0"."""
    for role in roles(root):
        _, _, _, options = _places(role)
        types = {
            name: option.get("type")
            for name, option in options.items()
            if option.get("type") in CAST and AS_WRITTEN not in _description(option)
        }
        rooms = ("defaults/*.yml", "handlers/*.yml", "tasks/*.yml", "templates/*.j2", "vars/*.yml")
        for path in files(role, *rooms):
            for line, tree in templated(path):
                for used in _counting(tree):
                    if used.name in types:
                        wrong = f"{used.name} may be a text here."
                        fix = f"write `{used.name} | {types[used.name]}`."
                        yield Offence(path, line + used.lineno - 1, wrong, fix)


def _counting(tree: nodes.Template) -> Iterator[nodes.Name]:
    """Visit the variables that something depends on, or is calculated from, just as they are."""
    parts = []
    for node in tree.find_all(
        (nodes.BinExpr, nodes.CondExpr, nodes.For, nodes.If, nodes.UnaryExpr)
    ):
        parts += [getattr(node, part, None) for part in ("test", "node", "left", "right")]
    for node in tree.find_all(nodes.Compare):
        parts += [node.expr, *(operand.expr for operand in node.ops)]
    yield from (part for part in parts if isinstance(part, nodes.Name))


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
