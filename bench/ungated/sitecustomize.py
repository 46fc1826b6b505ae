"""Loaded by the interpreter of a measured agent (PYTHONPATH): VMs named ``*-free`` start unasked.

Nothing in the shipped code can be told to do so. Both kinds start on the same agents in the same minutes, so
whatever else makes a start slow does so for both.
"""

from __future__ import annotations

import json
import os
import time

from metastack.agent.reconcile.boot_gate import BootGate
from metastack.agent.reconcile.vm_memory import VmMemory
from metastack.core.model import VmSpec

asked = BootGate.passes


async def passes(self: BootGate, spec: VmSpec, memory: VmMemory, *, resuming: bool = False) -> bool:
    began_s = time.monotonic()
    if spec.name.endswith("-free"):
        memory.gate.passed()
        passed = True
    else:
        passed = await asked(self, spec, memory, resuming=resuming)
    took_s = time.monotonic() - began_s
    line = json.dumps({"vm": spec.name, "at_s": began_s, "took_s": took_s, "passed": passed})
    with open(os.environ["BENCH_GATE_LOG"], "a") as file:  # noqa: ASYNC230 - 50 µs, of both kinds
        file.write(line + "\n")
    return passed


BootGate.passes = passes  # type: ignore[method-assign]
