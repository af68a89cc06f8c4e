"""Pages: a block of commands was run, a knob exists, a message is one that somebody reads."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from house.tree import Mapping, Offence, files, load, rule, variables

# It reads the pages and runs what is marked with its name, word for word.
RUNNER = "molecule/docs"
COMMANDS = {"bash", "console", "python", "sh", "shell"}
COMMAND_BEGINS = re.compile(
    r"\s*(\$ |sudo |make [a-z]|(\S*/)?ansible-playbook |\./ops |molecule/hosts/host "
    r"|systemctl |journalctl |docker |podman |pip |uv |cd )"
)
FENCE = re.compile(r"(\s*)```([\w-]*)\s*$")
MARK = re.compile(r"\s*<!-- ((?:not )?executed(?: by)?|printed by): (.*?) -->\s*$")
# Behind the name of the runner: where a block runs, and how it ends when that is not 0.
HOW = re.compile(r"(, (on the server|in app|exit \d+))*")
# The next word is a value, which a test may have chosen otherwise.
TAKES_A_VALUE = {"-i", "--inventory", "-l", "--limit", "-m", "--name"}
WORD = re.compile(r"-{0,2}[a-z][a-z_-]{2,}")
REASON_WORDS = 3
MARKS = (
    f"write above it <!-- executed by: {RUNNER} -->, and that scenario runs it; or "
    "<!-- executed by: FILE -->, where that test runs the same; or <!-- not executed: REASON -->."
)
# The first column of such a table quotes what programs say.
QUOTING = {"Message", "Cause", "Hay gặp", "Thông báo"}
# The words that a refusal's last two parts begin with, up to the first that may vary.
BEGINS = re.compile(r"(Allowed|Fix):( [A-Za-z_,]+(?=[ .,;:]|$)){1,5}")
SPAN = re.compile(r"`` ?(.+?) ?``|`([^`]+)`")
OTHERS = re.compile(r"<!-- said by others:\n(.*?)-->", re.DOTALL)
OUR_PATH = re.compile(
    r"`((?:app|docs|inventory(?!/mine)|molecule|playbooks|roles|tests)/[\w./-]+)`"
)
IN_A_REASON = re.compile(r"\b(?:app|molecule|roles|tests)/[\w./-]*\w")
ROOM_OF_A_ROLE = re.compile(
    r"`((?:action_plugins|defaults|files|library|lookup_plugins|meta|module_utils|tasks|templates"
    r"|vars)/[\w./@-]+)`"
)
HISTORY = {"CHANGELOG.md"}
SAYS = ("app/*", "molecule/hosts/*", "ops", "playbooks/*", "roles/*", "tests/run*")


class Block(NamedTuple):
    """What stands between two fences of a page, and the mark above it."""

    path: Path
    line: int
    language: str
    kind: str  # "executed by", "not executed", "printed by", or "" if it has no mark
    said: str  # what the mark says behind its colon
    text: str

    @property
    def by_the_runner(self) -> bool:
        """Tell whether the runner runs it."""
        return self.kind == "executed by" and self.said.split(",")[0] == RUNNER


def blocks(path: Path) -> Iterator[Block]:
    """Visit the blocks of a page."""
    lines = path.read_text().splitlines()
    start = None
    for number, line in enumerate(lines):
        if start is None and (fence := FENCE.match(line)):
            start, indent, language = number, fence[1], fence[2]
        elif start is not None and line.strip() == "```":
            mark = MARK.match(lines[start - 1]) if start else None
            kind, said = (mark[1], mark[2]) if mark else ("", "")
            text = "\n".join(line.removeprefix(indent) for line in lines[start + 1 : number])
            yield Block(path, start + 1, language, kind, said, text)
            start = None


def every_block(root: Path) -> Iterator[Block]:
    """Visit the blocks of all pages."""
    for path in files(root, "*.md"):
        yield from blocks(path)


def commands(text: str) -> list[str]:
    """Split a block into its commands."""
    joined = re.sub(r"\\\n\s*|(?<=\|)\n\s*", " ", text)
    return [line for line in joined.splitlines() if line.strip() and line.strip()[0] != "#"]


def essential_words(text: str) -> set[str]:
    """Return the programs, words and options of a block; values and paths may be others."""
    found = set()
    for command in commands(text):
        try:
            words = shlex.split(command, comments=True)
        except ValueError:
            words = command.split()
        for before, word in zip(["", *words], words, strict=False):
            name = word.rpartition("/")[2] if before in ("", "&&", "|", ";") else word
            if WORD.fullmatch(name) and before not in TAKES_A_VALUE:
                found.add(name)
    return found


@rule
def commands_are_executed_or_say_why_not(root: Path) -> Iterator[Offence]:
    """A command on a page that nobody has run is a guess."""
    before = None
    for block in every_block(root):
        wrong = _wrong_with(root, block, before)
        if wrong:
            yield Offence(block.path, block.line, wrong, MARKS)
        before = block


def _wrong_with(root: Path, block: Block, before: Block | None) -> str:
    """Say what is wrong with a block's mark."""
    if not block.language and COMMAND_BEGINS.match(block.text) and not block.kind:
        return "commands in a block without a language (```sh)."
    if not block.kind:
        return "nobody has run these commands." if block.language in COMMANDS else ""
    if block.kind == "not executed":
        gone = [name for name in IN_A_REASON.findall(block.said) if not (root / name).exists()]
        few = len(block.said.split()) < REASON_WORDS
        return f"'{block.said}' is no reason." if few or gone else ""
    if block.kind == "printed by":
        after = before is not None and before.path == block.path and before.by_the_runner
        good = block.said == "the block above" and after
        return "" if good else f"the block above is not executed by {RUNNER}."
    where, _, _ = block.said.partition(",")
    if not (root / where).exists():
        return f"{where} does not exist."
    if where == RUNNER:
        how = block.said.removeprefix(RUNNER)
        return "" if HOW.fullmatch(how) else f"'{how}' is not how a block can be run."
    if _reads_it_on_the_page(root / where, block, block.path.relative_to(root).as_posix()):
        return ""
    test = "\n".join(_code(root / where))
    absent = sorted(word for word in essential_words(block.text) if word not in test)
    return f"{where} does not have the words {', '.join(absent)}." if absent else ""


def _code(path: Path) -> list[str]:
    """Return what a test says and calls: no comments, no docstrings, no names of its own tests."""
    if path.suffix != ".py":
        return [line for line in path.read_text().splitlines() if line.strip()[:1] != "#"]
    found = []
    tree = ast.parse(path.read_text())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            found.append(node.value)
        elif isinstance(node, ast.Name):
            found.append(node.id)
        elif isinstance(node, ast.Attribute):
            found.append(node.attr)
    return found


def _reads_it_on_the_page(path: Path, block: Block, page: str) -> bool:
    """Tell whether a test opens the page, and it or one beside it asks for the block's heading."""
    if path.suffix != ".py":
        return False
    tree = ast.parse(path.read_text())

    def leads_there(node: ast.AST) -> bool:
        return any(isinstance(one, ast.Constant) and one.value == page for one in ast.walk(node))

    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and leads_there(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    read = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "read_text"
    ]
    opens = any(one.id in names if isinstance(one, ast.Name) else leads_there(one) for one in read)
    asked = {said for one in files(path.parent, "*.py") for said in _code(one)} if opens else set()
    return _heading_above(block) in asked


def _heading_above(block: Block) -> str:
    """Return the heading that a block stands below."""
    heading, fenced = "", False
    for line in block.path.read_text().splitlines()[: block.line - 1]:
        fenced ^= line.lstrip().startswith("```")
        if not fenced and (found := re.match(r"#+ (.+)", line)):
            heading = found[1]
    return heading


@rule
def yaml_on_pages_names_what_there_is(root: Path) -> Iterator[Offence]:
    """A knob that was renamed, or a value that preflight would refuse, is on no page."""
    specs, names = _inputs(root)
    for block in every_block(root):
        if block.language not in ("yaml", "yml") or block.kind:
            continue
        try:
            document = yaml.safe_load(block.text)
        except yaml.YAMLError as error:
            said = str(error).splitlines()[0]
            yield Offence(block.path, block.line, f"that is no YAML: {said}.", "correct it.")
            continue
        for wrong in _strangers(document, specs, names):
            fix = "name an input of roles/*/meta/argument_specs.yml or of inventory/group_vars/."
            yield Offence(block.path, block.line, wrong, fix)


def _inputs(root: Path) -> tuple[dict[str, Mapping], set[str]]:
    """Return the specification of each input, and the names that the inventory knows besides."""
    specs = {}
    for path in files(root, "roles/*/meta/argument_specs.yml"):
        specs |= load(path)["argument_specs"]["main"].get("options", {})
    names = set()
    for path in files(root, "inventory/group_vars/*.yml"):
        names |= set(load(path)) | {name for _, name in variables(path)}
    return specs, names


def _strangers(node: object, specs: dict, names: set[str]) -> Iterator[str]:
    """Say what in a part of an inventory is unknown or has a value that is not allowed."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in specs:
            if "{{" not in str(value) and "…" not in str(value):
                judged = ArgumentSpecValidator({key: specs[key]}).validate({key: value})
                yield from judged.error_messages
        elif key in names or str(key).startswith("ansible_"):
            continue
        elif isinstance(value, dict):
            yield from _strangers(value, specs, names)
        elif value is not None:
            yield f"there is no input {key}."


@rule
def paths_on_pages_exist(root: Path) -> Iterator[Offence]:
    """A file that a page names is there; from a role's own page on, also one of its rooms."""
    for path in files(root, "*.md"):
        if path.name in HISTORY:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            named = [(root, name) for name in OUR_PATH.findall(line)]
            if path.parent.parent == root / "roles":
                named += [(path.parent, name) for name in ROOM_OF_A_ROLE.findall(line)]
            for folder, name in named:
                if not (folder / name).exists():
                    yield Offence(path, number, f"{name} does not exist.", "correct the path.")


@rule
def quoted_messages_are_said(root: Path) -> Iterator[Offence]:
    """Who searches a page for the words of a message finds the words that it has."""
    sources = [_plain(path) for path in files(root, *SAYS) if path.suffix not in (".md", ".html")]
    for path in files(root, "docs/*.md"):
        others = {line for part in OTHERS.findall(path.read_text()) for line in part.splitlines()}
        quoted = set()
        for line, message in _messages(path):
            quoted.add(message)
            parts = [part.strip() for part in message.split("…") if re.search(r"\w\w", part)]
            if message not in others and not any(
                all(part in text for part in parts) for text in sources
            ):
                fix = "quote its words, with … for what varies; or list it as said by others."
                yield Offence(path, line, f"nothing says '{message}'.", fix)
        for message in sorted(others - quoted):
            fix = "take it out of the list of what others say."
            yield Offence(path, 1, f"'{message}' is quoted nowhere here.", fix)


def _messages(path: Path) -> Iterator[tuple[int, str]]:
    """Visit the messages that a page quotes: in its tables, and how ours begin in its blocks."""
    for block in blocks(path):
        if not block.language:
            for number, line in enumerate(block.text.splitlines(), block.line + 1):
                if ours := BEGINS.match(line):
                    yield number, ours[0]
    yield from first_column(path, QUOTING)


def first_column(path: Path, heads: set[str]) -> Iterator[tuple[int, str]]:
    """Visit what is in backticks in the first column of a page's tables that are headed so."""
    quotes = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.startswith("|"):
            quotes = False
            continue
        first = re.split(r"(?<!\\)\|", line)[1].strip()
        if first in heads:
            quotes = True
        elif quotes:
            for span in SPAN.finditer(first):
                yield number, (span[1] or span[2]).replace("\\|", "|")


@cache
def _plain(path: Path) -> str:
    """Return a source as one line, its literals joined, and … for what is put into them."""
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return ""
    text = re.sub(r"\{\{.*?\}\}|\{%.*?%\}", "…", text, flags=re.DOTALL)
    text = re.sub(r"\{[^{}\n]*\}", "…", text)
    text = re.sub(r"""(["'])\s*\n\s*f?\1""", "", text)
    return re.sub(r"\s+", " ", text.replace('\\"', '"').replace("\\'", "'"))
