"""Proofs: a scenario and a test that cannot fail prove nothing."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from house.tree import Offence, files, load, rule

# Methods of a testinfra host whose result is true whatever it found.
ALWAYS_TRUE = {
    "addr",
    "file",
    "group",
    "interface",
    "mount_point",
    "package",
    "run",
    "run_test",
    "service",
    "socket",
    "user",
}
EXCUSES = {"importorskip", "skip", "skipif", "xfail"}
LEAST_WORDS = 3


def _scenarios(root: Path) -> list[Path]:
    return sorted(root.glob("molecule/*/molecule.yml"))


@rule
def scenarios_verify_with_testinfra(root: Path) -> Iterator[Offence]:
    """The shared tests run in every scenario, unless it brings its own."""
    for path in _scenarios(root):
        verifier = load(path).get("verifier", {})
        folder = path.parent / verifier.get("directory", "tests")
        if verifier.get("name") != "testinfra" or not any(folder.glob("test_*.py")):
            fix = "write verifier: {name: testinfra, directory: ../tests}."
            yield Offence(path, 1, f"{path.parent.name} verifies nothing.", fix)


@rule
def platforms_are_in_groups(root: Path) -> Iterator[Offence]:
    """A host in no group is a host that site.yml does not touch."""
    for path in _scenarios(root):
        for platform in load(path).get("platforms", []):
            if not platform.get("groups"):
                wrong = f"{platform['name']} is in no group."
                yield Offence(path, platform.line, wrong, "list its groups.")


@rule
def scenarios_run_twice(root: Path) -> Iterator[Offence]:
    """A sequence of one's own keeps `idempotence`, or says in a comment why it cannot."""
    for path in _scenarios(root):
        scenario = load(path).get("scenario", {})
        steps = scenario.get("test_sequence", ["idempotence"])
        if "idempotence" not in steps and not re.search(r"#.*idempotence", path.read_text()):
            fix = "add idempotence, or the comment that says why it is missing."
            line = scenario.key_lines["test_sequence"]
            yield Offence(path, line, "the second run is never seen.", fix)


def _parsed(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in files(root, "molecule/*.py", "tests/*.py"):
        yield path, ast.parse(path.read_text(), filename=str(path))


def _tests(root: Path) -> Iterator[tuple[Path, ast.FunctionDef]]:
    for path, tree in _parsed(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield path, node


@rule
def tests_are_sentences(root: Path) -> Iterator[Offence]:
    """The list of failing tests reads as the list of what is broken."""
    for path, test in _tests(root):
        if len(test.name.removeprefix("test_").split("_")) < LEAST_WORDS:
            fix = "say what is false when the thing is broken."
            yield Offence(path, test.lineno, f"{test.name} is not a sentence.", fix)


@rule
def tests_assert_something(root: Path) -> Iterator[Offence]:
    """A test without an assertion passes when everything is broken."""
    for path, test in _tests(root):
        judged = any(
            isinstance(node, ast.Assert)
            or (isinstance(node, ast.Attribute) and node.attr in {"fail", "raises"})
            for node in ast.walk(test)
        )
        if not judged:
            fix = "assert what it promises."
            yield Offence(path, test.lineno, f"{test.name} cannot fail.", fix)


@rule
def tests_are_never_excused(root: Path) -> Iterator[Offence]:
    """A skipped test is a promise nobody keeps."""
    for path, tree in _parsed(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in EXCUSES:
                fix = "run it where it belongs, or delete it."
                yield Offence(path, node.lineno, f"a test calls {node.attr}.", fix)


@rule
def assertions_ask_a_question(root: Path) -> Iterator[Offence]:
    """`assert host.file(x)` is true even when there is no such file."""
    for path, tree in _parsed(root):
        for node in ast.walk(tree):
            for asked in _operands(node.test) if isinstance(node, ast.Assert) else ():
                call = asked.func if isinstance(asked, ast.Call) else None
                if isinstance(call, ast.Attribute) and call.attr in ALWAYS_TRUE:
                    fix = "ask for a property: .exists, .is_listening, .is_running."
                    wrong = f"'{ast.unparse(asked)}' is always true."
                    yield Offence(path, node.lineno, wrong, fix)


def _operands(test: ast.expr) -> Iterator[ast.expr]:
    """Split a condition at its `and`, `or` and `not`."""
    if isinstance(test, ast.BoolOp):
        for value in test.values:
            yield from _operands(value)
    elif isinstance(test, ast.UnaryOp):
        yield from _operands(test.operand)
    else:
        yield test


@rule
def every_knob_is_moved_once(root: Path) -> Iterator[Offence]:
    """The override scenario moves each input off its default, or says by name why it cannot."""
    path = root / "molecule/override/inventory/knobs.yml"
    if not path.exists():
        return
    text = path.read_text()
    for spec in files(root, "roles/*/meta/argument_specs.yml"):
        for name, option in load(spec)["argument_specs"]["main"]["options"].items():
            if not option.get("required") and not re.search(rf"\b{name}\b", text):
                fix = "move it there and test that it travelled."
                yield Offence(path, 1, f"{name} is never moved off its default.", fix)
