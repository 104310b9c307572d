"""What `nano` is asked about its pictures: wordings, other names for one thing, and lists of candidates.

A prompt holds for a group of pictures, as it does in use: the candidates come first, then the picture. The names in
the list and the answer have one form (same synonym, same case), so that the model learns to read the list.
"""

from __future__ import annotations

import random

WITH_LIST = [
    "What is in this picture? Answer with one of these:\n{list}",
    "What does the image show? Answer with one of:\n{list}",
    "Which of these is it?\n{list}",
    "Classify the image into one of these classes:\n{list}",
    "Choose the label that fits the picture.\n{list}",
    "{list}\nWhich of the above is in the image?",
    "You sort pictures. The classes are:\n{list}\nName the class of the picture.",
]
WITHOUT_LIST = [
    "What is in this picture?",
    "What does the image show?",
    "Name the object.",
    "What is it?",
    "Classify the image.",
]
DIGIT = ["Which digit is this?", "Which digit is written here?", "Read the digit.", "What number is this?"]
LETTER = ["Which character is this?", "Which letter is this?", "Read the character."]

# The names a user may give to the classes behind one concept; the concept's own name is the first.
ALSO: dict[str, list[str]] = {
    "t-shirt": ["t-shirt", "t-shirt/top", "tee", "top"],
    "trousers": ["trousers", "trouser", "pants"],
    "pullover": ["pullover", "sweater", "jumper"],
    "dress": ["dress", "gown"],
    "coat": ["coat", "jacket"],
    "shirt": ["shirt", "blouse"],
    "sandal": ["sandal", "sandals", "open shoe"],
    "sneaker": ["sneaker", "running shoe", "shoe"],
    "ankle boot": ["ankle boot", "boot"],
    "bag": ["bag", "handbag", "purse"],
    **{str(i): [str(i), word] for i, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])},
}  # fmt: skip


def spoken(concept: str, rng: random.Random) -> str:
    """One of the names of a concept, the usual one mostly."""
    names = ALSO.get(concept, [concept])
    return names[0] if rng.random() < 0.6 else rng.choice(names)


def make_prompt(candidates: list[str], kind: str, listed: bool, rng: random.Random) -> tuple[str, dict[str, str]]:
    """The text before the picture, and for each candidate the answer in this prompt's wording.

    Args:
        candidates: the concepts that the pictures of this group may show.
        kind: "digit", "letter" or "thing".
        listed: whether the candidates are named in the prompt.
    """
    style = str.capitalize if rng.random() < 0.15 else str
    words = rng.random() < 0.2
    answer: dict[str, str] = {}
    for c in candidates:
        if kind == "digit":
            answer[c] = style(ALSO[c][1]) if words else c
        elif kind == "letter":
            answer[c] = c
        else:
            answer[c] = style(spoken(c, rng)) if listed else c
    short = {"digit": DIGIT, "letter": LETTER, "thing": WITHOUT_LIST}[kind]
    if not listed:
        return rng.choice(short), answer
    order = list(answer.values())
    if rng.random() < 0.8:
        rng.shuffle(order)
    wordings = WITH_LIST + [f"{q} Answer with one of these:\n{{list}}" for q in short]
    return rng.choice(wordings).format(list="\n".join(order)), answer
