"""Public data sets by name: where they are, who made them, under what licence, and the design that fits.

Nothing is shipped with cellgap. ``fetch`` downloads one file into a cache folder and checks it: against the checksum
that its archive publishes, where we know one; else against the checksum recorded on the first download (trust on first
use), which protects you from later changes, not from a wrong first file. It says so when it happens.

Entries are written from what the curators document; ``load`` checks the file against its design like any other study.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellgap.errors import DataError, MissingExtraError
from cellgap.study._design import Design
from cellgap.study._wording import close_to

if TYPE_CHECKING:
    from anndata import AnnData

    from cellgap.study._study import Study

__all__ = ["Dataset", "fetch", "info", "load", "names"]

_CHECKSUMS = "checksums.json"


@dataclass(frozen=True)
class Dataset:
    """One entry of the registry.

    Parameters
    ----------
    name
        What `fetch` and `load` call it.
    title
        What was measured.
    url
        Of the file; a version that does not change (a Zenodo record, a commit).
    file
        Name of the file in the cache.
    size
        In megabytes, where it is known.
    checksum
        As the archive publishes it (``md5:...`` or ``sha256:...``); None: recorded on the first download.
    licence
        Of the file.
    citation
        What to cite.
    design
        That fits the file after `prepare`.
    notes
        What to know before using it.
    prepare
        Turns the AnnData of the file into one that the design fits; None where it fits already.
    """

    name: str
    title: str
    url: str
    file: str
    size: float | None
    checksum: str | None
    licence: str
    citation: str
    design: Design
    notes: str = ""
    prepare: "Callable[[AnnData], AnnData] | None" = field(default=None, repr=False)

    def __str__(self) -> str:
        size = "size unknown" if self.size is None else f"{self.size:g} MB"
        check = self.checksum or "no published checksum: recorded on the first download"
        lines = [f"{self.name}: {self.title} ({size})", self.url, check, f"licence: {self.licence}", self.citation]
        return "\n  ".join(line for line in (*lines, self.notes) if line)


def _doses_from_wells(adata: "AnnData") -> "AnnData":
    """Return the AnnData with the columns ``drug`` and ``dose_nM``; the source has the dose in nM as ``well``."""
    dose = np.array([float(str(well)) for well in adata.obs["well"]])
    adata.obs["drug"] = np.where(dose > 0, "palbociclib", "control")
    adata.obs["dose_nM"] = dose
    return adata


def _labeled_cells(adata: "AnnData") -> "AnnData":
    """Return the cells that have a treatment, a dose and a cell line; says how many have not."""
    columns = ["perturbation", "dose_value", "cell_line"]
    known: np.ndarray = np.logical_and.reduce([adata.obs[column].notna().to_numpy() for column in columns])
    if known.all():
        return adata
    _tell(f"sciplex3: left out {int((~known).sum()):,} of {len(known):,} cells without a treatment, dose or cell line.")
    return adata[known].copy()


_SCPERTURB = (
    "Harmonized by scPerturb: Peidli et al., Nature Methods 21 (2024) 531, doi 10.1038/s41592-023-02144-y, "
    "Zenodo record 13350497."
)
_REGISTRY: dict[str, Dataset] = {
    entry.name: entry
    for entry in (
        Dataset(
            name="norman2019",
            title="CRISPR activation of single genes and pairs of genes in K562 cells",
            url="https://zenodo.org/records/13350497/files/NormanWeissman2019_filtered.h5ad",
            file="NormanWeissman2019_filtered.h5ad",
            size=699,
            checksum="md5:c870e6967d91c017d9da827bab183cd6",
            licence="CC BY 4.0",
            citation="Norman et al., Science 365 (2019) 786, doi 10.1126/science.aax4438. " + _SCPERTURB,
            design=Design(treatment="perturbation", control="control", context=("cell_line",), counts="X", combine="_"),
            notes="One cell line; for unseen combinations. Pairs are written A_B.",
        ),
        Dataset(
            name="sciplex3",
            title="188 compounds at four doses in A549, K562 and MCF7 cells",
            url="https://zenodo.org/records/13350497/files/SrivatsanTrapnell2020_sciplex3.h5ad",
            file="SrivatsanTrapnell2020_sciplex3.h5ad",
            size=2527,
            checksum="md5:c9e70629505d98c7ca1a837f62b14e89",
            licence="CC BY 4.0",
            citation="Srivatsan et al., Science 367 (2020) 45, doi 10.1126/science.aax6234. " + _SCPERTURB,
            # Names such as "(+)-JQ1" hold a plus sign that joins nothing.
            design=Design(
                treatment="perturbation",
                control="control",
                dose="dose_value",
                dose_unit="nM",
                context=("cell_line",),
                counts="X",
                combine=None,
            ),
            notes="About 800,000 cells x 111,000 genes: needs some 20 GB of memory. Version 1.4 of the record corrects "
            "errors of earlier ones. Cells without a treatment, dose or cell line are left out, and counted.",
            prepare=_labeled_cells,
        ),
        Dataset(
            name="palbociclib_4i",
            title="14 nuclear features of breast tumor cells by iterative imaging, untreated and with palbociclib",
            url="https://raw.githubusercontent.com/purvislab/fractional_resistance/"
            "4f74bc42646cc525729cd5b0544eb26e36598c3f/data/tumor_preprocessed.h5ad",
            file="fractional_resistance_tumor_preprocessed.h5ad",
            size=None,
            checksum=None,
            licence="MIT",
            citation="Zikry et al., PNAS 121 (2024), Cell cycle plasticity underlies fractional resistance to "
            "palbociclib in ER+/HER2- breast tumor cells. Also Zenodo, doi 10.5281/zenodo.7930054.",
            design=Design(treatment="drug", control="control", dose="dose_nM"),
            notes="Standardized intensities, no counts; one tumor, so nothing about donors.",
            prepare=_doses_from_wells,
        ),
    )
}


def names() -> tuple[str, ...]:
    """Return the names of the data sets, sorted."""
    return tuple(sorted(_REGISTRY))


def info(name: str) -> Dataset:
    """Return what is known about a data set; printing it shows source, licence and citation.

    Raises
    ------
    DataError
        There is no data set of this name.
    """
    if name not in _REGISTRY:
        raise DataError(f"There is no data set {name!r}: {close_to(name, names())}")
    return _REGISTRY[name]


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """Return the path of a data set's file, downloaded and checked.

    A file that lies in the folder already, put there by an earlier call or by hand, is checked and not downloaded.

    Parameters
    ----------
    name
        One of `names`.
    folder
        Where files are kept; None takes the cache folder of the user.

    Raises
    ------
    DataError
        There is no such data set, it cannot be downloaded, or its checksum is wrong.
    MissingExtraError
        pooch is not installed.
    """
    entry, pooch = info(name), _pooch()
    folder = Path(pooch.os_cache("cellgap")) if folder is None else Path(folder)
    path = folder / entry.file
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _retrieve(pooch, entry, folder)
        except ValueError as error:  # pooch: the hash is wrong; the file is not kept
            raise DataError(
                f"{entry.url} does not have the published checksum {entry.checksum}: the download is damaged, or the "
                "file was changed at its source; try again, and do not use it if this happens twice."
            ) from error
        except OSError as error:
            raise DataError(
                f"{entry.url} cannot be downloaded ({type(error).__name__}): check the network, or download it by hand "
                f"and put it at {path}."
            ) from error
    _check(entry, path)
    return path


def load(name: str, folder: str | Path | None = None) -> "Study":
    """Return a data set as a study, downloading it first where needed.

    Parameters
    ----------
    name
        One of `names`.
    folder
        Where files are kept; None takes the cache folder of the user.

    Raises
    ------
    DataError
        As for `fetch`, or the file is not what the registry says.
    DesignError
        The design does not fit the file.
    """
    from cellgap.study._read import open_study_file
    from cellgap.study._study import Study

    entry, path = info(name), fetch(name, folder)
    adata = open_study_file(path)
    if entry.prepare is not None:
        try:
            adata = entry.prepare(adata)
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{path} is not what the registry expects ({error}): delete it and fetch it anew."
            ) from error
    return Study(adata, entry.design)


def _pooch() -> Any:
    try:
        import pooch
    except ImportError:
        raise MissingExtraError(
            'Downloading data sets needs pooch, which is not installed: pip install "cellgap[data]".'
        ) from None
    return pooch


def _retrieve(pooch: Any, entry: Dataset, folder: Path) -> None:
    # pooch announces every file on its own logger; what matters is told by `_check`.
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        pooch.retrieve(entry.url, known_hash=entry.checksum, fname=entry.file, path=folder)
    finally:
        logger.setLevel(level)


def _check(entry: Dataset, path: Path) -> None:
    """Raise where a file has another checksum than the published or the recorded one; record a first one."""
    if entry.checksum is not None:
        kind, _, wanted = entry.checksum.partition(":")
        if _digest(path, kind) != wanted:
            raise DataError(
                f"{path} does not have the published checksum {entry.checksum}: delete it and fetch it anew."
            )
        return
    record = path.parent / _CHECKSUMS
    recorded: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    found = _digest(path, "sha256")
    if entry.url not in recorded:
        record.write_text(json.dumps(recorded | {entry.url: found}, indent=1) + "\n")
        _tell(
            f"{entry.name}: no checksum is published for {entry.url}. Its SHA-256 {found} was recorded in {record}; "
            "later calls compare with it, but nothing vouches for this first file."
        )
    elif recorded[entry.url] != found:
        raise DataError(
            f"{path} has the SHA-256 {found}, but {recorded[entry.url]} was recorded when it was first downloaded: "
            f"it was changed or damaged; delete it and fetch it anew, or remove its line from {record} if you trust it."
        )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
