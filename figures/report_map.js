"use strict";
// Tokens and prompts are shown only as text nodes, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const metricNames = Object.keys(data.metrics);
const drawn = []; // functions that draw again when another metric is chosen
const tips = new WeakMap(); // cell: the lines that its tip shows
let metric = Math.max(0, metricNames.indexOf(data.metric));

function element(tag, fields = {}, ...children) {
  const created = Object.assign(document.createElement(tag), fields);
  created.append(...children);
  return created;
}

const unit = () => data.units[metricNames[metric]];
const isNumber = (value) => value !== null && value !== undefined;

function number(value) {
  if (!isNumber(value)) return "–";
  const small = value !== 0 && Math.abs(value) < 1e-3;
  return (small ? value.toExponential(3) : value.toPrecision(4)).replaceAll("-", "−");
}

// the same mapping as in matplotlib: 256 colours over [-width, width]
function colour(value, width) {
  const index = Math.floor((value / (2 * width) + 0.5) * data.colours.length);
  return data.colours[Math.max(0, Math.min(data.colours.length - 1, index))];
}

// half the width of a symmetric scale for all these arrays
function halfWidth(arrays) {
  const sizes = arrays.flat(Infinity).filter(isNumber).map(Math.abs);
  return sizes.reduce((largest, size) => Math.max(largest, size), 0) || 1;
}

// makes line ends and single blanks visible
const visible = (token) => token.replaceAll("\n", "↵").replace(/^ +$/, "␣") || "␣";

let groups = 0;
function choice(name, options, chosen, choose) {
  const group = `choice${groups++}`;
  const field = element("fieldset", { className: "choice" }, element("legend", { textContent: name }));
  options.forEach((option, index) => {
    const input = element("input", { type: "radio", name: group, value: index });
    input.checked = index === chosen;
    input.addEventListener("change", () => choose(index));
    field.append(element("label", {}, input, element("span", { textContent: option })));
  });
  return field;
}

function legend(width) {
  const bar = element("i");
  bar.style.background = `linear-gradient(to right, ${data.colours.join(",")})`;
  const ends = [-width, 0, width].map((value) =>
    element("span", { textContent: String(Number(value.toPrecision(2))).replaceAll("-", "−") }));
  const label = element("small", { textContent: `indirect effect (${unit()})` });
  return element("div", { className: "legend" }, bar, element("div", {}, ...ends), label);
}

const plural = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;

// rows: objects with label; corrupted; enough (false: the row may not hold the peak); effects, by
// layer; lines(layer), the lines of a cell's tip; estimated(layer), whether it was not restored
function map(rows, width, label) {
  const nLayers = rows[0].effects.length;
  const size = Math.max(11, Math.min(40, Math.floor(380 / nLayers)));
  const step = size >= 17 ? 1 : 5; // every how many layers there is a number
  const body = element("tbody");
  let peak = null, largest = -1;
  for (const row of rows) {
    const name = element("th", { scope: "row", textContent: row.label + (row.corrupted ? "*" : "") });
    if (row.corrupted) name.className = "corrupted";
    const line = element("tr", {}, name);
    row.effects.forEach((effect, layer) => {
      const cell = element("td", { tabIndex: -1 });
      if (isNumber(effect)) cell.style.backgroundColor = colour(effect, width);
      else cell.classList.add("none");
      if (row.estimated?.(layer)) cell.classList.add("estimated");
      if (row.enough !== false && isNumber(effect) && Math.abs(effect) > largest) {
        largest = Math.abs(effect);
        peak = { cell, row, layer };
      }
      tips.set(cell, row.lines(layer));
      cell.ariaLabel = tips.get(cell).join("; ");
      line.append(cell);
    });
    body.append(line);
  }
  const entry = peak ? peak.cell : body.querySelector("td");
  entry.tabIndex = 0; // Tab stops once per map; the arrow keys move on from there
  if (largest > 0) peak.cell.classList.add("peak");
  const numbers = element("tr", {}, element("th", { textContent: "layer" }));
  for (let layer = 0; layer < nLayers; layer++) {
    const shown = layer % step === 0 ? layer : "";
    const head = element("th", { scope: "col", textContent: shown });
    head.style.minWidth = head.style.maxWidth = `${size}px`;
    numbers.append(head);
  }
  const table = element("table", { className: "map" }, body, element("tfoot", {}, numbers));
  table.ariaLabel = label;
  return { table: element("div", { className: "scroll" }, table), peak: largest > 0 ? peak : null };
}

// ---- tips of cells; moving between cells with the arrow keys --------------------------------------------------

const tip = document.getElementById("tip");
let shownCell = null;

function showTip(event) {
  const lines = tips.get(event.target);
  tip.hidden = !lines;
  if (!lines) return;
  const [cell, ...numbers] = lines;
  tip.replaceChildren(element("b", { textContent: cell }),
    ...numbers.map((line) => element("div", { textContent: line })));
  shownCell = event.target;
  placeTip();
}

function placeTip() {
  if (tip.hidden) return;
  const cell = shownCell.getBoundingClientRect(), box = tip.getBoundingClientRect();
  const left = Math.min(cell.right + 8, innerWidth - box.width - 8);
  const above = cell.top - box.height - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 8 ? above : cell.bottom + 8}px`;
}

const hideTip = () => { tip.hidden = true; };
document.addEventListener("pointerover", showTip);
document.addEventListener("focusin", showTip);
document.addEventListener("focusout", hideTip);
// moving to a cell may scroll the page; the tip must follow
document.addEventListener("scroll", placeTip, { capture: true, passive: true });

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hideTip();
  const step = STEPS[event.key], from = event.target;
  if (!step || !tips.has(from)) return;
  event.preventDefault();
  const row = from.closest("tbody").rows[from.parentElement.sectionRowIndex + step[0]];
  const to = row?.cells[from.cellIndex + step[1]];
  if (!tips.has(to)) return; // the edge of the map
  from.tabIndex = -1;
  to.tabIndex = 0;
  to.focus();
});
