"""A whole agent on files, etcd and libvirt, whose guests' cephx key is a secret: FILE of settings, SECRET.

Only Ceph is missing: the storage says which libvirt secret its guests would need, and no key.
"""

from __future__ import annotations

import sys
from pathlib import Path

from msgspec.structs import replace

from metastack.agent import main
from metastack.agent.settings import load
from metastack.ports import CephSecret
from metastack.storage.files.storage import FileStorage

LIBVIRT_SECRET = "5ec4e700-0000-4000-8000-000000000001"


def _needed(storage: FileStorage) -> CephSecret:
    return CephSecret(uuid=LIBVIRT_SECRET, name="client.guests of a test", key=b"")


if __name__ == "__main__":
    FileStorage.libvirt_secret = _needed  # type: ignore[method-assign,assignment]
    settings = load(Path(sys.argv[1]), {})
    sys.exit(main.run(replace(settings, storage=replace(settings.storage, guest_secret=sys.argv[2]))))
