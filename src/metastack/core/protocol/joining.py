"""A node joins by a token and is forgotten again: each transaction with the argument for its guards.

Owns: what is compared and written when a token is made, spent and withdrawn, and when a node's credentials are
given and taken back. Refuses: keys, certificates and users (:mod:`metastack.commands.joining`).
Rule: users and certificates are made before the transaction that gives them out, and taken back after the one
that says so. So whoever dies in between leaves something to finish, and never something that nobody knows of.
"""

from __future__ import annotations

from msgspec.structs import replace

from ..model import Credential, JoinAnswer, JoinRequest, JoinToken, NodeSpec
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys, prefix_end
from ..transaction import Delete, Guard, Put, Transaction
from .guards import absent, unchanged


def sign_token(keys: Keys, found: Seen[JoinToken], signed: JoinToken) -> Transaction:
    """Give the bearer's certificate out. Safety: the record is as it was read, so one that was withdrawn
    meanwhile stays so, and of two that sign, one certificate is in the token."""
    key = keys.token(signed.id)
    return Transaction(name="sign_token", guards=(unchanged(key, found),), effects=(Put(key, encode(signed)),))


def admit_node(
    keys: Keys,
    token: Seen[JoinToken],
    request: Seen[JoinRequest],
    before: Seen[Credential] | None,
    given: Credential,
    answer: JoinAnswer,
    spec: NodeSpec | None,
    spent_on: str,
) -> Transaction:
    """Spend the token, record what the node is given, and answer.

    Safety:

    - The token is as it was read: of two requests that race, or two ``pki serve``, one is admitted; the other
      looks again and finds the token used. A token that was withdrawn meanwhile admits nobody.
    - The answer is put under the token's lease. etcd refuses the whole if that ended: expiry is decided in this
      very transaction, by the one clock that counts it.
    - The node's credentials are as they were read: a removal under way, or a join by another token, is seen.
    - The node is not alive in this very transaction: a name is one machine's.
    - The request is as it was read: the answer is to the key that was checked.
    - The node's spec is put only if it has none: a cordon or label that a person set stays.
    """
    node, ident = given.node, token.ok.id
    guards = [
        unchanged(keys.token(ident), token),
        unchanged(keys.join_request(ident), request),
        unchanged(keys.credential(node), before),
    ]
    if before is None or before.ok.key_hash != given.key_hash:
        guards.append(absent(keys.node_alive(node)))
    effects: list[Put | Delete] = [
        Put(keys.token(ident), encode(replace(token.ok, spent_on=spent_on))),
        Put(keys.credential(node), encode(given)),
        Put(keys.join_answer(ident), encode(answer), leased=True),
    ]
    if spec is not None:
        guards.append(absent(keys.node_spec(node)))
        effects.append(Put(keys.node_spec(node), encode(spec)))
    return Transaction(name="admit_node", guards=tuple(guards), effects=tuple(effects), lease=token.ok.lease)


def turn_away(keys: Keys, ident: str, request_mod: int, answer: JoinAnswer) -> Transaction:
    """Tell a bearer why not. Safety: nothing is spent; a newer request is not answered by an older refusal."""
    return Transaction(
        name="turn_away",
        guards=(Guard(keys.join_request(ident), "mod", request_mod),),
        effects=(Put(keys.join_answer(ident), encode(answer)),),
    )


def withdraw_token(keys: Keys, found: Seen[JoinToken]) -> Transaction:
    """Make a token of no use. Safety: it is as it was read; one that was spent meanwhile is looked at again."""
    key = keys.token(found.ok.id)
    return Transaction(
        name="withdraw_token",
        guards=(unchanged(key, found),),
        effects=(Put(key, encode(replace(found.ok, withdrawn=True))),),
    )


def forget_token(keys: Keys, found: Seen[JoinToken]) -> Transaction:
    """Delete a token that is over, with what its bearer wrote.

    Safety: its user of etcd is gone before, so the bearer writes nothing after; the record named that user.
    """
    prefix = keys.join_prefix(found.ok.id)
    return Transaction(
        name="forget_token",
        guards=(unchanged(keys.token(found.ok.id), found),),
        effects=(Delete(keys.token(found.ok.id)), Delete(prefix, prefix_end(prefix).decode())),
    )


def take_back(keys: Keys, found: Seen[Credential], by: str, reason: str) -> tuple[Guard, Put]:
    """What the removal of a node adds to its transaction: everything that it was given is to be taken back.

    Safety: the record is as it was read, so a join that was admitted meanwhile makes the removal look again,
    and one that comes later sees the mark. It stays until each part is gone, so a crash forgets none.
    """
    key = keys.credential(found.ok.node)
    marked = replace(found.ok, removing=True, by=by, reason=reason)
    return unchanged(key, found), Put(key, encode(marked))


def remove_newcomer(keys: Keys, node: str, spec: Seen[NodeSpec] | None) -> Transaction:
    """Forget a node that joined and never had a session.

    Safety: it has neither alive key nor facts in this very transaction. A session writes its addresses before
    it uses the storage, so none of this name has, and there is nothing to fence. If its agent registers after
    this, it is a node without credentials: lost within a lease, fenced and removed as every other one.
    """
    return Transaction(
        name="remove_newcomer",
        guards=(
            absent(keys.node_alive(node)),
            absent(keys.node_facts(node)),
            unchanged(keys.node_spec(node), spec),
        ),
        effects=(Delete(keys.node_spec(node)), Delete(keys.refusal(node)), Delete(keys.removal(node))),
    )


def taken_back(keys: Keys, found: Seen[Credential], left: Credential) -> Transaction:
    """Say that everything was taken back; revoked serials stay, for the CA folder of every host.

    Safety: the mark is as it was read: nobody joined meanwhile whose user would be thought gone.
    """
    key = keys.credential(left.node)
    return Transaction(name="taken_back", guards=(unchanged(key, found),), effects=(Put(key, encode(left)),))
