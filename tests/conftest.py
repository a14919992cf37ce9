"""Shared by all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis

# Test helpers are plain modules beside this file.
sys.path.insert(0, str(Path(__file__).parent))
# A local Ray would write its token into the home folder of whoever runs the tests.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# CI tries the same examples every time; a person's runs look for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")
