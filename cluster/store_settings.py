"""Where the event log and the artifacts are kept, and how hard the log is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from orchestrator.errors import StoreError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """The store of one factory.

    Attributes:
        url: The event log's database: "" for `events.db` in RAYSMITH_HOME, `sqlite:///PATH` for another
            file, `postgresql://…` in libpq's words for a server. Left out where this is shown.
        artifacts: Where contents are kept: "" for the folder `artifacts` in RAYSMITH_HOME, a folder,
            or an fsspec URL such as `gs://bucket/prefix`.
        synchronous: FULL survives power loss, NORMAL may lose the last acknowledged events to it
            (never to a dead process of ours).
        busy_timeout_s: How long a commit waits for another process that holds the database locked, and
            how long reads and commits wait for a database server that is away.
        queue_mib: Events that wait to be committed hold at most this much memory; then appends wait.
        event_mib: One event's data may be at most this long; larger values belong in artifacts.
    """

    url: str = field(default="", repr=False)
    artifacts: str = ""
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    busy_timeout_s: float = 5.0
    queue_mib: int = 64
    event_mib: int = 8

    def __post_init__(self) -> None:
        if self.synchronous not in ("FULL", "NORMAL"):
            raise ValueError(f"synchronous is {self.synchronous!r}; use FULL or NORMAL")
        if self.busy_timeout_s < 0 or self.queue_mib < 1 or self.event_mib < 1:
            raise ValueError("busy_timeout_s has to be from 0, queue_mib and event_mib from 1")

    @property
    def is_postgres(self) -> bool:
        """Whether the event log is in a PostgreSQL database."""
        return self.url.partition("://")[0] in ("postgresql", "postgres")

    def database(self, home: Path) -> Path:
        """The SQLite file of the event log.

        Raises:
            StoreError: The URL is not one that this release can open.
        """
        if not self.url:
            return home / "events.db"
        scheme, separator, path = self.url.partition(":///")
        if scheme != "sqlite" or not separator or not path or path.startswith(":"):
            shown = self.url.partition(":")[0]
            raise StoreError(
                f"`store.url` names a {shown!r} database, which this release cannot open",
                'use postgresql://…, sqlite:///PATH, or "" for a file in RAYSMITH_HOME',
            )
        return Path(path)

    def artifacts_url(self, home: Path) -> str:
        """The folder or URL of the artifact store."""
        return self.artifacts or str(home / "artifacts")

    @property
    def node_local(self) -> bool:
        """Whether log or artifacts live on one machine's disk, so that the orchestrator is bound to it."""
        return bool(self.on_one_node())

    def on_one_node(self) -> tuple[str, ...]:
        """What lives on one machine's disk, or in one process, with the setting that says so.

        A SQLite file does, wherever it is: its write-ahead log works on one machine only. Artifacts do
        under a plain path; a URL is taken at its word, `file://` for a folder that every node mounts.
        """
        scheme, separator, _ = self.artifacts.partition("://")
        return (
            *(() if self.is_postgres else ("the event log (`store.url`)",)),
            *(
                ()
                if separator and scheme not in ("local", "memory")
                else ("the artifacts (`store.artifacts`)",)
            ),
        )
