"""The etcd history: which etcd this node's numbers are of, and the highest of them, on its own disk.

Owns: noticing that an etcd does not have the history that this node has seen: another cluster, a revision or a
raft term below one that was seen, a generation that went back, or one that does not know this node at all.
Refuses: deciding that it is all right. Only the true etcd, or a raised generation, ends a refusal.
Rule: sessions, epochs and fences are revisions. In an etcd that went back they would be given a second time,
and its claims tell of a time that is over; so nothing is claimed, booted, killed or fenced by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
import structlog
from msgspec import Struct

from ...core.domains import Domain
from ...core.model import Generation, token_generation, token_revision
from ...core.state.cluster_state import seen
from ...core.state.keys import Keys
from ...core.transaction import Snapshot
from ...ports import LocalTrouble
from .state_files import StateFiles

log = structlog.get_logger()


class SeenEtcd(Struct, frozen=True, kw_only=True):
    """What this node has seen, as it lies in ``state_dir``."""

    generation: int = 0
    cluster_id: int = 0
    revision: int = 0
    term: int = 0
    went_back: bool = False
    """The revisions of this very generation and cluster went back once: that they grew since proves nothing."""


class RevisionFloor(Struct, frozen=True, kw_only=True):
    """What was known when something was asked."""

    history: int = 0
    """Which of those that this process has believed."""
    revision: int = 0
    """No answer may be of a lower one."""


class EtcdHistory:
    """What this node knows, and why it does not believe the etcd that it reaches."""

    def __init__(self, name: str, keys: Keys, state_files: StateFiles) -> None:
        self.why = ""
        """Why nothing may be done; empty: nothing speaks against this etcd."""
        self.is_foreign = False
        """It is not even known whether that etcd is this node's: it does not know the node."""
        self.noticed: Callable[[], None] = lambda: None
        """Called when a refusal begins."""
        self.restarted: Callable[[], None] = lambda: None
        """Called when another history is believed from now on: revisions seen before mean nothing in it."""
        self._name, self._keys, self._state_files = name, keys, state_files
        text = state_files.etcd() if state_files.joined() else ""
        self._known: SeenEtcd | None = msgspec.json.decode(text, type=SeenEtcd) if text else None
        self._kept = self._known
        self.history = 0
        """How many were believed before the one that is now."""

    @property
    def known(self) -> SeenEtcd:
        return self._known or SeenEtcd()

    @property
    def doubt(self) -> str:
        """Why an answer was not believed just now."""
        return self.why or "asked for in a history that is over"

    @property
    def floor(self) -> RevisionFloor:
        """By which an answer to a question that is asked now is judged."""
        return RevisionFloor(history=self.history, revision=self.known.revision)

    def try_keep(self) -> str:
        """Make durable what was seen, as far as the disk allows; why it does not, empty: it did.

        Safety: what is not kept is still known to this process, and no session is ready before :meth:`keep`.
        """
        try:
            self.keep()
        except LocalTrouble as error:
            return str(error)
        return ""

    def keep(self) -> None:
        """Make durable what was seen; raises LocalTrouble. Before a session is used."""
        if self._known is not None and self._known != self._kept:
            self._state_files.keep_etcd(msgspec.json.encode(self._known).decode())
            self._kept = self._known

    # --- what is seen

    def note_revision(self, revision: int) -> None:
        """An event or an answer of the etcd that is believed."""
        if not self.why and self._known is not None and revision > self._known.revision:
            self._known = msgspec.structs.replace(self._known, revision=revision)

    def note_domain_epochs(self, domains: Iterable[Domain]) -> None:
        """This node's own domains carry revisions too: of their claims, which were written before they were
        booted.

        Safety: they are as durable as the guests themselves, so an agent that died before it kept what it saw
        has not forgotten what matters.
        """
        tokens = [number for d in domains if d.managed for number in (d.session, d.epoch)]
        known = self.known
        highest = max((token_revision(t) for t in tokens if token_generation(t) == known.generation), default=0)
        if highest > known.revision and self._known is not None and not self.why:
            self._refuse(
                f"etcd is at revision {known.revision}, and a guest here was started under revision {highest}",
                went_back=True,
            )

    def answered(self, floor: RevisionFloor, revision: int, cluster_id: int) -> bool:
        """An answer to a request that was sent when ``floor`` was known; false: it is not of this history."""
        known = self.known
        if floor.history != self.history:
            return False  # whichever etcd says it: its number is no mark of the one that is believed by now
        if known.cluster_id and cluster_id not in (0, known.cluster_id):
            self._refuse(self._another(cluster_id))
        elif revision < floor.revision:
            self._refuse(self._below(revision, floor), went_back=True)
        else:
            self.note_revision(revision)
        return not self.why

    def judge(self, snapshot: Snapshot, floor: RevisionFloor) -> bool:
        """Whether this listing may be believed; ``floor`` is what was known when it was asked for."""
        if floor.history != self.history:
            return False  # asked for in another history: neither its age nor its generation says anything
        joined = self._state_files.joined()
        # The person who removed the mark says so: this is a new node, in any cluster.
        known = self._known if joined or not self.why else None
        generation = self._generation(snapshot)
        self.is_foreign = joined and not self._knows_me(snapshot)
        fresh = SeenEtcd(
            generation=generation,
            cluster_id=snapshot.cluster_id,
            revision=snapshot.revision,
            term=snapshot.term,
        )
        if self.is_foreign:
            self._refuse(
                f"this etcd does not know node {self._name}, which joined a cluster before: wrong endpoints, "
                "root or name, or a lost or restored etcd? To join this one as a new node, remove the file "
                "'joined' from state_dir; guests here without a claim in this etcd are then killed"
            )
        elif known is None:
            again = self._known is not None
            self._believe(fresh)
            if again:
                self._begin_again()
        elif generation > known.generation:
            log.warning("generation_raised", node=self._name, before=known.generation, now=generation)
            self._believe(fresh)
            self._begin_again()
        elif generation < known.generation:
            self._refuse(
                f"the cluster's generation is {generation}, this node knows {known.generation}: "
                "an older backup was restored"
            )
        elif known.cluster_id != snapshot.cluster_id:
            self._refuse(self._another(snapshot.cluster_id))
        elif snapshot.revision < floor.revision:
            self._refuse(self._below(snapshot.revision, floor), went_back=True)
        elif snapshot.term < known.term:
            self._refuse(
                f"etcd's raft term is {snapshot.term}, this node has seen {known.term}", went_back=True
            )
        elif known.went_back:
            self._refuse("etcd's revisions went back once, and have grown since")
        else:
            if self.why:
                log.warning("etcd_recovered", node=self._name)
            self._known = msgspec.structs.replace(
                known, revision=max(known.revision, snapshot.revision), term=snapshot.term
            )
            self.why = ""
        return not self.why

    def forked(self, key: str) -> None:
        """A later listing has an earlier version of that key."""
        self._refuse(f"etcd has an older version of {key} than this node has seen", went_back=True)

    # --- inside

    def _believe(self, known: SeenEtcd) -> None:
        self._known, self.why = known, ""
        self.try_keep()

    def _begin_again(self) -> None:
        self.history += 1
        self.restarted()

    def _refuse(self, why: str, went_back: bool = False) -> None:
        began, self.why = not self.why, why
        if went_back and self._known is not None:
            # Safety: durable, for the revisions grow again, and a restart would find nothing strange then.
            self._known = msgspec.structs.replace(self._known, went_back=True)
        self.try_keep()  # until it is, every full look tries it again
        if began:
            log.error("etcd_rolled_back", node=self._name, why=why)
            self.noticed()

    def _another(self, cluster_id: int) -> str:
        return f"this is another etcd ({cluster_id:x}) than the one that was seen ({self.known.cluster_id:x})"

    def _below(self, revision: int, floor: RevisionFloor) -> str:
        return f"etcd is at revision {revision}, this node has seen {floor.revision}"

    def _generation(self, snapshot: Snapshot) -> int:
        """One that cannot be read counts as the one that is known.

        No session begins then (agent/session/identity).
        """
        entry = next((e for e in snapshot.entries if e.key == self._keys.generation()), None)
        if entry is None:
            return 0
        record = seen(Generation, entry).record
        return record.generation if record is not None else self.known.generation

    def _knows_me(self, snapshot: Snapshot) -> bool:
        """Its record of this name may be another machine's, or not readable: that is asked before a session.

        A node that a person removed was fenced before, and its fence stays: it begins as a new one.
        """
        mine = (self._keys.node_facts(self._name), self._keys.fence(self._name))
        return any(entry.key in mine for entry in snapshot.entries)
