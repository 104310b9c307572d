"""The recipe: every option of Lensmith declared once, typed, with its meaning beneath it.

A recipe is a YAML file of these sections; whatever it leaves out keeps the default below. Single options are set on
the command line as `section.key=value` and win over the file. Unknown keys and wrong types are refused by name, with
the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen

Fraction = Annotated[float, Ge(0.0), Le(1.0)]
Positive = Annotated[int, Gt(0)]


class Options:
    """What all sections have in common: how pydantic reads them."""

    # Not annotated, so that it is no field.
    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False, "use_attribute_docstrings": True}  # noqa: RUF012


@dataclass
class DataOptions(Options):
    """Which images, and how they are divided."""

    uri: str = "demo:fashion"
    """Where the images are: a folder, a table, or scheme:address (folder, table, idx, cifar, hub, demo)."""
    image_column: str | None = None
    """Table column that holds the image's path or bytes; guessed from usual names if not given."""
    label_column: str | None = None
    """Table column that holds the label; guessed from usual names if not given."""
    class_names: list[str] | None = None
    """Names for integer labels, in their order."""
    validation: Fraction = 0.1
    """Share of the training images kept for choosing settings, where the source has no validation part."""
    test: Fraction = 0.2
    """Share of all images kept for the final test, where the source has no test part."""
    train_limit: Annotated[float, Gt(0)] | None = None
    """Use only this many training images (or this share, if below 1); smaller sets lie inside larger ones."""
    test_limit: Annotated[float, Gt(0)] | None = None
    """Score only this many test images (or this share, if below 1)."""
    corrections: str | None = None
    """A table of labels to put right, as `lensmith suspects` makes it: where its column `label` was changed, that is
    the image's label; where it was emptied, the image is left out."""
    unreadable: Literal["skip", "stop"] = "skip"
    """An image that can't be read: list it, leave it out of training and count it as wrong, or stop."""
    max_pixels: Positive = 100_000_000
    """Images of more pixels are refused unread (decompression bombs)."""


@dataclass
class QuestionOptions(Options):
    """What the model is asked; one wording for baseline, training and tuned model."""

    text: str = "What is in this picture? Answer with one of these:\n{labels}"
    """The question; {labels} is replaced by the class names, one a line."""
    system: str | None = None
    """A system message before it."""
    answers: Literal["names", "codes"] = "names"
    """What the model says: the class's name, or a code of one token that the class list gives it (A, B, C, ...)."""
    underscores: bool = True
    """Underscores in class names are said as spaces."""
    names: dict[str, list[str] | str] = field(default_factory=dict)
    """What classes are called in question and answer, where not by their labels; of several names, the first is shown
    and taught, and the others count as synonyms."""


@dataclass
class ModelOptions(Options):
    """The base model and where it runs."""

    base: str = "nano"
    """`nano` (shipped with Lensmith), a folder with a model, or a model's name on the Hugging Face hub."""
    adapter: str | None = None
    """A run folder or PEFT adapter folder to put on the base."""
    device: str = "auto"
    """`auto` takes the GPU if there is one; else `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the matrix products; `auto` is bfloat16 where the processor has it."""
    image_tokens: Positive | None = None
    """At most so many embeddings an image, which is then shown as a whole and not in tiles: fewer are faster and see
    less. If not given, what the model was made for."""
    quantize: Literal["none", "4bit"] = "none"
    """`4bit` holds the decoder's weights in four bits (bitsandbytes, on a CUDA GPU): a third of the memory."""


@dataclass
class TuneOptions(Options):
    """Which weights learn."""

    method: Literal["lora", "full", "projector", "head"] = "lora"
    """`lora` adds small matrices to the linear layers of the components below; `full` trains these components' own
    weights; `projector` only the projector's own, `head` only a class head, whatever is said below."""
    head: bool = False
    """Answer by a class head on the last hidden state, trained with the rest, instead of by the class's name."""
    language_model: bool = True
    """The decoder."""
    projector: bool = False
    """The layers between vision tower and decoder."""
    vision_tower: bool = False
    """The vision tower."""
    targets: Annotated[list[str], MinLen(1)] | None = None
    """LoRA only on linear layers whose names end so, `*` standing for anything: [q_proj, language_model.*.w1]; if not
    given, on all of the components."""
    rates: dict[Literal["language_model", "projector", "vision_tower", "head"], Annotated[float, Gt(0)]] = field(
        default_factory=dict
    )
    """Learning rates of single components, where not train.learning_rate: {vision_tower: 1e-4}."""
    rank: Positive = 16
    """Rank of the two LoRA matrices."""
    alpha: Annotated[float, Gt(0)] = 32.0
    """Scale: the update is multiplied by alpha / rank."""
    dropout: Fraction = 0.0
    """Share of a LoRA layer's inputs dropped while training."""
    rslora: bool = False
    """Multiply the update by alpha / sqrt(rank) instead, so that a high rank does not weaken it."""
    dora: bool = False
    """Learn each layer's magnitudes apart from its directions (DoRA); slower."""
    lora_plus: Annotated[float, Ge(1)] = 1.0
    """Learning rate of LoRA's second matrix over that of the first (LoRA+)."""


@dataclass
class TrainOptions(Options):
    """How they learn."""

    epochs: Annotated[float, Gt(0)] = 4.0
    """Passes over the training images."""
    batch_size: Positive = 32
    """Images a step, over all processes."""
    micro_batch: Positive | None = None
    """Images that go through the model at once; if not given, the batch, halved whenever memory runs out. The step is
    the same, tune.dropout aside."""
    learning_rate: Annotated[float, Gt(0)] = 2e-4
    """Peak learning rate of AdamW."""
    warmup: Fraction = 0.05
    """Share of the steps in which the rate rises; afterwards it falls along a cosine to zero."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """Gradients are clipped to this norm."""
    objective: Literal["tokens", "labels"] = "tokens"
    """What is made likely: `tokens` the label's answer among all that the model could say; `labels` the label among the
    labels, as it is scored. A class head always learns by `labels`."""
    negatives: Positive | None = None
    """With `labels`: compare with only so many wrong labels of each image, drawn by how probable the model thinks them
    to begin; if not given, with all."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the target that is spread evenly, over the labels or over the vocabulary."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced`: each class counts the same, however many images it has."""
    validate_every: Annotated[float, Gt(0)] = 1.0
    """Epochs between two validations; the weights that did best there are kept."""
    patience: Positive | None = None
    """End early after so many validations without a better one."""
    checkpoint_minutes: Annotated[float, Ge(0)] = 5.0
    """Minutes between two checkpoints, from which a stopped training goes on; 0 writes one after every step."""
    cache_features: bool = True
    """Keep what the vision tower sees on disk, where it is the same in every epoch: tower not tuned, images not
    changed at random."""
    tracker: Literal["local", "tensorboard", "wandb"] = "local"
    """Where the curves are shown, besides metrics.jsonl and the report, which always have them."""


@dataclass
class AugmentOptions(Options):
    """How training images are changed at random, each time anew."""

    shift: Fraction = 0.0
    """Moved by up to this share of their size."""
    zoom: Fraction = 0.0
    """Scaled by up to this share."""
    rotate: Annotated[float, Ge(0), Le(180)] = 0.0
    """Turned by up to so many degrees."""
    flip: bool = False
    """Mirrored left to right, every other one."""
    crop: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Cropped by up to this share of their area, at a random place and aspect ratio, and scaled up again."""
    colour: Fraction = 0.0
    """Brightness, contrast and saturation changed by up to this share."""
    randaugment: Annotated[int, Ge(0), Le(10)] = 0
    """So many operations of RandAugment, drawn for each image."""
    magnitude: Annotated[float, Ge(0), Le(10)] = 5.0
    """How strong they are."""
    erase: Fraction = 0.0
    """Share of the images in which a random rectangle is covered with noise."""
    mix: Literal["none", "mixup", "cutmix", "both"] = "none"
    """Two images in one, each with its share of the target: laid over each other (MixUp), or one cut into the other
    (CutMix)."""
    mix_alpha: Annotated[float, Gt(0)] = 1.0
    """Shares are drawn from Beta(alpha, alpha): small values leave one of the two nearly alone."""
    mix_share: Fraction = 1.0
    """Share of the images that are mixed."""


@dataclass
class EvaluateOptions(Options):
    """How images are scored."""

    batch_size: Positive | None = None
    """Images scored at once; if not given, as many as suit the machine's memory."""
    top: Positive | None = None
    """Search only for so many best labels, for large label sets: much faster, no calibration. Else all are scored."""
    calibration: Literal["none", "temperature", "empty", "noise", "batch", "auto"] = "temperature"
    """What is fitted on validation images to make shares mean what they say: a temperature; before it, taking away
    what the model would answer to an empty image, to noise, or to the average image; `auto` tries all and takes the
    best. Only a prior changes answers."""


@dataclass
class ProbeOptions(Options):
    """Which frozen features `lensmith probe` fits a simple classifier on."""

    features: Annotated[list[str], MinLen(1)] | None = None
    """Of what the model makes of an image, only these: [tower mean, tower grid]; if not given, the best on validation
    of all that it has."""


@dataclass
class LadderOptions(Options):
    """What `lensmith ladder` compares, and what it costs."""

    methods: Annotated[list[str], MinLen(1)] | None = None
    """The methods: [zero-shot, calibrated, neighbours, probe, lora, lora+head]; if not given, all of these."""
    hourly_cost: Annotated[float, Ge(0)] = 0.0
    """What an hour of this machine costs, in US dollars; 0 for your own."""
    label_cost: Annotated[float, Ge(0)] = 0.0
    """What labelling an image costs, in US dollars."""


@dataclass
class CurveOptions(Options):
    """The learning curve of `lensmith curve`: accuracy against the number of labels."""

    methods: Annotated[list[str], MinLen(1)] = field(default_factory=lambda: ["probe"])
    """The methods it is drawn for: neighbours, probe, lora, lora+head."""
    sizes: Annotated[list[Positive], MinLen(4)] | None = None
    """Numbers of training images, four or more; if not given, six in equal ratios up to all there are."""
    seeds: Positive = 3
    """Subsets of each size; those of one seed lie within each other."""
    ahead: Annotated[float, Gt(1)] = 2.0
    """The forecast is for so many times the largest size."""


@dataclass
class Range(Options):
    """What a number is searched in: `{low: 1e-4, high: 1e-2, log: true}`."""

    low: float
    high: float
    log: bool = False
    """Search its logarithm: for what matters by its ratio, as a learning rate does."""


@dataclass
class SweepOptions(Options):
    """What `lensmith sweep` searches, and how."""

    over: Annotated[dict[str, list[Any] | Range], MinLen(1)] = field(
        default_factory=lambda: {
            "train.learning_rate": Range(2e-4, 5e-3, log=True),
            "tune.rank": [8, 16, 32, 64],
        }
    )
    """Options that change what is learned, each with what it is searched in: a list of values, or {low, high, log}."""
    trials: Positive = 20
    """Settings to try, over all workers."""
    prune: bool = True
    """Stop a trial at a ninth and at a third of its training if it is not in the best third of those that got there, or
    if all trials together would cost more than two fifths of training them to their ends (two trainings at least)."""
    finalists: Positive = 3
    """The best so many are trained again with other seeds, so that the winner isn't luck."""
    repeats: Positive = 3
    """Trainings of each finalist, the first included."""
    storage: str | None = None
    """A database that several workers share, as Optuna writes it: postgresql://user@host/name; if not given, an SQLite
    file in the run folder. A password belongs in the environment (PGPASSWORD), not here."""
    wait: Annotated[float, Ge(0)] = 300.0
    """Seconds that a database which doesn't answer is waited for."""


@dataclass
class SuspectsOptions(Options):
    """How `lensmith suspects` looks for wrong labels."""

    folds: Annotated[int, Ge(2)] = 5
    """Each image is judged by a probe that was fitted on the other parts of so many; a class needs as many images."""
    most: Positive = 200
    """Pictures on the page; the table has all suspects."""


@dataclass
class PlaceOptions(Options):
    """The rented machine, where a job runs on one (`--on modal`)."""

    gpu: str = "L40S"
    """Its GPU, by Modal's name."""
    hours: Annotated[float, Gt(0), Le(24)] = 4.0
    """Time limit of one attempt."""
    retries: Annotated[int, Ge(0), Le(10)] = 2
    """Attempts after one that failed or ran out of time; each goes on from the last checkpoint."""
    secrets: list[str] = field(default_factory=list)
    """Names of Modal secrets that the job gets as environment variables: a Hugging Face token, a W&B key."""


@dataclass
class Recipe(Options):
    """One experiment."""

    name: str = "run"
    """Names the run folder (runs/NAME) where no folder is given."""
    seed: Annotated[int, Ge(0), Lt(2**32)] = 0
    """Seed of everything random."""
    data: DataOptions = field(default_factory=DataOptions)
    question: QuestionOptions = field(default_factory=QuestionOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    tune: TuneOptions = field(default_factory=TuneOptions)
    train: TrainOptions = field(default_factory=TrainOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)
    probe: ProbeOptions = field(default_factory=ProbeOptions)
    ladder: LadderOptions = field(default_factory=LadderOptions)
    curve: CurveOptions = field(default_factory=CurveOptions)
    sweep: SweepOptions = field(default_factory=SweepOptions)
    suspects: SuspectsOptions = field(default_factory=SuspectsOptions)
    place: PlaceOptions = field(default_factory=PlaceOptions)

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain values, every option present."""
        return dataclasses.asdict(self)


RENAMED = {
    "question.spoken": "question.names",
    "ladder.rungs": "ladder.methods",
    "ladder.hour": "ladder.hourly_cost",
    "ladder.label": "ladder.label_cost",
    "curve.rungs": "curve.methods",
}
"""What options were called before, and are called now: the old names are still read."""
