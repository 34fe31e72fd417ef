"""A simulated network of 350 genes: which edges are found at each noise, beside correlation and a linear equation.

Question: how far above chance are the edges of a law of 350 genes, learnt from 150 trajectories of 5 times? Data:
`grn_sim350` (547 true edges, density 0.0045), normal noise of 0, 0.025, 0.05, 0.1 on the training values. Score: area
under precision and recall over density. Laws: networks of 8 units a target, windows of one interval, one member; the
strength of the group lasso (0.01, 0.03, 0.1) is the largest whose error on held-out trajectories is within 10 % of the
lowest. Baselines: absolute correlation of all values; ridge regression of differences on mean values (``dx/dt = A x``),
the ridge among 0.1, 1, 10, 100 by held-out trajectories, coefficients as they are and by the deviation of the source;
and the best of these ridges by the truth, which nobody knows.
The noise-free test trajectories go beyond the training horizon; knock-outs are of the 12 regulators that are stored.
"""

import argparse

import jax.random as jr
import numpy as np

from bars import Bar
from cellgap import Intervention, NeuralLaw, evaluate
from cellgap.dynamics import GroupLasso, LawTraining, Solver, Trajectories
from cellgap.train import Loop
from children import table
from dynamics_data import sim350
from real_sets import data_root

STRENGTHS, RIDGES = (0.01, 0.03, 0.1), (0.1, 1.0, 10.0, 100.0)


def bar(what: str, value: float, target: str | None = None) -> None:
    Bar("sim350", what, value, target, capability="dynamics").emit()


def differences(data: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Return mean values and differences over time of all intervals."""
    values = [(0.5 * (x[1:] + x[:-1]), (x[1:] - x[:-1]) / np.diff(t)[:, None]) for t, x in data.each()]
    middle, change = zip(*values, strict=True)
    return np.concatenate(middle), np.concatenate(change)


def linear(train: Trajectories) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the coefficients of a linear equation, (source, target): by validation, and of every ridge."""
    held = np.arange(len(train)) % 5 == 0
    x, y = differences(train.take(~held))
    xv, yv = differences(train.take(held))

    def solved(ridge: float) -> tuple[float, np.ndarray]:
        a = np.linalg.solve((x - x.mean(0)).T @ (x - x.mean(0)) + ridge * np.eye(x.shape[1]), (x - x.mean(0)).T @ y)
        return float(np.mean((yv - y.mean(0) - (xv - x.mean(0)) @ a) ** 2)), a

    all_of = [solved(ridge) for ridge in RIDGES]
    return min(all_of, key=lambda found: found[0])[1], [a for _, a in all_of]


def model(strength: float, steps: int, members: int) -> NeuralLaw:
    return NeuralLaw(
        penalty=GroupLasso(strength=strength),
        hidden=8,
        window=1,
        members=members,
        null=0,
        valid=0.1,
        solver=Solver(max_step=1.0),
        training=LawTraining(loop=Loop(n_steps=steps, chunk=20, valid_every=100), batch_size=128),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--noise", default="0,0.025,0.05,0.1")
    args, _ = parser.parse_known_args()
    data, rows = sim350(data_root()), []
    for noise in map(float, args.noise.split(",")):
        train = data.noisy(noise, 0) if noise else data.train
        laws = [model(strength, args.steps, 1).fit(train, key=jr.key(0)) for strength in STRENGTHS]
        errors = np.array([law.valid_error for law in laws])
        pick = int(np.flatnonzero(errors <= 1.1 * errors.min()).max())
        law = laws[pick]
        network = law.network()
        coefficients, every = linear(train)
        truth = data.adjacency.to_numpy()
        hindsight = max(every, key=lambda a: evaluate.network_scores(np.abs(a), truth)["auprc"])
        scores = {
            "law, Jacobian": network.scores,
            "law, strength of groups": network.strength,
            "linear equation": np.abs(coefficients),
            "linear equation, its best ridge in hindsight": np.abs(hindsight),
            "linear equation, by deviation of the source": np.abs(coefficients) * train.states.std(0)[:, None],
            "correlation": np.abs(np.nan_to_num(np.corrcoef(train.states.T))),
        }
        ratio = {}
        for name, score in scores.items():
            found = evaluate.network_scores(score, truth if isinstance(score, np.ndarray) else data.adjacency)
            ratio[name] = float(found["auprc_ratio"])
            bar(f"noise {noise:g}: AUPRC over density, {name}", ratio[name])
            bar(f"noise {noise:g}: AUROC, {name}", float(found["auroc"]))
        best = max(value for name, value in ratio.items() if not name.startswith("law"))
        bar(f"noise {noise:g}: AUPRC of the law by that of the best baseline", ratio["law, Jacobian"] / best, ">= 1")
        bar(f"noise {noise:g}: strength chosen by validation", STRENGTHS[pick])
        error = float(((law.follow(data.test) - data.test.values) ** 2)[:, 1:].mean())
        bar(f"noise {noise:g}: error on the noise-free test, to t = 15", error)
        starts, times = data.test.starts, data.test.times[0]
        knocked = np.stack(
            [law.forecast(starts, times, intervention=Intervention(hold={name: 0.0})) for name in data.knocked]
        )
        where = np.array([law.variables.index(name) for name in data.knocked])
        effect = evaluate.knock_out_scores(knocked, data.knock_out, data.test.values, where)
        bar(f"noise {noise:g}: knock-out error by that of no effect", float(effect.loc["law", "ratio"]))
        rows.append((noise, STRENGTHS[pick], *ratio.values(), error, float(effect.loc["law", "ratio"])))
    table("SIM350: AUPRC over density", rows, ("noise", "strength", *scores, "test error", "knock-outs"))


if __name__ == "__main__":
    main()
