"""What an operator says about packages that tasks may have installed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from packaging.utils import canonicalize_name


class Unknown(StrEnum):
    """What happens to a distribution that no policy names."""

    REFUSE = "refuse"
    PARK = "park"


@dataclass(frozen=True, slots=True, kw_only=True)
class DependencySettings:
    """Which packages a task may bring along."""

    index: str = ""
    """Folder of wheels that packages are installed from, without a network; empty for none."""

    allow: tuple[str, ...] = ()
    """Distributions that may be installed, those that they need included."""

    unknown: Unknown = Unknown.REFUSE
    """What happens to a distribution that `allow` does not name: `refuse`, or `park` the run until a person
    decides by `raysmith approve` or `raysmith reject` about exactly these wheels."""

    folder: str = ""
    """Where installed packages are kept for later runs; empty for the user's cache folder."""

    advisories: str = ""
    """File or folder of OSV advisories that new requirements of a patch are held against; empty for none."""

    timeout_s: float = 300.0
    """Wall seconds of one installation."""

    def __post_init__(self) -> None:
        if "://" in self.index:
            raise ValueError(
                f"dependencies.index is {self.index!r}; it has to be a folder, filled with `pip download "
                "--only-binary :all: -d FOLDER NAME`"
            )
        if self.timeout_s <= 0:
            raise ValueError(f"dependencies.timeout_s is {self.timeout_s}; it has to be above 0")

    @property
    def names(self) -> frozenset[str]:
        """Canonical names of what is allowed."""
        return frozenset(canonicalize_name(name) for name in self.allow)

    def kept_in(self) -> Path:
        """Where installed packages are kept."""
        from platformdirs import user_cache_path

        return Path(self.folder) if self.folder else user_cache_path("raysmith") / "packages"
