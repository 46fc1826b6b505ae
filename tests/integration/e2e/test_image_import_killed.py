"""An import whose process is killed in the middle: record and remains go by themselves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.ceph, pytest.mark.libvirt]
MIB = 1 << 20


def half_imports(lab: Lab) -> list[str]:
    ceph = lab.cluster.ceph
    assert ceph is not None
    names = asyncio.run(ceph.run("rbd", "-c", str(ceph.conf), "ls", "vms")).decode().split()
    return [name for name in names if name.startswith("import-")]


def test_what_a_killed_import_leaves_goes(lab: Lab, tmp_path: Path) -> None:
    big = tmp_path / "big.raw"
    with big.open("wb") as out:
        for _ in range(768):
            out.write(os.urandom(MIB))
    importing = subprocess.Popen(
        [sys.executable, "-m", "metastack.cli.main", "image", "import", "big", str(big)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lab.until("it writes", lambda: half_imports(lab), 60)
    finally:
        importing.kill()
        importing.wait(30)
    assert [i["state"] for i in lab.json("image", "list") if i["name"] == "big"] == ["importing"]
    # 15 s of its lease, then the next sweep; Ceph counts a killed client for 30 s.
    lab.until("its record is gone", lambda: "big" not in [i["name"] for i in lab.json("image", "list")], 60)
    lab.until("its remains are gone", lambda: not half_imports(lab), 180)
    lab.do("image", "import", "big", str(big))
    lab.do("image", "delete", "big", "--yes")
