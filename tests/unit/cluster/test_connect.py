"""Which port a local cluster's dashboard is asked to take."""

from __future__ import annotations

import socket

from cluster.connect import _dashboard_port
from cluster.ray_settings import DASHBOARD_PORT, RaySettings


def test_a_taken_dashboard_port_gives_way_to_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        chosen = _dashboard_port(RaySettings(dashboard=True, dashboard_port=port))

    assert chosen is not None
    assert chosen > port


def test_ray_chooses_where_nobody_asked_for_a_port() -> None:
    assert _dashboard_port(RaySettings(dashboard=True, dashboard_port=DASHBOARD_PORT)) is None
    assert _dashboard_port(RaySettings(dashboard=False, dashboard_port=9999)) is None
