"""The store port: on etcd, and in memory.

Owns: requests to etcd, its watch, and its errors as those of the port. Refuses: knowing records.
Start reading at ``etcd/store.py``.
"""

import os

# gRPC reads its environment when any module of this package imports it first.
# Its C core writes failed handshakes to stderr by itself; our errors say the same to the caller.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Children are made by spawn or exec only. Its fork handlers would run in a child between fork and exec, and
# were seen to abort it there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
