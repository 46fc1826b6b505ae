"""A client that asks a monitor for one command and tells when it is on its way; its caller kills it.

Arguments: monitor, user, keyring, address to unblock. Speaks rados itself: the question is what Ceph does.
"""

from __future__ import annotations

import configparser
import json
import sys
import threading

import rados


def main() -> None:
    monitor, user, keyring, address = sys.argv[1:5]
    parser = configparser.RawConfigParser(strict=False)
    with open(keyring, encoding="utf-8") as file:
        parser.read_string("\n".join(line.strip() for line in file))
    client = rados.Rados(
        rados_id=user,
        conf={
            "mon_host": f"v1:{monitor}",
            "key": parser[f"client.{user}"]["key"].strip(),
            "keyring": "/dev/null",
            "client_mount_timeout": "20",
            "err_to_stderr": "false",
            "log_file": "",
        },
    )
    client.connect()
    print("connected", flush=True)
    sys.stdin.readline()
    command = {"prefix": "osd blocklist", "blocklistop": "rm", "addr": f"{address}:0/0"}

    def send() -> None:
        print("sending", flush=True)
        client.mon_command(json.dumps(command), b"")
        print("answered", flush=True)

    threading.Thread(target=send, daemon=True).start()
    sys.stdin.readline()


main()
