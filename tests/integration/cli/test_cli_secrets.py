"""A secret's value goes from a file into libvirt, through real parts, and appears nowhere on its way."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shlex
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "hypervisor"))

from cli_program import Answer, Program, finish
from commands_rig import HELLO, Rig
from libvirt_host import TINY_GUEST, LibvirtHost, host
from secret_agent import LIBVIRT_SECRET

from metastack.core.model import NodeAlive, VmStatus
from metastack.core.state.codec import decode
from metastack.lab.dev.etcd import EtcdCluster

__all__ = ["host"]

pytestmark = [pytest.mark.etcd, pytest.mark.libvirt]
WITHIN_S = 60.0


class Marker:
    """A random value, as a cephx key is written, and every form in which it might come out."""

    def __init__(self) -> None:
        raw = os.urandom(48)
        self.text = base64.b64encode(raw)
        self._forms = [raw, self.text, raw.hex().encode(), self.text.hex().encode()]
        for value in (raw, self.text):
            for shift in range(3):  # base64 of a text around it, wherever it begins there
                self._forms.append(base64.b64encode(bytes(shift) + value)[4:-4])
        self._forms += [repr(raw)[2:-1].encode(), json.dumps(raw.decode("latin1"))[1:-1].encode()]

    def is_in(self, data: bytes) -> bool:
        return any(form in data for form in self._forms)

    def below(self, *folders: Path) -> list[str]:
        """Files that have it; what is no file or ends meanwhile has none."""
        found = []
        for folder in folders:
            for path in folder.rglob("*"):
                try:
                    if path.is_file() and not path.is_symlink() and self.is_in(path.read_bytes()):
                        found.append(str(path))
                except OSError:
                    continue
        return found


@contextmanager
def arguments_watched(marker: Marker) -> Iterator[list[str]]:
    """Looks at the arguments and the environment of every process, again and again."""
    found: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for entry in Path("/proc").iterdir():
                for name in ("cmdline", "environ") if entry.name.isdigit() else ():
                    try:
                        data = (entry / name).read_bytes()
                    except OSError:
                        continue
                    if marker.is_in(data):
                        found.append(f"{entry / name}: {data[:60]!r}")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


@asynccontextmanager
async def an_agent(rig: Rig, etcd: EtcdCluster, host: LibvirtHost, folder: Path) -> AsyncIterator[Path]:
    """It runs as a process; the path of its log."""
    settings, log = folder / "agent.toml", folder / "agent.log"
    # libvirtd keeps what its starter left open: uvloop would wait for the end of the command's stderr for ever.
    closing = 'for fd in /proc/self/fd/*; do n=${fd##*/}; [ "$n" -lt 2 ] || eval "exec $n>&-"; done'
    restart = f"{closing}; exec {shlex.join(host.barrier_command())}"
    values: dict[str, Any] = {
        "name": "n1", "endpoints": list(etcd.endpoints), "root": rig.keys.root, "libvirt_uri": host.uri,
        "libvirtd_restart_command": ["bash", "-c", restart], "hypervisor": "qemu",
        "state_dir": str(folder / "state"), "run_dir": str(host.folder), "address": "127.0.0.1",
        "console_listen": "127.0.0.1:7431", "secrets_key_file": str(folder / "secrets.key"),
        "log_level": "debug", "log_format": "json",
    }  # fmt: skip
    lines = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
    storage = f'[storage]\nkind = "file"\ndirectory = "{folder / "pool"}"\n'
    settings.write_text("\n".join(lines) + "\n" + storage)
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(Path(__file__).parent / "secret_agent.py"), str(settings), "guests"),
            stdout=out,
            stderr=out,
        )
    try:
        yield log
    except BaseException:
        print(log.read_text()[-6000:])
        raise
    finally:
        if process.returncode is not None:
            raise AssertionError(f"the agent ended with {process.returncode}: {log.read_text()[-3000:]}")
        process.terminate()
        try:
            async with asyncio.timeout(WITHIN_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def ready(rig: Rig) -> NodeAlive:
    """The node, once it is."""
    async with asyncio.timeout(WITHIN_S):
        key, after = rig.keys.node_alive("n1"), 0
        entry = await rig.store.get(key)
        if entry is not None and decode(NodeAlive, entry.value).ready:
            return decode(NodeAlive, entry.value)
        after = entry.mod_revision if entry is not None else (await rig.store.list(key)).revision
        async for batch in rig.store.watch(key, after):
            for event in batch.events:
                if event.entry is not None and (alive := decode(NodeAlive, event.entry.value)).ready:
                    return alive
    raise AssertionError("unreachable")


async def put(program: Program, value: bytes, *more: str) -> Answer:
    process = await program.start("secret", "put", *more, stdin=asyncio.subprocess.PIPE)
    return await finish(process, value)


async def test_a_secret_appears_nowhere_on_its_way(
    program: Program, rig: Rig, cli_etcd: EtcdCluster, host: LibvirtHost, tmp_path: Path
) -> None:
    marker, ring = Marker(), ("--key-file", str(tmp_path / "secrets.key"))
    (tmp_path / "tiny.raw").write_bytes(TINY_GUEST.ljust(1 << 20, b"\0"))
    said: list[Answer] = []
    looked: list[Answer] = []

    async def run(*words: str) -> Answer:
        answer = await program(*words)
        said.append(answer)
        return answer

    async def must(*words: str) -> Answer:
        answer = await run(*words)
        assert answer.status == 0, (words, answer)
        return answer

    with arguments_watched(marker) as shown:
        await must("cluster", "storage", "init", "--reason", "a test")
        await must("secret", "key", "create", *ring)
        said.append(await put(program, marker.text, "guests", *ring))
        await must("image", "import", "tiny", str(tmp_path / "tiny.raw"))
        async with an_agent(rig, cli_etcd, host, tmp_path) as log:
            alive = await ready(rig)
            assert alive.warnings == () and len(alive.secret_keys) == 1
            listed = host.inside("virsh", "secret-list").stdout
            assert LIBVIRT_SECRET in listed, "the agent gave libvirt the guests' key"
            create = ("vm", "create", "hello", "--image", "tiny", "--memory", "32MiB", "--network", "none")
            await must(*create, "--timeout", "40")
            await must("secret", "key", "create", *ring)
            await must("secret", "rotate", "--force", *ring)
            for words in (
                ("secret", "list"), ("secret", "show", "guests"), ("events",), ("node", "show", "n1"),
                ("vm", "show", "hello"), ("vm", "explain", "hello"), ("vm", "history", "hello"), ("status",),
                ("config", "show"), ("secret", "key", "list", *ring),
            ):  # fmt: skip
                await must(*words, "-o", "json")
            await must("secret", "show", "guests")
            looked.append(await program("doctor", "-o", "json"))
            # Errors: too long, and a foreign keyring.
            said.append(await put(program, marker.text * 2000, "guests", *ring))
            other = ("--key-file", str(tmp_path / "other.key"))
            await must("secret", "key", "create", *other)
            await run("secret", "rotate", "--force", *other)
            entry = await rig.store.get(rig.keys.secret("guests"))
            status = await rig.store.get(rig.keys.vm_status(HELLO))
            assert entry is not None and status is not None
            domain = host.inside("virsh", "dumpxml", "--security-info", decode(VmStatus, status.value).uuid)
            assert domain.returncode == 0 and "<domain" in domain.stdout
            snapshot = tmp_path / "snapshot.db"
            words = ("etcdctl", f"--endpoints={cli_etcd.endpoints[0]}", "snapshot", "save", str(snapshot))
            save = await asyncio.create_subprocess_exec(*words, env={**os.environ, "ETCDCTL_API": "3"})
            assert await save.wait() == 0 and snapshot.stat().st_size
            await must("vm", "delete", "hello", "--yes", "--timeout", "60")
        assert log.stat().st_size
    assert [answer.status for answer in said if answer.status] == [2, 1], [a.err for a in said if a.status]
    assert shown == []
    assert [answer for answer in (*said, *looked) if marker.is_in((answer.out + answer.err).encode())] == []
    assert not marker.is_in((domain.stdout + listed).encode())
    etcd = cli_etcd.members[0].directory
    assert any(etcd.rglob("*.wal"))
    assert marker.below(tmp_path, host.folder, etcd) == []
    (tmp_path / "control").write_bytes(b"xx" + base64.b64encode(b"x" + marker.text))
    assert marker.below(tmp_path) == [str(tmp_path / "control")], "the search finds what is there"
