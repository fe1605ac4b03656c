// The rollout browser. What a model wrote reaches the page as text only
// (textContent), never as markup. The state lives in the URL's hash, so that a
// view can be linked to: #source=training&step=40&prompt=3&with=80.

const data = JSON.parse(document.getElementById("rollouts-data").textContent);
const controls = ["source", "step", "task", "show", "group", "with", "search"];
const state = { source: "", step: "", task: "", show: "", group: "",
                with: "", search: "", prompt: -1 };

const groupOf = (source, step) => data.groups.find(
  (g) => g.source === source && String(g.step) === String(step));

// Fills a node with text in which the searched words stand marked.
function fill(node, text) {
  const shown = visible(text);
  const wanted = state.search.toLowerCase();
  const folded = shown.toLowerCase();
  if (!wanted || folded.length !== shown.length) {
    node.textContent = shown;
    return node;
  }
  let from = 0;
  for (let at = folded.indexOf(wanted); at >= 0;
       at = folded.indexOf(wanted, from)) {
    node.append(shown.slice(from, at));
    node.append(element("mark", "", shown.slice(at, at + wanted.length)));
    from = at + wanted.length;
  }
  node.append(shown.slice(from));
  return node;
}

const wantsCompletion = (completion) =>
  !state.show || state.show === completion.verdict;

function kindOf(row) {
  const known = row.samples - row.unknown;
  if (known === 0) return "unknown";
  if (row.correct === 0) return "wrong";
  return row.correct === known ? "correct" : "mixed";
}

function matches(row) {
  const kind = kindOf(row);
  if (state.task && row.task !== state.task) return false;
  if (state.group && state.group !== kind) return false;
  if (!row.completions.some(wantsCompletion)) return false;
  const wanted = state.search.toLowerCase();
  return !wanted || row.prompt.toLowerCase().includes(wanted) ||
    row.completions.some((c) => c.text.toLowerCase().includes(wanted));
}

const isNumber = (value) => value !== null && value !== undefined;

const number = (value, digits = 2) =>
  value === null || value === undefined ? "–" : value.toFixed(digits);

function fact(list, label, value) {
  const item = element("span", "", label + " ");
  item.append(element("b", "", value));
  list.append(item);
}

function advantageScale(completion, largest) {
  const scale = element("div", "scale");
  const parts = [["before", completion.base_advantage],
                 ["after", completion.advantage]];
  for (const [name, value] of parts) {
    if (value === null || value === undefined) continue;
    const bar = element("i", name);
    const width = 50 * Math.abs(value) / largest;
    bar.style.width = width + "%";
    bar.style.left = (value < 0 ? 50 - width : 50) + "%";
    scale.append(bar);
  }
  scale.setAttribute("aria-hidden", "true");
  return scale;
}

function card(completion, largest) {
  const node = element("article", "card " + completion.verdict);
  const head = element("div", "head");
  head.append(element("span", "verdict", {
    correct: "✓ correct", wrong: "✗ wrong", unknown: "? no verdict",
  }[completion.verdict]));
  if (completion.answer) {
    const answer = element("span", "answer", "answer " + completion.answer);
    const index = completion.answer.charCodeAt(0) - 65;
    answer.style.color = `var(--c${index % 8}, var(--accent))`;
    answer.title = "correct completions with the same letter give the same " +
      "answer";
    head.append(answer);
  }
  if (completion.finished === false) {
    head.append(element("span", "flag", "cut off"));
  }
  node.append(head);
  const facts = element("p", "facts");
  if (completion.verdict !== "unknown" &&
      completion.reward !== null && completion.reward !== undefined) {
    fact(facts, "reward", number(completion.reward));
  }
  if (completion.advantage !== null && completion.advantage !== undefined) {
    const base = completion.base_advantage;
    const plain = base === null || base === undefined;
    fact(facts, "advantage",
         (plain ? "" : number(base) + " → ") + number(completion.advantage));
  }
  if (completion.c_answer !== null && completion.c_answer !== undefined) {
    fact(facts, "confidence", small(completion.c_answer));
  }
  if (completion.length !== null && completion.length !== undefined) {
    fact(facts, "tokens", String(completion.length));
  }
  if (facts.childNodes.length) node.append(facts);
  if (largest > 0) node.append(advantageScale(completion, largest));
  const text = fill(element("pre"), completion.text);
  text.tabIndex = 0;
  text.setAttribute("aria-label", "completion");
  node.append(text);
  return node;
}

function side(group, row) {
  const node = element("section");
  const title = element("h3", "", `Step ${group.step} `);
  let words = `${row.correct} of ${row.samples - row.unknown} correct`;
  if (row.correct) words += `, ${row.distinct} different answers`;
  if (row.unknown) words += `, ${row.unknown} without a verdict`;
  const shown = row.completions.length;
  if (shown < row.samples) words += `; ${shown} of ${row.samples} shown`;
  title.append(element("span", "", words));
  const cards = element("div", "cards");
  const largest = Math.max(0, ...row.completions.flatMap((c) =>
    [Math.abs(c.advantage || 0), Math.abs(c.base_advantage || 0)]));
  cards.append(...row.completions.filter(wantsCompletion)
    .map((c) => card(c, largest)));
  node.append(title, cards);
  return node;
}

function drawDetail(group, row) {
  const detail = byId("detail");
  if (!row) {
    detail.replaceChildren(element("p", "empty", "Nothing matches."));
    return;
  }
  const question = element("div", "question");
  const prompt = fill(element("pre"), row.prompt);
  prompt.tabIndex = 0;
  prompt.setAttribute("aria-label", "prompt");
  const facts = element("dl");
  const list = [["task", row.task], ["reference", row.reference],
                ["prompt confidence",
                 isNumber(row.c_prompt) ? small(row.c_prompt) : ""]];
  for (const [name, value] of list) {
    if (!value) continue;
    const pair = element("div");
    pair.append(element("dt", "", name), element("dd", "", visible(value)));
    facts.append(pair);
  }
  question.append(prompt, facts);
  const others = data.groups.filter((g) => g.source === group.source &&
    g.step !== group.step && g.rows.some((r) => r.key === row.key));
  const pairs = [["", others.length ? "nothing" : "no other step has it"],
                 ...others.map((g) => [String(g.step), "step " + g.step])];
  const chosen = options(byId("with"), pairs, state.with);
  byId("with").disabled = !others.length;
  const sides = element("div", chosen ? "sides two" : "sides");
  sides.append(side(group, row));
  if (chosen) {
    const other = groupOf(group.source, chosen);
    sides.append(side(other, other.rows.find((r) => r.key === row.key)));
  }
  detail.replaceChildren(question, sides);
}

function drawPrompts(rows, all) {
  const items = rows.map((row) => {
    const button = element("button");
    button.type = "button";
    button.dataset.prompt = String(all.indexOf(row));
    button.append(element("span", "line", visible(row.prompt)));
    const dots = element("span", "dots");
    for (const completion of row.completions) {
      dots.append(element("span", "dot " + completion.verdict));
    }
    dots.append(element("span", "",
                        `${row.correct}/${row.samples - row.unknown}`));
    button.append(dots);
    const item = element("li");
    item.append(button);
    return item;
  });
  if (!items.length) items.push(element("li", "empty", "Nothing matches."));
  byId("prompts").replaceChildren(...items);
  byId("count").textContent = `${rows.length} of ${all.length} prompts`;
}

function select(prompt) {
  state.prompt = prompt;
  const group = groupOf(state.source, state.step);
  for (const button of byId("prompts").querySelectorAll("button")) {
    button.setAttribute("aria-current",
                        String(Number(button.dataset.prompt) === prompt));
  }
  drawDetail(group, group.rows[prompt]);
}

function draw() {
  const sources = [...new Set(data.groups.map((g) => g.source))];
  state.source = options(byId("source"), sources.map((s) => [s, s]),
                         state.source);
  const steps = data.groups.filter((g) => g.source === state.source)
    .map((g) => [String(g.step), "step " + g.step]);
  const last = steps[steps.length - 1][0];
  const known = steps.some(([key]) => key === state.step);
  state.step = options(byId("step"), steps, known ? state.step : last);
  const group = groupOf(state.source, state.step);
  // A prompt with right and wrong completions says most: it is shown first.
  if (state.prompt < 0) {
    state.prompt = Math.max(0, group.rows.findIndex(
      (row) => kindOf(row) === "mixed"));
  }
  const tasks = [...new Set(group.rows.map((r) => r.task))].sort();
  state.task = options(byId("task"),
                       [["", "all"], ...tasks.map((t) => [t, t])], state.task);
  for (const name of ["show", "group", "search"]) {
    byId(name).value = state[name];
    if (byId(name).value !== state[name]) byId(name).value = state[name] = "";
  }
  const rows = group.rows.filter(matches);
  drawPrompts(rows, group.rows);
  const current = group.rows[state.prompt];
  const next = rows.includes(current) ? current : rows[0];
  select(next ? group.rows.indexOf(next) : -1);
}

function remember() {
  const parts = new URLSearchParams();
  for (const [key, value] of Object.entries(state)) {
    if (value !== "" && value !== -1) parts.set(key, String(value));
  }
  history.replaceState(null, "", "#" + parts);
}

function recall() {
  if (!location.hash.includes("=")) return;
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const name of controls) state[name] = parts.get(name) || "";
  state.prompt = Number(parts.get("prompt")) || 0;
}

for (const name of controls) {
  byId(name).addEventListener("input", (event) => {
    const row = groupOf(state.source, state.step)?.rows[state.prompt];
    state[name] = event.target.value;
    if (name === "with") {
      select(state.prompt);
    } else {
      const group = groupOf(state.source, state.step);
      // The same prompt stays in view where the other step has it too.
      const same = group?.rows.findIndex((r) => r.key === row?.key);
      if (same >= 0) state.prompt = same;
      draw();
    }
    remember();
  });
}
walk(byId("prompts"), (prompt) => { select(prompt); remember(); });
window.addEventListener("hashchange", () => { recall(); draw(); });
recall();
draw();
