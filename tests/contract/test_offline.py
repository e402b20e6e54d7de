"""The suite itself can't reach out: conftest.py refuses, and the Hugging Face libraries know."""

from __future__ import annotations

import socket

import huggingface_hub.constants
import pytest


def test_a_connection_to_the_outside_is_refused() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
        pytest.raises(OSError, match=r"tried to reach 192\.0\.2\.1"),
    ):
        client.connect(("192.0.2.1", 80))  # TEST-NET-1: no host has it


def test_a_server_on_this_machine_is_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.sendall(b"rain")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(4) == b"rain"


def test_the_hub_is_offline() -> None:
    assert huggingface_hub.constants.HF_HUB_OFFLINE is True
    assert "timerxl-tests-" in huggingface_hub.constants.HF_HOME
