"""What the page's components take from the browser where Gradio's own would refuse it."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install 'dinoscope[demo]'")

from dinoscope.demo.site import Radio, Slider


@pytest.mark.parametrize(("sent", "taken"), [(3, 3), (12, 3), (-1, 1), (None, 1), (2.5, 2.5)])
def test_a_slider_takes_its_nearest_end(sent: float | None, taken: float) -> None:
    slider = Slider(1, 3, 2, step=1, label="Layer")
    assert slider.preprocess(sent) == taken
    assert slider.get_block_name() == "slider"  # to the browser


def test_a_choice_that_has_just_gone_still_comes_in() -> None:
    assert Radio([("mean", "mean"), ("1", "0")], value="mean").preprocess("5") == "5"
