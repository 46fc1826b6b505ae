"""The command line's cost: CPU time of the whole process, user and system, as the kernel counts it.

Baseline: the same interpreter doing nothing. Runs of both alternate, so that noise meets both.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.harness import TOP, Result, row, say
from metastack.core.model import (
    Claim,
    Nic,
    NodeAlive,
    NodeFacts,
    Phase,
    Resources,
    VmId,
    VmSpec,
    VmStatus,
    token,
)
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Committed, Put, Transaction
from metastack.lab.dev.etcd import EtcdCluster
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

RUNS = 40
VMS = 200
NODES = 3
LIST_LIMIT_MS = 300.0
HELP_LIMIT_MS = 150.0
PYTHON = str(TOP / ".venv" / "bin" / "python")
METASTACK = str(TOP / ".venv" / "bin" / "metastack")
SINCE = "2026-01-01T00:00:00Z"


def cpu_ms(argv: Sequence[str], environment: Mapping[str, str], output: Path) -> float:
    """Run a command to its end; the CPU time of the process, milliseconds."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    pid = os.posix_spawn(argv[0], list(argv), environment, file_actions=actions)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}")
    return (usage.ru_utime + usage.ru_stime) * 1000


async def fill(store: EtcdStore) -> None:
    """Three living nodes and 200 running VMs, as agents would have written them."""
    keys = Keys()
    for n in range(NODES):
        name = f"n{n + 1}"
        alive = NodeAlive(
            name=name,
            ready=True,
            since=SINCE,
            address=f"10.0.0.{n + 1}",
            capacity=Resources(cpus=32, memory_mib=262_144),
            vms=VMS // NODES,
            hypervisor="kvm",
            bridges=("br0",),
            storage="ceph",
        )
        facts = NodeFacts(name=name, uuid=str(uuid.uuid4()), storage_addresses=(f"10.1.0.{n + 1}",))
        await put(store, {keys.node_alive(name): encode(alive), keys.node_facts(name): encode(facts)})
    for n in range(VMS):
        vm, node, ident = VmId("default", f"vm-{n:04}"), f"n{n % NODES + 1}", str(uuid.uuid4())
        spec = VmSpec(
            project=vm.project,
            name=vm.name,
            uuid=ident,
            image="debian",
            image_uuid=str(uuid.uuid4()),
            volume_uuid=str(uuid.uuid4()),
            cpus=2,
            memory_mib=1024,
            disk_bytes=8 << 30,
            nics=(Nic(bridge="br0", mac=f"52:54:00:00:{n >> 8:02x}:{n & 255:02x}"),),
            labels={"tier": "web"},
            created=SINCE,
            by="bench@here",
            request_id=str(uuid.uuid4()),
        )
        claim = Claim(
            node=node,
            session=token(0, n % NODES + 2),
            uuid=ident,
            volume_uuid=spec.volume_uuid,
            claim_id="bench",
        )
        status = VmStatus(
            uuid=ident,
            phase=Phase.RUNNING,
            node=node,
            session=claim.session,
            epoch=0,
            run=1,
            ips=(f"10.2.{n >> 8}.{n & 255}",),
            since=SINCE,
        )
        await put(
            store,
            {keys.vm_spec(vm): encode(spec), keys.claim(vm): encode(claim), keys.vm_status(vm): encode(status)},
        )


async def put(store: EtcdStore, values: Mapping[str, bytes]) -> None:
    effects = tuple(Put(key, value) for key, value in values.items())
    outcome = await store.commit(Transaction(name="bench", guards=(), effects=effects))
    if not isinstance(outcome, Committed):
        raise RuntimeError(f"not written: {outcome}")


def run(runs: int | None = None) -> Result:
    """Measure; a fresh etcd of its own on loopback."""
    with tempfile.TemporaryDirectory(prefix="msb-") as folder:
        return asyncio.run(_run(Path(folder), runs or RUNS))


async def _run(folder: Path, runs: int) -> Result:
    etcd = EtcdCluster.local(folder)
    await etcd.start()
    try:
        store = EtcdStore(StoreSettings(endpoints=etcd.endpoints))
        try:
            await fill(store)
        finally:
            await store.close()
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(folder),
            "METASTACK_ENDPOINTS": ",".join(etcd.endpoints),
            "LC_ALL": "C.UTF-8",
        }
        return await asyncio.to_thread(measure, environment, folder / "out", runs)
    finally:
        await etcd.stop()


def measure(environment: Mapping[str, str], output: Path, runs: int) -> Result:
    """Alternate the commands and the baseline."""
    commands = {
        "cli vm list, 200 VMs": [METASTACK, "vm", "list"],
        "cli vm list -o json, 200 VMs": [METASTACK, "vm", "list", "-o", "json"],
        "cli --help": [METASTACK, "--help"],
        "cli vm create --help": [METASTACK, "vm", "create", "--help"],
    }
    baseline = [PYTHON, "-c", "pass"]
    for name, argv in commands.items():
        cpu_ms(argv, environment, output)  # compiles and warms what a first run would
        lines = output.read_text().count("vm-0")
        if "vm list" in name and lines < VMS:
            raise RuntimeError(f"{name}: {lines} of {VMS} VMs were printed")
    samples: dict[str, list[float]] = {name: [] for name in (*commands, "baseline")}
    for n in range(runs):
        for name, argv in commands.items():
            samples[name].append(cpu_ms(argv, environment, output))
        samples["baseline"].append(cpu_ms(baseline, environment, output))
        if n % 10 == 9:
            say(f"  {n + 1} of {runs}")
    # A verb's own help imports its noun: told, without a limit.
    limits = {name: LIST_LIMIT_MS for name in commands if " list" in name} | {"cli --help": HELP_LIMIT_MS}
    rows = [
        row(name, "ms CPU", samples[name], baseline=samples["baseline"], limit=limits.get(name))
        for name in commands
    ]
    told = {name: [word.replace(f"{TOP}/", "") for word in argv] for name, argv in commands.items()}
    return Result(
        rows=rows, raw={"samples_ms": samples, "baseline": ["python", *baseline[1:]], "commands": told}
    )
