"""Another machine under this node's name: a clone, the one that was cloned, or this one before a reboot.

Owns: waiting until no such machine can hold this node's place. Refuses: telling a reboot from a clone: nothing
on a disk does, since a copied disk has it all (node-uuid, machine-id, keys). Rule: an alive key of another boot
is never revoked. It ends by itself, or somebody renews it, and that is another machine.

# Safety: guests of another boot are dead only if that was this machine. If it was another one, which hangs, its
guests write on. So the claims of that boot are left for others to fence before this machine adopts them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import structlog

from ...core.model import NodeAlive
from ...core.state.cluster_state import Seen
from ...ports import Broken, Refused, Store
from ..cache.informer import Informer

log = structlog.get_logger()

WAIT_AGAIN_S: Final = 0.5
REFUSED_AGAIN_S: Final = 5.0
GAP_S: Final = 3.0
"""An agent that restarts, or lost its lease, is back within this: its key's absence says nothing before."""
LET_FENCE_S: Final = 10.0
"""So long the others have to fence the boot before this one, when there are any."""
LET_RETURN_S: Final = 30.0
"""A machine that was seen alive has this long to come back."""


class NameTaken(Refused):
    """Another boot holds this node's place; ``again_s``: when to look again."""

    def __init__(self, why: str, again_s: float) -> None:
        super().__init__(why)
        self.again_s = again_s


def read_boot_id(path: str) -> str:
    """The number of this machine's boot; raises Broken when there is none to read."""
    try:
        found = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Broken(f"boot_id_file: {path} cannot be read: {error}") from None
    if not found:
        raise Broken(f"boot_id_file: {path} is empty: write one line there at each boot of this host")
    return found


class OtherBoot:
    """What this process saw of the other boots of its node; without a boot id of its own it sees none."""

    def __init__(self, name: str, store: Store, informer: Informer, boot_id: str) -> None:
        self._name, self._store, self._informer = name, store, informer
        self.boot_id = boot_id
        self._looked: tuple[int, int] = (0, 0)
        """Lease and revision of the key that was looked at last."""
        self._ends_s = 0.0
        """Loop time before which that lease ends, if nobody renews it."""
        self._other_machine = ""
        """What is known of a machine that was seen alive under this name; empty: none was."""
        self._absent_from_s: float | None = None

    def mine(self, alive: Seen[NodeAlive]) -> bool:
        """That alive key is of this very boot, so of an agent that is dead: only one runs on a machine."""
        if not self.boot_id:
            return True
        # Without one: written by an older version.
        return alive.record is not None and alive.record.boot_id in ("", self.boot_id)

    @property
    def rebooted(self) -> bool:
        """The last session of this name was of another boot."""
        return self._last_boot not in ("", self.boot_id) and bool(self.boot_id)

    @property
    def same_boot(self) -> bool:
        """The last session of this name was of this very boot, so its settings are no copy."""
        return not self.boot_id or self._last_boot == self.boot_id

    @property
    def _last_boot(self) -> str:
        facts = self._informer.world.facts(self._name)
        return facts.record.boot_id if facts is not None and facts.record is not None else ""

    def observe(self) -> None:
        """Note since when the place is free; called with every new listing on the way to a session."""
        if self._informer.world.alive(self._name) is not None:
            self._absent_from_s = None
        elif self._absent_from_s is None:
            self._absent_from_s = asyncio.get_running_loop().time()

    async def refuse(self) -> None:
        """Raise Taken while another boot holds this node's place, or may come back to it.

        By the listing that was made just now; what registers behind it is met by the registration's own guard.
        """
        if not self.boot_id:
            return
        alive, now_s = self._informer.world.alive(self._name), asyncio.get_running_loop().time()
        if alive is None:
            self._refuse_soon(now_s - (now_s if self._absent_from_s is None else self._absent_from_s))
        elif not self.mine(alive):
            await self._refuse_alive(alive)

    async def _refuse_alive(self, alive: Seen[NodeAlive]) -> None:
        loop, record = asyncio.get_running_loop(), alive.record
        asked_s = loop.time()
        left_s = await self._store.left_s(alive.lease) if alive.lease else 0.0
        looked, before = (alive.lease, alive.mod), self._looked
        # Whole seconds, rounded down: it ends after the first and before the second. 0 may be long over.
        earliest_s, latest_s = asked_s + left_s, loop.time() + left_s + 1.0
        renewed = looked != before or (left_s > 0 and earliest_s > self._ends_s)
        if before[0] and renewed:
            where = f" at {record.address}" if record is not None and record.address else ""
            boot = f" (boot {record.boot_id})" if record is not None and record.boot_id else ""
            if not self._other_machine:
                log.error("node_name_taken", node=self._name, boot=boot.strip(" ()"), address=where[4:])
            self._other_machine = f"another machine{where}{boot} runs an agent under the name {self._name}"
        if renewed:
            self._looked, self._ends_s = looked, latest_s
        if self._other_machine:
            raise NameTaken(self._what_to_do(), REFUSED_AGAIN_S)
        raise NameTaken(
            f"the session of {self._name} is of another boot, or of another machine: waiting for its end",
            WAIT_AGAIN_S,
        )

    def _refuse_soon(self, absent_s: float) -> None:
        if self._other_machine:
            if absent_s < LET_RETURN_S:
                raise NameTaken(self._what_to_do(), REFUSED_AGAIN_S)
            self._other_machine, self._looked = "", (0, 0)
        world = self._informer.world
        if not self.rebooted or not world.unfenced(self._name):
            return
        left = world.host_return(self._name)
        record = left.record if left is not None else None
        if record is not None and record.boot_id == self._last_boot and not record.running:
            return  # that boot ended in order, and none of its guests ran any more
        if absent_s < (LET_FENCE_S if self._others_fence() else GAP_S):
            # Safety: this may be a clone of a machine that hangs, whose guests write on.
            raise NameTaken(
                f"VMs of {self._name} were claimed in another boot: the others have time to fence it first",
                WAIT_AGAIN_S,
            )

    def _others_fence(self) -> bool:
        """Whether any other node could fence this one, as far as they say."""
        world = self._informer.world
        found = [world.alive(node) for node in world.nodes() if node != self._name]
        return any(
            alive.record.ready and not alive.record.brake and self._name not in alive.record.fence_failures
            for alive in found
            if alive is not None and alive.record is not None
        )

    def _what_to_do(self) -> str:
        return (
            f"{self._other_machine}: this one stays out and touches nothing of it. "
            "If this machine is a copy: "
            "stop this agent, set another name and storage_addresses, empty its state_dir"
        )
