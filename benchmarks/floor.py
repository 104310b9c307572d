"""The floor of a training step: how many operations it can't do without, and how fast a device multiplies matrices."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from lensmith.models.base import Model
from lensmith.models.views import Shape


def operations(
    model: Model,
    weights: Mapping[str, int],
    lora: int,
    before: int,
    shape: Shape,
    text: int,
    answer: int,
    batch: int,
    tower: bool = True,
) -> dict[str, float]:
    """Floating-point operations of one training step with LoRA on the decoder, by part.

    A weight takes two operations a token forwards, two more where a gradient goes back through it, and two more where
    it learns itself (Kaplan et al., 2001.08361, section 2.1). Attention takes four a query, key and number of a head's
    width forwards, and eight backwards (Chowdhery et al., PaLM, 2204.02311, appendix B). So, with W frozen weights of
    the decoder, A of LoRA, L attention layers of width d, P tokens of the question and T of an image with what is said
    after it:

        question        P (4 W + 6 A) + 12 L d P (P / 2)        once, whatever the batch
        image           T (4 W + 6 A) + 12 L d T (P + T / 2)    of which the image's own tokens are `image`, and the
                                                                question's end and the answer `text`
        tower           n (2 V + 4 l v m)                       forwards alone: V frozen weights, l layers of width v, n
                                                                patches of which each sees m
        projector       2 N a merged token                      forwards alone
        head            4 x hidden x vocabulary                 a token that the loss covers

    Left out: norms, activations, convolutions over three tokens, the optimizer. Left in, though a cleverer step needs
    less: the gradient of the first layer's input, and of the question what lies above the last layer that anything
    looks at. PyTorch's own counter (`torch.utils.flop_counter`) finds 2 to 4 % less in a step of LFM2-VL-450M
    with two images on a CPU, whose fused attention it leaves out.

    Args:
        weights: component -> frozen weights of its linear layers (`cost.weights`, before LoRA is on).
        lora: LoRA's weights.
        before: tokens of the question up to the image.
        shape: of an image's views.
        text: tokens of the question after the image.
        answer: tokens of an answer, its end included.
        batch: images of a step.
        tower: whether the tower looks at the images in the step, or has looked before.

    Returns:
        Part -> operations of the whole step.
    """
    config = model.network.config
    words, vision = config.text_config, config.vision_config
    kinds = list(words.layer_types)
    looks = 12 * kinds.count("full_attention") * words.hidden_size
    each = 4 * weights["language_model"] + 6 * lora
    image, said = model.tokens(shape), text + answer - 1  # the end token is never read
    seen = sum(
        n * (2 * weights["vision_tower"] + 4 * vision.num_hidden_layers * vision.hidden_size * own)
        for n, own in model.patches(shape)
    )
    merged = sum(h * w // model.token_side**2 for _, h, w in shape)
    return {
        "question": before * each + looks * before * before / 2,
        "image": batch * (image * each + looks * image * (before + image / 2)),
        "text": batch * (said * each + looks * said * (before + image + said / 2)),
        "tower": batch * seen if tower else 0.0,
        "projector": batch * 2 * weights["projector"] * merged if tower else 0.0,
        "head": batch * answer * 4 * words.hidden_size * words.vocab_size,
    }


def matrix_rate(device: torch.device) -> tuple[int, float]:
    """The side of large square matrices, and the operations a second of their products in bfloat16."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    rounds = 10
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(rounds):
        a @ b
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return side, rounds * 2 * side**3 / (time.perf_counter() - start)
