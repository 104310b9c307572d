"""Pictures with names, openly licensed: drawings from icon sets and characters from fonts.

This is the only data the embedded base model `nano` ever sees. Icon sets come from the npm registry
(`npm pack @iconify-json/<set>`), fonts from Debian packages; see `README.md` beside this file for the commands and
the licences. Share-alike sets are left out on purpose, so that the weights carry attribution duties and nothing more.

Every picture becomes 5 channels of `SIZE` x `SIZE` bytes: red, green, blue, alpha, and `body`. The body is the drawing
with its holes filled: most icons are outlines, photographs are not, and `augment.py` fills the body with colour and
texture so that both kinds of seeing are learned.

Run: python pretrain/pictures.py ICONS_DIR WORK_DIR   (about a minute; writes WORK_DIR/pictures.npz)
"""

from __future__ import annotations

import argparse
import io
import json
import re
import string
import tarfile
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py  # type: ignore[import-not-found]
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_closing, binary_fill_holes  # type: ignore[import-untyped]

SIZE = 64
MIN_SETS = 3  # a name is kept if at least this many sets draw it ...
MIN_PICTURES = 4  # ... or this many pictures carry it, if it is in WANTED

SETS = [
    "noto",
    "noto-v1",
    "mdi",
    "icon-park",
    "icon-park-solid",
    "fluent-emoji",
    "fluent-emoji-flat",
    "fluent-emoji-high-contrast",
    "ph",
    "tabler",
    "hugeicons",
    "twemoji",
    "emojione",
    "emojione-monotone",
    "streamline-emojis",
    "game-icons",
    "mingcute",
    "iconoir",
    "solar",
    "lucide",
    "healthicons",
    "material-symbols",
    "carbon",
    "fa6-solid",
    "fa7-solid",
    "temaki",
    "maki",
    "streamline",
    "medical-icon",
]

# Style words at the end of an icon's name, not part of what it shows.
STYLE = re.compile(
    r"-(outline|outlined|filled|fill|bold|light|thin|duotone|solid|linear|line|broken|rounded|round|sharp|remix|"
    r"negative|24px|alt|alternate|simple|variant|one|two|three|11|15|0?\d)$"
)
# Styles left out: near-copies of another style of the same set.
SKIP = re.compile(r"skin-tone|-(thin|light|duotone|rounded|sharp|broken|remix|negative|11|15)$|facing-right|-off$")
# Names of signs and interface parts, which say nothing about how a thing looks or change when the picture is turned.
ABSTRACT = re.compile(
    r"\b(arrow|arrows|align|text|chevron|corner|left|right|up|down|top|bottom|brand|logo|badge|square|circle|add|remove|"
    r"plus|minus|check|edit|delete|search|setting|settings|cancel|sort|filter|border|format|layout|row|column|grid|"
    r"north|south|east|west|forward|backward|rotate|flip|flag|button|letter|number|keyboard|off|on|and|with|"
    r"increase|decrease|download|upload|share|link|unlink|file|folder|document|user|account|person|man|woman|male|"
    r"female|face|hours|oclock|thirty|sign|input|latin|squared|ideograph|medium|large|small|box)\b"
)

# One concept under several names: the thesaurus behind the icon sets' own names. The first is the name a picture is
# filed under; any of them may be asked for and answered.
SYNONYMS: dict[str, list[str]] = {
    "t-shirt": ["tshirt", "tshirt crew", "tshirt v", "t-shirt crew", "t-shirt v", "clothes short sleeve", "tee",
                "women t-shirt", "clothes crew neck", "running shirt", "shirt sport"],
    "trousers": ["trouser", "pants", "jeans", "clothes pants", "clothes pants sweat", "trousers bell bottoms",
                 "jogger pants", "pants pockets", "pant"],
    "pullover": ["sweater", "clothes sweater", "jumper", "jumpers", "hoodie", "clothes hoodie", "clothes turtleneck"],
    "dress": ["gown", "full dress longuette", "ample dress", "large dress", "travel dress"],
    "coat": ["lab coat", "women coat", "jacket", "men jacket", "clothes windbreaker", "pirate coat", "cardigan",
             "clothes cardigan", "moncler jacket", "sleeveless jacket"],
    "shirt": ["long sleeve shirt", "polo shirt", "womans clothes", "shirt folded", "blouse"],
    "sandal": ["sandals", "womans sandal", "thong sandal", "flip-flops", "flip flops", "slipper", "slippers",
               "high heeled shoe", "high heeled shoes", "high heel", "high heels", "shoe heel"],
    "sneaker": ["sneakers", "running shoe", "running shoes", "shoe running", "shoe sneaker", "sport shoe", "shoe",
                "shoes", "converse shoe", "athletic shoe", "spikedshoes", "sneaker move", "mans shoe", "shoe formal"],
    "ankle boot": ["boot", "boots", "hiking boot", "womans boot", "chelsea boot", "walking boot", "leather boot",
                   "cowboy boot", "rubber boot", "fur boot", "steeltoe boots", "metal boot", "armored boot"],
    "bag": ["handbag", "hand bag", "purse", "clutch bag", "shoulder bag", "the single shoulder bag", "shopping bag",
            "shopping bags", "handbag simple", "retro bag", "commuter bag", "beach bag", "bag simple", "travel bag",
            "mall bag", "gift bag", "shopping bag open", "shopping bag alt", "duffel bag", "gym bag", "paper bag",
            "beach bag big", "shiny purse", "suitcase", "briefcase"],
}  # fmt: skip
WANTED = set(SYNONYMS)
FILED_UNDER = {other: name for name, others in SYNONYMS.items() for other in others}

CHARACTERS = string.digits + string.ascii_lowercase


def plain_name(icon: str) -> str:
    """`"running-shoe-fill"` -> `"sneaker"`: style words off, synonyms to the name of their concept."""
    name = icon
    while (shorter := STYLE.sub("", name)) != name:
        name = shorter
    if name not in ("t-shirt", "x-ray", "yo-yo"):
        name = name.replace("-", " ")
    name = name.replace("t shirt", "t-shirt").replace("flip flops", "flip-flops")
    return FILED_UNDER.get(name, name)


def read_set(archive: Path) -> list[tuple[str, str]]:
    """(name, SVG text) for every picture of one icon set worth learning from."""
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None
        data: dict[str, Any] = json.load(member)
    found: dict[str, str] = {}
    out = []
    for icon, body in data["icons"].items():
        name = plain_name(icon)
        wide = body.get("width", data.get("width", 16))
        high = body.get("height", data.get("height", 16))
        if SKIP.search(icon) or len(name) < 3 or len(name.split()) > 3:
            continue
        if name not in WANTED and (ABSTRACT.search(name) or re.search(r"\d", name)):
            continue
        if found.get(body["body"]) == name:
            continue
        found[body["body"]] = name
        left, top = body.get("left", data.get("left", 0)), body.get("top", data.get("top", 0))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {wide} {high}" width="{SIZE}" height="{SIZE}" color="#000">{body["body"]}</svg>'
        )
        out.append((name, svg))
    return out


def with_body(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) bytes -> (5, H, W) bytes: the body is the drawing with small gaps closed and holes filled."""
    solid = binary_closing(np.pad(rgba[..., 3] > 96, 2), iterations=2)
    body = binary_fill_holes(solid)[2:-2, 2:-2]
    planes = np.concatenate([rgba, (np.maximum(body * np.uint8(255), rgba[..., 3]))[..., None]], axis=-1)
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def render_icon(svg: str) -> np.ndarray | None:
    """One SVG as (5, SIZE, SIZE) bytes; None if it can't be drawn or is all but empty."""
    try:
        png = resvg_py.svg_to_bytes(svg_string=svg)
        image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    except Exception:  # the renderer's own errors have no common type; a lost icon is counted below
        return None
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    rgba = np.array(image)
    return with_body(rgba) if (rgba[..., 3] > 128).mean() > 0.02 else None


def render_font(path: Path) -> list[tuple[str, np.ndarray]]:
    """Digits, lower and upper case letters of one font, each filling the frame; fonts that draw boxes give nothing."""
    out: list[tuple[str, np.ndarray]] = []
    seen: Counter[bytes] = Counter()
    try:
        font = ImageFont.truetype(str(path), 96)
        glyphs = []
        for char in string.digits + string.ascii_letters:
            mask = Image.new("L", (256, 256))
            ImageDraw.Draw(mask).text((80, 70), char, fill=255, font=font)
            box = mask.getbbox()
            if box is None:
                continue
            glyph = mask.crop(box)
            seen[glyph.tobytes()] += 1
            glyphs.append((char, glyph))
    except (OSError, ValueError):
        return out
    if len(glyphs) < 62 or max(seen.values()) > 2:
        return out
    for char, glyph in glyphs:
        scale = 48 / max(glyph.size)
        small = glyph.resize((max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))))
        alpha = Image.new("L", (SIZE, SIZE))
        alpha.paste(small, ((SIZE - small.width) // 2, (SIZE - small.height) // 2))
        plane = np.array(alpha)
        black = np.zeros_like(plane)
        # A character has no body to fill: the hole of a 0 is part of its shape.
        out.append((char.lower(), np.stack([black, black, black, plane, plane])))
    return out


class PrintSets(argparse.Action):
    """`--sets`: the names alone, for the shell loop that fetches them."""

    def __call__(self, *_: Any) -> None:
        print(*SETS)
        raise SystemExit


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", action=PrintSets, nargs=0, help="print the icon sets' names")
    parser.add_argument("icons", type=Path, help="folder with the iconify-json-<set>-<version>.tgz archives")
    parser.add_argument("work", type=Path)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    drawn: dict[str, list[str]] = defaultdict(list)
    sets: dict[str, set[str]] = defaultdict(set)
    for name in SETS:
        archives = [p for p in args.icons.glob("*.tgz") if re.fullmatch(rf"iconify-json-{name}-[\d.]+\.tgz", p.name)]
        if not archives:
            raise SystemExit(f"No archive of the set {name} in {args.icons}: npm pack @iconify-json/{name}")
        for concept, svg in read_set(archives[0]):
            drawn[concept].append(svg)
            sets[concept].add(name.removesuffix("-v1").removesuffix("-flat").removesuffix("-solid"))
    kept = sorted(c for c in drawn if (len(sets[c]) >= MIN_SETS and len(drawn[c]) >= MIN_PICTURES) or c in WANTED)

    names: list[str] = []
    planes: list[np.ndarray] = []
    with ProcessPoolExecutor(2) as pool:
        jobs = [(concept, svg) for concept in kept for svg in drawn[concept]]
        for (concept, _), picture in zip(jobs, pool.map(render_icon, [s for _, s in jobs], chunksize=64), strict=True):
            if picture is not None:
                names.append(concept)
                planes.append(picture)
        icons = len(names)
        fonts = sorted(p for p in args.fonts.rglob("*") if p.suffix.lower() in (".ttf", ".otf"))
        used = 0
        for glyphs in pool.map(render_font, fonts, chunksize=8):
            used += bool(glyphs)
            names += [name for name, _ in glyphs]
            planes += [picture for _, picture in glyphs]
    concepts = sorted(set(names))
    index = {concept: i for i, concept in enumerate(concepts)}
    np.savez(
        args.work / "pictures.npz",
        planes=np.stack(planes),
        label=np.array([index[n] for n in names], dtype=np.int32),
        concepts=np.array(concepts),
    )
    print(
        f"{icons:,} of {len(jobs):,} drawings of {len(kept):,} names; {len(names) - icons:,} characters, {used} fonts"
    )
    print({c: len(drawn[c]) for c in SYNONYMS})


if __name__ == "__main__":
    main()
