"""Truth: do the learnt maps find the known optimal map, and do they carry over to unmeasured conditions?

Question    On simulated cells whose true maps are known and optimal (``simulate_latent``: 50 dimensions, mixture of
            three Gaussians, unpaired populations, 2,000 training and 1,000 test cells each), how far are learnt maps
            from the true ones? In distribution (three drugs at two doses), at a dose and under drugs never measured.
Figures     L2-UVP, ``100 E|T(x) - T*(x)|^2 / Var(T*(x))`` in percent, on test controls that no fit has seen; the ratio
            of predicted to true variance; the share of the effect captured (two-batch Sinkhorn divergence).
Choice      Settings are the defaults of the library, and the step whose weights are kept is chosen on validation cells
            (in distribution) or validation conditions (held-out dose and drug), never on what is scored.
Machine     Any; about five minutes of CPU time. ``--quick`` takes one seed instead of three (not for the record).
"""

import argparse
import sys
import time

import jax.random as jr
import numpy as np
import pandas as pd

import cellgap as cg
from bars import Bar
from cellgap.study import Role, Split, simulate_latent
from cellgap.study._simulate_latent import SimulatedLatent
from cellgap.transport import AbstractMap, Codes

SPACE = cg.space.Genes(transform="none")
DRUGS, DOSES = 12, (10.0, 100.0, 1000.0, 10000.0)


def by_part(simulated: SimulatedLatent) -> Split:
    """Return the split of the simulator's own parts: every condition trained on, 10 % of that part to validate."""
    study = simulated.study()
    part = simulated.adata.obs["part"].to_numpy()
    roles = np.zeros(study.n_obs, np.int8)
    rng = np.random.default_rng(0)
    for condition in study.all_conditions:
        rows = study.rows(condition)
        train, test = rows[part[rows] == "train"], rows[part[rows] == "test"]
        roles[train] = np.where(rng.random(len(train)) < 0.1, Role.VALID, Role.TRAIN)
        if condition.is_control:
            roles[test] = np.where(np.arange(len(test)) % 2 == 0, Role.SOURCE, Role.REFERENCE)
        else:
            roles[test] = Role.TEST
    split = Split(study, "in_distribution", 0, roles, study.conditions, (), study.conditions, {})
    split.check_leaks()
    return split


def errors(fitted: AbstractMap, simulated: SimulatedLatent, conditions) -> pd.DataFrame:
    """Return L2-UVP and variance ratio of a map on the test controls, one row a condition."""
    x = simulated.cells("control", "test")
    rows = []
    for condition in conditions:
        true = simulated.truth(x, condition)
        moved = np.asarray(fitted.transport(x, condition))
        uvp = 100.0 * ((moved - true) ** 2).sum(1).mean() / true.var(0).sum()
        rows.append((str(condition), uvp, moved.var(0).sum() / true.var(0).sum()))
    return pd.DataFrame(rows, columns=["condition", "uvp", "variance_ratio"])


def in_distribution(seeds: range) -> None:
    """Measured conditions: a map a condition, and one conditional map for all six."""
    found = []
    for seed in seeds:
        simulated = simulate_latent(seed=seed)
        codes = Codes.of(by_part(simulated), SPACE, cg.encode.Table(simulated.descriptors) | cg.encode.Dose())
        high = [c for c in codes.split.train_conditions if c.treatments[0].dose == max(DOSES)]
        common = {"space": SPACE, "encoder": cg.encode.OneHot()}

        def record(name, fitted, conditions, seconds, seed=seed, simulated=simulated):
            table = errors(fitted, simulated, conditions).assign(model=name, seed=seed, seconds=seconds)
            found.append(table)
            print(f"seed {seed} {name:28s} {table.uvp.round(2).tolist()} {seconds:.1f} s", file=sys.stderr)

        record("identity", cg.Identity(**common).fit_codes(codes), high, 0.0)
        record("mean shift", cg.MeanShift(rule="own", **common).fit_codes(codes), high, 0.0)
        record("Gaussian", cg.Gaussian(**common).fit_codes(codes), high, 0.0)
        for start in ("gaussian", "identity"):
            for condition in high:
                began = time.process_time()
                model = cg.Monge(condition=repr(condition), start=start, **common)
                fitted = model.fit_codes(codes, key=jr.key(seed))
                record(f"Monge, start {start}", fitted, [condition], time.process_time() - began)
            began = time.process_time()
            fitted = cg.ConditionalMonge(start=start, **common).fit_codes(codes, key=jr.key(seed))
            record(f"conditional, start {start}", fitted, high, time.process_time() - began)
    table = pd.concat(found)
    means = table.groupby("model")[["uvp", "variance_ratio"]].agg(["mean", "min", "max"])
    print(means.round(3).to_string(), file=sys.stderr)
    shift = float(table[table.model == "mean shift"].uvp.mean())
    for name, short, target in (
        ("Monge", "per-condition map", 1.0),
        ("conditional", "conditional map, six conditions", 1.8),
    ):
        mine = table[table.model == f"{name}, start gaussian"]
        where = f"{short}, high dose, mean of 3 drugs x {len(seeds)} seeds"
        Bar("truth", f"L2-UVP %: {where}", float(mine.uvp.mean()), f"<= {target}").emit()
        Bar("truth", f"L2-UVP of the mean shift / of the {short}", shift / float(mine.uvp.mean()), "> 1").emit()
        Bar("truth", f"smallest variance ratio: {where}", float(mine.variance_ratio.min()), ">= 0.95").emit()
        Bar("truth", f"largest variance ratio: {where}", float(mine.variance_ratio.max()), "<= 1.05").emit()
        Bar("truth", f"L2-UVP %, worst drug and seed: {short}", float(mine.uvp.max())).emit()
        plain = table[table.model == f"{name}, start identity"]
        Bar("truth", f"L2-UVP %, network from the identity start: {short}", float(plain.uvp.mean())).emit()
    Bar("truth", "L2-UVP %: mean shift, high dose", shift).emit()
    gaussian = table[table.model == "Gaussian"]
    Bar("truth", "L2-UVP %: Gaussian map, high dose", float(gaussian.uvp.mean())).emit()


def held_out(kind: str, seeds: range) -> None:
    """A dose, or drugs, that no fit has seen; the comparison is paired over conditions (and seeds)."""
    tables = []
    for seed in seeds:
        simulated = simulate_latent(seed=seed, drugs=DRUGS, doses=DOSES, n_train=1500, n_test=500)
        study = simulated.study()
        names = list(simulated.descriptors.index)
        # By rule, before any model is trained: the second highest dose, validated on the second lowest;
        # every fourth drug, validated on the drug before it.
        if kind == "dose":
            valid = [c for c in study.conditions if c.treatments[0].dose == DOSES[1]]
            split = cg.split.unseen_dose(study, [DOSES[2]], valid_conditions=valid, seed=seed)
        else:
            held = names[3::4]
            watched = [names[names.index(name) - 1] for name in held]
            valid = [c for c in study.conditions if c.treatments[0].name in watched]
            split = cg.split.unseen_treatment(study, held, valid_conditions=valid, seed=seed)
        model = cg.ConditionalMonge(space=SPACE, encoder=cg.encode.Table(simulated.descriptors) | cg.encode.Dose())
        fitted = model.fit(split, key=jr.key(seed))

        def truth(condition, rows, study=study, simulated=simulated):
            return simulated.truth(np.asarray(study.adata.X)[rows], condition)

        scores = cg.evaluate(
            fitted,
            split,
            truth=truth,
            metrics=("l2_uvp", "capture_divergence2", "variance_ratio"),
            n_cells=500,
            seed=seed,
            progress=False,
        )
        table = scores.table[scores.table.space == "genes"].copy()
        table["condition"] = table.condition + f" (seed {seed})"
        tables.append(table)
        print(f"held-out {kind}, seed {seed}: best step {fitted.best_step}", file=sys.stderr)
    table = pd.concat(tables)
    wide = table.pivot_table(index="condition", columns=["metric", "predictor"], values="value")
    print(wide.mean().unstack(0).round(3).to_string(), file=sys.stderr)
    rng = np.random.default_rng(0)
    for metric, sign in (("l2_uvp", -1.0), ("capture_divergence2", 1.0)):
        mine = wide[metric]["conditional Monge"]
        Bar("truth", f"{metric} of the conditional map, held-out {kind}", float(mine.mean())).emit()
        for other in ("ridge mean shift", "identity"):
            difference = (sign * (mine - wide[metric][other])).to_numpy()
            draws = rng.choice(difference, (10_000, len(difference))).mean(1)
            what = f"{metric}, held-out {kind}, {len(difference)} conditions: gain over {other}"
            Bar(
                "truth", f"{what}, lower end of the paired 95 % interval", float(np.quantile(draws, 0.025)), "> 0"
            ).emit()
            Bar("truth", f"{what}, mean", float(difference.mean())).emit()
    Bar(
        "truth", f"mean variance ratio, held-out {kind}", float(wide["variance_ratio"]["conditional Monge"].mean())
    ).emit()


def main() -> None:
    """Print the bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--part", choices=("in", "dose", "drug"), help="one part only")
    args, _ = parser.parse_known_args()
    seeds = range(1) if args.quick else range(3)
    if args.part in (None, "in"):
        in_distribution(seeds)
    for kind in ("dose", "drug"):
        if args.part in (None, kind):
            held_out(kind, seeds)


if __name__ == "__main__":
    main()
