"""Paths that are URLs: which are, and how they are shown: without what opens doors."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

HIDDEN = "***"
_SECRET_CHARS = 4  # shorter ones are not searched for in foreign messages: they would take ordinary words out
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|[A-Za-z0-9+.-]+::")  # two letters at least: C:// is a drive
_LINK = re.compile(r"::(?![0-9A-Fa-f:.]*\])")  # between the parts of fsspec's chains; those of an IPv6 address are none
_USER = re.compile(r"(?<=://)([^/?#]*)@")  # the last @ before the path counts
_BARE_USER = re.compile(r"(?<=://)([^/?#@:\[]+:(?!\d*(?:[/?#]|$)).*)@")  # a password with a / that is not encoded: its port is no number
_SECRET_NAMES = re.compile(r"(?i)sig|token|secret|pass|pwd|credential|key|auth")  # of query parameters: signed URLs have such ones


def is_url(path: str) -> bool:
    """Tell whether a path is for a store; file:// is not."""
    return bool(_URL.match(path)) and not path.startswith("file://")


def is_web(path: str) -> bool:
    """Tell whether a path is of a web server, and not of an archive on one."""
    return path.startswith(("http://", "https://")) and not _LINK.search(path.partition("?")[0])


def shown(path: str) -> str:
    """Return a path as people, the ledger and logs may see it: passwords, tokens and signatures are ***.

    Guarantee:  idempotent; what has no secret comes back as it is.
    """
    return "::".join(map(_shown, _links(path))) if is_url(path) else path


def without_secrets(text: str, path: str) -> str:
    """Return a foreign message without the secrets of the path that it may be about."""
    if not is_url(path):
        return text
    for part in _links(path):
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
    *outer, inner = _links(path)
    return "::".join([*outer, str(Path.cwd() / Path(inner).expanduser())]) if outer and not _URL.match(inner) else path


def _links(path: str) -> list[str]:
    """The parts of a chain, such as that of an archive and of where it is; of a URL of a web server one."""
    return [path] if is_web(path) else _LINK.split(path)


def _user(url: str) -> str:
    """User and password, as they stand in a URL."""
    found = _USER.search(url) or _BARE_USER.search(url)
    return found[1] if found else ""


def _password(url: str) -> str:
    """The password of a URL; for a web server a name alone is one, a token."""
    name, colon, password = _user(url).partition(":")
    return password if colon or not is_web(url) else name


def _shown(url: str) -> str:
    if "://" not in url:
        return url
    if password := _password(url):
        user = _user(url)
        url = url.replace(f"{user}@", f"{user.removesuffix(password)}{HIDDEN}@", 1)
    head, mark, rest = url.partition("?")
    query, hash_, fragment = rest.partition("#")
    return head + mark + "&".join(map(_hidden, query.split("&"))) + hash_ + fragment


def _hidden(item: str) -> str:
    name, equals, value = item.partition("=")
    return f"{name}={HIDDEN}" if equals and value and _SECRET_NAMES.search(name) else item


def _secrets(url: str) -> list[str]:
    query = url.partition("?")[2].partition("#")[0]
    found = [_password(url), *(item.partition("=")[2] for item in query.split("&") if _SECRET_NAMES.search(item.partition("=")[0]))]
    return [secret for secret in found if len(secret) >= _SECRET_CHARS and secret != HIDDEN]
