"""The untrained base: architecture, tokenizer and chat template of `nano`, written as a Hugging Face model folder.

It is LFM2-VL as transformers builds it, small: a SigLIP2 NaFlex tower (patch 16, no head), pixel unshuffle, projector,
and a hybrid conv/attention LFM2 decoder. At most 5 M parameters, so that bfloat16 weights stay below 10 MB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Lfm2Config, Lfm2VlConfig, PreTrainedTokenizerFast, Siglip2VisionConfig

VOCABULARY = 2048
SPECIAL = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
IMAGE = ["<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>"]

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<image>' -}}{%- elif part['type'] == 'text' -%}{{- part['text'] -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def make_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of VOCABULARY tokens: any text can be written, frequent names take one or two tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIAL + IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens={
            "image_token": "<image>",
            "image_start_token": "<|image_start|>",
            "image_end_token": "<|image_end|>",
            "image_thumbnail": "<|img_thumbnail|>",
        },
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def make_config(tokenizer: PreTrainedTokenizerFast) -> Lfm2VlConfig:
    ids = tokenizer.get_vocab()
    text = Lfm2Config(
        vocab_size=len(ids),
        hidden_size=192,
        intermediate_size=384,
        block_auto_adjust_ff_dim=False,
        num_hidden_layers=4,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=ids["<|pad|>"],
        bos_token_id=ids["<|startoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        architectures=["Lfm2ForCausalLM"],  # llama.cpp's converter asks for it
    )
    vision = Siglip2VisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=5,
        num_attention_heads=6,
        patch_size=16,
        num_patches=16,
        vision_use_head=False,
    )
    return Lfm2VlConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<image>"],
        projector_hidden_size=384,
        downsample_factor=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )


# Read by `Lfm2VlImageProcessor` and by Lensmith's own image preparation: 64-pixel images, no tiling.
PREPROCESSOR = {
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "processor_class": "Lfm2VlProcessor",
    "do_image_splitting": False,
    "do_normalize": True,
    "do_pad": True,
    "do_rescale": True,
    "do_resize": True,
    "downsample_factor": 2,
    "encoder_patch_size": 16,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "max_image_tokens": 8,
    "max_num_patches": 32,
    "max_pixels_tolerance": 2.0,
    "max_tiles": 10,
    "min_image_tokens": 4,
    "min_tiles": 2,
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
    "return_row_col_info": True,
    "tile_size": 64,
    "use_thumbnail": False,
}


def save_processor(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Tokenizer, chat template and image settings beside the weights."""
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Lfm2VlProcessor"}, indent=2) + "\n")
