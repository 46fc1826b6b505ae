"""What librbd does not find in the trash is gone only when the trash does not list it any more."""

from __future__ import annotations

from typing import Any

import pytest

from metastack.ports import Mark, Unavailable
from metastack.ports.ownership import Found

UUID, IDENT = "11111111-0000-4000-8000-000000000000", "abc"
MARK = Mark(cluster="c", kind="disk", record=UUID)


@pytest.mark.parametrize("still_there", [True, False])
@pytest.mark.parametrize("act", ["purge", "restore"])
def test_not_found_is_believed_when_the_trash_agrees(
    monkeypatch: pytest.MonkeyPatch, act: str, still_there: bool
) -> None:
    import rbd

    from metastack.storage.ceph import trash as ceph_trash

    listed = iter([True, still_there])
    handle: Any = type("Connected", (), {"ioctx": None})()

    class Rbd:
        def trash_remove(self, *_args: object) -> None:
            raise rbd.ImageNotFound("a part of it", 2)

        trash_restore = trash_remove

    found = Found(cluster="c", kind="disk", record=UUID, ident=IDENT)
    monkeypatch.setattr(ceph_trash, "_is_there", lambda *_args: next(listed))
    monkeypatch.setattr(ceph_trash, "_mark_of", lambda *_args: (found, IDENT))
    monkeypatch.setattr(rbd, "RBD", Rbd)

    def run() -> bool:
        if act == "purge":
            return ceph_trash.purge(handle, UUID, IDENT, MARK, False)
        return ceph_trash.restore(handle, UUID, IDENT, MARK)

    if still_there:
        with pytest.raises(Unavailable, match="still in the trash"):
            run()
    else:
        assert not run()
