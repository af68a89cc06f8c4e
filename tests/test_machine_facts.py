"""What is gathered of a host is what the roles read, and nothing else."""

import re

from plugins import ROLES, load

machine_facts = load("base/library/machine_facts.py")


def test_the_facts_that_are_gathered_are_those_that_are_read():
    texts = [path.read_text() for path in ROLES.glob("*/defaults/*.yml")]
    read = {fact for text in texts for fact in re.findall(r"ansible_facts\['(\w+)'\]", text)}
    assert read == set(machine_facts.USED)
