"""The inference loop: order, sizes, and images that can't be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image

from lensmith.config import QuestionOptions
from lensmith.errors import ImageError, UserError
from lensmith.models.family import Model
from lensmith.predict import Classifier, Item, predict
from lensmith.question import make_prompt, messages

LABELS = ["circle", "square", "red square"]


def picture(width: int, height: int, shade: int) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", (width, height), (shade, 255 - shade, shade // 2))


def broken() -> Image.Image:
    raise ImageError("cut.jpg is truncated.")


def test_predictions_keep_the_order_whatever_the_sizes(tiny: Model) -> None:
    sizes = [(40, 40), (200, 100), (100, 200), (40, 40), (64, 64), (200, 100)] * 3
    items: list[Item] = [(str(i), None, picture(*size, shade=i * 14)) for i, size in enumerate(sizes)]
    items.insert(5, ("cut", "circle", broken))
    classifier = Classifier(tiny, QuestionOptions(), LABELS)
    together = list(predict(classifier, items, batch_size=4))
    assert [p.id for p in together] == [name for name, _, _ in items]
    assert together[5].error == "cut.jpg is truncated."
    assert together[5].predicted is None
    for item, found in zip(items, together, strict=True):
        (alone,) = predict(classifier, [item], batch_size=1)
        assert alone.predicted == found.predicted
        assert alone.scores == pytest.approx(found.scores, abs=1e-3)
    shares = [sum(torch.tensor(p.scores).softmax(0)) for p in together if p.scores]
    assert shares == pytest.approx([1.0] * len(shares), abs=1e-4)


def test_progress_reaches_the_number_of_readable_images(tiny: Model) -> None:
    seen: list[int] = []
    items: list[Item] = [(str(i), None, picture(40, 40, i)) for i in range(9)]
    list(predict(Classifier(tiny, QuestionOptions(), LABELS), items, 4, seen.append))
    assert seen == [4, 8, 9]


def test_the_image_changes_the_scores_and_so_does_the_question(tiny: Model) -> None:
    pixels = torch.stack([torch.zeros(3, 64, 64, dtype=torch.uint8), torch.full((3, 64, 64), 255, dtype=torch.uint8)])
    scores = Classifier(tiny, QuestionOptions(), LABELS).score(pixels)
    assert (scores[0] - scores[1]).abs().max() > 0.01
    other = Classifier(tiny, QuestionOptions(text="Which?\n{labels}"), LABELS).score(pixels)
    assert (scores - other).abs().max() > 0.01


def test_the_class_list_stands_before_the_image(tiny: Model) -> None:
    prompt = make_prompt(tiny, QuestionOptions(system="Look closely."), LABELS)
    before = tiny.tokenizer.decode(prompt.before)
    assert all(label in before for label in ["Look closely.", *LABELS])
    assert before.endswith("<|image_start|>")
    after = tiny.tokenizer.decode(prompt.after)
    assert after.startswith("<|image_end|>")
    assert after.endswith("<|im_start|>assistant\n")


def test_a_prompt_is_what_the_chat_template_writes(tiny: Model) -> None:
    prompt = make_prompt(tiny, QuestionOptions(), LABELS)
    talk = messages(QuestionOptions(), LABELS)
    whole = tiny.tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    framed = whole.replace("<image>", "<|image_start|><image><|image_end|>")
    ids = tiny.tokenizer.encode(framed, add_special_tokens=False)
    assert ids == [*prompt.before, tiny.network.config.image_token_id, *prompt.after]


def test_control_tokens_in_labels_are_refused(tiny: Model) -> None:
    with pytest.raises(UserError, match="control token"):
        Classifier(tiny, QuestionOptions(), ["a", "b<|im_end|>"])


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(28, 28, (64, 64)), (64, 64, (64, 64)), (600, 400, (96, 64)), (4000, 3000, (96, 64)), (1, 1, (64, 64))],
)
def test_images_are_resized_within_the_token_budget(
    tiny: Model, height: int, width: int, expected: tuple[int, int]
) -> None:
    pixels = tiny.prepare(Image.new("RGB", (width, height)))
    assert tuple(pixels.shape[1:]) == expected


def test_a_very_long_image_stays_within_the_budget(tiny: Model) -> None:
    pixels = tiny.prepare(Image.new("RGB", (5000, 4)))
    assert pixels.shape[1] * pixels.shape[2] <= 8 * 32 * 32
    (found,) = predict(Classifier(tiny, QuestionOptions(), LABELS), [("long", None, picture(5000, 4, 9))])
    assert found.predicted in LABELS
