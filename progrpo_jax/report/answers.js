// Answers of two methods to the same prompt. Which ones, is kept in the URL's
// hash, so that a view can be linked to: #left=grpo&right=progrpo&ask=3.

const answers = JSON.parse(byId("answers-data").textContent);
const last = answers.labels.length - 1;
const chosen = { left: 0, right: Math.min(1, last), solved: "", ask: 0 };

const solves = (row, side) => row.sides[chosen[side]].correct > 0;

function isAsked(row) {
  const kind = solves(row, "left")
    ? (solves(row, "right") ? "both" : "left")
    : (solves(row, "right") ? "right" : "none");
  return !chosen.solved || chosen.solved === kind;
}

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function answerCard(answer, isRight, other) {
  const node = element("article", isRight ? "card correct" : "card");
  const head = element("div", "head");
  head.append(element("span", "verdict", isRight ? "✓ right" : "✗ wrong"));
  if (isRight) {
    const name = element("span", "answer", answer.letter);
    const index = answer.letter.charCodeAt(0) - 65;
    name.style.color = `var(--c${index % 8}, var(--accent))`;
    head.append(name);
    if (!other.letters.includes(answer.letter)) {
      head.append(element("span", "flag", "only here"));
    }
  }
  head.append(element("span", "times", "× " + answer.count));
  const text = element("pre", "", visible(answer.text));
  text.tabIndex = 0;
  text.setAttribute("aria-label", "answer");
  node.append(head, text);
  return node;
}

function half(row, side, other) {
  const own = row.sides[chosen[side]], opposite = row.sides[chosen[other]];
  const node = element("section");
  const title = element("h3", "", visible(answers.labels[chosen[side]]) + " ");
  const words = `${own.correct} of ${own.samples - own.unknown} right, ` +
    plural(own.distinct, "different right answer");
  title.append(element("span", "", words));
  const cards = element("div", "cards");
  cards.append(...own.right.map((a) => answerCard(a, true, opposite)),
               ...own.wrong.map((a) => answerCard(a, false, opposite)));
  node.append(title, cards);
  const rest = [];
  if (own.distinct > own.right.length) {
    rest.push(plural(own.distinct - own.right.length, "more right answer"));
  }
  if (own.kinds_wrong > own.wrong.length) {
    rest.push(plural(own.kinds_wrong - own.wrong.length, "more wrong answer"));
  }
  if (own.unknown) rest.push(plural(own.unknown, "sample") + " unjudged");
  if (rest.length) node.append(element("p", "note", rest.join(", ")));
  return node;
}

function showPair(index) {
  chosen.ask = index;
  for (const button of byId("asking").querySelectorAll("button")) {
    button.setAttribute("aria-current",
                        String(Number(button.dataset.prompt) === index));
  }
  const row = answers.rows[index];
  if (!row) {
    byId("pair").replaceChildren(element("p", "empty", "Nothing matches."));
    return;
  }
  const question = element("div", "question");
  const facts = element("dl");
  if (row.reference) {
    const pair = element("div");
    pair.append(element("dt", "", "reference"),
                element("dd", "", visible(row.reference)));
    facts.append(pair);
  }
  question.append(element("pre", "", visible(row.prompt)), facts);
  const sides = element("div", "sides two");
  sides.append(half(row, "left", "right"), half(row, "right", "left"));
  byId("pair").replaceChildren(question, sides);
}

function drawPair() {
  const names = answers.labels.map((label, i) => [String(i), visible(label)]);
  for (const side of ["left", "right"]) {
    options(byId(side), names, String(chosen[side]));
  }
  byId("solved").value = chosen.solved;
  const rows = answers.rows.filter(isAsked);
  byId("asking").replaceChildren(...rows.map((row) => {
    const button = element("button");
    button.type = "button";
    button.dataset.prompt = String(answers.rows.indexOf(row));
    button.append(element("span", "line", visible(row.prompt)));
    const counts = ["left", "right"].map(
      (side) => row.sides[chosen[side]].distinct);
    button.append(element("span", "dots",
                          counts.join(" : ") + " different right answers"));
    const item = element("li");
    item.append(button);
    return item;
  }));
  byId("asked").textContent =
    `${rows.length} of ${plural(answers.rows.length, "prompt")}`;
  const current = answers.rows[chosen.ask];
  const next = rows.includes(current) ? current : rows[0];
  showPair(next ? answers.rows.indexOf(next) : -1);
}

function keepPair() {
  const parts = new URLSearchParams();
  for (const side of ["left", "right"]) {
    parts.set(side, answers.labels[chosen[side]]);
  }
  if (chosen.solved) parts.set("solved", chosen.solved);
  parts.set("ask", String(chosen.ask));
  history.replaceState(null, "", "#" + parts);
}

function readPair() {
  if (!location.hash.includes("=")) return;
  const parts = new URLSearchParams(location.hash.slice(1));
  for (const side of ["left", "right"]) {
    const index = answers.labels.indexOf(parts.get(side));
    if (index >= 0) chosen[side] = index;
  }
  const solved = parts.get("solved");
  const known = [...byId("solved").options].some((o) => o.value === solved);
  chosen.solved = known ? solved : "";
  chosen.ask = Number(parts.get("ask")) || 0;
}

for (const name of ["left", "right", "solved"]) {
  byId(name).addEventListener("input", (event) => {
    const value = event.target.value;
    chosen[name] = name === "solved" ? value : Number(value);
    drawPair();
    keepPair();
  });
}
walk(byId("asking"), (prompt) => { showPair(prompt); keepPair(); });
window.addEventListener("hashchange", () => { readPair(); drawPair(); });
readPair();
drawPair();
