"""What a server takes, found out by asking: structured output, log probabilities, a seed.

Servers differ, and some change between versions: vLLM and llama.cpp take a schema, some builds of llama.cpp refuse it
("either json_schema or grammar", ggml-org/llama.cpp#11847), Ollama at times ignores it (ollama#17183). So the first
refusal that names a field steps down once, and that is remembered for the model on that server. What is lost that way
is said; that a reply fits its schema never rests on the server.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cellgap.ask._answer import Notice

MODES = ("json_schema", "json_object", "prompt")
"""How a server is held to a schema, best first; the schema is in the prompt in all of them."""

_NAMES = re.compile(r"response_format|json_schema|json_object|structured|grammar", re.IGNORECASE)
_OTHERS = ("seed", "top_logprobs", "logprobs", "temperature", "max_tokens")
_LOST = {
    "seed": Notice("no_seed", "The server takes no seed: another run may give other answers."),
    "logprobs": Notice("no_logprobs", "The server gives no log probabilities of tokens."),
    "temperature": Notice("no_temperature", "The server takes no temperature and samples as it pleases."),
}


@dataclass(frozen=True)
class Abilities:
    """What is known of a model on a server.

    Parameters
    ----------
    mode
        One of ``MODES``.
    refused
        Fields that it does not take.
    """

    mode: str = "json_schema"
    refused: tuple[str, ...] = ()

    def body(
        self,
        model: str,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any] | None,
        *,
        temperature: float,
        max_tokens: int,
        seed: int | None,
        top_logprobs: int,
    ) -> dict[str, Any]:
        """Return the body of a request."""
        wanted: dict[str, Any] = {"model": model, "messages": [dict(m) for m in messages], "stream": False}
        if "temperature" not in self.refused:
            wanted["temperature"] = temperature
        wanted["max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"] = max_tokens
        if seed is not None and "seed" not in self.refused:
            wanted["seed"] = seed
        if top_logprobs and "logprobs" not in self.refused:
            wanted |= {"logprobs": True, "top_logprobs": top_logprobs}
        if schema is not None and self.mode == "json_schema":
            form = {"name": "reply", "strict": True, "schema": schema}
            wanted["response_format"] = {"type": "json_schema", "json_schema": form}
        elif schema is not None and self.mode == "json_object":
            wanted["response_format"] = {"type": "json_object"}
        return wanted

    def after_refusal(self, sent: Mapping[str, Any], said: str) -> "Abilities | None":
        """Return what is known after a server refused a request (400, 422); None where it names no field of it."""
        about = _about(said)
        if "response_format" in sent and _NAMES.search(about):
            return replace(self, mode=MODES[MODES.index(self.mode) + 1])
        for name in _OTHERS:
            if name in sent and re.search(rf"\b{name}\b", about):
                kept = "logprobs" if name == "top_logprobs" else name
                return replace(self, refused=(*self.refused, kept))
        return None

    def notices(self, sent_logprobs: bool) -> tuple[Notice, ...]:
        """Return what is done in a lesser way than asked."""
        names = (name for name in self.refused if name != "logprobs" or sent_logprobs)
        return tuple(_LOST[name] for name in names if name in _LOST)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {"mode": self.mode, "refused": list(self.refused)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Abilities":
        """Return what `to_dict` wrote; what cannot be read is found out again."""
        mode, refused = values.get("mode"), values.get("refused")
        if mode not in MODES or not isinstance(refused, list):
            return cls()
        return cls(mode, tuple(name for name in refused if name in _OTHERS))


def _about(said: str) -> str:
    """Return the part of an error that says what is wrong; validators also quote the whole request, which names all."""
    try:
        found = json.loads(said)
    except (ValueError, RecursionError):
        return said[:2000]
    error = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(error, dict):
        details = error.get("detail")
        places = [d.get("loc") for d in details if isinstance(d, dict)] if isinstance(details, list) else details
        error = [error.get("param"), error.get("message"), error.get("code"), places]
    return json.dumps(error)[:2000]
