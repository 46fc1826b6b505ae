#!/bin/sh
# Process 1 of the small guest. Says on the serial console what happens, in lines that begin with GUEST:
#   GUEST READY boot=N uuid=U inst=I up=S     once a boot; N is the boot counter on the disk
#   GUEST HB boot=N uuid=U inst=I seq=S t=T   every tenth heartbeat
#   GUEST WRITE-FAILED … / GUEST dhcp ADDRESS / GUEST power button …
# Disk: partition 2 is ext4 'data' (boots, heartbeat.log), partition 3 a raw ring of 2048 records of 512 bytes.
export PATH=/bin:/sbin
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
rm -f /bin/poweroff /bin/reboot /bin/halt
exec >/dev/console 2>&1 </dev/null
while read -r module; do insmod "/lib/modules/$module" 2>/dev/null; done </etc/modules
uuid=$(cat /sys/class/dmi/id/product_uuid 2>/dev/null)
inst=$(cut -c1-8 /proc/sys/kernel/random/uuid)
echo "GUEST booting uuid=$uuid inst=$inst up=$(cut -d' ' -f1 /proc/uptime)"
data=$(findfs LABEL=data 2>/dev/null)
ring=$(echo "$data" | sed 's/2$/3/')
boot=0
if [ -n "$data" ] && mount -t ext4 -o rw,errors=remount-ro "$data" /data; then
	boot=$(($(cat /data/boots 2>/dev/null || echo 0) + 1))
	echo "$boot" >/data/boots.new && sync && mv /data/boots.new /data/boots && sync
else
	echo "GUEST no-data-partition"
fi
hostname guest
(
	sequence=0
	while :; do
		sequence=$((sequence + 1))
		now=$(date +%s)
		line="HB boot=$boot uuid=$uuid inst=$inst seq=$sequence t=$now"
		failed=
		{ echo "$line" >>/data/heartbeat.log && sync -d /data/heartbeat.log; } 2>/dev/null || failed=ext4
		printf '%-511s\n' "$line" |
			dd of="$ring" bs=512 seek=$((now % 2048)) conv=notrunc,fsync 2>/dev/null || failed="$failed raw"
		if [ -n "$failed" ]; then
			echo "GUEST WRITE-FAILED $failed seq=$sequence t=$now"
		elif [ $((sequence % 10)) = 1 ]; then
			echo "GUEST $line"
		fi
		sleep 1
	done
) &
echo "GUEST READY boot=$boot uuid=$uuid inst=$inst up=$(cut -d' ' -f1 /proc/uptime)"
for event in /dev/input/event*; do
	[ -e "$event" ] && (
		dd if="$event" bs=24 count=1 >/dev/null 2>&1 && {
			echo "GUEST power button: shutting down"
			/sbin/poweroff
		}
	) &
done
ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
	ip link set eth0 up
	udhcpc -s /etc/dhcp -b -q -t 10 -T 2 -i eth0 -S >/dev/null 2>&1 &
fi
while :; do
	setsid cttyhack sh </dev/ttyS0 >/dev/ttyS0 2>&1
	sleep 1
done
