#!/bin/sh
# Process 1 of the chaos guest: writes a chain of records into the raw ring, partition 3, as fast as it comes,
# and says on the serial console which of them the disk has acknowledged.
#   CHAOS READY INST SEQ          once a boot: this instance begins after record SEQ
#   CHAOS ACK INST SEQ SUM .      the record is durable: written with O_DIRECT, then flushed
#   CHAOS FAILED INST SEQ         a write failed; the very same record is tried again
# A record is 512 bytes: "CH1 SEQ INST PREV UPTIME UUID", blanks, a newline. SEQ has 8 digits, PREV is the sum of
# the record before, a sum is the first 16 digits of the MD5 of the 512 bytes. It lies at SEQ modulo 2048.
# An instance (a fresh random name each boot) starts from the highest record that it reads from its disk: so a
# second writer forks the chain, and who reads the ring sees it.
export PATH=/bin:/sbin
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
rm -f /bin/poweroff /bin/reboot /bin/halt
exec >/dev/console 2>&1 </dev/null
while read -r module; do
	case $module in ext4* | jbd2* | mbcache* | virtio_net* | virtio_balloon* | net_failover* | failover*) continue ;; esac
	insmod "/lib/modules/$module" 2>/dev/null
done </etc/modules
uuid=$(cat /sys/class/dmi/id/product_uuid 2>/dev/null)
inst=$(cut -c1-8 /proc/sys/kernel/random/uuid)
ring=/dev/vda3

# Few processes: each costs this guest, which is emulated, some milliseconds of a real CPU.
summed() { # record; leaves it in /record, and its sum in $sum
	printf '%-511s\n' "$1" >/record
	read -r sum _ <<-END
		$(md5sum /record)
	END
	sum=${sum%????????????????}
}

# As text: busybox's awk takes 00000054 for an octal number. Both have 8 digits.
last=$(tr -d '\000' <"$ring" | awk '$1 == "CH1" && $2 "" > best "" { best = $2; line = $0 } END { print line }')
seq=0 sum=0000000000000000
if [ -n "$last" ]; then
	seq=${last#CH1 }
	seq=$(echo "${seq%% *}" | sed 's/^0*//')
	summed "$last"
fi
echo "CHAOS READY $inst $seq"
for event in /dev/input/event*; do
	[ -e "$event" ] && (dd if="$event" bs=24 count=1 >/dev/null 2>&1 && /sbin/poweroff) &
done
while :; do
	seq=$((seq + 1))
	name=$((100000000 + seq))
	name=${name#1}
	read -r up _ </proc/uptime
	summed "CH1 $name $inst $sum ${up%.*} $uuid"
	until dd if=/record of="$ring" bs=512 seek=$((seq % 2048)) oflag=direct conv=notrunc,fsync 2>/dev/null; do
		echo "CHAOS FAILED $inst $name"
		sleep 1
	done
	echo "CHAOS ACK $inst $name $sum ."
	sleep 0.25
done
