"""The one-machine cluster itself, with simulated hosts and without agents: what it makes, what it leaves."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from residue import routed, snapshot

from metastack import contexts
from metastack.lab.dev import guest, proc
from metastack.lab.dev.cluster import Cluster
from metastack.lab.dev.fabric import tool_environment, unmount
from metastack.lab.dev.layout import Layout, cache
from metastack.lab.dev.plan import ROOT
from metastack.lab.dev.records import etcdctl
from metastack.lab.dev.status import report
from metastack.ports import NotFound, Refused

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.libvirt]


def reaches(cluster: Cluster, node: str, address: str, port: int) -> bool:
    """Whether a TCP connection from inside the node is answered within a second."""
    script = f"import socket; socket.create_connection(('{address}', {port}), 1).close()"
    argv = cluster.host(node).enter("/usr/bin/python3", "-I", "-S", "-c", script)
    return subprocess.run(argv, capture_output=True, env=tool_environment(), check=False).returncode == 0


def test_up_repair_and_down(lab: Path) -> None:
    before = snapshot(lab)
    cluster = Cluster("one")
    cluster.up(nodes=2, storage="file", agents=False)

    file = contexts.load()
    assert file.current == "one"
    assert file.contexts["one"].netns == str(lab / "one" / "fabric.net")
    assert cluster.records.configure(5, "ignored").default_network == "br0"
    found = report(cluster)
    assert [node["power"] for node in found["nodes"]] == ["on", "on"]
    assert {row["role"] for row in found["processes"]} >= {"etcd.e1", "dnsmasq", "init", "libvirtd"}

    pids = {row["role"]: row["pid"] for row in found["processes"]}
    cluster.stop_etcd("e1", signal.SIGKILL)
    cluster.kill_node("n2")
    assert [node["power"] for node in report(cluster)["nodes"]] == ["on", "off"]
    again = Cluster("one")
    again.up(agents=False)
    after = {row["role"]: row["pid"] for row in report(again)["processes"]}
    assert after["dnsmasq"] == pids["dnsmasq"], "what runs is left alone"
    assert after["etcd.e1"] != pids["etcd.e1"], "what is missing is made"
    assert [node["power"] for node in report(again)["nodes"]] == ["on", "on"]

    assert again.fabric
    subnets = again.fabric.subnets.control, again.fabric.subnets.guests
    assert routed(*subnets)
    again.down()
    assert snapshot(lab) == before
    assert not routed(*subnets)
    assert "one" not in contexts.load().contexts
    with pytest.raises(NotFound):
        Cluster("one").down()


def test_a_secure_cluster_asks_for_certificates_and_rights(lab: Path) -> None:
    cluster = Cluster("safe")
    cluster.up(nodes=1, storage="file", agents=False, secure=True)
    try:
        key = cluster.records.keys.cluster()
        of_the_node = etcdctl(cluster.prefix, cluster.node_store_settings("n1"))
        assert put(of_the_node, key) == "etcdserver: permission denied"
        assert put(cluster.etcdctl(), f"{ROOT}/scratch") == "OK"
        again = Cluster("safe")
        again.up(agents=False)
        assert again.state.secure, "an existing cluster stays as it is"
        with pytest.raises(Refused, match="has TLS and rights"):
            Cluster("safe").up(agents=False, secure=False)
    finally:
        cluster.down()


def put(command: list[str], key: str) -> str:
    """etcd's own words on a put."""
    done = subprocess.run(
        [*command, "put", key, "x"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        env={**tool_environment(), "ETCDCTL_API": "3"},
    )
    said = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
    found = json.loads(said) if said.startswith("{") else {"error": said}
    return str(found["error"]).rpartition("Error: ")[2]


def test_down_after_everything_was_killed(lab: Path) -> None:
    before = snapshot(lab)
    cluster = Cluster("one")
    cluster.up(nodes=2, storage="file", agents=False)
    # The record is lost too, as when up was killed before it could write it.
    victims = [one for one in proc.marked(lab / "one") if "libvirtd" not in proc.command(one.pid)]
    assert len(victims) >= 4
    proc.stop(victims, how=signal.SIGKILL)
    assert cluster.fabric
    Cluster("one").down()
    assert snapshot(lab) == before
    assert not routed(cluster.fabric.subnets.control, cluster.fabric.subnets.guests)


@pytest.mark.parametrize("mounted", [True, False])
def test_down_after_somebody_deleted_the_state_folder(lab: Path, mounted: bool) -> None:
    """rm -rf stops at nothing but the fabric's mount; whoever unmounts that first gets all of it."""
    before = snapshot(lab)
    cluster = Cluster("one")
    cluster.up(nodes=2, storage="file", agents=False)
    assert cluster.fabric
    subnets = cluster.fabric.subnets.control, cluster.fabric.subnets.guests
    if not mounted:
        unmount(lab / "one" / "fabric.net")
    shutil.rmtree(lab / "one", ignore_errors=True)
    assert (lab / "one" / "fabric.net").exists() == mounted
    assert proc.marked(lab / "one"), "it runs on"
    with pytest.raises(Refused, match="metastack dev down --name one"):
        Cluster("one").up(nodes=2, storage="file", agents=False)
    said: list[str] = []
    Cluster("one").down(said.append)
    assert snapshot(lab) == before
    assert not routed(*subnets)
    assert "one" not in contexts.load().contexts
    assert "whose record is gone" in said[0]
    with pytest.raises(NotFound):
        Cluster("one").down()


def test_down_says_what_it_cannot_tell_whose_it_is(lab: Path) -> None:
    """Nothing but routes and the context is left: a route names no cluster."""
    cluster = Cluster("one")
    cluster.up(nodes=1, storage="file", agents=False)
    assert cluster.fabric
    proc.stop(proc.marked(lab / "one"), how=signal.SIGKILL)
    unmount(lab / "one" / "fabric.net")
    shutil.rmtree(lab / "one")
    said: list[str] = []
    try:
        Cluster("one").down(said.append)
        assert routed(cluster.fabric.subnets.control)
        assert f"ip route del unreachable {cluster.fabric.subnets.control}" in "\n".join(said)
        assert "one" not in contexts.load().contexts
    finally:
        cluster.fabric.remove()


def test_down_finds_processes_that_were_never_recorded(lab: Path) -> None:
    before = snapshot(lab)
    cluster = Cluster("one")
    cluster.up(nodes=1, storage="file", agents=False)
    state = cluster.state
    state.procs = {}
    cluster.layout.save(state)
    Cluster("one").down()
    assert snapshot(lab) == before


def test_down_after_a_reboot_signals_nobody(lab: Path) -> None:
    """After a reboot the recorded pids belong to others."""
    cluster = Cluster("one")
    cluster.up(nodes=1, storage="file", agents=False)
    state = cluster.state
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        seen = proc.observe(bystander.pid)
        assert seen is not None
        for role in ("etcd.e1", "host.n1"):
            recorded = state.procs[role]
            proc.stop([recorded], how=signal.SIGKILL)
            state.procs[role] = proc.Proc(pid=bystander.pid, start=seen.start, boot="another-boot")
        cluster.layout.save(state)
        Cluster("one").down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_two_clusters_side_by_side(lab: Path) -> None:
    first, second = Cluster("one"), Cluster("two")
    first.up(nodes=1, storage="file", agents=False)
    second.up(nodes=1, storage="file", agents=False)
    assert first.fabric
    assert second.fabric
    assert first.fabric.subnets.control != second.fabric.subnets.control
    assert not reaches(first, "n1", second.fabric.subnets.etcd(0), 2379)
    routes = subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout
    for fabric in (first.fabric, second.fabric):
        assert f"unreachable {fabric.subnets.control}" in routes
    # The second one's host was made while the first one's namespace was mounted, and must not keep it alive.
    init = second.init("n1")
    assert init
    assert "nsfs" not in Path(f"/proc/{init.pid}/mountinfo").read_text()
    first.down()
    assert reaches(second, "n1", second.fabric.subnets.etcd(0), 2379)


def test_cut_and_heal(lab: Path) -> None:
    cluster = Cluster("one")
    cluster.up(nodes=2, storage="file", agents=False)
    assert cluster.fabric
    etcd = cluster.fabric.subnets.etcd(0)
    other = cluster.fabric.subnets.node(1)
    cluster.host("n2").start(
        "echo",
        ["/usr/bin/python3", "-I", "-m", "http.server", "8000", "--bind", "0.0.0.0"],
        lab / "http.log",
    )
    proc.wait_for(lambda: reaches(cluster, "n1", other, 8000), 10, lambda: proc.tail(lab / "http.log"))

    def seen() -> tuple[bool, bool]:
        return reaches(cluster, "n1", etcd, 2379), reaches(cluster, "n1", other, 8000)

    assert seen() == (True, True)
    cluster.cut("n1", "etcd")
    assert seen() == (False, True)
    cluster.cut("n1", "storage")
    assert report(cluster)["nodes"][0]["cuts"] == ["etcd", "storage"]
    cluster.cut("n1", "all")
    assert seen() == (False, False)
    cluster.heal("n1")
    assert seen() == (True, True)
    assert report(cluster)["nodes"][0]["cuts"] == []
    cluster.kill_node("n1")
    with pytest.raises(Refused, match="start-node n1"):
        cluster.cut("n1", "all")


def test_a_power_cut_moves_nobody_elses_addresses(lab: Path) -> None:
    """A bridge left to itself has the lowest hardware address of its ports; etcd's would move with a node."""
    cluster = Cluster("one")
    cluster.up(nodes=3, storage="file", agents=False)

    def address() -> str:
        seen = subprocess.run(
            [*cluster.prefix, "ip", "-br", "link", "show", "control"],
            capture_output=True,
            text=True,
            check=True,
        )
        return seen.stdout.split()[2]

    before = address()
    for node in ("n1", "n2", "n3"):
        cluster.kill_node(node)
        assert address() == before, node


def domain(name: str, disk: Path, number: int) -> str:
    return f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>
    <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
    <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>
    <target dev='vda' bus='virtio'/></disk>
    <interface type='bridge'><mac address='52:54:00:00:00:{number:02x}'/><source bridge='br0'/>
    <model type='virtio'/></interface>
    <serial type='file'><source path='{disk}.serial'/></serial>
    </devices></domain>"""


def until(log: Path, text: str, timeout_s: float = 60) -> str:
    def lines() -> list[str]:
        return log.read_text(errors="replace").splitlines() if log.exists() else []

    proc.wait_for(lambda: any(text in line for line in lines()), timeout_s, lambda: "\n".join(lines()[-30:]))
    return next(line for line in reversed(lines()) if text in line)


def test_a_guest_survives_libvirtd_and_dies_with_the_power(lab: Path) -> None:
    cluster = Cluster("one")
    cluster.up(nodes=2, storage="file", agents=False)
    disk = cluster.layout.disks / "guest.raw"
    subprocess.run(["cp", "--sparse=always", str(guest.image(cache())), str(disk)], check=True)
    os.truncate(disk, 1 << 30)  # a disk grown larger than its image
    serial = Path(f"{disk}.serial")
    host = cluster.host("n1")

    def virsh(node: str, *argv: str) -> str:
        uri = cluster.host(node).libvirt_uri
        done = subprocess.run(["virsh", "-q", "-c", uri, *argv], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    xml = lab / "guest.xml"
    xml.write_text(domain("guest", disk, 1))
    virsh("n1", "create", str(xml))
    assert "boot=1" in until(serial, "GUEST READY")
    address = until(serial, "GUEST dhcp").split()[-1]
    assert address.startswith("10.78.")

    begun = time.monotonic()
    host.restart_libvirtd()
    assert host.services()["libvirtd"]["starts"] == 2
    print(f"barrier: {time.monotonic() - begun:.3f} s")
    assert "guest" in virsh("n1", "list", "--name"), "the guest survives its libvirtd"

    init = cluster.init("n1")
    assert init
    (qemu,) = host.qemu(init)
    cluster.kill_node("n1")
    assert not proc.alive(qemu)
    with disk.open("rb") as file:
        file.seek(guest.ring_offset(disk))
        ring = file.read(2048 * 512)
    assert b"HB boot=1 " in ring

    serial.unlink()
    virsh("n2", "create", str(xml))
    assert "boot=2" in until(serial, "GUEST READY"), "the disk remembers"
    cluster.start_node("n1", agent=False)
    assert virsh("n1", "list", "--all", "--name").strip() == "", "it was transient, and its host lost power"


def test_the_person_behind_sudo_reaches_etcd_and_nobody_else_does(
    lab: Path, person: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = pwd.getpwnam(person)
    monkeypatch.setenv("SUDO_UID", str(entry.pw_uid))
    lab.chmod(0o755)
    cluster = Cluster("one")
    cluster.up(nodes=1, storage="file", agents=False)
    (endpoint,) = cluster.store_settings.endpoints

    def health(uid: int) -> str:
        script = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({endpoint[5:]!r})"
        argv = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        argv += ["/usr/bin/python3", "-I", "-S", "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stderr.strip().splitlines()[-1] if done.returncode else "connected"

    assert health(entry.pw_uid) == "connected"
    assert "Permission denied" in health(65534)


def test_services_of_a_host(lab: Path) -> None:
    """Kill, freeze and restart one service: what tests of the agent do to it."""
    cluster = Cluster("one")
    cluster.up(nodes=1, storage="file", agents=False)
    host = cluster.host("n1")
    host.start("agent", ["/bin/sleep", "1000"], host.agent_log)

    def pid() -> int:
        return int(host.services()["agent"]["pid"])

    first = pid()
    host.restart_agent(signal.SIGKILL)
    second = pid()
    assert second not in (0, first)
    host.freeze_agent()
    (frozen,) = [one for one in proc.descendants(host.pid) if proc.command(one.pid) == "sleep"]

    def state() -> str:
        return Path(f"/proc/{frozen.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    proc.wait_for(lambda: state() == "T", 5, state)
    host.thaw_agent()
    host.signal("agent", signal.SIGKILL)
    proc.wait_for(lambda: pid() not in (0, second), 10, lambda: str(host.services()))
    host.stop_agent(signal.SIGKILL)
    assert host.services()["agent"]["pid"] == 0
    assert host.services()["agent"]["ended"] == -signal.SIGKILL
    host.start("agent", ["/bin/sleep", "1000"], host.agent_log)
    assert pid() != 0


@pytest.mark.ceph
def test_ceph_memory_and_residue(lab: Path) -> None:
    before = snapshot(lab)
    cluster = Cluster("one")
    cluster.up(agents=False)
    assert cluster.state.storage == "ceph", cluster.state.why
    found = report(cluster)
    assert {row["role"] for row in found["processes"]} >= {"mon.a", "osd.0"}
    print(f"idle without agents: {found['rss_mib']} MiB")
    # Three agents take about 100 MB each; the whole cluster has 2 GB.
    assert found["rss_mib"] < 1600
    settings = cluster.storage_settings("n2")
    assert (settings.user, settings.kind) == ("node-n2", "ceph")
    keyring = Path(settings.keyring)
    assert keyring.stat().st_mode & 0o077 == 0
    # A node reaches the monitor under its own address; the management user does so from the fabric.
    probe = ["ceph", "-c", str(cluster.layout.ceph / "ceph.conf"), "--connect-timeout", "10"]
    inside = [*probe, "-n", "client.node-n2", "-k", str(keyring), "osd", "blocklist", "ls"]
    subprocess.run(cluster.host("n2").enter(*inside), check=True, capture_output=True, env=tool_environment())
    assert cluster.fabric
    assert reaches(cluster, "n2", cluster.fabric.subnets.ceph, 6789)
    cluster.cut("n2", "storage")
    assert not reaches(cluster, "n2", cluster.fabric.subnets.ceph, 6789)
    assert reaches(cluster, "n2", cluster.fabric.subnets.etcd(0), 2379)
    # Every process killed, then up again on the same data, then killed again and down.
    for again in (True, False):
        for daemon in ("mon.a", "osd.0"):
            assert cluster.ceph
            cluster.ceph.kill(daemon)
        proc.stop(proc.marked(lab / "one"), how=signal.SIGKILL)
        if again:
            cluster = Cluster("one")
            cluster.up(agents=False)
            assert set(cluster.ceph.status().running if cluster.ceph else ()) == {"mon.a", "osd.0"}
    Cluster("one").down()
    assert snapshot(lab) == before


def test_refusals(lab: Path) -> None:
    with pytest.raises(Refused, match="DNS label"):
        Layout("Not a name")
    with pytest.raises(NotFound, match="metastack dev up"):
        Cluster("none").kill_node("n1")
    cluster = Cluster("one")
    cluster.up(nodes=1, storage="file", agents=False)
    with pytest.raises(NotFound, match="n1"):
        cluster.kill_node("n7")
    with pytest.raises(Refused, match="file storage"):
        Cluster("one").up(storage="ceph", agents=False)
    with cluster.layout.locked(), pytest.raises(Refused, match="another command"):
        Cluster("one").down()


def test_accounts_of_the_machine_may_change_under_a_running_host(lab: Path) -> None:
    """useradd and apt replace /etc/passwd by a rename, which drops any mount on that very file."""
    cluster = Cluster("users")
    cluster.up(nodes=1, storage="file", agents=False)
    fresh = Path("/etc/passwd.metastack-test")
    shutil.copy2("/etc/passwd", fresh)
    fresh.rename("/etc/passwd")
    host = cluster.host("n1")
    host.restart_libvirtd()
    listed = subprocess.run(
        ["virsh", "-q", "-c", host.libvirt_uri, "list"], capture_output=True, text=True, timeout=30, check=False
    )
    assert listed.returncode == 0, listed.stderr
