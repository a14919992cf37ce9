"""What is commonly done with a container and a name at hand, by the type that the container was seen with."""

from __future__ import annotations

from collections.abc import Iterator

from actors.search.mutators.site import Site

_MAPPINGS = (("{0}.pop({1}, None)", 0.2), ("del {0}[{1}]", 0.15))
#: By type of the container `{0}`: statements about its key or element `{1}`.
_WITH_ONE: dict[str, tuple[tuple[str, float], ...]] = {
    "dict": _MAPPINGS,
    "defaultdict": (("{0}[{1}] += 1", 0.2), *_MAPPINGS),
    "Counter": (("{0}[{1}] += 1", 0.35), ("{0}[{1}] -= 1", 0.2)),
    "OrderedDict": (("{0}.move_to_end({1})", 0.4), *_MAPPINGS),
    "list": (("{0}.append({1})", 0.2), ("{0}.remove({1})", 0.12)),
    "deque": (("{0}.append({1})", 0.2), ("{0}.appendleft({1})", 0.1)),
    "set": (("{0}.add({1})", 0.3), ("{0}.discard({1})", 0.15)),
}
_KEYED = frozenset(("dict", "defaultdict", "OrderedDict"))
_NAMES = 6


def upkeep(site: Site, container: str) -> Iterator[tuple[str, float]]:
    """Statements with their weight that keep `container` up to date; none where its type is not known."""
    kinds = site.types(container)
    names = [name for name in site.visible() if name != container][:_NAMES]
    for kind in kinds:
        for pattern, weight in _WITH_ONE.get(kind, ()):
            yield from ((pattern.format(container, name), weight) for name in names)
    if _KEYED.intersection(kinds):
        for key in names:
            yield from ((f"{container}[{key}] = {other}", 0.15) for other in names if other != key)
