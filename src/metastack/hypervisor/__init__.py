"""The hypervisor port: on libvirt, and in memory.

Owns: domains, their consoles and QEMU processes. Refuses: knowing claims.
Start reading at ``libvirt/hypervisor.py``.
"""
