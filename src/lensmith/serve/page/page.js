// The page: sends pictures to this server, shows its answers, and sends back what a person puts right.

const AT_ONCE = 4; // pictures on their way; more would only wait in the server's queue
const BARS = 3; // classes shown with a bar; the others are in a list
const at = (id) => document.getElementById(id);
const percent = (p) => (p >= 0.995 ? "> 99 %" : p < 0.005 ? "< 1 %" : `${Math.round(100 * p)} %`);

const rows = []; // {file, model, item, answers, problem, label}
const queue = [];
let active = 0;
let models = new Map(); // name -> {labels, corrections}
let token = sessionStorage.getItem("token") || "";

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  for (;;) {
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 429 && response.status !== 503) return response;
    await new Promise((done) => setTimeout(done, 1000 * (Number(response.headers.get("Retry-After")) || 1)));
  }
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  return (body.error && body.error.message) || body.error || `The server answered ${response.status}.`;
}

function tell(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

async function start() {
  let response;
  try {
    response = await ask("/v1/models");
  } catch {
    return tell("The server doesn't answer. Is it running?");
  }
  at("key").hidden = response.status !== 401;
  at("drop").hidden = response.status === 401;
  if (response.status === 401) {
    if (token) tell("That token is wrong.");
    return at("token").focus();
  }
  tell("");
  if (!response.ok) return tell(await problem(response));
  models = new Map((await response.json()).data.map((model) => [model.id, model]));
  at("model").replaceChildren(...[...models.keys()].map((name) => new Option(name)));
  at("models").hidden = models.size < 2;
  at("wrong").hidden = ![...models.values()].some((model) => model.corrections);
}

function add(files) {
  for (const file of files) {
    const item = at("row").content.cloneNode(true).firstElementChild;
    const row = { file, item, model: at("model").value, answers: [], problem: "", label: "" };
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
  while (active < AT_ONCE && queue.length) next();
}

async function next() {
  active += 1;
  for (let row = queue.shift(); row; row = queue.shift()) {
    try {
      const path = `/models/${encodeURIComponent(row.model)}?top_k=${models.get(row.model).labels.length}`;
      const response = await ask(path, { method: "POST", body: row.file });
      if (response.ok) row.answers = await response.json();
      else row.problem = await problem(response);
    } catch {
      row.problem = "The server doesn't answer.";
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
  const keeps = models.get(row.model).corrections;
  const bars = row.answers.slice(0, BARS).map(({ label, score }) => {
    const bar = document.createElement(keeps ? "button" : "div");
    const share = document.createElement("span");
    bar.append(label, share);
    share.textContent = percent(score);
    const width = `${100 * score}%`;
    bar.style.backgroundImage = "linear-gradient(var(--bar), var(--bar))";
    bar.style.backgroundSize = `${width} 100%`;
    bar.style.backgroundRepeat = "no-repeat";
    bar.dataset.label = label;
    if (keeps) {
      bar.type = "button";
      bar.title = `It is: ${label}`;
      bar.onclick = () => correct(row, label);
    } else bar.className = "shown";
    return bar;
  });
  group.replaceChildren(...bars);
  const others = row.answers.slice(BARS).map(({ label }) => label).sort((a, b) => a.localeCompare(b));
  if (keeps && others.length) {
    const list = document.createElement("select");
    list.setAttribute("aria-label", "Another class");
    list.append(new Option("another …", ""), ...others.map((label) => new Option(label)));
    list.onchange = () => list.value && correct(row, list.value);
    group.append(list);
  }
}

async function correct(row, label) {
  const [best] = row.answers;
  const said = new URLSearchParams({ label, answer: best.label, probability: best.score });
  const note = row.item.querySelector(".corrected");
  const path = `/v1/corrections/${encodeURIComponent(row.model)}?${said}`;
  let response;
  try {
    response = await ask(path, { method: "POST", body: row.file });
  } catch {
    return tell("The server doesn't answer. The correction was not kept.");
  }
  if (!response.ok) return tell(await problem(response));
  tell("");
  row.label = label;
  const { kept, command } = await response.json();
  for (const button of row.item.querySelectorAll(".choices button"))
    button.setAttribute("aria-pressed", String(button.dataset.label === label));
  note.hidden = false;
  note.textContent = label === best.label ? "✓ right" : `✓ it is: ${label}`;
  at("teach").hidden = false;
  at("kept").textContent = kept === 1 ? "1 picture" : `${kept} pictures`;
  at("command").textContent = command;
  summarise();
}

function summarise() {
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
at("copy").onclick = () => navigator.clipboard && navigator.clipboard.writeText(at("command").textContent);
at("key").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value;
  sessionStorage.setItem("token", token);
  start();
};
start();
