"""Spaces in decoded text: tokens are joined with a space, and English puts none before its punctuation."""

from __future__ import annotations

__all__ = ["tidy"]

_REPLACEMENTS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
"""In order: a later one sees what an earlier one made."""


def tidy(text: str) -> str:
    """Remove the spaces before punctuation and English contractions, as transformers' tokenizers do on request."""
    for old, new in _REPLACEMENTS:
        text = text.replace(old, new)
    return text
