"""Saved objects: exact round trips, files that are data and never code, damage that is told apart."""

import builtins
import dataclasses
import io
import json
import math
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cellgap import storage
from cellgap.errors import StorageError
from cellgap.storage import load, read_document, save, storable


@storable
@dataclasses.dataclass(frozen=True)
class Box:
    content: Any
    label: str = "box"


@storable
@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    weight: Any


@storable
class Layer(eqx.Module):
    weight: jax.Array
    bias: jax.Array | None
    scale: float
    activation: str = eqx.field(static=True)

    def __init__(self, size: int):
        self.weight = jnp.arange(size, dtype=jnp.float32)
        self.bias = None
        self.scale = 0.1
        self.activation = "gelu"


class Unregistered:
    pass


def same(one: Any, two: Any) -> bool:
    """Equality in type, structure, dtype, shape and bits."""
    if type(one) is not type(two) and not (isinstance(one, jax.Array) and isinstance(two, jax.Array)):
        return False
    if isinstance(one, (np.ndarray, jax.Array)):
        return (
            one.dtype == two.dtype and one.shape == two.shape and np.asarray(one).tobytes() == np.asarray(two).tobytes()
        )
    if isinstance(one, (tuple, list)):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[k], two[k]) for k in one)
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(two, f.name)) for f in dataclasses.fields(one))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(two)
    return one == two


NESTED = Box(
    {
        "layers": (Layer(3), Layer(2)),
        "empty": ((), [], {}),
        "numbers": (1, -0.0, 1e-300, True, None, "µM + dex", 0.1 + 0.2, math.inf, math.nan),
        "deep": [Box((None, [{"a": np.float32(0.1).item()}])), Slotted(np.arange(3))],
        "class": {"class": "data named like the structure", "array": {"tuple": None}},
        "file": np.arange(2),
        "allow_pickle": np.arange(3),
    }
)
ARRAYS = {
    "f4": np.float32([[1.5, np.nan], [np.inf, -0.0]]),
    "f8": np.float64([0.1]),
    "i8": np.int64([2**62]),
    "bool": np.array([True, False]),
    "c16": np.array([1 + 2j]),
    "scalar": np.array(3.0),
    "no rows": np.zeros((0, 4), np.float32),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "text": np.array(["TP53", "β-actin"]),
    "bytes": np.array([b"ab", b"c"]),
    "time": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "jax": jnp.arange(4, dtype=jnp.int32),
    "jax scalar": jnp.float32(2.5),
    "strided": np.arange(10)[::2],
}


def test_nested_objects_come_back_as_they_were(tmp_path):
    assert save(NESTED, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    assert same(load(tmp_path / "new" / "folder"), NESTED)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["model.json", "model.npz"]


def test_arrays_of_every_kind_come_back_bit_by_bit_and_on_their_side(tmp_path):
    save(Box(ARRAYS), tmp_path)
    back = load(tmp_path).content
    assert same(back, ARRAYS)
    assert isinstance(back["jax"], jax.Array) and type(back["f4"]) is np.ndarray


def test_numpy_scalars_become_numbers(tmp_path):
    save(Box((np.float32(0.5), np.int16(3), np.bool_(True), np.float64(0.1))), tmp_path)
    assert load(tmp_path).content == (0.5, 3, True, 0.1)


def test_gene_names_of_pandas_dtype_are_stored_as_text(tmp_path):
    save(Box(np.array(["A", "B"], dtype=object)), tmp_path)
    assert load(tmp_path).content.tolist() == ["A", "B"]


def test_dictionary_keys_with_dots_do_not_overwrite_each_other(tmp_path):
    content = {"a.b": np.array(1.0), "a": {"b": np.array(2.0), ".b": np.array(3.0)}, "": np.array(4.0)}
    save(Box(content), tmp_path)
    assert same(load(tmp_path).content, content)


def test_header_and_versions_are_readable_without_the_arrays(tmp_path):
    save(Box(1), tmp_path, header={"steps": 3})
    (tmp_path / "model.npz").unlink()
    document = read_document(tmp_path)
    assert document["header"] == {"steps": 3} and document["versions"]["numpy"] == np.__version__


def test_one_object_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        save(NESTED, tmp_path / folder)
    for name in ("model.npz", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_two_objects_live_in_one_folder(tmp_path):
    save(Box(np.arange(2)), tmp_path, name="map")
    save(Box(np.arange(3)), tmp_path, name="split")
    assert (len(load(tmp_path, name="map").content), len(load(tmp_path, name="split").content)) == (2, 3)


def test_the_archive_holds_the_arrays_and_nothing_else(tmp_path):
    save(Box({"x": np.arange(2)}), tmp_path)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as archive:
        assert archive.files == ["content.x"]


class Stop:
    def __init__(self):
        self.ran = []

    def __reduce__(self):
        return (os.mkdir, ("pickle-ran",))


@pytest.mark.parametrize(
    "content",
    [
        np.array([Stop(), None], dtype=object),
        np.array(["A", None], dtype=object),
        np.array([1.0, "A"], dtype=object),
        np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1.0, 2.0], mask=[True, False]),
        jnp.zeros(2, jnp.bfloat16),
        jax.random.key(0),
        Unregistered(),
        Unregistered,
        print,
        {1: "number as key"},
        {1, 2},
        1j,
        np.datetime64("2020-01-01"),
        b"bytes",
        Path("x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_stored_exactly_is_refused_before_anything_is_written(tmp_path, content):
    with pytest.raises(StorageError, match=r"\.content"):
        save(Box({"good": np.arange(3), "odd": content}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pandas_objects_are_refused_rather_than_turned_into_arrays(tmp_path):
    pandas = pytest.importorskip("pandas")
    with pytest.raises(StorageError, match=r"\.content.*pandas"):
        save(Box(pandas.Series([1.0])), tmp_path)


def test_named_tuples_are_refused_rather_than_turned_into_tuples(tmp_path):
    with pytest.raises(StorageError, match="cannot be stored"):
        save(Box(sys.version_info), tmp_path)


def test_header_that_is_not_json_leaves_the_old_files(tmp_path):
    save(Box(1), tmp_path)
    with pytest.raises(StorageError, match="header"):
        save(Box(2), tmp_path, header={"f": print})
    assert load(tmp_path).content == 1


def rewrite(folder: Path, change) -> None:
    path = folder / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_loading_never_unpickles(tmp_path, monkeypatch):
    """An archive with a pickled array, and a file that is a pickle as a whole, are both refused without running."""
    monkeypatch.chdir(tmp_path)
    save(Box(np.arange(3)), tmp_path)
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Stop()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
        archive.writestr("content.npy", buffer.getvalue())
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)
    (tmp_path / "model.npz").write_bytes(pickle.dumps(Stop()))
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)
    assert not (tmp_path / "pickle-ran").exists()


@pytest.mark.parametrize(
    "kind",
    [
        "os:system",
        "builtins:eval",
        "cellgap.study:Nothing",
        "cellgap.no_such_module:X",
        "cellgap:Box",
        "pathlib:Path",
        "",
        "::",
    ],
)
def test_only_registered_classes_are_built(tmp_path, kind):
    save(Box(1), tmp_path)
    rewrite(tmp_path, lambda document: document["object"].update({"class": kind}))
    with pytest.raises(StorageError, match="saved class"):
        load(tmp_path)


def test_no_module_outside_the_package_and_no_program_is_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path)
    save(Box(1), tmp_path)
    for kind in ("evil_module:X", "cellgap.cli.__main__:X"):
        rewrite(tmp_path, lambda document, kind=kind: document["object"].update({"class": kind}))
        with pytest.raises(StorageError, match="unknown"):
            load(tmp_path)
    assert "evil_module" not in sys.modules


def test_building_runs_no_constructor(tmp_path, monkeypatch):
    save(Box(Layer(3)), tmp_path)

    def forbidden(self, *args):
        raise AssertionError("the constructor ran")

    monkeypatch.setattr(Layer, "__init__", forbidden)
    assert load(tmp_path).content.scale == 0.1


def test_classes_of_the_package_are_found_in_a_fresh_process(tmp_path):
    """`Gap` is registered by its own module, which loading imports."""
    from cellgap.gap import Gap

    save(Gap("Monge gap", 0.5, "0 = optimal", "m", "r"), tmp_path)
    code = f"from cellgap.storage import load; print(load({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "Monge gap: 0.5 (0 = optimal)\n", done.stderr


@pytest.mark.parametrize("missing", ["model.json", "model.npz"])
def test_missing_file_is_named(tmp_path, missing):
    save(Box(np.arange(3)), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(StorageError, match=missing):
        load(tmp_path)


def test_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(StorageError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_truncated_arrays_are_damaged(tmp_path, keep):
    save(Box(np.arange(1000.0)), tmp_path)
    path = tmp_path / "model.npz"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)


def test_one_flipped_bit_is_damage(tmp_path):
    save(Box(np.arange(1000.0)), tmp_path)
    path = tmp_path / "model.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)


def test_a_single_array_in_place_of_the_archive_is_damage(tmp_path):
    save(Box(np.arange(3)), tmp_path)
    with (tmp_path / "model.npz").open("wb") as handle:
        np.save(handle, np.arange(3))
    with pytest.raises(StorageError, match="damaged"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"model"', "\x80\x81"])
def test_json_that_is_none_is_told(tmp_path, text):
    save(Box(1), tmp_path)
    (tmp_path / "model.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=r"model\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {"class": 3},
        {"fields": {}},
        {"class": f"{__name__}:Box"},
        {"array": "absent", "on": "numpy"},
        {"array": []},
    ],
)
def test_json_of_another_structure_is_damage(tmp_path, tree):
    save(Box(1), tmp_path)

    def change(document):
        if tree is None:
            del document["object"]
        else:
            document["object"] = tree

    rewrite(tmp_path, change)
    with pytest.raises(StorageError):
        load(tmp_path)


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_other_formats_are_refused_with_their_number(tmp_path, number):
    save(Box(1), tmp_path)
    rewrite(tmp_path, lambda document: document.update(format=number))
    with pytest.raises(StorageError, match=f"format {number!r}"):
        load(tmp_path)


def test_other_fields_are_another_version(tmp_path):
    save(Box(1), tmp_path)
    rewrite(tmp_path, lambda document: document["object"]["fields"].update(novel=1))
    with pytest.raises(StorageError, match="novel"):
        load(tmp_path)


def test_swapped_arrays_are_refused(tmp_path):
    """Two models of one shape: their files differ in values only."""
    save(Box(np.arange(3.0)), tmp_path / "a")
    save(Box(np.arange(3.0) + 1), tmp_path / "b")
    os.replace(tmp_path / "a" / "model.npz", tmp_path / "b" / "model.npz")
    with pytest.raises(StorageError, match="not of one model"):
        load(tmp_path / "b")


def test_values_beyond_the_session_precision_are_refused(tmp_path):
    with jax.enable_x64(True):
        save(Box(jnp.array([0.1])), tmp_path)
        assert same(load(tmp_path).content, jnp.array([0.1]))
    with pytest.raises(StorageError, match="jax_enable_x64"):
        load(tmp_path)


def test_an_error_halfway_leaves_the_old_files(tmp_path, monkeypatch):
    save(Box(np.arange(3)), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="no space"):
        save(Box(np.arange(5)), tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save(Box(np.arange(5)), tmp_path)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(load(tmp_path).content) == 3


def test_replace_keeps_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "split.json"
    storage.replace(path, lambda handle: handle.write(b"old"))

    def half(handle):
        handle.write(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.replace(path, half)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["split.json"]


def test_storage_needs_neither_jax_nor_pandas(tmp_path):
    code = (
        "import sys, numpy as np, dataclasses; from cellgap import storage\n"
        "@storage.storable\n@dataclasses.dataclass\nclass A:\n x: object\n"
        f"storage.save(A(np.arange(3)), {str(tmp_path)!r}); storage.load({str(tmp_path)!r})\n"
        "print(sorted({'jax', 'pandas', 'anndata', 'equinox'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_nothing_is_opened_outside_the_folder(tmp_path, monkeypatch):
    """Array names come from the file; they are keys of an archive, never paths."""
    content = {"../../escape": np.arange(3), "/absolute": np.arange(2)}
    save(Box(content), tmp_path / "in" / "run")
    opened = []
    original = builtins.open
    monkeypatch.setattr(builtins, "open", lambda *args, **kwargs: opened.append(args[0]) or original(*args, **kwargs))
    assert same(load(tmp_path / "in" / "run").content, content)
    assert all(Path(path).is_relative_to(tmp_path / "in" / "run") for path in opened)
    assert {p.name for p in tmp_path.rglob("*")} == {"in", "run", "model.json", "model.npz"}
