"""Loaded heads score as before they were saved, and nearest neighbours vote as computed by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lensmith.models.heads import ANSWER, ClassHead, Head, Neighbours, load_head


def neighbours(k: int) -> Neighbours:
    features = torch.tensor([[2.0, 1.0], [0.0, 1.0], [1.0, 2.0], [1.0, 0.0]])  # around (1, 1)
    centre, spread = features.mean(0), features.std(0)
    keys = Neighbours.direction(features, centre, spread).half()
    return Neighbours(centre, spread, keys, torch.tensor([0, 1, 1, 0]), k, ["east", "west and north"], "tower mean")


@pytest.mark.parametrize("head", [ClassHead(2, ["a", "b", "c"]), neighbours(3)], ids=["linear", "neighbours"])
def test_a_saved_head_scores_as_before(head: Head, tmp_path: Path) -> None:
    for weight in head.parameters():
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(0))
    head.save(tmp_path / "head.safetensors")
    loaded = load_head(tmp_path / "head.safetensors")
    features = torch.randn(5, 2)
    assert (loaded.labels, loaded.feature) == (head.labels, head.feature)
    assert torch.equal(loaded(features), head(features))
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_neighbours_vote_by_their_cosine_similarity() -> None:
    head = neighbours(2)
    direction = Neighbours.direction(torch.tensor([[1.9, 1.3]]), head.centre, head.spread)
    pairs = zip(head.keys, head.owners, strict=True)
    similarities = sorted(((direction @ key.float()).item(), int(owner)) for key, owner in pairs)[::-1]
    largest, _ = similarities[0]
    weights = [math.exp((cosine - largest) / 0.07) for cosine, _ in similarities[:2]]
    votes = [0.5, 0.5]
    for weight, (_, owner) in zip(weights, similarities, strict=False):
        votes[owner] += weight
    torch.testing.assert_close(head(torch.tensor([[1.9, 1.3]])), torch.tensor([votes]).log(), atol=1e-3, rtol=1e-3)
    assert math.isfinite(neighbours(1)(torch.tensor([[5.0, 1.0]]))[0, 1].item())  # no class is impossible


def test_heads_saved_without_a_feature_name_can_be_loaded(tmp_path: Path) -> None:
    state = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    save_file(state, tmp_path / "head.safetensors", {"labels": '["a", "b"]'})
    head = load_head(tmp_path / "head.safetensors")
    assert isinstance(head, ClassHead)
    assert head.feature == ANSWER
    assert torch.equal(head.weight, state["weight"])


def test_a_head_whose_numbers_do_not_fit_its_labels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    linear, near = ClassHead(2, ["a", "b", "c"]), neighbours(3)
    for head, changed, says in (
        (linear, {"weight": torch.zeros(2, 2)}, "other classes than its 3 labels"),
        (linear, {"bias": torch.zeros(4)}, "other classes than its 3 labels"),
        (linear, {"bias": torch.tensor([0.0, math.nan, 0.0])}, "NaN or infinity"),
        (near, {"owners": torch.tensor([0, 1, 2, 0])}, "other classes than its 2 labels"),
        (near, {"keys": near.keys[:3].contiguous()}, "other classes than its 2 labels"),
    ):
        head.save(path)
        with safe_open(path, "pt") as file:
            about = file.metadata()
        save_file({name: value.contiguous() for name, value in head.state_dict().items()} | changed, path, about)
        with pytest.raises(ValueError, match=says):
            load_head(path)


def test_equal_heads_are_equal_files(tmp_path: Path) -> None:
    for k in range(8):  # safetensors writes the keys of metadata in any order
        ClassHead(4, ["a", "b"]).save(tmp_path / f"{k}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
