"""Single-cell perturbation modelling: what cells do under conditions nobody measured, and how far to trust it.

Nothing heavy is imported until it is used: ``import cellgap`` and ``cellgap --help`` answer at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.8.0"

_WHERE = {
    "Annotator": "annotate",
    "Asker": "ask",
    "CFGen": "generate",
    "CellOT": "transport",
    "CellgapError": "errors",
    "CondOT": "transport",
    "Condition": "study",
    "ConditionalMonge": "transport",
    "ContrastiveEmbedding": "embed",
    "Design": "study",
    "EntropicMap": "transport",
    "FlowMatching": "transport",
    "Ensemble": "transport",
    "Gap": "gap",
    "Gaussian": "transport",
    "Identity": "transport",
    "Intervention": "dynamics",
    "MeanShift": "transport",
    "Monge": "transport",
    "NeuralLaw": "dynamics",
    "PerCondition": "transport",
    "Pooled": "transport",
    "QuantileMap": "transport",
    "Split": "study",
    "Study": "study",
    "Trajectories": "dynamics",
    "Treatment": "study",
    "check": "study",
    "datasets": "study",
    "load": "storage",
    "simulate": "study",
}
_MODULES = {
    "annotate": "cellgap.annotate",
    "ask": "cellgap.ask",
    "dynamics": "cellgap.dynamics",
    "embed": "cellgap.embed",
    "encode": "cellgap.encode",
    "generate": "cellgap.generate",
    "errors": "cellgap.errors",
    "evaluate": "cellgap.evaluate",
    "nn": "cellgap.nn",
    "ot": "cellgap.ot",
    "report": "cellgap.report",
    "space": "cellgap.space",
    "split": "cellgap.study.split",
    "stream": "cellgap.stream",
    "study": "cellgap.study",
    "train": "cellgap.train",
    "transport": "cellgap.transport",
}

__all__ = ["__version__", *sorted(_WHERE), *sorted(_MODULES)]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f"cellgap.{_WHERE[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module 'cellgap' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from cellgap import (
        annotate,
        ask,
        dynamics,
        embed,
        encode,
        errors,
        generate,
        nn,
        ot,
        report,
        space,
        stream,
        study,
        train,
        transport,
    )
    from cellgap.annotate import Annotator
    from cellgap.ask import Asker
    from cellgap.dynamics import Intervention, NeuralLaw, Trajectories
    from cellgap.embed import ContrastiveEmbedding
    from cellgap.errors import CellgapError
    from cellgap.gap import Gap
    from cellgap.generate import CFGen
    from cellgap.storage import load
    from cellgap.study import Condition, Design, Split, Study, Treatment, check, datasets, simulate, split
