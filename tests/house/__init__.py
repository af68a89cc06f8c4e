"""The house rules of CONTRIBUTING.md that no linter knows, one function each.

A rule takes the root of a tree and yields its offences. To add one, write the function under
`@rule` in the module of its subject, and a line in `test_house_rules_can_fail.py`
which breaks a good tree and sees the rule notice.
"""

from house import (
    alerts,
    boundaries,
    inputs,
    pages,
    playbooks,
    proofs,
    roles,
    secrets,
    tasks,
    templates,
    texts,
)
from house.tree import RULES

__all__ = [
    "RULES",
    "alerts",
    "boundaries",
    "inputs",
    "pages",
    "playbooks",
    "proofs",
    "roles",
    "secrets",
    "tasks",
    "templates",
    "texts",
]
