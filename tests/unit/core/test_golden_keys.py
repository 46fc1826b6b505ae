"""Keys come apart as they went together, prefixes cover what is under them, tokens keep their order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.core import model
from metastack.core.model import VmId, valid_name
from metastack.core.state.keys import Keys, Kind, prefix_end

LABEL = st.from_regex(model.NAME_RE, fullmatch=True)
IDENT = st.text("0123456789abcdef-", min_size=1, max_size=36)
ROOT = st.sampled_from(["/metastack", "/m", "/shared/cluster-1"])
MOMENT = st.integers(0, 10**13)

BUILD: dict[Kind, tuple[st.SearchStrategy[tuple[object, ...]], Callable[..., str]]] = {
    Kind.CLUSTER: (st.just(()), Keys.cluster),
    Kind.GENERATION: (st.just(()), Keys.generation),
    Kind.STORAGE: (st.just(()), Keys.storage),
    Kind.TRASH: (st.tuples(LABEL), Keys.trash),
    Kind.COUNTED: (st.just(()), Keys.counted),
    Kind.IMPORT: (st.tuples(LABEL), Keys.import_of),
    Kind.ADMISSION: (st.just(()), Keys.admission),
    Kind.BACKUP: (st.just(()), Keys.backup),
    Kind.PROJECT: (st.tuples(LABEL), Keys.project),
    Kind.IMAGE: (st.tuples(LABEL), Keys.image),
    Kind.VM_SPEC: (st.tuples(st.builds(VmId, LABEL, LABEL)), Keys.vm_spec),
    Kind.NODE_SPEC: (st.tuples(LABEL), Keys.node_spec),
    Kind.CLAIM: (st.tuples(st.builds(VmId, LABEL, LABEL)), Keys.claim),
    Kind.NODE_FACTS: (st.tuples(LABEL), Keys.node_facts),
    Kind.FENCE: (st.tuples(LABEL), Keys.fence),
    Kind.HALT: (st.tuples(st.builds(VmId, LABEL, LABEL)), Keys.halt),
    Kind.GROUP: (st.tuples(LABEL, IDENT, IDENT), Keys.group),
    Kind.HINT: (st.tuples(st.builds(VmId, LABEL, LABEL)), Keys.hint),
    Kind.PENALTY: (st.tuples(st.builds(VmId, LABEL, LABEL), LABEL), Keys.penalty),
    Kind.LEADER: (st.just(()), Keys.leader),
    Kind.NODE_ALIVE: (st.tuples(LABEL), Keys.node_alive),
    Kind.VM_STATUS: (st.tuples(st.builds(VmId, LABEL, LABEL)), Keys.vm_status),
    Kind.VOLUME: (st.tuples(LABEL, IDENT), Keys.volume),
    Kind.EVENT: (st.tuples(MOMENT, IDENT), Keys.event),
    Kind.HISTORY: (st.tuples(st.builds(VmId, LABEL, LABEL), st.integers(0, 10**15)), Keys.history),
    Kind.TICKET: (st.tuples(IDENT), Keys.ticket_as_told),
    Kind.REFUSAL: (st.tuples(LABEL), Keys.refusal),
    Kind.REMOVAL: (st.tuples(LABEL), Keys.removal),
    Kind.SILENCED: (st.just(()), Keys.silenced),
    Kind.MAINTENANCE: (st.just(()), Keys.maintenance),
    Kind.SECRET: (st.tuples(LABEL), Keys.secret),
    Kind.HOST_RETURN: (st.tuples(LABEL), Keys.host_return),
    Kind.TOKEN: (st.tuples(IDENT), Keys.token),
    Kind.CREDENTIAL: (st.tuples(LABEL), Keys.credential),
    Kind.CLUSTER_SHUTDOWN: (st.just(()), Keys.cluster_shutdown),
    Kind.BREAK_LOCK: (st.tuples(st.builds(VmId, LABEL, LABEL)), Keys.break_lock),
}


def names_of(arguments: tuple[object, ...]) -> list[str]:
    """The texts that went in, flat; numbers are left out (they are formatted)."""
    names: list[str] = []
    for argument in arguments:
        if isinstance(argument, VmId):
            names += [argument.project, argument.name]
        elif isinstance(argument, str):
            names.append(argument)
    return names


def test_every_kind_is_tried() -> None:
    assert set(BUILD) == set(Kind)


@pytest.mark.parametrize("kind", list(Kind))
@given(data=st.data(), root=ROOT)
def test_a_key_comes_apart_as_it_went_together(kind: Kind, data: st.DataObject, root: str) -> None:
    strategy, build = BUILD[kind]
    arguments = data.draw(strategy)
    keys = Keys(root)
    key = build(keys, *arguments)
    parsed = keys.parse(key)
    assert parsed is not None
    assert parsed.kind is kind
    assert list(parsed.names)[: len(names_of(arguments))] == names_of(arguments) or kind is Kind.EVENT
    if any(isinstance(argument, VmId) for argument in arguments):
        assert parsed.vm == arguments[0]
    if parsed.names:
        assert key.startswith(keys.prefix(kind))
    assert key.startswith(keys.prefix())
    assert Keys("/another").parse(key) is None


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.data()), min_size=2, max_size=2))
def test_two_kinds_never_share_a_key(drawn: list[tuple[Kind, st.DataObject]]) -> None:
    (one, data_one), (other, data_other) = drawn
    keys = Keys()
    key_one = BUILD[one][1](keys, *data_one.draw(BUILD[one][0]))
    key_other = BUILD[other][1](keys, *data_other.draw(BUILD[other][0]))
    assert one is other or key_one != key_other


@given(st.text())
def test_parse_never_raises(text: str) -> None:
    keys = Keys()
    keys.parse(text)
    keys.parse(f"{keys.root}/{text}")
    for kind in Kind:
        keys.parse(keys.prefix(kind) + text)


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "desired/vms/a",
        "desired/vms/a/b/c",
        "desired/vms/a//",
        "desired/vms/A/b",
        "desired/vms/-a/b",
        "desired/vms/a/b/",
        "claims/a/" + "x" * 64,
        "actual/nodes/..",
        "config",
        "config/cluster/x",
        "nobody/knows",
    ],
)
def test_keys_that_are_not_ours(rest: str) -> None:
    assert Keys().parse(f"/metastack/{rest}") is None


@pytest.mark.parametrize("name", ["", "a/b", "/"])
def test_a_name_that_would_leave_its_place_is_refused(name: str) -> None:
    with pytest.raises(ValueError):
        Keys().node_alive(name)


@pytest.mark.parametrize("root", ["", "metastack", "/metastack/", "/", "//x"])
def test_roots(root: str) -> None:
    with pytest.raises(ValueError):
        Keys(root)


@given(st.integers(0, 10**14 - 1), st.integers(0, 10**14 - 1), IDENT, IDENT)
def test_event_keys_sort_by_time(one: int, other: int, a: str, b: str) -> None:
    keys = Keys()
    if one != other:
        assert (keys.event(one, a) < keys.event(other, b)) is (one < other)
    start, end = keys.events_before(other)
    assert (start <= keys.event(one, a) < end) is (one < other)


@given(st.text(min_size=1, max_size=5), st.binary(max_size=6), st.binary(max_size=8))
def test_prefix_end_of_any_text(prefix: str, more: bytes, other: bytes) -> None:
    raw, end = prefix.encode(), prefix_end(prefix)
    assert raw <= raw + more < end
    assert (raw <= other < end) is other.startswith(raw)


def test_prefix_end_edges() -> None:
    assert prefix_end("a") == b"b"
    assert prefix_end("a/") == b"a0"
    assert prefix_end("") == b"\0"  # etcd's "to the end of all keys"


# --- names


@pytest.mark.parametrize("name", ["a", "0", "a-b", "x" * 63, "n1"])
def test_valid_names(name: str) -> None:
    assert valid_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "x" * 64, "ä", "a\n", "a b", "a/b"])
def test_invalid_names(name: str) -> None:
    assert not valid_name(name)


# --- tokens: (generation, revision) as one integer

GENERATION = st.integers(0, 511)
REVISION = st.integers(0, (1 << 44) - 1)


@given(GENERATION, REVISION, GENERATION, REVISION)
def test_tokens_order_as_their_pairs_do(g1: int, r1: int, g2: int, r2: int) -> None:
    assert (model.token(g1, r1) < model.token(g2, r2)) is ((g1, r1) < (g2, r2))


@given(GENERATION, REVISION)
def test_a_token_comes_apart_and_fits_a_javascript_number(generation: int, revision: int) -> None:
    value = model.token(generation, revision)
    assert (model.token_generation(value), model.token_revision(value)) == (generation, revision)
    assert value < 1 << 53


@pytest.mark.parametrize("revision", [-1, 1 << 44])
def test_a_revision_that_would_spill_is_refused(revision: int) -> None:
    with pytest.raises(ValueError):
        model.token(0, revision)


@given(GENERATION, REVISION.filter(bool), st.integers(1, 1 << 52))
def test_a_stored_epoch_of_zero_means_the_puts_own_revision(generation: int, revision: int, epoch: int) -> None:
    claim = model.Claim(
        node="n1", session=1, uuid="u", volume_uuid="v", claim_id="c", generation=generation, epoch=0
    )
    assert model.resolved_claim(claim, revision).epoch == model.token(generation, revision)
    numbered = model.Claim(node="n1", session=1, uuid="u", volume_uuid="v", claim_id="c", epoch=epoch)
    assert model.resolved_claim(numbered, revision).epoch == epoch


@given(GENERATION, REVISION.filter(bool), st.integers(1, 1 << 52))
def test_an_open_intent_reaches_its_puts_own_revision(generation: int, revision: int, through: int) -> None:
    closed = model.Fence(through=through, generation=generation)
    assert model.resolved_intent(closed, revision) == 0
    opened = model.Fence(through=through, intent=True, generation=generation)
    assert model.resolved_intent(opened, revision) == model.token(generation, revision)
    inherited = model.Fence(intent=True, intent_through=through, generation=generation)
    assert model.resolved_intent(inherited, revision) == through
