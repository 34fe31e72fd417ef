"""One run on two devices, and on two processes: the numbers of one device."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax.random as jr
import numpy as np
import pytest
from small import FULL, NETWORK, RAW, screen

from cellgap.errors import ConfigError
from cellgap.study import split
from cellgap.train import initialize
from cellgap.transport import ConditionalMonge, Optimization

PROGRAM = Path(__file__).with_name("several_devices.py")

Numbers = dict[str, np.ndarray]


def begin(folder: Path, *arguments: str, n_devices: int) -> subprocess.Popen[str]:
    places = os.pathsep.join(str(PROGRAM.parents[1] / name) for name in ("transport", "train"))
    env = os.environ | {"JAX_NUM_CPU_DEVICES": str(n_devices), "JAX_PLATFORMS": "cpu", "PYTHONPATH": places}
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def end(*children: subprocess.Popen[str]) -> None:
    with contextlib.ExitStack() as stack:
        for child in children:
            stack.enter_context(child)
            stack.callback(child.kill)  # before it is waited for, whatever happened
        said = [child.communicate(timeout=500)[0] for child in children]
    assert [child.returncode for child in children] == [0] * len(children), "\n".join(said)


def numbers(path: Path) -> Numbers:
    with np.load(path) as stored:
        return dict(stored)


def same(one: Numbers, other: Numbers, *further: str) -> None:
    """Hold weights, losses and validations to 1e-5 in their norms."""
    for name in ("weights", "loss", "state", "streamed loss", "valid", *further):
        assert np.linalg.norm(one[name] - other[name]) <= 1e-5 * np.linalg.norm(one[name]), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What one process with two devices wrote: fits on one of them, and on both."""
    folder = tmp_path_factory.mktemp("devices")
    end(begin(folder, n_devices=2))
    return folder


@pytest.mark.slow
def test_two_devices_give_the_numbers_of_one(folder):
    one, two = numbers(folder / "devices None.npz"), numbers(folder / "devices 2.npz")
    same(one, two, "flow weights", "flow loss")
    # Sums in another order leave a mark: it is not the same program.
    assert (one["weights"] != two["weights"]).any()


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one_and_only_the_first_one_writes(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    end(*(begin(folder, coordinator, str(i), n_devices=1) for i in range(2)))
    one = numbers(folder / "devices None.npz")
    first, second = numbers(folder / "process 0 2.npz"), numbers(folder / "process 1 2.npz")
    same(one, first)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    for kind in ("map", "toy"):
        assert sorted(p.name for p in (folder / f"process 2 {kind}").iterdir()) == ["checkpoint.eqx", "log.jsonl"]


def test_devices_that_cannot_share_a_step_are_refused():
    with pytest.raises(ConfigError, match="conditions_per_step must be a multiple of it, found 3"):
        Optimization(devices=2, conditions_per_step=3)
    cut = split.unseen_dose(screen(n=8), [100], seed=0, min_cells=2)
    settings = NETWORK | {"optimization": Optimization(devices=99, conditions_per_step=99)}
    with pytest.raises(ConfigError, match=r"devices=99 asks for more devices than the \d+ that JAX found"):
        ConditionalMonge(space=RAW, encoder=FULL, **settings).fit(cut, key=jr.key(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost", 2, 0), "such as \"10.0.0.1:12345\", found 'localhost'"),
        (("localhost:x", 2, 0), "found 'localhost:x'"),
        (("localhost:1", 2, 2), "one of 0 to n_processes - 1, found 2 of 2"),
        (("localhost:1", 0, 0), "found 0 of 0"),
    ],
)
def test_processes_are_numbered_and_have_an_address(arguments, message):
    with pytest.raises(ConfigError, match=message):
        initialize(*arguments)
