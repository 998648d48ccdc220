"""The guards every test runs under do guard."""

from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path

import pytest
import torch

from course_lib import checks


@pytest.mark.parametrize("address", ["http://192.0.2.1/", "http://example.org/", "http://[2001:db8::1]/"])
def test_the_network_is_off(address: str):
    with pytest.raises(OSError, match="tests do not use the network"):
        urllib.request.urlopen(address, timeout=2)


def test_this_machine_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_home_is_this_tests_own_and_one_thread_runs(course_home: Path, tmp_path: Path):
    assert checks.home() == course_home
    assert course_home.is_relative_to(tmp_path)
    assert torch.get_num_threads() == 1
    assert os.environ.get("COURSE_STRICT") is None
