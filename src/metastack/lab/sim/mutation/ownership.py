"""What keeps disks and images from being lost, as mutations: marks, records, the second clock, "made".

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent

LOST: Final = "test:unit/agent/test_nothing_is_lost.py"
_MARKS: Final = "ports.ownership"

OWNER: Final[tuple[Mutation, ...]] = (
    # --- made once
    Mutation(
        "made-once",
        "a disk that was made is made no second time",
        agent(
            "reconcile.vm_disk",
            "_was_made",
            "return not memory.new_disk if made is None else made",
            "return False",
        ),
        ("disk-renamed-by-hand",),
        evidence="destroyed",
    ),
    Mutation(
        "made-written",
        "that a disk was made is written down before anything boots from it",
        agent("reconcile.vm_disk", "VmDisk.prepare", "record.made and marked and trashed is None", "True"),
        ("disk-renamed-by-hand",),
        evidence="destroyed",
    ),
    Mutation(
        "made-older",
        "a disk of which an older record says nothing counts as made",
        agent(
            "reconcile.vm_disk",
            "_was_made",
            "return not memory.new_disk if made is None",
            "return False if made is None",
        ),
        (LOST,),
        evidence="test",
        because="today's agents write no such record",
    ),
    Mutation(
        "put-back",
        "the disk of a spec that was away is taken out of the trash, never made afresh",
        agent("reconcile.vm_disk", "VmDisk._put_back", "if entry is None:", "if True:"),
        ("spec-is-away-for-a-while",),
        evidence="destroyed",
    ),
    # --- who names it
    Mutation(
        "named-by-any-spec",
        "no disk goes to the trash while a spec of any name has its UUID",
        agent("upkeep.sweeper", "Sweeper.disk", "if await self._remover.used(uuid):", "if False:"),
        ("spec-renamed-by-hand",),
        evidence="destroyed",
    ),
    Mutation(
        "named-in-the-trash",
        "no disk goes for good while a spec of any name has its UUID",
        agent("upkeep.removal", "Remover._purge", "if await self.used(record.uuid):", "if False:"),
        ("spec-is-away-for-a-while",),
        evidence="destroyed",
    ),
    # --- the trash
    Mutation(
        "two-clocks",
        "a retention is over by the time that agents counted, too",
        agent("upkeep.removal", "Remover._purge", "if left_s > 0 or early_s > 0:", "if early_s > 0:"),
        ("clock-two-days-ahead", LOST),
        evidence="expected",
        because="no judge counts retentions: the VM is gone, and its disk may go some day",
    ),
    Mutation(
        "trash-record",
        "what goes to the trash is written down before it is moved",
        agent(
            "upkeep.removal",
            "Remover.to_trash",
            "if not await node.commit(disk_life.trash(node.keys, node.session.me, volume, going, old)):",
            "if False:",
        ),
        ("spec-is-away-for-a-while",),
        evidence="destroyed",
    ),
    # --- whose it is
    Mutation(
        "mark-to-remove",
        "an object is removed only when it bears our mark, or none and a record of before names it",
        (Patch(_MARKS, "refuse_to_remove", "match standing(found, ident, mark):", "match Standing.OURS:"),),
        (LOST,),
        evidence="test",
        because="the simulated pool has one cluster only",
    ),
    Mutation(
        "mark-of-its-own-id",
        "a mark counts on the object that it was written for",
        (Patch(_MARKS, "standing", "if found.ident and not same_object(found.ident, ident):", "if False:"),),
        ("test:unit/storage/test_marks.py",),
        evidence="test",
        because="nobody copies a disk in the simulated pool",
    ),
    Mutation(
        "mark-to-use",
        "a disk that bears another's mark is not used",
        (Patch(_MARKS, "refuse_to_use", "case Standing.OTHER:", "case Standing.OTHER if False:"),),
        ("test:unit/storage/test_marks.py",),
        evidence="test",
        because="the simulated pool has one cluster only",
    ),
    Mutation(
        "import-mark",
        "what an importer left goes only with its mark",
        agent("upkeep.removal", "Remover._drop_import", "unmarked=False", "unmarked=True"),
        (LOST,),
        evidence="test",
        because="no judge watches images",
    ),
    Mutation(
        "each-for-itself",
        "one that cannot be removed keeps no other from its turn",
        agent("upkeep.removal", "Remover.trash", "                continue\n", "                return\n"),
        (LOST,),
        evidence="test",
        because="nothing is lost: the rest of the trash stays for ever",
    ),
)
