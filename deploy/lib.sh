# shellcheck shell=sh disable=SC2034,SC2154
# Shared by deploy/quickstart, deploy/check and deploy/test-bootstrap. POSIX sh: a minimal Debian has no more.
#
# Owns: preflight, apt packages, the venv. Refuses: starting or enabling any service of an installed package,
# and overwriting a policy-rc.d that is there. Callers set `here` to the checkout before sourcing it.

say() { printf '%s\n' "$*"; }
die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}
now() { date +%s; }

# --- who runs what

is_root() { [ "$(id -u)" -eq 0 ]; }

# Commands that need root: directly, or through sudo. Without both: one message that names the command.
find_root() {
	is_root || { command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; }
}
as_root() {
	if is_root; then
		"$@"
	else
		sudo "$@"
	fi
}

# Files in the checkout belong to the person, also behind sudo.
as_person() {
	if is_root && [ "${SUDO_UID:-0}" != 0 ] && [ "$(stat -c %u "$here")" = "$SUDO_UID" ]; then
		setpriv --reuid "$SUDO_UID" --regid "${SUDO_GID:-$SUDO_UID}" --init-groups \
			env HOME="$(getent passwd "$SUDO_UID" | cut -d: -f6)" "$@"
	else
		"$@"
	fi
}

# --- preflight

preflight() { # storage
	[ -r /etc/os-release ] || die "this is not Debian 13 or 12: /etc/os-release is missing"
	# shellcheck source=/dev/null
	os=$(. /etc/os-release && printf '%s %s' "${ID:-unknown}" "${VERSION_ID:-}")
	case $os in
	"debian 13" | "debian 12") ;;
	*) die "this needs Debian 13 (trixie) or 12 (bookworm); this machine says: $os" ;;
	esac
	kib=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo 2>/dev/null || true)
	# A machine sold with 4 GB shows a little less.
	[ "${kib:-0}" -ge 3700000 ] || die "4 GB of RAM are needed; there are $((${kib:-0} / 1024)) MiB"
	for folder in "$here" /var; do
		free=$(df -Pk "$folder" | awk 'NR == 2 { print $4 }')
		[ "${free:-0}" -ge 6000000 ] || die "6 GB of disk are needed at $folder; $((${free:-0} / 1024)) MiB are free"
	done
	if [ "$1" != file ] && find_root; then
		[ -c /dev/net/tun ] || as_root modprobe tun 2>/dev/null || true
		[ -c /dev/net/tun ] || say "note: /dev/net/tun is missing: no guest network, no simulated hosts"
		as_root unshare --mount --uts --ipc --net --pid --fork true 2>/dev/null ||
			say "note: this machine gives no namespaces: no simulated hosts"
	fi
}

# --- packages

packages_python="python3 python3-venv ca-certificates"
packages_cluster="iproute2 procps util-linux nftables dnsmasq-base etcd-server etcd-client
 libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients python3-libvirt qemu-system-x86 qemu-utils
 busybox-static syslinux syslinux-common mtools dosfstools e2fsprogs fdisk cpio kmod"
# Debian 13 has libvirt's drivers apart; in Debian 12 they are in libvirt-daemon.
grep -qs '^VERSION_ID="13"' /etc/os-release && packages_cluster="$packages_cluster libvirt-daemon-driver-secret"
packages_ceph="ceph-mon ceph-osd ceph-common python3-rados python3-rbd qemu-block-extra"
packages_check="shellcheck rsyslog rsyslog-relp logrotate ceph-mgr openssl git faketime"
packages_hosts="mmdebstrap systemd-container openssh-client iproute2 util-linux"

missing_packages() {
	for package in "$@"; do
		state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
		[ "$state" = installed ] || printf '%s ' "$package"
	done
}

# Installs what is missing. No service starts, now or at the next boot; what runs already is left alone.
install_packages() {
	missing=$(missing_packages "$@")
	if [ -z "$missing" ]; then
		# The guest's kernel is downloaded by name later: the package lists must be there.
		[ -n "$(apt-cache madison linux-image-cloud-amd64 2>/dev/null)" ] && return 0
		find_root || die "the package lists are missing; as root: apt-get update"
		as_root apt-get -q -o DPkg::Lock::Timeout=600 update
		return 0
	fi
	find_root || die "not installed: $missing
run this once as root, then try again:
  apt-get update && apt-get install -y --no-install-recommends $missing"
	say "installing: $missing"
	as_root sh "$here/deploy/install-packages" "$missing"
}

# --- Python

venv="$here/.venv"

make_venv() { # lock file
	lock="$here/deploy/$1"
	stamp="$venv/.installed"
	want=$(cat "$lock" "$here/pyproject.toml" | sha256sum | cut -d' ' -f1)-$1
	# The lock for tests holds everything of the other one.
	have=$(cat "$stamp" 2>/dev/null || true)
	[ "$have" = "$want" ] && return 0
	if [ "$1" = requirements.lock ] && [ -n "$have" ]; then
		both=$(cat "$here/deploy/requirements-dev.lock" "$here/pyproject.toml" | sha256sum | cut -d' ' -f1)
		[ "$have" = "$both-requirements-dev.lock" ] && return 0
	fi
	# libvirt, rados and rbd are modules of the system's Python: no other interpreter finds them.
	[ -x "$venv/bin/python" ] || as_person /usr/bin/python3 -m venv --system-site-packages "$venv"
	as_person "$venv/bin/python" -m pip install -qq --root-user-action=ignore --disable-pip-version-check --require-hashes -r "$lock"
	as_person "$venv/bin/python" -m pip install -qq --root-user-action=ignore --disable-pip-version-check --no-deps --no-build-isolation -e "$here"
	# shellcheck disable=SC2016
	as_person sh -c 'printf %s "$1" >"$2"' sh "$want" "$stamp"
}
