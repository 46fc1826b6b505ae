"""The backup's unit under a real systemd, and a member restored from its file, with the etcd of Debian 13."""

from __future__ import annotations

import json
import re
from typing import Any

import node
import pytest
from hosts import Host, Lab

pytestmark = [pytest.mark.install, pytest.mark.timeout(600)]
UNIT = "metastack-backup"
TO = "/var/backups/metastack"
CONTEXT = """\
current = "backup"
[contexts.backup.store]
endpoints = ["http://127.0.0.1:2379"]
"""


@pytest.fixture(scope="module")
def host(lab: Lab) -> Host:
    found = lab.up(["h1"], kind="full")[0]
    node.install(found)
    found.run(f"install -d /etc/metastack && umask 077 && cat >/etc/metastack/backup.toml <<T\n{CONTEXT}T\n")
    found.run("systemctl start etcd")
    return found


def view(host: Host, *words: str) -> Any:
    config = "METASTACK_CONFIG=/etc/metastack/backup.toml"
    return json.loads(host.run(f"{config} metastack {' '.join(words)} -o json"))


def files(host: Host) -> list[str]:
    return host.run(f"ls {TO}").split()


def test_the_unit_saves_etcd_within_its_sandbox(host: Host) -> None:
    view(host, "project create web")
    host.run(f"systemctl start {UNIT}.service")
    name, manifest = files(host)
    assert manifest == f"{name}.json"
    assert host.run(f"stat -c '%U %a' {TO} {TO}/{name}").split() == ["root", "700", "root", "600"]
    checked = view(host, "cluster backup --verify", f"{TO}/{name}")
    assert checked["manifest"]["etcd"] == host.run("etcd --version").split()[2]


def test_the_sandbox_rates_as_documented(host: Host) -> None:
    said = host.run(f"systemd-analyze security {UNIT}.service --no-pager | tail -1")
    page = (node.CHECKOUT / "docs/reference/hardening.md").read_text()
    (documented,) = re.findall(rf"`{UNIT}\.service` \| ([0-9.]+) \|", page)
    # Another systemd than the page's knows more that it hides.
    assert float(re.findall(r"service: ([0-9.]+)", said)[0]) <= float(documented)


def test_another_folder_and_number_come_from_its_settings(host: Host) -> None:
    host.run("install -d -m 0700 /srv/backups /etc/systemd/system/metastack-backup.service.d")
    host.run("printf 'TO=/srv/backups\\nKEEP=1\\n' >/etc/metastack/backup.env")
    drop_in = f"/etc/systemd/system/{UNIT}.service.d/folder.conf"
    host.run(f"printf '[Service]\\nReadWritePaths=/srv/backups\\n' >{drop_in}; systemctl daemon-reload")
    for name in ("p1", "p2"):
        view(host, f"project create {name}")  # another revision, so another name
        host.run(f"systemctl start {UNIT}.service")
    assert len(host.run("ls /srv/backups").split()) == 2
    host.run(f"rm /etc/metastack/backup.env {drop_in}; systemctl daemon-reload")


def test_a_backup_that_fails_is_a_failed_unit(host: Host) -> None:
    host.run("systemctl stop etcd")
    before = files(host)
    failed = host.ssh(["systemctl", "start", f"{UNIT}.service"], check=False)
    host.run("systemctl start etcd")
    assert failed.returncode != 0
    assert files(host) == before
    assert "unreachable" in host.run(f"journalctl -u {UNIT} --no-pager -o cat -n 20")


def test_the_timer_comes_once_a_day(host: Host) -> None:
    host.run(f"systemctl enable -q --now {UNIT}.timer")
    shown = host.run(f"systemctl show {UNIT}.timer -p ActiveState,Persistent,Unit,NextElapseUSecRealtime")
    said = dict(line.split("=", 1) for line in shown.splitlines())
    assert (said["ActiveState"], said["Persistent"], said["Unit"]) == ("active", "yes", f"{UNIT}.service")
    assert said["NextElapseUSecRealtime"]


def test_a_wiped_member_is_restored_for_its_own_user(host: Host) -> None:
    (name, _) = files(host)[-2:]
    view(host, "project create later")
    host.run("systemctl stop etcd; mv /var/lib/etcd/default /var/lib/etcd/default.lost")
    made = view(
        host,
        f"cluster restore {TO}/{name} --data-dir /var/lib/etcd/default",
        "--initial-cluster default=http://localhost:2380",
    )
    assert made["command"][0] == "etcdutl" and made["owner"] == "etcd"
    host.run("systemctl start etcd")
    assert host.run("ps -o user= -C etcd").split() == ["etcd"]
    assert [one["name"] for one in view(host, "project list")] == ["default", "web"]
    done = view(host, "cluster restore --yes --reason", "'a test'")
    assert done["generation"] == 1
