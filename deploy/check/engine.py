"""A container engine for the check: the machine's own, or one that is started for it where images cannot be had.

The engine that is started keeps all in one folder and touches no rule of the machine's firewall. Its images are made of
Debian's packages: one base made by debootstrap stands in, under their names, for the images of docker-compose.yml.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yml"
START_S = 60.0
BASE = "tokamak-check-base:bookworm"
PACKAGES = ("ca-certificates", "haproxy", "prometheus", "python3", "python3-venv", "redis-server", "wget")
NOT_PACKAGED = ("grafana",)
STAND_INS = {
    "gateway": "",
    "proxy": "USER 99:99",
    "redis": "RUN install -d -o 999 -g 1000 /data",
    "prometheus": 'RUN install -d -o 65534 -g 65534 /prometheus\nUSER 65534\nENTRYPOINT ["prometheus"]',
}
"""What each image needs beside the base. Its own name is taken from docker-compose.yml and the Dockerfile."""
NEEDED = (
    "make test-compose needs docker-compose (or docker's compose plugin), and either an engine that answers "
    "`docker info` and can pull images, or, as root on a Debian, the packages docker.io and debootstrap: "
    "apt-get install docker.io docker-compose debootstrap"
)


class CannotCheck(Exception):
    """This machine cannot bring the deployment up. The message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Engine:
    """Where commands of docker go. `absent`: services that there is no image for."""

    environ: Mapping[str, str]
    compose: tuple[str, ...]
    absent: tuple[str, ...] = ()

    def run(self, *command: str, timeout_s: float = 120.0, check: bool = True) -> str:
        """The standard output of a command. Raises CannotCheck if it fails."""
        done = subprocess.run(
            command, cwd=ROOT, env=dict(self.environ), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if check and done.returncode:
            raise CannotCheck(f"{' '.join(command)} failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout


@contextmanager
def engine(folder: Path) -> Iterator[Engine]:
    """The engine of the machine if it answers, else one of our own in `folder`. Raises CannotCheck."""
    compose = _compose()
    if _works("docker", "info"):
        yield Engine(os.environ, compose)
        return
    missing = [name for name in ("dockerd", "debootstrap", "docker") if shutil.which(name) is None]
    if missing or os.geteuid():
        raise CannotCheck(f"{NEEDED}. Here: {'not root' if os.geteuid() else 'no ' + ', '.join(missing)}.")
    folder.mkdir(parents=True, exist_ok=True)
    with _started(folder) as host:
        own = Engine({**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}, compose, NOT_PACKAGED)
        _stand_in(own, folder)
        yield own


def _compose() -> tuple[str, ...]:
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    if _works("docker", "compose", "version"):
        return ("docker", "compose")
    raise CannotCheck(f"{NEEDED}. Here: no docker-compose.")


def _works(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def _started(folder: Path) -> Iterator[str]:
    host = f"unix://{folder}/docker.sock"
    command = [
        "dockerd", "--storage-driver=overlay2", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
        "--ip-masq=false", "--bridge=none", f"--host-gateway-ip={_own_address()}", f"--data-root={folder}/data",
        f"--exec-root={folder}/exec", f"--pidfile={folder}/docker.pid", "-H", host,
    ]  # fmt: skip
    with (folder / "dockerd.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as daemon:
        try:
            until = time.monotonic() + START_S
            while not _works("docker", "-H", host, "info"):
                if daemon.poll() is not None or time.monotonic() > until:
                    raise CannotCheck(f"dockerd did not start: {(folder / 'dockerd.log').read_text()[-3000:]}")
                time.sleep(0.5)
            yield host
        finally:
            daemon.terminate()
            daemon.wait(60)
            # The daemon leaves this mount behind, and with it the folder could not be removed.
            subprocess.run(["umount", str(folder / "exec/netns/default")], capture_output=True, check=False)


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # Nothing is sent: it only asks which address would be used.
        return str(probe.getsockname()[0])


def _stand_in(own: Engine, folder: Path) -> None:
    if not own.run("docker", "images", "-q", BASE).strip():
        _make_base(own, folder / "base")
    for service, extra in STAND_INS.items():
        recipe = folder / f"{service}.Dockerfile"
        recipe.write_text(f"FROM {BASE}\n{extra}\n")
        own.run("docker", "build", "--network", "none", "-t", image_of(service), "-f", str(recipe), str(_empty(folder)))


def image_of(service: str) -> str:
    """The image that a service runs on; of the gateway, which is built here, the image that it is built on."""
    if service == "gateway":
        return str(re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0])
    return str(yaml.safe_load(COMPOSE_FILE.read_text())["services"][service]["image"])


def _empty(folder: Path) -> Path:
    context = folder / "empty"
    context.mkdir(exist_ok=True)
    return context


def _make_base(own: Engine, base: Path) -> None:
    if base.exists():
        shutil.rmtree(base)
    _shell(["debootstrap", "--variant=minbase", "bookworm", str(base)])
    policy = base / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")  # No package may start its server while it is installed.
    policy.chmod(0o755)
    install = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"]
    _shell(["chroot", str(base), *install, *PACKAGES])
    # What this machine trusts, and how it reaches Python packages, holds while images are built too.
    trusted = Path("/etc/ssl/certs/ca-certificates.crt")
    if trusted.exists():
        shutil.copy(trusted, base / trusted.relative_to("/"))
    archive = base.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        tar.add(base, arcname=".")
    own.run("docker", "import", str(archive), BASE, timeout_s=300)
    archive.unlink()
    shutil.rmtree(base)


def _shell(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise CannotCheck(f"{' '.join(command)} failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
