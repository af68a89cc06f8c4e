#!/usr/bin/env python3
"""Everything `make` can do here. It needs only Python; `runner/` holds the parts."""

import argparse
import os
import signal
import sys

if sys.version_info < (3, 11):  # noqa: UP036  the one place that an older Python may read
    sys.exit(
        f"Problem: {sys.executable} is Python {sys.version.split()[0]}; 3.11 or newer is needed.\n"
        "Fix: use Debian 12 or newer, or name another one: make PYTHON=python3.11"
    )

from runner import demo, pictures, setup, suite
from runner.report import Problem, say


def parse_arguments():
    """Return the arguments; `run` is the function to call with them."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, run, text, counts=False):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run, counts=counts)
        return command

    add("setup", lambda _: setup.prepare(*setup.EVERYTHING), "install everything the rest needs")
    command = add("demo", lambda a: demo.up(a.port), "serve the sample app from a throwaway host")
    command.add_argument("--port", type=int, default=8080)
    add("demo-down", lambda _: demo.down(), "remove the throwaway host")
    add("lint", lambda _: suite.lint(), "run the linters", counts=True)
    text = "run the linters, the house tests and the app's tests"
    add("check", lambda _: suite.check(), text, counts=True)
    text = "run what check runs, and every Molecule scenario"
    command = add("test", lambda a: suite.test(a.all), text, counts=True)
    command.add_argument("--all", action="store_true", help="also the exhaustive scenarios")
    command = add("tool", use_tool, "run a tool of .venv with the settings of this project")
    command.add_argument("command", metavar="TOOL …", nargs=argparse.REMAINDER)
    add("pictures", lambda _: pictures.draw(), "draw docs/pictures/ anew")
    add("lock", lambda _: setup.lock(), "pin what the tools in requirements.txt bring along")
    add("clean", lambda _: setup.clean(), "remove all hosts, images, tools and caches")
    return parser.parse_args()


def use_tool(arguments):
    """Become a tool that works on test hosts."""
    rare = [group for scenario, group in setup.RARELY.items() if scenario in arguments.command]
    setup.prepare("tools", "containers", "machines", *rare)
    environment = setup.environment()
    os.execvpe(arguments.command[0], arguments.command, environment)


def main():
    """Run one command; return its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what CI sends, as Ctrl-C
    arguments = parse_arguments()
    try:
        return arguments.run(arguments)
    except Problem as problem:
        say(f"Problem: {problem}\nFix: {problem.fix}", file=sys.stderr)
        if arguments.counts:
            say("0 passed, 1 failed")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
