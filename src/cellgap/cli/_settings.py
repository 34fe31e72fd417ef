"""Settings in a run file: kinds filled in where only one fits, encoders joined, paths made absolute."""

import dataclasses
import difflib
import importlib
import sys
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellgap.errors import ConfigError
from cellgap.settings import from_dict


def estimator_of(section: Mapping[str, Any], base: Path) -> Any:
    """Return the estimator that the section ``[model]`` describes.

    Parameters
    ----------
    section
        ``kind`` and nested tables. A list of encoders is joined; ``kind`` may be left out where only one fits.
    base
        Folder that relative paths start from.

    Raises
    ------
    ConfigError
        A kind or setting is unknown, or a value is wrong.
    """
    known = dict.fromkeys(ESTIMATORS, "transport") | _ELSEWHERE
    kind = section.get("kind") if isinstance(section, Mapping) else None
    # Only the module of the kind is imported; where there is no such kind, all are, to tell what there is.
    asked = {kind: known[kind]} if isinstance(kind, str) and kind in known else known
    estimators = {name: getattr(importlib.import_module(f"cellgap.{at}"), name) for name, at in asked.items()}
    return from_dict(_completed(section, estimators, "[model]", base))


def law_of(section: Mapping[str, Any], base: Path) -> Any:
    """Return the estimator of laws that the section ``[model]`` of ``cellgap dynamics`` describes.

    Raises
    ------
    ConfigError
        As for `estimator_of`.
    """
    from cellgap.dynamics import NeuralLaw

    return from_dict(_completed(section, {"NeuralLaw": NeuralLaw}, "[model]", base))


ESTIMATORS = (
    "ConditionalMonge",
    "Monge",
    "FlowMatching",
    "MeanShift",
    "Gaussian",
    "Identity",
    "CondOT",
    "CellOT",
    "EntropicMap",
    "QuantileMap",
    "PerCondition",
    "Pooled",
    "Ensemble",
)

_ELSEWHERE = {"CFGen": "generate", "ContrastiveEmbedding": "embed", "Annotator": "annotate"}

_PATHS = (
    *((kind, "source") for kind in ("Table", "ContextTable", "Fingerprint", "Descriptors2D")),
    ("Descriptors2D", "reference"),
    ("Saved", "path"),
    ("Embedded", "path"),
)
_NO_PATHS = ("uns:", "obs:", "var:", "varm:")


def _completed(values: Any, kinds: Mapping[str, type], where: str, base: Path) -> dict[str, Any]:
    """Return a table with its kind named and its nested tables completed."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a table, found {values!r}.")
    kind = values.get("kind", next(iter(kinds)) if len(kinds) == 1 else None)
    if kind not in kinds:
        close = difflib.get_close_matches(str(kind), kinds, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(kinds)}."
        found = f"the unknown kind {kind!r}" if kind is not None else "no kind"
        raise ConfigError(f"{where} has {found}: {hint}")
    cls = kinds[kind]
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    needed = [f.name for f in dataclasses.fields(cls) if _has_no_default(f)]  # type: ignore[arg-type]
    result: dict[str, Any] = {"kind": kind}
    for name, value in values.items():
        if name == "kind":
            continue
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(names) or 'none'}."
            raise ConfigError(f"{where} ({kind}) has no setting {name!r}: {hint}")
        nested = _members() if (kind, name) == ("Ensemble", "model") else _kinds_of(hints[name])
        path = f"{where} {name}"
        if nested and isinstance(value, list) and typing.get_origin(hints[name]) is tuple:
            result[name] = [_completed(item, nested, path, base) for item in value]
        elif nested and isinstance(value, list):
            kind_of_all, field = _joined(hints[name])
            if not kind_of_all:
                raise ConfigError(f"{path} must be a table, found a list.")
            parts = [_completed(item, nested, path, base) for item in value]
            result[name] = {"kind": kind_of_all, field: parts}
        elif nested and isinstance(value, Mapping) and value.get("kind") == "Joint" == _joined(hints[name])[0]:
            joined = [_completed(item, nested, path, base) for item in value.get("encoders", ())]
            result[name] = {"kind": "Joint", "encoders": joined}
        elif nested:
            result[name] = _completed(value, nested, path, base)
        else:
            result[name] = _absolute(value, base) if (kind, name) in _PATHS else value
    for name in needed:
        if name not in result:
            expected = ", ".join(_kinds_of(hints[name]))
            raise ConfigError(
                f"{where} ({kind}) needs {name!r}" + (f": a table of kind {expected}." if expected else ".")
            )
    return result


def _members() -> dict[str, type]:
    """Return the estimators that an ensemble is made of."""
    from cellgap import transport

    return {name: getattr(transport, name) for name in ESTIMATORS if name != "Ensemble"}


def _joined(hint: Any) -> tuple[str, str]:
    """Return the kind that a list of tables is in a field, and where that keeps them; empty where a list is none."""
    from cellgap import embed, encode

    known = (hint, *typing.get_args(hint))
    if encode.AbstractEncoder in known:
        return "Joint", "encoders"
    return ("Mixture", "pairs") if embed.AbstractPairs in known else ("", "")


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _kinds_of(hint: Any) -> dict[str, type]:
    """Return the settings that a field takes: its class, or the classes of its interface; none for plain values."""
    from cellgap import embed, encode, space

    if encode.AbstractEncoder in (hint, *typing.get_args(hint)):
        by_treatment = (
            encode.Table,
            encode.Dose,
            encode.OneHot,
            encode.Fingerprint,
            encode.Descriptors2D,
            encode.Effect,
        )
        return {cls.__name__: cls for cls in (*by_treatment, encode.Context, encode.ContextTable)}
    if space.AbstractSpace in (hint, *typing.get_args(hint)):
        from cellgap import stream

        own = (space.PCA, space.Genes, space.Autoencoder, space.JointAutoencoder, space.Saved)
        spaces = (*own, stream.OnePassPCA, embed.Embedded)
        return {cls.__name__: cls for cls in spaces}
    if embed.AbstractPairs in (hint, *typing.get_args(hint)):
        samplers = (embed.Thin, embed.SameCondition, embed.Neighbour, embed.Restart, embed.Mixture)
        return {cls.__name__: cls for cls in samplers}
    if hint is embed.AbstractEncoder:
        return {cls.__name__: cls for cls in (embed.MLPEncoder, embed.LinearEncoder, embed.ResidualEncoder)}
    # What is not imported is not in a hint.
    annotate = sys.modules.get("cellgap.annotate")
    if annotate is not None and annotate.robust.AbstractRobust in (hint, *typing.get_args(hint)):
        trainings = (annotate.PGDTraining, annotate.TRADES, annotate.SmoothAdversarial)
        return {cls.__name__: cls for cls in trainings}
    if typing.get_origin(hint) is tuple:
        hint = typing.get_args(hint)[0]
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    members = tuple(member for member in members if member is not types.NoneType)
    classes = [cls for cls in members if isinstance(cls, type) and dataclasses.is_dataclass(cls)]
    # One of several kinds; a field that takes plain values as well is left to its class.
    return {cls.__name__: cls for cls in classes} if classes and len(classes) == len(members) else {}


def _absolute(source: Any, base: Path) -> Any:
    if not isinstance(source, str) or source.startswith(_NO_PATHS) or source in ("table", "training"):
        return source
    path = (base / source).resolve()
    if not path.exists():
        raise ConfigError(f"the file {str(path)!r} does not exist.")
    return str(path)
