#!/usr/bin/python
"""One phase of a release on the host; the phases, in order, are in tasks/release.yml."""

from __future__ import annotations

import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.releases import Application, ReleaseError, replace_symlink, run, text_hash


def plan(app: Application, options: dict, check_mode: bool) -> dict:
    """Compare what should run with what runs, and name the next release if they differ."""
    left_behind = [] if check_mode else app.remove_incomplete() + app.stop_all_but(app.current())
    environment = app.configuration / "environment"
    fingerprint = {
        "source": options["source_id"],
        "environment": text_hash(environment),
        "gunicorn.conf.py": text_hash(app.configuration / "gunicorn.conf.py"),
        "unit": text_hash(Path("/etc/systemd/system", f"{app.name}@.service")),
        "requirements": options["requirements"],
        "psycopg2": options["psycopg2"],
        "python": run([options["python"], "--version"]).strip(),
    }
    current = app.current()
    before = app.manifest(current).get("fingerprint", {})
    differing = [name for name, value in fingerprint.items() if before.get(name) != value]
    reasons = [f"{name} changed" for name in differing]
    if not current:
        reasons = ["first release"]
    elif not reasons and not app.is_active(current):
        reasons = [f"{app.unit(current)} does not run"]
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    release = f"{now}-{options['source_id'][:7]}"
    return {
        "changed": bool(reasons or left_behind),
        "needed": bool(reasons),
        "reasons": reasons,
        "release": release,
        "folder": str(app.folder(release)),
        "current": current,
        "fingerprint": fingerprint,
        "removed": left_behind,
    }


def install_uv(app: Application, options: dict) -> dict:
    """Install uv, once for all applications, with the pip that Debian carries as a wheel."""
    folder = Path(options["uv"]).parents[1]
    if folder.exists():
        return {"changed": False}
    wheels = sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    if not wheels:
        raise ReleaseError(
            "There is no pip on this host.\nSeen in: /usr/share/python-wheels.\n"
            "Allowed: the package python3-pip-whl.\nFix: run site.yml; its role base installs it."
        )
    wheel = wheels[-1]
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    command = ["python3", "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps",
               "--require-hashes", "--target", str(new), "--requirement", "/dev/stdin"]  # fmt: skip
    run(command, input=options["uv_requirement"], env={**os.environ, "PYTHONPATH": str(wheel)})
    new.rename(folder)
    return {"changed": True}


def write_environment(app: Application, release: str, revision: str) -> None:
    """Give the release its own copy of the environment, with the secret key and its own name."""
    secret = app.configuration / "secret_key"
    if not secret.exists():
        new = secret.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(secrets.token_urlsafe(48))
        new.rename(secret)
    lines = [
        (app.configuration / "environment").read_text(),
        f'RELEASE_ID="{release}"\nRELEASE_REVISION="{revision}"\n',
    ]
    if not re.search(r"^SECRET_KEY=", lines[0], re.MULTILINE):
        lines.append(f'SECRET_KEY="{secret.read_text()}"\n')
    path = app.folder(release) / "environment"
    path.touch(mode=0o640)
    path.write_text("".join(lines))
    os.chown(path, 0, app.owner()[1])


def reusable_virtualenv(app: Application, wanted: dict) -> Path | None:
    """Find the virtualenv of the current release if it was made from the same things."""
    current = app.current()
    made_from = app.manifest(current).get("virtualenv")
    return app.folder(current) / "venv" if current and made_from == wanted else None


def make_virtualenv(app: Application, release: str, options: dict) -> dict:
    """Fill the release's virtualenv from its lock file, or from the current release's if equal.

    It is filled as the application's user, since building a package runs the package's own code,
    and belongs to root afterwards.

    :returns: what it was made from, for the next release to compare.
    :raises ReleaseError: where the lock file is missing or a package cannot be had.
    """
    folder = app.folder(release)
    lock, virtualenv = folder / "source" / options["requirements"], folder / "venv"
    if not lock.is_file():
        raise ReleaseError(
            f"The source has no {options['requirements']}.\nSeen in: flask_app_requirements.\n"
            "Allowed: a lock file in the source folder.\n"
            "Fix: uv pip compile --generate-hashes requirements.in -o requirements.txt"
        )
    wanted = {
        "lock": text_hash(lock),
        "psycopg2": options["psycopg2"],
        "python": options["fingerprint"]["python"],
    }
    old = reusable_virtualenv(app, wanted)
    if old:
        run(["cp", "--archive", "--link", str(old), str(virtualenv)])
        return wanted
    user, group = app.owner()
    virtualenv.mkdir()
    os.chown(virtualenv, user, group)
    environment = {
        **os.environ,
        "HOME": str(app.cache),
        "UV_CACHE_DIR": str(app.cache / "uv"),
        "UV_LINK_MODE": "copy",  # a link into the cache would let the application change its code
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
    }
    as_user = {"user": user, "group": group, "extra_groups": [], "cwd": app.cache}
    as_user["env"] = environment
    uv = options["uv"]
    run([uv, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", options["python"],
         str(virtualenv)], **as_user)  # fmt: skip
    flags = ["--compile-bytecode", "--python", str(virtualenv / "bin/python")]
    if "--hash=" in lock.read_text():
        flags.append("--require-hashes")
    if options["psycopg2"] == "source":
        flags += ["--no-binary", "psycopg2-binary"]
    run([uv, "pip", "sync", "--quiet", *flags, str(lock)], **as_user)
    run(["chown", "--recursive", "--no-dereference", "root:root", str(virtualenv)])
    run(["chmod", "--recursive", "go-w", str(virtualenv)])
    return wanted


def build(app: Application, options: dict) -> dict:
    """Unpack the source, make the virtualenv, copy the configuration, and seal the release."""
    release, folder = options["release"], app.folder(options["release"])
    archive = folder.with_name(f"{release}.tar.gz")
    source = folder / "source"
    source.mkdir(parents=True)
    unpack = ["tar", "--extract", "--gzip", "--no-same-owner"]
    run([*unpack, f"--file={archive}", f"--directory={source}"])
    run(["chmod", "--recursive", "u=rwX,go=rX", str(source)])
    made_from = make_virtualenv(app, release, options)
    # -S: a .pth file of the virtualenv would run its code, here as root.
    run([options["python"], "-I", "-S", "-m", "compileall", "-q", str(source)])
    write_environment(app, release, options["revision"])
    shutil.copyfile(app.configuration / "gunicorn.conf.py", folder / "gunicorn.conf.py")
    (folder / "gunicorn.sock").symlink_to(app.socket(release))
    manifest = {
        "release": release,
        "revision": options["revision"],
        "fingerprint": options["fingerprint"],
        "virtualenv": made_from,
    }
    (folder / "release.json").write_text(json.dumps(manifest, indent=2) + "\n")
    archive.unlink()
    return {"changed": True}


def check(app: Application, options: dict) -> dict:
    """Import the application in its own environment, before anything depends on it."""
    configuration = app.folder(options["release"]) / "gunicorn.conf.py"
    command = ["python", "-m", "gunicorn", "--check-config", "--config", str(configuration)]
    app.run_in_release(options["release"], command, 60)
    return {"changed": False}


def migrate(app: Application, options: dict) -> dict:
    """Bring the schema to what the release expects; waits for locks only as long as allowed."""
    limits = f"-c lock_timeout={options['lock_timeout_seconds']}s -c statement_timeout=0"
    command = shlex.split(options["command"])
    output = app.run_in_release(
        options["release"], command, options["timeout_seconds"], PGOPTIONS=limits
    )
    return {"changed": True, "output": output.splitlines()}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask_health(path: Path, options: dict) -> str:
    """Ask an instance once; return "" if it may take traffic, or what is in the way."""
    connection = UnixConnection(path, timeout=5)
    headers = {"Host": options["host_header"], "X-Forwarded-Proto": "https"}
    try:
        connection.request("GET", options["health_path"], headers=headers)
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
        said = f"{options['health_path']} said {answer.status}: {body}"
        return "" if answer.status == 200 else said
    except (OSError, http.client.HTTPException) as error:
        return f"{options['health_path']}: {error}"
    finally:
        connection.close()


def start(app: Application, options: dict) -> dict:
    """Start the release beside the one that serves, and wait until it may take traffic."""
    release = options["release"]
    began = time.monotonic()
    try:
        run(["systemctl", "start", app.unit(release)], timeout=options["timeout_seconds"] + 10)
    except ReleaseError:
        raise ReleaseError(f"{app.unit(release)} did not start.") from None
    while problem := ask_health(app.socket(release), options):
        if time.monotonic() - began > options["timeout_seconds"]:
            raise ReleaseError(f"Not healthy after {options['timeout_seconds']} s. {problem}")
        time.sleep(0.1)
    return {"changed": True, "seconds": round(time.monotonic() - began, 2)}


def switch(app: Application, options: dict) -> dict:
    """Let all new requests go to the release; then stop what served before, and prune."""
    release = options["release"]
    before = app.current()
    # Enabled first: whenever the power goes, what `current` names starts at boot.
    run(["systemctl", "enable", "--quiet", app.unit(release), f"{app.name}.target"])
    run(["systemctl", "start", f"{app.name}.target"])
    replace_symlink(app.current_link, app.folder(release))
    if before:
        time.sleep(options["drain_seconds"])
    app.stop_all_but(release)
    pruned = [old for old in app.releases() if old != release][: -(options["keep"] - 1)]
    for old in pruned:
        app.remove(old)
    return {"changed": True, "pruned": pruned}


def abort(app: Application, options: dict) -> dict:
    """Remove a release that did not become current; return what its instance last said."""
    release = options["release"]
    journal = app.journal(release)
    if app.current() != release:
        app.remove(release)
    return {"changed": True, "journal": journal, "serving": app.current() or "nothing yet"}


PHASES = {
    "install_uv": install_uv,
    "build": build,
    "check": check,
    "migrate": migrate,
    "start": start,
    "switch": switch,
    "abort": abort,
}


def main() -> None:
    """Run the phase that the task names."""
    text, number = {"type": "str"}, {"type": "int"}
    module = AnsibleModule(
        argument_spec={
            "phase": {"type": "str", "required": True, "choices": ["plan", *PHASES]},
            "app": {"type": "str", "required": True},
            "release": text,
            "source_id": text,
            "revision": text,
            "requirements": text,
            "psycopg2": text,
            "python": text,
            "uv": text,
            "uv_requirement": text,
            "fingerprint": {"type": "dict"},
            "command": text,
            "timeout_seconds": number,
            "lock_timeout_seconds": number,
            "health_path": text,
            "host_header": text,
            "drain_seconds": number,
            "keep": number,
        },
        supports_check_mode=True,
    )
    app, phase = Application(module.params["app"]), module.params["phase"]
    try:
        if phase == "plan":
            result = plan(app, module.params, module.check_mode)
        else:
            result = PHASES[phase](app, module.params)
    except ReleaseError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
