"""The recipe: every option of Lensmith, declared once with its type, default and meaning.

A recipe is a YAML file with these sections. Options that it omits keep the defaults below. Options given on the command
line as `section.key=value` override the file. An unknown key or a wrong type is an error that names the key and
suggests the closest existing one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

from lensmith.config.api import ApiOptions
from lensmith.config.places import ModalOptions, RayOptions
from lensmith.config.section import Fraction, Options, Positive

SplitName = Literal["train", "validation", "test"]


@dataclass
class DataOptions(Options):
    """The images, and how they are split into training, validation and test."""

    uri: str = "demo:fashion"
    """Where the images are: a folder, a table, a file of annotations or an archive; or SCHEME:ADDRESS with scheme
    folder, table, annotations, archive, idx, cifar, hub or demo."""
    image_column: str | None = None
    """Table column with the image's path or bytes. If not given, a column with a common name is used."""
    label_column: str | None = None
    """Table column with the label. If not given, a column with a common name is used."""
    split_column: str | None = None
    """Table column with the image's split. If not given, a column that looks like one is used; empty for none."""
    splits: dict[SplitName, list[str] | str] | None = None
    """What the source calls each split, as in {train: seg_train, test: [seg_test, extra]}: folders, cells of the split
    column, or splits of a hub dataset. If not given, their names decide. With {}, all folders are classes."""
    images: str | None = None
    """The folder of the images that a table or a file of annotations names. If not given, the folder that it is in."""
    several: Literal["stop", "skip"] = "stop"
    """What to do with images that have several labels: `stop` ends with an error; `skip` leaves them out."""
    class_names: list[str] | None = None
    """Names of integer labels, in the order of the integers."""
    validation: Fraction = 0.1
    """Fraction of the training images held out for validation, if the source has no validation split."""
    group: str | None = None
    """Which images aren't independent, such as those of one house or patient: the name of a column, or a pattern of
    paths with parentheses around what names the group, as in (house[0-9]+)_. Images of a group stay in one split, and
    intervals are wider by what they have in common."""
    test: Fraction = 0.2
    """Fraction of all images held out for the final test, if the source has no test split."""
    train_limit: Annotated[float, Gt(0)] | None = None
    """Use only this number of training images, or this fraction if below 1. Smaller subsets are contained in larger
    ones."""
    test_limit: Annotated[float, Gt(0)] | None = None
    """Score only this number of test images, or this fraction if below 1."""
    corrections: list[str] | str | None = None
    """Tables of labels: as written by `lensmith suspects` and `lensmith check`, kept by `lensmith serve`, or written by
    `lensmith next`. Of the former two, a changed value in the column `label` replaces the image's label; an empty value
    excludes the image. Images of the latter two are added to the training images."""
    more: list[str] | str | None = None
    """Files of labels that a model gave, as `lensmith label` writes them. Their images are added to the training
    images; validation and test stay those of `uri`."""
    unlabelled: list[str] | str | None = None
    """Folders of images that nobody has labelled. A blend learns from them if cross-validation can tell that they
    help."""
    unreadable: Literal["skip", "stop"] = "skip"
    """What to do with an unreadable image: `skip` lists it, excludes it from training and counts it as wrong; `stop`
    ends with an error."""
    max_pixels: Positive = 100_000_000
    """Images with more pixels are rejected without being decoded, as a guard against decompression bombs."""


@dataclass
class QuestionOptions(Options):
    """What the model is asked. The wording is the same for the baseline, in training and for the tuned model."""

    text: str = "What is in this picture? Answer with one of these:\n{labels}"
    """The question. {labels} is replaced by the class names, one per line."""
    system: str | None = None
    """A system message that precedes the question."""
    answers: Literal["names", "codes"] = "names"
    """How the model answers: with the name of the class, or with its one-token code from the class list (A, B, C,
    ...)."""
    underscores: bool = True
    """Show underscores in class names as spaces."""
    names: dict[str, list[str] | str] = field(default_factory=dict)
    """Names of classes that differ from their labels: {n01443537: [goldfish, carp]}. The first name is used in the
    question and in training; the others are accepted as synonyms."""


@dataclass
class ModelOptions(Options):
    """The base model, and how it is loaded."""

    base: str = "nano"
    """`nano` (shipped with Lensmith), a folder with a model, or the name of a model on the Hugging Face hub.
    `evaluate` and `label` also ask outside models: openai:NAME, openai-decisions:NAME, anthropic:NAME, gemini:NAME,
    systemone:NAME, each with @URL for another server that speaks the same."""
    adapter: str | None = None
    """A run folder or PEFT adapter folder to load on top of the base model."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps`, or `auto`, which uses a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of matrix products. `auto` is bfloat16 where the processor supports it."""
    image_tokens: Positive | None = None
    """Maximum number of embeddings per image. The image is then scaled down instead of being cut into tiles: fewer
    embeddings are faster but lose detail. If not given, images are prepared as the model was trained."""
    quantize: Literal["none", "int8", "4bit"] = "none"
    """`int8` multiplies in eight bits in a frozen vision tower, on a CPU: faster where the processor has no bfloat16,
    with answers that differ a little. `4bit` stores the decoder's weights in four bits, in a third of the memory
    (bitsandbytes; needs a CUDA GPU)."""


@dataclass
class TuneOptions(Options):
    """Which weights are trained."""

    method: Literal["lora", "full", "projector", "head"] = "lora"
    """`lora` adds low-rank matrices to the linear layers of the components selected below. `full` trains all weights of
    these components. `projector` trains only the projector's weights and `head` only a class head, whatever is selected
    below."""
    head: bool = False
    """Classify with a class head on the last hidden state, trained with the other weights, instead of by the name of
    the class."""
    language_model: bool = True
    """Tune the decoder."""
    projector: bool = False
    """Tune the layers between vision tower and decoder."""
    vision_tower: bool = False
    """Tune the vision tower."""
    targets: Annotated[list[str], MinLen(1)] | None = None
    """Apply LoRA only to linear layers whose names end in one of these patterns, where `*` matches anything: [q_proj,
    language_model.*.w1]. If not given, to all linear layers of the selected components."""
    rates: dict[Literal["language_model", "projector", "vision_tower", "head"], Annotated[float, Gt(0)]] = field(
        default_factory=dict
    )
    """Learning rates of individual components that differ from train.learning_rate: {vision_tower: 1e-4}."""
    rank: Positive = 16
    """Rank of the LoRA matrices."""
    alpha: Annotated[float, Gt(0), Le(1_000_000)] = 32.0
    """Scale of the LoRA update, which is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Dropout probability on the inputs of LoRA layers in training."""
    rslora: bool = False
    """Multiply the update by alpha / sqrt(rank) instead (rsLoRA), so that a high rank does not weaken it."""
    dora: bool = False
    """Train the magnitude and direction of each layer's weights separately (DoRA). Slower."""
    lora_plus: Annotated[float, Ge(1)] = 1.0
    """Ratio of the learning rate of LoRA's second matrix (B) to that of the first (A), as in LoRA+."""


@dataclass
class TrainOptions(Options):
    """How the weights are trained."""

    epochs: Annotated[float, Gt(0), Le(100_000)] = 4.0
    """Number of passes over the training images."""
    least_steps: Positive | None = None
    """Least number of optimiser steps, however few the images are; with few images that takes more epochs."""
    batch_size: Positive = 32
    """Images per optimiser step, over all processes."""
    micro_batch: Positive | None = None
    """Images per forward and backward pass. If not given, the whole batch, halved whenever memory runs out. The size
    does not change the optimiser step, except through tune.dropout."""
    learning_rate: Annotated[float, Gt(0), Le(1000)] = 2e-4
    """Peak learning rate of AdamW."""
    warmup: Fraction = 0.05
    """Fraction of the steps in which the learning rate rises linearly; it then decays to zero along a cosine."""
    weight_decay: Annotated[float, Ge(0), Le(1000)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Gradients are clipped to this norm."""
    objective: Literal["tokens", "labels"] = "tokens"
    """The loss: `tokens` is cross-entropy over the vocabulary for the tokens of the answer; `labels` is cross-entropy
    over the labels, as they are scored. A class head is always trained with `labels`."""
    negatives: Positive | None = None
    """With `labels`: the number of wrong labels per image that enter the loss, sampled by the probability that the
    model gives to their beginnings. If not given, all do."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Fraction of the target that is spread uniformly over the labels (or the vocabulary, with `tokens`)."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` gives each class the same total weight, regardless of its number of images."""
    validate_every: Annotated[float, Ge(0.001), Le(100_000)] = 1.0
    """Epochs between validations. The weights with the best validation result are kept."""
    patience: Positive | None = None
    """Stop early after this number of validations without an improvement."""
    checkpoint_minutes: Annotated[float, Ge(0)] = 5.0
    """Minutes between checkpoints, from which a stopped training resumes. 0 writes one after every step."""
    cache_features: bool = True
    """Cache the vision tower's output on disk where it is the same in every epoch: when the tower is not tuned and
    images are not augmented."""
    tracker: Literal["local", "tensorboard", "wandb"] = "local"
    """Where to log training curves, in addition to metrics.jsonl and the report."""

    def passes(self, images: int) -> float:
        """Number of passes over n training images: `epochs`, or as many as `least_steps` takes."""
        return max(self.epochs, (self.least_steps or 1) * min(self.batch_size, images) / max(1, images))


@dataclass
class AugmentOptions(Options):
    """Random augmentation of training images, drawn anew each time an image is used."""

    shift: Fraction = 0.0
    """Shift by up to this fraction of the image size."""
    zoom: Fraction = 0.0
    """Scale up or down by up to this fraction."""
    rotate: Annotated[float, Ge(0), Le(180)] = 0.0
    """Rotate by up to this many degrees in either direction."""
    flip: bool = False
    """Mirror left to right with probability 1/2."""
    crop: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Crop away up to this fraction of the area, at a random position and aspect ratio, and scale back up."""
    colour: Fraction = 0.0
    """Change brightness, contrast and saturation by up to this fraction."""
    randaugment: Annotated[int, Ge(0), Le(10)] = 0
    """Number of RandAugment operations, drawn for each image."""
    magnitude: Annotated[float, Ge(0), Le(10)] = 5.0
    """Magnitude of the RandAugment operations, from 0 to 10."""
    erase: Fraction = 0.0
    """Fraction of the images in which a random rectangle is replaced by noise."""
    mix: Literal["none", "mixup", "cutmix", "both"] = "none"
    """Combine pairs of images and their targets: blend the two (MixUp), or paste a rectangle of one into the other
    (CutMix)."""
    mix_alpha: Annotated[float, Gt(0)] = 1.0
    """Mixing proportions are drawn from Beta(alpha, alpha): with small values, one of the two images dominates."""
    mix_share: Fraction = 1.0
    """Fraction of the images that are mixed."""


@dataclass
class EvaluateOptions(Options):
    """How images are scored."""

    batch_size: Positive | None = None
    """Images scored at once. If not given, chosen by the available memory."""
    top: Positive | None = None
    """Score only the top k labels exactly. Much faster with large label sets, but without calibration. If not given,
    all labels are scored."""
    labels: Literal["taught", "data"] = "taught"
    """The answers that a taught model chooses from: all classes that it was `taught`, as in `lensmith predict`, or only
    those of the `data`, which is easier where the images lack a class."""
    calibration: Literal["none", "temperature", "empty", "noise", "batch", "auto"] = "temperature"
    """How probabilities are calibrated on the validation images. `temperature` fits a temperature. `empty`, `noise` and
    `batch` first subtract a prior: the model's answer to an empty image, to noise, or to the average image. `auto` uses
    the best of all. Only a prior can change which label is predicted."""


@dataclass
class ProbeOptions(Options):
    """The frozen features that `lensmith probe` fits a simple classifier on."""

    features: Annotated[list[str], MinLen(1)] | None = None
    """Candidate features: [tower mean, tower grid]. If not given, all that the model has. The first is used, unless
    another is better on the validation images by a standard error."""


@dataclass
class BlendOptions(Options):
    """What a blend is made of."""

    methods: list[Literal["lora", "lora+head"]] | None = None
    """Methods whose trained models are blended with probes and neighbours: [lora]; [] for none. If not given, those
    that the ladder makes as well."""
    of: list[str] | None = None
    """The finished runs that `lensmith blend` was given."""


@dataclass
class LadderOptions(Options):
    """What `lensmith ladder` compares, and what it costs."""

    methods: Annotated[list[str], MinLen(1)] | None = None
    """Methods to compare: [zero-shot, calibrated, neighbours, probe, lora, lora+head, blend]. If not given, all of
    these."""
    hourly_cost: Annotated[float, Ge(0)] = 0.0
    """Cost of one hour on this machine, in US dollars; 0 if it is your own."""
    label_cost: Annotated[float, Ge(0)] = 0.0
    """Cost of labelling one image, in US dollars."""


@dataclass
class CurveOptions(Options):
    """The learning curve of `lensmith curve`: accuracy against the number of labels."""

    methods: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["probe"])
    """Methods to measure: neighbours, probe, lora, lora+head, blend."""
    sizes: Annotated[list[Positive], MinLen(4)] | None = None
    """Four or more numbers of training images. If not given, six in geometric progression, up to all images."""
    seeds: Annotated[int, Gt(0), Le(1000)] = 3
    """Number of random subsets of each size. With the same seed, smaller subsets are contained in larger ones."""
    ahead: Annotated[float, Gt(1), Le(1000)] = 2.0
    """The forecast is for this multiple of the largest size."""


@dataclass
class Range(Options):
    """A range of numbers to search: `{low: 1e-4, high: 1e-2, log: true}`."""

    low: float
    high: float
    log: bool = False
    """Search on a logarithmic scale, which suits learning rates."""


@dataclass
class SweepOptions(Options):
    """What `lensmith sweep` searches, and how."""

    over: Annotated[dict[str, list[Any] | Range], MinLen(1)] = field(
        default_factory=lambda: {
            "train.learning_rate": Range(2e-4, 5e-3, log=True),
            "tune.rank": [8, 16, 32, 64],
        }
    )
    """The options to search, each with a list of values or a range {low, high, log}. They must be options that change
    what is learned."""
    trials: Positive = 20
    """Number of settings to try, over all workers."""
    prune: bool = True
    """Stop a trial after a ninth and after a third of its training if it is not in the best third of the trials that
    got there, or if the trials together would cost more than two fifths of training all of them in full (but at least
    two full trainings)."""
    finalists: Positive = 3
    """Number of best trials that are trained again with other seeds, so that the winner does not win by luck."""
    repeats: Positive = 3
    """Number of trainings of each finalist, including the first."""
    storage: str | None = None
    """URL of a database that several workers share, as in Optuna: postgresql://user@host/name. If not given, an SQLite
    file in the run folder. Put a password in the environment (PGPASSWORD), not here."""
    wait: Annotated[float, Ge(0)] = 300.0
    """Seconds to wait for a database that doesn't respond."""


@dataclass
class SuspectsOptions(Options):
    """How `lensmith suspects` looks for wrong labels."""

    folds: Annotated[int, Ge(2), Le(100)] = 5
    """Number of cross-validation folds: a probe fitted on the other folds predicts each image. A class needs at least
    this number of images."""
    most: Positive = 200
    """Maximum number of pictures on the page. The table lists all suspects."""


@dataclass
class CheckOptions(Options):
    """How `lensmith check` looks at the images."""

    features: bool = True
    """Whether to look through the model's eyes too: for further copies, for images far from all others, and for wrong
    labels. Without, only files and pixels are looked at, which is quicker."""
    most: Positive = 24
    """Maximum number of pictures or pairs on the page for each finding. The table lists all."""
    known: str | None = None
    """A published list of copies to compare with: a table with the columns TestID and TrainID, which count the test and
    the training images of the source from 0, as for CIFAR."""


@dataclass
class StressOptions(Options):
    """How `lensmith stress` changes the images."""

    images: Positive = 500
    """Number of test images, each scored under all changes."""


@dataclass
class Recipe(Options):
    """One experiment."""

    name: str = "run"
    """Name of the experiment, used for the run folder (runs/NAME-VERB-TIME) if no folder is given."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of all randomness."""
    data: DataOptions = field(default_factory=DataOptions)
    question: QuestionOptions = field(default_factory=QuestionOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    tune: TuneOptions = field(default_factory=TuneOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    api: ApiOptions = field(default_factory=ApiOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    blend: BlendOptions = field(default_factory=BlendOptions)
    ladder: LadderOptions = field(default_factory=LadderOptions)
    curve: CurveOptions = field(default_factory=CurveOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)
    suspects: SuspectsOptions = field(default_factory=SuspectsOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    stress: StressOptions = field(default_factory=StressOptions)
    modal: ModalOptions = field(default_factory=ModalOptions)
    ray: RayOptions = field(default_factory=RayOptions)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values, with every option present."""
        return dataclasses.asdict(self)


RENAMED = {
    "question.spoken": "question.names",
    "ladder.rungs": "ladder.methods",
    "ladder.hour": "ladder.hourly_cost",
    "ladder.label": "ladder.label_cost",
    "curve.rungs": "curve.methods",
    "place.gpu": "modal.gpu",
    "place.hours": "modal.hours",
    "place.retries": "modal.retries",
    "place.secrets": "modal.secrets",
}
"""Former names of options, and their present names. The former names are still accepted."""
