// What the pages share that classify pictures: a person drops, pastes, chooses or takes them, and sees the answers.

const BARS = 3; // classes shown with a bar; the others are in a list
export const at = (id) => document.getElementById(id);
const percent = (p) => (p >= 0.995 ? "> 99 %" : p < 0.005 ? "< 1 %" : `${Math.round(100 * p)} %`);

export const rows = []; // {file, model, item, answers, problem, label}
const queue = [];
let active = 0;
let page; // what differs: {ask(row), atOnce, model(), correct(row, label) and corrects(row), if answers are put right}

/** Begin to take pictures. `ask` returns [{label, score}], the best first, or throws an error with a message to show. */
export function begin(differs) {
  page = { model: () => "", corrects: () => false, ...differs };
}

export function tell(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

function add(files) {
  for (const file of files) {
    const item = at("row").content.cloneNode(true).firstElementChild;
    const row = { file, item, model: page.model(), answers: [], problem: "", label: "" };
    const image = item.querySelector("img");
    image.src = URL.createObjectURL(file);
    image.onerror = () => (image.style.visibility = "hidden"); // a kind that this browser doesn't show
    item.querySelector(".name").textContent = file.name;
    at("rows").append(item);
    rows.push(row);
    queue.push(row);
  }
  at("results").hidden = !rows.length;
  summarise();
  while (active < page.atOnce && queue.length) next();
}

async function next() {
  active += 1;
  for (let row = queue.shift(); row; row = queue.shift()) {
    try {
      row.answers = await page.ask(row);
    } catch (error) {
      row.problem = error.message;
    }
    show(row);
    summarise();
  }
  active -= 1;
}

function show(row) {
  const answer = row.item.querySelector(".answer");
  answer.classList.toggle("failed", Boolean(row.problem));
  if (row.problem) {
    answer.textContent = row.problem;
    return;
  }
  const [best] = row.answers;
  answer.textContent = `${best.label}, ${percent(best.score)}`;
  const group = row.item.querySelector(".choices");
  const corrects = page.corrects(row);
  const bars = row.answers.slice(0, BARS).map(({ label, score }) => {
    const bar = document.createElement(corrects ? "button" : "div");
    const share = document.createElement("span");
    bar.append(label, share);
    share.textContent = percent(score);
    const width = `${100 * score}%`;
    bar.style.backgroundImage = "linear-gradient(var(--bar), var(--bar))";
    bar.style.backgroundSize = `${width} 100%`;
    bar.style.backgroundRepeat = "no-repeat";
    bar.dataset.label = label;
    if (corrects) {
      bar.type = "button";
      bar.title = `It is: ${label}`;
      bar.onclick = () => page.correct(row, label);
    } else bar.className = "shown";
    return bar;
  });
  group.replaceChildren(...bars);
  const others = row.answers.slice(BARS).map(({ label }) => label).sort((a, b) => a.localeCompare(b));
  if (corrects && others.length) {
    const list = document.createElement("select");
    list.setAttribute("aria-label", "Another class");
    list.append(new Option("another …", ""), ...others.map((label) => new Option(label)));
    list.onchange = () => list.value && page.correct(row, list.value);
    group.append(list);
  }
}

export function summarise() {
  const below = Number(at("below").value);
  let shown = 0;
  let waiting = 0;
  for (const row of rows) {
    const done = row.answers.length || row.problem;
    const visible = !done || row.problem || row.answers[0].score < below;
    row.item.hidden = !visible;
    shown += visible;
    waiting += !done;
  }
  const pictures = rows.length === 1 ? "1 picture" : `${rows.length} pictures`;
  const parts = [shown < rows.length ? `${shown} of ${pictures}` : pictures];
  if (waiting) parts.push(`${waiting} waiting`);
  const failed = rows.filter((row) => row.problem).length;
  if (failed) parts.push(`${failed} without an answer`);
  const corrected = rows.filter((row) => row.label && row.label !== row.answers[0].label).length;
  if (corrected) parts.push(`${corrected} put right`);
  at("summary").textContent = parts.join(", ");
}

function csv() {
  // A spreadsheet takes a cell that begins like this for a formula.
  const cell = (value) => `"${String(/^[=+\-@\t\r']/.test(value) ? `'${value}` : value).replaceAll('"', '""')}"`;
  const lines = rows.map(({ file, model, answers, label, problem }) => {
    const [best] = answers;
    return [file.name, model, best ? best.label : "", best ? best.score : "", label, problem].map(cell).join(",");
  });
  const text = ["image,model,label,probability,corrected,error", ...lines, ""].join("\r\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  queue.length = 0;
  for (const row of rows) URL.revokeObjectURL(row.item.querySelector("img").src);
  rows.length = 0;
  at("rows").replaceChildren();
  at("results").hidden = true;
}

let stream;
async function openCamera() {
  if (!navigator.mediaDevices) return at("snap").click(); // without HTTPS there is only the phone's own camera
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch {
    return at("snap").click();
  }
  at("video").srcObject = stream;
  at("viewer").hidden = false;
}

function closeCamera() {
  stream.getTracks().forEach((track) => track.stop());
  at("viewer").hidden = true;
}

function take() {
  const video = at("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const name = `camera ${new Date().toLocaleTimeString()}.jpg`;
  canvas.toBlob((blob) => add([new File([blob], name, { type: "image/jpeg" })]), "image/jpeg", 0.95);
}

async function dropped(items) {
  // Folders are walked, because people drop folders.
  const walk = async (entry) => {
    if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const part = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!part.length) return (await Promise.all(found.map(walk))).flat();
      found.push(...part);
    }
  };
  const entries = [...items].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  return (await Promise.all(entries.map(walk))).flat();
}

const looksLikeImage = (file) => file.type.startsWith("image/") || /\.(heic|heif|tiff?|jp2|avif)$/i.test(file.name);

addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", async (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const plain = [...event.dataTransfer.files];
  const files = await dropped(event.dataTransfer.items);
  add((files.length ? files : plain).filter(looksLikeImage));
});
addEventListener("paste", (event) => add([...event.clipboardData.files].filter(looksLikeImage)));
for (const id of ["files", "snap"])
  at(id).onchange = ({ target }) => {
    add([...target.files]);
    target.value = "";
  };
at("choose").onclick = () => at("files").click();
at("camera").onclick = openCamera;
at("take").onclick = take;
at("close").onclick = closeCamera;
at("below").onchange = summarise;
at("csv").onclick = csv;
at("clear").onclick = clear;
