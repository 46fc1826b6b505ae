"""Chaos on real parts: a cluster of its own, faults by seed, and a judge who reads the disks.

Owns: ``metastack dev chaos``. Refuses: knowing how a fence works; it believes records on disks and what guests
said on their consoles, nothing that an agent says of itself.
Rule: what is played depends on the seed alone (:mod:`.schedule`), the verdict on records alone (:mod:`.judge`);
both are pure.
"""
