"""The hypervisor port on libvirt.

Owns: connections, domain XML, events, consoles.
Refuses: knowing claims.
Start reading at ``hypervisor.py``.
"""
