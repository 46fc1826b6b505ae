"""The hypervisor port in memory: passes the same contract suite as libvirt.

Owns: what a hang, a lost reply and a dead daemon do.
Refuses: being quicker than the real one.
Start reading at ``hypervisor.py``.
"""
