"""The Python environments in which the peers run.

A peer runs in the interpreter named on the command line or in an environment variable; without one, ott-jax runs in
this interpreter where its neural extra is installed here; otherwise a virtual environment is made once in
``~/.cache/cellgap-peers`` (or under ``CELLGAP_PEERS``) with the exact release that the bar names.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from children import environment, say


@dataclass(frozen=True)
class Peer:
    """A package to compare with: what to install, and how an interpreter shows that it has it."""

    name: str
    requirements: tuple[str, ...]
    variable: str
    probe: str
    python: str | None = None  # an executable to make the environment with; None: this interpreter


OTT = Peer(
    name="ott",
    requirements=("ott-jax[neural]==0.6.0", f"jax=={metadata.version('jax')}", f"numpy=={metadata.version('numpy')}"),
    variable="CELLGAP_OTT_PYTHON",
    probe="import ott.neural.methods.monge_gap as m, importlib.metadata as i; assert i.version('ott-jax') == '0.6.0'",
)
CMONGE = Peer(
    name="cmonge",
    requirements=("cmonge==0.1.3",),
    variable="CELLGAP_CMONGE_PYTHON",
    probe="import importlib.metadata as i; assert i.version('cmonge') == '0.1.3'",
    python="python3.11",
)
CELLFLOW = Peer(
    name="cellflow",
    requirements=("cellflow-tools==0.0.9", "requests"),  # imported, but not among its dependencies
    variable="CELLGAP_CELLFLOW_PYTHON",
    probe="import cellflow.model, importlib.metadata as i; assert i.version('cellflow-tools') == '0.0.9'",
)
# ott-jax's geometry with costs on the fly calls a function that JAX 0.10 no longer has.
OTT_ONLINE = Peer(
    name="ott_online",
    requirements=("ott-jax==0.6.0", "jax==0.7.2", "numpy==2.3.4"),
    variable="CELLGAP_OTT_ONLINE_PYTHON",
    probe="import ott, jax.interpreters.batching as b; b.is_vmappable",
    python="python3.11",
)
GEOMLOSS = Peer(
    name="geomloss",
    requirements=("geomloss==0.3.1", "pykeops==2.3", "torch==2.13.0", "numpy"),
    variable="CELLGAP_GEOMLOSS_PYTHON",
    probe="import geomloss, pykeops",
    python="python3.11",
)
SCVI = Peer(
    name="scvi",
    requirements=("scvi-tools==1.4.2", "torch==2.13.0"),
    variable="CELLGAP_SCVI_PYTHON",
    probe="import scvi; assert scvi.__version__ == '1.4.2'",
)
# It calls an option of logistic regression that scikit-learn 1.8 no longer has.
CELLTYPIST = Peer(
    name="celltypist",
    requirements=("celltypist==1.7.1", "scikit-learn<1.8"),
    variable="CELLGAP_CELLTYPIST_PYTHON",
    probe="import celltypist, sklearn, importlib.metadata as i;"
    " assert i.version('celltypist') == '1.7.1' and sklearn.__version__ < '1.8'",
)
SCIB = Peer(
    name="scib",
    requirements=("scib-metrics==0.5.10", "harmonypy==2.1.0", "jax==0.10.2", "numpy==2.4.6"),
    variable="CELLGAP_SCIB_PYTHON",
    probe="import harmonypy, scib_metrics, importlib.metadata as i; assert i.version('scib-metrics') == '0.5.10'",
)
PATHREG = Peer(
    name="pathreg",
    requirements=("torchdiffeq==0.2.5", "torch==2.13.0", "numpy"),
    variable="CELLGAP_PATHREG_PYTHON",
    probe="import numpy, torch, torchdiffeq; assert torchdiffeq.__version__ == '0.2.5'",
)
# Its releases do not say which torchvision they need: the one of this torch.
LIGHTLY = Peer(
    name="lightly",
    requirements=(
        "lightly==1.6.0",
        "pytorch-metric-learning==2.9.0",
        "torch==2.13.0",
        "torchvision==0.28.0",
        "numpy",
        "setuptools",  # torch.compile asks for it
    ),
    variable="CELLGAP_LIGHTLY_PYTHON",
    probe="import numpy, torch, pytorch_metric_learning as p, importlib.metadata as i;"
    " assert i.version('lightly') == '1.6.0' and p.__version__ == '2.9.0'",
)
SCANPY = Peer(
    name="scanpy",
    requirements=("scanpy==1.11.5", "anndata", "h5py"),
    variable="CELLGAP_SCANPY_PYTHON",
    probe="import scanpy; assert scanpy.__version__.startswith('1.11')",
)
JAX_PRIVACY = Peer(
    name="jax_privacy",
    requirements=("jax-privacy==2.0.0",),
    variable="CELLGAP_JAX_PRIVACY_PYTHON",
    probe="import jax_privacy.matrix_factorization.toeplitz, importlib.metadata as i;"
    " assert i.version('jax-privacy') == '2.0.0'",
)

SENTENCE = Peer(
    name="sentence",
    requirements=("sentence-transformers==6.2.0", "torch==2.13.0", "numpy"),
    variable="CELLGAP_SENTENCE_PYTHON",
    probe="import torch, sentence_transformers",
)


def _has(python: str | Path, peer: Peer) -> bool:
    run = subprocess.run([str(python), "-c", peer.probe], env=environment(), capture_output=True)
    return run.returncode == 0


def peer_python(peer: Peer, given: str | None = None) -> str:
    """Return an interpreter that has the peer, making its environment where there is none.

    Parameters
    ----------
    peer
        One of the peers above.
    given
        An interpreter from the command line; it must have the peer.

    Raises
    ------
    SystemExit
        Where the interpreter asked for lacks the peer, or its environment cannot be made.
    """
    asked = given or os.environ.get(peer.variable)
    if asked:
        if not _has(asked, peer):
            raise SystemExit(f"{asked} does not have {' '.join(peer.requirements)}; install it there, or leave it out")
        return asked
    if peer.python is None and _has(sys.executable, peer):
        return sys.executable
    root = Path(os.environ.get("CELLGAP_PEERS", Path.home() / ".cache" / "cellgap-peers"))
    folder = root / peer.name
    python = folder / "bin" / "python"
    if python.exists() and _has(python, peer):
        return str(python)
    maker = sys.executable if peer.python is None else shutil.which(peer.python)
    if maker is None:
        raise SystemExit(
            f"the peer {peer.name} needs {peer.python} and there is none on the PATH; name an interpreter that has it"
            f" with {peer.variable}"
        )
    say(f"making an environment for {peer.name} in {folder}: {' '.join(peer.requirements)}")
    for command in (
        [maker, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    if not _has(python, peer):
        raise SystemExit(f"{peer.name} was installed in {folder} but cannot be imported there; remove that folder")
    return str(python)
