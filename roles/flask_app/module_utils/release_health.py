"""The gate: an instance may take traffic once it answers, and goes on answering."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.health_gate import ANSWER_SECONDS, ask
from ansible.module_utils.releases import Application, ReleaseError

POLL_SECONDS = 0.1
WARM_UP_CLIENTS = 8


def state(unit: str) -> dict[str, str]:
    """Return what systemd says of a unit."""
    command = ["systemctl", "show", "--property=ActiveState,SubState,Result,NRestarts,Job", unit]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
    return dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)


def must_live(unit: str) -> None:
    """Refuse a unit that has ended, so that nobody waits for the deadline."""
    seen = state(unit)
    is_queued = seen.get("Job", "0") != "0"  # to be started, after what it waits for
    is_over = seen["ActiveState"] in ("failed", "inactive") and not is_queued
    is_over = is_over or seen["SubState"] == "auto-restart"
    if is_over or seen["NRestarts"] != "0":
        raise ReleaseError(f"{unit} ended ({seen['Result']}).")


def wait_until_healthy(app: Application, release: str, gate: dict) -> None:
    """Wait until the instance of a release answers, then warm it up: every answer must hold.

    :raises ReleaseError: where it ends, or is not healthy after `gate["seconds"]`.
    """
    unit, path = app.unit(release), app.socket(release)
    deadline = time.monotonic() + gate["seconds"]
    while problem := ask(path, gate):
        must_live(unit)
        if time.monotonic() > deadline:
            raise ReleaseError(f"{unit} is not healthy after {gate['seconds']} s. {problem}")
        time.sleep(POLL_SECONDS)

    def once(_: int) -> str:
        return ask(path, gate, max(ANSWER_SECONDS, deadline - time.monotonic()))

    with ThreadPoolExecutor(WARM_UP_CLIENTS) as clients:
        problems = clients.map(once, range(gate["warm_up_requests"]))
    failed = [problem for problem in problems if problem]
    if failed:
        wrong = f"{len(failed)} of {gate['warm_up_requests']} requests"
        raise ReleaseError(f"{unit} answered, but {wrong} of the warm-up failed. {failed[0]}")
