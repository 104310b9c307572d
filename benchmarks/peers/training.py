"""The reference recipe of fine-tuning a vision-language model on labels, in TRL's SFTTrainer, to compare with Lensmith.

As in the public post's script: the loss covers the full prompt; the bare label is the answer; LoRA is on modules whose
names end in Llama's layer names (q, k and v here, in decoder and vision tower; LFM2's other layers have other names);
gradient checkpointing; micro-batches of 4 with 4 steps of gradient accumulation. It runs in a separate environment (see
README.md):

    benchmarks/peers/.venv/bin/python benchmarks/peers/training.py JOB.json

JOB.json: {"model": folder, "labels": [...], "system": text or null, "text": user text with the labels filled in,
           "train": [[PNG path, label], ...], "epochs": n, "max_steps": n or null, "seed": n, "threads": n,
           "dtype": "float32" or "bfloat16" (autocast; weights are float32 either way), "out": folder for the adapter,
           "tensors": true to measure the memory of tensors too, which is slow,
           "answer_only": true for a loss over the answer alone, unlike the recipe}
stdout:   {"versions": {...}, "trainable": n, "tokens": of the question with the image, "rss_before": bytes}
          {"step": n, "seconds": since training started, "loss": mean over tokens}, after each optimizer step
          {"done": true, "seconds": s, "samples": seen, "rss_peak": bytes, "tensor_peak": bytes or null, "out": folder}

Seconds include reading the images, and exclude loading the model. The script refuses to start if a batch has other
tokens than the chat template's with the image written out, or if the loss covers other tokens than it should.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import resource
import sys
import time
from typing import Any

import psutil
import torch
from common import Job, expanded, messages
from tensors import tensor_peak

# isort: split
from datasets import Dataset, Image, List
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from trl import SFTConfig, SFTTrainer

BATCH = 16
"""Samples per optimizer step: micro-batches of 4, accumulated over 4. An epoch's last step has the remainder."""
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class Lines(TrainerCallback):
    """One line of JSON for each optimizer step."""

    def __init__(self, out: Any) -> None:
        self.out, self.start = out, 0.0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:  # the last log is of the whole training, and has none
            line = {"step": state.global_step, "seconds": time.perf_counter() - self.start, "loss": logs["loss"]}
            print(json.dumps(line), file=self.out)


def options(job: Job) -> SFTConfig:
    return SFTConfig(
        output_dir=job["out"],
        num_train_epochs=job["epochs"],
        max_steps=job["max_steps"] or -1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=BATCH // 4,
        learning_rate=2e-4,
        warmup_steps=0.1,  # a fraction; the schedule is the default, linear to zero
        weight_decay=0.01,
        optim="adamw_torch",  # the post's adamw_8bit needs CUDA
        gradient_checkpointing=True,
        bf16=job["dtype"] == "bfloat16",
        max_length=None,  # otherwise questions of more than 1,024 tokens are truncated
        use_cpu=True,
        seed=job["seed"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def examples(job: Job) -> Dataset:
    """Messages, and images that are read when a batch is built."""
    rows: dict[str, list[Any]] = {"images": [[path] for path, _ in job["train"]]}
    if job["answer_only"]:
        rows["prompt"] = [messages(job) for _ in job["train"]]
        rows["completion"] = [messages(job, label)[-1:] for _, label in job["train"]]
    else:
        rows["messages"] = [messages(job, label) for _, label in job["train"]]
    return Dataset.from_dict(rows).cast_column("images", List(Image(mode="RGB")))


def check(job: Job, processor: Any, batch: Any) -> None:
    """Check the first batch: it has the chat template's tokens, and the loss covers those it should."""
    expected = [expanded(job, processor, batch, label) for label in job["labels"]]
    for ids, mask, targets in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        if ids[mask == 1].tolist() not in expected:
            raise SystemExit("TRL would feed other tokens than the question's and the answer's.")
        learned, whole = targets != -100, mask == 1
        if job["answer_only"]:
            whole = whole & (torch.arange(len(ids)) >= len(ids[mask == 1]) - learned.sum())
        if not learned.any() or not torch.equal(targets, ids.where(whole, -100)):
            raise SystemExit("TRL would leave out of the loss what belongs there, or the other way round.")


def main() -> None:
    lines = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print goes to stderr
    with open(sys.argv[1], encoding="utf-8") as file:
        job: Job = json.load(file)
    torch.set_num_threads(job["threads"])
    processor = AutoProcessor.from_pretrained(job["model"], local_files_only=True)
    writer = Lines(lines)
    trainer = SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(job["model"], dtype="float32", local_files_only=True),
        args=options(job),
        train_dataset=examples(job),
        processing_class=processor,
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LLAMA, task_type="CAUSAL_LM"),
        callbacks=[writer],
    )
    batch = next(iter(trainer.get_train_dataloader()))
    check(job, processor, batch)
    packages = ("torch", "torchvision", "transformers", "trl", "peft", "accelerate", "datasets")
    first = {
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "trainable": sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad),
        "tokens": len(expanded(job, processor, batch)),
        "rss_before": psutil.Process().memory_info().rss,
    }
    print(json.dumps(first), file=lines)
    writer.start = time.perf_counter()
    tensors = tensor_peak(trainer.train) if job["tensors"] else trainer.train() and None
    seconds = time.perf_counter() - writer.start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    trainer.save_model(job["out"])
    epochs, steps = divmod(trainer.state.global_step, math.ceil(len(job["train"]) / BATCH))
    samples = epochs * len(job["train"]) + steps * BATCH
    last = {"done": True, "seconds": seconds, "samples": samples, "rss_peak": peak, "out": job["out"]}
    last["tensor_peak"] = tensors
    print(json.dumps(last), file=lines)


if __name__ == "__main__":
    main()
