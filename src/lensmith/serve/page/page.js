// The page: sends pictures to this server, shows its answers, and sends back what a person puts right.

import { at, begin, summarise, tell } from "./pictures.js";

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

async function answers(row) {
  const path = `/models/${encodeURIComponent(row.model)}?top_k=${models.get(row.model).labels.length}`;
  let response;
  try {
    response = await ask(path, { method: "POST", body: row.file });
  } catch {
    throw new Error("The server doesn't answer.");
  }
  if (!response.ok) throw new Error(await problem(response));
  return response.json();
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

begin({
  ask: answers,
  atOnce: 4, // more would only wait in the server's queue
  model: () => at("model").value,
  corrects: (row) => models.get(row.model).corrections,
  correct,
});
at("copy").onclick = () => navigator.clipboard && navigator.clipboard.writeText(at("command").textContent);
at("key").onsubmit = (event) => {
  event.preventDefault();
  token = at("token").value;
  sessionStorage.setItem("token", token);
  start();
};
start();
