"""Texts: what everybody reads, and what nobody should find in it."""

import re
from collections.abc import Iterator
from pathlib import Path

from house.tree import Offence, files, rule, seen_lines

# Written so that this file does not offend against itself.
LEFTOVER = re.compile(r"\b(TO[D]O|FIX[M]E|X[X]X)\b")
LEAK = re.compile(r"(?<!\w)/wor[k]/|/roo[t]/\.(?!ssh\b)")
NAMED_BY_THEIR_TOOL = {".pre-commit-config.yaml", "compose.yaml"}
README_LINES = 80
DECISION_LINES = 60
DECISION_PARTS = ("Context", "Decision", "Price")
LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = re.compile(r"[a-z]+:")


def _lines(root: Path) -> Iterator[tuple[Path, int, str]]:
    """Visit every line of every file that is text."""
    for path in files(root, "*"):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield path, number, line


@rule
def nothing_is_left_for_later(root: Path) -> Iterator[Offence]:
    """What is not done is in the changelog's plans or in an issue, not in the code."""
    for path, number, line in _lines(root):
        if found := LEFTOVER.search(line):
            fix = "do it, or write it where plans are kept."
            yield Offence(path, number, f"{found[0]} is left in the file.", fix)


@rule
def no_path_of_a_developers_machine_leaks(root: Path) -> Iterator[Offence]:
    """A path that exists on one computer works on one computer."""
    for path, number, line in _lines(root):
        if found := LEAK.search(line):
            fix = "use a path relative to the repository."
            yield Offence(path, number, f"{found[0]} is a path of one machine.", fix)


@rule
def yaml_files_end_in_yml(root: Path) -> Iterator[Offence]:
    """One ending, so that one search finds them all."""
    for path in files(root, "*.yaml"):
        if path.name not in NAMED_BY_THEIR_TOOL:
            yield Offence(path, 1, f"{path.name} ends in .yaml.", "rename it to .yml.")


@rule
def yaml_holds_no_tabs(root: Path) -> Iterator[Offence]:
    """A tab looks like an indentation and is none."""
    for path in files(root, "*.yml", "*.yaml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "\t" in line:
                yield Offence(path, number, "a tab.", "use spaces.")


@rule
def the_readme_is_one_screen(root: Path) -> Iterator[Offence]:
    """What it is, how to run it, how to test it, where to change it."""
    for path in files(root, "README.md"):
        lines = len(seen_lines(path))
        if lines > README_LINES:
            fix = f"keep it within {README_LINES}; details belong in docs/."
            yield Offence(path, lines, f"{lines} lines are more than one screen.", fix)


@rule
def decisions_are_numbered_in_order(root: Path) -> Iterator[Offence]:
    """A gap looks like a decision that somebody removed."""
    for number, path in enumerate(files(root, "docs/decisions/*.md"), 1):
        if not path.name.startswith(f"{number:04}-"):
            fix = f"number it {number:04}, or restore the one before it."
            yield Offence(path, 1, f"{path.name} is out of order.", fix)


@rule
def decisions_are_half_a_page_with_a_price(root: Path) -> Iterator[Offence]:
    """A decision without its price is advertising."""
    for path in files(root, "docs/decisions/*.md"):
        lines = path.read_text().splitlines()
        for part in DECISION_PARTS:
            if not any(re.match(rf"#+ {part}\b", line) for line in lines):
                yield Offence(path, 1, f"it has no heading {part}.", f"add '## {part}'.")
        if len(lines) > DECISION_LINES:
            fix = f"keep it within {DECISION_LINES}."
            yield Offence(path, len(lines), f"{len(lines)} lines are too many.", fix)


@rule
def links_lead_somewhere(root: Path) -> Iterator[Offence]:
    """A dead link costs a newcomer the minute we promised."""
    for path in files(root, "*.md"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for target in LINK.findall(line):
                if ELSEWHERE.match(target):
                    continue
                file, _, anchor = target.partition("#")
                found = path.parent / file if file else path
                if not found.exists():
                    fix = "correct the path, or write the file."
                    yield Offence(path, number, f"{target} does not exist.", fix)
                elif anchor and found.suffix == ".md" and anchor not in _anchors(found):
                    fix = "take the words of a heading of that page."
                    yield Offence(path, number, f"{target} is no heading.", fix)


def _anchors(path: Path) -> set[str]:
    """Return the names that GitHub and others give the headings of a page."""
    text = re.sub(r"^\s*```.*?^\s*```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
