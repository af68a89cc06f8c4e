"""Every block that a page marks `executed by: molecule/docs` is run, page by page."""

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "tests"))

from reader import Reader

from house.pages import Block, every_block

PROJECT = Path(__file__).parents[3]
testinfra_hosts = ["ansible://application"]

# A newcomer's way. Pages that are not named come after these, by name.
FIRST = [
    "README.md",
    "docs/vi/README.md",
    "app/README.md",
    "docs/vi/gunicorn-psycopg2.md",
    "docs/your-app.md",
    "docs/operations.md",
    "docs/deploying.md",
]
STATES = {"ok", "off", "warn", "bad"}


def place(block: Block) -> tuple[int, str, int]:
    """Return where a block comes in the order of reading."""
    name = str(block.path.relative_to(PROJECT))
    return (FIRST.index(name) if name in FIRST else len(FIRST), name, block.line)


def tasks() -> list:
    """Return each block to run, with what the page shows of its output."""
    found = sorted(every_block(PROJECT), key=place)
    after = [*found[1:], None]
    return [
        pytest.param(
            block,
            shown.text if shown and shown.kind == "printed by" else "",
            id=f"{block.path.relative_to(PROJECT)}:{block.line}",
        )
        for block, shown in zip(found, after, strict=True)
        if block.by_the_runner
    ]


def shape(text: str) -> list[str]:
    """Return the first column of each line, without the states of the doctor."""
    columns = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if line.strip()]
    return [next((one for one in line if one not in STATES), "") for line in columns]


@pytest.fixture(scope="session")
def reader(tmp_path_factory) -> Reader:
    """Return who reads all pages, one after the other."""
    return Reader(tmp_path_factory.mktemp("reader"))


@pytest.mark.parametrize(("block", "shown"), tasks())
def test_the_commands_of_the_page_do_what_it_says(host, reader, block, shown):
    printed = reader.read(block)
    print(printed)
    there = set(shape(printed))
    missing = [
        one for one in shape(shown) if one not in there and not re.search(r"\d|example|…", one)
    ]
    assert not missing, f"The page shows {missing}; printed was:\n{printed}"
