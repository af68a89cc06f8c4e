"""The folder of a release: source, virtualenv, environment and settings, sealed."""

from __future__ import annotations

import os
import re
import secrets

from ansible.module_utils.releases import (
    Application,
    ReleaseError,
    content_hash,
    now,
    put_on_disk,
    run,
    write_bytes,
    write_text,
)
from ansible.module_utils.virtualenvs import install_uv, make_virtualenv


def as_planned(app: Application, plan: dict, name: str) -> bytes:
    """Read a file of the configuration.

    :raises ReleaseError: where another run has written it since the plan. The release would have
        other settings than its fingerprint tells, and no run would ever notice.
    """
    path = app.configuration / name
    content = path.read_bytes()
    if content_hash(content) != plan["fingerprint"][name]:
        raise ReleaseError(
            f"{path} was changed while the release was made.\n"
            "Seen in: its SHA-256, which is not the one that was planned with.\n"
            "Allowed: one run at a time that configures an application.\n"
            "Fix: wait until the other run has ended, and run again."
        )
    return content


def write_environment(app: Application, release: str, revision: str, given: str) -> None:
    """Give the release its own copy of the environment, with the secret key and its own name.

    :param given: the environment of the application.
    """
    secret = app.configuration / "secret_key"
    if not secret.exists():
        write_text(secret, secrets.token_urlsafe(48), mode=0o600)
    lines = [given, f'RELEASE_ID="{release}"\nRELEASE_REVISION="{revision}"\n']
    if not re.search(r"^SECRET_KEY=", given, re.MULTILINE):
        lines.append(f'SECRET_KEY="{secret.read_text()}"\n')
    path = app.folder(release) / "environment"
    write_text(path, "".join(lines), mode=0o640)
    os.chown(path, 0, app.owner()[1])


def build(app: Application, plan: dict) -> None:
    """Unpack the source, make the virtualenv, and copy the configuration.

    :param plan: what stands in the lock: `release`, `settings`, `fingerprint`, `holder`.
    :raises ReleaseError: where a package cannot be had, or the configuration was changed.
    """
    release, settings = plan["release"], plan["settings"]
    environment, gunicorn = (
        as_planned(app, plan, name) for name in ("environment", "gunicorn.conf.py")
    )
    install_uv(settings)
    folder = app.folder(release)
    source = folder / "source"
    source.mkdir(parents=True)
    unpack = ["tar", "--extract", "--gzip", "--no-same-owner"]
    run([*unpack, f"--file={app.archive(release)}", f"--directory={source}"])
    app.archive(release).unlink()
    run(["chmod", "--recursive", "u=rwX,go=rX", str(source)])
    made_from = make_virtualenv(app, release, settings, plan["fingerprint"]["python"])
    # -S: a .pth file of the virtualenv would run its code, here as root.
    compileall = [settings["python"], "-I", "-S", "-m", "compileall", "-q", str(source)]
    run(compileall, shown="compileall")
    write_environment(app, release, settings["source"]["revision"], environment.decode())
    write_bytes(folder / "gunicorn.conf.py", gunicorn)
    (folder / "gunicorn.sock").symlink_to(app.new_socket(release))
    put_on_disk(folder)  # before it is called complete
    app.record(
        release,
        release=release,
        revision=settings["source"]["revision"],
        version=settings["source"]["version"],
        built=now(),
        by=plan["holder"],
        fingerprint=plan["fingerprint"],
        commands=settings["commands"],
        virtualenv=made_from,
    )
