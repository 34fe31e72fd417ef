"""A condition: a set of treatments and a context."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import FrozenInstanceError
from functools import total_ordering
from typing import Any, NoReturn

from cellgap.errors import ConditionError
from cellgap.study._dose import read_dose
from cellgap.study._quoting import quote, tokens
from cellgap.study._treatment import Treatment


@total_ordering
class Condition:
    """A set of treatments (none: control, two: a combination) and the context of the cells.

    Frozen, hashable, sortable (by treatments, then context). Equality does not depend on the order in which
    treatments or context names are given. ``str`` is the short form ``trametinib@1000nM + dexamethasone | A549``,
    ``repr`` names the context (``... | cell_line=A549``); ``parse`` reads both.

    Parameters
    ----------
    treatments
        One name, one ``Treatment``, or several of either. A text is a name as it stands; use ``parse`` for
        ``trametinib@1000nM``.
    dose
        Dose of the treatment, allowed where ``treatments`` is one name.
    unit
        Unit of ``dose``; None means the unit of the study.
    **context
        Context names and values, ``cell_line="A549"``.

    Raises
    ------
    ConditionError
        A treatment is named twice, or a dose comes without a single name that it belongs to.

    Examples
    --------
    >>> Condition("trametinib", dose=1000, unit="nM", cell_line="A549")
    trametinib@1000nM | cell_line=A549
    >>> str(Condition(cell_line="A549"))
    'control | A549'
    """

    __slots__ = ("_hash", "_key", "context", "treatments")

    treatments: tuple[Treatment, ...]
    context: tuple[tuple[str, str], ...]
    _key: tuple[Any, ...]
    _hash: int

    def __init__(
        self,
        treatments: "str | Treatment | Iterable[str | Treatment]" = (),
        *,
        dose: float | None = None,
        unit: str | None = None,
        **context: str,
    ) -> None:
        if dose is not None or unit is not None:
            if not isinstance(treatments, str):
                raise ConditionError(
                    "Condition(dose=..., unit=...) goes with one treatment name; for several treatments "
                    'give each its own: Condition([Treatment("a", 10, "nM"), Treatment("b", 5, "nM")]).'
                )
            treatments = Treatment(treatments, dose, unit)
        if isinstance(treatments, str | Treatment):
            treatments = (treatments,)
        members = [t if isinstance(t, Treatment) else Treatment(t) for t in treatments]
        self._set(members, sorted((str(k), str(v)) for k, v in context.items()))

    def _set(self, treatments: Iterable[Treatment], context: Iterable[tuple[str, str]]) -> None:
        members = tuple(sorted(treatments))
        for first, second in itertools.pairwise(members):
            if first.name == second.name:
                raise ConditionError(
                    f"A condition holds each treatment once, found {first} and {second}: name it with one dose."
                )
        pairs = tuple(context)
        object.__setattr__(self, "treatments", members)
        object.__setattr__(self, "context", pairs)
        key = (tuple(t.sort_key for t in members), tuple(sorted(pairs)))
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "_hash", hash(key))

    @classmethod
    def of(cls, treatments: Iterable[Treatment], context: Iterable[tuple[str, str]]) -> "Condition":
        """Return the condition of these treatments in this context, its names kept in the order given.

        Raises
        ------
        ConditionError
            A treatment or a context name comes twice.
        """
        pairs = [(str(k), str(v)) for k, v in context]
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            raise ConditionError(f"A condition holds each context name once, found {', '.join(names)}.")
        self = cls.__new__(cls)
        self._set(treatments, pairs)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the treatments, sorted."""
        return tuple(t.name for t in self.treatments)

    @property
    def sort_key(self) -> tuple[Any, ...]:
        """What conditions are ordered by: controls first. Sorting many conditions by it is quicker than without."""
        return self._key

    @property
    def is_control(self) -> bool:
        """Whether there is no treatment."""
        return not self.treatments

    @property
    def control(self) -> "Condition":
        """The control of the same context."""
        return Condition.of((), self.context)

    def with_dose(self, dose: float, unit: str | None = None) -> "Condition":
        """Return this condition at another dose; ``unit`` None keeps the unit it has.

        Raises
        ------
        ConditionError
            There is not exactly one treatment, so that it is unclear whose dose changes.
        """
        if len(self.treatments) != 1:
            raise ConditionError(
                f"with_dose needs a condition of exactly one treatment, found {self}; use with_treatments instead."
            )
        treatment = self.treatments[0]
        unit = treatment.unit if unit is None else unit
        return Condition.of((Treatment(treatment.name, dose, unit),), self.context)

    def with_treatments(self, treatments: Iterable[Treatment]) -> "Condition":
        """Return the condition of other treatments in the same context."""
        return Condition.of(treatments, self.context)

    def with_context(self, **context: str) -> "Condition":
        """Return this condition with these context values replaced or added."""
        return Condition.of(self.treatments, {**dict(self.context), **context}.items())

    @classmethod
    def parse(cls, text: str, context: Sequence[str] = ()) -> "Condition":
        """Return the condition that ``text`` writes, in the short or in the keyed form.

        Parameters
        ----------
        text
            ``trametinib@1000nM + dexamethasone | A549`` or ``... | cell_line=A549``; ``control`` for no treatment.
            Names that hold ``+ | @ = ,`` or start or end with a space stand in double quotes.
        context
            Context names, in the order of the values; needed for the short form only.

        Raises
        ------
        ConditionError
            The text cannot be read, or the number of context values is not the number of names.
        """
        if not isinstance(text, str) or not text.strip():
            raise ConditionError(f"Expected a condition such as 'trametinib@1000nM | A549', found {text!r}.")
        found = tokens(text)
        bars = [i for i, (kind, _) in enumerate(found) if kind == "|"]
        if len(bars) > 1:
            raise ConditionError(f"{text!r} has {len(bars)} bars: a condition has at most one, before its context.")
        cut = bars[0] if bars else len(found)
        pairs = _read_context(found[cut + 1 :], tuple(context), text) if bars else []
        return cls.of(_read_treatments(found[:cut], text), pairs)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise FrozenInstanceError(f"cannot assign to {name!r}: a Condition is frozen; use with_dose or with_context")

    def __delattr__(self, name: str) -> NoReturn:
        raise FrozenInstanceError(f"cannot delete {name!r}: a Condition is frozen")

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Condition) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._key < other._key if isinstance(other, Condition) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # The cached hash depends on the process, so a copy in another process is built anew.
        return Condition.of, (self.treatments, self.context)

    def __str__(self) -> str:
        return self._write([quote(value) for _, value in self.context])

    def __repr__(self) -> str:
        return self._write([f"{quote(name)}={quote(value)}" for name, value in self.context])

    def _write(self, context: list[str]) -> str:
        head = " + ".join(str(t) for t in self.treatments) or "control"
        return f"{head} | {', '.join(context)}" if context else head


def _parts(found: list[tuple[str, str]], symbol: str) -> list[list[tuple[str, str]]]:
    """Return ``found`` cut at every ``symbol``."""
    parts: list[list[tuple[str, str]]] = [[]]
    for token in found:
        if token[0] == symbol:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _read_treatments(found: list[tuple[str, str]], text: str) -> list[Treatment]:
    if not found or found == [("bare", "control")]:
        return []
    treatments = []
    for part in _parts(found, "+"):
        kinds = [kind for kind, _ in part]
        if kinds in (["bare"], ["quoted"]):
            treatments.append(Treatment(part[0][1]))
        elif kinds in (["bare", "@", "bare"], ["quoted", "@", "bare"]):
            treatments.append(Treatment(part[0][1], *read_dose(part[2][1])))
        else:
            raise ConditionError(
                f"Cannot read the treatments of {text!r}: expected 'name' or 'name@1000nM', joined by '+'; "
                "put names that hold one of + | @ = , in double quotes."
            )
    return treatments


def _read_context(found: list[tuple[str, str]], names: tuple[str, ...], text: str) -> list[tuple[str, str]]:
    parts = _parts(found, ",")
    kinds = [[kind.replace("quoted", "bare") for kind, _ in part] for part in parts]
    if all(kind == ["bare", "=", "bare"] for kind in kinds):
        pairs = [(part[0][1], part[2][1]) for part in parts]
        order = {name: i for i, name in enumerate(names)}
        return sorted(pairs, key=lambda pair: (order.get(pair[0], len(order)), pair[0]))
    if any(kind != ["bare"] for kind in kinds):
        raise ConditionError(
            f"Cannot read the context of {text!r}: expected values 'A549, donor1' or 'cell_line=A549, donor=donor1'; "
            "put values that hold one of + | @ = , in double quotes."
        )
    if len(parts) != len(names):
        expected = f"the {len(names)} context values {', '.join(names)}" if names else "no context"
        raise ConditionError(
            f"{text!r} has {len(parts)} context values, expected {expected}; or name them: '| cell_line=A549'."
        )
    return [(name, part[0][1]) for name, part in zip(names, parts, strict=True)]
