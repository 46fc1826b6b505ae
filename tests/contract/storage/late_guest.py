"""A guest's client that connects to Ceph, waits for a line, and only then opens its disk and writes.

Arguments: monitor, user, key, pool, image. Prints ``connected ADDRESS``, then for each line it reads
``wrote`` or what was raised. Its write goes through a new image handle each time.
"""

from __future__ import annotations

import sys

import rados
import rbd

monitor, user, key, pool, name = sys.argv[1:]
client = rados.Rados(
    rados_id=user,
    conf={
        "mon_host": f"v1:{monitor}",
        "key": key,
        "keyring": "/dev/null",
        "client_mount_timeout": "10",
        "rados_osd_op_timeout": "10",
        "log_to_stderr": "false",
        "err_to_stderr": "false",
    },
)
client.connect()
print("connected", client.get_addrs(), flush=True)
for _ in sys.stdin:
    try:
        with client.open_ioctx(pool) as ioctx, rbd.Image(ioctx, name) as image:
            image.write(b"late", 4096)
        print("wrote", flush=True)
    except (rados.Error, rbd.Error) as error:
        print(type(error).__name__, flush=True)
