"""The data sets of the dynamics bars as trajectories: Hill networks, SIM350, hematopoiesis (two protocols), motion.

Every function takes the folder that holds the data sets (`real_sets.data_root`). Values keep the units of the files
unless a function says how it scales them; what is estimated is estimated on training data alone, except in the
published protocol of hematopoiesis, which scales every trajectory by its own extremes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse

from cellgap.dynamics import Trajectories, trajectories_of

TRAINED = "s1d2"
DONORS = (TRAINED, "s1d1", "s2d1", "s3d6")
LINEAGES = ("erythroid", "monocyte", "bcell")  # in the order of the published protocol


# Hill networks and SIM350: laws that are known


@dataclass(frozen=True, eq=False)
class Hill:
    """Courses of a Hill network of 20 genes, and its edges.

    ``adjacency`` is (regulator, target), 1 or -1 or 0. ``knock_out`` is (gene held at 0, trajectory, time, gene), from
    the starts and at the times of ``test``.
    """

    train: Trajectories
    train_noisy: Trajectories
    test: Trajectories
    other_start: Trajectories
    knock_out: np.ndarray
    adjacency: np.ndarray

    @property
    def no_effect(self) -> float:
        """Mean squared error of the unperturbed true course as the prediction of every knock-out."""
        return float(np.mean((self.knock_out - self.test.values) ** 2))


def hill(data: Path, seed: int) -> Hill:
    """Return the Hill network with this seed: 0, 1 or 2."""
    with np.load(data / "grn_hill" / f"seed{seed}.npz") as stored:
        z = {name: stored[name] for name in stored}
    genes = [f"g{i}" for i in range(len(z["adjacency"]))]

    def courses(name: str, times: str) -> Trajectories:
        return trajectories_of(z[name].swapaxes(0, 1), z[times], variables=genes)

    return Hill(
        train=courses("train", "t_train"),
        train_noisy=courses("train_noisy", "t_train"),
        test=courses("test", "t_test"),
        other_start=courses("other_start", "t_test"),
        knock_out=z["knock_out"].swapaxes(1, 2).astype(np.float64),
        adjacency=z["adjacency"].astype(int),
    )


@dataclass(frozen=True, eq=False)
class Sim350:
    """Courses of 350 genes under a known law.

    ``adjacency`` has regulators as rows and targets as columns, 1 or -1 or 0. ``knock_out`` is (one of ``knocked``,
    trajectory, time, gene), from the starts and at the times of ``test``; ``constant`` marks the genes that no other
    one regulates and that do not change with time.
    """

    train: Trajectories
    test: Trajectories
    knocked: tuple[str, ...]
    knock_out: np.ndarray
    adjacency: pd.DataFrame
    constant: np.ndarray

    def noisy(self, level: float, seed: int) -> Trajectories:
        """Return the training courses with normal noise, as the published studies add: 0.025, 0.05 or 0.1."""
        return self.train.noisy(level, seed=seed)


def sim350(data: Path) -> Sim350:
    """Return the simulated network of 350 genes."""
    with np.load(data / "grn_sim350" / "trajectories.npz") as stored:
        z = {name: stored[name] for name in stored}
    genes = [str(gene) for gene in z["genes"]]
    edges = pd.read_csv(data / "grn_sim350" / "network.csv")
    adjacency = edges.pivot(index="regulator", columns="target", values="sign")
    return Sim350(
        train=trajectories_of(z["train"], z["t_train"], variables=genes),
        test=trajectories_of(z["test"], z["t_test"], variables=genes),
        knocked=tuple(map(str, z["ko_gene"])),
        knock_out=z["ko"].astype(np.float64),
        adjacency=adjacency.reindex(index=genes, columns=genes).fillna(0).astype(int),
        constant=z["input_gene"],
    )


# Hematopoiesis: cells along three lineages


@dataclass(frozen=True, eq=False)
class _Cells:
    """Counts (rows, genes), divided by a size factor, and what is known of each row, sorted by pseudotime."""

    counts: np.ndarray
    genes: tuple[str, ...]
    rows: pd.DataFrame

    def lineage(self, donor: str, lineage: str) -> np.ndarray:
        """Return the row numbers of a trajectory, in the order of pseudotime."""
        here = (self.rows["donor"] == donor) & (self.rows["lineage"] == lineage)
        at = np.flatnonzero(here.to_numpy())
        return at[np.argsort(self.rows["time"].to_numpy()[at], kind="stable")]


def _cells(data: Path) -> _Cells:
    with np.load(data / "hematopoiesis" / "trajectories.npz") as z:
        parts = (z["data"], z["indices"].astype("i4"), z["indptr"])
        counts = scipy.sparse.csr_matrix(parts, shape=tuple(z["shape"])).toarray().astype(np.float64)
        rows = pd.DataFrame({name: z[name] for name in ("cell", "donor", "lineage")})
        rows["time"] = z["pseudotime"].astype(np.float64)
        genes = tuple(map(str, z["genes"]))
    rows["shared"] = rows.groupby("cell")["lineage"].transform("nunique") > 1
    return _Cells(counts, genes, rows)


def _labels(donor: str) -> pd.DataFrame:
    index = [f"{donor} {lineage}" for lineage in LINEAGES]
    return pd.DataFrame({"donor": donor, "lineage": list(LINEAGES)}, index=index)


@dataclass(frozen=True, eq=False)
class PublishedDonor:
    """A donor in the published protocol: a trajectory a lineage, whose states are single cells.

    ``starts`` (lineage, gene), the mean of the first five cells, is what a law is solved from, at the time of the first
    cell; it stands for no cell. The prediction at that time is the start itself and is compared with the first cell.
    ``trajectories.starts`` are the first cells, and are not it.
    """

    trajectories: Trajectories
    starts: np.ndarray


def hematopoiesis_published(data: Path) -> dict[str, PublishedDonor]:
    """Return the donors in the published protocol; ``s1d2`` is the one to train on.

    Of every lineage, sorted by pseudotime, the first 10 and the last 20 cells are dropped; each gene is scaled to
    [0, 1] by its extremes within the trajectory (0 where it is constant), and pseudotime as well.
    """
    cells = _cells(data)
    found = {}
    for donor in DONORS:
        kept = [cells.lineage(donor, lineage)[10:-20] for lineage in LINEAGES]
        values = [_unit(cells.counts[at]) for at in kept]
        times = [_unit(cells.rows["time"].to_numpy()[at]) for at in kept]
        trajectories = trajectories_of(values, times, variables=cells.genes, about=_labels(donor))
        found[donor] = PublishedDonor(trajectories, np.stack([v[:5].mean(0) for v in values]))
    return found


def _unit(x: np.ndarray) -> np.ndarray:
    """Return each column from 0 to 1, a constant one as 0."""
    low, width = x.min(0), np.ptp(x, 0)
    return (x - low) / np.where(width > 0, width, 1.0)


def published_error(prediction: np.ndarray | Sequence[np.ndarray], trajectories: Trajectories) -> float:
    """Return the sum over trajectories of the mean squared error to every cell.

    Parameters
    ----------
    prediction
        (lineage, cell, gene) at ``trajectories.times``, or one array a lineage; what is beyond a trajectory's length is
        not looked at.
    trajectories
        Of one donor.
    """
    each = zip(prediction, trajectories.each(), strict=True)
    return float(sum(np.mean((predicted[: len(values)] - values) ** 2) for predicted, (_, values) in each))


@dataclass(frozen=True, eq=False)
class Binned:
    """Donors as bins of cells: ``log1p`` of the counts over ``scale`` (gene); not centered, so 0 is no expression.

    ``halves`` is the training donor twice, each from a random half of the cells of every bin: one to fit, one to judge.
    Single cells are in ``cells`` of each: (times, values) of a lineage.
    """

    train: Trajectories
    halves: tuple[Trajectories, Trajectories]
    test: dict[str, Trajectories]
    scale: np.ndarray


def hematopoiesis_bins(
    data: Path,
    *,
    bins: int = 10,
    clock: Literal["rescaled", "quantiles"] = "rescaled",
    shared: Literal["drop", "keep"] = "drop",
    lineage_inputs: bool = False,
    floor: float = 0.1,
    seed: int = 0,
) -> Binned:
    """Return the donors in our protocol: a trajectory a lineage, whose states are means of equal numbers of cells.

    Parameters
    ----------
    bins
        Number of states; the time of a state is the mean time of its cells.
    clock
        Pseudotime of a donor's lineage from 0 to 1, or its rank from 0 to 1. The clock is set with all cells, before
        any is dropped, so that 0 is a progenitor in all donors.
    shared
        Whether cells of test donors that stand in more than one lineage (the progenitors) are dropped; the training
        donor keeps them.
    lineage_inputs
        Whether a law may read the lineage, as three inputs of 0 or 1.
    floor
        Genes are divided by the standard deviation of ``log1p`` over the distinct cells of the training donor, and by
        no less than this.
    seed
        Of the halves.
    """
    cells = _cells(data)
    logs = np.log1p(cells.counts)
    own = (cells.rows["donor"] == TRAINED) & ~cells.rows["cell"].duplicated()
    scale = np.maximum(logs[own.to_numpy()].std(0), floor)
    rng = np.random.default_rng(seed)
    inputs = {name: [float(name == other) for other in LINEAGES] for name in LINEAGES} if lineage_inputs else None

    def made(donor: str, parts: Sequence[Sequence[np.ndarray]], clocks: Sequence[np.ndarray]) -> Trajectories:
        """Return the trajectories of a donor from the rows of each bin of each lineage."""
        values = [np.stack([(logs[at] / scale).mean(0) for at in lineage]) for lineage in parts]
        times = [[time[at].mean() for at in lineage] for lineage, time in zip(parts, clocks, strict=True)]
        binned = trajectories_of(values, times, variables=cells.genes, about=_labels(donor), inputs=inputs)
        rows = [np.concatenate(lineage) for lineage in parts]
        rows = [at[np.argsort(time[at], kind="stable")] for at, time in zip(rows, clocks, strict=True)]
        single = tuple((time[at], logs[at] / scale) for at, time in zip(rows, clocks, strict=True))
        return replace(binned, cells=single)

    found: dict[str, Trajectories] = {}
    halves: list[Trajectories] = []
    for donor in DONORS:
        parts, clocks = [], []
        for lineage in LINEAGES:
            at = cells.lineage(donor, lineage)
            time = np.full(len(cells.rows), np.nan)
            time[at] = _unit(cells.rows["time"].to_numpy()[at]) if clock == "rescaled" else np.linspace(0, 1, len(at))
            if donor != TRAINED and shared == "drop":
                at = at[~cells.rows["shared"].to_numpy()[at]]
            parts.append(np.array_split(at, bins))
            clocks.append(time)
        found[donor] = made(donor, parts, clocks)
        if donor == TRAINED:
            shuffled = [[rng.permutation(at) for at in lineage] for lineage in parts]
            for half in (slice(None, None, 2), slice(1, None, 2)):
                halves.append(made(donor, [[at[half] for at in lineage] for lineage in shuffled], clocks))
    return Binned(found.pop(TRAINED), (halves[0], halves[1]), found, scale)


# Human motion


@dataclass(frozen=True, eq=False)
class Mocap:
    """Motion in standardized channels at 30 frames/s, times in seconds.

    ``walks`` are the four training trials, ``train`` their first part, and ``levels`` what to forecast: 0 the whole
    training trials (windows from frame ``first`` on are their continuations), 1 another walk, 2 other walking sessions,
    3 other actions. ``about`` has ``action`` and ``split``.
    """

    walks: Trajectories
    train: Trajectories
    levels: dict[int, Trajectories]
    center: np.ndarray
    scale: np.ndarray
    first: np.ndarray

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        return self.walks.variables


def mocap(data: Path, *, share: float = 0.7, floor: float = 0.0) -> Mocap:
    """Return the motion data at all levels.

    Pelvis rotation (it wraps) and the channels of thumbs, fingers and hands are left out, one of which is constant; 49
    channels stay. They are centered and divided by the standard deviation over the frames of the four training walks.

    Parameters
    ----------
    share
        Of the frames of each training walk that ``train`` has, from the first on.
    floor
        Radians; a channel is divided by no less. With 0.05, say, a joint that hardly moves in a walk does not outweigh
        the others when it moves elsewhere.
    """
    with np.load(data / "mocap" / "cmu_actions.npz") as stored:
        z = {name: stored[name] for name in stored}
    channels = z["channel"].astype(str)
    kept = ~np.array([any(part in name for part in ("Hips", "Thumb", "Finger", "Hand")) for name in channels])
    about = pd.DataFrame({"action": z["action"], "split": z["upstream_split"]}, index=z["trial"].astype(str))
    trained = ((about["action"] == "walking") & (about["split"] == "train")).to_numpy()
    raw = [z["x"][a:b, kept].astype(np.float64) for a, b in zip(z["offset"][:-1], z["offset"][1:], strict=True)]
    frames = np.concatenate([x for x, own in zip(raw, trained, strict=True) if own])
    center, scale = frames.mean(0), np.maximum(frames.std(0), floor)
    everything = trajectories_of(
        [(x - center) / scale for x in raw],
        [np.arange(len(x)) / float(z["fps"]) for x in raw],
        variables=channels[kept],
        about=about,
    )
    walks = everything.take(trained)
    action = about["action"].to_numpy()
    first = np.ceil(share * walks.lengths).astype(int)
    parts = [(t[:n], x[:n]) for (t, x), n in zip(walks.each(), first, strict=True)]
    return Mocap(
        walks=walks,
        train=trajectories_of(
            [x for _, x in parts], [t for t, _ in parts], variables=walks.variables, about=walks.about
        ),
        levels={
            0: walks,
            1: everything.take((action == "walking") & ~trained),
            2: everything.take(action == "walking_extra"),
            3: everything.take(~np.isin(action, ["walking", "walking_extra"])),
        },
        center=center,
        scale=scale,
        first=first,
    )


@dataclass(frozen=True, eq=False)
class Windows:
    """Stretches of trials to forecast from and to compare with.

    ``now`` (window) is the number of the last frame of ``history`` (window, frame, channel); ``future`` (window, frame,
    channel) are the frames after it, whose last one is repeated where the trial ends, which ``seen`` (window, frame)
    tells.
    """

    now: np.ndarray
    history: np.ndarray
    future: np.ndarray
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.now)


def forecast_windows(
    trial: np.ndarray, history: int, horizons: Sequence[int], *, every: int = 10, first: int = 0
) -> Windows:
    """Return the windows of one trial: `history` frames, and as many after them as the longest horizon.

    Parameters
    ----------
    trial
        (frames, channels), without what fills it up: ``for _, trial in trajectories.each()``.
    history
        Frames a forecast may look at; the last one is where it starts.
    horizons
        Numbers of frames after it. A window needs the shortest one to exist; of the others what exists is `seen`.
    every
        Frames between starts.
    first
        The first frame that may be forecast; 0 for any. A history may begin before it.
    """
    longest, shortest = max(horizons), min(horizons)
    now = np.arange(max(history, first) - 1, len(trial) - shortest, every)
    ahead = now[:, None] + 1 + np.arange(longest)
    return Windows(
        now=now,
        history=trial[now[:, None] + np.arange(1 - history, 1)],
        future=trial[np.minimum(ahead, len(trial) - 1)],
        seen=ahead < len(trial),
    )


def level_windows(
    trajectories: Trajectories,
    history: int,
    horizons: Sequence[int],
    *,
    every: int = 10,
    first: Sequence[int] | None = None,
) -> Windows:
    """Return the windows of all trials of a level, one trial after the other; `first` is one number a trial."""
    starts = [0] * len(trajectories) if first is None else first
    several = [
        forecast_windows(trial, history, horizons, every=every, first=int(start))
        for (_, trial), start in zip(trajectories.each(), starts, strict=True)
    ]
    return Windows(*(np.concatenate([getattr(w, name) for w in several]) for name in Windows.__dataclass_fields__))


def forecast_errors(
    prediction: np.ndarray, windows: Windows, horizons: Sequence[int], *, mean: bool = True
) -> dict[int, float]:
    """Return the mean squared error at each horizon, over windows and channels.

    With `mean`, over all frames from the first to the horizon, which is what the baselines of the specification are;
    else at the frame of the horizon alone. `prediction` is (window, frame, channel), as ``windows.future``.
    """
    squares = ((prediction - windows.future) ** 2).mean(2)
    errors = {}
    for horizon in horizons:
        frames = slice(0, horizon) if mean else slice(horizon - 1, horizon)
        errors[horizon] = float(squares[:, frames][windows.seen[:, frames]].mean())
    return errors
