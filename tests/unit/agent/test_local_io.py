"""This host's own disk: full, read-only or failing, it ends no agent."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest
from agent_rig import IMAGE, KEYS, Lab, lab_of, vm

from metastack.agent.session.state_files import StateFiles
from metastack.core.model import Image, ImageState, NodeAlive, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run
from metastack.ports import BadState, LocalTrouble, NodeFault, Unavailable, local_io


async def with_image(lab: Lab) -> None:
    image = Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512)
    await lab.put(KEYS.image("debian"), encode(image))


def failing(state_files: StateFiles, number: int) -> None:
    """From now on that disk takes no write."""

    def write(name: str, text: str) -> None:
        with local_io(f"writing {name}"):
            raise OSError(number, os.strerror(number))

    state_files._write = write  # type: ignore[method-assign]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_an_unwritable_mark_is_a_local_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    state_files = StateFiles(tmp_path)
    state_files.keep_etcd("before")

    def refuse(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(LocalTrouble, match=r"etcd-seen\.json") as caught:
        state_files.keep_etcd("after")
    assert isinstance(caught.value, Unavailable), "it is tried again"
    assert isinstance(caught.value, NodeFault)
    assert state_files.etcd() == "before"
    state_files.end_unblock()  # there is nothing to remove, so nothing to write


def test_an_unmakable_state_dir_is_no_second_agent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalTrouble, match=r"agent\.lock"):
        StateFiles(tmp_path / "file" / "state").lock()


def test_an_agent_survives_a_full_disk(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            assert host.agent is not None
            await lab.want("a")
            await lab.until("it runs", lambda: lab.where("a") == "n1")
            failing(host.agent.state_files, errno.ENOSPC)

            def warned() -> bool:
                alive = lab.entry(KEYS.node_alive("n1"))
                assert alive is not None
                return any("state_dir" in text for text in decode(NodeAlive, alive).warnings)

            await lab.until("it warns", warned, within_s=200)
            assert host.agent.node.session.ready
            await host.stop()  # raises what ended it
            assert host.running() == ["default/a"]

    run(play())


def test_what_cannot_be_looked_at_ends_no_agent(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            assert host.agent is not None

            def pending() -> bool:
                raise LocalTrouble("looking for unblock-pending: Input/output error")

            host.agent.state_files.unblock_pending = pending  # type: ignore[method-assign]
            await lab.want("a")
            await lab.until("it runs", lambda: lab.where("a") == "n1")
            await asyncio.sleep(10)
            assert host.agent.node.session.ready

    run(play())


def test_a_bad_disk_fails_its_vm_and_no_agent(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await with_image(lab)
            bad = "its snapshot is not protected"
            lab.pool.fail = lambda what, _address: BadState(bad) if what == "create_disk" else None
            await lab.want("a")

            def failed() -> bool:
                entry = lab.entry(KEYS.vm_status(vm("a")))
                status = decode(VmStatus, entry) if entry is not None else None
                return status is not None and status.phase == "failed" and bad in status.message

            await lab.until("it has failed", failed)
            await asyncio.sleep(100)
            assert failed(), "it is the object's own: given back to nobody"
            lab.pool.fail = lambda _what, _address: None
            await lab.until("it runs", lambda: lab.where("a"), within_s=120)

    run(play())


def test_what_no_adapter_has_a_name_for_ends_no_agent(tmp_path: Path) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await with_image(lab)
            full = OSError(errno.EMFILE, "Too many open files")
            lab.hosts["n1"].hypervisor.fail = lambda what, _uuid: full if what == "domain" else None
            lab.pool.fail = lambda what, _address: full if what in ("purge_trash", "images") else None
            await lab.want("a")
            await asyncio.sleep(150)
            lab.hosts["n1"].hypervisor.fail = lambda _what, _uuid: None
            lab.pool.fail = lambda _what, _address: None
            await lab.until("it runs", lambda: lab.where("a") == "n1")

    run(play())
