"""A removal that takes an hour keeps no session waiting."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid

import pytest

from metastack.settings import StorageSettings


async def test_quiesce_does_not_wait_for_the_trash(monkeypatch: pytest.MonkeyPatch) -> None:
    from metastack.storage.ceph import trash as ceph_trash
    from metastack.storage.ceph.storage import CephStorage

    began, end = threading.Event(), threading.Event()

    class Connected:
        use = staticmethod(contextlib.nullcontext)

    def purge(*_args: object) -> bool:
        began.set()
        end.wait(30)
        return True

    monkeypatch.setattr(ceph_trash, "purge", purge)
    storage = CephStorage(StorageSettings(kind="ceph"))
    storage._handle = Connected()  # type: ignore[assignment]
    purging = asyncio.ensure_future(storage.purge_disk(str(uuid.uuid4()), "id"))
    try:
        assert await asyncio.to_thread(began.wait, 10)
        async with asyncio.timeout(5):
            await storage.quiesce()
        assert not purging.done()
    finally:
        end.set()
        assert await purging
