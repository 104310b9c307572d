// Classify images with model.onnx, which stands beside this file: node classify.mjs IMAGE ...
// Needs: npm install onnxruntime-node sharp (in a browser: onnxruntime-web, and a canvas instead of sharp)

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { InferenceSession, Tensor } from "onnxruntime-node";
import sharp from "sharp";

const session = await InferenceSession.create(fileURLToPath(new URL("model.onnx", import.meta.url)));
const labels = JSON.parse(await readFile(new URL("labels.json", import.meta.url), "utf8"));

/** The probability of each label, for the bytes of an image file. */
export async function classify(file) {
  const image = sharp(file).rotate().flatten({ background: "white" }).toColourspace("srgb").removeAlpha();
  const { data, info } = await image.raw().toBuffer({ resolveWithObject: true });
  const images = new Tensor("uint8", data, [1, info.height, info.width, 3]);
  return (await session.run({ images }, ["probabilities"])).probabilities.data;
}

for (const path of process.argv.slice(2)) {
  const found = await classify(await readFile(path));
  const best = found.indexOf(Math.max(...found));
  console.log([path, labels[best], found[best].toFixed(3)].join("\t"));
}
