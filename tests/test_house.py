"""The repository keeps its own rules."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

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


def test_a_container_is_asked_for_its_health_at_the_path_of_a_server():
    """Docker reads no defaults of a role, so the path stands there once more."""
    defaults = yaml.safe_load((ROOT / "roles/flask_app/defaults/main.yml").read_text())
    service = yaml.safe_load((ROOT / "app/compose.yaml").read_text())["services"]["app"]
    (url,) = re.findall(r"http://[^']+", service["healthcheck"]["test"][-1])
    assert urlsplit(url).path == defaults["flask_app_health_path"]
