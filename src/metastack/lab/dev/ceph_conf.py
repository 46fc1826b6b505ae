"""The text of a mini cluster's ceph.conf, and why each line is there.

Owns: that text. Refuses: starting anything. Rule: every path in it is absolute and inside one folder.
"""

from __future__ import annotations

from pathlib import Path


def ceph_conf(
    *,
    directory: Path,
    fsid: str,
    address: str,
    v2_port: int,
    v1_port: int,
    osd_ports: tuple[int, int],
    osd_bytes: int,
) -> str:
    """``osd_ports``: first and last port that the OSD may listen on."""
    return f"""\
[global]
fsid = {fsid}
mon_initial_members = a
mon_host = [v2:{address}:{v2_port},v1:{address}:{v1_port}]
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
auth_allow_insecure_global_id_reclaim = false
public_addr = {address}
cluster_addr = {address}
ms_bind_ipv6 = false
ms_bind_port_min = {osd_ports[0]}
ms_bind_port_max = {osd_ports[1]}
keyring = {directory}/$cluster.$name.keyring
run_dir = {directory}/run
admin_socket = {directory}/run/$cluster-$name.$pid.asok
log_file = {directory}/log/$cluster-$name.log
log_max_recent = 500
pid_file = {directory}/run/$name.pid
crash_dir = {directory}/crash
# One copy on one OSD, and no warnings about it.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_pool_default_pgp_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
mon_warn_on_pool_no_redundancy = false
osd_pool_default_pg_autoscale_mode = off
mon_max_pg_per_osd = 1000
mon_data_avail_warn = 1
mon_data_avail_crit = 1
[mon]
mon_data = {directory}/mon/$id
keyring = {directory}/mon/$id/keyring
mon_osd_min_down_reporters = 1
# Map changes (a fence is one) in tens of milliseconds instead of a second.
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
[mgr]
mgr_data = {directory}/mgr/$id
mgr_initial_modules =
[osd]
osd_data = {directory}/osd/$id
osd_journal = {directory}/osd/$id/journal
osd_objectstore = bluestore
# Small: the floor of the target, and a fixed cache instead of one that grows towards it.
osd_memory_target = 939524096
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
bluestore_block_create = true
bluestore_block_size = {osd_bytes}
bluestore_block_db_create = false
bluestore_block_wal_create = false
bluestore_fsck_on_mount = false
osd_class_load_list = *
osd_class_default_list = *
osd_scrub_load_threshold = 2000
osd_max_object_name_len = 460
osd_max_object_namespace_len = 64
[client]
rbd_default_features = 61
"""
