"""Messages that the page shows as such."""

from __future__ import annotations

import gradio as gr  # pyright: ignore[reportMissingImports]

from .words import sentence


def page_error(text: str) -> gr.Error:
    """A message that stays on the page until it is closed, and no traceback in the terminal."""
    return gr.Error(sentence(text), duration=None, print_exception=False)
