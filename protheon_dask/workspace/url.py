"""Paths that are URLs: which are, and how they are shown: without what opens doors."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

HIDDEN = "***"
_SECRET_CHARS = 4  # shorter ones are not searched for in foreign messages: they would take ordinary words out
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|[A-Za-z0-9+.-]+::")  # two letters at least: C:// is a drive
_USER = re.compile(r"(?<=://)([^/?#@]*)@")
_SECRET_NAMES = re.compile(r"(?i)sig|token|secret|pass|pwd|credential|key|auth")  # of query parameters: signed URLs have such ones


def is_url(path: str) -> bool:
    """Tell whether a path is for a store; file:// is not."""
    return bool(_URL.match(path)) and not path.startswith("file://")


def is_web(path: str) -> bool:
    """Tell whether a path is of a web server, and not of an archive on one."""
    return path.startswith(("http://", "https://")) and "::" not in path


def shown(path: str) -> str:
    """Return a path as people, the ledger and logs may see it: passwords, tokens and signatures are ***.

    Guarantee:  idempotent; what has no secret comes back as it is.
    """
    return "::".join(_shown(part) for part in path.split("::")) if is_url(path) else path


def without_secrets(text: str, path: str) -> str:
    """Return a foreign message without the secrets of the path that it may be about."""
    if not is_url(path):
        return text
    for part in path.split("::"):
        text = text.replace(part, _shown(part))
        for secret in _secrets(part):
            text = text.replace(secret, HIDDEN).replace(unquote(secret), HIDDEN)
    return text


def absolute(path: str) -> str:
    """Return a path that means the same in a process with another working directory; URLs stay, but for a local file inside."""
    if path.startswith("file://"):
        return path
    if not is_url(path):
        return str(Path.cwd() / Path(path).expanduser())
    outer, colons, inner = path.rpartition("::")
    return f"{outer}::{Path.cwd() / Path(inner).expanduser()}" if colons and not _URL.match(inner) else path


def _shown(url: str) -> str:
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    user = _USER.search(url)
    if user and ":" in user[1]:
        url = url.replace(user[0], f"{user[1].partition(':')[0]}:{HIDDEN}@", 1)
        parts = urlsplit(url)
    if not parts.query or not any(_SECRET_NAMES.search(item.partition("=")[0]) for item in parts.query.split("&")):
        return url
    return urlunsplit(parts._replace(query="&".join(_hidden(item) for item in parts.query.split("&"))))


def _hidden(item: str) -> str:
    name, equals, value = item.partition("=")
    return f"{name}={HIDDEN}" if equals and value and _SECRET_NAMES.search(name) else item


def _secrets(url: str) -> list[str]:
    user = _USER.search(url)
    found = [user[1].partition(":")[2]] if user else []
    found += [item.partition("=")[2] for item in urlsplit(url).query.split("&") if _SECRET_NAMES.search(item.partition("=")[0])]
    return [secret for secret in found if len(secret) >= _SECRET_CHARS and secret != HIDDEN]
