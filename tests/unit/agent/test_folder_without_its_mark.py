"""A file cluster whose folder lost its mark: nodes that run go on, one that starts is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metastack.agent.belonging import Belonging
from metastack.agent.identity import Misconfigured
from metastack.core.keys import Keys
from metastack.core.model import StorageIdentity, StoragePlace
from metastack.core.world import Seen


class Folder:
    def __init__(self, place: StoragePlace) -> None:
        self.place = place

    async def identity(self) -> StoragePlace:
        return self.place

    async def owner(self) -> None:
        return None


def belonging(here: StoragePlace) -> Belonging:
    agreed = StorageIdentity(kind="file", fsid="the-mark", cluster_id="c")
    world = SimpleNamespace(storage_identity=lambda: Seen(agreed, 1, 1), storage_here=None)
    mirror: Any = SimpleNamespace(world=world)
    storage: Any = Folder(here)
    return Belonging("n1", Keys(), storage, mirror)


async def test_a_node_that_runs_goes_on_and_one_that_starts_does_not() -> None:
    unmarked = belonging(StoragePlace(kind="file"))
    await unmarked.check(running=True)
    with pytest.raises(Misconfigured):
        await unmarked.check()


async def test_another_folder_is_refused_to_a_node_that_runs() -> None:
    with pytest.raises(Misconfigured):
        await belonging(StoragePlace(kind="file", fsid="another")).check(running=True)
