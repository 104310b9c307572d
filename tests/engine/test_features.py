"""Features equal those computed from transformers' own forward pass."""

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


def test_features_equal_those_of_the_plain_forward_pass(tiny: Model, shapes: Shapes) -> None:
    views = pictures(tiny, shapes)
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    features = classifier.features(views, feature_names(tiny))
    assert list(features) == ["tower mean", "tower grid", "decoder 2 end", "decoder 2 image", "decoder 3 end",
                           "decoder 3 image", "decoder end", "decoder image"]  # fmt: skip
    with torch.inference_mode():
        encoded, image = tiny.encode_images(views)[0], tiny.embed_images(views)
        texts = (classifier.prompt.before, classifier.prompt.after)
        before, after = (tiny.embed(torch.tensor([ids])).expand(3, -1, -1) for ids in texts)
        plain = tiny.decoder(inputs_embeds=torch.cat([before, image, after], 1), output_hidden_states=True)
    states, image_tokens = plain.hidden_states, slice(before.shape[1], before.shape[1] + image.shape[1])
    torch.testing.assert_close(features["tower mean"], encoded.mean((1, 2)))
    half = encoded.shape[1] // 2
    torch.testing.assert_close(features["tower grid"].view(3, -1, 4)[:, :, 0], encoded[:, :half, :half].mean((1, 2)))
    for name, state in [("decoder 2", states[2]), ("decoder 3", states[3]), ("decoder", plain.last_hidden_state)]:
        torch.testing.assert_close(features[f"{name} end"], state[:, -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(features[f"{name} image"], state[:, image_tokens].mean(1), atol=1e-4, rtol=1e-4)


def test_parts_of_the_model_that_no_feature_needs_are_not_run(
    tiny: Model, shapes: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, classifier = pictures(tiny, shapes), Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
    monkeypatch.setattr(tiny, "project", lambda _: pytest.fail("the decoder isn't needed"))
    assert classifier.features(views, ["tower grid"])["tower grid"].shape == (3, 128)
    monkeypatch.setattr(tiny, "encode_images", lambda _: pytest.fail("no model is needed"))
    grey = classifier.features(views, [PIXELS])[PIXELS]
    assert grey.shape == (3, 28 * 28)
    assert 0.1 < grey.mean() < 0.35  # circles are dark
