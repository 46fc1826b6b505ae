# mini_ceph.sh ADDRESS : a small Ceph on this host under Debian's own units: one monitor, one OSD on a sparse file.
# Needs ceph-mon, ceph-osd and ceph-common. Not for data that matters: one copy. Makes the pool `vms`.
set -eu
address=$1
name=$(hostname)
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >/etc/ceph/ceph.conf <<EOF
[global]
fsid = $fsid
mon_initial_members = $name
mon_host = [v2:$address:3300,v1:$address:6789]
public_addr = $address
cluster_addr = $address
auth_allow_insecure_global_id_reclaim = false
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_warn_on_pool_no_redundancy = false
mon_data_avail_warn = 1
mon_data_avail_crit = 1
[mon]
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
[osd]
osd_memory_target = 939524096
bluestore_cache_autotune = false
bluestore_cache_size = 67108864
bluestore_block_size = 8589934592
EOF
as_ceph() { setpriv --reuid ceph --regid ceph --init-groups "$@"; }
work=$(as_ceph mktemp -d)
admin=/etc/ceph/ceph.client.admin.keyring
as_ceph ceph-authtool -C "$work/keys" --gen-key -n mon. --cap mon 'allow *'
ceph-authtool -C "$admin" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
ceph-authtool "$work/keys" --import-keyring "$admin"
as_ceph monmaptool --create --fsid "$fsid" --addv "$name" "[v2:$address:3300,v1:$address:6789]" "$work/monmap"
as_ceph mkdir -p "/var/lib/ceph/mon/ceph-$name" /var/lib/ceph/osd/ceph-0
as_ceph ceph-mon --mkfs -i "$name" --monmap "$work/monmap" --keyring "$work/keys"
rm -rf "$work"
systemctl enable -q --now "ceph-mon@$name"

uuid=$(cat /proc/sys/kernel/random/uuid)
secret=$(ceph-authtool --gen-print-key)
printf '{"cephx_secret": "%s"}' "$secret" | ceph --connect-timeout 20 osd new "$uuid" -i -
as_ceph ceph-authtool -C /var/lib/ceph/osd/ceph-0/keyring -n osd.0 --add-key "$secret"
as_ceph ceph-osd -i 0 --mkfs --osd-uuid "$uuid"
systemctl enable -q --now ceph-osd@0
ceph --connect-timeout 20 osd pool create vms 8
timeout 60 rbd pool init vms
