// Curves answer the pointer: the step below it, and each line's value there.
// A figure's data stand in its own attribute, as svg.py wrote them.

const MOST_LINES = 8; // rows of the box with the values
const NEAR = 0.04; // of the axis: a line without a point so near is left out

const scaled = (value, [low, high, isLog]) => isLog
  ? Math.log(value / low) / Math.log(high / low)
  : (value - low) / (high - low);

function shownValue(value, isShare) {
  if (isShare) return (100 * value).toFixed(1) + "%";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size && size < 0.001 ? value.toExponential(1) : value.toPrecision(3);
}

// The points of a panel's lines nearest to a place, the nearest line first.
function nearest(panel, x, y) {
  const [left, top, right, bottom] = panel.box;
  const points = [];
  for (const line of panel.lines) {
    const steps = panel.steps[line.at];
    let best = -1, distance = NEAR;
    steps.forEach((step, i) => {
      const at = scaled(step, panel.x);
      const away = Math.abs(at - (x - left) / (right - left));
      if (line.y[i] !== null && away <= distance) [best, distance] = [i, away];
    });
    if (best < 0) continue;
    const across = left + (right - left) * scaled(steps[best], panel.x);
    const down = bottom - (bottom - top) * scaled(line.y[best], panel.y);
    points.push({ line, step: steps[best], value: line.y[best], across, down });
  }
  return points.sort((a, b) => Math.abs(a.down - y) - Math.abs(b.down - y));
}

function follow(svg) {
  const panels = JSON.parse(svg.dataset.curves);
  const figure = svg.closest("figure");
  const box = element("div", "tip");
  box.setAttribute("aria-hidden", "true");
  box.hidden = true;
  figure.append(box);
  const dot = document.createElementNS(svg.namespaceURI, "circle");
  dot.setAttribute("r", "3.5");
  dot.style.display = "none";
  svg.append(dot);

  // With many lines all but the nearest one are faint.
  function emphasise(panel, line) {
    for (const other of panel ? panel.lines : []) {
      const node = document.getElementById(other.id);
      const isFaint = line && panel.lines.length > 2 && other !== line;
      if (node) node.style.opacity = isFaint ? 0.25 : 1;
    }
  }

  let current = null;
  function hide() {
    box.hidden = true;
    dot.style.display = "none";
    emphasise(current, null);
    current = null;
  }

  svg.addEventListener("pointermove", (event) => {
    const place = new DOMPoint(event.clientX, event.clientY)
      .matrixTransform(svg.getScreenCTM().inverse());
    const panel = panels.find(({ box: [left, top, right, bottom] }) =>
      left <= place.x && place.x <= right && top <= place.y &&
      place.y <= bottom);
    const points = panel ? nearest(panel, place.x, place.y) : [];
    if (current && current !== panel) emphasise(current, null);
    if (!points.length) { hide(); return; }
    current = panel;
    const [first] = points;
    emphasise(panel, first.line);
    dot.setAttribute("cx", first.across);
    dot.setAttribute("cy", first.down);
    dot.style.fill = first.line.color;
    dot.style.display = "";
    const rows = points.slice(0, MOST_LINES).map((point) => {
      const row = element("div", point === first ? "nearest" : "");
      const swatch = element("span", "swatch");
      swatch.style.background = point.line.color;
      row.append(swatch, visible(point.line.label) + " ",
                 element("b", "", shownValue(point.value, panel.share)));
      return row;
    });
    if (points.length > MOST_LINES) {
      rows.push(element("div", "", `and ${points.length - MOST_LINES} more`));
    }
    const step = Math.round(first.step).toLocaleString("en");
    box.replaceChildren(element("div", "", panel.name +
                          (panel.name === "k" ? " = " : " ") + step), ...rows);
    box.hidden = false;
    const frame = figure.getBoundingClientRect();
    const across = event.clientX - frame.left;
    const isRight = across > frame.width / 2;
    box.style.left = isRight ? "" : across + 14 + "px";
    box.style.right = isRight ? frame.width - across + 14 + "px" : "";
    box.style.top = event.clientY - frame.top + 10 + "px";
  });
  svg.addEventListener("pointerleave", hide);
}

for (const svg of document.querySelectorAll("svg[data-curves]")) follow(svg);
