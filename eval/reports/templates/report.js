"use strict";
// Plots, the filter of answers, and the live view. All texts come from the page's own elements and are set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const MORE = 10; // answers that are shown at a time

// ---- Plots

function draw(place, spec) {
  const scheme = dark.matches ? "dark" : "light";
  // ast: expressions are interpreted, so that the content security policy need not allow code made from text.
  const options = {ast: true, actions: false, renderer: "svg", config: data.themes[scheme], tooltip: {theme: scheme}};
  return vegaEmbed(place, spec, options);
}

function specOf(figure) {
  return data.plots[figure.dataset.plot][Number(figure.dataset.number)];
}

function isLineChart(spec) {
  return Boolean(spec.layer) && spec.layer[0].mark.type === "line";
}

// The same plot, larger, whose axes follow the wheel and the pointer.
function zoomable(spec, height) {
  const zoom = {name: "zoom", select: "interval", bind: "scales"};
  const [first, ...others] = spec.layer;
  return {...spec, height, layer: [{...first, params: [...(first.params || []), zoom]}, ...others]};
}

// Not modal: a modal dialog would cover the tooltip, which Vega adds to the body.
const enlarged = document.getElementById("enlarged");

function enlarge(figure) {
  enlarged.querySelector("strong").textContent = figure.querySelector("figcaption").textContent;
  enlarged.show();
  draw(enlarged.querySelector(".plot"), zoomable(specOf(figure), Math.max(200, innerHeight * 0.6)));
}

addEventListener("keydown", (event) => { if (event.key === "Escape") enlarged.close(); });

const figures = [...document.querySelectorAll("figure[data-plot]")];
const drawn = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting && !drawn.has(entry.target)) {
      drawn.add(entry.target);
      draw(entry.target.querySelector(".plot"), specOf(entry.target));
    }
  }
}, {rootMargin: "600px"});
for (const figure of figures) {
  watcher.observe(figure);
  if (isLineChart(specOf(figure))) {
    figure.classList.add("zoomable");
    figure.querySelector(".plot").addEventListener("click", () => enlarge(figure));
  }
}
dark.addEventListener("change", () => {
  for (const figure of drawn) draw(figure.querySelector(".plot"), specOf(figure));
});

// ---- Answers

const filter = document.getElementById("filter");

// What is chosen stays when the live view loads the page again. A browser may refuse to store anything.
function kept(name) {
  try { return JSON.parse(sessionStorage.getItem(name) || "{}"); } catch { return {}; }
}

function keep(name, value) {
  try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* the choice is lost with the page */ }
}

function filterAnswers() {
  const samples = [...document.querySelectorAll(".sample")];
  const more = document.getElementById("more");
  const {evaluation, verdict, changed, text} = filter.elements;
  const remembered = kept("filter");
  let most = MORE;
  const offer = (select, values) => {
    for (const value of new Set(values)) select.add(new Option(value, value));
  };
  const show = () => {
    const typed = text.value.toLowerCase();
    const matching = samples.filter((one) =>
      (!evaluation.value || one.dataset.evaluation === evaluation.value)
      && (!verdict.value || one.dataset.verdict === verdict.value)
      && (!changed.checked || "changed" in one.dataset)
      && (!typed || one.textContent.toLowerCase().includes(typed)));
    const visible = new Set(matching.slice(0, most));
    for (const one of samples) one.hidden = !visible.has(one);
    more.hidden = matching.length <= most;
    filter.querySelector("output").textContent = `${visible.size} of ${matching.length} shown`;
    const now = {evaluation: evaluation.value, verdict: verdict.value, changed: changed.checked, text: text.value};
    keep("filter", now);
  };
  offer(evaluation, samples.map((one) => one.dataset.evaluation));
  offer(verdict, samples.map((one) => one.dataset.verdict).filter(Boolean).sort());
  evaluation.value = remembered.evaluation || "";
  verdict.value = remembered.verdict || "";
  changed.checked = Boolean(remembered.changed);
  text.value = remembered.text || "";
  for (const select of [evaluation, verdict]) if (select.selectedIndex < 0) select.value = "";
  filter.addEventListener("input", () => { most = MORE; show(); });
  filter.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => { most += MORE; show(); });
  filter.hidden = false;
  show();
}

if (filter) filterAnswers();

// ---- Live view: the server says when there is something new

const {state, seconds} = document.body.dataset;

async function look() {
  const line = document.getElementById("live");
  try {
    const now = await (await fetch("state", {cache: "no-store"})).text();
    line.textContent = "This page is made again when the run has something new.";
    if (now !== state && !enlarged.open) location.reload();
  } catch {
    line.textContent = "The server does not answer. This is the last state that it has shown.";
  }
}

if (state) setInterval(look, Number(seconds) * 1000);
