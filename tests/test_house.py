"""The repository keeps its own rules."""

from pathlib import Path

import pytest

from house import RULES
from house.tree import files, report

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_repository_keeps_the_rule(rule):
    offences = list(rule(ROOT))
    if offences:
        pytest.fail(f"{rule.__doc__}\n{report(offences, ROOT)}", pytrace=False)


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("roles/*/meta/argument_specs.yml", 6),
        ("roles/*/templates/*.j2", 6),
        ("playbooks/*.yml", 5),
        ("molecule/*/molecule.yml", 2),
        ("molecule/tests/test_*.py", 6),
        ("docs/decisions/*.md", 1),
    ],
)
def test_there_is_something_to_judge(pattern, least):
    found = files(ROOT, pattern)
    assert len(found) >= least, f"{pattern} matches {len(found)} files. Fix: restore the others."
