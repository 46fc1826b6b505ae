"""A cephx key that is rotated under an open adapter: read again, on a connection of its own."""

from __future__ import annotations

import base64
import os
import struct
import time
from pathlib import Path

import msgspec
import pytest
from storage_rig import MIB, new_uuid, raw_image

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Denied, NodeFault
from metastack.storage.ceph.storage import CephStorage
from metastack.storage.choose import build


def new_key() -> str:
    """As ``ceph-authtool --gen-print-key`` makes one: type, time, length, sixteen random bytes."""
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


def with_key(text: str, key: str) -> str:
    """A key file's text with another key."""
    before = next(line.split("=", 1)[1].strip() for line in text.splitlines() if "key =" in line)
    return text.replace(before, key)


async def rotate(ceph: MiniCeph, user: str) -> str:
    """Give a user another key in Ceph; the text of its key file, which nobody has written yet."""
    text = with_key((await ceph.ceph("auth", "get", f"client.{user}")).decode(), new_key())
    await ceph.ceph("auth", "rm", f"client.{user}")
    await ceph.ceph("auth", "import", "-i", "-", stdin=text.encode())
    return text


@pytest.mark.ceph
async def test_a_rotated_key_is_used_without_a_restart(ceph: MiniCeph, tmp_path: Path) -> None:
    await ceph.create_management_user("rotated")
    file = tmp_path / "keyring"
    file.write_bytes(ceph.keyring("rotated").read_bytes())
    settings = msgspec.structs.replace(ceph.settings("rotated"), keyring=str(file))
    storage = build(settings)
    assert isinstance(storage, CephStorage)
    await storage.open()
    try:
        assert not await storage.read_keys_again(), "nothing changed"
        old_secret, old_client = storage.libvirt_secret(), await storage.own_client()
        text = await rotate(ceph, "rotated")
        assert not await storage.read_keys_again(), "its file says what it said"
        with pytest.raises(Denied) as caught:
            await storage.own_address()  # a new client, as a QEMU would be
        assert isinstance(caught.value, NodeFault)

        file.write_text("half a file")
        with pytest.raises(Denied, match="no valid key"):
            await storage.read_keys_again()
        file.write_text(with_key(text, new_key()))
        with pytest.raises(Denied):
            await storage.read_keys_again()
        assert storage.libvirt_secret() == old_secret
        assert await storage.disks() is not None, "what was connected goes on"

        file.write_text(text)
        assert await storage.read_keys_again()
        assert not await storage.read_keys_again()
        assert storage.libvirt_secret().uuid == old_secret.uuid
        assert storage.libvirt_secret().key != old_secret.key
        assert await storage.own_client() != old_client
        assert await storage.own_address()
        image = new_uuid()
        raw_image(tmp_path / "a.raw")
        await storage.import_image(image, str(tmp_path / "a.raw"), None)
        await storage.create_disk(disk := new_uuid(), image, 64 * MIB)
        await storage.delete_disk(disk, 0)
    finally:
        await storage.close()


@pytest.mark.ceph
async def test_a_refused_call_is_retried_with_the_new_key(ceph: MiniCeph, tmp_path: Path) -> None:
    await ceph.create_management_user("rotated2")
    file = tmp_path / "keyring"
    file.write_bytes(ceph.keyring("rotated2").read_bytes())
    storage = build(msgspec.structs.replace(ceph.settings("rotated2"), keyring=str(file)))
    assert isinstance(storage, CephStorage)
    await storage.open()
    try:
        refused = 0
        text = await rotate(ceph, "rotated2")
        file.write_text(text)
        old = storage._opened()

        def call(handle: object) -> str:
            nonlocal refused
            if handle is old:
                refused += 1
                raise Denied("as a connection whose ticket has ended")
            return "done"

        assert await storage._on(storage._data, "something", call) == "done"
        assert refused == 1
    finally:
        await storage.close()


@pytest.mark.ceph
async def test_guests_key_of_a_secret_needs_no_file(ceph: MiniCeph) -> None:
    await ceph.create_management_user("secretive")
    settings = msgspec.structs.replace(
        ceph.settings("secretive"), guest_user="secretive-guests", guest_secret="guests"
    )
    storage = build(settings)
    assert isinstance(storage, CephStorage)
    await storage.open()
    try:
        needed = storage.libvirt_secret()
        assert (needed.key, "client.secretive-guests" in needed.name) == (b"", True)
        assert not await storage.read_keys_again()
    finally:
        await storage.close()
