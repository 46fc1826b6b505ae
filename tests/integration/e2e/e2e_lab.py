"""A real cluster and a person at its command line: what the end-to-end tests act through."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metastack.lab.dev.cluster import Cluster
from metastack.lab.dev.proc import Proc
from metastack.store.etcd.store import EtcdStore

METASTACK = (sys.executable, "-m", "metastack.cli.main")


class Lab:
    """One cluster with a booting image called ``tiny``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    # --- the person

    def run(self, *words: str, timeout_s: float = 150, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """A command, whatever its exit code."""
        return subprocess.run(
            [*METASTACK, *words], capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False
        )

    def do(self, *words: str, timeout_s: float = 150) -> str:
        """A command that must succeed; its output."""
        done = self.run(*words, timeout_s=timeout_s)
        assert done.returncode == 0, f"{' '.join(words)}: exit {done.returncode}\n{done.stderr}\n{self.seen()}"
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.do(*words, "-o", "json"))

    def vm(self, name: str) -> dict[str, Any]:
        """``vm show``; an empty dict when there is no such VM."""
        done = self.run("vm", "show", name, "-o", "json")
        if done.returncode == 3:
            return {}
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def node(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.json("node", "show", name)
        return found

    def create(self, name: str, *more: str) -> dict[str, Any]:
        self.do("vm", "create", name, "--image", "tiny", "--memory", "96MiB", *more)
        return self.vm(name)

    def until(self, what: str, check: Callable[[], Any], within_s: float = 60.0) -> float:
        """Wait for a condition; how long it took. Fails with everything that was seen."""
        start = time.monotonic()
        while not check():
            if time.monotonic() - start > within_s:
                raise AssertionError(f"not within {within_s} s: {what}\n{self.seen()}")
            time.sleep(0.1)
        return time.monotonic() - start

    def until_vm(self, name: str, within_s: float = 60.0, **wanted: Any) -> dict[str, Any]:
        """Wait until ``vm show`` has these values; callables are asked."""
        last: dict[str, Any] = {}

        def matches() -> bool:
            last.clear()
            last.update(self.vm(name))
            return all(
                want(last.get(key)) if callable(want) else last.get(key) == want for key, want in wanted.items()
            )

        self.until(f"{name}: {wanted}", matches, within_s)
        return dict(last)

    def until_all_ready(self, within_s: float = 90.0) -> None:
        names = set(self.cluster.state.nodes)
        self.until(
            "all nodes ready",
            lambda: {n["name"] for n in self.json("node", "list") if n["state"] == "ready"} == names,
            within_s,
        )

    # --- the guest

    def console(self, name: str, typed: str = "", listen_s: float = 15.0, until: str = "") -> str:
        """What the serial console says within some seconds, after typing a line; stops early at ``until``."""
        argv = [*METASTACK, "vm", "console", name]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            text, end = b"", time.monotonic() + listen_s
            if typed:
                process.stdin.write(b"\n" + typed.encode() + b"\n")
            while time.monotonic() < end and process.poll() is None:
                text += process.stdout.read(65536) or b""
                if until and re.search(until.encode(), text):
                    break
                time.sleep(0.05)
            process.kill()
            text += process.stdout.read() or b""
        return text.decode(errors="replace")

    def boots(self, name: str, within_s: float = 60.0) -> int:
        """The guest's own boot counter, read inside it: proves that it runs and which disk it has."""
        end = time.monotonic() + within_s
        text = ""
        while time.monotonic() < end:
            text = self.console(name, "echo BOOTS=$(cat /data/boots)=", 6.0, r"BOOTS=(\d+)=")
            found = re.findall(r"BOOTS=(\d+)=", text)
            if found:
                return int(found[-1])
        raise AssertionError(f"the guest of {name} does not answer:\n{text}\n{self.seen()}")

    def qemu(self, node: str) -> list[Proc]:
        """QEMU processes of one host."""
        init = self.cluster.init(node)
        return [] if init is None else self.cluster.host(node).qemu(init)

    # --- evidence

    def keys(self, prefix: str) -> tuple[int, list[str]]:
        """etcd's revision, and the keys under a prefix."""

        async def ask() -> tuple[int, list[str]]:
            store = EtcdStore(self.cluster.root_store_settings)
            try:
                snapshot = await store.list(prefix)
            finally:
                await store.close()
            return snapshot.revision, [entry.key for entry in snapshot.entries]

        return asyncio.run(ask())

    def volumes(self) -> list[str]:
        """UUIDs of the disks that are on record."""
        return [key.rsplit("/", 1)[1] for key in self.keys("/metastack/actual/volumes/")[1]]

    def events(self, node: str, *names: str) -> list[dict[str, Any]]:
        """Log events of a node's agent."""
        found = []
        path = self.cluster.host(node).agent_log
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.startswith("{"):
                event = json.loads(line)
                if not names or event.get("event") in names:
                    found.append(event)
        return found

    def seen(self) -> str:
        """The last words of every agent, and what the CLI lists."""
        parts = []
        for words in (("node", "list", "-o", "wide"), ("vm", "list", "-o", "wide")):
            done = self.run(*words)
            parts.append(done.stdout + done.stderr)
        for name, host in self.cluster.hosts.items():
            log = Path(host.agent_log)
            tail = log.read_text().splitlines()[-25:] if log.exists() else ["no log"]
            parts.append(f"--- {name}\n" + "\n".join(line[:400] for line in tail))
        return "\n".join(parts)
