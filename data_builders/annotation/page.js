"use strict";
// The annotation page. The server has the state; this script shows it and sends the rater's actions. A request that is
// sent again has no second effect. Texts of models and users are inserted with textContent, or as the HTML that
// rendering.py has made of them with a list of allowed tags; nothing else is inserted as HTML.

const LEVELS = ["significantly better", "better", "slightly better", "marginally better"];
const SCALE = [...LEVELS.map((level, place) => [4 - place, "left", level]), [0, "tie", "tie"],
               ...LEVELS.map((level, place) => [4 - place, "right", level]).reverse()];
const WAITING_MS = 700, DONE_MS = 15000, RETRY_MS = 1000;

const $ = (id) => document.getElementById(id);
const rater = new URLSearchParams(location.search).get("rater");
let state = null;      // the last state that the server sent
let choice = null;     // {side, grade}: grade 4 means left is significantly better, -4 right
let edits = {};        // side -> edited text of its answer
let calls = {};        // side -> edited calls of its answer, as text
let busy = false;
let timer = null;
let plain = localStorage.getItem("plain") === "yes";  // show texts as they are written

function say(text, alarm = false) {
  $("message").textContent = text;
  $("message").classList.toggle("alarm", alarm);
}

async function post(path, body = {}) {
  for (let lost = false; ; lost = true) {
    let response;
    try {
      response = await fetch(path, {
        method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({rater, ...body}),
      });
    } catch {
      say(`${path === "/api/judge" ? "Not saved yet: the" : "The"} server does not answer. Retrying.`, true);
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      continue;
    }
    if (lost) say("");
    if (response.ok) return response.json();
    const text = await response.text();
    let error = text;
    try { error = JSON.parse(text).error ?? text; } catch { /* not JSON: show the text itself */ }
    throw new Error(error || `The server answered ${response.status}.`);
  }
}

// Send a request, show the new state, and only then confirm it. If the server refuses, show the reason and a fresh state.
async function act(path, body, confirmation = "") {
  if (busy) return;
  busy = true;
  clearTimeout(timer);
  try {
    draw(await post(path, body));
    say(confirmation);
  } catch (error) {
    try { draw(await post("/api/state")); } catch { /* the first error is the one to show */ }
    $("name").hidden = state !== null;
    say(error.message, true);
  } finally {
    busy = false;
  }
}

async function look() {
  if (busy) return;
  const before = state;
  try {
    const found = await post("/api/state");
    if (!busy && state === before) draw(found);
  } catch (error) {
    say(error.message, true);
  }
}

function draw(found) {
  const same = state && state.turn === found.turn && state.kind === found.kind;
  state = found;
  const {mine, all, total, further_turns: further} = state.progress;
  $("progress").textContent =
    `${mine} judged · all raters: ${all} of ${total}${further ? ` · ${further} further turns` : ""}`;
  $("who").textContent = state.rater;
  $("undo").disabled = state.undo === null;
  clearTimeout(timer);
  if (["waiting", "running"].includes(state.kind)) timer = setTimeout(look, WAITING_MS);
  if (state.kind === "done") timer = setTimeout(look, DONE_MS);
  if (same && state.kind !== "rate") return;

  document.activeElement?.blur();
  $("dialog").hidden = state.kind === "done";
  $("waiting").hidden = state.kind !== "waiting";
  $("running").hidden = state.kind !== "running";
  $("done").hidden = state.kind !== "done";
  $("rating").hidden = state.kind !== "rate";
  $("go-on").hidden = !["go_on", "failed"].includes(state.kind);
  for (const id of ["send", "next"]) $(id).hidden = state.kind === "failed";
  document.querySelector("label[for=next]").hidden = state.kind === "failed";
  drawDialog();
  $("failed").hidden = state.kind !== "failed";
  $("failed").textContent = `The dialog cannot continue. ${state.failure}`;
  if (state.kind === "rate") drawRating();
  if (state.kind === "go_on") $("next").value = "";
  if (!same) scrollTo(0, 0);
}

function drawDialog() {
  $("dialog").replaceChildren(...toolsOf(state.tools ?? []), ...(state.dialog ?? []).map((message) => messageOf(message)));
}

function drawAnswers() {
  for (const side of ["left", "right"]) {
    $(side).querySelector(".said").replaceChildren(...state[side].map((message) => messageOf(message, state[side].length > 1)));
  }
}

function drawRating() {
  const kept = JSON.parse(localStorage.getItem(`draft ${state.turn}`) ?? "null");
  const before = state.before && {
    grade: state.before.grade, edits: editsOf(state.before, "edited"), calls: editsOf(state.before, "edited_calls"),
  };
  const begin = kept ?? before ?? {grade: null, edits: {}};
  edits = begin.edits;
  calls = begin.calls ?? {};
  $("calls").hidden = !state.last_calls;
  drawAnswers();
  $("improve").hidden = true;
  $("feedback").value = "";
  $("refine").hidden = !state.refines;
  choose(begin.grade);
  if (choice && isEdited(choice.side)) improve(false);
}

function editsOf(before, name) {
  return before[name] === null ? {} : {[before.grade > 0 ? "left" : "right"]: before[name]};
}

function isEdited(side) {
  return edits[side] !== undefined || calls[side] !== undefined;
}

function messageOf(message, named = true) {
  const box = document.createElement("div");
  box.className = `turn ${message.role}`;
  if (named) {
    const role = document.createElement("span");
    role.className = "role";
    role.textContent = {user: "User", assistant: "Assistant", system: "System", tool: "Tool"}[message.role];
    box.append(role);
  }
  const text = document.createElement("div");
  if (message.html === undefined || plain) {
    text.className = "text";
    text.textContent = message.text;
  } else {
    text.className = "text rich";
    text.innerHTML = message.html;
  }
  box.append(text);
  return box;
}

function toolsOf(tools) {
  return tools.map((tool) => messageOf({role: "tool", text: `available tool: ${tool.name}: ${tool.description}`}));
}

// grade: 4 to -4, or null if nothing is chosen yet.
function choose(grade) {
  choice = grade === null ? null : {grade, side: grade > 0 ? "left" : grade < 0 ? "right" : "tie"};
  for (const radio of document.querySelectorAll("#scale input")) radio.checked = Number(radio.value) === grade;
  for (const side of ["left", "right"]) $(side).classList.toggle("better", choice?.side === side);
  const sided = choice !== null && choice.side !== "tie";
  $("edit").disabled = !sided;
  $("submit").disabled = choice === null;
  if (!sided) $("improve").hidden = true;
  else if (isEdited(choice.side) || !$("improve").hidden) improve(false);
}

// Called for a choice of the rater. It clears the message, because "Saved." was about the previous pair.
function chosen(grade) {
  choose(grade);
  keepDraft();
  say("");
}

function improve(focus = true) {
  if ($("edit").disabled) return;
  $("improve").hidden = false;
  $("edited").value = edits[choice.side] ?? state.last_text[choice.side];
  $("edited").rows = Math.min(24, Math.max(6, $("edited").value.split("\n").length + 1));
  $("edited-calls").value = calls[choice.side] ?? state.last_calls?.[choice.side] ?? "";
  if (focus) $("edited").focus();
}

function keepDraft() {
  localStorage.setItem(`draft ${state.turn}`, JSON.stringify({grade: choice?.grade ?? null, edits, calls}));
}

async function submit() {
  if (busy || choice === null || state.kind !== "rate") return;
  const edited = edits[choice.side], editedCalls = calls[choice.side] ?? state.last_calls?.[choice.side] ?? null;
  if (edited !== undefined && !edited.trim() && !editedCalls?.trim()) {
    say("The edited answer is empty. Write a text, or restore the original answer.", true);
    return;
  }
  const {turn} = state, grade = choice.grade;
  await act("/api/judge", {turn, judgement: madeId(), grade, edited: edited ?? null, edited_calls: editedCalls}, "Saved.");
  if (state.turn !== turn || state.kind !== "rate") localStorage.removeItem(`draft ${turn}`);
}

function madeId() {  // crypto.randomUUID is not available on plain http
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function ask() {
  const {turn} = state, side = choice.side;
  $("ask").disabled = true;
  say("The model is rewriting the answer.");
  try {
    const body = {turn, side, text: $("edited").value, feedback: $("feedback").value};
    const {text} = await post("/api/refine", body);
    if (state.turn !== turn) return;
    edits[side] = text;
    keepDraft();
    if (choice?.side === side) improve();
    say("Rewritten. Edit it further, or submit.");
  } catch (error) {
    say(error.message, true);
  } finally {
    $("ask").disabled = false;
  }
}

function undo() {
  if (!$("undo").disabled) act("/api/undo", {judgement: state.undo}, "Undone. Change your rating and submit it again.");
}

function togglePlain() {
  plain = !plain;
  localStorage.setItem("plain", plain ? "yes" : "no");
  $("plain").setAttribute("aria-pressed", plain);
  drawDialog();
  if (state.kind === "rate") drawAnswers();
}

function leave() {
  if (!$("go-on").hidden) act("/api/leave", {turn: state.turn});
}

function goOn() {
  const message = $("next").value;
  if (state.kind !== "go_on") return;
  if (!message.trim()) say("Write a message first, or go to the next prompt.", true);
  else act("/api/go_on", {turn: state.turn, message});
}

function pressed(event) {
  const target = event.target;
  const writing = target.matches("textarea, input:not([type=radio])");
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    target.closest("form")?.requestSubmit();
  } else if (writing) {
    if (event.key === "Escape") target.blur();
    if (event.key === "Enter" && target.id === "feedback") {
      event.preventDefault();
      ask();
    }
  } else if (!state || event.repeat || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  } else if (/^[1-9]$/.test(event.key) && state.kind === "rate") {
    const [grade, side] = SCALE[Number(event.key) - 1];
    chosen(side === "right" ? -grade : grade);
  } else if (event.key === "Enter" && !target.matches("button, input")) {
    if (state.kind === "rate") submit();
  } else {
    const doing = {e: () => !$("rating").hidden && improve(), u: undo, t: togglePlain, n: leave, m: () => $("next").focus()};
    const found = doing[event.key.toLowerCase()];
    if (found) {
      event.preventDefault();
      found();
    }
  }
}

function makeScale() {
  SCALE.forEach(([grade, side, level], place) => {
    const label = document.createElement("label");
    const radio = document.createElement("input");
    const box = document.createElement("div");
    const key = document.createElement("kbd");
    radio.type = "radio";
    radio.name = "grade";
    radio.value = side === "right" ? -grade : grade;
    radio.setAttribute("aria-label", side === "tie" ? "tie" : `${side} is ${level}`);
    radio.addEventListener("change", () => chosen(Number(radio.value)));
    key.textContent = place + 1;
    box.append(key, level);
    label.append(radio, box);
    document.querySelector(`.side[data-side=${side}]`).append(label);
  });
}

function begin() {
  makeScale();
  $("name").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("rater").value.trim().replace(/\s+/g, " ");
    localStorage.setItem("rater", name);
    location.search = new URLSearchParams({rater: name});
  });
  $("rater").value = rater ?? localStorage.getItem("rater") ?? "";
  if (!rater) {
    $("name").hidden = false;
    $("rater").select();
    return;
  }
  document.addEventListener("keydown", pressed);
  $("rating").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("go-on").addEventListener("submit", (event) => { event.preventDefault(); goOn(); });
  $("edited").addEventListener("input", () => { edits[choice.side] = $("edited").value; keepDraft(); });
  $("edited-calls").addEventListener("input", () => { calls[choice.side] = $("edited-calls").value; keepDraft(); });
  $("edit").addEventListener("click", () => improve());
  $("ask").addEventListener("click", ask);
  $("undo").addEventListener("click", undo);
  $("plain").setAttribute("aria-pressed", plain);
  $("plain").addEventListener("click", togglePlain);
  $("leave").addEventListener("click", leave);
  act("/api/state");
}

begin();
