"""What the person at the terminal reads."""

import contextlib
import time


class Problem(Exception):
    """What is wrong, and the one thing to do about it."""

    def __init__(self, what, fix):
        super().__init__(what)
        self.fix = fix


def say(text, **options):
    """Print now, so that it stands before what a child process prints next."""
    print(text, flush=True, **options)


@contextlib.contextmanager
def step(text):
    """Say what starts, and how long it took."""
    say(f"==> {text}")
    started = time.monotonic()
    yield
    say(f"    done in {time.monotonic() - started:.0f} s")
