"""The tab with the matches between two photos."""

from __future__ import annotations

from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from ..inference.correspondence import Correspondence
from .errors import page_error
from .results import Results
from .service import DemoService
from .words import EMPTY_MATCHES, match_text


class MatchesTab:
    """Builds its components where it is made; for its attributes see `SceneTab`."""

    def __init__(self, service: DemoService) -> None:
        self.service = service
        with gr.Row(equal_height=True):
            self.left = gr.Dropdown([], label="Left photo", elem_id="match-left", min_width=200)
            self.right = gr.Dropdown([], label="Right photo", elem_id="match-right", min_width=200)
            self.button = gr.Button("Match", elem_id="match-run", min_width=90, scale=0)
        self.picture = gr.Image(
            label="Matches",
            elem_id="matches",
            interactive=False,
            buttons=["download", "fullscreen"],
            type="filepath",
        )
        self.text = gr.Markdown(EMPTY_MATCHES, elem_id="match-text")
        self.outputs = [self.left, self.right, self.picture, self.text]
        shared = {"concurrency_id": "views", "concurrency_limit": 2, "api_visibility": "private"}
        chosen, shown = [self.left, self.right], [self.picture, self.text]
        self.button.click(
            *(self.show, chosen, shown),
            show_progress_on=self.picture,
            trigger_mode="once",
            **shared,
        )
        self.picture.select(*(self.point_out, chosen, shown), show_progress="hidden", **shared)

    def show(self, left: str, right: str, request: gr.Request) -> tuple[Any, Any]:
        """Match the chosen photos."""
        results, found = self._matched(left, right, request)
        return str(results.matches_picture(found, None)), match_text(found)

    def point_out(
        self, left: str, right: str, event: gr.SelectData, request: gr.Request
    ) -> tuple[Any, Any]:
        """Show where a clicked point of the left photo is in the right one."""
        results, found = self._matched(left, right, request)
        x, y = results.point_in_left(*event.index)
        there = found.find(x, y)
        if there is None:
            return gr.skip(), match_text(found, "Click into the left photo.")
        picture = results.matches_picture(found, ((x, y), there[:2]))
        return str(picture), match_text(found, results.point_text(found, (x, y), there))

    def _matched(
        self, left: str, right: str, request: gr.Request
    ) -> tuple[Results, Correspondence]:
        results = self.service.results(request)
        if results is None:
            raise page_error("there is no scene yet: run a reconstruction first")
        try:
            model = self.service.checkpoints.get(results.checkpoint)
            return results, results.match(left, right, model)
        except KeyError:
            raise page_error("these photos are of an earlier run; choose again") from None
        except (ValueError, FileNotFoundError) as error:
            raise page_error(str(error)) from error

    def fill(self, results: Results) -> dict[Any, Any]:
        """Offer the photos of a new scene."""
        names = results.scene.images
        second = names[1] if len(names) > 1 else None
        return {
            self.left: gr.update(choices=names, value=names[0]),
            self.right: gr.update(choices=names, value=second),
            self.picture: None,
            self.text: EMPTY_MATCHES,
        }

    def clear(self) -> dict[Any, Any]:
        """Show nothing."""
        none = gr.update(choices=[], value=None)
        return {self.left: none, self.right: none, self.picture: None, self.text: EMPTY_MATCHES}
