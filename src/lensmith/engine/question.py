"""The question put to the model: one wording for baseline, training and tuned model.

The class list comes before the image, so that everything up to the image is the same for every sample and runs once.
Prompts are written by the checkpoint's own chat template and cut at the image: what stands before, what stands after.
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
    """The question in tokens, and the answers to it."""

    text: str
    """As a person would read it."""
    before: tuple[int, ...]
    """Token ids up to the image's embeddings, with its opening token."""
    after: tuple[int, ...]
    """Token ids after the image, up to the answer."""
    answers: tuple[tuple[tuple[int, ...], ...], ...]
    """For each label the token ids that say it, the end token included where the answer is a name. The first is what
    training teaches; the others are synonyms."""


@dataclass(frozen=True)
class Question:
    """One question about an image: its labels, its wording in tokens, and the trie of its answers."""

    labels: tuple[str, ...]
    prompt: Prompt
    trie: LabelTrie


def make_question(model: Model, options: QuestionOptions, labels: Sequence[str]) -> Question:
    """The question that a model is asked. Raises UserError as `make_prompt` and `LabelTrie` do."""
    prompt = make_prompt(model, options, labels)
    return Question(tuple(labels), prompt, LabelTrie(labels, prompt.answers))


def names_of(question: QuestionOptions, labels: Sequence[str]) -> list[tuple[str, ...]]:
    """What each label is called, and its synonyms.

    Raises:
        UserError: `question.names` names a class that there isn't, or says nothing for one.
    """
    for label in question.names:
        if label not in labels:
            raise UserError(f"question.names names {label!r}, which is not a class.", nearest(label, labels))
    names = []
    for label in labels:
        own = question.names.get(label, label.replace("_", " ") if question.underscores else label)
        own = [own] if isinstance(own, str) else own
        if not own or not all(name.strip() for name in own):
            raise UserError(f"The class {label!r} is called nothing.", "Give it a name in question.names.")
        names.append(tuple(own))
    return names


def codes(tokenizer: Any, count: int) -> list[str]:
    """Codes that are single tokens: A to Z first, as transformers' `pipeline("decision")` has them.

    Raises:
        UserError: the tokenizer has too few.
    """
    found: list[str] = []
    ids: set[int] = set()
    for code in _candidates():
        if len(found) == count:
            break
        tokens = tokenizer.encode(code, add_special_tokens=False)
        if len(tokens) == 1 and tokens[0] != tokenizer.unk_token_id and tokens[0] not in ids:
            found.append(code)
            ids.add(tokens[0])
    if len(found) < count:
        raise UserError(
            f"The model has {len(found)} single-token codes, too few for {count} classes.",
            "Use question.answers=names.",
        )
    return found


def _candidates() -> Iterator[str]:
    letters, digits = string.ascii_uppercase, string.digits
    yield from letters + string.ascii_lowercase + digits
    for alphabet in (letters, string.ascii_lowercase, digits):
        yield from map("".join, product(alphabet, repeat=2))
    yield from map("".join, product(digits, repeat=3))


def messages(question: QuestionOptions, lines: Sequence[str]) -> list[dict[str, Any]]:
    """The conversation as chat messages, in the form that `apply_chat_template` takes; `lines` are the class list."""
    classes = "\n".join(lines)
    talk: list[dict[str, Any]] = []
    if question.system:
        talk.append({"role": "system", "content": question.system.replace("{labels}", classes)})
    text = question.text.replace("{labels}", classes)
    talk.append({"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]})
    return talk


def make_prompt(model: Model, question: QuestionOptions, labels: Sequence[str]) -> Prompt:
    """The question in tokens.

    Raises:
        UserError: the question or a label contains one of the model's special tokens, or tokens that it doesn't have;
            or see `names_of` and `codes`.
    """
    tokenizer = model.tokenizer
    forms = names_of(question, labels)
    if question.answers == "codes":
        short = codes(tokenizer, len(labels))
        lines = [f"{code}. {names[0]}" for code, names in zip(short, forms, strict=True)]
        said: list[tuple[str, ...]] = [(code,) for code in short]
        end: tuple[int, ...] | None = ()
    else:
        said, lines, end = forms, [names[0] for names in forms], None
    for token in map(str, tokenizer.all_special_tokens):
        for words in [question.text, question.system or "", *labels, *(form for names in forms for form in names)]:
            if token in words:
                raise UserError(
                    f"{words!r} contains {token!r}, which the model reads as a control token.", "Rename it."
                )
    talk = messages(question, lines)
    text = tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    before, image, after = text.partition(model.image_token)
    if not image or model.image_token in after:
        raise UserError(
            f"The chat template of {model.options.base} does not write exactly one image into the question.",
            "Lensmith needs a vision-language chat model.",
        )
    opening, closing = model.image_frame

    def ids(part: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(part, add_special_tokens=False))

    lead, closed = _around_answer(tokenizer, talk, text)
    end = ids(closed)[:1] or (tokenizer.eos_token_id,) if end is None else end

    def answer(form: str) -> tuple[int, ...]:
        tokens = ids(lead + form)
        if not tokens or tokenizer.unk_token_id in tokens:
            raise UserError(
                f"The model has no tokens for the answer {form!r}.", "Rename the class or give a form of it."
            )
        return tokens + end

    readable = "\n\n".join(
        m["content"] if isinstance(m["content"], str) else m["content"][0]["text"] + "\n[the image]" for m in talk
    )
    answers = tuple(tuple(answer(form) for form in names) for names in said)
    return Prompt(readable, ids(before + opening), ids(closing + after), answers)


def _around_answer(tokenizer: Any, talk: list[dict[str, Any]], prompt: str) -> tuple[str, str]:
    """What the chat template writes between a prompt and the assistant's answer to it, and what after the answer.

    Not every model's answer begins right after the prompt, or ends with the tokenizer's end of text.
    """
    answer = {"role": "assistant", "content": [{"type": "text", "text": "answer"}]}
    try:
        whole = str(tokenizer.apply_chat_template([*talk, answer], tokenize=False))
    except (TemplateError, TypeError):  # it takes no answers in parts
        return "", ""
    lead, said, closed = whole.removeprefix(prompt).partition("answer")
    return (lead, closed) if whole.startswith(prompt) and said else ("", "")
