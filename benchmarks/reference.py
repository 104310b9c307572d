"""What Lensmith is compared with on a GPU: training by the reference recipe, and the usual ways to score one image.

The recipe is the public post's: full sequences of question, image and answer, the loss on all tokens, micro-batches of
four images with four steps of gradient accumulation, gradient checkpointing, and LoRA r 16 on Llama's layer names (of
which LFM2 has q, k and v, in the vision tower too). It runs in TRL's SFTTrainer if that can be used, else as a plain
loop of the same computation. AdamW is torch's, where the post uses the 8-bit one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from true_size import synchronize

from lensmith.config import ModelOptions, QuestionOptions
from lensmith.engine.question import Prompt
from lensmith.models.base import Model
from lensmith.models.loading import Checkpoint, image_settings

MICRO, GATHERED = 4, 4
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def load(folder: Path, device: torch.device) -> Model:
    """transformers' own model in bfloat16, with its own attention. Lensmith's class around it only prepares images and
    text."""
    from transformers import AutoTokenizer, Lfm2VlForConditionalGeneration

    from lensmith.models.families.lfm2_vl import Model as Lfm2Vl

    network: Any = Lfm2VlForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    checkpoint = Checkpoint(network.to(device).eval(), tokenizer, image_settings(folder), folder)
    return Lfm2Vl(checkpoint, ModelOptions(base=str(folder), dtype="bfloat16", device=str(device)))


def inputs(
    model: Model, prompt: Prompt, images: Sequence[Image.Image], answers: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """Inputs of transformers' forward pass: images of one size, each with an answer, padded on the right."""
    views = torch.stack([model.prepare(image)[0] for image in images])
    n, _, height, width = views.shape
    p, rows, columns = model.patch_side, height // model.patch_side, width // model.patch_side
    patches = (views.float() / 255 - 0.5) / 0.5
    patches = patches.view(n, 3, rows, p, columns, p).permute(0, 2, 4, 3, 5, 1).reshape(n, rows * columns, -1)
    count = model.tokens(((3, height, width),))
    before = [*prompt.before, *[model.network.config.image_token_id] * count, *prompt.after]
    longest = max(map(len, answers))
    ids = torch.tensor([[*before, *a, *[0] * (longest - len(a))] for a in answers])
    mask = torch.tensor([[1] * (len(before) + len(a)) + [0] * (longest - len(a)) for a in answers])
    found = {"input_ids": ids, "attention_mask": mask, "spatial_shapes": torch.tensor([[rows, columns]] * n)}
    found["pixel_values"] = patches.to(model.network.dtype)
    found["pixel_attention_mask"] = torch.ones(n, rows * columns, dtype=torch.long)
    return {key: value.to(model.device) for key, value in found.items()}


class Plain:
    """The recipe as a plain loop of PyTorch and PEFT, repeated on the same images."""

    name = "plain PyTorch and PEFT, as TRL could not be used"

    def __init__(self, folder: Path, device: torch.device, prompt: Prompt, images: Sequence[Image.Image]) -> None:
        from peft import LoraConfig, get_peft_model

        model = load(folder, device)
        self.device = device
        model.network.gradient_checkpointing_enable({"use_reentrant": False})
        model.network.enable_input_require_grads()
        config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LLAMA, task_type="CAUSAL_LM")
        said = [prompt.answers[i][0] for i in range(len(images))]
        parts = [slice(i, i + MICRO) for i in range(0, len(images), MICRO)]
        self.batches = [inputs(model, prompt, images[part], said[part]) for part in parts]
        self.network: Any = get_peft_model(model.network, config).train()
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(self.weights, 2e-4, weight_decay=0.01, fused=True)

    def step(self) -> float:
        """Take one step, and return its mean loss over tokens."""
        total = 0.0
        for batch in self.batches:
            learned = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.network(**batch, labels=learned, use_cache=False).loss / len(self.batches)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total


def messages(question: QuestionOptions, labels: Sequence[str], said: str | None, **image: Any) -> list[dict[str, Any]]:
    """The question as a chat, with the answer if there is one."""
    text = question.text.replace("{labels}", "\n".join(labels))
    content = [{"type": "text", "text": text}, {"type": "image", **image}]
    talk: list[dict[str, Any]] = [{"role": "system", "content": [{"type": "text", "text": question.system}]}]
    talk.append({"role": "user", "content": content})
    return talk + ([{"role": "assistant", "content": [{"type": "text", "text": said}]}] if said else [])


def by_trl(
    folder: Path,
    device: torch.device,
    question: QuestionOptions,
    labels: Sequence[str],
    images: Sequence[Image.Image],
    steps: int,
    warm: int,
) -> tuple[list[float], int]:
    """Seconds of `steps` steps of the recipe in SFTTrainer, and the tokens of a sequence. Raises ImportError, and
    whatever TRL or transformers' image processor raise if they can't be used."""
    from datasets import Dataset, List
    from datasets import Image as Pictures
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[import-not-found]

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize(device)
            marks.append(time.perf_counter())

        on_train_end = on_step_begin

    rows: dict[str, list[Any]] = {"images": [[image] for image in images]}
    rows["messages"] = [messages(question, labels, labels[i]) for i in range(len(images))]
    trainer = SFTTrainer(
        model=AutoModelForImageTextToText.from_pretrained(folder, dtype="bfloat16", local_files_only=True),
        args=SFTConfig(
            output_dir=str(folder / "trl"), max_steps=warm + steps, per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=len(images) // MICRO, learning_rate=2e-4, weight_decay=0.01,
            optim="adamw_torch", gradient_checkpointing=True, bf16=True, max_length=None, logging_steps=1000,
            use_cpu=device.type == "cpu", save_strategy="no", report_to="none", disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict(rows).cast_column("images", List(Pictures(mode="RGB"))),
        processing_class=AutoProcessor.from_pretrained(folder, local_files_only=True),
        peft_config=LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=LLAMA, task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )  # fmt: skip
    tokens = int(next(iter(trainer.get_train_dataloader()))["input_ids"].shape[1])
    trainer.train()
    return [b - a for a, b in pairwise(marks)][warm:], tokens


def one_by_one(model: Model, prompt: Prompt) -> Callable[[Image.Image], int]:
    """The best label by one full forward pass for each label: brute force."""
    answers = [forms[0] for forms in prompt.answers]

    @torch.inference_mode()
    def run(image: Image.Image) -> int:
        scores = []
        for answer in answers:
            given = inputs(model, prompt, [image], [answer])
            given.pop("attention_mask")  # nothing is padded, so a mask would only cost time
            logits = model.network(**given, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1]
            said = torch.tensor(answer, device=model.device)[:, None]
            scores.append(logits.float().log_softmax(-1).gather(1, said).sum())
        return int(torch.stack(scores).argmax())

    return run


def by_outlines(
    folder: Path, model: Model, question: QuestionOptions, labels: Sequence[str]
) -> Callable[[Image.Image], int]:
    """A label by Outlines' constrained generation. Raises ImportError, and whatever Outlines or transformers' image
    processor raise if they can't be used."""
    import outlines  # type: ignore[import-not-found]
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    generate = outlines.Generator(outlines.from_transformers(model.network, processor), Literal[tuple(labels)])
    longest = max(len(ids) for ids in processor.tokenizer(list(labels), add_special_tokens=False)["input_ids"])

    def run(image: Image.Image) -> int:
        image.format = image.format or "PNG"  # Outlines requires one
        chat = outlines.inputs.Chat(messages(question, labels, None, image=outlines.inputs.Image(image)))
        answer = generate(chat, max_new_tokens=2 * longest + 1, do_sample=False)
        return list(labels).index(answer) if answer in labels else -1

    return run
