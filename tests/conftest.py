"""What holds for every test: a throw-away home, the CPU, one thread, no network."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, and inherited by every process a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("COURSE_DEVICE", "cpu")
os.environ.pop("COURSE_STRICT", None)

import torch

torch.set_num_threads(1)

try:
    import hypothesis

    hypothesis.settings.register_profile("course", deadline=None, max_examples=50, derandomize=True)
    hypothesis.settings.load_profile("course")
    PLAIN = False
except ImportError:
    PLAIN = True


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """In a plain checkout, with only torch, triton, numpy and pytest installed, there are the GPU tests alone."""
    if PLAIN and collection_path.name.startswith("test_") and not collection_path.name.endswith("_gpu.py"):
        return collection_path.is_file() or None
    return None


class NetworkBlockedError(OSError):
    """What a test gets that tries to leave this machine; an OSError, as it would be without a network."""


def _local(host: Any) -> bool:
    if host in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    real = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}
    resolve = socket.getaddrinfo

    def guarded(name: str):
        def call(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _local(address[0]):
                raise NetworkBlockedError(f"tests do not use the network, got {address}")
            return real[name](self, address)

        return call

    def guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _local(host.decode() if isinstance(host, bytes) else host):
            raise NetworkBlockedError(f"tests do not use the network, got {host!r}")
        return resolve(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(socket.socket, name, guarded(name))
        patch.setattr(socket, "getaddrinfo", guarded_resolve)
        yield


@pytest.fixture(autouse=True, scope="session")
def _session_home():
    """A home for what outlives a single test, such as a JupyterLab."""
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", home)
        yield


@pytest.fixture(autouse=True)
def course_home(_session_home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own `COURSE_HOME`, empty."""
    home = tmp_path / "course_home"
    monkeypatch.setenv("COURSE_HOME", str(home))
    return home


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none, and say so."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, none found"))
