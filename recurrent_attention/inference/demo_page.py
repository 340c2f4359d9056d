"""The components of the demo's page, and what happens when somebody uses them; needs gradio."""

from functools import partial
from pathlib import Path
from typing import Any, cast

import gradio

from recurrent_attention.inference import demo_tables as tables
from recurrent_attention.inference.demo_looks import (
    Looks,
    draw_boxes,
    draw_look,
    explain_again,
    explain_file,
    looks_of,
)
from recurrent_attention.inference.sheet import pixels_of_figure
from recurrent_attention.network import TwoStreamNetwork

KEPT_SECONDS = 3600  # how long dropped and drawn pictures stay on disk, at most, while it runs
DROP_HEIGHTS = 280, 130  # pixels of the place to drop pictures, before the first and after it


class DemoPage:
    """The components of the page, and what happens when somebody uses them."""

    def __init__(self, model: TwoStreamNetwork, title: str) -> None:
        self.model = model
        # No `analytics_enabled` means that nothing is reported, and no newer version is asked for.
        self.blocks = gradio.Blocks(
            analytics_enabled=False, title=title, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)
        )
        with self.blocks:
            gradio.HTML(tables.heading(title, self.about(), level=1))
            self.file = gradio.File(
                label="Drop a picture here", height=DROP_HEIGHTS[0], elem_id="drop"
            )
            self.message = gradio.HTML(visible=False, elem_id="message")
            self.welcome = gradio.HTML(tables.WELCOME)
            self.found = gradio.State()
            with gradio.Column(visible=False, elem_id="results") as self.results:
                self.add_answer()
                self.add_looks()
                gradio.HTML(
                    tables.heading(
                        "All of it on one sheet",
                        "From the left: the picture, what speaks for the class in the whole of it, "
                        "and each patch with its looks. Names are dark where they are the class.",
                    )
                )
                self.strip = self.image("strip", "Explanation", ["download", "fullscreen"])
            self.connect()
        # Style belongs to `launch` since Gradio 6; whoever launches the page can give another one.
        fonts = ["system-ui", "sans-serif"]  # the default ones of Gradio ask for files
        theme = gradio.themes.Default(
            primary_hue="blue", font=fonts, font_mono=["ui-monospace", "monospace"]
        )
        self.blocks.launch = partial(
            self.blocks.launch, theme=theme, css=tables.CSS, footer_links=["gradio", "settings"]
        )

    def about(self) -> str:
        """Say in a line which model answers."""
        settings, model = self.model.settings, self.model
        patches = "1 patch" if model.num_patches == 1 else f"{model.num_patches} patches"
        return f"{settings.backbone}, {model.num_classes} classes, {patches} of each picture."

    def image(self, name: str, label: str, buttons: list[str]) -> Any:
        """Add a place for a picture that is drawn here."""
        return gradio.Image(
            elem_id=name, label=label, type="pil", format="png", interactive=False,
            show_label=False, buttons=buttons,
        )  # fmt: skip

    def add_answer(self) -> None:
        """Add the heading, the picture with its boxes and the table of classes."""
        self.headline = gradio.HTML(elem_id="answer")
        with gradio.Row():
            with gradio.Column(scale=5, min_width=300):
                self.picture = self.image("picture", "Boxes", ["fullscreen"])
            with gradio.Column(scale=6, min_width=300):
                self.classes = gradio.HTML(elem_id="classes")

    def add_looks(self) -> None:
        """Add what chooses the class, the patch and the look, and what shows the look."""
        gradio.HTML(
            tables.heading(
                "Look by look",
                "The coloured map shows what in the patch speaks for the class: the stronger, the "
                "brighter. All looks share one colour scale.",
            )
        )
        with gradio.Row():
            self.target = gradio.Dropdown(
                label="Class to explain", elem_id="target", interactive=True, scale=3, min_width=220
            )
            self.group = gradio.Radio(
                label="Patch", elem_id="patch", interactive=True, scale=4, min_width=280
            )
            self.look = gradio.Slider(
                1,
                2,
                1,
                step=1,
                label="Look",
                elem_id="look",
                interactive=True,
                scale=3,
                min_width=220,
            )
        with gradio.Row():
            with gradio.Column(scale=4, min_width=300):
                self.shown = self.image("shown", "Look", [])
            with gradio.Column(scale=3, min_width=300):
                self.rows = gradio.HTML(elem_id="rows")

    def connect(self) -> None:
        """Say what is called when; nothing of it runs beside itself."""
        one: dict[str, Any] = {
            "concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private",
        }  # fmt: skip
        look = [self.shown, self.rows]
        explained = [self.found, *look, self.strip]
        answered = [self.file, self.message, self.welcome, self.results, self.headline]
        answered += [self.picture, self.classes, self.target, self.group, self.look, *explained]
        chosen = [self.found, self.group, self.look]
        self.file.upload(self.on_file, self.file, answered, show_progress_on=self.file, **one)
        self.target.input(
            self.on_target, [*chosen, self.target], explained, show_progress_on=look, **one
        )
        quick = {"show_progress": "hidden", "trigger_mode": "always_last"} | one
        self.group.input(self.on_look, chosen, look, **quick)
        self.look.input(self.on_look, chosen, look, **quick)

    def on_file(self, path: str) -> dict[Any, Any]:
        """Answer a dropped file, and explain its answer from the first look on."""
        ready = {self.file: gradio.File(value=None, height=DROP_HEIGHTS[1])}  # for the next
        try:
            looks = looks_of(explain_file(self.model, path))
            shown = self.explained(looks, 0, 1)
        except (OSError, ValueError, TypeError) as error:
            return ready | {
                self.message: gradio.HTML(tables.sentence(str(error)), visible=True),
                self.welcome: gradio.HTML(visible=True),
                self.results: gradio.Column(visible=False),
                self.found: None,
            }
        share = float(looks.streams[0, looks.target])
        answer = f"{looks.names[looks.target]}, {100 * share:.1f} %"
        groups, count = looks.weights.shape
        choices = [(name, index) for index, name in enumerate(looks.names)]
        numbers = [(str(group + 1), group) for group in range(groups)]
        kind = "Patch" if looks.by_patch else "Look"
        return ready | shown | {
            self.message: gradio.HTML(visible=False),
            self.welcome: gradio.HTML(visible=False),
            self.results: gradio.Column(visible=True),
            self.headline: tables.heading(answer, f"What it says of {Path(path).name}."),
            self.picture: pixels_of_figure(draw_boxes(looks)),
            self.classes: tables.table_of_classes(looks),
            self.target: gradio.Dropdown(choices, value=looks.target),
            self.group: gradio.Radio(numbers, value=0, visible=groups > 1),
            self.look: gradio.Slider(1, max(count, 2), 1, label=kind, visible=count > 1),
        }  # fmt: skip

    def on_target(
        self, looks: Looks | None, group: int, look: int, target: int | None
    ) -> dict[Any, Any]:
        """Explain another class, at the look that is shown."""
        if looks is None or target is None or target == looks.target:
            return cast(dict[Any, Any], gradio.skip())  # Gradio says one choice twice
        return self.explained(looks_of(explain_again(self.model, looks.found, target)), group, look)

    def on_look(self, looks: Looks | None, group: int, look: int) -> dict[Any, Any]:
        """Show another look."""
        if looks is None:
            return cast(dict[Any, Any], gradio.skip())
        number = min(max(int(look or 1), 1), looks.weights.shape[1]) - 1  # as somebody typed it
        return {
            self.shown: pixels_of_figure(draw_look(looks, group, number)),
            self.rows: tables.table_of_looks(looks, group, number),
        }

    def explained(self, looks: Looks, group: int, look: int) -> dict[Any, Any]:
        """Show an explanation: the sheet, and one look."""
        sheet = pixels_of_figure(looks.found.figure())
        return {self.found: looks, self.strip: sheet} | self.on_look(looks, group, look)
