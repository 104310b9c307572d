"""What the peers share: torchvision with a CPU torch, the question as chat messages, and the tokens expected for it.

Import this module before transformers.
"""

from __future__ import annotations

from typing import Any

import torch

# PyPI's torchvision is built for CUDA: with a CPU torch its operators don't load, and its import fails at these two.
operators = torch.library.Library("torchvision", "DEF")
operators.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
operators.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")

Job = dict[str, Any]


def messages(job: Job, answer: str | None = None, **image: Any) -> list[dict[str, Any]]:
    """The question as a chat, with the answer if there is one."""
    system = [{"role": "system", "content": [{"type": "text", "text": job["system"]}]}] if job["system"] else []
    content = [{"type": "text", "text": job["text"]}, {"type": "image", **image}]
    said = [] if answer is None else [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    return [*system, {"role": "user", "content": content}, *said]


def expanded(job: Job, processor: Any, inputs: Any, answer: str | None = None) -> list[int]:
    """The expected input ids: the chat template's text, with the image's placeholder tokens written out."""
    text = processor.tokenizer.apply_chat_template(
        messages(job, answer), tokenize=False, add_generation_prompt=answer is None
    )
    count = int(inputs["spatial_shapes"][0].prod()) // processor.image_processor.downsample_factor**2
    image = processor.image_start_token + processor.image_token * count + processor.image_end_token
    ids: list[int] = processor.tokenizer.encode(text.replace(processor.image_token, image), add_special_tokens=False)
    return ids
