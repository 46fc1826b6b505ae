"""libvirt's state and reason numbers as this program's states: tables, nothing else."""

from __future__ import annotations

from typing import Final

import libvirt

from metastack.ports import DomainState, EndReason

_ENDS: Final[dict[int, EndReason]] = {
    libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN: EndReason.SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF_DESTROYED: EndReason.DESTROYED,
    libvirt.VIR_DOMAIN_SHUTOFF_CRASHED: EndReason.CRASHED,
    libvirt.VIR_DOMAIN_SHUTOFF_FAILED: EndReason.FAILED,
    libvirt.VIR_DOMAIN_SHUTOFF_SAVED: EndReason.SAVED,
    # A daemon that came back and could not talk to this QEMU any more killed it.
    libvirt.VIR_DOMAIN_SHUTOFF_DAEMON: EndReason.CRASHED,
    # UNKNOWN: never started, or ended before the daemon's last start, which forgets the reason. The
    # metadata may know (see LibvirtHypervisor.barrier).
    libvirt.VIR_DOMAIN_SHUTOFF_UNKNOWN: EndReason.NONE,
}


def state_and_end(state: int, reason: int) -> tuple[DomainState, EndReason]:
    """Of ``virDomainGetState``'s two numbers."""
    if state == libvirt.VIR_DOMAIN_SHUTOFF:
        return DomainState.DEFINED, _ENDS.get(reason, EndReason.NONE)
    if state == libvirt.VIR_DOMAIN_CRASHED:
        return DomainState.DEFINED, EndReason.CRASHED
    if state == libvirt.VIR_DOMAIN_PAUSED:
        io_error = reason == libvirt.VIR_DOMAIN_PAUSED_IOERROR
        return (DomainState.IO_ERROR if io_error else DomainState.PAUSED), EndReason.NONE
    if state == libvirt.VIR_DOMAIN_PMSUSPENDED:
        return DomainState.PAUSED, EndReason.NONE
    if state == libvirt.VIR_DOMAIN_SHUTDOWN:
        return DomainState.SHUTTING_DOWN, EndReason.NONE
    return DomainState.RUNNING, EndReason.NONE
