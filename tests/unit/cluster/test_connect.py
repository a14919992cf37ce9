"""Which port a local cluster's dashboard is asked to take; how long an owner is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

import cluster.connect as connecting
from cluster.connect import _dashboard_port
from cluster.owner import Ownership
from cluster.ray_settings import DASHBOARD_PORT, RaySettings
from orchestrator.errors import StoreOwned


def test_a_taken_dashboard_port_gives_way_to_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        chosen = _dashboard_port(RaySettings(dashboard=True, dashboard_port=port))

    assert chosen is not None
    assert chosen > port


def test_ray_chooses_where_nobody_asked_for_a_port() -> None:
    assert _dashboard_port(RaySettings(dashboard=True, dashboard_port=DASHBOARD_PORT)) is None
    assert _dashboard_port(RaySettings(dashboard=False, dashboard_port=9999)) is None


def test_an_owner_whose_driver_is_gone_is_waited_for_longer_than_one_that_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "SILENT_S", 0.0)
    gone = subprocess.Popen(["true"])
    gone.wait()

    with Ownership.acquire(tmp_path, driver_pid=os.getpid()), pytest.raises(StoreOwned):
        connecting._join_owner(tmp_path)

    dying = Ownership.acquire(tmp_path, driver_pid=gone.pid)
    threading.Timer(0.5, dying.release).start()
    assert connecting._join_owner(tmp_path) is None
