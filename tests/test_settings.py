"""Settings: refused when wrong, frozen, and the same after a trip through TOML."""

import dataclasses
import tomllib
from typing import Annotated

import pytest
import tomli_w
from pydantic import BeforeValidator, Field

from cellgap.errors import ConfigError, DataError
from cellgap.settings import from_dict, register, settings, to_dict


def _refuse_zero(value: object) -> object:
    if value == 0:
        raise DataError("nothing to see at 0")
    return value


@settings
class _Inner:
    rate: Annotated[float, Field(gt=0)] = 0.5
    words: tuple[str, ...] = ()


@settings
class _Outer:
    inner: _Inner = _Inner()
    several: tuple[_Inner, ...] = ()
    size: int | None = None
    table: Annotated[object, BeforeValidator(_refuse_zero)] = None


def test_round_trip_through_toml():
    for value in (_Outer(), _Outer(_Inner(2.0, ("a", "b")), (_Inner(), _Inner(3.0)), 7)):
        text = tomli_w.dumps(to_dict(value))
        back = from_dict(tomllib.loads(text))
        assert back == value and hash(back) == hash(value)


def test_replace_checks_again_and_fields_are_frozen():
    assert dataclasses.replace(_Inner(), rate=1.5).rate == 1.5
    with pytest.raises(ConfigError, match=r"_Inner\(rate=\.\.\.\) is wrong: input should be greater than 0, found -1"):
        dataclasses.replace(_Inner(), rate=-1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        _Inner().rate = 2.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: _Inner(rates=1.0), "no setting 'rates': did you mean 'rate'"),
        (lambda: _Inner(zzz=1.0), "expected one of rate, words"),
        (lambda: _Outer(size="many"), "size"),
        (lambda: from_dict({"rate": 1.0}), "need a known kind, found None"),
        (lambda: from_dict({"kind": "_Iner"}), "did you mean '_Inner'"),
        (lambda: from_dict({"kind": "_Outer", "inner": {"kind": "_Inner", "rate": 0}}), "greater than 0"),
        (lambda: to_dict(_Outer(table={1, 2})), "_Outer.table holds a set given in memory"),
    ],
)
def test_mistakes_are_one_sentence(make, says):
    with pytest.raises(ConfigError, match=says):
        make()


def test_errors_of_validators_keep_their_type():
    with pytest.raises(DataError, match="nothing to see"):
        _Outer(table=0)


def test_a_kind_belongs_to_one_class():
    other = dataclasses.make_dataclass("_Inner", [], frozen=True)
    other.__module__ = "elsewhere"
    with pytest.raises(ConfigError, match="is taken by"):
        register(other)


def test_nothing_survives_text_where_it_is_not_the_default() -> None:
    from cellgap.train import Loop
    from cellgap.transport import Optimization

    unclipped = Optimization(clip=None, loop=Loop(patience=None))
    plain = to_dict(unclipped)
    assert plain["clip"] == {"kind": "None"} and "patience" not in plain["loop"]
    assert from_dict(tomllib.loads(tomli_w.dumps(plain))) == unclipped
