"""Calls that are refused for a rotated key: each is repeated on the handle that has the new one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from metastack.ports import Denied
from metastack.settings import StorageSettings


async def test_every_call_that_was_refused_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    from metastack.storage.ceph import storage as ceph

    file, taken = ["old"], ["old"]
    made: list[Any] = []

    class Connected:
        def __init__(self, _settings: StorageSettings) -> None:
            self.key = self.guest_key = file[0]
            made.append(self)

        @contextmanager
        def use(self) -> Iterator[None]:
            yield

        def retire(self) -> None:
            pass

        def probe(self) -> str:
            if self.key != taken[0]:
                raise Denied("the key is refused")
            return self.key

    monkeypatch.setattr(ceph, "Handle", Connected)
    monkeypatch.setattr(ceph, "keys_of", lambda _settings: (file[0], file[0]))
    storage = ceph.CephStorage(StorageSettings(kind="ceph", timeout_s=5))
    await storage.open()
    try:
        taken[0] = "new"
        with pytest.raises(Denied):
            await storage.probe()  # its file says what it said
        assert len(made) == 1
        file[0] = "new"
        probe: Any = Connected.probe
        calls = (storage._on(storage._data, "probing", probe) for _ in range(8))
        assert await asyncio.gather(*calls) == ["new"] * 8
        assert len(made) == 2
    finally:
        await storage.close()
