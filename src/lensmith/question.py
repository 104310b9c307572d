"""The question put to the model: one wording for baseline, training and tuned model.

The class list comes before the image, so that everything up to the image is the same for every sample and runs once.
Prompts are written by the checkpoint's own chat template and cut at the image: what stands before, what stands after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lensmith.config import QuestionOptions
from lensmith.errors import UserError

if TYPE_CHECKING:
    from lensmith.models.family import Model


@dataclass(frozen=True)
class Prompt:
    """Token ids before the image's embeddings (with its opening token) and after them, up to the answer."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def messages(question: QuestionOptions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation as chat messages, in the form that `apply_chat_template` takes."""
    text = question.text.replace("{labels}", "\n".join(labels))
    talk: list[dict[str, Any]] = []
    if question.system:
        talk.append({"role": "system", "content": question.system.replace("{labels}", "\n".join(labels))})
    talk.append({"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]})
    return talk


def make_prompt(model: Model, question: QuestionOptions, labels: Sequence[str]) -> Prompt:
    """The question in tokens.

    Raises:
        UserError: the question or a label contains one of the model's special tokens.
    """
    special = [str(token) for token in model.tokenizer.all_special_tokens]
    words = [question.text, question.system or "", *labels]
    for token in special:
        for word in words:
            if token in word:
                raise UserError(f"{word!r} contains {token!r}, which the model reads as a control token.", "Rename it.")
    text = model.tokenizer.apply_chat_template(messages(question, labels), tokenize=False, add_generation_prompt=True)
    before, image, after = text.partition(model.image_token)
    if not image or model.image_token in after:
        raise UserError(
            f"The chat template of {model.options.base} does not write exactly one image into the question.",
            "Lensmith needs a vision-language chat model.",
        )
    start, end = model.image_frame

    def ids(part: str) -> tuple[int, ...]:
        return tuple(model.tokenizer.encode(part, add_special_tokens=False))

    return Prompt(ids(before + start), ids(end + after))


def answer_ids(model: Model, label: str) -> list[int]:
    """A label as the model is to say it: its tokens and the end token."""
    return [*model.tokenizer.encode(label, add_special_tokens=False), model.tokenizer.eos_token_id]
