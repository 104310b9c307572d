"""The question: its wording, the class list before the image, and the possible answers."""

from __future__ import annotations

import pytest

from lensmith.config import QuestionOptions
from lensmith.engine.classifier import Classifier
from lensmith.engine.question import codes, make_prompt, make_question, messages
from lensmith.errors import UserError
from lensmith.models.base import Model

LABELS = ["circle", "square", "red square"]


def test_the_class_list_stands_before_the_image(tiny: Model) -> None:
    prompt = make_prompt(tiny, QuestionOptions(system="Look closely."), LABELS)
    before = tiny.tokenizer.decode(prompt.before)
    assert all(label in before for label in ["Look closely.", *LABELS])
    assert before.endswith("<|image_start|>")
    after = tiny.tokenizer.decode(prompt.after)
    assert after.startswith("<|image_end|>")
    assert after.endswith("<|im_start|>assistant\n")


def test_a_prompt_equals_the_output_of_the_chat_template(tiny: Model) -> None:
    prompt = make_prompt(tiny, QuestionOptions(), LABELS)
    chat = messages(QuestionOptions(), LABELS)
    text = tiny.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    framed = text.replace("<image>", "<|image_start|><image><|image_end|>")
    ids = tiny.tokenizer.encode(framed, add_special_tokens=False)
    assert ids == [*prompt.before, tiny.network.config.image_token_id, *prompt.after]


def test_control_tokens_in_labels_are_refused(tiny: Model) -> None:
    with pytest.raises(UserError, match="control token"):
        Classifier(tiny, make_question(tiny, QuestionOptions(), ["a", "b<|im_end|>"]))


def answers_of(model: Model, question: QuestionOptions, labels: list[str]) -> list[list[str]]:
    answers = make_prompt(model, question, labels).answers
    return [[model.tokenizer.decode(ids) for ids in forms] for forms in answers]


def test_answers_are_names_followed_by_the_end_token(tiny: Model) -> None:
    assert answers_of(tiny, QuestionOptions(), ["circle", "aquarium_fish"]) == [
        ["circle<|im_end|>"],
        ["aquarium fish<|im_end|>"],
    ]
    assert answers_of(tiny, QuestionOptions(underscores=False), ["aquarium_fish"]) == [["aquarium_fish<|im_end|>"]]


def test_names_are_listed_and_synonyms_are_only_answers(tiny: Model) -> None:
    question = QuestionOptions(names={"n0123": ["goldfish", "carp"], "n0456": "shark"})
    labels = ["n0123", "n0456", "eel"]
    assert answers_of(tiny, question, labels) == [
        ["goldfish<|im_end|>", "carp<|im_end|>"],
        ["shark<|im_end|>"],
        ["eel<|im_end|>"],
    ]
    prompt = make_prompt(tiny, question, labels)
    assert "goldfish\nshark\neel" in prompt.text
    assert "carp" not in prompt.text
    assert "goldfish\nshark\neel" in tiny.tokenizer.decode(prompt.before)


def test_invalid_names_are_refused(tiny: Model) -> None:
    with pytest.raises(UserError, match=r"'cicle', which is not a class. Did you mean 'circle'"):
        make_prompt(tiny, QuestionOptions(names={"cicle": "ring"}), LABELS)
    with pytest.raises(UserError, match="has an empty name"):
        make_prompt(tiny, QuestionOptions(names={"circle": []}), LABELS)
    with pytest.raises(UserError, match="has an empty name"):
        make_prompt(tiny, QuestionOptions(), ["circle", " "])
    with pytest.raises(UserError, match="'circle' and 'square' are the same to the model"):
        Classifier(
            tiny, make_question(tiny, QuestionOptions(names={"circle": ["ring", "box"], "square": "box"}), LABELS)
        )
    with pytest.raises(UserError, match="'a_b' and 'a b' are the same"):
        Classifier(tiny, make_question(tiny, QuestionOptions(), ["a_b", "a b"]))


def test_codes_are_single_tokens_listed_with_their_classes(tiny: Model) -> None:
    question = QuestionOptions(answers="codes")
    prompt = make_prompt(tiny, question, LABELS)
    assert "A. circle\nB. square\nC. red square" in prompt.text
    assert [len(ids) for forms in prompt.answers for ids in forms] == [1, 1, 1]
    assert answers_of(tiny, question, LABELS) == [["A"], ["B"], ["C"]]
    many = codes(tiny.tokenizer, 70)
    assert len(set(many)) == 70
    assert all(len(tiny.tokenizer.encode(code, add_special_tokens=False)) == 1 for code in many)
    with pytest.raises(UserError, match="too few for 100000 classes"):
        codes(tiny.tokenizer, 100_000)


def test_labels_with_unknown_tokens_are_refused(tiny: Model) -> None:
    tokenizer = tiny.tokenizer

    class WithoutQ:
        """A tokenizer without the letter q."""

        unk_token_id = tokenizer.encode("q", add_special_tokens=False)[0]

        def __getattr__(self, name: str) -> object:
            return getattr(tokenizer, name)

    tiny.tokenizer = WithoutQ()
    with pytest.raises(UserError, match="no tokens for the answer 'q'"):
        make_prompt(tiny, QuestionOptions(), ["q", "circle"])
