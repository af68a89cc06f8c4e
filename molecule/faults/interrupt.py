#!/usr/bin/env python3
"""interrupt.py INVENTORY HOST REPORT: kill site.yml in every role of a first run, each run anew.

A run is killed half a second after a role begins in which none was killed before, and with it what
it does on the host. That goes on until a run comes to its end; the names of the roles, in the order
in which they were killed, are written to REPORT.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

import runs

HERE = Path(__file__).resolve().parent
HOST = HERE.parent / "hosts/host"
HEADING = re.compile(r"^TASK \[(\w+) : ")
MOST_RUNS = 30
KILL_ON_HOST = "pkill -KILL 'apt|dpkg|uv'; pkill -KILL --exact --full /usr/bin/python3; true"


def run(command: list[str], killed: list[str]) -> int | None:
    """Run site.yml until a role begins that is not in `killed`; return the code of a whole run."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"ANSIBLE_NOCOLOR": "1"},
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        heading = HEADING.match(line)
        if heading and heading[1] not in killed:
            killed.append(heading[1])
            time.sleep(0.5)
            runs.kill(process)
            return None
    if process.wait() != 0:
        print("".join(lines[-60:]))
    return process.returncode


def main() -> None:
    """Kill run after run; fail if one that is left alone fails."""
    inventory, host, report = sys.argv[1:]
    playbook = str(HERE.parents[1] / "site.yml")
    command = ["ansible-playbook", "-i", inventory, "--limit", f"{host},localhost", playbook]
    killed = []
    for _ in range(MOST_RUNS):
        code = run(command, killed)
        if code is not None:
            Path(report).write_text(json.dumps(killed))
            sys.exit(code)
        subprocess.run([HOST, "exec", host, "sh", "-c", KILL_ON_HOST], check=True)
    sys.exit("Problem: site.yml never came to its end.")


if __name__ == "__main__":
    main()
