"""What `--model` may say, read without touching an engine."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from orchestrator.errors import EngineMissing, TaskError

KNOWN = "recorded:NAME, vllm:PATH, openrouter:NAME, openai:NAME, anthropic:NAME, qwen:NAME, URL#NAME or auto"

# Providers by name: where they answer, and the variable that holds their key.
PROVIDERS = {
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "qwen": ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
}
# For an endpoint named by its address; never a provider's key, which is not this endpoint's business.
KEY_OF_URLS = "RAYSMITH_ENDPOINT_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A model as the engines know it.

    Attributes:
        kind: `recorded`, `vllm`, `endpoint` or `auto`.
        name: The recording, the provider or tag to choose by (empty for any), the folder or repository
            of weights, or the endpoint's name for it.
        url: Of an endpoint, without a slash at its end.
        key_variable: Where an endpoint's key is looked for.
        needs_key: Nothing is served there without one.
        key_file: The file that holds its key, "" for none, None for the one that all endpoints share.
        needs_new_names: The endpoint no longer takes `max_tokens`.
    """

    kind: str
    name: str
    url: str = ""
    key_variable: str = ""
    needs_key: bool = False
    key_file: str | None = None
    needs_new_names: bool = False


def parse_model(model: str) -> ModelName:
    """`model` taken apart.

    Raises:
        EngineMissing: No engine serves models of this kind.
        TaskError: An address with a user, a password or a query, or without a model.
    """
    kind, _, name = model.partition(":")
    if kind in ("http", "https"):
        return _at_address(model)
    if kind in PROVIDERS and name:
        url, variable = PROVIDERS[kind]
        return ModelName(
            kind="endpoint",
            name=name,
            url=url,
            key_variable=variable,
            needs_key=True,
            needs_new_names=kind == "openai",
        )
    if model == "auto" or (kind == "auto" and name):
        return ModelName(kind="auto", name=name)
    if kind in ("recorded", "vllm") and name:
        return ModelName(kind=kind, name=name)
    raise EngineMissing(f"no engine serves the model {model!r}", f"use --model {KNOWN}")


def _at_address(model: str) -> ModelName:
    try:
        parts = urlsplit(model)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise TaskError(
            f"the model's address cannot be read: {error}", "write http://HOST:PORT/v1#NAME"
        ) from error
    # A run's model is in its events, so it must not hold a secret.
    if parts.username is not None or parts.password is not None or parts.query:
        raise TaskError(
            "the model's address holds a user, a password or a query",
            f"write http://HOST:PORT/v1#NAME and put the key into {KEY_OF_URLS}",
        )
    if not host or not parts.fragment:
        raise TaskError(f"{model!r} names no model at an address", "write http://HOST:PORT/v1#NAME")
    url = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
    return ModelName(kind="endpoint", name=parts.fragment, url=url, key_variable=KEY_OF_URLS)
