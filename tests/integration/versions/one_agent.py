"""One agent on in-memory twins and a real etcd, of whichever source tree: TREE NAME NUMBER ENDPOINT FOLDER.

A program of its own, so that the agent of an older release and today's can run side by side. It uses that
tree's own rig (tests/unit/agent/agent_rig.py), so each release is joined as its own tests join it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

TREE, NAME, NUMBER, ENDPOINT, FOLDER = sys.argv[1:6]
sys.path[:0] = [f"{TREE}/src", f"{TREE}/tests/unit/agent"]

import agent_rig  # noqa: E402

from metastack.ports import DiskInfo  # noqa: E402
from metastack.settings import StoreSettings  # noqa: E402

try:
    from metastack.store.etcd.store import EtcdStore
except ImportError:  # the release before its modules moved
    from metastack.store.etcd import EtcdStore


class SharedDisks(dict[str, DiskInfo]):
    """The pool's disks as all these processes have them: a file each, in one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def _look(self) -> None:
        there = {path.name for path in self._folder.iterdir() if not path.name.startswith(".")}
        for uuid in there:
            super().__setitem__(uuid, msgspec.json.decode((self._folder / uuid).read_bytes(), type=DiskInfo))
        for uuid in set(super().keys()) - there:
            super().pop(uuid)

    def __setitem__(self, uuid: str, info: DiskInfo) -> None:
        fresh = self._folder / f".{uuid}-{NAME}"
        fresh.write_bytes(msgspec.json.encode(info))
        fresh.replace(self._folder / uuid)
        super().__setitem__(uuid, info)

    def __contains__(self, uuid: object) -> bool:
        self._look()
        return super().__contains__(uuid)

    def __getitem__(self, uuid: str) -> DiskInfo:
        self._look()
        return super().__getitem__(uuid)

    def get(self, uuid: str, *more: Any) -> Any:
        self._look()
        return super().get(uuid, *more)

    def pop(self, uuid: str, *more: Any) -> Any:
        self._look()
        (self._folder / uuid).unlink(missing_ok=True)
        return super().pop(uuid, *more)

    def __delitem__(self, uuid: str) -> None:
        self.pop(uuid)

    def __iter__(self) -> Iterator[str]:
        self._look()
        return super().__iter__()

    def values(self) -> Any:
        self._look()
        return super().values()

    def items(self) -> Any:
        self._look()
        return super().items()


agent_rig.MemoryStore = lambda cluster: EtcdStore(StoreSettings(endpoints=(ENDPOINT,)))


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    lab = agent_rig.Lab(Path(FOLDER), 0, True)
    lab.pool.disks = SharedDisks(Path(FOLDER).parent / "disks")
    async with asyncio.TaskGroup() as group:
        lab.group = group
        host = lab.hosts[NAME] = agent_rig.Host(lab, NAME, int(NUMBER))
        host.start()
        await stop.wait()
        await host.stop()


asyncio.run(main())
