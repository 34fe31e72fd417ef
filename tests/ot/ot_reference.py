"""Plain float64 implementations to compare with: the definitions, without any speed."""

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp


def clouds(n: int = 40, m: int = 40, d: int = 5, *, seed: int = 0, shift: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Two float64 clouds of different size, spread and mean."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + shift


def weights(n: int, *, seed: int = 0) -> np.ndarray:
    """Uneven weights that sum to 1."""
    drawn = np.random.default_rng(seed).uniform(0.2, 2.0, size=n)
    return drawn / drawn.sum()


def log_domain(
    c: np.ndarray, epsilon: float, a: np.ndarray | None = None, b: np.ndarray | None = None, tol: float = 1e-12
) -> tuple[np.ndarray, np.ndarray]:
    """Potentials of the plain iteration ``f = softmin(C - g), g = softmin(C - f)``, run until nothing moves."""
    n, m = c.shape
    log_a = -np.log(n) * np.ones(n) if a is None else np.log(a)
    log_b = -np.log(m) * np.ones(m) if b is None else np.log(b)
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(3000):
        f = -epsilon * logsumexp((g - c) / epsilon + log_b, axis=1)
        new = -epsilon * logsumexp((f[:, None] - c) / epsilon + log_a[:, None], axis=0)
        moved, g = np.abs(new - g).max(), new
        if moved < tol * max(1.0, np.abs(g).max(), epsilon):
            return f, g
    raise AssertionError("the plain iteration did not converge")


def log_domain_self(c: np.ndarray, epsilon: float, a: np.ndarray) -> np.ndarray:
    """The potential of a cloud against itself by averaged updates; the other iteration is slow here."""
    f = np.zeros(len(c))
    for _ in range(200):
        f = 0.5 * (f - epsilon * logsumexp((f - c) / epsilon + np.log(a), axis=1))
    return f


def plan_of(
    c: np.ndarray,
    f: np.ndarray,
    g: np.ndarray,
    epsilon: float,
    a: np.ndarray | None = None,
    b: np.ndarray | None = None,
) -> np.ndarray:
    """``P_ij = a_i b_j exp((f_i + g_j - C_ij) / eps)``."""
    n, m = c.shape
    rows = np.full(n, 1 / n) if a is None else a
    columns = np.full(m, 1 / m) if b is None else b
    return np.exp((f[:, None] + g[None, :] - c) / epsilon) * rows[:, None] * columns[None, :]


def primal_kl(c: np.ndarray, p: np.ndarray, epsilon: float) -> float:
    """``<P, C> + eps KL(P | marginals of P)``."""
    outer = p.sum(1)[:, None] * p.sum(0)[None, :]
    inside = p > 0
    return float((p * c).sum() + epsilon * (p[inside] * np.log(p[inside] / outer[inside])).sum())


def slope_of(x: np.ndarray, y: np.ndarray, p: np.ndarray, cost: str) -> np.ndarray:
    """``sum_j P_ij grad_1 c(x_i, y_j)``, through an array of all pairs and coordinates; 0 where points coincide."""
    apart = x[:, None] - y[None]
    if cost == "sqeuclidean":
        return 2 * (p[:, :, None] * apart).sum(1)
    length = np.linalg.norm(apart, axis=2)
    return (np.where(length > 0, p / np.where(length > 0, length, 1.0), 0.0)[:, :, None] * apart).sum(1)


def entropic_value(
    x: np.ndarray,
    y: np.ndarray,
    epsilon: float,
    cost: str,
    a: np.ndarray | None = None,
    b: np.ndarray | None = None,
) -> float:
    """``OT_kl`` from the plan of the plain iteration."""
    c = cdist(x, y, cost)
    f, g = log_domain(c, epsilon, a, b)
    return primal_kl(c, plan_of(c, f, g, epsilon, a, b), epsilon)
