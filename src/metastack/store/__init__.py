"""The store: etcd, and its in-memory twin.

gRPC reads its environment when it is first imported, by whichever module of this package that may be.
"""

import os

# Its C core writes failed handshakes to stderr by itself; our errors say the same, to whoever asked.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# Children are made by spawn or exec only. Its fork handlers would run in a child between fork and exec, and
# were seen to abort it there.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
