"""The peer: the same passages encoded by sentence-transformers with the same weights, on one thread.

Prints one JSON object (passages a CPU second) and writes the embeddings, (n, 384).
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np


def cpu_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("path", "weights", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--sample", type=int, required=True)
    args = parser.parse_args()

    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(args.weights), device="cpu")
    model.max_seq_length = 256
    with args.path.open() as file:
        texts = [f"{r['title']} {r['text']}" for r in (json.loads(next(file)) for _ in range(args.sample))]
    model.encode(texts[:8])
    start = cpu_seconds()
    found = model.encode(texts, normalize_embeddings=True)
    spent = cpu_seconds() - start
    np.save(args.out, np.asarray(found, np.float32))
    print(json.dumps({"per_s": len(texts) / spent}))


if __name__ == "__main__":
    main()
