"""Errors of counting by jax-privacy's Toeplitz mechanism. A child of stream_counters.py, run where jax-privacy is.

Prints, for a horizon and rho (one participation of norm 1), the worst standard deviation of a prefix by the library's
own formula, and the root mean square of measured errors: float Gaussian noise times its noising coefficients, summed
up along time.
"""

import argparse
import json
import math

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
from jax_privacy.matrix_factorization import toeplitz  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--rho", type=float, default=0.5)
    args = parser.parse_args()
    coefs = toeplitz.optimal_max_error_strategy_coefs(args.steps)
    scale = math.sqrt(float(toeplitz.sensitivity_squared(coefs)) / (2 * args.rho))
    variances = toeplitz.per_query_error(strategy_coef=coefs)
    noising = toeplitz.optimal_max_error_noising_coefs(args.steps)
    noise = scale * np.random.default_rng(0).normal(size=(args.runs, args.steps))
    multiply = jax.jit(jax.vmap(lambda z: jnp.cumsum(toeplitz.multiply(noising, z, skip_checks=True))))
    errors = np.asarray(multiply(jnp.asarray(noise)))
    print(
        json.dumps(
            {
                "worst_sd": scale * math.sqrt(float(variances.max())),
                "rms": float(np.sqrt((errors**2).mean())),
                "largest": float(np.abs(errors).max(axis=1).mean()),
            }
        )
    )


if __name__ == "__main__":
    main()
