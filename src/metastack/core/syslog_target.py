"""Where logs go, taken apart: ``tcp://HOST:PORT``.

Owns: the one syntax of a syslog target, shared by the command that sets it and the agents that send to it.
Refuses: looking names up. Rule: what this accepts, the sender can use.
"""

from __future__ import annotations

from urllib.parse import urlsplit


def parse_syslog_target(url: str) -> tuple[str, int] | None:
    """Host and port of ``tcp://HOST:PORT`` (IPv6 in brackets); None for the empty string, meaning none.

    Raises ValueError with a message for the person who typed it.
    """
    if not url:
        return None
    if not url.isascii() or any(c.isspace() for c in url):
        raise ValueError(f"{url!r}: a syslog target is tcp://HOST:PORT in ASCII, without spaces")
    parts = urlsplit(url)
    if parts.scheme != "tcp":
        raise ValueError(f"{url!r}: a syslog target is tcp://HOST:PORT")
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        raise ValueError(f"{url!r}: nothing may follow or precede HOST:PORT")
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise ValueError(f"{url!r}: HOST and a PORT between 1 and 65535 are both needed")
    return parts.hostname, port
