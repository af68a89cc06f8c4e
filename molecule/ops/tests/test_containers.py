"""The sample application in containers, from a base image that is made here: no registry."""

import ast
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

sys.path.append(str(Path(__file__).parents[2] / "hosts"))

from testhosts.image import make_root

testinfra_hosts = ["ansible://database"]
PROJECT = Path(__file__).parents[3]
PODMAN = str(PROJECT / "molecule/hosts/podman")
BASE = "localhost/slipway-slim"
PORT = "18020"
# What this computer trusts, its containers trust too.
TRUSTED = "usr/local/share/ca-certificates"
UNNEEDED = '"$1"/var/lib/apt/lists/* "$1"/usr/share/doc/* "$1"/usr/share/locale/*'
RECIPE = [
    "--variant=minbase",
    "--include=ca-certificates",
    f'--customize-hook=cp /{TRUSTED}/*.crt "$1/{TRUSTED}/" 2>/dev/null || true',
    '--customize-hook=chroot "$1" update-ca-certificates',
    f"--customize-hook=rm -rf {UNNEEDED}",
    "trixie",
]
# On the server, but not in a container: its own socket, and what its knobs say of releases.
ELSEWHERE = {"RELEASE", "bind", "control_socket", "umask", "post_worker_init", "letting_go"}
# Nor does it replace a worker that calculates for ever.
ELSEWHERE |= {"busy", "pre_request", "post_request", "replace_when_endless"}
# It counts the cores itself: app/tests/test_gunicorn_container.py.
ELSEWHERE |= {"workers"}


def podman(*arguments: str) -> str:
    """Run podman and return what it prints."""
    return subprocess.run(
        [PODMAN, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    """Return a small base image."""
    listed = podman("images", "--quiet", f"--filter=reference={BASE}")
    if not listed:
        tarball = tmp_path_factory.mktemp("base") / "root.tar"
        make_root(BASE, RECIPE, tarball)
        # The label lets `host purge` remove it, and what was built from it.
        podman("import", "--quiet", "--change=LABEL slipway.recipe=slim", str(tarball), BASE)
    return BASE


@pytest.fixture(scope="module")
def compose(base, tmp_path_factory):
    """Start the services by compose.yaml; return a function that runs podman-compose."""
    venv = tmp_path_factory.mktemp("compose")
    uv = str(PROJECT / ".venv/bin/uv")
    subprocess.run([uv, "venv", "--quiet", str(venv)], check=True)
    python = ["--python", str(venv / "bin/python")]
    subprocess.run([uv, "pip", "install", "--quiet", *python, "podman-compose==1.6.0"], check=True)
    command = [str(venv / "bin/podman-compose"), "--podman-path", PODMAN]
    command += ["--project-name", "slipway-sample", "--file", str(PROJECT / "app/compose.yaml")]
    settings = {"BASE": base, "PORT": PORT, "GUNICORN_WORKERS": "3"}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments], env=os.environ | settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("build")
    run("up", "--detach")
    yield run
    run("down", "--volumes")


def ask(path: str) -> dict:
    """Return what the application answers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=10) as answer:
        return json.loads(answer.read())


def container(service: str) -> dict:
    """Return what podman says of a service's container."""
    return json.loads(podman("inspect", f"slipway-sample_{service}_1"))[0]


def test_the_containers_become_healthy_and_serve(host, compose):
    deadline = time.monotonic() + 90
    while True:
        try:
            assert ask("/health/ready") == {"status": "ok"}
            break
        except OSError:
            assert time.monotonic() < deadline, compose("logs")
            time.sleep(1)
    for service in ("database", "app"):
        podman("healthcheck", "run", f"slipway-sample_{service}_1")  # fails unless it is healthy


def test_data_is_in_postgresql_without_a_password(host, compose):
    body = json.dumps({"name": "Ngô Thị Bảo"}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/users", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        number = json.loads(answer.read())["id"]
    found = compose(
        *("exec", "-T", "database", "psql", "--dbname=webapp", "--tuples-only", "--no-align"),
        *("--command", f"SELECT name FROM users WHERE id = {number}"),
    )
    assert found.strip() == "Ngô Thị Bảo"
    variables = dict(one.split("=", 1) for one in container("app")["Config"]["Env"])
    # A socket and no host: between // and / would stand the user and the password.
    assert variables["DATABASE_URL"].startswith("postgresql+psycopg2:///")
    assert "password" not in variables["DATABASE_URL"]


def test_nobody_is_root_in_them(host, compose):
    for service in ("app", "database"):
        seen = container(service)
        assert seen["Config"]["User"] not in ("", "root", "0")
        assert podman("exec", seen["Id"], "id", "-u") != "0"
        assert not seen["EffectiveCaps"]
    assert container("app")["HostConfig"]["ReadonlyRootfs"]


def test_the_image_is_small(host, compose):
    size = int(podman("image", "inspect", "--format={{.Size}}", container("app")["Image"]))
    assert size < 250 * 2**20
    print(f"the image of the app: {size / 2**20:.0f} MiB")


def test_data_and_the_secret_outlive_the_containers(host, compose):
    before = ask("/users")["total"]
    compose("down")
    compose("up", "--detach")
    deadline = time.monotonic() + 90
    while True:
        try:
            assert ask("/users")["total"] == before
            return
        except OSError:
            assert time.monotonic() < deadline, compose("logs")
            time.sleep(1)


def test_gunicorn_has_the_settings_of_the_server(host, compose, tmp_path):
    defaults = yaml.safe_load((PROJECT / "roles/gunicorn/defaults/main.yml").read_text())
    assert defaults["gunicorn_workers"] == "{{ ansible_facts['processor_vcpus'] * 2 + 1 }}"
    rendered = tmp_path / "gunicorn.conf.py"
    source = PROJECT / "roles/gunicorn/templates/gunicorn.conf.py.j2"
    variables = ["-e", f"@{PROJECT}/roles/gunicorn/defaults/main.yml"]
    variables += ["-e", "gunicorn_app=webapp gunicorn_workers=3 gunicorn_allowed_addresses=[]"]
    render = ["ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", "template"]
    render += ["-a", f"src={source} dest={rendered}", *variables]
    subprocess.run(render, check=True, cwd=PROJECT, stdout=subprocess.PIPE)
    there, here = settings(rendered), settings(PROJECT / "app/gunicorn.container.py")
    assert there.keys() - ELSEWHERE <= here.keys()
    assert {name: here[name] for name in there.keys() - ELSEWHERE} == {
        name: there[name] for name in there.keys() - ELSEWHERE
    }


def settings(path: Path) -> dict[str, str]:
    """Return what a gunicorn.conf.py sets and defines."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign):
            found[node.targets[0].id] = ast.unparse(node.value)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = ast.unparse(node)
    return found
