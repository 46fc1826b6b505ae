"""A host of the lab made into a whole cluster of one node, by the steps of docs/guide/install.md.

Owns: the bundle, the small Ceph on the host, its users, the settings and the context of root.
Rule: a step that fails raises HostError with its output.
"""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

from hosts import BASE, Host

from metastack.lab.dev import guest

HERE = Path(__file__).parent
CHECKOUT = HERE.parents[1]

_BRIDGE = """\
cat >/etc/systemd/system/guests-bridge.service <<T
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip link add br0 type bridge
ExecStart=ip link set br0 up
[Install]
WantedBy=multi-user.target
T
systemctl enable -q --now guests-bridge
"""

_NODE = """\
name=$1 address=$2
ceph auth get-or-create client.metastack-$name \
  mon "profile rbd, allow command \\"osd blocklist\\" with blocklistop=rm addr=\\"$address:0/0\\"" \
  osd 'profile rbd pool=vms' mgr 'profile rbd pool=vms' -o /etc/metastack/ceph.keyring
ceph auth get-or-create client.metastack-cli \
  mon 'profile rbd' osd 'profile rbd pool=vms' mgr 'profile rbd pool=vms' -o /etc/metastack/cli.keyring
chmod 600 /etc/metastack/*.keyring
cat >/etc/metastack/agent.toml <<T
name = "$name"
endpoints = ["http://127.0.0.1:2379"]
address = "$address"
storage_addresses = ["$address"]
[storage]
kind = "ceph"
pool = "vms"
monitors = ["$address:6789"]
user = "metastack-$name"
keyring = "/etc/metastack/ceph.keyring"
T
mkdir -p /root/.config/metastack
cat >/root/.config/metastack/config.toml <<T
current = "prod"
[contexts.prod.store]
endpoints = ["http://127.0.0.1:2379"]
[contexts.prod.storage]
kind = "ceph"
pool = "vms"
monitors = ["$address:6789"]
user = "metastack-cli"
keyring = "/etc/metastack/cli.keyring"
T
chmod 600 /root/.config/metastack/config.toml
export METASTACK_TRACEBACK=1
metastack config set default_network=br0 --reason "new cluster"
metastack cluster storage init
systemctl enable -q --now metastack-agent
"""


def bundle(base: Path = BASE) -> Path:
    """The bundle of this checkout, made by ``deploy/wheelhouse`` (a minute, or seconds from pip's cache)."""
    folder = base / "bundles"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(
            [str(CHECKOUT / "deploy/wheelhouse"), "-o", str(folder)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(done.stdout.splitlines()[-1])


def install(host: Host) -> str:
    """Unpack and install the bundle, as by hand; what install-node printed."""
    host.put(bundle(), "/root/bundle.tar")
    return host.run("cd /root && rm -rf metastack-*/ && tar -xf bundle.tar && metastack-*/install-node")


def mini_ceph(host: Host) -> None:
    """One monitor and one OSD on the host, under Debian's units, with the pool `vms`."""
    host.put(HERE / "mini_ceph.sh", "/root/mini_ceph.sh")
    host.run(f"sh /root/mini_ceph.sh {host.address}")


def whole(host: Host) -> None:
    """Everything on one host, with the agent ready; the host is of the kind `full`."""
    mini_ceph(host)
    install(host)
    host.run(_BRIDGE)
    host.run(f"set -- {host.name} {host.address}\n{_NODE}")


def put_guest(host: Host, base: Path = BASE) -> None:
    """Import the guest that boots in three seconds as the image `guest`."""
    cache = base / "guest"
    cache.mkdir(parents=True, exist_ok=True)
    host.put(guest.image(cache), "/root/guest.img")
    host.run("metastack image import guest /root/guest.img")
