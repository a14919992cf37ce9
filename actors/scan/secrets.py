"""Secrets in lines that a patch adds. A line is never repeated in what is told of it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from orchestrator.steps import Finding, Severity
from orchestrator.tree import Tree

# What providers issue: the form alone tells.
_ISSUED = (
    ("a private key", re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY( BLOCK)?-----")),
    ("an AWS key", re.compile(r"\b(AKIA|ASIA|AGPA|AROA)[0-9A-Z]{16}\b")),
    ("an AWS secret key", re.compile(r"(?i)aws.{0,20}secret.{0,20}['\"=:\s][0-9a-zA-Z/+]{40}\b")),
    ("a GitHub token", re.compile(r"\b(gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b")),
    ("a GitLab token", re.compile(r"\bgl(pat|dt|rt|ptt|cbt)-[\w-]{20,}")),
    ("a Slack token", re.compile(r"\b(xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}")),
    ("a Slack webhook", re.compile(r"hooks\.slack\.com/(services|workflows)/[\w/]{20,}")),
    ("an API key", re.compile(r"\bsk-[A-Za-z0-9_-]{20,}")),
    ("a Stripe key", re.compile(r"\b([sr]k_(live|test)|whsec)_[0-9A-Za-z]{16,}")),
    ("a Google key", re.compile(r"\bAIza[0-9A-Za-z_-]{35}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}")),
    ("an npm token", re.compile(r"\bnpm_[A-Za-z0-9]{36}\b")),
    ("a PyPI token", re.compile(r"\bpypi-[A-Za-z0-9_-]{50,}")),
    ("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30,}")),
    ("a SendGrid key", re.compile(r"\bSG\.[\w-]{16,}\.[\w-]{16,}")),
    ("a Twilio key", re.compile(r"\bSK[0-9a-f]{32}\b")),
    ("a Telegram token", re.compile(r"\b\d{8,10}:AA[\w-]{33}\b")),
    ("a DigitalOcean token", re.compile(r"\bdo[opr]_v1_[a-f0-9]{64}\b")),
    ("an Azure key", re.compile(r"(?i)\b(AccountKey|SharedAccessKey)=[A-Za-z0-9+/=]{40,}")),
    ("a signed token", re.compile(r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}")),
    (
        "a password in an address",
        re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s:/@'\"]*:(?P<value>[^\s@'\"/{}$<]{3,})@[\w.-]"),
    ),
)
_NAME = (
    r"[\w.-]*(?:password|passwd|passphrase|secret|api[_-]?key|auth[_-]?token|access[_-]?token|private[_-]?key)"
    r"[\w-]*"
)
_QUOTED = re.compile(
    rf"(?i)(?<![\w.]){_NAME}['\"]?\s*(?::\s*\w+\s*)?(?:[:=]|=>)\s*[brf]?(?P<q>['\"`])(?P<value>[^'\"`\s]{{8,}})(?P=q)"
)
# In files of settings values stand without quotes.
_BARE = re.compile(
    rf"(?i)^\s*(?:-\s+)?(?:export\s+)?{_NAME}\s*[:=]\s*(?P<value>[^\s'\"#,;(){{}}\[\]]{{8,}})\s*(?:#.*)?$"
)
_TOKEN = re.compile(
    r"(?i)\b[\w-]*(?:token|key|credential|pwd|auth)[\w-]*['\"]?\s*[:=]\s*['\"`]?(?P<value>[A-Za-z0-9+/_=-]{20,})"
)
_SETTINGS = (
    ".env",
    ".ini",
    ".cfg",
    ".conf",
    ".yaml",
    ".yml",
    ".toml",
    ".properties",
    ".sh",
    ".tfvars",
    ".txt",
)
_PLACEHOLDER = re.compile(
    r"(?i)^[\W_]*(x{3,}|\*{3,}|\.{3}|change[_-]?me|your[_-]|example|placeholder|dummy|redacted|todo|insert|"
    r"os\.|process\.env|env\.|secrets\.|vault:|getenv|none$|null$)|^[$<{%]|\$\{"
)
# Bits in a character of a value that chance made; words of a language have less.
_BY_CHANCE = 3.6
_LONGEST = 4096


def secrets(base: Tree, candidate: Tree, paths: list[str]) -> Iterator[Finding]:
    """What looks like a secret in lines of `paths` that the base has not."""
    for path in paths:
        known = set(lines_of(base, path))
        for number, line in enumerate(lines_of(candidate, path), 1):
            if line in known or not (found := _found(path, line[:_LONGEST])):
                continue
            what, severity = found
            yield Finding(
                path=path, line=number, severity=severity, kind="secret", message=f"looks like {what}"
            )


def _found(path: str, line: str) -> tuple[str, Severity] | None:
    for what, pattern in _ISSUED:
        found = pattern.search(line)
        if found and not _PLACEHOLDER.search(found.groupdict().get("value", "")):
            return what, Severity.HIGH
    severity = Severity.LOW if _is_test(path) else Severity.HIGH
    if any(not _PLACEHOLDER.search(each["value"]) for each in _QUOTED.finditer(line)):
        return "a password or key", severity
    is_settings = path.endswith(_SETTINGS) or PurePosixPath(path).name.startswith(".env")
    if is_settings and (bare := _BARE.search(line)) and not _PLACEHOLDER.search(bare["value"]):
        return "a password or key", severity
    if any(_is_by_chance(each["value"]) for each in _TOKEN.finditer(line)):
        return "a token", severity
    return None


def _is_by_chance(value: str) -> bool:
    """Whether a value has digits and letters and more bits in a character than words have."""
    if not (re.search(r"\d", value) and re.search(r"[A-Za-z]", value)) or _PLACEHOLDER.search(value):
        return False
    counts = Counter(value).values()
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
    # Hexadecimal digits cannot have more than four.
    return bits > (3.0 if re.fullmatch(r"[0-9a-fA-F]{32,}", value) else _BY_CHANCE)


def _is_test(path: str) -> bool:
    """Whether made-up passwords are usual in it."""
    place = PurePosixPath(path)
    return place.name.startswith("test_") or bool({"test", "tests", "fixtures"} & {*place.parts})


def lines_of(tree: Tree, path: str) -> list[str]:
    """The lines of a file, none where it is not there."""
    return tree.files[path].content.decode("utf-8", "replace").splitlines() if path in tree.files else []
