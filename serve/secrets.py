"""Keys of model endpoints, from a file or the environment. They go to the engine that needs them, only."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from actors.engines.faults import Key
from actors.engines.names import ModelName
from orchestrator.errors import EngineDown


def endpoint_key(model: ModelName, key_file: str, environ: Mapping[str, str] | None = None) -> Key | None:
    """The key for `model`'s endpoint, None where there is none.

    Args:
        model: Whose endpoint it is.
        key_file: What `endpoint.key_file` names; it goes before the environment. A file that the
            model itself names goes before both.
        environ: `os.environ` when None, in the process of the agents.

    Raises:
        EngineDown: The file cannot be read, or what was found is no key.
    """
    environ = os.environ if environ is None else environ
    if model.key_file is not None:
        key_file = model.key_file
    source = key_file or model.key_variable
    secret = _read(Path(key_file)) if key_file else environ.get(model.key_variable, "").strip()
    if not secret:
        return None
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise EngineDown(f"what {source} holds is no key", "put the key alone on one line")
    return Key(secret=secret, source=source)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise EngineDown(
            f"the key file {file} cannot be read: {reason}",
            "check endpoint.key_file, or the provider's key_file",
        ) from error
