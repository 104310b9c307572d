"""Other ways to choose one of a few labels for an image with a small vision-language model, to compare with Lensmith.

They use the same weights, text and images, in a separate environment (see README.md). The process loads everything,
then runs one peer at a time on request, so that both sides can take turns in one run:

    benchmarks/peers/.venv/bin/python benchmarks/peers/scoring.py JOB.json

JOB.json: {"model": folder, "system": text or null, "text": user text with the labels filled in, "labels": [...],
           "images": [PNG paths], "threads": n, "dtype": "float32" or "bfloat16",
           "rows": labels in a batch of `per_label_batch` (default 8; on two cores 32 and more were much slower),
           "codes": [a single-token code for each label, for `decision` only],
           "peers": [peers to load; default: all that the job allows]}
stdout:   {"ready": true, "versions": {...}, "prompt": [token ids of the question with the first image]}
stdin:    {"peer": name, "images": [indices]}, one line for each turn
stdout:   {"seconds": s, "answers": [label or null, ...], "scores": [[one for each label], ...] or null}

Seconds include reading the images, and exclude loading the model. Scores are log-probabilities of complete answers
(`per_label...`) or probabilities of codes (`decision`).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from common import Job, expanded, messages
from PIL import Image

# isort: split
import outlines
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.decision import DecisionConfig

Peer = Callable[[str], tuple[str | None, list[float] | None]]
"""The path of an image -> its label (None if no label was generated), and a score for every label."""


def read(path: str) -> Image.Image:
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.format = image.format  # Outlines requires one
    return picture


def check(job: Job, processor: Any, inputs: Any, peer: str) -> None:
    if inputs["input_ids"].tolist() != [expanded(job, processor, inputs)]:
        raise SystemExit(f"{peer} would feed other tokens than the question's.")


def constrained(job: Job, model: Any, processor: Any) -> Peer:
    """Outlines: greedy generation constrained to the labels, one image at a time."""
    wrapped = outlines.from_transformers(model, processor)
    generate = outlines.Generator(wrapped, Literal[tuple(job["labels"])])
    longest = max(len(ids) for ids in processor.tokenizer(job["labels"], add_special_tokens=False)["input_ids"])

    def chat(path: str) -> outlines.inputs.Chat:
        return outlines.inputs.Chat(messages(job, image=outlines.inputs.Image(read(path))))

    def run(path: str) -> tuple[str | None, None]:
        # A label can be tokenised in other ways than the usual one, and these can be longer.
        answer = generate(chat(path), max_new_tokens=2 * longest + 1, do_sample=False)
        return (answer if answer in job["labels"] else None), None

    check(job, processor, wrapped._prepare_model_inputs(chat(job["images"][0]))[1], "outlines")
    return run


def per_label(job: Job, model: Any, processor: Any, rows: int = 1) -> Peer:
    """A plain forward pass over the full question and an answer, `rows` answers at a time in a padded batch."""
    tokenizer = processor.tokenizer
    prompt = tokenizer.apply_chat_template(messages(job), tokenize=False, add_generation_prompt=True)
    spelled = tokenizer(job["labels"], add_special_tokens=False)["input_ids"]
    answers = [[*ids, tokenizer.eos_token_id] for ids in spelled]

    def look(path: str) -> Any:
        return processor(text=prompt, images=[read(path)], return_tensors="pt")

    def score(seen: Any, group: list[list[int]]) -> list[float]:
        longest = max(map(len, group))
        tail = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in group])
        inside = torch.arange(longest) < torch.tensor([len(ids) for ids in group])[:, None]
        # No mask: padding is on the right, where causal layers don't see it, and a mask would only cost time.
        logits = model(
            input_ids=torch.cat([seen["input_ids"].expand(len(group), -1), tail], 1),
            **{
                name: seen[name].repeat_interleave(len(group), 0)
                for name in ("pixel_values", "spatial_shapes", "pixel_attention_mask")
            },
            use_cache=False,
            logits_to_keep=longest + 1,
        ).logits[:, :-1]
        chosen = logits.float().log_softmax(-1).gather(2, tail[..., None])[..., 0]
        total: list[float] = (chosen * inside).sum(1).tolist()
        return total

    @torch.inference_mode()
    def run(path: str) -> tuple[str, list[float]]:
        seen = look(path)
        groups = [answers[start : start + rows] for start in range(0, len(answers), rows)]
        scores = [value for group in groups for value in score(seen, group)]
        return job["labels"][scores.index(max(scores))], scores

    check(job, processor, look(job["images"][0]), "per_label")
    return run


# The model's own chat template, with the variables of a decision request. The state comes as a list of parts, text and
# image.
DECISION_TEMPLATE = """
{{- bos_token -}}
{%- if question.instructions -%}
{{- '<|im_start|>system\n' + question.instructions + '<|im_end|>\n' -}}
{%- endif -%}
{{- '<|im_start|>user\n' -}}
{%- for part in state -%}{{- '<image>' if part.type == 'image' else part.text -}}{%- endfor -%}
{{- '<|im_end|>\n<|im_start|>assistant\n' -}}
"""


def decision(job: Job, model: Any, processor: Any) -> Peer:
    """transformers' decision pipeline: the next-token logits of the labels' codes after one forward pass.

    Two things differ from the question: each line of the class list begins with the label's code ("A. coat" for
    "coat"), because options must be single tokens; and the answer is that code, without an end token.
    """
    coded = [f"{code}. {label}" for code, label in zip(job["codes"], job["labels"], strict=True)]
    text = job["text"].replace("\n".join(job["labels"]), "\n".join(coded))
    if text == job["text"]:
        raise SystemExit("decision: the text has no class list, one label a line.")
    config = DecisionConfig(labels={"choice": job["codes"]}, chat_template=DECISION_TEMPLATE)
    decide = pipeline(
        "decision", model=model, tokenizer=processor.tokenizer, processor=processor, decision_config=config, device=-1
    )
    question = {"type": "choice", "instructions": job["system"], "criteria": dict.fromkeys(job["labels"])}

    def request(path: str) -> dict[str, Any]:
        return {"state": text + "<photo-1>", "questions": {"label": question}, "assets": {"<photo-1>": read(path)}}

    def run(path: str) -> tuple[str, list[float]]:
        answer = decide(request(path))["label"]
        return answer["choice"], [answer["probabilities"][label] for label in job["labels"]]

    inputs, _ = config.prepare_inputs(request(job["images"][0]), processor)[0]
    check({**job, "text": text}, processor, inputs, "decision")
    return run


PEERS: dict[str, Callable[[Job, Any, Any], Peer]] = {
    "outlines": constrained,
    "per_label": per_label,
    "per_label_batch": lambda job, model, processor: per_label(job, model, processor, job.get("rows", 8)),
    "decision": decision,
}


def main() -> None:
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    with open(sys.argv[1], encoding="utf-8") as file:
        job: Job = json.load(file)
    torch.set_num_threads(job["threads"])
    model = AutoModelForImageTextToText.from_pretrained(job["model"], dtype=job["dtype"], local_files_only=True).eval()

    def processor() -> Any:  # one for each peer, because some peers modify theirs
        return AutoProcessor.from_pretrained(job["model"], local_files_only=True)

    names = job.get("peers") or [name for name in PEERS if name != "decision" or job.get("codes")]
    peers = {name: PEERS[name](job, model, processor()) for name in names}
    plain = processor()
    text = plain.tokenizer.apply_chat_template(messages(job), tokenize=False, add_generation_prompt=True)
    ids = plain(text=text, images=[read(job["images"][0])])["input_ids"][0]
    packages = ("torch", "torchvision", "transformers", "outlines", "outlines_core", "pillow")
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"ready": True, "versions": versions, "prompt": ids}), file=lines)
    for line in sys.stdin:
        turn = json.loads(line)
        paths, run = [job["images"][i] for i in turn["images"]], peers[turn["peer"]]
        start = time.perf_counter()
        found = [run(path) for path in paths]
        seconds = time.perf_counter() - start
        scores = [scores for _, scores in found] if found and found[0][1] else None
        reply = {"seconds": seconds, "answers": [answer for answer, _ in found], "scores": scores}
        print(json.dumps(reply), file=lines)


if __name__ == "__main__":
    main()
