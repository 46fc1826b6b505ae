"""What a VM that is wanted is like: the words after ``want NAME``.

Owns: the words. Refuses: writing anything.

    off             it does not run
    node=n2         pinned
    priority=10     goes before others
    after=vm1       starts after it
    port=5432       is up once that port answers (``answers NAME``)
    app=db          a label
    apart=zone      never in one zone (rack, node ...) with others of its app
    near=db         on a node that has a VM of that app
    even=web        as many of that app on each node, one more at most
    memory=4096     MiB
    project=other   not "default"
"""

from __future__ import annotations

from ....core.model import GroupTerm, Ha, Nic, Placement, Power, SpreadTerm, VmSpec

IMAGE = "11111111-0000-4000-8000-000000000000"


def spec_of(name: str, number: int, life: int, words: tuple[str, ...]) -> VmSpec:
    """The spec of the VM of that number in its so-many-eth life."""
    said = dict(word.partition("=")[::2] for word in words)
    labels = {"app": said["app"]} if "app" in said else {}
    apart = (GroupTerm(labels=labels, topology=said["apart"]),) if "apart" in said else ()
    near = (GroupTerm(labels={"app": said["near"]}),) if "near" in said else ()
    even = (SpreadTerm(labels={"app": said["even"]}, topology="node"),) if "even" in said else ()
    return VmSpec(
        project=said.get("project", "default"),
        name=name,
        uuid=f"{number:08d}-{life:04d}-4000-8000-00000000000a",
        image="debian",
        image_uuid=IMAGE,
        volume_uuid=f"{number:08d}-{life:04d}-4000-8000-00000000000b",
        cpus=1,
        memory_mib=int(said.get("memory", 512)),
        disk_bytes=1 << 20,
        power=Power.OFF if "off" in said else Power.ON,
        nics=(Nic(bridge="br0", mac=mac_of(number)),),
        labels=labels,
        placement=Placement(node=said.get("node", ""), anti_affinity=apart, affinity=near, spread=even),
        ha=Ha(
            priority=int(said.get("priority", 0)),
            start_after=(said["after"],) if "after" in said else (),
            ready_port=int(said.get("port", 0)),
        ),
    )


def mac_of(number: int) -> str:
    return f"52:54:00:00:{number // 256:02x}:{number % 256:02x}"
