"""What one fit said of one target, and the folder where that is kept, so that an evaluation can be continued."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
import pandas as pd
from jaxtyping import PRNGKeyArray

from cellgap.errors import ConfigError, StorageError
from cellgap.evaluate._annotation_targets import domain_names, labels_of
from cellgap.gap import Gap
from cellgap.study import Study

MANIFEST = "evaluation.json"
_FORMAT = "cellgap annotation evaluation 1"
_TEXTS = ("cell", "truth", "label", "best", "reason")
_GAPS = ("method", "target", "seed", "name", "value", "scale", "meaning", "remedy")
_ROBUST = ("method", "target", "seed", "attack", "strength", "accuracy")


@dataclass(frozen=True, eq=False)
class Part:
    """One fit of one method for one target.

    Parameters
    ----------
    method, target, seed
        Which.
    classes
        Those it can give.
    cells
        One row a cell of the target; see `AnnotationEvaluation.predictions`.
    gaps, robust
        Tables; may be empty.
    """

    method: str
    target: str
    seed: int
    classes: tuple[str, ...]
    cells: pd.DataFrame
    gaps: pd.DataFrame
    robust: pd.DataFrame


def gap_rows(gaps: Sequence[Gap], method: str, target: str, seed: int) -> pd.DataFrame:
    """Return gaps as a table."""
    rows = [(method, target, seed, g.name, g.value, g.scale, g.meaning, g.remedy) for g in gaps]
    return pd.DataFrame(rows, columns=pd.Index(_GAPS))


@dataclass(frozen=True)
class Store:
    """The folder of an evaluation; without one nothing is kept.

    Parameters
    ----------
    folder
        Where parts are kept.
    about
        What tells these cells, labels, domains and keys from others.
    """

    folder: Path | None
    about: str

    @classmethod
    def of(cls, folder: str | Path | None, study: Study, label: str, domains: str, key: PRNGKeyArray) -> "Store":
        """Return the store in a folder, which need not be there.

        Raises
        ------
        ConfigError
            It is a file.
        """
        if folder is None:
            return cls(None, "")
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"The folder of an evaluation, {str(folder)!r}, is a file: choose another one.")
        digest = hashlib.sha256(f"{study.fingerprint} {label} {domains} {study.design.counts}".encode())
        for texts in (labels_of(study, label), domain_names(study, domains)):
            digest.update("\0".join(map(str, texts)).encode("utf-8", "surrogatepass"))
        digest.update(np.asarray(jr.key_data(key)).tobytes())
        return cls(folder, digest.hexdigest())

    def name(
        self, method: str, estimator: Any, target: str, seed: int, radii: Sequence[float], counts: Sequence[int]
    ) -> str:
        """Return the name of a part's file: another one wherever anything that decides the numbers differs."""
        told = f"{self.about} {method} {estimator!r} {target} {seed} {tuple(radii)} {tuple(counts)}"
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16] + ".npz"

    def begin(self, **about: Any) -> None:
        """Write what the evaluation consists of; parts of earlier ones stay where they are."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        part = self.folder / f".{MANIFEST}.{os.getpid()}.part"
        part.write_text(json.dumps({"format": _FORMAT} | about, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self.folder / MANIFEST)

    def read(self, name: str) -> Part | None:
        """Return a part, or None where it is not there.

        Raises
        ------
        StorageError
            It is damaged.
        """
        path = None if self.folder is None else self.folder / name
        if path is None or not path.exists():
            return None
        try:
            with np.load(path) as held:
                about = json.loads(str(held["about"]))
                cells = pd.DataFrame({name: held[f"cell_{name}"] for name in about["columns"]})
            for column in (*_TEXTS, "method", "target"):
                cells[column] = cells[column].astype(object)
            return Part(
                about["method"], about["target"], about["seed"], tuple(about["classes"]), cells,
                pd.DataFrame(about["gaps"], columns=pd.Index(_GAPS)),
                pd.DataFrame(about["robust"], columns=pd.Index(_ROBUST)),
            )  # fmt: skip
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise StorageError(f"{str(path)!r} is damaged ({error}): delete it and evaluate again.") from None

    def write(self, name: str, part: Part) -> None:
        """Keep a part: its file is whole or not there."""
        if self.folder is None:
            return
        columns = [str(c) for c in part.cells]
        about = {
            "method": part.method, "target": part.target, "seed": part.seed, "classes": list(part.classes),
            "columns": columns, "gaps": part.gaps.to_numpy(object).tolist(),
            "robust": part.robust.reindex(columns=pd.Index(_ROBUST)).to_numpy(object).tolist(),
        }  # fmt: skip
        held: dict[str, Any] = {}
        for column in columns:
            values = part.cells[column].to_numpy()
            held[f"cell_{column}"] = values.astype(str) if values.dtype == object else values
        path = self.folder / f".{name}.{os.getpid()}.part"
        try:
            with path.open("wb") as file:
                np.savez_compressed(file, about=np.asarray(json.dumps(about)), **held)
            os.replace(path, self.folder / name)
        finally:
            path.unlink(missing_ok=True)


def stored(folder: str | Path) -> tuple[dict[str, Any], list[Part]]:
    """Return what an evaluation in a folder consists of, and those of its parts that are done.

    Raises
    ------
    StorageError
        The folder holds no evaluation, none of its parts is done, or a file is damaged.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != _FORMAT:
            raise ValueError(f"format {about['format']!r}")
        names = [str(name) for name in about["names"]]
    except FileNotFoundError:
        raise StorageError(f"{str(folder)!r} holds no evaluation of annotators: there is no {MANIFEST}.") from None
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise StorageError(f"{str(path)!r} is damaged ({error}): evaluate again.") from None
    store = Store(folder, "")
    parts = [part for part in map(store.read, names) if part is not None]
    if not parts:
        raise StorageError(f"No target of the evaluation in {str(folder)!r} is done: continue it first.")
    return about, parts
