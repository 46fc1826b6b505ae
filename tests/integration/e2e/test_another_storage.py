"""A node whose agent is set to another storage than the cluster's: not ready, said, and back when corrected."""

from __future__ import annotations

import pytest
import tomli_w
from e2e_lab import Lab

from metastack.lab.dev.plan import CONSOLE_PORT, agent_config
from metastack.settings import StorageSettings

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]


def test_a_node_that_is_set_to_files(lab: Lab) -> None:
    shown = lab.json("cluster", "storage", "show")
    assert (shown["state"], shown["kind"], shown["pool"]) == ("ok", "ceph", "vms")
    assert shown["cluster_id"] == shown["owner_cluster_id"]
    host = lab.cluster.host("n3")
    before = host.agent_config.read_text()
    files = StorageSettings(kind="file", directory=str(lab.cluster.layout.disks))
    wrong = agent_config(host, CONSOLE_PORT, lab.cluster.node_store_settings(host.name), files)
    try:
        host.agent_config.write_text(tomli_w.dumps(wrong))
        host.restart_agent()
        said = "kind is file here and ceph in config/storage"
        lab.until("it says which field", lambda: said in (lab.node("n3").get("message") or ""), 60)
        assert lab.node("n3")["state"] != "ready"
    finally:
        host.agent_config.write_text(before)
        host.restart_agent()
    lab.until_all_ready()
