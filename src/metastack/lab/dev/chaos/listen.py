"""Hearing every guest's serial console, whatever happens to libvirtd and the agents.

Owns: one thread that finds the cluster's QEMUs and reads the pseudo terminals of their consoles.
Refuses: writing to a console, and asking libvirt for anything.
Rule: a line counts with the moment at which it was read; lines of one console keep their order.
"""

from __future__ import annotations

import os
import re
import selectors
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .. import proc
from ..cluster import Cluster
from .ring import Ack, heard

LOOK_S = 0.3
"""How often new QEMUs are looked for."""
_VM = re.compile(r"guest=ms-default-([a-z0-9-]+)-[0-9a-f]{8},")


@dataclass(kw_only=True)
class _Console:
    vm: str
    node: str
    process: proc.Proc
    rest: str = ""


class GuestListener:
    """Acknowledgements by VM name, in the order in which they were heard."""

    def __init__(self, cluster: Cluster, log: Path) -> None:
        self._cluster, self._log = cluster, log
        self._acks: dict[str, list[Ack]] = {}
        self._open: dict[int, _Console] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ears", daemon=True)
        self.failed = ""
        """Why nothing is heard any more; empty while all is well."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join(10)

    def acks(self, vm: str) -> list[Ack]:
        """Everything heard of a VM so far."""
        with self._lock:
            return list(self._acks.get(vm, ()))

    def last(self, vm: str) -> Ack | None:
        with self._lock:
            there = self._acks.get(vm)
            return there[-1] if there else None

    # --- the thread

    def _listen(self) -> None:
        try:
            with self._log.open("a") as log, selectors.DefaultSelector() as selector:
                due_s = 0.0
                while not self._over.is_set():
                    if time.monotonic() >= due_s:
                        self._look(selector)
                        due_s = time.monotonic() + LOOK_S
                    for key, _ in selector.select(LOOK_S / 2):
                        self._read(selector, int(key.fd), log)
                for fd in list(self._open):
                    self._forget(selector, fd)
        except Exception as error:  # a deaf lab proves nothing: whoever waits for us is told
            self.failed = f"{type(error).__name__}: {error}"

    def _look(self, selector: selectors.BaseSelector) -> None:
        inits = {init.pid: name for name in self._cluster.state.nodes if (init := self._cluster.init(name))}
        table = proc.parents()
        known = {console.process.pid for console in self._open.values()}
        for pid in table:
            if pid in known or not proc.command(pid).startswith("qemu-system"):
                continue
            above, node = pid, ""
            while above > 1 and not node:
                above = table.get(above, 0)
                node = inits.get(above, "")
            if node and (process := proc.observe(pid)):
                self._attach(selector, node, process)

    def _attach(self, selector: selectors.BaseSelector, node: str, process: proc.Proc) -> None:
        try:
            found = _VM.search(Path(f"/proc/{process.pid}/cmdline").read_text().replace("\0", " "))
            terminal = _terminal(process.pid)
        except OSError:
            return  # gone, or only just starting
        if found is None or terminal is None:
            return  # libvirt's probes are no guests; a starting one has no console yet: looked at again
        try:
            fd = os.open(terminal, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        self._open[fd] = _Console(vm=found[1], node=node, process=process)
        selector.register(fd, selectors.EVENT_READ)

    def _read(self, selector: selectors.BaseSelector, fd: int, log: TextIO) -> None:
        console = self._open[fd]
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(selector, fd)
            return
        now_s = time.monotonic()
        *lines, console.rest = (console.rest + data.decode(errors="replace")).split("\n")
        for line in lines:
            text = line.strip()
            print(f"{now_s:.3f} {console.node} {console.process.pid} {console.vm} {text}", file=log, flush=True)
            ack = heard(text, now_s, console.node, console.process.pid)
            if ack is not None:
                with self._lock:
                    self._acks.setdefault(console.vm, []).append(ack)

    def _forget(self, selector: selectors.BaseSelector, fd: int) -> None:
        selector.unregister(fd)
        os.close(fd)
        del self._open[fd]


def _terminal(pid: int) -> str | None:
    """The path of the pseudo terminal whose other end a process holds; None when it has none yet."""
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            if not os.readlink(f"/proc/{pid}/fd/{entry}").endswith("ptmx"):
                continue
            for line in Path(f"/proc/{pid}/fdinfo/{entry}").read_text().splitlines():
                if line.startswith("tty-index:"):
                    return f"/dev/pts/{int(line.split()[1])}"
        except FileNotFoundError:
            continue
    return None
