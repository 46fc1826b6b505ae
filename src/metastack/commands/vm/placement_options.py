"""What a person demands of a VM's place, as it is typed: the grammar of the placement options, both ways.

Owns: turning option texts into :class:`Placement` and :class:`Ha`, and those back into the same texts.
Refuses: deciding where anything goes (:mod:`metastack.core.placement`).
Rule: what is printed can be typed again; an error names the option, shows the text and says what would do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct
from msgspec.structs import replace

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

from .. import names
from ..problem import Problem, usage

T = TypeVar("T")

MAX_TERMS: Final = 32
"""Of each kind: a claim proves every hard one in its transaction."""
MAX_AMOUNT: Final = 1 << 40

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
"""An architecture, a processor's flag, a resource."""
_EXPRESSION: Final = re.compile(r"(?P<key>[^=!<>]+)(?:(?P<operator>!=|=|<|>)(?P<values>.*))?", re.S)
_TERM: Final = re.compile(
    r"(?P<labels>[^@:]*)(?:@(?P<topology>[^@:]*))?(?::(?P<skew>\d+))?(?P<soft>:preferred(?:=(?P<weight>[^:]*))?)?"
)
_COMPARED: Final = {
    "=": Operator.IN,
    "!=": Operator.NOT_IN,
    ">": Operator.GT,
    "<": Operator.LT,
}


class PlacementOptions(Struct, frozen=True, kw_only=True):
    """The placement options of one command line. None: not said; a list with one empty text: none any more."""

    node: str | None = None
    node_selector: list[str] | None = None
    require_label: list[str] | None = None
    toleration: list[str] | None = None
    affinity: list[str] | None = None
    anti_affinity: list[str] | None = None
    spread: list[str] | None = None
    arch: str | None = None
    cpu_feature: list[str] | None = None
    priority: int | None = None
    start_after: list[str] | None = None
    ready_port: int | None = None

    @property
    def said(self) -> bool:
        """Anything was."""
        return any(getattr(self, field) not in (None, [], ()) for field in self.__struct_fields__)

    def on(self, placement: Placement, ha: Ha, project: str) -> tuple[Placement, Ha]:
        """Those demands with what was said here in place of what was there."""
        place: dict[str, Any] = {}
        if self.node is not None:
            place["node"] = names.name("--node", self.node) if self.node else ""
        if (selector := _all("--node-selector", self.node_selector, node_label)) is not None:
            place["node_selector"] = dict(sorted(selector))
        for field, option, texts, parse in (
            ("expressions", "--require-label", self.require_label, expression),
            ("tolerations", "--toleration", self.toleration, toleration),
            ("affinity", "--affinity", self.affinity, lambda text: group_term("--affinity", text)),
            (
                "anti_affinity",
                "--anti-affinity",
                self.anti_affinity,
                lambda text: group_term("--anti-affinity", text),
            ),
            ("spread", "--spread", self.spread, spread_term),
            ("cpu_features", "--cpu-feature", self.cpu_feature, lambda text: _word("--cpu-feature", text)),
        ):
            found: list[Any] | None = _all(option, texts, parse)
            if found is not None:
                place[field] = tuple(found)
        if self.arch is not None:
            place["arch"] = _word("--arch", self.arch) if self.arch else ""
        order: dict[str, Any] = {}
        if self.priority is not None:
            order["priority"] = _between("--priority", self.priority, -1000, 1000)
        if self.ready_port is not None:
            order["ready_port"] = _between("--ready-port", self.ready_port, 0, 65535)
        _refuse_contradiction(
            place.get("affinity", placement.affinity), place.get("anti_affinity", placement.anti_affinity)
        )
        after = _all("--start-after", self.start_after, lambda text: _neighbour(text, project))
        if after is not None:
            order["start_after"] = tuple(dict.fromkeys(after))
        return replace(placement, **place), replace(ha, **order)


def _refuse_contradiction(near: Sequence[GroupTerm], away: Sequence[GroupTerm]) -> None:
    """A VM that must be near and away from the same VMs fits nowhere, and would wait for ever."""
    for term in near:
        for other in away:
            within = other.labels.items() <= term.labels.items() and other.topology == term.topology
            if within and term.required and other.required:
                raise usage(
                    "--anti-affinity",
                    f"{term_text(other)!r} keeps it away from all that --affinity {term_text(term)!r} asks for",
                    "leave one of them out, or add :preferred to one",
                )


def _all(option: str, texts: Sequence[str] | None, parse: Callable[[str], T]) -> list[T] | None:
    """Each text parsed; an only empty one stands for none."""
    if texts is None or not len(texts):
        return None
    if list(texts) == [""]:
        return []
    if len(texts) > MAX_TERMS:
        raise usage(option, f"is given {len(texts)} times", f"at most {MAX_TERMS}")
    return [parse(text) for text in texts]


def _between(option: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise usage(option, f"{value} is out of range", f"{low} to {high}")
    return value


def _word(option: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise usage(option, f"{text!r} is not valid", "letters, digits, . _ and -, at most 63")
    return text


def _neighbour(text: str, project: str) -> str:
    vm = names.vm_id(text, "" if "/" in text else project)
    if vm.project != project:
        raise usage("--start-after", f"{text!r} is in another project", f"name a VM of project {project}")
    return vm.name


# --- each kind of text


def node_label(text: str) -> tuple[str, str]:
    """``K=V``."""
    key, equals, value = text.partition("=")
    if not equals:
        raise usage(
            "--node-selector",
            f"{text!r} has no value",
            f"such as zone=a; --require-label {text} requires only the label",
        )
    return _key("--node-selector", key), _value("--node-selector", key, value)


def _key(option: str, text: str) -> str:
    try:
        return names.label_key(text)
    except Problem as problem:
        raise usage(option, problem.message, problem.hint) from None


def _value(option: str, key: str, text: str, sign: str = "=") -> str:
    try:
        return names.label_value(key, text, sign)
    except Problem as problem:
        raise usage(option, problem.message, problem.hint) from None


def expression(text: str) -> NodeExpression:
    """``K``, ``!K``, ``K=V1,V2``, ``K!=V1,V2``, ``K>N``, ``K<N``."""
    option, hint = "--require-label", "such as gpu, !gpu, zone=a,b, zone!=a, generation>3, generation<3"
    if text.startswith("!"):
        return NodeExpression(key=_key(option, text[1:]), operator=Operator.DOES_NOT_EXIST)
    found = _EXPRESSION.fullmatch(text)
    if found is None:
        raise usage(option, f"{text!r} is not a label requirement", hint)
    key, sign = _key(option, found["key"]), found["operator"]
    if sign is None:
        return NodeExpression(key=key)
    if sign in "<>":
        try:
            values: tuple[str, ...] = (str(int(found["values"])),)
        except ValueError:
            raise usage(option, f"{found['values']!r} in {text!r} is not a whole number", hint) from None
    else:
        values = tuple(_value(option, key, value, sign) for value in found["values"].split(","))
    if len(values) > 1 and "" in values:
        raise usage(option, f"{text!r} has an empty value among others", hint)
    return NodeExpression(key=key, operator=_COMPARED[sign], values=values)


def toleration(text: str) -> Toleration:
    """``KEY``, ``KEY=VALUE``, or ``*`` for any key."""
    plain, colon, _ = text.partition(":")
    if colon:
        raise usage("--toleration", f"{text!r}: a toleration takes no effect, it covers all", f"write {plain}")
    key, equals, value = text.partition("=")
    name = "" if key == "*" else _key("--toleration", key)
    return Toleration(key=name, value=_value("--toleration", key, value) if equals else None)


def group_term(option: str, text: str) -> GroupTerm:
    """``LABELS[@TOPOLOGY][:preferred[=WEIGHT]]``."""
    hint = "such as app=web, app=web@zone, app=web,tier=db@rack:preferred=2"
    found = _term(option, text, hint)
    if found["skew"]:
        raise usage(option, f"{text!r} has a number where only :preferred is allowed", hint)
    return GroupTerm(
        labels=_labels(option, found["labels"], hint),
        topology=_topology(option, found["topology"], "node"),
        required=not found["soft"],
        weight=_weight(option, found["weight"]),
    )


def spread_term(text: str) -> SpreadTerm:
    """``LABELS@TOPOLOGY[:SKEW][:preferred[=WEIGHT]]``."""
    option, hint = "--spread", "such as app=web@zone, app=web@rack:2, app=web@node:1:preferred"
    found = _term(option, text, hint)
    if found["topology"] is None:
        raise usage(option, f"{text!r} lacks the topology to spread over", hint)
    return SpreadTerm(
        labels=_labels(option, found["labels"], hint),
        topology=_topology(option, found["topology"], ""),
        max_skew=_between(option, int(found["skew"] or 1), 1, 1000),
        required=not found["soft"],
        weight=_weight(option, found["weight"]),
    )


def _term(option: str, text: str, hint: str) -> re.Match[str]:
    found = _TERM.fullmatch(text)
    if found is None:
        raise usage(option, f"{text!r} is not understood (a label's value has no , @ or : here)", hint)
    return found


def _labels(option: str, text: str, hint: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals:
            raise usage(option, f"{part!r} is not a label K=V", hint)
        if key in labels:
            raise usage(option, f"label {key} is given twice", hint)
        labels[_key(option, key)] = _value(option, key, value)
    return dict(sorted(labels.items()))


def _topology(option: str, text: str | None, default: str) -> str:
    return default if text is None else _key(option, text)


def _weight(option: str, text: str | None) -> float:
    if text is None:
        return 1.0
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0.0 <= weight <= 100.0:
        raise usage(option, f"{text!r} is not a weight", "a number from 0 to 100")
    return weight


def resources(texts: Sequence[str]) -> dict[str, int]:
    """``NAME=N`` each."""
    found: dict[str, int] = {}
    for text in texts:
        name, equals, amount = text.partition("=")
        if not equals or not amount.isdecimal() or not amount.isascii():
            raise usage("--resource", f"{text!r} is not NAME=N", "such as gpu=1")
        if name in found:
            raise usage("--resource", f"{name} is given twice")
        found[_word("--resource", name)] = _between("--resource", int(amount), 0, MAX_AMOUNT)
    return {name: amount for name, amount in sorted(found.items()) if amount}


# --- and back


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def expression_text(e: NodeExpression) -> str:
    match e.operator:
        case Operator.EXISTS:
            return e.key
        case Operator.DOES_NOT_EXIST:
            return f"!{e.key}"
        case _:
            sign = next(sign for sign, operator in _COMPARED.items() if operator is e.operator)
            return f"{e.key}{sign}{','.join(e.values)}"


def toleration_text(t: Toleration) -> str:
    return (t.key or "*") + ("" if t.value is None else f"={t.value}")


def term_text(term: GroupTerm | SpreadTerm) -> str:
    text = ",".join(f"{key}={value}" for key, value in sorted(term.labels.items()))
    if isinstance(term, SpreadTerm):
        text += f"@{term.topology}" + (f":{term.max_skew}" if term.max_skew != 1 else "")
    elif term.topology != "node":
        text += f"@{term.topology}"
    if not term.required:
        text += ":preferred" + ("" if term.weight == 1.0 else f"={_number(term.weight)}")
    return text


def demands_text(spec: VmSpec) -> list[str]:
    """Everything that a VM demands of its place, as the options that would say it."""
    return [f"{option} {text}" for option, text in options_of(spec)]


def options_of(spec: VmSpec) -> Iterator[tuple[str, str]]:
    """Option and text of every demand."""
    place, ha = spec.placement, spec.ha
    if place.node:
        yield "--node", place.node
    yield from (("--node-selector", f"{key}={value}") for key, value in sorted(place.node_selector.items()))
    yield from (("--require-label", expression_text(e)) for e in place.expressions)
    yield from (("--toleration", toleration_text(t)) for t in place.tolerations)
    yield from (("--affinity", term_text(term)) for term in place.affinity)
    yield from (("--anti-affinity", term_text(term)) for term in place.anti_affinity)
    yield from (("--spread", term_text(term)) for term in place.spread)
    if place.arch:
        yield "--arch", place.arch
    yield from (("--cpu-feature", flag) for flag in place.cpu_features)
    yield from (("--resource", f"{name}={amount}") for name, amount in sorted(spec.resources.items()))
    if ha.priority:
        yield "--priority", str(ha.priority)
    yield from (("--start-after", name) for name in ha.start_after)
    if ha.ready_port:
        yield "--ready-port", str(ha.ready_port)
