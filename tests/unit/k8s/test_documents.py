"""What the pages about Kubernetes name is there."""

from __future__ import annotations

import re

import pytest
from manifests import K8S, ROOT, groups, site, the_cluster

PAGES = ("k8s/README.md", "docs/howto/kuberay.md", "docs/design/kuberay.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_a_page_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    linked = [(ROOT / page).parent / link for link in re.findall(r"\]\((?!http)([^)#]+)\)", text)]
    named = [
        ROOT / path
        for path in re.findall(r"\bk8s/[\w./-]*[\w-]|\bconfigs/[\w-]+\.yaml|\btests/unit/k8s", text)
    ]
    parts = [K8S / path for path in re.findall(r"\b(?:components|doors)/[\w-]+", text)]

    assert [path for path in [*linked, *named, *parts] if not path.exists()] == []


def test_the_readme_names_every_part() -> None:
    text = (K8S / "README.md").read_text()

    for kind in ("components", "doors"):
        for folder in (K8S / kind).iterdir():
            assert f"{kind}/{folder.name}" in text
    for overlay in (K8S / "overlays").iterdir():
        assert f"`{overlay.name}`" in text


def test_every_secret_that_pods_ask_for_has_its_command() -> None:
    text = (K8S / "README.md").read_text()
    sources = "\n".join(file.read_text() for file in K8S.glob("**/*.yaml"))
    names = set(re.findall(r"(?:secretRef|secretKeyRef): \{name: ([\w-]+)", sources))
    names |= set(re.findall(r"secretName: ([\w-]+)", sources))

    assert names == {"raysmith-ray-token", "raysmith-store", "raysmith-secrets", "raysmith-redis"}
    for name in names:
        assert f"create secret generic {name} " in text


def test_the_howto_counts_the_pods_that_are_built() -> None:
    text = (ROOT / "docs" / "howto" / "kuberay.md").read_text()
    counts = {
        name: group.get("replicas", 1) for name, group in groups(the_cluster("overlays/gke-l4")).items()
    }

    assert site("overlays/gke-l4") in text
    assert "1 head, {control} control, {runners} runners, {models} models".format(**counts) in text
