"""Child processes whose output is both seen and kept."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

from . import ROOT
from .report import say

SILENCE_SECONDS = 30
# An interrupted process gets this long to obey each of these.
STOP_SECONDS = {signal.SIGINT: 20, signal.SIGTERM: 5, signal.SIGKILL: 5}


def stream(command, log, *, cwd=ROOT, env=None, own_group=False, stop=None):
    """Run a command; show its output as it comes, write it to a file, return the exit code.

    With own_group, Ctrl-C reaches its descendants through us, in order, and it cannot ask for a
    password. With stop, an event that is as good as Ctrl-C, its output goes to the file alone.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as file,
        subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL if own_group else None,
            process_group=0 if own_group else None,
        ) as process,
    ):  # fmt: skip
        try:
            for chunk in _output(process, stop):
                file.write(chunk)
                if not stop:
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.buffer.flush()
        except KeyboardInterrupt:
            if own_group:
                _stop(process)
            raise
    return process.returncode


def _output(process, stop):
    """Yield what a process prints, until it ends, even if a daemon of it keeps the pipe open."""
    started = heard = time.monotonic()
    while True:
        if stop and stop.is_set():
            raise KeyboardInterrupt
        ended = process.poll() is not None
        readable, _, _ = select.select([process.stdout], [], [], 0 if ended else 1)
        if readable:
            chunk = os.read(process.stdout.fileno(), 65536)
            if not chunk:
                return
            heard = time.monotonic()
            yield chunk
        elif ended:
            return
        elif not stop and time.monotonic() - heard > SILENCE_SECONDS:
            heard = time.monotonic()
            say(f"    … still running after {heard - started:.0f} s")


def _stop(process):
    for number, seconds in STOP_SECONDS.items():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return
