"""What the pages tell the reader to type, for tests that do the same."""

import re


def commands_below(page: str, heading: str) -> str:
    """Return the first block of shell commands below a heading of a page's text."""
    section = re.split(rf"^#+ {re.escape(heading)}$", page, maxsplit=1, flags=re.MULTILINE)[1]
    return re.search(r"```sh\n(.*?)```", section, re.DOTALL)[1]
