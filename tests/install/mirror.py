"""A caching mirror of Debian for hosts that reach nothing but their bridge.

Owns: the folder of packages, filled on demand from where this machine's own apt gets them.
Refuses: any path outside the archives' own trees, and anything but GET and HEAD.
Rule: what never changes under its name (packages, indexes by hash) is fetched once; the rest is asked for each
time, and the last copy serves when the archive is silent.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote

from metastack.lab import netns

ARCHIVES = {"debian": "Debian", "debian-security": "Debian-Security"}
"""First folder of a path, and the label by which this machine's apt knows the archive."""


def upstreams() -> dict[str, str]:
    """Where this machine's apt gets each archive; raises LookupError when it has none of Debian's."""
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    known = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    found = {name: known[label].rstrip("/") for name, label in ARCHIVES.items() if label in known}
    if "debian" not in found:
        raise LookupError("this machine's apt has no Debian archive: apt-get update, then try again")
    return found


class Mirror(ThreadingHTTPServer):
    """Serves ``folder`` on a socket that is bound already, and fetches what is missing."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, folder: Path, sources: dict[str, str]) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.folder = folder
        self.sources = sources

    def find(self, path: str) -> Path | None:
        """The file of a path, fetched when needed; None when the archive has none."""
        name, _, rest = path.lstrip("/").partition("/")
        if name not in self.sources or ".." in rest.split("/") or not rest:
            return None
        kept = self.folder / name / rest
        if kept.is_file() and (rest.startswith("pool/") or "/by-hash/" in rest):
            return kept
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=".part-", delete=False) as part:
            try:
                with urllib.request.urlopen(f"{self.sources[name]}/{rest}", timeout=60) as answer:
                    shutil.copyfileobj(answer, part, 1 << 20)
            except (HTTPError, URLError, OSError) as error:
                os.unlink(part.name)
                gone = isinstance(error, HTTPError) and error.code in (404, 410)
                return None if gone or not kept.is_file() else kept
        os.replace(part.name, kept)
        return kept


class Handler(BaseHTTPRequestHandler):
    """One connection of apt."""

    protocol_version = "HTTP/1.1"
    server: Mirror

    def do_GET(self) -> None:
        found = self.server.find(unquote(self.path))
        if found is None:
            self.send_error(404)
            return
        with found.open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            if self.command == "GET":
                shutil.copyfileobj(file, self.wfile, 1 << 20)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Only failures are worth a line."""
        if len(args) > 1 and str(args[1]) >= "400":
            super().log_message(format, *args)


if __name__ == "__main__":
    # mirror.py NETNS ADDRESS PORT FOLDER: listens in that network namespace, fetches from the one it starts in.
    where, address, port, folder = sys.argv[1:]
    with netns.inside(where):
        listening = socket.create_server((address, int(port)))
    Mirror(listening, Path(folder), upstreams()).serve_forever()
