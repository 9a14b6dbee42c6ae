// Draws FIGURES (their form: stepcoder/report/charts.py) as SVG, with the values under the pointer.
// Colors and fonts come from style.css, so that charts follow its light and dark themes.
"use strict";

const HEIGHT = 250;
const DOTTED_UP_TO = 30; // lines through more points have no dots
const BAR_SHARE = 0.72; // of the space that a bar could take
const BAR_WIDTH = 80; // pixels at most
const FONT = getComputedStyle(document.body).fontFamily;
const ruler = document.createElement("canvas").getContext("2d");

// Texts and elements

const colorOf = (name) => `var(--${name.replaceAll(" ", "-")}, var(--other))`;
const plain = (text) => text.replace(/<\/?b>/g, "");

/** Returns the width in pixels of the longest of some texts. */
function widthOf(texts, weight = 400) {
  ruler.font = `${weight} 12px ${FONT}`;
  return Math.max(0, ...texts.map((text) => ruler.measureText(text).width));
}

/** Returns a text that is cut to fit into a width. */
function clipped(text, width) {
  while (widthOf([text]) > width && text.length > 2) text = `${text.slice(0, -2)}…`;
  return text;
}

/** Returns a number as text, by a format of Python's ("+.1%", ",.0f", ".1e", ",d") or "compact". */
function format(value, form = "", decimals = 0) {
  const digits = Math.max(Number(form.match(/\.(\d)/)?.[1] ?? 0), decimals);
  if (form.endsWith("e")) return value.toExponential(digits).replace(/(?<=e[+-])\d$/, "0$&");
  if (form === "compact") {
    return new Intl.NumberFormat("en", {notation: "compact"}).format(value).toLowerCase();
  }
  return new Intl.NumberFormat("en", {
    style: form.endsWith("%") ? "percent" : "decimal",
    signDisplay: form.startsWith("+") ? "exceptZero" : "auto",
    minimumFractionDigits: form ? digits : 0,
    maximumFractionDigits: form ? digits : Math.max(2, digits),
  }).format(value);
}

/** Appends an SVG (or, with `html`, an HTML) element and returns it. */
function append(parent, tag, attributes = {}, text = "", html = false) {
  const namespace = html ? "http://www.w3.org/1999/xhtml" : "http://www.w3.org/2000/svg";
  const element = document.createElementNS(namespace, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  parent.append(element);
  return element;
}

const write = (svg, [x, y], text, anchor = "middle", more = {}) =>
  append(svg, "text", {x, y, "text-anchor": anchor, ...more}, text);

// From data to pixels

/** Returns about `count` round numbers from low to high, with their texts. */
function ticksOf(low, high, count, form = "") {
  if (low === high) return [{value: low, text: format(low, form)}];
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  if (form.endsWith("d")) step = Math.max(step, 1);
  // As many decimals as tell neighbors apart.
  const digit = (value) => Math.floor(Math.log10(value) + 1e-9);
  const unit = form.endsWith("%") ? -2
    : form.endsWith("e") ? digit(Math.max(Math.abs(low), Math.abs(high))) : 0;
  const places = Math.max(0, unit - digit(step));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({length: last - first + 1}, (_, i) => {
    const value = (first + i) * step;
    return {value, text: format(value, form, places)};
  });
}

/** Returns for each trace where its points begin and end on the axis of values. */
function spansOf(traces, stacked) {
  const totals = new Map();
  return traces.map((trace) => trace.y.map((value, i) => {
    if (trace.base) return [trace.base[i], trace.base[i] + value];
    if (trace.type !== "bar" && !stacked) return [value, value];
    const below = stacked ? (totals.get(trace.x[i]) ?? 0) : 0;
    totals.set(trace.x[i], below + value);
    return [below, below + value];
  }));
}

/** Returns the ends of the axis of values, around all that is drawn. */
function rangeOf(traces, spans, {y = {}, shapes = []}) {
  if (y.range) return y.range;
  const numbers = [
    ...spans.flat(2), ...shapes.map((shape) => shape.y0), ...(y.zero ? [0] : []),
    ...traces.flatMap((trace) => [...(trace.low ?? []), ...(trace.high ?? [])]),
  ].filter(Number.isFinite);
  if (!numbers.length) return [0, 1];
  let [low, high] = [Math.min(...numbers), Math.max(...numbers)];
  if (low === 0 && high === 0) return [0, 1];
  const around = low === high ? Math.abs(low) / 2 : 0;
  [low, high] = [low - around, high + around];
  const grounded = y.zero || traces.some((trace) => trace.type === "bar" || trace.type === "area");
  const room = (high - low) * 0.07;
  return [grounded && low === 0 ? 0 : low - room, grounded && high === 0 ? 0 : high + room];
}

/** Returns the lines of each name below an axis; `slanted` says that words are too long. */
function fitted(names, width) {
  if (/^\d/.test(names[0])) { // of numbers every second is enough, or every third, ...
    const every = Math.ceil((widthOf(names) + 4) / width);
    return {slanted: false, lines: names.map((name, i) => (i % every ? [] : [name]))};
  }
  const lines = names.map((name) => name.split(" ").reduce((done, word) => {
    const longer = `${done.at(-1)} ${word}`;
    const fits = done.length && widthOf([longer]) <= width - 6;
    return fits ? [...done.slice(0, -1), longer] : [...done, word];
  }, []));
  return {lines, slanted: widthOf(lines.flat()) > width - 2};
}

/** Returns a figure's scales and margins, which are as wide as the texts in them. */
function planOf(figure, traces, width, height) {
  const {layout, data} = figure;
  const sideways = Boolean(layout.sideways); // values run to the right, positions down
  const spans = spansOf(traces, layout.stacked);
  const [low, high] = rangeOf(traces, spans, layout);
  const positions = [...new Set(data.flatMap((trace) => trace.x))];
  const named = typeof positions[0] === "string";
  if (!named) positions.sort((a, b) => a - b);
  const bars = data.filter((trace) => trace.type === "bar");
  const labels = bars.flatMap((trace) => trace.labels ?? []);
  const ends = (layout.annotations ?? []).filter((note) => "x" in note).map((note) => note.text);

  const ticks = ticksOf(low, high, sideways ? (width - 120) / 90 : height / 40, layout.y?.format);
  const leftTexts = sideways ? positions : ticks.map((tick) => tick.text);
  const left = Math.min(widthOf(leftTexts), width * 0.4) + 12;
  const right = width - Math.max(
    14, widthOf(ends.map(plain), 700) + 12, sideways ? widthOf(labels) + 10 : 0,
    named ? 0 : widthOf([format(positions.at(-1), ",d")]) / 2,
  );
  const title = (sideways ? layout.y : layout.x)?.title ?? "";
  const below = named && !sideways ? fitted(positions, (right - left) / positions.length) : null;
  const lines = Math.max(1, ...(below?.lines.map((texts) => texts.length) ?? []));
  const depth = below?.slanted ? Math.min(widthOf(positions), 110) * 0.6 + 8 : 15 * lines;
  const bottom = height - depth - 8 - (title ? 17 : 0);
  const top = labels.length && !sideways ? 20 : 8;

  const [start, end] = sideways ? [top, bottom] : [left, right];
  const gaps = positions.slice(1).map((x, i) => x - positions[i]);
  const gap = gaps.length ? Math.min(...gaps) : 1;
  const half = bars.length ? gap / 2 : gaps.length ? 0 : 1;
  const inset = named || bars.length || traces.some((trace) => trace.type === "area") ? 0 : 6;
  const [first, last] = [positions[0] - half, positions.at(-1) + half];
  const index = new Map(positions.map((name, i) => [name, i]));
  const band = (end - start) * (named ? 1 / positions.length : gap / (last - first));
  const along = named ? (name) => start + band * (index.get(name) + 0.5)
    : (x) => start + inset + (x - first) / (last - first) * (end - start - 2 * inset);
  const up = sideways ? (value) => left + (value - low) / (high - low) * (right - left)
    : (value) => bottom - (value - low) / (high - low) * (bottom - top);
  return {
    ...{layout, spans, positions, named, sideways, bars, ticks, title, below, width, height},
    ...{left, right, top, bottom, start, end, first: first + half, last: last - half, band},
    ...{along, up, at: (position, value) => (sideways ? [value, position] : [position, value])},
  };
}

// Drawing

/** Draws a figure into its place; `hidden` are the names of the traces that are switched off. */
function draw(place, figure, hidden) {
  place.replaceChildren();
  if (figure.layout.legend) drawLegend(place, figure, hidden);
  const width = place.clientWidth;
  const height = Math.max(HEIGHT - (place.firstChild?.offsetHeight ?? 0), 180);
  const label = place.parentElement.querySelector("h2").textContent;
  const attributes = {class: "main-svg", width, height, role: "img", "aria-label": label};
  const svg = append(place, "svg", attributes);
  const traces = figure.data.filter((trace) => !hidden.has(trace.name));
  const plan = planOf(figure, traces, width, height);
  drawAxes(svg, plan);
  const marks = traces.flatMap((trace, t) => drawTrace(svg, plan, trace, plan.spans[t]));
  drawNotes(svg, plan);
  watch(place, svg, plan, marks);
}

/** Draws the names of the traces; a click on one hides its trace or shows it again. */
function drawLegend(place, figure, hidden) {
  const legend = append(place, "div", {class: "legend"}, "", true);
  for (const name of new Set(figure.data.map((trace) => trace.name))) {
    const {color} = figure.data.find((trace) => trace.name === name);
    const pressed = String(!hidden.has(name));
    const button = append(legend, "button", {type: "button", "aria-pressed": pressed}, "", true);
    append(button, "i", {style: `background: ${colorOf(color)}`}, "", true);
    button.append(name);
    button.onclick = () => {
      if (!hidden.delete(name)) hidden.add(name);
      draw(place, figure, hidden);
    };
  }
}

/** Draws a line across the plot at a value. */
function rule(svg, {at, up, start, end}, value, name) {
  const [[x1, y1], [x2, y2]] = [at(start, up(value)), at(end, up(value))];
  append(svg, "line", {class: name, x1, y1, x2, y2});
}

/** Draws the grid, the names of the positions and values, and the title of the axis below. */
function drawAxes(svg, plan) {
  const {layout, positions, sideways, below, left, right, bottom, along, up} = plan;
  for (const {value, text} of plan.ticks) {
    rule(svg, plan, value, value === 0 ? "grid zero" : "grid");
    if (sideways) write(svg, [up(value), bottom + 17], text);
    else write(svg, [left - 8, up(value) + 4], text, "end");
  }
  if (sideways) {
    for (const name of positions) {
      write(svg, [left - 8, along(name) + 4], clipped(name, left - 12), "end");
    }
  } else if (below?.slanted) {
    for (const name of positions) {
      const transform = `translate(${along(name) + 4} ${bottom + 14}) rotate(-35)`;
      write(svg, [0, 0], clipped(name, 110), "end", {transform});
    }
  } else if (below) {
    positions.forEach((name, i) => below.lines[i].forEach((line, j) => {
      write(svg, [along(name), bottom + 17 + 15 * j], line);
    }));
  } else {
    const count = (right - left) / 80;
    const form = layout.x?.format ?? ",d";
    for (const {value, text} of ticksOf(plan.first, plan.last, count, form)) {
      write(svg, [along(value), bottom + 17], text);
    }
  }
  if (plan.title) write(svg, [(left + right) / 2, plan.height - 5], plan.title);
}

/** Draws a trace; returns for each point a mark: its box, and what the pointer shows there. */
function drawTrace(svg, plan, trace, spans) {
  const {layout, along, up, at} = plan;
  const group = append(svg, "g", {class: `trace ${trace.type}${trace.faint ? " faint" : ""}`});
  const colorAt = (i) => colorOf(Array.isArray(trace.color) ? trace.color[i] : trace.color);
  const known = trace.x.map((_, i) => i).filter((i) => spans[i].every(Number.isFinite));
  const points = known.map((i) => at(along(trace.x[i]), up(spans[i][1])));
  let boxes = points.map((point) => [point, point]);

  if (trace.type === "bar") {
    boxes = boxesOf(plan, trace, spans, known);
    drawBars(svg, group, plan, known.map((i) => trace.labels?.[i]), boxes, known.map(colorAt));
  } else if (trace.type === "area") {
    const back = known.map((i) => at(along(trace.x[i]), up(spans[i][0]))).reverse();
    append(group, "path", {d: `M${[...points, ...back].join("L")}Z`, style: `fill: ${colorAt(0)}`});
  } else if (trace.type === "line" && points.length) {
    const style = `stroke: ${colorAt(0)}; stroke-width: ${trace.width ?? 2.5}`;
    append(group, "path", {d: `M${points.join("L")}`, style});
  }

  const form = layout.hover ?? layout.y?.format;
  const marks = known.map((i, j) => {
    const [low, high] = [trace.low?.[i], trace.high?.[i]];
    let text = format(trace.y[i], form) + (layout.unit ?? "");
    if (Number.isFinite(low) && Number.isFinite(high)) {
      drawInterval(group, plan, along(trace.x[i]), low, high);
      text += ` (${format(low, form)} to ${format(high, form)})`;
    }
    const name = trace.points?.[i] ?? trace.name ?? "";
    const dot = trace.type === "line" && points[j];
    return {box: boxes[j], x: trace.x[i], color: colorAt(i), name, text, dot};
  });
  const dotted = trace.type === "line" && points.length <= DOTTED_UP_TO && !trace.plain;
  if (dotted || trace.type === "dots") {
    points.forEach(([cx, cy], j) => {
      append(group, "circle", {cx, cy, r: trace.size ?? 3, style: `fill: ${colorAt(known[j])}`});
    });
  }
  return marks;
}

/** Returns two corners of each bar; without a base or stacking, traces stand side by side. */
function boxesOf({layout, positions, named, bars, band, along, up, at}, trace, spans, known) {
  const side = layout.stacked || trace.base ? 1 : bars.length;
  const share = !named && positions.length >= 40 ? 1 : BAR_SHARE;
  const thickness = Math.min(band * share, BAR_WIDTH) / side;
  const shift = side > 1 ? (bars.indexOf(trace) - (side - 1) / 2) * thickness : 0;
  return known.map((i) => {
    const middle = along(trace.x[i]) + shift;
    const corner = (edge, value) => at(middle + edge * thickness / 2, up(value));
    return [corner(-1, spans[i][0]), corner(1, spans[i][1])];
  });
}

/** Draws the bars, those of one color as one path, and the labels at their ends that have room. */
function drawBars(svg, group, {sideways, band}, labels, boxes, colors) {
  const paths = new Map();
  boxes.forEach(([[x0, y0], [x1, y1]], j) => {
    paths.set(colors[j], `${paths.get(colors[j]) ?? ""}M${x0},${y0}V${y1}H${x1}V${y0}Z`);
    if (!labels[j]) return;
    if (sideways) write(svg, [x1 + 5, (y0 + y1) / 2 + 4], labels[j], "start", {class: "label"});
    else if (widthOf([labels[j]]) + 4 < band) {
      write(svg, [(x0 + x1) / 2, y1 - 6], labels[j], "middle", {class: "label"});
    }
  });
  for (const [color, d] of paths) append(group, "path", {d, style: `fill: ${color}`});
}

/** Draws an interval as a line with a cap at each end. */
function drawInterval(group, {up, at}, middle, low, high) {
  const stroke = (a, b) => `M${a}L${b}`;
  const cap = (value) => stroke(at(middle - 4, up(value)), at(middle + 4, up(value)));
  const d = cap(low) + cap(high) + stroke(at(middle, up(low)), at(middle, up(high)));
  append(group, "path", {class: "interval", d});
}

/** Draws the lines across and the texts at values. */
function drawNotes(svg, plan) {
  for (const {y0} of plan.layout.shapes ?? []) rule(svg, plan, y0, "guide");
  for (const note of plan.layout.annotations ?? []) {
    const y = plan.up(note.y);
    const text = plain(note.text);
    const name = text === note.text ? "" : "strong";
    if ("x" in note) write(svg, [plan.right + 6, y + 4], text, "start", {class: name});
    else write(svg, [plan.right, y + (note.below ? 16 : -6)], text, "end");
  }
}

// Values under the pointer

/** Shows the values at the position under the pointer or, where the layout asks, the closest. */
function watch(place, svg, plan, marks) {
  const hover = append(svg, "g", {class: "hover"});
  const tip = append(place, "div", {class: "tip", hidden: ""}, "", true);
  const {layout, named, sideways, along} = plan;
  const away = ({box}, pointer, k) => {
    const [low, high] = [box[0][k], box[1][k]].sort((a, b) => a - b);
    return Math.max(low - pointer[k], 0, pointer[k] - high);
  };
  const distance = (mark, pointer) => (layout.closest
    ? Math.hypot(away(mark, pointer, 0), away(mark, pointer, 1))
    : Math.abs(along(mark.x) - pointer[sideways ? 1 : 0]));
  const leave = () => {
    hover.replaceChildren();
    tip.hidden = true;
  };
  svg.onpointerleave = leave;
  svg.onpointerdown = svg.onpointermove = (event) => {
    leave();
    const frame = svg.getBoundingClientRect();
    const pointer = [event.clientX - frame.left, event.clientY - frame.top];
    const distances = marks.map((mark) => distance(mark, pointer));
    const nearest = marks[distances.indexOf(Math.min(...distances))];
    if (!nearest) return;
    const shown = layout.closest ? [nearest] : marks.filter((mark) => mark.x === nearest.x);
    if (!layout.closest && !named) {
      const x = along(nearest.x);
      append(hover, "line", {x1: x, x2: x, y1: plan.top, y2: plan.bottom});
    }
    for (const {dot, color} of shown.filter((mark) => mark.dot)) {
      append(hover, "circle", {cx: dot[0], cy: dot[1], r: 4.5, style: `fill: ${color}`});
    }
    const position = named ? nearest.x : format(nearest.x, ",d");
    fill(tip, `${layout.x?.title ?? ""} ${position}`, shown);
    tip.hidden = false;
    const fits = pointer[0] + 16 + tip.offsetWidth <= frame.width;
    const x = fits ? pointer[0] + 16 : pointer[0] - tip.offsetWidth - 16;
    const y = frame.top - place.getBoundingClientRect().top + pointer[1] - tip.offsetHeight / 2;
    tip.style.transform = `translate(${Math.max(x, 0)}px, ${Math.max(y, 0)}px)`;
  };
}

/** Fills the tip with a title and a row for each mark. */
function fill(tip, title, marks) {
  tip.replaceChildren();
  append(tip, "b", {}, title, true);
  for (const {color, name, text} of marks) {
    const row = append(tip, "p", {}, "", true);
    append(row, "i", {style: `background: ${color}`}, "", true);
    append(row, "span", {}, name, true);
    append(row, "span", {}, text, true);
  }
}

// The page

const redraw = new Map(); // by place
const resized = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    const drawn = target.querySelector(".main-svg").width.baseVal.value;
    if (target.clientWidth !== drawn) redraw.get(target)();
  }
});
for (const [name, figure] of Object.entries(FIGURES)) {
  const place = document.getElementById(name);
  const hidden = new Set();
  redraw.set(place, () => draw(place, figure, hidden));
  redraw.get(place)();
  resized.observe(place);
}
document.body.dataset.drawn = redraw.size;
