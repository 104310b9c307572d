"""llama.cpp's server in this process (the package xllamacpp), asked about images as its users ask it."""

from __future__ import annotations

import base64
import json
import math
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from lensmith.errors import UserError, reason
from lensmith.export.original import Original


class Llama:
    """A server with one exported model.

    Args:
        limits: the least and the most tokens of an image; None leaves llama.cpp's own.
        talk: the question as chat messages, one of which shows an image.
        names: the name of each label.

    Raises:
        UserError: llama.cpp can't load the files, or cuts the question into other tokens.
    """

    def __init__(
        self,
        original: Original,
        decoder: Path,
        mmproj: Path,
        limits: tuple[int, int] | None,
        talk: list[dict[str, Any]],
        names: list[str],
        grammar: str,
    ) -> None:
        import xllamacpp

        self.original, self.talk, self.names, self.grammar = original, talk, names, grammar
        prompt = original.classifier.prompt
        asked = xllamacpp.CommonParams()
        asked.model.path, asked.mmproj.path = str(decoder), str(mmproj)
        asked.n_ctx = len(prompt.before) + len(prompt.after) + 4096
        asked.n_parallel, asked.warmup, asked.verbosity, asked.use_jinja = 1, False, 0, True
        if limits is not None:
            asked.image_min_tokens, asked.image_max_tokens = limits
        try:
            self.server = xllamacpp.Server(asked)
        except Exception as error:
            raise UserError(
                f"llama.cpp can't load the exported files: {reason(error)}.", "Please report it."
            ) from error
        tokenizer, (start, end) = original.model.tokenizer, original.model.image_frame
        before, after = (tokenizer.decode(list(ids)) for ids in (prompt.before, prompt.after))
        found = self._post("/tokenize", {"content": before, "add_special": False, "parse_special": True})["tokens"]
        if tuple(found) != prompt.before:
            raise UserError(
                "llama.cpp cuts the question into other tokens than the model's own tokenizer.",
                "Use --to weights or --to onnx, and please report the base model.",
            )
        props = json.load(urllib.request.urlopen(self.server.listening_address + "/props"))
        marker = props.get("media_marker", "<__media__>")
        self.prompt = before.removesuffix(start) + marker + after.removeprefix(end)

    def says(self, image: bytes) -> str:
        """The label that it answers in a chat, restricted by the grammar."""
        url = "data:image/png;base64," + base64.b64encode(image).decode()
        shown = {"type": "image_url", "image_url": {"url": url}}
        talk = [
            turn
            if isinstance(turn["content"], str)
            else turn | {"content": [shown if part["type"] == "image" else part for part in turn["content"]]}
            for turn in self.talk
        ]
        most = self.original.classifier.question.trie.tokens.shape[1] + 8
        asked = {"messages": talk, "temperature": 0, "max_tokens": int(most), "grammar": self.grammar}
        answer = self.server.handle_chat_completions(asked)
        if "choices" not in answer:
            raise UserError(f"llama.cpp refuses an image: {json.dumps(answer)[:200]}.", "Please report it.")
        said = answer["choices"][0]["message"]["content"].strip()
        if said not in self.names:
            raise UserError(f"llama.cpp answered {said!r}, which is none of the classes.", "Please report it.")
        return self.original.labels[self.names.index(said)]

    def scores(self, image: bytes) -> list[float]:
        """The calibrated log-probabilities of the labels: a question for each node of the trie of their answers."""
        import torch

        tokenizer, classifier = self.original.model.tokenizer, self.original.classifier
        picture, size = base64.b64encode(image).decode(), self.original.model.network.config.text_config.vocab_size
        known: dict[tuple[int, ...], dict[int, float]] = {}
        totals = []
        for sequences in classifier.prompt.answers:
            each = []
            for answer in sequences:
                total = 0.0
                for depth, token in enumerate(answer):
                    said = answer[:depth]
                    if said not in known:
                        text = self.prompt + "".join(tokenizer.decode([t]) for t in said)
                        known[said] = self._next_tokens(text, picture, size)
                    total += known[said].get(token, -math.inf)
                each.append(total)
            totals.append(each)
        scores = torch.tensor([float(torch.tensor(each).logsumexp(0)) for each in totals])[None]
        logs: list[float] = classifier.calibration.apply(scores).log_softmax(1)[0].tolist()
        return logs

    def _next_tokens(self, text: str, picture: str, count: int) -> dict[int, float]:
        """The log-probability of each of the `count` tokens that may come after a text with an image."""
        prompt = {"prompt_string": text, "multimodal_data": [picture]}
        asked = {"prompt": prompt, "n_predict": 1, "n_probs": count, "temperature": 0.0, "samplers": []}
        reply: dict[str, Any] = {}
        for cached in (True, False):  # a reply without them was seen once, and not again
            reply = self._post("/completion", asked | {"cache_prompt": cached})
            if found := reply.get("completion_probabilities"):
                return {item["id"]: item["logprob"] for item in found[0]["top_logprobs"]}
        raise UserError(f"llama.cpp gives no probabilities: {json.dumps(reply)[:200]}.", "Please report it.")

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        url, data = self.server.listening_address + path, json.dumps(body).encode()
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, data, {"Content-Type": "application/json"})
            ) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise UserError(f"llama.cpp refuses: {error.read().decode()[:200]}.", "Please report it.") from None
