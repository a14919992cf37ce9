"""Shared by the tests of k8s/."""

from __future__ import annotations

import sys
from pathlib import Path

# Helpers are plain modules beside this file.
sys.path.insert(0, str(Path(__file__).parent))
