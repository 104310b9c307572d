"""The inference loop: order, sizes, and images that can't be read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from PIL import Image

from lensmith.config import QuestionOptions
from lensmith.engine.classifier import CPU_BATCH, MAX_BATCH, TOLERANCE, Classifier, Item, predict, windows
from lensmith.engine.labels import Scores
from lensmith.engine.question import make_question
from lensmith.errors import ImageError, UserError
from lensmith.models.base import Model
from lensmith.models.heads import ClassHead
from lensmith.records import Calibration

LABELS = ["circle", "square", "red square"]


def reader(width: int, height: int, shade: int) -> Callable[[], Image.Image]:
    return lambda: Image.new("RGB", (width, height), (shade, 255 - shade, shade // 2))


def broken() -> Image.Image:
    raise ImageError("cut.jpg is truncated.")


def test_predictions_keep_the_order_whatever_the_sizes(tiny: Model) -> None:
    sizes = [(40, 40), (200, 100), (100, 200), (40, 40), (64, 64), (200, 100)] * 3
    items: list[Item] = [(str(i), None, reader(*size, shade=i * 14)) for i, size in enumerate(sizes)]
    items.insert(5, ("cut", "circle", broken))
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), batch_size=4)
    together = list(predict(classifier, items))
    assert [p.id for p in together] == [name for name, _, _ in items]
    assert together[5].error == "cut.jpg is truncated."
    assert together[5].predicted is None
    for item, prediction in zip(items, together, strict=True):
        (alone,) = predict(classifier, [item])
        assert alone.predicted == prediction.predicted
        assert alone.scores == pytest.approx(prediction.scores, abs=1e-3)
    sums = [sum(torch.tensor(p.scores).softmax(0)) for p in together if p.scores]
    assert sums == pytest.approx([1.0] * len(sums), abs=1e-4)


def test_progress_reaches_the_number_of_images(tiny: Model) -> None:
    reported: list[int] = []
    items: list[Item] = [(str(i), None, reader(40, 40, i)) for i in range(9)]
    items.insert(2, ("cut", None, broken))
    list(
        predict(Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), batch_size=1), items, reported.append)
    )
    assert reported == [4, 8, 10]


def test_the_image_changes_the_scores_and_so_does_the_question(tiny: Model) -> None:
    pixels = torch.stack([torch.zeros(3, 64, 64, dtype=torch.uint8), torch.full((3, 64, 64), 255, dtype=torch.uint8)])
    scores = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS)).score((pixels,)).bound
    assert (scores[0] - scores[1]).abs().max() > 0.01
    other = (
        Classifier(tiny, make_question(tiny, QuestionOptions(text="Which?\n{labels}"), LABELS)).score((pixels,)).bound
    )
    assert (scores - other).abs().max() > 0.01


def test_ranks_and_probabilities_follow_from_the_scores(tiny: Model) -> None:
    labels = [f"thing {i}" for i in range(12)]
    items: list[Item] = [(str(i), labels[i % 12], reader(40, 40, i * 9)) for i in range(24)]
    for p in predict(Classifier(tiny, make_question(tiny, QuestionOptions(), labels)), items):
        scores = torch.tensor(p.scores)
        assert p.predicted == labels[int(scores.argmax())]
        assert p.probability == pytest.approx(scores.softmax(0).max().item(), abs=1e-5)
        assert p.rank == 1 + int((scores > scores[labels.index(str(p.label))]).sum())


def test_scoring_only_the_top_labels_agrees_with_scoring_all(tiny: Model) -> None:
    labels = [f"thing {i} {j}" for i in range(10) for j in "xyz"]
    items: list[Item] = [(str(i), labels[i % 30], reader(40, 40, i * 9)) for i in range(24)]
    complete = list(predict(Classifier(tiny, make_question(tiny, QuestionOptions(), labels)), items))
    searched = list(predict(Classifier(tiny, make_question(tiny, QuestionOptions(), labels), top=5), items))
    for a, b in zip(complete, searched, strict=True):
        assert a.predicted == b.predicted
        assert b.rank == (a.rank if a.rank is not None and a.rank <= 5 else None)
        assert b.probability_low is not None
        assert b.probability_high is not None
        assert b.probability_low - 1e-5 <= (a.probability or 0) <= b.probability_high + 1e-5
        assert b.probability_high - b.probability_low <= 2 * TOLERANCE + 1e-5


def test_a_calibration_that_changes_the_answer_is_used(tiny: Model) -> None:
    items: list[Item] = [("1", "circle", reader(40, 40, 9))]
    (plain,) = predict(Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS)), items)
    worst = LABELS[plain.scores.index(min(plain.scores))]
    offsets = tuple(-100.0 if label == worst else 0.0 for label in LABELS)
    (calibrated,) = predict(
        Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), None, Calibration("empty", offsets, 2.0)),
        items,
    )
    assert calibrated.predicted == worst
    assert calibrated.scores == plain.scores, "predictions keep the model's uncalibrated scores"


def test_running_out_of_memory_halves_the_batch_and_loses_nothing(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[Item] = [(str(i), None, reader(40, 40, i * 9)) for i in range(11)]
    expected = [p.predicted for p in predict(Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS)), items)]
    score, tried = Classifier.score, []

    def limited(self: Classifier, views: tuple[torch.Tensor, ...], encoded: object = None) -> Scores:
        tried.append(len(views[0]))
        if len(views[0]) > 3:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return score(self, views)

    monkeypatch.setattr(Classifier, "score", limited)
    predictions = list(predict(Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), batch_size=8), items))
    assert [p.predicted for p in predictions] == expected
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1]

    def none_left(self: Classifier, views: tuple[torch.Tensor, ...], encoded: object = None) -> Scores:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Classifier, "score", none_left)
    with pytest.raises(UserError, match="not enough memory to score one image"):
        list(predict(Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS)), items))


def test_batches_fit_into_the_free_memory(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, past = [], len(make_question(tiny, QuestionOptions(), LABELS).prompt.before)
    for free in (1 << 20, 1 << 26, 1 << 28, 1 << 40):
        monkeypatch.setattr(type(tiny), "free_memory", lambda _, free=free: free)
        classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS))
        sizes.append((classifier.batch_size_for(((3, 64, 64),)), classifier.batch_size_for(((3, 512, 512),))))
    assert sizes == sorted(sizes)
    assert sizes[0][0] == 1
    # However much is free, a batch on a CPU has a limit.
    assert sizes[-1] == (MAX_BATCH, 1 << (CPU_BATCH // tiny.memory(((3, 512, 512),), past)).bit_length() - 1)
    assert all(large <= small for small, large in sizes)


def test_images_are_read_only_a_little_ahead(tiny: Model) -> None:
    read = 0

    def counted() -> Image.Image:
        nonlocal read
        read += 1
        return Image.new("RGB", (40, 40))

    items: list[Item] = [(str(i), None, counted) for i in range(2000)]
    stream = predict(Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), batch_size=4), items)
    next(stream)
    assert read < 300, "memory must not grow with the number of images"
    stream.close()  # type: ignore[attr-defined]
    assert read < 300


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(28, 28, (64, 64)), (64, 64, (64, 64)), (600, 400, (96, 64)), (4000, 3000, (96, 64)), (1, 1, (64, 64))],
)
def test_images_are_resized_within_the_token_budget(
    tiny: Model, height: int, width: int, expected: tuple[int, int]
) -> None:
    (pixels,) = tiny.prepare(Image.new("RGB", (width, height)))
    assert tuple(pixels.shape[1:]) == expected


def test_a_very_long_image_stays_within_the_budget(tiny: Model) -> None:
    (pixels,) = tiny.prepare(Image.new("RGB", (5000, 4)))
    assert pixels.shape[1] * pixels.shape[2] <= 8 * 32 * 32
    (prediction,) = predict(
        Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS)), [("long", None, reader(5000, 4, 9))]
    )
    assert prediction.predicted in LABELS


def test_windows_of_large_images_are_short(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    items: list[Item] = [(str(i), None, reader(40, 40, i)) for i in range(9)]
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), batch_size=4)
    assert [len(window) for window in windows(classifier, items)] == [9]
    monkeypatch.setattr("lensmith.engine.classifier.WINDOW", 3 * tiny.photo_bytes())
    assert [len(window) for window in windows(classifier, items)] == [3, 3, 3]


@pytest.mark.parametrize("head", [ClassHead(7, LABELS), ClassHead(32, LABELS, "decoder 77 end")], ids=["size", "depth"])
def test_a_head_of_another_model_is_refused(tiny: Model, head: ClassHead) -> None:
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), LABELS), head)
    with pytest.raises(UserError, match=r"was trained on another model .* it needs the feature 'decoder"):
        list(predict(classifier, [("a", None, reader(40, 40, 9))]))
