"""The field's scorer: six members of vcc2026 on raw counts, for treatments, donors and patients that were never seen.

Question    Are predicted counts better than the mean effect of the training conditions (0), and how near to a repeat of
            the experiment (1), as the field measures it (cell-eval2, preset vcc2026)?
Data        A simulated screen (200 treatments of four descriptors, 2,000 genes, 60 cells each, 1,000 controls; 50
            treatments, chosen by the seed, are never seen); kang_ifnb, every donor in turn never seen, scored by donor
            and cell type; glioblastoma_panobinostat, every patient in turn never seen.
Rules       Populations (donor, cell type) with fewer than 20 control or 20 treated cells are left out before anything
            is fitted: among them dendritic cells of the donor 1039, which have no controls. Settings are the defaults
            of the library. How counts are drawn was looked at on a screen of another seed (1), never on this one, and
            on two of the patients (PW030, PW036), predicted from the two others.
            Whether the encoder names the cell type is chosen for every donor anew, without the donor: by the energy
            distance of ridge mean shifts on the largest of the other donors, held out in its turn.
Scale       Of every member: (u - b) / (r - b), b the mean effect in the same space, r the package's replicate, which
            compares halves of the cells and is therefore noisier than a prediction may be: values above 1 are possible.
            One perturbation a panel (the real sets) leaves discrimination undefined; where half of the cells call no
            gene changed, the replicate has no value, and the member is reported raw.
Machine     Any. ``--quick``: a smaller screen, one donor and one patient, a short training; ``--sets simulated,kang``;
            ``--autoencoder`` adds the same maps in the codes of an autoencoder.
"""

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anndata
import jax.random as jr
import numpy as np
import pandas as pd
from rich.console import Console

import cellgap as cg
from bars import Bar
from cellgap.encode import AbstractEncoder
from cellgap.evaluate import SuiteResult
from cellgap.space import AbstractSpace
from cellgap.study import Split, Study
from cellgap.train import Loop
from cellgap.transport import Codes, Optimization
from real_sets import data_root

FEWEST = 20
MODEL = "conditional Monge"


@dataclass(frozen=True)
class Problem:
    """What is scored: splits of one study, an encoder for each, and the bar of the mean over members."""

    name: str
    encoders: tuple[AbstractEncoder, ...]
    splits: tuple[Split, ...]
    bar: str


def simulated(quick: bool, seed: int) -> Problem:
    """Treatments that nobody measured, of known descriptors."""
    n_drugs, n_held = (40, 10) if quick else (200, 50)
    screen = cg.simulate(
        n_drugs=n_drugs,
        doses=(1000.0,),
        n_combinations=0,
        cell_lines=("line1",),
        n_genes=300 if quick else 2000,
        n_cells=60,
        n_controls=1000,
        seed=seed,
    )
    names = sorted(screen.descriptors.index)
    order = np.random.default_rng(seed).permutation(n_drugs)
    held, valid = ([names[i] for i in part] for part in (order[:n_held], order[n_held : n_held + n_held // 2]))
    study = screen.study()
    validate = [c for c in study.conditions if c.names[0] in valid]
    split = cg.split.unseen_treatment(study, held, valid_conditions=validate, seed=seed)
    return Problem("simulated, unseen treatments", (cg.encode.Table(screen.descriptors),), (split,), "> 0.3")


def kang(quick: bool, seed: int) -> Problem:
    """Interferon beta in donors that nobody treated, scored by donor and cell type."""
    adata = anndata.read_h5ad(data_root() / "kang_ifnb" / "perturbation.h5ad")
    keys = ["donor", "cell_type_broad"]
    counts = adata.obs.groupby([*keys, "condition"], observed=False).size().unstack()
    enough = counts.index[counts.min(axis=1) >= FEWEST]
    adata = adata[pd.MultiIndex.from_frame(adata.obs[keys]).isin(enough)].copy()
    design = cg.Design(treatment="condition", control="ctrl", context="cell_type_broad", donor="donor", counts="X")
    candidates = (cg.encode.OneHot(), cg.encode.OneHot() | cg.encode.Context("cell_type_broad"))
    return _by_donor("kang_ifnb, unseen donors", Study(adata, design), candidates, quick, seed)


def glioblastoma(quick: bool, seed: int) -> Problem:
    """Panobinostat in patients that nobody treated."""
    adata = anndata.read_h5ad(data_root() / "glioblastoma_panobinostat" / "counts.h5ad")
    design = cg.Design(treatment="condition", control="ctrl", donor="donor", counts="X")
    return _by_donor("glioblastoma, unseen patients", Study(adata, design), (cg.encode.OneHot(),), quick, seed)


def _by_donor(name: str, study: Study, candidates: tuple[AbstractEncoder, ...], quick: bool, seed: int) -> Problem:
    donors = study.context_values["donor"][: 1 if quick else None]
    splits = [cg.split.leave_one_domain_out(study, "donor", d, min_cells=FEWEST, seed=seed) for d in donors]
    encoders = [chosen(study, donor, candidates, seed) for donor in donors]
    return Problem(name, tuple(encoders), tuple(splits), "> 0")


def chosen(study: Study, donor: str, candidates: tuple[AbstractEncoder, ...], seed: int) -> AbstractEncoder:
    """Return the encoder that predicts the largest of the other donors best; this donor's cells are not read."""
    if len(candidates) == 1:
        return candidates[0]
    others = (study.obs["donor"].astype(str) != donor).to_numpy()
    inner = Study(study.adata[others].copy(), study.design)
    largest = str(inner.obs["donor"].astype(str).value_counts().index[0])
    split = cg.split.leave_one_domain_out(inner, "donor", largest, min_cells=FEWEST, seed=seed)
    energies = []
    for encoder in candidates:
        fitted = cg.MeanShift(space=cg.space.PCA(), encoder=encoder).fit(split)
        scores = cg.evaluate(
            fitted, split, metrics=("energy",), spaces=("genes",), n_draws=2, baselines={}, progress=False
        )
        energies.append(float(np.nanmean(scores.values(fitted.name, "energy").to_numpy())))
    best = int(np.argmin(energies))
    print(f"without {donor}: energy {energies} on {largest}, encoder {candidates[best]!r}", file=sys.stderr)
    return candidates[best]


SETS: dict[str, Callable[[bool, int], Problem]] = {f.__name__: f for f in (simulated, kang, glioblastoma)}


def scored(problem: Problem, quick: bool, autoencoder: bool, seed: int) -> SuiteResult:
    """Return the suite over all splits of a problem."""
    optimization = Optimization(loop=Loop(n_steps=200)) if quick else Optimization()
    spaces: dict[str, AbstractSpace] = {"": cg.space.PCA(dim=20 if quick else 50)}
    if autoencoder:
        spaces[" (autoencoder)"] = cg.space.Autoencoder(dim=20 if quick else 50)
    parts = []
    for i, (split, encoder) in enumerate(zip(problem.splits, problem.encoders, strict=True)):
        models, baselines = {}, {}
        for mark, space in spaces.items():
            codes = Codes.of(split, space, encoder)
            settings = {"space": space, "encoder": encoder}
            estimator = cg.ConditionalMonge(optimization=optimization, **settings)
            models[MODEL + mark] = estimator.fit_codes(codes, key=jr.key(i))
            for name, rule in (("mean effect", "all"), ("ridge mean shift", "ridge")):
                baselines[name + mark] = cg.MeanShift(rule=rule, **settings).fit_codes(codes)
            baselines["identity" + mark] = cg.Identity(**settings).fit_codes(codes)
        parts.append(
            cg.evaluate.vcc2026(
                models, split, baselines=baselines, n_replicates=2 if quick else 5, seed=seed, progress=False
            )
        )
    table = pd.concat([part.table for part in parts], ignore_index=True)
    return dataclasses.replace(parts[0], table=table)


def emit(problem: Problem, result: SuiteResult) -> None:
    """Print the lines of a problem: every member, raw and scaled, of the model and of the mean effect."""
    rows = {(row["predictor"], row["member"]): row for row in result.summary().to_dict("records")}
    n = len(set(result.table["context"]))
    for member in dict.fromkeys(result.table["member"]):
        mine, zero, one = (rows[name, member] for name in (MODEL, "mean effect", "replicate"))
        where = f"{problem.name}: {member}"
        Bar("vcc", f"{where}, raw ({mine['n_contexts']} of {n} panels)", mine["value"], capability="transport").emit()
        Bar("vcc", f"{where}, raw, mean effect", zero["value"], capability="transport").emit()
        Bar("vcc", f"{where}, raw, replicate", one["value"], capability="transport").emit()
        Bar("vcc", f"{where}, scaled", mine["scaled"], capability="transport").emit()
    for name, kind in result.kinds.items():
        target = problem.bar if name == MODEL else None
        if kind != "anchor":
            what = f"{problem.name}: mean over the members that have a scale, {name}"
            Bar("vcc", what, rows[name, "mean"]["scaled"], target, capability="transport").emit()


def problems(names: str, quick: bool, seed: int) -> Iterator[Problem]:
    """Yield the problems of these names."""
    for name in names.split(","):
        yield SETS[name](quick, seed)


def main() -> None:
    """Print the tables and the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS), help="names separated by commas")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--autoencoder", action="store_true", help="the same maps in the codes of an autoencoder too")
    parser.add_argument("--seed", type=int, default=0)
    args, _ = parser.parse_known_args()
    console = Console(file=sys.stderr, width=150)
    for problem in problems(args.sets, args.quick, args.seed):
        began = os.times()
        result = scored(problem, args.quick, args.autoencoder, args.seed)
        ended = os.times()
        seconds = ended.user + ended.system - began.user - began.system
        console.rule(f"{problem.name}: {len(problem.splits)} fits, {seconds:.0f} CPU s")
        console.print(result)
        emit(problem, result)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"wall {time.perf_counter() - began:.0f} s", file=sys.stderr)
