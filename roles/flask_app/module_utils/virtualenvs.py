"""The virtualenv of a release, filled by uv from what the application's source names."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import platform
import re
import shutil
import tempfile
import time
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.releases import Application, ReleaseError, run, text_hash, write_bytes

TRIES = 3

# What a build may: packages bring code of their own that runs in it.
BUILD = {
    "CapabilityBoundingSet": "",
    "LockPersonality": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
}


def fetch(url: str) -> bytes:
    """Fetch a URL, through the proxy of the environment.

    :raises ReleaseError: where it cannot be had after three tries.
    """
    for number in range(1, TRIES + 1):
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
                return answer.read()
        except OSError as error:
            problem = error
            time.sleep(number)
    raise ReleaseError(
        f"{url} cannot be fetched: {problem}.\nSeen in: {TRIES} tries.\n"
        "Allowed: a package index that this host reaches.\n"
        "Fix: mend its network, or set flask_app_package_index, site_http_proxy or "
        "base_ca_certificates."
    )


def install_uv(settings: dict) -> None:
    """Install uv, once for all applications, whose first releases may be made side by side."""
    program = Path(settings["uv"])
    program.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with alone_in(program.parent):
        if not program.exists():
            version = program.parent.parent.name.removeprefix("uv-")
            write_bytes(program, fetch_uv(version, settings), mode=0o755)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep every other process that asks the same of this folder waiting outside."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fetch_uv(version: str, settings: dict) -> bytes:
    """Fetch the program uv, from the wheel of this processor by its SHA-256.

    :param version: what a message calls it.
    :raises ReleaseError: where the index has no such wheel, or another one under its name.
    """
    index = settings["package_index"].rstrip("/") + "/uv/"
    listed = re.findall(r'href="([^"#]+)#sha256=(\w{64})', fetch(index).decode())
    ours = [
        (urllib.parse.urljoin(index, link), digest)
        for link, digest in listed
        if digest in settings["uv_hashes"] and f"manylinux_2_17_{platform.machine()}" in link
    ]
    if not ours:
        raise ReleaseError(
            f"{index} has no uv {version} for {platform.machine()}.\n"
            "Seen in: the index.\nAllowed: a wheel with a hash of roles/flask_app/files/uv.txt.\n"
            "Fix: set flask_app_package_index to an index that is complete."
        )
    link, digest = ours[0]
    wheel = fetch(link)
    if hashlib.sha256(wheel).hexdigest() != digest:
        raise ReleaseError(f"{link} is not what it should be: its SHA-256 differs.")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        member = next(name for name in archive.namelist() if name.endswith("/scripts/uv"))
        return archive.read(member)


def make_virtualenv(app: Application, release: str, settings: dict, python: str) -> dict:
    """Fill the release's virtualenv, or clone one that was made from the same things.

    It is filled as the application's user, since building a package runs the package's own code,
    and belongs to root afterwards.

    :param python: the version of the Python that it is made from.
    :returns: what it was made from, for the next release to compare.
    :raises ReleaseError: where the requirements are missing or a package cannot be had.
    """
    source, virtualenv = app.folder(release) / "source", app.folder(release) / "venv"
    requirements = source / settings["requirements"]
    if not requirements.is_file():
        raise ReleaseError(
            f"The source has no {settings['requirements']}.\nSeen in: flask_app_requirements.\n"
            "Allowed: requirements.txt (with or without hashes), pylock.toml, pyproject.toml or "
            "setup.py, relative to the source.\n"
            "Fix: uv pip compile --generate-hashes requirements.in -o requirements.txt"
        )
    made_from = {
        "requirements": text_hash(requirements, requirements.with_name("uv.lock")),
        "extra": settings["extra_requirements"],
        "psycopg2": settings["psycopg2"],
        "python": python,
        # The project itself becomes part of the virtualenv, so each source needs its own.
        "project": settings["source"]["id"] if is_project(requirements) else "",
    }
    for other in reversed(app.releases()):
        if app.manifest(other).get("virtualenv") == made_from:
            run(["cp", "--archive", "--link", str(app.folder(other) / "venv"), str(virtualenv)])
            return made_from
    user, group = app.owner()
    virtualenv.mkdir()
    os.chown(virtualenv, user, group)
    fill(app, requirements, virtualenv, settings)
    run(["chown", "--recursive", "--no-dereference", "root:root", str(virtualenv)])
    run(["chmod", "--recursive", "go-w", str(virtualenv)])
    return made_from


def is_project(requirements: Path) -> bool:
    """Tell whether the source is a package that is to be installed itself."""
    if requirements.name == "setup.py":
        return True
    is_pyproject = requirements.name == "pyproject.toml"
    return is_pyproject and "[build-system]" in requirements.read_text().splitlines()


def run_build(
    app: Application, command: list[str], virtualenv: Path, environment: dict[str, str]
) -> None:
    """Run a command of a build as the application: it writes its cache and the virtualenv only.

    Whatever it has left running ends with it. It has the network, which its index is in.

    :raises ReleaseError: where it fails.
    """
    settings = {
        "User": app.name,
        "Group": app.name,
        "WorkingDirectory": app.cache,
        "ReadWritePaths": f"{app.cache} {virtualenv}",
        **BUILD,
    }
    properties = [f"--property={key}={value}" for key, value in settings.items()]
    wait = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait"]
    unit = f"--unit=slipway-build-{app.name}-{time.time_ns()}"
    # In a file: an index or a proxy may have a password, and systemd tells variables to everybody.
    with tempfile.NamedTemporaryFile("w", dir="/run", prefix="slipway-build-") as file:
        for key, value in {**os.environ, **environment}.items():
            quoted = re.sub(r'([\\"$`])', r"\\\1", value)
            file.write(f'{key}="{quoted}"\n')
        file.flush()
        variables = f"--property=EnvironmentFile={file.name}"
        words = [word.replace("$", "$$") for word in command]
        run([*wait, unit, *properties, variables, *words], shown=" ".join(command))


def fill(app: Application, requirements: Path, virtualenv: Path, settings: dict) -> None:
    """Make the virtualenv and install what the requirements, and the inventory, name."""
    environment = {
        "HOME": str(app.cache),
        "UV_CACHE_DIR": str(app.cache / "uv"),
        "UV_DEFAULT_INDEX": settings["package_index"],
        "UV_LINK_MODE": "copy",  # a link into the cache would let the application change its code
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "1",
    }
    uv = [settings["uv"], "--quiet"]
    python = ["--python", str(virtualenv / "bin/python")]
    binary = ["--no-binary", "psycopg2-binary"] if settings["psycopg2"] == "source" else []
    flags = ["--compile-bytecode", *python, *binary]

    def build(command: list[str]) -> None:
        run_build(app, command, virtualenv, environment)

    def install(*arguments: str) -> None:
        build([*uv, "pip", "install", *flags, *arguments])

    def sync(lock: Path) -> None:
        hashes = ["--require-hashes"] if "--hash=" in lock.read_text() else []
        build([*uv, "pip", "sync", *flags, *hashes, str(lock)])

    new = ["venv", "--allow-existing", "--relocatable", "--python", settings["python"]]
    build([*uv, *new, str(virtualenv)])
    with_hashes = requirements.suffix == ".txt" and "--hash=" in requirements.read_text()
    if with_hashes or requirements.name.startswith("pylock."):
        sync(requirements)
    elif requirements.suffix == ".txt":
        install("--requirement", str(requirements))
    else:
        install_project(app, requirements, uv, build, install, sync)
    if settings["extra_requirements"]:
        install(*settings["extra_requirements"])
    if not (virtualenv / "bin/gunicorn").exists():
        install(settings["gunicorn"])


def install_project(app, requirements: Path, uv: list, build, install, sync) -> None:
    """Install a project by its pyproject.toml or setup.py, and by its uv.lock if it has one.

    Building writes into the source; so a copy that belongs to the application is built.
    """
    copy = app.cache / "project"
    shutil.rmtree(copy, ignore_errors=True)
    build(["cp", "--recursive", str(requirements.parent), str(copy)])
    try:
        if (copy / "uv.lock").exists():
            lock = copy / "locked.txt"
            export = ["export", "--frozen", "--no-dev", "--no-emit-project", "--project", str(copy)]
            build([*uv, *export, "--output-file", str(lock)])
            sync(lock)
            if is_project(requirements):
                install("--no-deps", str(copy))
        elif is_project(requirements):
            install(str(copy))
        else:
            install("--requirement", str(copy / requirements.name))
    finally:
        shutil.rmtree(copy, ignore_errors=True)
