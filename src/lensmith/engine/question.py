"""The question put to the model, with the same wording for the baseline, training and the tuned model.

The class list comes before the image, so everything up to the image is the same for every sample and runs once. The
checkpoint's own chat template writes the prompt, which is then split at the image into the text before and after it.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from lensmith.config import QuestionOptions
from lensmith.engine.labels import LabelTrie
from lensmith.errors import UserError, nearest

if TYPE_CHECKING:
    from lensmith.models.base import Model


@dataclass(frozen=True)
class Prompt:
    """The question in tokens, and the possible answers."""

    text: str
    """In readable form."""
    before: tuple[int, ...]
    """Token ids up to the image's embeddings, the image's opening tokens included."""
    after: tuple[int, ...]
    """Token ids after the image, up to the answer."""
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    """The token ids of each label's answers, with the end token if the answer is a name. Training teaches the first;
    the others are synonyms."""


@dataclass(frozen=True)
class Question:
    """One question about an image: its labels, its wording in tokens, and the trie of its answers."""

    labels: tuple[str, ...]
    prompt: Prompt
    trie: LabelTrie


def make_question(model: Model, options: QuestionOptions, labels: Sequence[str]) -> Question:
    """The question for a model and its labels. Raises UserError as `make_prompt` and `LabelTrie` do."""
    prompt = make_prompt(model, options, labels)
    return Question(tuple(labels), prompt, LabelTrie(labels, prompt.answers))


def names_of(question: QuestionOptions, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """The name of each label, followed by its synonyms.

    Raises:
        UserError: `question.names` contains an unknown class, or a class has an empty name or none.
    """
    for label in question.names:
        if label not in labels:
            raise UserError(f"question.names names {label!r}, which is not a class.", nearest(label, labels))
    all_names = []
    for label in labels:
        names = question.names.get(label, label.replace("_", " ") if question.underscores else label)
        names = [names] if isinstance(names, str) else names
        if not names or not all(name.strip() for name in names):
            raise UserError(f"The class {label!r} has an empty name.", "Give it a name in question.names.")
        all_names.append(tuple(names))
    return all_names


def codes(tokenizer: Any, count: int) -> list[str]:
    """Codes that are single tokens: A to Z first, as in transformers' `pipeline("decision")`.

    Raises:
        UserError: the tokenizer has fewer than `count`.
    """
    chosen: list[str] = []
    ids: set[int] = set()
    for code in _candidates():
        if len(chosen) == count:
            break
        tokens = tokenizer.encode(code, add_special_tokens=False)
        if len(tokens) == 1 and tokens[0] != tokenizer.unk_token_id and tokens[0] not in ids:
            chosen.append(code)
            ids.add(tokens[0])
    if len(chosen) < count:
        raise UserError(
            f"The model has {len(chosen)} single-token codes, too few for {count} classes.",
            "Use question.answers=names.",
        )
    return chosen


def _candidates() -> Iterator[str]:
    letters, digits = string.ascii_uppercase, string.digits
    yield from letters + string.ascii_lowercase + digits
    for alphabet in (letters, string.ascii_lowercase, digits):
        yield from map("".join, product(alphabet, repeat=2))
    yield from map("".join, product(digits, repeat=3))


def messages(question: QuestionOptions, lines: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation as chat messages for `apply_chat_template`. `lines` is the class list."""
    classes = "\n".join(lines)
    chat: list[dict[str, Any]] = []
    if question.system:
        chat.append({"role": "system", "content": question.system.replace("{labels}", classes)})
    text = question.text.replace("{labels}", classes)
    chat.append({"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]})
    return chat


def make_prompt(model: Model, question: QuestionOptions, labels: Sequence[str]) -> Prompt:
    """The question in tokens.

    Raises:
        UserError: the question or a label contains a special token of the model or text that it has no tokens for, the
            chat template doesn't write one image, or as `names_of` and `codes` do.
    """
    tokenizer = model.tokenizer
    names = names_of(question, labels)
    if question.answers == "codes":
        single_tokens = codes(tokenizer, len(labels))
        lines = [f"{code}. {name}" for code, (name, *_) in zip(single_tokens, names, strict=True)]
        answer_texts: list[tuple[str, ...]] = [(code,) for code in single_tokens]
        end: tuple[int, ...] | None = ()
    else:
        answer_texts, lines, end = names, [name for name, *_ in names], None
    for token in map(str, tokenizer.all_special_tokens):
        for text in [question.text, question.system or "", *labels, *(name for group in names for name in group)]:
            if token in text:
                raise UserError(f"{text!r} contains {token!r}, which the model reads as a control token.", "Rename it.")
    chat = messages(question, lines)
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    before, image, after = prompt.partition(model.image_token)
    if not image or model.image_token in after:
        raise UserError(
            f"The chat template of {model.options.base} does not write exactly one image into the question.",
            "Lensmith needs a vision-language chat model.",
        )
    opening, closing = model.image_frame

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    before_answer, after_answer = _around_answer(tokenizer, chat, prompt)
    end = ids(after_answer)[:1] or (tokenizer.eos_token_id,) if end is None else end

    def answer_ids(text: str) -> tuple[int, ...]:
        tokens = ids(before_answer + text)
        if not tokens or tokenizer.unk_token_id in tokens:
            raise UserError(
                f"The model has no tokens for the answer {text!r}.",
                "Rename the class, or give it another name in question.names.",
            )
        return tokens + end

    readable = "\n\n".join(
        m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] + "\n[the image]" for m in chat
    )
    answers = tuple(tuple(answer_ids(text) for text in texts) for texts in answer_texts)
    return Prompt(readable, ids(before + opening), ids(closing + after), answers)


def _around_answer(tokenizer: Any, chat: list[dict[str, Any]], prompt: str) -> tuple[str, str]:
    """What the chat template writes between a prompt and the assistant's answer, and after the answer.

    Some templates write text between the two, and some end an answer with a token other than the end of text.
    """
    answer = {"role": "assistant", "content": [{"type": "text", "text": "answer"}]}
    try:
        conversation = str(tokenizer.apply_chat_template([*chat, answer], tokenize=False))
    except (TemplateError, TypeError):  # the template doesn't accept an answer as a list of content items
        return "", ""
    before, separator, after = conversation.removeprefix(prompt).partition("answer")
    return (before, after) if conversation.startswith(prompt) and separator else ("", "")
