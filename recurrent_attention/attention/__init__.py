"""The heads that look more than once: the paper's recurrence, and looks that add up."""

from recurrent_attention.attention.anytime import AnytimeAttention, AnytimeState
from recurrent_attention.attention.recurrent import (
    RecurrentRefinedAttention,
    RefinedAttentionOutput,
)

__all__ = [
    "AnytimeAttention",
    "AnytimeState",
    "RecurrentRefinedAttention",
    "RefinedAttentionOutput",
]
