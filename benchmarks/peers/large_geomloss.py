"""Peer: geomloss's Sinkhorn divergence of large clouds, costs on the fly by KeOps, one call, compiling included.

``SamplesLoss("sinkhorn", p=2, backend="online")``: its cost is ``|x - y|^2 / 2``, so its blur is ``sqrt(epsilon / 2)``
and twice its value is reported. It has no tolerance: ``--scaling`` says how fast its blur falls. Prints one JSON
object.
"""

import argparse
import json
import resource
import time
from importlib import metadata

import numpy as np
import torch
from geomloss import SamplesLoss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--scaling", type=float, default=0.5)
    parser.add_argument("--cpu-limit", type=int, default=3600, help="CPU seconds after which the system ends it")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CPU, (args.cpu_limit, args.cpu_limit + 5))
    with np.load(args.data) as stored:
        x, y = (torch.from_numpy(stored[name][: args.n].copy()) for name in ("controls", "treated"))
    loss = SamplesLoss("sinkhorn", p=2, blur=(args.epsilon / 2) ** 0.5, scaling=args.scaling, backend="online")
    clock, before = time.perf_counter(), time.process_time()
    with torch.no_grad():
        value = 2.0 * float(loss(x, y))
    spent = {"cpu_s": time.process_time() - before, "wall_s": time.perf_counter() - clock}
    print(json.dumps({"value": value, "version": metadata.version("geomloss")} | spent))


if __name__ == "__main__":
    main()
