// Draws FIGURES (their form: stepcoder/report/charts.py) as SVG, with the values under the pointer.
// Colors and fonts are style.css's, so that the charts follow its light and its dark theme.
"use strict";

const HEIGHT = 250;
const DOTTED_UP_TO = 30; // lines through more points have no dots
const FONT = getComputedStyle(document.body).fontFamily;
const ruler = document.createElement("canvas").getContext("2d");

const colorOf = (name) => `var(--${name.replaceAll(" ", "-")}, var(--other))`;
const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const widthOf = (texts, weight = 400) => {
  ruler.font = `${weight} 12px ${FONT}`;
  return Math.max(0, ...texts.map((text) => ruler.measureText(text).width));
};

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

/** Returns about `count` round numbers from low to high, with their texts. */
function ticksOf(low, high, count, form = "") {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  if (form.endsWith("d")) step = Math.max(step, 1);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) - (form.endsWith("%") ? 2 : 0));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({length: last - first + 1}, (_, i) => {
    const value = (first + i) * step;
    return {value, text: format(value, form, form.endsWith("e") ? 0 : decimals)};
  });
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

/** Returns where each point of the traces begins and ends on the axis of values. */
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
function rangeOf(traces, spans, layout) {
  if (layout.y?.range) return layout.y.range;
  const numbers = [
    ...spans.flat(2),
    ...traces.flatMap((trace) => [...(trace.low ?? []), ...(trace.high ?? [])]),
    ...(layout.shapes ?? []).map((shape) => shape.y0),
    ...(layout.y?.zero ? [0] : []),
  ].filter(Number.isFinite);
  let low = Math.min(...numbers);
  let high = Math.max(...numbers);
  if (!numbers.length) [low, high] = [0, 1];
  if (low === high) [low, high] = [low - (Math.abs(low) / 2 || 1), high + (Math.abs(high) / 2 || 1)];
  const grounded = layout.y?.zero || traces.some((trace) => trace.type !== "line" && trace.type !== "dots");
  const room = (high - low) * 0.07;
  return [grounded && low === 0 ? 0 : low - room, grounded && high === 0 ? 0 : high + room];
}

/** Returns the names below an axis, each as lines that fit; `slanted` where words are too long. */
function fitted(names, width) {
  if (/^\d/.test(names[0])) { // of numbers every second is enough, or every third, ...
    const every = Math.ceil((widthOf(names) + 4) / width);
    return {slanted: false, lines: names.map((name, i) => (i % every ? [] : [name]))};
  }
  const lines = names.map((name) => name.split(" ").reduce((lines, word) => {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    const fits = lines.length && widthOf([longer]) <= width - 6;
    return fits ? [...lines.slice(0, -1), longer] : [...lines, word];
  }, []));
  const slanted = widthOf(lines.flat()) > width - 2;
  return {slanted, lines: slanted ? names.map((name) => [name]) : lines};
}

/** Draws a figure into its place; `hidden` are the names of the traces that are switched off. */
function draw(place, figure, hidden = new Set()) {
  const {layout} = figure;
  const sideways = Boolean(layout.sideways); // values run to the right, positions down
  place.replaceChildren();
  if (layout.legend) drawLegend(place, figure, hidden);
  const width = place.clientWidth;
  const height = Math.max(HEIGHT - (place.firstChild?.offsetHeight ?? 0), 180);
  const label = place.parentElement.querySelector("h2").textContent;
  const svg = append(place, "svg", {class: "main-svg", width, height, role: "img", "aria-label": label});

  const traces = figure.data.filter((trace) => !hidden.has(trace.name));
  const spans = spansOf(traces, layout.stacked);
  const [low, high] = rangeOf(traces, spans, layout);
  const bars = figure.data.filter((trace) => trace.type === "bar");
  const named = typeof figure.data.find((trace) => trace.x.length)?.x[0] === "string";
  const positions = [...new Set(figure.data.flatMap((trace) => trace.x))];
  if (!named) positions.sort((a, b) => a - b);
  const gap = positions.length < 2 ? 1 : Math.min(...positions.slice(1).map((x, i) => x - positions[i]));

  // The margins are as wide as the texts in them.
  const values = ticksOf(low, high, sideways ? (width - 120) / 90 : height / 40, layout.y?.format);
  const tags = bars.flatMap((trace) => trace.labels ?? []);
  const leftTexts = sideways ? positions : values.map((tick) => tick.text);
  const left = Math.min(widthOf(leftTexts), width * 0.4) + 12;
  const endTexts = (layout.annotations ?? []).filter((note) => "x" in note);
  const right = width - Math.max(
    14, widthOf(endTexts.map((note) => bare(note.text)), 700) + 12, sideways ? widthOf(tags) + 10 : 0,
  );
  const axisTitle = (sideways ? layout.y : layout.x)?.title ?? "";
  const below = named && !sideways ? fitted(positions, (right - left) / positions.length) : null;
  const depth = below?.slanted ? Math.min(widthOf(positions), 110) * 0.6 + 8
    : 15 * Math.max(1, ...(below?.lines.map((lines) => lines.length) ?? []));
  const bottom = height - depth - 8 - (axisTitle ? 17 : 0);
  const top = tags.length && !sideways ? 20 : 8;

  // From data to pixels: `along` for positions, `up` for values.
  const [start, end] = sideways ? [top, bottom] : [left, right];
  const half = bars.length ? gap / 2 : positions.length < 2 ? 1 : 0;
  const inset = named || bars.length || traces.some((trace) => trace.type === "area") ? 0 : 6;
  const [first, last] = [positions[0] - half, positions.at(-1) + half];
  const band = named ? (end - start) / positions.length : gap * (end - start) / (last - first);
  const index = new Map(positions.map((name, i) => [name, i]));
  const along = named ? (name) => start + band * (index.get(name) + 0.5)
    : (x) => start + inset + (x - first) / (last - first) * (end - start - 2 * inset);
  const share = (value) => (value - low) / (high - low);
  const up = sideways ? (value) => left + share(value) * (right - left)
    : (value) => bottom - share(value) * (bottom - top);
  const at = (position, value) => (sideways ? [value, position] : [position, value]);
  const rule = (value, name) => {
    const [[x1, y1], [x2, y2]] = [at(start, up(value)), at(end, up(value))];
    append(svg, "line", {class: name, x1, y1, x2, y2});
  };
  const write = (x, y, text, anchor = "middle", more = {}) =>
    append(svg, "text", {x, y, "text-anchor": anchor, ...more}, text);

  for (const tick of values) {
    rule(tick.value, tick.value === 0 ? "grid zero" : "grid");
    if (sideways) write(up(tick.value), bottom + 17, tick.text);
    else write(left - 8, up(tick.value) + 4, tick.text, "end");
  }
  if (sideways) {
    for (const name of positions) write(left - 8, along(name) + 4, clipped(name, left - 12), "end");
  } else if (below?.slanted) {
    for (const name of positions) {
      const turn = `translate(${along(name) + 4} ${bottom + 14}) rotate(-35)`;
      write(0, 0, clipped(name, 110), "end", {transform: turn});
    }
  } else if (below) {
    positions.forEach((name, i) => below.lines[i].forEach((line, j) =>
      write(along(name), bottom + 17 + 15 * j, line)));
  } else {
    const form = layout.x?.format ?? ",d";
    for (const {value, text} of ticksOf(first + half, last - half || 1, (end - start) / 80, form)) {
      write(along(value), bottom + 17, text);
    }
  }
  write((left + right) / 2, height - 5, axisTitle);

  const marks = []; // what the pointer can find: its box, position, color and texts
  traces.forEach((trace, t) => {
    const group = append(svg, "g", {class: `trace ${trace.type}${trace.faint ? " faint" : ""}`});
    const colorAt = (i) => colorOf(Array.isArray(trace.color) ? trace.color[i] : trace.color);
    const known = trace.x.map((_, i) => i).filter((i) => spans[t][i].every(Number.isFinite));
    const points = known.map((i) => at(along(trace.x[i]), up(spans[t][i][1])));
    let thickness = 0;
    if (trace.type === "bar") {
      const side = layout.stacked || trace.base ? 1 : bars.length; // side by side in a band
      thickness = band * (!named && positions.length >= 40 ? 1 : 0.72) / side;
      const shift = side > 1 ? (bars.indexOf(trace) - (side - 1) / 2) * thickness : 0;
      const paths = new Map();
      known.forEach((i) => {
        const middle = along(trace.x[i]) + shift;
        const [x0, y0] = at(middle - thickness / 2, up(spans[t][i][0]));
        const [x1, y1] = at(middle + thickness / 2, up(spans[t][i][1]));
        paths.set(colorAt(i), `${paths.get(colorAt(i)) ?? ""}M${x0},${y0}V${y1}H${x1}V${y0}Z`);
        const tag = trace.labels?.[i];
        if (tag && sideways) write(x1 + 5, (y0 + y1) / 2 + 4, tag, "start", {class: "label"});
        else if (tag && widthOf([tag]) + 4 < band) write((x0 + x1) / 2, y1 - 6, tag, "middle", {class: "label"});
      });
      for (const [fill, d] of paths) append(group, "path", {d, style: `fill: ${fill}`});
    } else if (trace.type === "area") {
      const back = known.map((i) => at(along(trace.x[i]), up(spans[t][i][0]))).reverse();
      append(group, "path", {d: `M${[...points, ...back].join("L")}Z`, style: `fill: ${colorAt(0)}`});
    } else if (trace.type === "line" && points.length) {
      const style = `stroke: ${colorAt(0)}; stroke-width: ${trace.width ?? 2.5}`;
      append(group, "path", {d: `M${points.join("L")}`, style});
    }
    const form = layout.hover ?? layout.y?.format;
    known.forEach((i, j) => {
      const middle = along(trace.x[i]);
      const [a, b] = [trace.low?.[i], trace.high?.[i]];
      let text = format(trace.y[i], form) + (layout.unit ?? "");
      if (Number.isFinite(a) && Number.isFinite(b)) {
        const caps = [a, b].map((value) =>
          `M${at(middle - 4, up(value))}L${at(middle + 4, up(value))}`).join("");
        append(group, "path", {class: "interval", d: `${caps}M${at(middle, up(a))}L${at(middle, up(b))}`});
        text += ` (${format(a, form)} to ${format(b, form)})`;
      }
      const from = at(middle - thickness / 2, up(spans[t][i][trace.type === "bar" ? 0 : 1]));
      const to = at(middle + thickness / 2, up(spans[t][i][1]));
      marks.push({
        ...{from, to, x: trace.x[i], color: colorAt(i), dot: trace.type === "line" && points[j]},
        ...{name: trace.points?.[i] ?? trace.name ?? "", text},
      });
    });
    const dotted = trace.type === "line" && points.length <= DOTTED_UP_TO && !trace.plain;
    if (trace.type === "dots" || dotted) {
      known.forEach((i, j) => append(group, "circle", {
        cx: points[j][0], cy: points[j][1], r: trace.size ?? 3, style: `fill: ${colorAt(i)}`,
      }));
    }
  });

  for (const shape of layout.shapes ?? []) rule(shape.y0, "guide");
  for (const note of layout.annotations ?? []) {
    const strong = note.text !== bare(note.text);
    if ("x" in note) write(right + 6, up(note.y) + 4, bare(note.text), "start", {class: strong ? "strong" : ""});
    else write(right, up(note.y) + (note.below ? 16 : -6), bare(note.text), "end");
  }
  watch(place, svg, marks, (x) => (named ? x : `${axisTitle} ${format(x, ",d")}`), {
    ...{sideways, along, start, end, top, bottom, left, right, named}, closest: layout.closest,
  });
}

const bare = (text) => text.replace(/<\/?b>/g, "");
const clipped = (text, width) => {
  while (widthOf([text]) > width && text.length > 2) text = `${text.slice(0, -2)}…`;
  return text;
};

/** Draws the names of the traces; a click on one hides its trace or shows it again. */
function drawLegend(place, figure, hidden) {
  const legend = append(place, "div", {class: "legend"}, "", true);
  for (const name of new Set(figure.data.filter((t) => !t.unlisted).map((t) => t.name))) {
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
  place.onresized = () => draw(place, figure, hidden);
}

/** Shows the values at the position under the pointer, or of the closest mark. */
function watch(place, svg, marks, titleOf, frame) {
  const hover = append(svg, "g", {class: "hover"});
  const tip = append(place, "div", {class: "tip", hidden: ""}, "", true);
  const leave = () => { hover.replaceChildren(); tip.hidden = true; };
  svg.onpointerleave = leave;
  svg.onpointerdown = svg.onpointermove = (event) => {
    leave();
    const box = svg.getBoundingClientRect();
    const pointer = [event.clientX - box.left, event.clientY - box.top];
    const away = (mark, k) => {
      const [a, b] = [mark.from[k], mark.to[k]].sort((p, q) => p - q);
      return Math.max(a - pointer[k], 0, pointer[k] - b);
    };
    const distance = frame.closest ? (mark) => Math.hypot(away(mark, 0), away(mark, 1))
      : (mark) => Math.abs(frame.along(mark.x) - pointer[frame.sideways ? 1 : 0]);
    const nearest = marks.reduce((best, mark) => (!best || distance(mark) < distance(best) ? mark : best), null);
    if (!nearest) return;
    const shown = frame.closest ? [nearest] : marks.filter((mark) => mark.x === nearest.x);
    if (!frame.closest && !frame.named) {
      const x = frame.along(nearest.x);
      append(hover, "line", {x1: x, x2: x, y1: frame.top, y2: frame.bottom});
    }
    for (const {dot, color} of shown.filter((mark) => mark.dot)) {
      append(hover, "circle", {cx: dot[0], cy: dot[1], r: 4.5, style: `fill: ${color}`});
    }
    tip.replaceChildren();
    append(tip, "b", {}, titleOf(nearest.x), true);
    for (const mark of shown) {
      const row = append(tip, "p", {}, "", true);
      append(row, "i", {style: `background: ${mark.color}`}, "", true);
      append(row, "span", {}, mark.name, true);
      append(row, "span", {}, mark.text, true);
    }
    tip.hidden = false;
    const fits = pointer[0] + 16 + tip.offsetWidth <= box.width;
    const x = Math.max(fits ? pointer[0] + 16 : pointer[0] - tip.offsetWidth - 16, 0);
    const y = box.top - place.getBoundingClientRect().top + pointer[1] - tip.offsetHeight / 2;
    tip.style.transform = `translate(${x}px, ${Math.max(y, 0)}px)`;
  };
}

const resized = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    if (target.clientWidth !== target.drawnWidth) target.onresized();
    target.drawnWidth = target.clientWidth;
  }
});
for (const [name, figure] of Object.entries(FIGURES)) {
  const place = document.getElementById(name);
  place.onresized = () => draw(place, figure);
  place.onresized();
  place.drawnWidth = place.clientWidth;
  resized.observe(place);
}
document.body.dataset.drawn = Object.keys(FIGURES).length;
