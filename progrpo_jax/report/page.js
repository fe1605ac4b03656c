"use strict";

// What all parts of a page share. What a model wrote reaches the page as text
// only (textContent), never as markup.

const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

// Control codes would be invisible, direction overrides could make one text
// look like another, half a surrogate pair is no character: all become visible
// signs.
function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g,
             (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(/[\u007f-\u009f]|\p{Surrogate}/gu, "\ufffd")
    .replace(/[\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
             (c) => "⟦U+" + c.charCodeAt(0).toString(16).toUpperCase() + "⟧");
}

// A share near 0 keeps its first digit: 2e-4, not 0.000.
const small = (value) => value !== 0 && Math.abs(value) < 0.001
  ? value.toExponential(0) : value.toFixed(3);

function options(select, pairs, value) {
  select.replaceChildren(...pairs.map(([key, label]) => {
    const option = element("option", "", label);
    option.value = key;
    return option;
  }));
  select.value = pairs.some(([key]) => key === value) ? value : pairs[0][0];
  return select.value;
}

// Calls back with the number of a prompt that is clicked in a list, or walked
// to with the arrow keys.
function walk(list, show) {
  list.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show(Number(button.dataset.prompt));
  });
  list.addEventListener("keydown", (event) => {
    const way = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const buttons = [...list.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + way];
    if (!way || !next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });
}

// A table that is wider than the page says that it goes on, and fades at the
// edge, where half a number could be read as a number.
function sayCut() {
  for (const box of document.querySelectorAll(".scroll")) {
    const isWide = box.scrollWidth > box.clientWidth + 1;
    const isAtEnd = box.scrollLeft + box.clientWidth >= box.scrollWidth - 1;
    box.classList.toggle("fades", isWide && !isAtEnd);
    box.nextElementSibling?.classList.toggle("shown", isWide);
    if (isWide) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}
new ResizeObserver(sayCut).observe(document.body);
document.addEventListener("scroll", sayCut, { capture: true, passive: true });
for (const node of document.querySelectorAll("details")) {
  node.addEventListener("toggle", sayCut);
}
sayCut();
