"""What an administrator does to disks and images with ``rbd``, on real parts: nothing is lost, all is told."""

from __future__ import annotations

import asyncio
import time

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.ceph, pytest.mark.libvirt]


def rbd(lab: Lab, *words: str) -> str:
    """As an administrator; a QEMU that was killed counts as a client for up to 30 s."""
    ceph, end = lab.cluster.ceph, time.monotonic() + 60
    assert ceph is not None
    while True:
        try:
            return asyncio.run(ceph.run("rbd", "-c", str(ceph.conf), *words)).decode()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def test_a_renamed_or_trashed_disk_is_reported_and_restored(lab: Lab) -> None:
    """``rbd rename`` of a stopped VM's disk, then ``vm start``: it was a fresh clone, without a word."""
    vm = lab.create("keep")
    assert lab.boots("keep") == 1
    disk = f"vms/vm-{vm['volume_uuid']}"
    rbd(lab, "create", "--size", "8M", "vms/image-golden")
    lab.do("vm", "stop", "keep", "--force")
    rbd(lab, "rename", disk, "vms/elsewhere")
    lab.do("vm", "start", "keep", "--no-wait")
    found = lab.until_vm("keep", phase="failed")
    assert found["message"].startswith(f"its disk vm-{vm['volume_uuid']} is missing in pool vms")
    assert "metastack vm rebuild default/keep --from-image --yes --reason WHY" in found["message"]
    rbd(lab, "rename", "vms/elsewhere", disk)
    lab.until_vm("keep", phase="running")
    assert lab.boots("keep") == 2, "not the same disk"
    # In the trash by an administrator's hand, with no retention: never purged, and the way back is said.
    lab.do("vm", "stop", "keep", "--force")
    rbd(lab, "trash", "mv", disk)
    lab.do("vm", "start", "keep", "--no-wait")
    found = lab.until_vm("keep", phase="failed", message=lambda text: "trash restore" in (text or ""))
    refused = lab.run("vm", "rebuild", "keep", "--from-image", "--yes", "--reason", "lost")
    assert refused.returncode == 4 and "rbd trash restore" in refused.stderr
    time.sleep(65)  # a whole sweep
    assert "image-golden" in rbd(lab, "ls", "vms")
    rbd(lab, *found["message"].split("`")[1].split()[1:])
    lab.until_vm("keep", phase="running")
    assert lab.boots("keep") == 3, "not the same disk"
    rbd(lab, "rm", "vms/image-golden")


def test_a_lost_disk_is_given_up_by_a_person_alone(lab: Lab) -> None:
    vm = lab.create("gone")
    assert lab.boots("gone") == 1
    there = lab.run("vm", "rebuild", "gone", "--from-image", "--yes", "--reason", "lost")
    assert there.returncode == 4 and "stop it first" in there.stderr
    lab.do("vm", "stop", "gone", "--force")
    assert lab.run("vm", "rebuild", "gone", "--yes").returncode == 2
    there = lab.run("vm", "rebuild", "gone", "--from-image", "--yes", "--reason", "lost")
    assert "no rebuild is needed" in there.stderr
    rbd(lab, "rm", f"vms/vm-{vm['volume_uuid']}")
    lab.do("vm", "rebuild", "gone", "--from-image", "--yes", "--reason", "its OSDs burnt")
    lab.do("vm", "start", "gone")
    assert lab.boots("gone") == 1
    assert "its OSDs burnt" in lab.do("vm", "history", "gone")
