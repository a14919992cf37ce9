"""What an operator can say about sandboxes."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.verdict import Level

ACCEPT = "I-accept-that-generated-code-runs-as-me"
_BOUNDS = ("timeout_s", "cpu_s", "memory_mib", "processes", "disk_mib", "inodes", "file_mib", "output_kib")
PROVIDERS = ("auto", "bubblewrap", "docker", "gvisor", "landlock")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Limits of one sandbox and the weakest confinement that may run generated code."""

    minimum: Level = Level.NAMESPACE
    """The weakest level that may run generated code; below it nothing runs."""

    provider: str = "auto"
    """What confines: bubblewrap, docker, gvisor or landlock; auto takes the first that holds."""

    docker_host: str = ""
    """Where Docker or podman answers; empty for DOCKER_HOST, else the usual places."""

    runtime: str = "runsc"
    """Runtime of Docker or podman that gives each container a kernel of its own, for provider gvisor."""

    timeout_s: float = 300.0
    """Wall seconds after which a run's whole process tree is killed."""

    cpu_s: float = 1800.0
    """CPU seconds of all processes of one sandbox together, after which they are killed."""

    memory_mib: int = 1024
    """Memory of all processes of one sandbox together, files in its memory folders included."""

    processes: int = 256
    """Processes and threads that one sandbox may hold at a time."""

    disk_mib: int = 512
    """Size of the sandbox's /work and of its /tmp, both in memory."""

    inodes: int = 100_000
    """Files and folders that one sandbox may hold in /work, and as many in /tmp."""

    file_mib: int = 256
    """Largest single file that code in the sandbox may write."""

    output_kib: int = 1024
    """What a run may print before it is stopped."""

    warm: int = 2
    """Processes with pytest and packages loaded that a runner keeps for quick runs; 0 for none."""

    allow_unsandboxed: str = ""
    """`I-accept-that-generated-code-runs-as-me` lets code run without any sandbox; nothing else does."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "minimum", Level(self.minimum))
        if self.provider not in PROVIDERS:
            raise ValueError(
                f"sandbox.provider is {self.provider!r}; it has to be one of {', '.join(PROVIDERS)}"
            )
        for name in _BOUNDS:
            if getattr(self, name) <= 0:
                raise ValueError(f"sandbox.{name} is {getattr(self, name)}; it has to be above 0")
        if self.warm < 0:
            raise ValueError(f"sandbox.warm is {self.warm}; it has to be at least 0")
        if self.allow_unsandboxed not in ("", ACCEPT):
            raise ValueError(f"sandbox.allow_unsandboxed has to be empty or {ACCEPT!r}")

    @property
    def accepts_unsandboxed(self) -> bool:
        """Whether the operator wrote the whole accept string."""
        return self.allow_unsandboxed == ACCEPT
