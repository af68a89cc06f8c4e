#!/usr/bin/python
"""Look into an application: what it wrote, a flask command of it, and what opens a session."""

from __future__ import annotations

import re
import shlex

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release_schema import database_of
from ansible.module_utils.releases import Application, ReleaseError, run

# What libpq would read of an environment, but is not to be seen in the list of processes.
SECRET = {"PGPASSWORD", "PATH"}


def flask_application(app: Application, release: str) -> str:
    """Return what the flask command calls the application: what gunicorn calls it."""
    settings = (app.folder(release) / "gunicorn.conf.py").read_text()
    return re.search(r'^wsgi_app = "(.*)"$', settings, re.MULTILINE)[1]


def journal(app: Application, options: dict, *more: str) -> list[str]:
    """Return the command that shows what the application and its commands wrote."""
    release = options["release"]
    units = [app.unit(release), app.unit(release, "*")] if release else [f"{app.name}[@-]*"]
    command = ["journalctl", "--no-pager", f"--lines={options['lines']}"]
    command += ["--output=json" if options["json"] else "--output=short-iso", *more]
    since = [f"--since={options['since']}"] if options["since"] else []
    return [*command, *since, *(f"--unit={unit}" for unit in units)]


def logs(app: Application, options: dict) -> dict:
    """Return what was written."""
    return {"output": run(journal(app, options)).rstrip("\n")}


def flask(app: Application, options: dict) -> dict:
    """Run a flask command to its end."""
    release = app.serving()
    command = ["flask", *shlex.split(options["command"])]
    seconds = options["timeout_seconds"]
    name = flask_application(app, release)
    output = app.run_in_release(release, command, seconds, FLASK_APP=name)
    return {"changed": True, "output": output.rstrip("\n")}


def open_shell(app: Application, _options: dict) -> dict:
    """Return what opens a `flask shell`."""
    release = app.serving()
    name = flask_application(app, release)
    return {"session": app.command_in_release(release, ["flask", "shell"], {}, FLASK_APP=name)}


def open_psql(app: Application, _options: dict) -> dict:
    """Return what opens psql as the application reaches its database; it asks for a password."""
    database = database_of(app, app.serving())
    if not database:
        raise ReleaseError(
            f"{app.name} has no database.\nSeen in: DATABASE_URL of {app.serving()}.\n"
            "Allowed: an application with PostgreSQL.\nFix: name another one with --limit."
        )
    variables = database.as_owner["env"]
    settings = [f"{key}={variables[key]}" for key in sorted(variables.keys() - SECRET)]
    become = ["runuser", "-u", app.name, "--", "env", "--chdir=/"]
    return {"session": [*become, *settings, "psql"]}


def open_logs(app: Application, options: dict) -> dict:
    """Return what shows the journal from now on."""
    return {"session": journal(app, options, "--follow")}


ACTIONS = {
    "flask": flask,
    "logs": logs,
    "open logs": open_logs,
    "open psql": open_psql,
    "open shell": open_shell,
}


def main() -> None:
    """Do what the task names."""
    module = AnsibleModule(
        argument_spec={
            "what": {"type": "str", "required": True, "choices": [*ACTIONS]},
            "app": {"type": "str", "required": True},
            "command": {"type": "str", "default": ""},
            "json": {"type": "bool", "default": False},
            "lines": {"type": "int", "default": 200},
            "release": {"type": "str", "default": ""},
            "since": {"type": "str", "default": ""},
            "timeout_seconds": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    options = module.params
    if module.check_mode and options["what"] == "flask":
        module.exit_json(changed=True, output="")
    try:
        result = ACTIONS[options["what"]](Application(options["app"]), options)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**{"changed": False, **result})


if __name__ == "__main__":
    main()
