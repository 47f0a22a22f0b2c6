// ---- average effects: a card for each grid --------------------------------------------------

const byHead = (effect) => Array.isArray(effect.mean[0][0][0]);

function averageRows(effect, bucket) {
  const rows = byHead(effect)
    ? effect.mean[metric][bucket][0].map((_, head) => ({ head, bucket, label: `head ${head}` }))
    : effect.buckets
        .map((name, index) => ({ bucket: index, label: `${name} (n = ${effect.n_tokens[index]})` }))
        .filter((row) => effect.n_tokens[row.bucket] > 0);
  for (const row of rows) {
    const at = (values, layer) => {
      const found = values[metric][row.bucket][layer];
      return "head" in row ? found[row.head] : found;
    };
    row.effects = effect.mean[metric][row.bucket].map((_, layer) => at(effect.mean, layer));
    row.enough = effect.enough[row.bucket];
    row.estimate = (layer) => number(at(effect.mean, layer)) + (isNumber(at(effect.low, layer))
      ? ` [${number(at(effect.low, layer))}, ${number(at(effect.high, layer))}]` : "");
    // of an effect other than 0, corrected for the cells of the map; earlier versions have none
    row.chance = (layer) => {
      const p = effect.p ? at(effect.p, layer) : null;
      return isNumber(p) ? [`p = ${number(p)}, corrected for all cells`] : [];
    };
    row.cell = (layer) => ("head" in row ? `L${layer}H${row.head}` : `layer ${layer}`);
    row.lines = (layer) => [
      `${row.cell(layer)}, ${effect.buckets[row.bucket]}`,
      `${row.estimate(layer)} ${unit()}`,
      ...row.chance(layer),
      `${plural(effect.n_facts[row.bucket], "fact")}, ` +
        plural(effect.n_tokens[row.bucket], "token"),
    ];
  }
  return rows;
}

function averageCard(effect) {
  const kept = effect.buckets.map((_, index) => index).filter((index) => effect.n_tokens[index] > 0);
  const without = effect.buckets.filter((_, index) => effect.n_tokens[index] === 0);
  const card = element("article", { className: "card" }, element("h4", { textContent: effect.title }));
  if (!kept.length) {
    card.append(element("p", { className: "note", textContent: "no tokens" }));
    return card;
  }
  const space = element("div");
  let bucket = kept[kept.length - 1];
  const draw = () => {
    // a map by head has its own scale: single heads can be much stronger than those of another part
    const alike = byHead(effect) ? [effect] : data.maps.filter((other) => !byHead(other));
    const width = halfWidth(alike.map((other) =>
      other.mean[metric].filter((_, index) => other.enough[index])));
    const rows = averageRows(effect, bucket);
    const { table, peak } = map(rows, width, `${effect.title}, ${effect.part} corrupted`);
    const where = peak && (byHead(effect) ? "" : `, ${effect.buckets[peak.row.bucket]}`);
    const best = peak
      ? [`peak: ${peak.row.cell(peak.layer)}${where}, ${peak.row.estimate(peak.layer)}`,
        ...peak.row.chance(peak.layer)].join("; ")
      : rows.some((row) => row.enough) ? "no effect" : "too few facts for a peak";
    space.replaceChildren(element("p", { className: "note", textContent: best }), table, legend(width));
  };
  if (byHead(effect)) {
    const names = kept.map((index) => `${effect.buckets[index]} (n = ${effect.n_tokens[index]})`);
    const choose = (index) => { bucket = kept[index]; draw(); };
    card.append(choice("token", names, kept.length - 1, choose));
  }
  card.append(space);
  const few = kept.filter((index) => !effect.enough[index])
    .map((index) => `${effect.buckets[index]} (${effect.n_facts[index]})`);
  if (few.length)
    card.append(element("p", { className: "note",
      textContent: `too few facts for a peak or to set the colour scale: ${few.join(", ")}` }));
  if (without.length)
    card.append(element("p", { className: "note", textContent: `no tokens: ${without.join(", ")}` }));
  draw();
  drawn.push(draw);
  return card;
}

function showAverages(section) {
  for (const part of new Set(data.maps.map((effect) => effect.part))) {
    const cards = data.maps.filter((effect) => effect.part === part).map(averageCard);
    section.append(element("h3", { textContent: `${part} corrupted` }));
    section.append(element("div", { className: "cards" }, ...cards));
  }
}

// ---- single facts: drawn when they are first opened -----------------------------------------

function factRows(part, grid) {
  return grid.positions.map((pos, column) => {
    const token = visible(part.labels[pos]), corrupted = part.corrupted.includes(pos);
    const at = (values, layer) => values[metric][layer][column];
    const estimated = (layer) => grid.estimated !== null && at(grid.estimated, layer);
    return {
      label: token, corrupted, estimated,
      effects: grid.effect[metric].map((_, layer) => at(grid.effect, layer)),
      lines: (layer) => [
        `${grid.heads ? `L${layer}H${at(grid.heads, layer)}` : `layer ${layer}`}, ` +
          `“${token}”${corrupted ? " (corrupted)" : ""}`,
        `restored ${number(at(grid.restored, layer))}${estimated(layer) ? " (estimate)" : ""}`,
        `corrupted ${number(grid.corrupted[metric])}`,
        `clean ${number(grid.clean[metric])}`,
        `indirect effect ${number(at(grid.effect, layer))} ${unit()}`,
      ],
    };
  });
}

function factPart(part) {
  const tokens = part.labels.map((token, pos) =>
    element(part.corrupted.includes(pos) ? "mark" : "span", { textContent: visible(token) }));
  const how = `Marked: the ${part.part}'s words, ${part.corruption}. ` +
    `Answer “${part.answer}”, foil “${part.foil}”.`;
  const space = element("div");
  let grid = part.grids[0];
  const draw = () => {
    const alike = part.grids.filter((other) => !other.heads === !grid.heads);
    const width = halfWidth(alike.map((other) => other.effect[metric]));
    const scores = `${data.metrics[metricNames[metric]]}: ${number(grid.clean[metric])} clean, ` +
      `${number(grid.corrupted[metric])} corrupted` +
      (grid.heads ? "; each cell shows the head with the largest effect of either sign" : "") +
      (grid.estimated ? "; dotted: estimated, not restored" : "");
    space.replaceChildren(
      element("p", { className: "note", textContent: scores }),
      map(factRows(part, grid), width, grid.title).table, legend(width));
  };
  const titles = part.grids.map((other) => other.title);
  const sites = choice("restored", titles, 0, (index) => { grid = part.grids[index]; draw(); });
  draw();
  drawn.push(draw);
  return element("div", {}, element("div", { className: "tokens" }, ...tokens),
    element("p", { className: "note", textContent: how }), sites, space);
}

function factDetails(fact) {
  const summary = element("summary", {}, `${fact.prompt} → `,
    element("b", { textContent: fact.object }), " ",
    element("span", { className: "quiet", textContent: fact.relation }));
  const details = element("details", { className: "fact" }, summary);
  details.addEventListener("toggle", () => {
    const parts = fact.parts.map(factPart);
    const show = (index) => parts.forEach((body, other) => { body.hidden = other !== index; });
    show(0);
    const names = fact.parts.map((part) => part.part);
    details.append(choice("corrupted", names, 0, show), ...parts);
  }, { once: true });
  return details;
}

function showFacts(section) {
  const list = data.facts.map((fact) => ({
    details: factDetails(fact),
    text: [fact.prompt, fact.subject, fact.relation, fact.object].join("\n").toLowerCase(),
  }));
  const search = element("input", { type: "search", placeholder: "search prompts, objects, relations" });
  search.ariaLabel = "Search the facts";
  const count = element("span", { className: "quiet", role: "status" });
  const narrow = () => {
    const query = search.value.trim().toLowerCase();
    for (const { details, text } of list) details.hidden = !text.includes(query);
    count.textContent = `${list.filter((item) => !item.details.hidden).length} shown`;
  };
  search.addEventListener("input", narrow);
  narrow();
  section.append(element("p", {}, search, count), ...list.map((item) => item.details));
}

// ---- figures, and the start -----------------------------------------------------------------

const large = document.getElementById("large");
for (const button of document.querySelectorAll(".enlarge"))
  button.addEventListener("click", () => {
    large.firstElementChild.src = button.firstElementChild.src;
    large.firstElementChild.alt = button.firstElementChild.alt;
    large.showModal();
  });
large?.addEventListener("click", () => large.close());

if (data.maps.length) showAverages(document.getElementById("maps"));
if (data.facts.length) showFacts(document.getElementById("facts"));
document.getElementById("bar")?.append(
  choice("metric", Object.values(data.metrics), metric, (index) => {
    metric = index;
    drawn.forEach((draw) => draw());
  }));
