"""Commands about the cluster as a whole: status, settings, projects, storage, upgrades, restores.

Owns: validation, and one transaction each.
Refuses: printing (cli/) and rights of agents.
Start reading at ``status.py``.
"""
