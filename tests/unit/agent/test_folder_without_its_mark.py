"""A file cluster whose folder lost its mark: nodes that run go on, one that starts is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from metastack.agent.session.identity import Misconfigured
from metastack.agent.session.storage_ownership import StorageOwnership
from metastack.core.model import StorageIdentity, StoragePlace
from metastack.core.state.cluster_state import Seen
from metastack.core.state.keys import Keys


class Folder:
    def __init__(self, place: StoragePlace) -> None:
        self.place = place

    async def identity(self) -> StoragePlace:
        return self.place

    async def owner(self) -> None:
        return None


def belonging(here: StoragePlace) -> StorageOwnership:
    agreed = StorageIdentity(kind="file", fsid="the-mark", cluster_id="c")
    world = SimpleNamespace(storage_identity=lambda: Seen(agreed, 1, 1), storage_here=None)
    informer: Any = SimpleNamespace(world=world)
    storage: Any = Folder(here)
    return StorageOwnership("n1", Keys(), storage, informer)


async def test_only_a_starting_node_needs_the_mark() -> None:
    unmarked = belonging(StoragePlace(kind="file"))
    await unmarked.check(running=True)
    with pytest.raises(Misconfigured):
        await unmarked.check()


async def test_another_folder_is_refused_to_a_node_that_runs() -> None:
    with pytest.raises(Misconfigured):
        await belonging(StoragePlace(kind="file", fsid="another")).check(running=True)
