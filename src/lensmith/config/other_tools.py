"""Words that other training tools use for what Lensmith calls by another name, to answer them in a message."""

from __future__ import annotations

from collections.abc import Iterable

OURS = {
    "data.uri": "data data_dir data_path dataset dataset_dir dataset_name dataset_path images input source "
    "train_data train_data_dir train_dir",
    "data.class_names": "class_names classes names labels label_names",
    "data.validation": "val_split val_size validation_split validation_size",
    "data.test": "test_split test_size",
    "data.train_limit": "max_train_samples limit_train_samples",
    "data.test_limit": "max_eval_samples max_test_samples",
    "data.image_column": "image_key image_column_name",
    "data.label_column": "label_key label_column_name target_column",
    "question.text": "prompt question user_prompt",
    "question.system": "system_prompt",
    "model.base": "arch base base_model base_model_name_or_path model model_id model_name model_name_or_path weights",
    "model.device": "device gpu gpus devices",
    "model.dtype": "bf16 fp16 torch_dtype precision mixed_precision",
    "model.quantize": "load_in_4bit quantization qlora",
    "model.image_tokens": "image_size imgsz img_size max_image_tokens resolution",
    "tune.rank": "lora_r lora_rank r",
    "tune.alpha": "lora_alpha",
    "tune.dropout": "lora_dropout",
    "tune.targets": "target_modules lora_target_modules",
    "train.epochs": "num_epochs num_train_epochs max_epochs n_epochs",
    "train.batch_size": "batch batch_size bs per_device_train_batch_size train_batch_size",
    "train.micro_batch": "gradient_accumulation_steps grad_accum micro_batch_size",
    "train.learning_rate": "lr lr0 learning_rate_multiplier",
    "train.warmup": "warmup_ratio warmup_steps warmup_epochs",
    "train.patience": "early_stopping_patience early_stopping",
    "train.tracker": "report_to logger log_with",
    "evaluate.batch_size": "per_device_eval_batch_size eval_batch_size",
    "seed": "random_seed random_state manual_seed",
    "--run": "output output_dir out outdir save_dir project run_name name",
    "lensmith resume RUN": "resume_from_checkpoint checkpoint",
}
"""Lensmith's word for each of them, and theirs."""
THEIRS = {theirs: ours for ours, words in OURS.items() for theirs in words.split()}


def ours(word: str, known: Iterable[str]) -> str | None:
    """Lensmith's word for an option of another tool, or for the last part of one of its own (`rank` for `tune.rank`).

    Args:
        word: as written, perhaps with hyphens.
        known: Lensmith's options.
    """
    name = word.lstrip("-").replace("-", "_").lower()
    own = [key for key in known if name in (key, key.rpartition(".")[2])]
    return THEIRS.get(name) or (own[0] if len(own) == 1 else None)


def in_our_words(word: str, value: str, known: Iterable[str]) -> str:
    """A hint on how to write an option of another tool; empty if it isn't known."""
    name = ours(word, known)
    if name == "data.uri" and value:
        return f"Name the images without an option: lensmith VERB {value}"
    if name is None or " " in name:
        return f"Use: {name}." if name else ""
    if name.startswith("--"):
        return f"Write {name} {value}".rstrip() + "."
    return f"Write {name}={value or '...'}."
