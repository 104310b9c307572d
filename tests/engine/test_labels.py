"""The search over the label trie against brute force: one full forward pass per answer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmith.config import QuestionOptions
from lensmith.engine import labels as labels_module
from lensmith.engine.branches import grow
from lensmith.engine.classifier import Classifier
from lensmith.engine.labels import LabelTrie, Scores, search
from lensmith.engine.question import make_question
from lensmith.errors import UserError
from lensmith.models.base import Model

pytestmark = pytest.mark.long

END = 4
PROMPTS = [[20, 21, 22], [23, 24, 25], [26, 27, 28]]

Answers = list[list[list[int]]]
"""The token sequences of each label."""


@torch.no_grad()
def brute(model: Model, prompt: list[int], sequence: list[int]) -> float:
    """log p(sequence | prompt) by one plain pass with transformers' own attention."""
    ids = torch.tensor([[*prompt, *sequence]])
    text = model.network.model.language_model
    text.set_attn_implementation("eager")
    logits = model.network.lm_head(text(inputs_embeds=model.embed(ids)).last_hidden_state)
    text.set_attn_implementation("lensmith")
    logs = torch.log_softmax(logits[0].float(), -1)
    return sum(logs[len(prompt) - 1 + i, token].item() for i, token in enumerate(sequence))


def brute_scores(model: Model, answers: Answers) -> torch.Tensor:
    """(prompts, labels) log-probabilities; those of a label's synonyms add up."""
    rows = [[[brute(model, p, s) for s in forms] for forms in answers] for p in PROMPTS]
    return torch.tensor([[torch.tensor(forms).logsumexp(0) for forms in row] for row in rows])


@torch.no_grad()
def by_search(model: Model, answers: Answers, top: int | None = None, tolerance: float = 1.0) -> Scores:
    hidden, branch = grow(model.decoder, model.embed(torch.tensor(PROMPTS)))
    trie = LabelTrie([str(a) for a in answers], answers)
    return search(model, trie, hidden[:, -1], branch, top, tolerance)


bodies = st.lists(
    st.lists(st.integers(10, 14), min_size=1, max_size=4).map(tuple), min_size=1, max_size=14, unique=True
)


@st.composite
def label_sets(draw: st.DrawFn) -> Answers:
    """Answers that share prefixes, assigned to labels: one each, or several synonyms."""
    sequences = [[*body, END] for body in draw(bodies)]
    count = draw(st.integers(1, len(sequences)))
    out: Answers = [[] for _ in range(count)]
    for i, sequence in enumerate(sequences):
        out[i % count].append(sequence)
    return out


# The tests don't change the model, so one is enough for all examples.
on_one_model = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@on_one_model
@given(label_sets())
def test_full_scores_equal_brute_force(tiny: Model, answers: Answers) -> None:
    scores = by_search(tiny, answers)
    assert scores.complete
    expected = brute_scores(tiny, answers)
    torch.testing.assert_close(scores.bound, expected, rtol=0, atol=2e-4)
    torch.testing.assert_close(scores.low, expected.logsumexp(1), rtol=0, atol=2e-4)
    low, high = scores.probabilities()
    torch.testing.assert_close(low, expected.softmax(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(low, high, rtol=0, atol=1e-5)


@on_one_model
@given(label_sets(), st.integers(1, 5))
def test_the_best_labels_are_exact_and_bounds_hold(tiny: Model, answers: Answers, top: int) -> None:
    scores, expected = by_search(tiny, answers, top), brute_scores(tiny, answers)
    k = min(top, len(answers))
    best = scores.bound.topk(k, 1)
    assert scores.exact.gather(1, best.indices).all()
    torch.testing.assert_close(best.values, expected.topk(k, 1).values, rtol=0, atol=2e-4)
    assert (scores.bound >= expected - 2e-4).all()
    low, high = scores.probabilities()
    probabilities = expected.softmax(1)
    assert (low <= probabilities + 1e-4).all()
    assert (high >= probabilities - 1e-4).all()


@on_one_model
@given(label_sets(), st.sampled_from([0.2, 0.05, 0.0]))
def test_the_best_probability_is_within_the_tolerance(tiny: Model, answers: Answers, tolerance: float) -> None:
    scores = by_search(tiny, answers, 1, tolerance)
    best = scores.bound.argmax(1, keepdim=True)
    low, high = (p.gather(1, best) for p in scores.probabilities())
    assert (high - low <= 2 * tolerance + 1e-5).all()


def test_only_a_few_of_many_labels_are_run(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{colour} {thing} {i}" for i in range(10) for colour in ("red", "blue") for thing in "abcde" * 10]
    names = list(dict.fromkeys(f"{name}{i}" for i, name in enumerate(names)))
    assert len(names) == 1000
    answers = [[[*tiny.tokenizer.encode(name, add_special_tokens=False), END]] for name in names]
    rows = 0

    def counted(*args: object) -> object:
        nonlocal rows
        rows += len(args[1])  # type: ignore[arg-type]
        return grow(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(labels_module, "grow", counted)
    best, few = by_search(tiny, answers, 1), rows
    complete, rows = by_search(tiny, answers), 0
    assert best.bound.argmax(1).tolist() == complete.bound.argmax(1).tolist()
    assert not best.complete
    assert few < 0.5 * 3 * len(names)
    for index in (0, 500, 999):
        expected = brute(tiny, PROMPTS[1], answers[index][0])
        assert complete.bound[1, index].item() == pytest.approx(expected, abs=5e-4)


def test_the_end_token_distinguishes_labels_with_a_common_prefix(tiny: Model) -> None:
    labels = ["can", "can opener", "canary", "übergröße", "日本", "can opener, red"]
    answers = [[[*tiny.tokenizer.encode(label, add_special_tokens=False), END]] for label in labels]
    scores = by_search(tiny, answers)
    torch.testing.assert_close(scores.bound, brute_scores(tiny, answers), rtol=0, atol=2e-4)
    assert (scores.bound.exp().sum(1) <= 1).all()


def test_the_probabilities_of_all_tokens_sum_to_one(tiny: Model) -> None:
    # One-token answers for every token of the vocabulary.
    size = tiny.network.config.text_config.vocab_size
    scores = by_search(tiny, [[[i]] for i in range(size)])
    assert scores.bound.exp().sum(1).tolist() == pytest.approx([1] * 3, abs=1e-4)


def test_small_decoder_calls_score_the_same(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"class {i}" for i in range(60)]
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    classifier = Classifier(tiny, make_question(tiny, QuestionOptions(), names))
    expected = classifier.score((pixels,))
    monkeypatch.setattr(labels_module, "MAX_ROWS", 3)
    torch.testing.assert_close(classifier.score((pixels,)).bound, expected.bound, rtol=1e-4, atol=1e-4)


def test_very_improbable_labels_neither_underflow_to_nan_nor_win(tiny: Model) -> None:
    long = [[30, 31, 32] * 60 + [END]]
    scores = by_search(tiny, [[[10, END]], long, [[11, END]]])
    assert scores.bound.isfinite().all()
    assert (scores.bound.argmax(1) != 1).all()
    assert scores.probabilities()[0][:, 1].max() < 1e-6


def test_label_sets_that_cannot_be_distinguished_are_refused() -> None:
    with pytest.raises(UserError, match="'a' and 'b' are the same"):
        LabelTrie(["a", "b"], [[[5, END]], [[6, END], [5, END]]])
    with pytest.raises(UserError, match="no labels"):
        LabelTrie([], [])
    with pytest.raises(UserError, match="'b' is empty"):
        LabelTrie(["a", "b"], [[[5, END]], [[]]])
    with pytest.raises(UserError, match="'a' is the beginning of the one for 'b'"):
        LabelTrie(["a", "b"], [[[5]], [[5, 6]]])
    assert math.isfinite(LabelTrie(["a"], [[[5, END], [5, END]]]).lengths.sum().item())  # one answer, given twice


def test_nan_scores_are_reported_in_one_sentence(tiny: Model) -> None:
    tiny.network.lm_head.weight.data = tiny.network.lm_head.weight.data * math.nan
    for top in (1, None):
        with pytest.raises(UserError, match="scores are NaN"):
            by_search(tiny, [[[10, END]], [[11, END]]], top)


def test_equal_bounds_end_the_search(tiny: Model) -> None:
    # With all weights zero, every token is equally probable.
    tiny.network.lm_head.weight.data = torch.zeros_like(tiny.network.lm_head.weight.data)
    answers = [[[i, END]] for i in range(10, 30)] + [[[40, 41, END]]]
    scores = by_search(tiny, answers, 1)
    assert (scores.bound.argmax(1) != 20).all()
    assert scores.exact.gather(1, scores.bound.argmax(1, keepdim=True)).all()
