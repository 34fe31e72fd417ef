"""The journal: its chain, its lock, its anchor, its secrets."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cellgap.errors import BudgetExhausted, ForkedState, PrivacyError, StaleState
from cellgap.stream.release._anchor import AbstractAnchor, Mark
from cellgap.stream.release._journal import Journal
from cellgap.stream.release._verify import verify

BUDGET = {"rho": "1", "delta": None, "unit": "donor", "format": 1}
RESERVE = {"name": "s", "rho": "1/2", "steps": 3, "mechanism": {"kind": "fake"}}


def begun(folder, anchor=None, steps=0):
    journal = Journal(folder, anchor)
    journal.begin(**BUDGET)
    if not journal.audit.statistics:
        journal.append("RESERVE", **RESERVE)
        journal.fix()
    for _ in range(steps):
        advance(journal)
    return journal


def advance(journal):
    t = journal.audit.statistics["s"].published + 1
    journal.append("INTENT", name="s", t=t, data="", secret="")
    journal.append("VALUE", name="s", t=t, integers=np.array([t, -(10**30)], object))
    journal.fix()
    journal.append("DONE", name="s", t=t)


def lines(folder):
    return (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)


def test_a_journal_is_read_back_and_goes_on(tmp_path):
    begun(tmp_path / "j", steps=2).close()
    journal = begun(tmp_path / "j", steps=1)
    values = [entry.body["integers"] for entry in journal.entries if entry.kind == "VALUE"]
    assert [value.tolist() for value in values] == [[t, -(10**30)] for t in (1, 2, 3)]
    assert journal.audit.opened == 2
    journal.close()
    found = verify(tmp_path / "j")
    assert (found.versions, found.opened, found.torn, found.safe, found.anchored) == (13, 2, 0, True, False)
    assert found.statistics["s"].done == 3 and len(found.drawn["s"]) == 3
    assert "each drawn once" in str(found)


def test_small_integers_are_read_as_64_bits(tmp_path):
    with_large = begun(tmp_path / "j")
    with_large.append("INTENT", name="s", t=1, data="", secret="")
    with_large.append("VALUE", name="s", t=1, integers=np.array([[1, 2], [3, -4]], object))
    with_large.close()
    (value,) = verify(tmp_path / "j").drawn["s"]
    assert value.dtype == np.int64 and value.tolist() == [[1, 2], [3, -4]]


def test_files_are_closed_to_others(tmp_path):
    journal = begun(tmp_path / "j", tmp_path / "anchor", steps=1)
    journal.secrets.write("s", 1, {"x": np.arange(3)})
    journal.close()
    for path in (tmp_path / "j").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert stat.S_IMODE((tmp_path / "j").stat().st_mode) == 0o700
    (tmp_path / "j" / "journal.jsonl").chmod(0o644)
    with pytest.warns(UserWarning, match="open to other users"):
        begun(tmp_path / "j", tmp_path / "anchor").close()
    assert stat.S_IMODE((tmp_path / "j" / "journal.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("torn", [b'{"data', b"\0" * 40, b"\0" * 40 + b"\n"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    begun(tmp_path / "j", steps=1).close()
    whole = lines(tmp_path / "j")
    with (tmp_path / "j" / "journal.jsonl").open("ab") as file:
        file.write(torn)
    assert verify(tmp_path / "j").torn == len(torn)
    begun(tmp_path / "j", steps=1).close()
    assert lines(tmp_path / "j")[: len(whole)] == whole
    assert verify(tmp_path / "j").statistics["s"].done == 2


@pytest.mark.parametrize("n", range(6))
def test_a_torn_first_line_leaves_a_new_journal(tmp_path, n):
    begun(tmp_path / "j").close()
    path = tmp_path / "j" / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:n])
    begun(tmp_path / "j").close()
    assert verify(tmp_path / "j").opened == 1


@pytest.mark.parametrize("where", [0, 3, -1])
@pytest.mark.parametrize("damage", ["changed", "missing", "twice", "not json", "a list", "no hash"])
def test_other_damage_is_an_error(tmp_path, where, damage):
    begun(tmp_path / "j", tmp_path / "anchor", steps=2).close()
    rows = lines(tmp_path / "j")
    row = rows[where]
    rows[where : len(rows) + where + 1 if where < 0 else where + 1] = {
        "changed": [row.replace(b"kind", b"knd1")],
        "missing": [],
        "twice": [row, row],
        "not json": [b"{]\n"],
        "a list": [b"[1]\n"],
        "no hash": [b"{}\n"],
    }[damage]
    (tmp_path / "j" / "journal.jsonl").write_bytes(b"".join(rows))
    if (where, damage) == (-1, "missing"):
        # Cut at the end of a line: the chain cannot tell, the anchor can if it was VALUE (here it was DONE).
        assert verify(tmp_path / "j").statistics["s"].done == 1
        return
    with pytest.raises(PrivacyError, match="line"):
        verify(tmp_path / "j")
    before = (tmp_path / "j" / "journal.jsonl").read_bytes()
    with pytest.raises(PrivacyError, match="line"):
        begun(tmp_path / "j", tmp_path / "anchor")
    assert (tmp_path / "j" / "journal.jsonl").read_bytes() == before


def test_the_order_of_lines_has_rules(tmp_path):
    journal = begun(tmp_path / "j", steps=1)
    before = lines(tmp_path / "j")
    value = {"name": "s", "integers": np.array([1])}
    for kind, body in [
        ("BUDGET", BUDGET),
        ("VALUE", value | {"t": 1}),
        ("VALUE", value | {"t": 2}),
        ("INTENT", {"name": "s", "t": 1, "data": "", "secret": ""}),
        ("INTENT", {"name": "s", "t": 3, "data": "", "secret": ""}),
        ("INTENT", {"name": "unknown", "t": 1, "data": "", "secret": ""}),
        ("DONE", {"name": "s", "t": 2}),
        ("RESERVE", RESERVE),
        ("RESERVE", RESERVE | {"name": "t", "rho": "-1"}),
        ("SOMETHING", {}),
    ]:
        with pytest.raises(PrivacyError):
            journal.append(kind, **body)
    with pytest.raises(BudgetExhausted):
        journal.append("RESERVE", **RESERVE | {"name": "t", "rho": "500000001/1000000000"})
    assert lines(tmp_path / "j") == before
    advance(journal)
    advance(journal)
    with pytest.raises(PrivacyError):
        journal.append("INTENT", name="s", t=4, data="", secret="")
    journal.close()


def test_an_object_holds_its_journal(tmp_path):
    journal = begun(tmp_path / "j")
    with pytest.raises(ForkedState, match="another process"):
        Journal(tmp_path / "j")
    journal.close()
    journal.close()
    begun(tmp_path / "j").close()
    with pytest.raises(PrivacyError, match="closed"):
        journal.append("OPEN")
    begun(tmp_path / "j")  # forgotten without close
    begun(tmp_path / "j").close()


def test_a_process_holds_its_journal(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("killed.py")), "hold", str(tmp_path / "j"), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ForkedState, match="another process"):
            Journal(tmp_path / "j")
        process.kill()
        process.wait()
        Journal(tmp_path / "j").close()


def test_a_forked_child_may_not_advance(tmp_path, monkeypatch):
    journal = begun(tmp_path / "j")
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ForkedState, match="parent"):
        journal.append("OPEN")
    monkeypatch.undo()
    journal.append("OPEN")
    journal.close()


def test_a_journal_changed_by_others_is_not_advanced(tmp_path):
    journal = begun(tmp_path / "j")
    with (tmp_path / "j" / "journal.jsonl").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ForkedState, match="changed"):
        advance(journal)
    journal.close()
    journal = begun(tmp_path / "k")
    (tmp_path / "k" / "journal.jsonl").rename(tmp_path / "moved")
    with pytest.raises(ForkedState, match="changed"):
        advance(journal)
    journal.close()


def test_a_restored_backup_is_stale(tmp_path):
    anchor = tmp_path / "elsewhere" / "anchor"
    begun(tmp_path / "j", anchor, steps=1).close()
    shutil.copytree(tmp_path / "j", tmp_path / "backup")
    begun(tmp_path / "j", anchor, steps=1).close()
    with pytest.raises(StaleState, match="backup"):
        Journal(tmp_path / "backup", anchor)
    with pytest.raises(StaleState, match="backup"):
        Journal(tmp_path / "new", anchor)
    begun(tmp_path / "j", anchor, steps=1).close()


def test_two_advanced_copies_are_told(tmp_path):
    anchor = tmp_path / "anchor"
    begun(tmp_path / "j", anchor, steps=1).close()
    shutil.copytree(tmp_path / "j", tmp_path / "copy")
    before = anchor.read_bytes()
    begun(tmp_path / "copy", anchor, steps=2).close()
    anchor.write_bytes(before)
    begun(tmp_path / "j", anchor, steps=1).close()
    with pytest.raises(ForkedState, match="copies"):
        Journal(tmp_path / "copy", anchor)


class InMemory(AbstractAnchor):
    mark: Mark | None = None

    def read(self):
        return self.mark

    def write(self, mark):
        self.mark = mark

    def close(self):
        pass


def test_copies_that_are_open_at_once_are_told(tmp_path):
    anchor = InMemory()
    begun(tmp_path / "j", anchor, steps=1).close()
    shutil.copytree(tmp_path / "j", tmp_path / "copy")
    one = begun(tmp_path / "j", anchor)
    with pytest.raises(StaleState):
        begun(tmp_path / "copy", anchor)
    advance(one)
    anchor.mark = Mark(1, "0" * 64)
    with pytest.raises(ForkedState, match="anchor"):
        advance(one)
    with pytest.raises(PrivacyError, match="failed"):
        advance(one)
    one.close()


def test_an_anchor_file_is_locked_too(tmp_path):
    journal = begun(tmp_path / "j", tmp_path / "anchor")
    shutil.copytree(tmp_path / "j", tmp_path / "copy")
    with pytest.raises(ForkedState, match="anchor"):
        Journal(tmp_path / "copy", tmp_path / "anchor")
    journal.close()


def test_an_anchor_does_not_get_lost(tmp_path):
    anchor = tmp_path / "anchor"
    with pytest.raises(PrivacyError, match="folder"):
        Journal(tmp_path / "j", tmp_path / "j" / "anchor")
    begun(tmp_path / "j", anchor).close()
    with pytest.raises(StaleState, match="same one"):
        Journal(tmp_path / "j")
    content = anchor.read_bytes()
    anchor.unlink()
    with pytest.raises(StaleState, match="gone"):
        Journal(tmp_path / "j", anchor)
    anchor.write_text("{}")
    with pytest.raises(PrivacyError, match="not readable"):
        Journal(tmp_path / "j", anchor)
    anchor.write_bytes(content)
    begun(tmp_path / "j", anchor, steps=1).close()


def test_an_anchor_may_come_later(tmp_path):
    begun(tmp_path / "j", steps=1).close()
    begun(tmp_path / "j", tmp_path / "anchor", steps=1).close()
    assert verify(tmp_path / "j").anchored
    assert json.loads((tmp_path / "anchor").read_bytes())["version"] == 10


def test_secrets_are_exact_and_kept_from_change(tmp_path):
    journal = begun(tmp_path / "j")
    arrays = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.array([[10**40, -1], [0, 2**63]], object),
        "c": np.zeros((0, 16), np.uint8),
        "d": np.array(7),
    }
    digest = journal.secrets.write("s", 1, arrays)
    found = journal.secrets.read("s", 1, digest)
    for key, array in arrays.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape
        assert (found[key] == array).all()
    with pytest.raises(PrivacyError, match="damaged"):
        journal.secrets.read("s", 1, "0" * 64)
    path = tmp_path / "j" / "secrets" / "s-1.npz"
    other = tmp_path / "j" / "secrets" / "s-2.npz"
    other.write_bytes(path.read_bytes())
    with pytest.raises(PrivacyError, match="missing, damaged"):
        journal.secrets.read("s", 2, digest)
    with pytest.raises(PrivacyError, match="missing"):
        journal.secrets.read("s", 3, digest)
    journal.secrets.write("s-1", 1, arrays)
    journal.secrets.keep("s", 2, 2)
    assert sorted(p.name for p in path.parent.iterdir()) == ["s-1-1.npz", "s-2.npz"]
    journal.close()


def test_a_journal_needs_its_own_key(tmp_path):
    begun(tmp_path / "j").close()
    key = tmp_path / "j" / "key"
    content = key.read_bytes()
    key.unlink()
    with pytest.raises(PrivacyError, match="key is missing"):
        Journal(tmp_path / "j")
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    journal = Journal(tmp_path / "j")
    with pytest.raises(PrivacyError, match="not the key"):
        journal.begin(**BUDGET)
    journal.close()
    key.write_bytes(content)
    begun(tmp_path / "j").close()


def test_after_a_failed_write_the_journal_is_read_again(tmp_path, monkeypatch):
    journal = begun(tmp_path / "j", steps=1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        advance(journal)
    monkeypatch.undo()
    with pytest.raises(PrivacyError, match="failed"):
        advance(journal)
    journal.close()
    journal = begun(tmp_path / "j")
    assert journal.audit.statistics["s"].intents == 2
    journal.close()


def test_there_has_to_be_a_journal_to_verify(tmp_path):
    with pytest.raises(PrivacyError, match="does not exist"):
        verify(tmp_path)
