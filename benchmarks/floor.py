"""The lower bound of a step: the operations it can't avoid, and how fast a device multiplies matrices."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from true_size import timed

from lensmith.models.base import Model
from lensmith.models.tuning import component_of
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

    A weight takes two operations per token in the forward pass, two more if a gradient flows back through it, and two
    more if the weight itself is trained (Kaplan et al., 2001.08361, section 2.1). Attention takes four operations per
    query, key and head dimension in the forward pass, and eight in the backward pass (Chowdhery et al., PaLM,
    2204.02311, appendix B). Let W be the frozen weights of the decoder, A those of LoRA, L the attention layers of
    width d, P the tokens of the question before the image, and T the tokens of the image and of the text after it:

        question        P (4 W + 6 A) + 12 L d P (P / 2)        once for the batch, whatever its size
        image           T (4 W + 6 A) + 12 L d T (P + T / 2)    reported as `image` for the tokens of the image, and as
                                                                `text` for the question's end and the answer
        tower           n (2 V + 4 l v m)                       forward only: V frozen weights, l layers of width v, n
                                                                patches, each of which attends to m
        projector       2 N per merged token                    forward only: N weights
        head            4 x hidden x vocabulary                 per token that the loss covers

    Not counted: norms, activations, convolutions over three tokens, the optimizer. Counted, though a step could avoid
    them: the gradient of the first layer's input, and, for the question, what lies above the last layer that later
    tokens read. PyTorch's own counter (`torch.utils.flop_counter`) counts 2 to 4 % less for a step of LFM2-VL-450M with
    two images on a CPU, because it leaves out fused attention.

    Args:
        weights: component -> frozen weights of its linear layers (`cost.weights`, before LoRA is attached).
        lora: number of LoRA's weights.
        before: tokens of the question up to the image.
        shape: of an image's views.
        text: tokens of the question after the image.
        answer: tokens of an answer, its end token included.
        batch: images per step.
        tower: whether the tower runs in the step; False if its features were computed before.

    Returns:
        Part -> operations of the complete step.
    """
    config = model.network.config
    words, vision = config.text_config, config.vision_config
    attention = 12 * list(words.layer_types).count("full_attention") * words.hidden_size
    linear = 4 * weights["language_model"] + 6 * lora
    image, after = model.tokens(shape), text + answer - 1  # the end token is no input
    vision_tower = sum(
        n * (2 * weights["vision_tower"] + 4 * vision.num_hidden_layers * vision.hidden_size * attended)
        for n, attended in model.patches(shape)
    )
    merged = sum(h * w // model.token_side**2 for _, h, w in shape)
    return {
        "question": before * linear + attention * before * before / 2,
        "image": batch * (image * linear + attention * image * (before + image / 2)),
        "text": batch * (after * linear + attention * after * (before + image + after / 2)),
        "tower": batch * vision_tower if tower else 0.0,
        "projector": batch * 2 * weights["projector"] * merged if tower else 0.0,
        "head": batch * answer * 4 * words.hidden_size * words.vocab_size,
    }


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[int, float]:
    """The side length of large square matrices, and the operations per second of their product: the median of ten."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> float:
        torch.matmul(a, b)
        return 0.0

    return side, 2 * side**3 / statistics.median(timed(multiply, device, steps=10, warm=3)[0])


PARTS = {"vision_tower": "tower", "projector": "projector", "language_model": "decoder"}


class Count:
    """Counts the floating-point operations of what a model runs while it is open (`with Count(model) as count`).

    Every linear layer's products are counted as they happen: two operations per weight and row, two more if a gradient
    flows back to the layer's input, and two more if the weight itself is trained. Attention is counted as in
    `operations`; a query of the decoder attends to the shared past, to its own row's past and, on average, to half of
    its segment. Norms, activations, convolutions over three tokens and the optimizer are not counted.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.operations: Counter[str] = Counter()
        """Part -> operations: `tower`, `projector`, `decoder`, `attention` (of both) and `vocabulary`."""

    def __enter__(self) -> Count:
        model, hooks = self.model, list[Any]()
        head, text = model.network.get_output_embeddings(), model.network.config.text_config
        # A layer with LoRA runs its products itself, so it is counted as a whole.
        lora = {name: module for name, module in model.network.named_modules() if isinstance(module, LoraLayer)}
        for name, module in lora.items():
            part = PARTS[str(component_of(model, name))]
            hooks.append(module.register_forward_hook(partial(self._lora, part)))
        for name, module in model.network.named_modules():
            if isinstance(module, nn.Linear) and not any(name.startswith(f"{one}.") for one in lora):
                component = component_of(model, name)
                part = "vocabulary" if module is head else PARTS[component] if component else "decoder"
                hooks.append(module.register_forward_hook(partial(self._linear, part)))
            elif component_of(model, name) == "vision_tower" and hasattr(module, "q_proj"):
                hooks.append(module.register_forward_hook(self._tower_attention, with_kwargs=True))
        self.layers = list(text.layer_types).count("full_attention")
        hooks.append(model.decoder.register_forward_hook(self._decoder_attention, with_kwargs=True))
        self.hooks = hooks
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self.operations.values())

    def _linear(self, part: str, module: nn.Linear, inputs: tuple[Tensor], output: Tensor) -> None:
        back = inputs[0].requires_grad + module.weight.requires_grad if output.requires_grad else 0
        rows = inputs[0].numel() // module.in_features
        self.operations[part] += 2 * (1 + back) * rows * module.in_features * module.out_features

    def _lora(self, part: str, module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        rows, back = inputs[0].numel() // module.in_features, output.requires_grad
        (first,), (second,) = module.lora_A.values(), module.lora_B.values()
        frozen = module.in_features * module.out_features * (1 + (back and inputs[0].requires_grad))
        # Of LoRA's first product the input's gradient is needed like the base's; its second one has all three.
        own = first.weight.numel() * (1 + back + (back and inputs[0].requires_grad))
        self.operations[part] += 2 * rows * (frozen + own + second.weight.numel() * (3 if back else 1))

    def _tower_attention(self, _: nn.Module, args: tuple[Tensor, ...], named: dict[str, Any], output: Any) -> None:
        states = args[0] if args else named["hidden_states"]
        self._attention(states.shape, states.shape[1], output[0].requires_grad)

    def _decoder_attention(self, _: nn.Module, __: Any, named: dict[str, Any], output: Any) -> None:
        states, first = named["inputs_embeds"], int(named["position_ids"].min())
        keys = first + states.shape[1] / 2
        self._attention(states.shape, keys, output.last_hidden_state.requires_grad, self.layers)

    def _attention(self, shape: Sequence[int], keys: float, back: bool, layers: int = 1) -> None:
        rows, tokens, width = shape
        self.operations["attention"] += round((12 if back else 4) * layers * rows * tokens * keys * width)
