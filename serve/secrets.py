"""Keys of model endpoints, from a file or the environment. They go to the engine that needs them, only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from actors.engines.faults import Key
from actors.engines.names import KEY_OF_URLS, PROVIDERS, ModelName
from orchestrator.errors import EngineDown

if TYPE_CHECKING:
    from serve.config import Config

_VARIABLES = (KEY_OF_URLS, "RAYSMITH_SLACK__TOKEN", *(variable for _, variable in PROVIDERS.values()))


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


def known_secrets(config: Config, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Every secret that this machine's configuration and environment hold, by where it comes from.

    A file that cannot be read holds none that could have been used.
    """
    from urllib.parse import urlsplit

    environ = os.environ if environ is None else environ
    variables = [*_VARIABLES, *(provider.key_variable for provider in config.providers.values())]
    found = {name: environ.get(name, "") for name in variables if name}
    files = [config.endpoint.key_file, config.slack.token_file]
    files += [provider.key_file for provider in config.providers.values() if provider.key_file]
    for file in filter(None, files):
        with contextlib.suppress(EngineDown):
            found[file] = _read(Path(file))
    found["slack.token"] = config.slack.token.get_secret_value()
    with contextlib.suppress(ValueError):
        found["store.url"] = urlsplit(config.store.url).password or ""
    return {name: value.strip() for name, value in found.items() if value.strip()}
