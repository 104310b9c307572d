// The page: the model and the program that runs it are inside; nothing is loaded and nothing is sent.

import { at, begin, tell } from "./pictures.js";

/** The bytes of a script element: gzip, in base64. */
async function unpacked(id) {
  const packed = await (await new Blob([Uint8Array.from(atob(at(id).textContent), (c) => c.charCodeAt(0))])).stream();
  at(id).textContent = ""; // its memory is needed
  return new Uint8Array(await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

async function start() {
  const program = new Blob([await unpacked("runtime")], { type: "text/javascript" });
  const ort = await import(URL.createObjectURL(program));
  ort.env.wasm.numThreads = 1; // more need headers that a file on the disk doesn't have
  ort.env.wasm.wasmBinary = await unpacked("wasm");
  const session = await ort.InferenceSession.create(await unpacked("model"), { executionProviders: ["wasm"] });
  return { ort, session };
}

const labels = JSON.parse(at("labels").textContent);
const ready = start();
let turn = Promise.resolve(); // one picture at a time

/** The log-probability of each label, for an image file. */
async function scores(file) {
  const { ort, session } = await ready;
  let picture;
  try {
    picture = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("This browser can't read the picture. JPEG, PNG and WebP work in all.");
  }
  const { width, height } = picture;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // behind what is transparent
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  picture.close();
  const { data } = context.getImageData(0, 0, width, height);
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < data.length; from += 4) {
    pixels[to++] = data[from];
    pixels[to++] = data[from + 1];
    pixels[to++] = data[from + 2];
  }
  const images = new ort.Tensor("uint8", pixels, [1, height, width, 3]);
  const found = await session.run({ images }, ["log_probabilities"]);
  return found.log_probabilities.data;
}

globalThis.scores = (file) => (turn = turn.catch(() => {}).then(() => scores(file)));

begin({
  atOnce: 1,
  ask: async ({ file }) => {
    const logs = await globalThis.scores(file);
    return labels.map((label, i) => ({ label, score: Math.exp(logs[i]) })).sort((a, b) => b.score - a.score);
  },
});
try {
  await ready;
  at("state").textContent = "ready";
} catch (error) {
  at("state").textContent = "";
  tell(`This browser can't run the model: ${error.message}`);
}
