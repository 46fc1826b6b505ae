"""The source of an image as a local file: itself, or what a URL gives.

Owns: http and https by the standard library, and the temporary file. Refuses: other schemes, redirects to
them, and sources without bounds. Rule: the temporary file is unlinked before the first byte is written into
it: whatever happens, nothing is left.
"""

from __future__ import annotations

import base64
import os
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import IO, Any, Final
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from metastack import __version__
from metastack.commands.problem import Code, Problem, not_found, usage
from metastack.core.quantity import format_bytes

CHUNK: Final = 1 << 20
MAX_BYTES: Final = 1 << 40
"""Largest download, 1 TiB."""
STALL_S: Final = 60.0
"""Longest silence of the server."""
TOTAL_S: Final = 6 * 3600.0
"""Longest download."""
AGENT: Final = f"metastack/{__version__}"
"""Servers refuse Python's own name often."""
_AS_TYPED: Final = "!#$%&'()*+,-./:;=?@[]_~"
"""Characters of a path or query that are kept; ``%`` begins what is escaped already."""
_CIRCLE: Final = "\0circle"


def is_url(source: str) -> bool:
    return "://" in source


def without_password(url: str) -> str:
    """The URL as it may be shown and kept."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


@contextmanager
def local_file(source: str, progress: Callable[[int, int], None], ahead: Callable[[], None]) -> Iterator[str]:
    """A path that can be read while the body runs; ``ahead`` is asked before anything long begins."""
    if not is_url(source):
        yield _checked(source)
        return
    scheme = source.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise usage("source", f"{scheme}:// is not supported", "use a local file, http:// or https://")
    ahead()
    with tempfile.TemporaryFile(prefix="metastack-", dir=os.environ.get("TMPDIR") or "/var/tmp") as out:
        _fetch(source, out, progress)
        yield f"/proc/self/fd/{out.fileno()}"


def _checked(path: str) -> str:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise not_found(f"file {path}") from None
    except OSError as error:
        raise Problem(Code.FAILED, f"file {path}", error.strerror or str(error)) from None
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise usage(f"file {path}", "is neither a file nor a block device")
    if not os.access(path, os.R_OK):
        raise Problem(Code.DENIED, f"file {path}", "cannot be read by this user")
    return os.path.abspath(path)


class _SameKind(urllib.request.HTTPRedirectHandler):
    """Redirects stay http or https, and never lose their encryption."""

    inf_msg = _CIRCLE

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        scheme = urlsplit(headers.get("location") or headers.get("uri") or "").scheme
        if scheme not in ("", "http", "https"):
            raise urllib.error.URLError(f"the server redirects to {scheme}://, which is not supported")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        target = super().redirect_request(req, *args)
        if target is not None and req.type == "https" and target.type != "https":
            raise urllib.error.URLError("the server redirects from https to an insecure address")
        return target


def _fetch(url: str, out: IO[bytes], progress: Callable[[int, int], None]) -> None:
    """Stream a URL into a file."""
    object, deadline_s = f"url {without_password(url)}", time.monotonic() + TOTAL_S
    # Only these handlers: no file://, no ftp://.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SameKind(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(_request(url), timeout=STALL_S) as answer:
            if answer.status != 200:
                raise Problem(
                    Code.FAILED,
                    object,
                    f"the server answered {answer.status} {answer.reason}: the whole file was expected",
                    "try again, or download it with another program and import the file",
                )
            length = answer.headers.get("Content-Length") or "0"
            if not length.isdecimal():
                raise Problem(Code.FAILED, object, f"the server announced a size of {length!r} bytes")
            total = int(length)
            if total > MAX_BYTES:
                raise _too_large(object, total)
            done = 0
            while chunk := answer.read1(CHUNK):
                done += len(chunk)
                if done > MAX_BYTES:
                    raise _too_large(object, done)
                if time.monotonic() > deadline_s:
                    raise Problem(Code.TIMEOUT, object, f"took longer than {TOTAL_S / 3600:g} h")
                out.write(chunk)
                progress(done, total)
            if total and done != total:
                raise Problem(Code.FAILED, object, f"broke off after {done} of {total} bytes", "try again")
            out.flush()
    except urllib.error.HTTPError as error:
        if str(error.reason).startswith(_CIRCLE):
            raise Problem(
                Code.FAILED, object, "too many redirects, or a redirect loop", "check the address"
            ) from None
        code = Code.NOT_FOUND if error.code in (404, 410) else Code.FAILED
        raise Problem(code, object, f"the server answered {error.code} {error.reason}") from None
    except TimeoutError:
        raise Problem(Code.TIMEOUT, object, f"the server was silent for {STALL_S:g} s", "try again") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise Problem(
                Code.TIMEOUT, object, f"the server was silent for {STALL_S:g} s", "try again"
            ) from None
        why = getattr(error.reason, "strerror", None) or error.reason
        raise Problem(Code.FAILED, object, f"cannot be fetched: {why}", "check the address") from None
    except HTTPException:
        raise Problem(
            Code.FAILED, object, "the server does not speak HTTP, or closed the connection", "check the address"
        ) from None
    except OSError as error:
        raise Problem(Code.FAILED, object, f"cannot be fetched: {error.strerror or error}") from None


def _request(url: str) -> urllib.request.Request:
    """The request; a user and password in the URL go into a header that redirects to other hosts lose.

    Raises Problem. What a browser would escape is escaped: spaces, letters that are not ASCII.
    """
    parts = urlsplit(url)
    userinfo, at, host = parts.netloc.rpartition("@")
    try:
        _ = parts.port  # raises ValueError for what is no number
        ascii_host = host if host.isascii() else host.encode("idna").decode()
    except ValueError:
        raise usage("source", f"{host!r} is not a host", "such as https://example.org/disk.qcow2") from None
    if not parts.hostname or any(char <= " " or char == "\x7f" for char in host):
        raise usage("source", f"{host!r} is not a host", "such as https://example.org/disk.qcow2")
    path, query = (quote(part, safe=_AS_TYPED, errors="surrogateescape") for part in (parts.path, parts.query))
    request = urllib.request.Request(urlunsplit((parts.scheme, ascii_host, path, query, "")))
    request.add_header("User-Agent", AGENT)
    if at:
        token = base64.b64encode(unquote(userinfo).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _too_large(object: str, size: int) -> Problem:
    return Problem(Code.FAILED, object, f"has {format_bytes(size)}, more than {format_bytes(MAX_BYTES)}")
