"""The operator: what a person writes into the desired state, at any moment.

Owns: specs of the lab's VMs and their UUIDs (a VM made anew under its name is another VM with another disk).
Refuses: waiting for anything; a wish is one write, whatever state the cluster is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..core.codec import decode
from ..core.model import Claim, Nic, NodeSpec, Placement, Power, VmId, VmSpec, resolved_claim
from ..core.world import seen

if TYPE_CHECKING:
    from .lab import Lab

IMAGE = "11111111-0000-4000-8000-000000000000"


class Operator:
    """Writes specs; remembers which VMs ever were."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._numbers: dict[str, int] = {}
        self._lives: dict[str, int] = {}

    def spec(self, name: str) -> VmSpec | None:
        """The spec as it is now."""
        entry = self._lab.cluster.get(self._lab.keys.vm_spec(VmId("default", name)))
        return decode(VmSpec, entry.value) if entry is not None else None

    def _put(self, spec: VmSpec) -> bool:
        self._lab.put(self._lab.keys.vm_spec(spec.id), spec)
        return True

    def want(self, name: str, *more: str) -> bool:
        """Create a VM that runs (``off``: that does not); ``node=n2`` pins it."""
        if self.spec(name) is not None:
            return False
        number = self._numbers.setdefault(name, len(self._numbers) + 1)
        life = self._lives[name] = self._lives.get(name, 0) + 1
        pin = next((word[5:] for word in more if word.startswith("node=")), "")
        return self._put(
            VmSpec(
                project="default",
                name=name,
                uuid=f"{number:08d}-{life:04d}-4000-8000-00000000000a",
                image="debian",
                image_uuid=IMAGE,
                volume_uuid=f"{number:08d}-{life:04d}-4000-8000-00000000000b",
                cpus=1,
                memory_mib=512,
                disk_bytes=1 << 20,
                power=Power.OFF if "off" in more else Power.ON,
                nics=(Nic(bridge="br0", mac=f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"),),
                placement=Placement(node=pin),
            )
        )

    def delete(self, name: str) -> bool:
        spec = self.spec(name)
        if spec is None:
            return False
        self._lab.delete(self._lab.keys.vm_spec(spec.id))
        return True

    def recreate(self, name: str) -> bool:
        """Delete, and at once make another VM of the same name."""
        return self.delete(name) and self.want(name)

    def off(self, name: str, force: bool = False) -> bool:
        spec = self.spec(name)
        if spec is None or spec.power is Power.OFF:
            return False
        return self._put(replace(spec, power=Power.OFF, force=force, paused_epoch=0))

    def on(self, name: str) -> bool:
        """Switch on; also a guest that switched itself off."""
        spec = self.spec(name)
        return spec is not None and self._put(
            replace(spec, power=Power.ON, run=spec.run + 1, force=False, paused_epoch=0)
        )

    def restart(self, name: str, force: bool = False) -> bool:
        spec = self.spec(name)
        return spec is not None and self._put(
            replace(spec, power=Power.ON, run=spec.run + 1, force=force, paused_epoch=0)
        )

    def pause(self, name: str) -> bool:
        spec = self.spec(name)
        entry = self._lab.cluster.get(self._lab.keys.claim(VmId("default", name)))
        claim = seen(Claim, entry).record if entry is not None else None
        if spec is None or claim is None or entry is None or spec.power is Power.OFF:
            return False
        if claim.uuid != spec.uuid:
            return False
        return self._put(replace(spec, paused_epoch=resolved_claim(claim, entry.mod_revision).epoch))

    def resume(self, name: str) -> bool:
        spec = self.spec(name)
        if spec is None or not spec.paused_epoch:
            return False
        return self._put(replace(spec, paused_epoch=0))

    def pin(self, name: str, node: str) -> bool:
        """Pin a VM to a node (``-``: to none): for its next claim."""
        spec = self.spec(name)
        if spec is None:
            return False
        return self._put(replace(spec, placement=Placement(node="" if node == "-" else node)))

    def cordon(self, node: str, cordoned: bool = True) -> bool:
        self._lab.put(self._lab.keys.node_spec(node), NodeSpec(cordoned=cordoned))
        return True

    def uncordon_all(self) -> None:
        for node in self._lab.hosts:
            if self._lab.cluster.get(self._lab.keys.node_spec(node)) is not None:
                self.cordon(node, False)
