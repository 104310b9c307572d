"""Vectors are what their names say, by transformers' own forward pass."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from lensmith.config import QuestionOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.features import PIXELS, feature_names
from lensmith.engine.question import make_question
from lensmith.models.base import Model
from lensmith.models.views import Views, stack
from tests.conftest import Shapes

LABELS = ["circle", "square"]


def pictures(model: Model, shapes: Shapes, n: int = 3) -> Views:
    files = sorted(shapes(circle=n).rglob("*.jpg"))
    return stack([model.prepare(Image.open(file)) for file in files])


def test_vectors_are_those_of_the_plain_forward_pass(tiny: Model, shapes: Shapes) -> None:
    views = pictures(tiny, shapes)
    asked = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    found = asked.features(views, feature_names(tiny))
    assert list(found) == ["tower mean", "tower grid", "decoder 2 end", "decoder 2 image", "decoder 3 end",
                           "decoder 3 image", "decoder end", "decoder image"]  # fmt: skip
    with torch.inference_mode():
        seen, image = tiny.encode_images(views)[0], tiny.embed_images(views)
        words = (asked.prompt.before, asked.prompt.after)
        before, after = (tiny.embed(torch.tensor([ids])).expand(3, -1, -1) for ids in words)
        plain = tiny.decoder(inputs_embeds=torch.cat([before, image, after], 1), output_hidden_states=True)
    states, place = plain.hidden_states, slice(before.shape[1], before.shape[1] + image.shape[1])
    torch.testing.assert_close(found["tower mean"], seen.mean((1, 2)))
    half = seen.shape[1] // 2
    torch.testing.assert_close(found["tower grid"].view(3, -1, 4)[:, :, 0], seen[:, :half, :half].mean((1, 2)))
    for name, state in [("decoder 2", states[2]), ("decoder 3", states[3]), ("decoder", plain.last_hidden_state)]:
        torch.testing.assert_close(found[f"{name} end"], state[:, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[f"{name} image"], state[:, place].mean(1), atol=1e-4, rtol=1e-4)


def test_only_what_is_wanted_is_run(tiny: Model, shapes: Shapes, monkeypatch: pytest.MonkeyPatch) -> None:
    views, asked = pictures(tiny, shapes), Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    monkeypatch.setattr(tiny, "project", lambda _: pytest.fail("the decoder isn't needed"))
    assert asked.features(views, ["tower grid"])["tower grid"].shape == (3, 128)
    monkeypatch.setattr(tiny, "encode_images", lambda _: pytest.fail("no model is needed"))
    grey = asked.features(views, [PIXELS])[PIXELS]
    assert grey.shape == (3, 28 * 28)
    assert 0.1 < grey.mean() < 0.35  # circles are dark
