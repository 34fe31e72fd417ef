"""Rare categories topped up with generated cells."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from jaxtyping import PRNGKeyArray

from cellgap.errors import ConfigError, DataError
from cellgap.generate._asked import as_table
from cellgap.generate._guidance import Guidance
from cellgap.study import parted
from cellgap.study._modalities import MODALITY

if TYPE_CHECKING:
    from mudata import MuData


def augment(
    model: Any,
    adata: "AnnData | MuData",
    *,
    label: str,
    per_class: int,
    key: PRNGKeyArray,
    guidance: float | Mapping[str, float] | Guidance | str = 1.0,
) -> "AnnData | MuData":
    """Return measured cells and, for every category with fewer than `per_class`, generated ones below them.

    Parameters
    ----------
    model
        A fitted generator.
    adata
        Measured cells with raw counts of the model's genes. Not changed.
    label
        The attribute whose categories are topped up; other attributes are drawn as in the training cells.
    per_class
        Cells that every category has at least afterwards.
    key, guidance
        See `FittedCFGen.sample`.

    Returns
    -------
    AnnData
        Counts of the model's genes (CSR of int32); ``obs``: the attributes and ``generated``. A MuData where the model
        has several modalities.

    Raises
    ------
    ConfigError
        The label is no attribute, or `per_class` is below 1.
    DataError, ConditionError
        Genes, columns or values are not the model's, or there are no cells.

    Notes
    -----
    A classifier trained on the result should be compared with one on resampled cells: at equal numbers, random
    oversampling often does as well.
    """
    from cellgap.space import counts_of

    adata = as_table(adata)
    names = model.attributes.names
    if label not in names:
        raise ConfigError(f"augment needs an attribute of the model as label: one of {', '.join(names)}.")
    if isinstance(per_class, bool) or not isinstance(per_class, int | np.integer) or per_class < 1:
        raise ConfigError(f"per_class is a whole number of at least 1, found {per_class!r}.")
    if adata.n_obs == 0:
        raise DataError("there are no cells to augment: the table given has 0 rows.")
    labels = model.attributes.labels(pd.DataFrame(adata.obs))
    known = model.attributes.categories[names.index(label)]
    have = np.bincount(labels[:, names.index(label)], minlength=len(known))
    wanted = [value for value, n in zip(known, have, strict=True) for _ in range(max(0, int(per_class) - int(n)))]
    counts = counts_of(adata, model.space.layer, model.space.genes).astype(np.int32)
    obs = model.attributes.frame(labels).set_axis(adata.obs_names)
    var = pd.DataFrame(index=pd.Index([str(g) for g in model.space.genes]))
    modalities = model.space.modalities
    if modalities is not None:
        var[MODALITY] = list(modalities)
    real = AnnData(counts, obs=obs.assign(generated=False), var=var)
    if not wanted:
        return real if modalities is None else parted(real)
    made: Any = as_table(model.sample(len(wanted), key=key, guidance=guidance, **{label: wanted}))
    made.obs = pd.DataFrame(made.obs)[list(names)].assign(generated=True)
    made.obs_names = pd.Index([f"generated{i}" for i in range(made.n_obs)])
    made.obsm.pop("X_cellgap", None)
    both = anndata.concat([real, made])
    both.var = real.var
    return both if modalities is None else parted(both)
