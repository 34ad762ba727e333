// The viewer's script, first part of three: small tools, text, and the model of a trace. The page is built from the JSON
// blocks in it with text nodes, never with markup. Then come view_pane.js and view.js, joined into one script.
"use strict";
const read = (id) => JSON.parse(document.getElementById(id)?.textContent ?? "null");
const page = read("page");
const UNKNOWN = 65535, MOST = 65534;  // codes of NaN, and of anything too large for a code
const ROWS = 20, UNITS = 1500, ROW_UNITS = 1500;  // most rows and text of a section, most text of a row
const KEPT = 60;  // sections that stay built behind the reader's back
const CODES = {
  doubt: "Db", backtrack: "Bt", alternative: "Al", verify: "Vf", assess: "As", conjecture: "Cj", plan: "Pl",
  restate: "Rs", recall: "Rc", infer: "In", conclude: "Cc", other: "Ot",
};
// What tokens can be shaded by; a level is the number of bounds that a value reaches. The same in every trace.
const SHADES = {
  entropy: { name: "entropy", unit: "nats", bounds: [0.1, 0.25, 0.5, 1, 1.5, 2, 3] },
  surprise: { name: "surprise (−log-prob)", unit: "nats", bounds: [0.1, 0.25, 0.5, 1, 2, 4, 8] },
  rank: { name: "rank", unit: "", bounds: [2, 3, 5, 10, 30, 100, 1000] },
  kl: { name: "KL to the reference", unit: "nats", bounds: [0.01, 0.03, 0.1, 0.3, 1, 3, 10] },
};
const state = { shade: "entropy", veil: true, panes: [], active: 0, index: -1, shown: "", query: "", printing: false };

// --- small tools -------------------------------------------------------------------------------------------------

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

const count = (n, one, many = one + "s") => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const plain = (name) => name.replaceAll("_", " ");

/** Position of the last value that is not above `x` in a rising array; -1 if all are. */
function lastUpTo(values, x) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The whole numbers of a packed array: its width in bytes, a colon, base64. */
function unpack(packed) {
  const bytes = Uint8Array.from(atob(packed.slice(2)), (c) => c.charCodeAt(0));
  return new { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array }[packed[0]](bytes.buffer);
}

const palette = new Map();
/** A colour of the style sheet as the canvas needs it: resolved for the theme that is on. */
function colour(name) {
  if (!palette.has(name)) {
    const probe = document.body.appendChild(el("i"));
    probe.style.color = `var(--${name})`;
    palette.set(name, getComputedStyle(probe).color);
    probe.remove();
  }
  return palette.get(name);
}

function brush(canvas) {
  const scale = devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = canvas;
  const pen = canvas.getContext("2d");
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.setLineDash([]);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function say(text) {
  document.getElementById("said").textContent = text;
}

// --- text: nothing that could act, hide or reorder stays unseen --------------------------------------------------

// Joiners and variation selectors are seen in what they join; elsewhere they are a way to hide things.
const HIDDEN = new RegExp(
  "(?!\\r\\n)[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b\\u200e"
  + "\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u2800\\u3164\\ufdd0-\\ufdef\\ufe00-\\ufe0d\\ufeff\\uffa0\\ufff0-\\ufffb\\u{1bca0}-\\u{1bca3}"
  + "\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}]|\\p{Cs}|\\p{Noncharacter_Code_Point}|(?<=[\\u0000-\\u024f])[\\u200c\\u200d]"
  + "|(?<![\\p{Extended_Pictographic}0-9#*])[\\ufe0e\\ufe0f]", "gu");
const GLYPHS = {
  ...["NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "TAB", "LF", "VT", "FF", "CR", "SO", "SI", "DLE", "DC1", "DC2",
    "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"],
  0x7f: "DEL", 0xad: "SHY", 0x61c: "ALM", 0x200b: "ZWSP", 0x200e: "LRM", 0x200f: "RLM", 0x2028: "LSEP", 0x2029: "PSEP",
  0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO", 0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI",
  0x2069: "PDI", 0xfeff: "BOM",
};

function glyph(character) {
  const code = character.codePointAt(0);
  const hex = "U+" + code.toString(16).toUpperCase().padStart(4, "0");
  if (code >= 0xe0020 && code < 0xe007f) return ["TAG " + String.fromCharCode(code - 0xe0000), hex];
  return [GLYPHS[code] ?? hex, hex];
}

/** Text with its hidden characters spelled out, for places that hold a string. */
const visible = (text) => text.replace(HIDDEN, (c) => `⟨${glyph(c)[0]}⟩`);

/** Appends text with labelled glyphs for hidden characters; notes in `pieces` which node shows which units. */
function appendText(into, text, start, pieces) {
  let from = 0;
  const add = (node, a, b) => {
    into.append(node);
    pieces?.push([start + a, start + b, node]);
  };
  for (const { 0: character, index } of text.matchAll(HIDDEN)) {
    if (index > from) add(document.createTextNode(text.slice(from, index)), from, index);
    const [short, hex] = glyph(character);
    from = index + character.length;
    add(el("span", { class: "glyph", title: hex, role: "img", "aria-label": `${short} ${hex}` }, short), index, from);
  }
  if (from < text.length) add(document.createTextNode(text.slice(from)), from, text.length);
}

/** The border between the data, which counts code points, and JavaScript, which counts UTF-16 units. */
function unitTable(text) {
  if (!/[\ud800-\udbff][\udc00-\udfff]/.test(text)) return (point) => point;
  const units = [0];
  for (const character of text) units.push(units[units.length - 1] + character.length);
  return (point) => units[point];
}

// --- the model of a trace ----------------------------------------------------------------------------------------

/** What the panes need of a trace's data; all offsets are units of `text`, which is prompt and completion. */
function prepare(data) {
  const base = data.prompt.length, points = unitTable(data.text), unit = (point) => base + points(point);
  const trace = { data, text: data.prompt + data.text, base, tokens: null };
  const { steps } = data;
  trace.steps = steps.start.map((start, i) => ({
    start: unit(start), stop: unit(steps.stop[i]), kind: page.kinds[steps.kind[i]] ?? "", reflects: steps.reflects[i] === 1,
    state: steps.state[i], markers: page.markers.filter((_, m) => (steps.markers[i] >> m) & 1),
    pReflect: steps.pReflect[i], pJailbreak: steps.pJailbreak[i],
  }));
  trace.answer = data.answer.map(unit);
  trace.answerUnsafe = /^(unsafe|controversial)/.test(data.verdicts.answer ?? "");
  if (data.tokens) trace.tokens = prepareTokens(data.tokens, unit);
  trace.rows = [...rowsOf(trace)];
  trace.rowStarts = trace.rows.map((row) => row.start);
  trace.sections = sectionsOf(trace.rows);
  trace.sectionStarts = trace.sections.map((section) => section.first);
  return trace;
}

function prepareTokens(packed, unit) {
  let point = 0;
  const points = Uint32Array.from(unpack(packed.starts), (gap) => (point += gap));
  const starts = points.map(unit), places = Uint32Array.from(unpack(packed.places), (gap, i) => unit(points[i] + gap));
  const values = Object.fromEntries(Object.entries(packed.values).map(([name, codes]) => [name, unpack(codes)]));
  const top = packed.top && { ...packed.top, index: unpack(packed.top.index), surprise: unpack(packed.top.surprise) };
  const high = values.entropy ? [...starts.keys()].filter((i) => isHigh(values.entropy[i])) : [];
  return { starts, places, values, top, high };
}

const isHigh = (code) => code > page.high && code !== UNKNOWN;

/** Rows cover prompt and completion to the last character: prompt, steps, answer, and what lies between them. */
function* rowsOf(trace) {
  const { base, steps, answer: [answerStart, answerStop] } = trace;
  yield* cut(trace.text, 0, base, "prompt", -1);
  let position = base;
  for (const [i, { start, stop }] of steps.entries()) {
    yield* cut(trace.text, position, start, "between", -1);
    yield* cut(trace.text, start, stop, "think", i);
    position = stop;
  }
  yield* cut(trace.text, position, answerStart, "between", -1);
  yield* cut(trace.text, Math.max(position, answerStart), answerStop, "answer", -1);
  yield* cut(trace.text, Math.max(position, answerStop), trace.text.length, "between", -1);
}

/** A stretch of text in rows of bounded length, cut after a line break, else after a space, else between characters. */
function* cut(text, start, stop, part, step) {
  const whole = part === "think";
  for (let first = true; start < stop; first = false) {
    let end = Math.min(stop, start + ROW_UNITS);
    if (end < stop || !whole) {
      const window = text.slice(start, end), line = whole ? window.lastIndexOf("\n") + 1 : lineEnd(window);
      end = start + (line || (end < stop && window.lastIndexOf(" ") + 1) || window.length);
      if (end < stop && /^[\udc00-\udfff]/.test(text[end])) end += 1;
    }
    yield { part, step, first, start, stop: end };
    start = end;
  }
}

/** The position after the line breaks that end the first line with text; 0 if there is no such line. */
function lineEnd(text) {
  const match = text.match(/^\n*[^\n]+\n+/);
  return match ? match[0].length : 0;
}

function sectionsOf(rows) {
  const sections = [];
  let units = 0;
  rows.forEach((row, i) => {
    const last = sections.at(-1), length = row.stop - row.start;
    if (last && last.part === row.part && i - last.first < ROWS && units + length <= UNITS) {
      last.stop = i + 1;
      units += length;
    } else {
      sections.push({ part: row.part, first: i, stop: i + 1, el: null, built: false, rows: [] });
      units = length;
    }
  });
  return sections;
}

/**
 * Stretches of a row with the text of one token, or of none (-1). A token with text of two rows is in both; the white
 * space before a word of a later row is no token's here, since the word's token belongs there.
 */
function* tokensIn({ tokens, text }, { start, stop }) {
  const starts = tokens?.starts ?? [], places = tokens?.places ?? [];
  for (let position = start; position < stop;) {
    const token = lastUpTo(starts, position);
    const end = Math.min(stop, starts[token + 1] ?? text.length);
    yield [position, end, places[token] >= stop ? -1 : token];
    position = end;
  }
}

function valueOf(trace, name, token) {
  const code = trace.tokens.values[name]?.[token] ?? UNKNOWN;
  return code === UNKNOWN ? NaN : name === "rank" ? code : code * page.natsStep;
}

function shown(trace, name, token) {
  const value = valueOf(trace, name, token);
  if (Number.isNaN(value)) return "not scored";
  const most = trace.tokens.values[name][token] === MOST ? "≥ " : "";
  return name === "rank" ? most + value.toLocaleString("en") : `${most}${value.toFixed(3)} nats`;
}

/** The tokens that begin at the same character (they are its bytes): the first, and the one after the last. */
function group(trace, token) {
  const { starts } = trace.tokens;
  let first = token, stop = token + 1;
  while (first > 0 && starts[first - 1] === starts[token]) first -= 1;
  while (stop < starts.length && starts[stop] === starts[token]) stop += 1;
  return [first, stop];
}

/** The one of these tokens with the highest value, which stands for all of them, and how many they are. */
function strongest(trace, token) {
  const [first, stop] = group(trace, token);
  let best = first;
  for (let i = first + 1; i < stop; i += 1) {
    if (!(valueOf(trace, state.shade, i) <= valueOf(trace, state.shade, best))) best = i;
  }
  return [best, stop - first];
}

function level(value) {
  return Number.isNaN(value) ? 0 : SHADES[state.shade].bounds.filter((bound) => value >= bound).length;
}

/** Where a value lies on the curve's axis, 0 to 1. */
function share(value) {
  const most = SHADES[state.shade].bounds.at(-1);
  return Math.min(1, state.shade === "rank" ? Math.log(value) / Math.log(most) : value / most);
}
