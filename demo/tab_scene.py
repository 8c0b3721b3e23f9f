"""The tab with the points and cameras, and what chooses them."""

from __future__ import annotations

from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]
import numpy as np

from .results import Results, ViewOptions
from .service import DemoService
from .words import EMPTY_SCENE, count_text

DRAWINGS = [("points with a size", "squares"), ("thin points", "points"), ("surfaces", "surfaces")]
COLORS = [("photo", "photo"), ("which photo", "source"), ("confidence", "confidence")]
_BACKGROUND = (0.09, 0.1, 0.12, 1.0)
_WIDTH = 220  # of a control, pixels, below which the next one goes to the next line
_ANY_ERROR, _ANY_DISTANCE = 50.0, 20.0  # ends of the sliders, which stand for no limit


class SceneTab:
    """Builds its components where it is made.

    Attributes:
        chosen: components whose values make `ViewOptions`, in the order of `options`.
        outputs: components that `fill` and `clear` give values for.
    """

    def __init__(self, service: DemoService) -> None:
        self.service = service
        self.model = gr.Model3D(
            label="Scene",
            elem_id="scene",
            height=540,
            clear_color=_BACKGROUND,
            interactive=False,
        )
        self.count = gr.Markdown(EMPTY_SCENE, elem_id="scene-count")
        self._build_controls()
        self.chosen = [
            *(self.drawing, self.color, self.size, self.confidence, self.error),
            *(self.consistent, self.sky, self.distance, self.group),
        ]
        self.outputs = [self.model, self.count, self.confidence, self.error, self.group]
        for control in self.chosen:
            event = control.release if isinstance(control, gr.Slider) else control.input
            event(
                self.refresh,
                self.chosen,
                [self.model, self.count],
                show_progress_on=self.model,
                concurrency_id="views",
                concurrency_limit=2,
                trigger_mode="always_last",
                api_visibility="private",
            )

    def _build_controls(self) -> None:
        with gr.Row():
            self.color = gr.Radio(
                COLORS, value="photo", label="Colour by", min_width=_WIDTH, elem_id="color"
            )
            self.size = gr.Slider(
                *(0.2, 3.0),
                value=1.2,
                step=0.1,
                label="Point size",
                min_width=_WIDTH,
                elem_id="point-size",
            )
            self.drawing = gr.Dropdown(
                DRAWINGS, value="squares", label="Draw", min_width=_WIDTH, elem_id="show"
            )
        with gr.Row():
            self.confidence = gr.Slider(
                *(1.0, 10.0),
                value=1.0,
                step=0.05,
                label="Least confidence",
                info="Points below are left out; 1 keeps all.",
                min_width=_WIDTH,
                elem_id="confidence",
            )
            self.error = gr.Slider(
                *(1.0, _ANY_ERROR),
                value=_ANY_ERROR,
                step=0.5,
                label="Largest error, %",
                info="Of the depth, as expected: half are better. The end keeps all.",
                visible=False,
                min_width=_WIDTH,
                elem_id="error",
            )
            self.distance = gr.Slider(
                *(1.5, _ANY_DISTANCE),
                value=3.0,
                step=0.5,
                label="Farthest",
                info="In median depths of each photo. The end keeps all.",
                min_width=_WIDTH,
                elem_id="far",
            )
        with gr.Row():
            self.consistent = gr.Checkbox(
                True,
                label="Consistent only",
                info="Leave out what lies in front of what another photo saw more surely.",
                min_width=_WIDTH,
                elem_id="consistent",
            )
            self.sky = gr.Checkbox(
                False,
                label="No sky",
                info="Leave out blue and bright grey that reaches the upper edge.",
                min_width=_WIDTH,
                elem_id="sky",
            )
            self.group = gr.Dropdown(
                [("all photos", 0)],
                value=0,
                label="Group of photos",
                info="Groups have nothing to do with each other.",
                visible=False,
                min_width=_WIDTH,
                elem_id="group",
            )

    @staticmethod
    def options(*values: Any) -> ViewOptions:
        """What the controls say."""
        drawing, color, size, confidence, error, consistent, sky, distance, group = values
        return ViewOptions(
            drawing=drawing,
            color=color,
            point_size=float(np.clip(size, 0.1, 10)),
            min_confidence=float(confidence),
            max_error=None if error >= _ANY_ERROR else float(error) / 100,
            consistent=bool(consistent),
            sky=bool(sky),
            max_distance=None if distance >= _ANY_DISTANCE else float(distance),
            component=int(group or 0),
        )

    def refresh(self, request: gr.Request, *values: Any) -> tuple[Any, Any]:
        """Show the scene as the controls say."""
        results = self.service.results(request)
        if results is None:
            return gr.skip(), gr.skip()
        return self._shown(results, self.options(*values))

    def fill(self, results: Results, *values: Any) -> dict[Any, Any]:
        """Show a new scene, with the least confidence that it recommends."""
        scene = results.scene
        known = np.concatenate([v.confidence[v.valid] for v in scene.views])
        top = float(np.percentile(known, 99)) if len(known) else 2.0
        top = max(round(top, 1), 1.2)
        start = min(scene.min_confidence, top)
        groups = [
            (f"{k + 1}: {len(members)} photos" if len(members) > 1 else f"{k + 1}: one photo", k)
            for k, members in enumerate(scene.components)
        ]
        drawing, color, size, _, error, consistent, sky, distance, _ = values
        calibrated = bool(groups) and scene.expected_error(scene.components[0][0]) is not None
        error = error if calibrated else _ANY_ERROR
        chosen = self.options(drawing, color, size, start, error, consistent, sky, distance, 0)
        model, count = self._shown(results, chosen, first=True)
        return {
            self.model: model,
            self.count: count,
            self.confidence: gr.update(maximum=top, value=start, step=round((top - 1) / 100, 3)),
            self.error: gr.update(visible=calibrated, value=error),
            self.group: gr.update(choices=groups, value=0, visible=len(groups) > 1),
        }

    def clear(self) -> dict[Any, Any]:
        """Show nothing."""
        return {self.model: None, self.count: EMPTY_SCENE}

    def _shown(
        self, results: Results, options: ViewOptions, first: bool = False
    ) -> tuple[Any, str]:
        try:
            shown = results.view(options)
        except ValueError as error:
            return None, f"Nothing to show: {error}."
        model = str(shown.file)
        if first:
            model = gr.update(value=model, camera_position=shown.orbit)
        return model, count_text(shown)
