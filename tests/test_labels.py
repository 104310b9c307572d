"""Scores from the trie equal brute force: one full forward pass per label."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lensmith.branches import grow
from lensmith.config import QuestionOptions
from lensmith.errors import UserError
from lensmith.labels import LabelTrie, score_labels
from lensmith.models.family import Model
from lensmith.predict import Classifier
from lensmith.question import answer_ids

END = 4


@torch.no_grad()
def brute(model: Model, prompt: list[int], sequence: list[int]) -> float:
    """log p(sequence | prompt) by one plain pass."""
    ids = torch.tensor([[*prompt, *sequence]])
    logits = model.network.lm_head(model.network.model.language_model(inputs_embeds=model.embed(ids)).last_hidden_state)
    known = torch.log_softmax(logits[0].float(), -1)
    return sum(known[len(prompt) - 1 + i, token].item() for i, token in enumerate(sequence))


@torch.no_grad()
def by_trie(model: Model, prompts: list[list[int]], sequences: list[list[int]]) -> torch.Tensor:
    hidden, branch = grow(model.decoder, model.embed(torch.tensor(prompts)))
    trie = LabelTrie([str(s) for s in sequences], sequences)
    return score_labels(model, trie, hidden[:, -1], branch)


bodies = st.lists(
    st.lists(st.integers(10, 14), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12, unique=True
)


# The model is only read, so one is enough for all examples.
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies)
def test_scores_equal_brute_force_on_random_tries(tiny: Model, found: list[tuple[int, ...]]) -> None:
    sequences = [[*body, END] for body in found]
    prompts = [[20, 21, 22], [23, 24, 25]]
    scores = by_trie(tiny, prompts, sequences)
    for row, prompt in zip(scores, prompts, strict=True):
        for score, sequence in zip(row.tolist(), sequences, strict=True):
            assert score == pytest.approx(brute(tiny, prompt, sequence), abs=2e-4)


def test_labels_that_begin_alike_differ_by_the_end_token(tiny: Model) -> None:
    labels = ["can", "can opener", "canary", "übergröße", "日本", "can opener, red"]
    sequences = [answer_ids(tiny, label) for label in labels]
    scores = by_trie(tiny, [[20, 21]], sequences)[0].tolist()
    assert scores == pytest.approx([brute(tiny, [20, 21], s) for s in sequences], abs=2e-4)
    assert sum(torch.tensor(scores).exp()) <= 1


def test_every_sequence_sums_to_one(tiny: Model) -> None:
    # All one-token answers of the vocabulary: their probabilities are the whole distribution.
    size = tiny.network.config.text_config.vocab_size
    scores = by_trie(tiny, [[20, 21]], [[i] for i in range(size)])
    assert scores.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_many_labels_in_small_batches_score_the_same(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = [f"class {i}" for i in range(60)]
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    classifier = Classifier(tiny, QuestionOptions(), labels)
    whole = classifier.score(pixels)
    monkeypatch.setattr("lensmith.predict.MAX_ROWS", 1)
    torch.testing.assert_close(classifier.score(pixels), whole, rtol=1e-4, atol=1e-4)


def test_labels_the_model_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(UserError, match="'a' and 'b' are the same"):
        LabelTrie(["a", "b"], [[5, END], [5, END]])
    with pytest.raises(UserError, match="no labels"):
        LabelTrie([], [])
