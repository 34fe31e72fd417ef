"""Answers from any server that speaks the OpenAI dialect: one client, one deadline, one cache, one budget.

No vendor's library is used. What a server replies is data: it is parsed strictly, validated here whatever the server
promised, and checked against the passages that were sent.
"""

from cellgap.ask.endpoint._body import TokenLogprob
from cellgap.ask.endpoint._budget import Budget, BudgetSpent, Tally
from cellgap.ask.endpoint._cache import ReplyCache
from cellgap.ask.endpoint._chat_endpoint import ChatEndpoint
from cellgap.ask.endpoint._client import ChatClient, Reply
from cellgap.ask.endpoint._generate import generate
from cellgap.ask.endpoint._prompts import NONCE, PROMPT_VERSION

__all__ = [
    "NONCE",
    "PROMPT_VERSION",
    "Budget",
    "BudgetSpent",
    "ChatClient",
    "ChatEndpoint",
    "Reply",
    "ReplyCache",
    "Tally",
    "TokenLogprob",
    "generate",
]
