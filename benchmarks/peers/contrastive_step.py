"""Peer: the NT-Xent losses of lightly and of pytorch-metric-learning, in a PyTorch training step on the same pairs.

The network and the step are ours, written with PyTorch's own layers; the losses are the packages', which divide
embeddings by their length themselves. Prints one JSON object with the same fields as ours: the whole step, the step
with the mean square of the outputs for a loss, the loss and its gradient alone, and its value on given embeddings.
``--compile`` puts ``torch.compile`` around network and loss, the rest is eager. With it, and of the slower package, the
parts are left out: the step alone is measured or, without a network, the loss. CPU seconds on one thread.
"""

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn

LEARNING_RATE = 1e-3
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def torchvision_operators() -> object | None:
    """Name two operators that torchvision registers, where its binary is for another build of torch.

    Without them it cannot be imported, and lightly's losses import it. None of them is called here.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    for path in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def loss_of(package: str, tau: float) -> Loss:
    """Return the package's loss over both views."""
    if package == "lightly":
        from lightly.loss import NTXentLoss

        return NTXentLoss(temperature=tau)
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return SelfSupervisedLoss(NTXentLoss(temperature=tau))


def network(name: str, widths: list[int]) -> nn.Sequential:
    """Return the published network (ReLU, then batch norm), or that for cells (layer norm, then GELU)."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(widths[:-1]):
        layers.append(nn.Linear(n_in, n_out))
        if name == "published":
            layers += [nn.ReLU(), nn.BatchNorm1d(n_out)]
        else:
            layers += [nn.LayerNorm(n_out), nn.GELU(approximate="tanh")]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def mean_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.square().mean() + b.square().mean()


def median_seconds(call: Callable[[], object], steps: int) -> float:
    """Return the median CPU seconds of a call, after three that are not counted."""
    taken = []
    for i in range(steps + 3):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began if i >= 3 else np.nan)
    return float(np.nanmedian(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="npz with left, right (inputs) and first, second (embeddings)")
    parser.add_argument("--package", choices=("lightly", "pytorch-metric-learning"), default="lightly")
    parser.add_argument("--network", choices=("published", "cells", "none"), required=True)
    parser.add_argument("--widths", default="", help="such as 3,128,3")
    parser.add_argument("--tau", type=float, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", type=int, default=0, choices=(0, 1))
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    torch.manual_seed(0)
    operators = torchvision_operators()
    with np.load(args.data) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored.files}
    compiled = torch.compile if args.compile else lambda function: function
    loss = loss_of(args.package, args.tau)

    first, second = (arrays[name].requires_grad_() for name in ("first", "second"))
    alone = compiled(loss)

    def gradient() -> None:
        first.grad = second.grad = None
        alone(first, second).backward()

    found = {"value": float(loss(first, second).detach())}
    parts = args.package == "lightly" and not args.compile
    if args.network == "none" or parts:
        found["loss_s"] = median_seconds(gradient, args.steps)
    for name, chosen in (("step_s", loss), ("network_s", mean_square)):
        if args.network == "none" or (name == "network_s" and not parts):
            break
        net = network(args.network, [int(width) for width in args.widths.split(",")])
        optimizer = torch.optim.Adam(net.parameters(), lr=LEARNING_RATE)
        objective = compiled(lambda net=net, chosen=chosen: chosen(net(arrays["left"]), net(arrays["right"])))

        def step(objective=objective, optimizer=optimizer) -> None:
            optimizer.zero_grad()
            objective().backward()
            optimizer.step()

        began = time.process_time()
        step()
        found[name.replace("_s", "_first_s")] = time.process_time() - began
        found[name] = median_seconds(step, args.steps)
    del operators  # it had to live as long as torchvision was in use
    print(json.dumps(found))


if __name__ == "__main__":
    main()
