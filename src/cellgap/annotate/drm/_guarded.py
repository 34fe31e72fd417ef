"""Domain-specific risk minimisation, guarded: a rule is used only where leaving source domains out has shown a gain."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from pydantic import Field, model_validator
from scipy.stats import t as student

from cellgap.annotate._labelled import Labelled
from cellgap.annotate.drm._calibration import head_temperatures, temperature_losses
from cellgap.annotate.drm._fold import Fold, cells_of, subset
from cellgap.annotate.drm._guarded_result import Choice, GuardedResult, nearest
from cellgap.annotate.drm._network import DomainHeadsNet
from cellgap.annotate.drm._objective import DRMObjective
from cellgap.annotate.drm._rules import Rule, rule_log_probability
from cellgap.annotate.drm._side_by_side import Trainer
from cellgap.annotate.drm._weights import prototypes_of
from cellgap.errors import ConfigError
from cellgap.nn import Activation, Norm, Tower
from cellgap.settings import settings
from cellgap.train import Loop

LEAST_DOMAINS = 3
_OUTSIDE = 0.95
_CHANCE = 0.1587  # of a standard normal above one standard deviation


@settings
class Guarded:
    """Settings of the network with domain heads, and the rules that are compared.

    Parameters
    ----------
    hidden, norm, activation
        The tower of featuriser and shared head; see `cellgap.nn.Tower`.
    pooled, penalty
        Domain heads are the shared head plus an offset whose square is penalized; see `DRMObjective`.
    tau
        Comp-sum loss; 1 is the cross-entropy.
    per_domain
        Cells of every domain in a batch.
    learning_rate, weight_decay
        AdamW.
    loop
        Number of steps; nothing is validated on the way.
    inverse_temperatures
        Of weights by similarity, to be compared.
    gammas
        Powers of weights by calibrated entropy, to be compared; below 0: the head of least entropy.
    """

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64, 64)
    norm: Norm = "layer"
    activation: Activation = "gelu"
    pooled: bool = True
    penalty: Annotated[float, Field(ge=0)] = 0.1
    tau: Annotated[float, Field(ge=0)] = 1.0
    per_domain: Annotated[int, Field(ge=1)] = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    loop: Loop = Loop(n_steps=500, chunk=50)
    inverse_temperatures: tuple[Annotated[float, Field(ge=0)], ...] = (3.0, 10.0, 30.0)
    gammas: tuple[float, ...] = (-1.0, 0.0, 0.5, 1.0, 5.0)

    @model_validator(mode="after")
    def _check(self) -> "Guarded":
        if not self.hidden:
            raise ConfigError("Domain heads need features: give `hidden` at least one width.")
        return self

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All rules; ERM is the first."""
        similar = (Rule("similarity", b) for b in self.inverse_temperatures)
        return (Rule("erm"), Rule("shared"), *similar, *(Rule("entropy", g) for g in self.gammas))


class _Reading(NamedTuple):
    """What a network says of the cells of one domain, and the prototypes of all."""

    scores: Float[Array, "n heads classes"]
    features: Float[Array, "n width"]
    prototypes: Float[Array, "domains width"]
    spreads: Float[Array, " domains"]


def fit_guarded(
    data: Labelled, erm: Callable[[Labelled, PRNGKeyArray], Any], settings: Guarded, *, key: PRNGKeyArray
) -> GuardedResult:
    """Return the classifier, chosen by leaving every source domain out in turn.

    For every source domain a network with heads and an ERM model learn from the others and are scored on it. A rule
    replaces ERM only where its mean accuracy is higher by more than chance allows, see `choose`. Heads are
    calibrated on the same left-out domains: the temperature of head ``i``, for use on domain ``j``, is fitted on the
    domains other than both, each read by the network that did not learn from it. So no cell is set aside, and no label
    of domain ``j`` enters what is judged on it except through networks that serve its calibration.

    Parameters
    ----------
    data
        Cells of the source domains.
    erm
        Trains a model without domains on given cells, of one random key; the model gives scores of rows. A `Trainer`
        trains on all folds by one program; another callable is called once a fold.
    settings
        Of the network with heads, and the rules.
    key
        Random key.

    Source
    ------
    The heads and rules are those of Zhang et al. 2023 (arXiv 2208.08661); calibration, choice and fallback are ours:
    as published, the rules lost to ERM where we measured.
    """
    key_erm, key_heads = jr.split(key)
    n_domains = data.n_domains
    if n_domains < LEAST_DOMAINS:
        return _plain(erm(data, key_erm), n_domains)
    folds = [Fold.without(data, j) for j in (*range(n_domains), -1)]
    if isinstance(erm, Trainer):
        plain = erm.each(folds, key_erm)
    else:
        plain = [erm(subset(data, j), key_erm) for j in range(n_domains)] + [erm(data, key_erm)]
    nets = heads_trainer(data, settings).each(folds, key_heads)
    return _chosen(data, plain, nets, settings.rules)


def heads_trainer(data: Labelled, settings: Guarded) -> Trainer:
    """Return how the network with domain heads is trained on these cells."""
    widths = (data.x.shape[1], *settings.hidden, data.n_classes)
    # A domain lacks a class or not whichever fold it is in: one mask serves all.
    present = np.zeros((data.n_domains, data.n_classes), bool)
    present[np.asarray(data.domain), np.asarray(data.y)] = True
    mask = None if present.all() else present

    def build(key: PRNGKeyArray) -> DomainHeadsNet:
        key_tower, key_heads = jr.split(key)
        tower = Tower(widths, norm=settings.norm, activation=settings.activation, key=key_tower)
        return DomainHeadsNet(tower, data.n_domains, pooled=settings.pooled, present=mask, key=key_heads)

    def objective(cells: Labelled) -> DRMObjective:
        return DRMObjective(cells, settings.per_domain, settings.tau, settings.penalty)

    optimizer = optax.adamw(settings.learning_rate, weight_decay=settings.weight_decay)
    return Trainer(build, objective, optimizer, settings.loop)


def _plain(net: Any, n_domains: int) -> GuardedResult:
    there = "is 1 source domain" if n_domains == 1 else f"are {n_domains} source domains"
    sentence = (
        f"ERM: there {there}, and a rule can be judged only where at least {LEAST_DOMAINS} can be left out in turn."
    )
    empty = jnp.zeros((n_domains, 0))
    return GuardedResult(net, None, Rule("erm"), sentence, (), jnp.ones(n_domains + 1), empty, 1.0, float("nan"))


def _chosen(data: Labelled, plain: list[Any], nets: list[DomainHeadsNet], rules: tuple[Rule, ...]) -> GuardedResult:
    n_domains = data.n_domains
    length = int(np.max(np.asarray(data.sizes)))
    rows = jnp.asarray(np.stack([cells_of(data, j, length) for j in range(n_domains)]))
    real = jnp.asarray(np.arange(length) < np.asarray(data.sizes)[:, None], jnp.float32)
    readings = [_read(nets[j], data, rows[j]) for j in range(n_domains)]
    losses = [np.asarray(_losses(readings[j].scores, data.y[rows[j]], real[j])) for j in range(n_domains)]
    temperatures = _temperatures(np.stack(losses))

    accuracy = np.zeros((len(rules), n_domains))
    distances = np.zeros(n_domains)
    for j in range(n_domains):
        kept = np.delete(np.arange(n_domains), j)
        judged = _accuracies(
            rules, plain[j], readings[j], jnp.asarray(temperatures[j], jnp.float32), jnp.asarray(kept),
            data.x[rows[j]], data.y[rows[j]], real[j],
        )  # fmt: skip
        accuracy[:, j] = np.asarray(judged)
        distances[j] = _distance(readings[j], j, kept)
    choices = tuple(_choice(rule, row, accuracy[0]) for rule, row in zip(rules, accuracy, strict=True))
    rule, sentence = choose(choices)
    whole = _read(nets[-1], data, rows[0])
    return GuardedResult(
        plain[-1], nets[-1], rule, sentence, choices, jnp.asarray(temperatures[-1], jnp.float32), whole.prototypes,
        _spread(whole), float(np.quantile(distances, _OUTSIDE)),
    )  # fmt: skip


def choose(choices: tuple[Choice, ...]) -> tuple[Rule, str]:
    """Return the rule to use and why: ERM, the first, unless the best of the others gains more than chance would.

    One standard error is what a rule that is no better passes in 16 % of cases; the best of several passes it far more
    often. So the limit is the number of standard errors that one of them passes in 16 % of cases, if each does so in
    equal part: by Bonferroni, with Student's t for the few domains.
    """
    erm, others = choices[0], choices[1:]
    limit = margin_of(len(others), int(np.asarray(erm.accuracy).size))
    best = max(others, key=lambda c: c.mean)
    able = [c for c in others if c.gain > limit * c.se]
    if not able:
        return erm.rule, (
            f"ERM: none of {len(others)} rules gains more than {limit:.1f} standard errors on it where source domains "
            f"are left out; the best is {best.rule}, {100 * best.gain:+.1f} ± {100 * best.se:.1f} points."
        )
    won = max(able, key=lambda c: c.mean)
    return won.rule, (
        f"{won.rule}: {100 * won.gain:+.1f} ± {100 * won.se:.1f} points on ERM where source domains are left out."
    )


def margin_of(n_rules: int, n_domains: int) -> float:
    """Return how many standard errors the best of some rules has to gain, over so many domains."""
    return float(student.ppf(1.0 - _CHANCE / n_rules, n_domains - 1))


def _choice(rule: Rule, accuracy: Float[np.ndarray, " domains"], erm: Float[np.ndarray, " domains"]) -> Choice:
    gain = accuracy - erm
    se = float(gain.std(ddof=1) / np.sqrt(len(gain)))
    return Choice(rule, jnp.asarray(accuracy, jnp.float32), float(accuracy.mean()), float(gain.mean()), se)


def _temperatures(losses: Float[np.ndarray, "domains heads temps"]) -> Float[np.ndarray, "uses heads"]:
    """Return temperatures of all heads for use on every domain and, last, on a new one."""
    n_domains, n_heads, _ = losses.shape
    other = ~np.eye(n_domains, n_heads, dtype=bool)
    for_domains = [head_temperatures(losses, other & (np.arange(n_domains) != j)[:, None]) for j in range(n_domains)]
    return np.stack([*for_domains, head_temperatures(losses, other)])


@eqx.filter_jit
def _losses(
    scores: Float[Array, "n heads classes"], y: Int[Array, " n"], weight: Float[Array, " n"]
) -> Float[Array, "heads temps"]:
    return temperature_losses(scores, y, weight)


@eqx.filter_jit
def _read(net: DomainHeadsNet, data: Labelled, rows: Int[Array, " n"]) -> _Reading:
    features = net.features(data.x)
    prototypes = prototypes_of(features, data.domain, data.n_domains)
    squares = jnp.sum((features - prototypes[data.domain]) ** 2, 1, keepdims=True)
    spreads = prototypes_of(squares, data.domain, data.n_domains)[:, 0]
    return _Reading(net.head_scores(data.x[rows]), features[rows], prototypes, spreads)


@eqx.filter_jit
def _accuracies(
    rules: tuple[Rule, ...],
    plain: Any,
    read: _Reading,
    temperatures: Float[Array, " heads"],
    kept: Int[Array, " kept"],
    x: Float[Array, "n features"],
    y: Int[Array, " n"],
    weight: Float[Array, " n"],
) -> Float[Array, " rules"]:
    """Return the accuracy of every rule on a domain whose own head is left out."""
    heads = jnp.append(kept, read.scores.shape[1] - 1)
    given = (read.scores[:, heads], read.features, read.prototypes[kept], temperatures[heads])
    scores = [plain(x) if rule.kind == "erm" else rule_log_probability(rule, *given) for rule in rules]
    correct = jnp.stack([jnp.argmax(s, 1) == y for s in scores])
    return correct @ weight / jnp.sum(weight)


def _distance(read: _Reading, left_out: int, kept: Int[np.ndarray, " kept"]) -> float:
    spread = float(np.sqrt(np.mean(np.asarray(read.spreads)[kept])))
    return float(nearest(read.prototypes[left_out], read.prototypes[jnp.asarray(kept)])) / spread


def _spread(read: _Reading) -> float:
    return float(jnp.sqrt(jnp.mean(read.spreads)))
