"""A storage client as a process of its own: reads calls as JSON lines, answers with what they gave or raised.

Run inside a network namespace, it is another node to Ceph: its address is the namespace's.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import msgspec
import structlog

from metastack.ports import Refused, Unavailable
from metastack.settings import StorageSettings
from metastack.storage.ceph.errors import mapped
from metastack.storage.ceph.storage import CephStorage


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    storage = CephStorage(msgspec.json.decode(sys.argv[1], type=StorageSettings))
    for line in iter(sys.stdin.readline, ""):
        name, args = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if name == "write":  # through the handle that is open now
                handle = storage._opened()
                with handle.use(), mapped("writing"):
                    handle.ioctx.write_full("rbd_data.probe", args[0].encode())
            else:
                args = [tuple(a) if isinstance(a, list) else a for a in args]
                answer["value"] = msgspec.to_builtins(await getattr(storage, name)(*args))
        except (Refused, Unavailable) as error:
            answer = {"raised": type(error).__name__, "said": str(error)}
        print(json.dumps(answer), flush=True)
    await storage.close()


asyncio.run(main())
