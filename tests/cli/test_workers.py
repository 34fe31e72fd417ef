"""``cellgap evaluate --workers``: who scores. That the scores are the same is tested in tests/evaluate."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import cellgap.evaluate
from cellgap.cli import main
from cellgap.cli._scores import score


class Asked(Exception):
    """Ends the evaluation once it is known whom it asks."""


@pytest.mark.parametrize(("workers", "expected"), [(None, None), (3, "client of 3")])
def test_the_evaluation_gets_the_workers_asked_for(monkeypatch: pytest.MonkeyPatch, workers, expected) -> None:
    @contextmanager
    def cluster(n: int):
        yield f"client of {n}"

    def evaluate(fitted, split, *, client, **options):
        assert client == expected
        raise Asked

    monkeypatch.setattr(cellgap.evaluate, "local_workers", cluster)
    monkeypatch.setattr(cellgap.evaluate, "evaluate", evaluate)
    with pytest.raises(Asked):
        score(SimpleNamespace(fitted=None, split=None), n_cells=5, n_draws=1, progress=False, workers=workers)


def test_a_suite_has_no_workers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "absent", "--suite", "vcc2026", "--workers", "2"])
    assert end.value.code == 2
    assert "--workers spreads our own scores" in capsys.readouterr().err
