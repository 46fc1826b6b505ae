"""The grammar of the placement options: what is printed can be typed again, and what is wrong is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metastack.commands import names
from metastack.commands.node.change import taint_changes
from metastack.commands.problem import Code, Problem
from metastack.commands.vm.placement_options import (
    PlacementOptions,
    demands_text,
    expression,
    options_of,
    resources,
)
from metastack.core.model import (
    GroupTerm,
    Ha,
    NodeExpression,
    Operator,
    Placement,
    SpreadTerm,
    Toleration,
    VmSpec,
)

key_st = st.from_regex(r"[a-z][a-z0-9._/-]{0,8}[a-z0-9]", fullmatch=True)
value_st = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters=" ._/-+="), max_size=8
).filter(lambda value: not value.startswith("="))
labels_st = st.dictionaries(key_st, value_st, min_size=1, max_size=3)
weight_st = st.floats(0, 100, allow_nan=False)
name_st = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
word_st = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)


def soft(kind: type, **more: st.SearchStrategy) -> st.SearchStrategy:  # type: ignore[type-arg]
    """Terms: a required one has no weight to say."""
    hard = st.builds(kind, labels=labels_st, topology=key_st, **more)
    return hard | st.builds(
        kind, labels=labels_st, topology=key_st, required=st.just(False), weight=weight_st, **more
    )


expression_st = (
    st.builds(NodeExpression, key=key_st, operator=st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST]))
    | st.builds(
        NodeExpression,
        key=key_st,
        operator=st.sampled_from([Operator.IN, Operator.NOT_IN]),
        # One may be empty (zone= is a label); among others it is a comma too many.
        values=st.lists(value_st, min_size=1, max_size=3).map(
            lambda values: tuple(value for value in values if value) or ("",)
        ),
    )
    | st.builds(
        NodeExpression,
        key=key_st,
        operator=st.sampled_from([Operator.GT, Operator.LT]),
        values=st.integers(-99, 99).map(lambda n: (str(n),)),
    )
)


def possible(place: Placement) -> bool:
    """Nothing that it must be near is something that it must be away from: that cannot be typed."""
    near = [(term.topology, set(term.labels.items())) for term in place.affinity if term.required]
    away = [(term.topology, set(term.labels.items())) for term in place.anti_affinity if term.required]
    return not any(t == u and b <= a for t, a in near for u, b in away)


placement_st = st.builds(
    Placement,
    node=st.just("") | name_st,
    node_selector=st.dictionaries(key_st, value_st, max_size=3),
    expressions=st.lists(expression_st, max_size=3).map(tuple),
    tolerations=st.lists(
        st.builds(Toleration, key=st.just("") | key_st, value=st.none() | value_st), max_size=3
    ).map(tuple),
    affinity=st.lists(soft(GroupTerm), max_size=2).map(tuple),
    anti_affinity=st.lists(soft(GroupTerm), max_size=2).map(tuple),
    spread=st.lists(soft(SpreadTerm, max_skew=st.integers(1, 1000)), max_size=2).map(tuple),
    arch=st.just("") | word_st,
    cpu_features=st.lists(word_st, max_size=2).map(tuple),
).filter(possible)
ha_st = st.builds(
    Ha,
    priority=st.integers(-1000, 1000),
    start_after=st.lists(name_st, max_size=3, unique=True).map(tuple),
    ready_port=st.integers(0, 65535),
)


def spec(placement: Placement, ha: Ha, wanted: dict[str, int] | None = None) -> VmSpec:
    return VmSpec(
        project="p", name="vm", uuid="u", image="i", image_uuid="i", volume_uuid="v", cpus=1, memory_mib=64,
        disk_bytes=1, placement=placement, ha=ha, resources=wanted or {},
    )  # fmt: skip


def typed(options: list[tuple[str, str]]) -> PlacementOptions:
    """The options as a command line would hand them over."""
    fields: dict[str, object] = {}
    for option, text in options:
        field = option.removeprefix("--").replace("-", "_")
        if field in ("node", "arch"):
            fields[field] = text
        elif field in ("priority", "ready_port"):
            fields[field] = int(text)
        elif field != "resource":
            fields.setdefault(field, []).append(text)  # type: ignore[attr-defined]
    return PlacementOptions(**fields)  # type: ignore[arg-type]


@given(placement_st, ha_st, st.dictionaries(word_st, st.integers(1, 1 << 40), max_size=3))
def test_what_is_printed_can_be_typed_again(placement: Placement, ha: Ha, wanted: dict[str, int]) -> None:
    options = list(options_of(spec(placement, ha, wanted)))
    assert typed(options).on(Placement(), Ha(), "p") == (placement, ha)
    assert resources([text for option, text in options if option == "--resource"]) == wanted
    assert len(demands_text(spec(placement, ha, wanted))) == len(options)


@given(st.sampled_from(["require_label", "toleration", "affinity", "anti_affinity", "spread", "cpu_feature",
                        "node_selector", "start_after"]), st.text(max_size=20))  # fmt: skip
def test_any_text_is_understood_or_refused_by_its_option(field: str, text: str) -> None:
    demands = PlacementOptions(**{field: [text]})  # type: ignore[arg-type]
    refused = None
    try:
        placement, ha = demands.on(Placement(), Ha(), "p")
    except Problem as problem:
        refused = problem
    if refused is not None:
        assert refused.code is Code.USAGE and refused.message
        return
    if text:
        # What was understood means the same when it is printed and typed again.
        again = typed(list(options_of(spec(placement, ha)))).on(Placement(), Ha(), "p")
        assert again == (placement, ha)


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("node_selector", "zone", "has no value"),
        ("require_label", "rank>x", "'x' in 'rank>x' is not a whole number"),
        ("require_label", "", ""),
        ("require_label", "a b", "not a valid key"),
        ("require_label", "=x", "is not a label requirement"),
        ("toleration", "a b", "not a valid key"),
        ("anti_affinity", "app", "'app' is not a label K=V"),
        ("anti_affinity", "app=web:prefered", "is not understood"),
        ("anti_affinity", "app=web:2", "only :preferred is allowed"),
        ("anti_affinity", "app=web:preferred=101", "is not a weight"),
        ("anti_affinity", "app=web:preferred=nan", "is not a weight"),
        ("affinity", "app=web,app=db", "app is given twice"),
        ("spread", "app=web", "lacks the topology to spread over"),
        ("spread", "app=web@zone:0", "0 is out of range"),
        ("node_selector", "zone==a", "the value of zone begins with ="),
        ("require_label", "zone!==a", "the value of zone begins with ="),
        ("require_label", "zone=a,=b", "the value of zone begins with ="),
        ("require_label", "rank>=3", "'=3' in 'rank>=3' is not a whole number"),
        ("toleration", "dedicated==db", "the value of dedicated begins with ="),
        ("spread", "app==web@zone", "the value of app begins with ="),
        ("start_after", "other/db", "is in another project"),
        ("cpu_feature", "a,b", "is not valid"),
        ("toleration", "dedicated=db:NoSchedule", "takes no effect"),
    ],
)
def test_errors_name_the_option_and_what_would_do(field: str, text: str, says: str) -> None:
    demands = PlacementOptions(**{field: [text, "app=x@y"] if not says else [text]})  # type: ignore[arg-type]
    with pytest.raises(Problem) as refused:
        demands.on(Placement(), Ha(), "p")
    assert refused.value.code is Code.USAGE
    assert says in refused.value.message
    assert "--" in refused.value.object or field == "start_after"


@pytest.mark.parametrize("text", ["gpu", "gpu=", "gpu=-1", "gpu=1.5", "g p=1", "gpu=²", f"gpu={1 << 41}"])
def test_amounts(text: str) -> None:
    with pytest.raises(Problem) as refused:
        resources([text])
    assert refused.value.object == "--resource"


def test_omitted_fields_stay_and_empty_ones_are_removed() -> None:
    before = Placement(node="n1", arch="x86_64", cpu_features=("avx",), node_selector={"zone": "a"})
    ha = Ha(priority=3, start_after=("db",))
    same = PlacementOptions().on(before, ha, "p")
    assert same == (before, ha)
    after, order = PlacementOptions(node="", cpu_feature=[""], priority=0, start_after=[""]).on(before, ha, "p")
    assert after == Placement(arch="x86_64", node_selector={"zone": "a"})
    assert order == Ha()
    assert PlacementOptions(cpu_feature=["aes"]).on(before, ha, "p")[0].cpu_features == ("aes",)


@pytest.mark.parametrize(
    ("parse", "text", "hint"),
    [
        (names.labels, "a==b", "write a=b"),
        (names.label_changes, "foo==a", "write foo=a"),
        (names.label_changes, "foo==", "write foo=VALUE"),
        (taint_changes, "dedicated==db:NoSchedule", "write dedicated=db"),
        (lambda texts: expression(texts[0]), "zone==a", "write zone=a"),
        (lambda texts: expression(texts[0]), "zone!==a", "write zone!=a"),
    ],
)
def test_two_equals_signs_are_no_value(parse: Callable[[list[str]], object], text: str, hint: str) -> None:
    with pytest.raises(Problem) as refused:
        parse([text])
    assert (refused.value.code, refused.value.hint) == (Code.USAGE, hint)
