// The viewer's third part: search, the table of traces, and the page with its keys.

// --- search ------------------------------------------------------------------------------------------------------

const found = { all: [], at: -1 };  // matches in the active pane's text, in units

const foundStarts = () => found.all.map(([start]) => start);

function search(query) {
  state.query = query;
  found.at = -1;
  found.all = [];
  if (state.panes.length && query) {
    const pattern = new RegExp(query.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&"), "gi");
    const { text } = state.panes[state.active].trace;
    found.all = [...text.matchAll(pattern)].map(({ 0: match, index }) => [index, index + match.length]);
  }
  if (!state.panes.length) {
    table.query = query;
    filterRows();
  }
  sayFound();
  paintFound();
}

function sayFound() {
  const { all, at } = found, n = all.length.toLocaleString("en"), rows = page.rows.length.toLocaleString("en");
  const words = !state.panes.length ? `${table.order.length.toLocaleString("en")} of ${rows} traces` : at < 0 ? n + " found" : `${at + 1} of ${n}`;
  document.getElementById("found").textContent = state.query ? words : "";
}

function nextFound(direction) {
  const pane = state.panes[state.active];
  if (!pane || !found.all.length) return;
  const start = pane.trace.rows[pane.here()].start;
  if (found.at < 0) found.at = Math.max(0, lastUpTo(foundStarts(), start - 1) + 1) - (direction > 0 ? 1 : 0);
  found.at = (found.at + direction + found.all.length) % found.all.length;
  const field = document.activeElement;
  pane.revealUnit(found.all[found.at][0]);
  if (field.id === "query") field.focus({ preventScroll: true });
  sayFound();
  paintFound();
}

/** Marks what was found in the sections that are built; the browser paints ranges without touching the text. */
function paintFound() {
  if (!window.Highlight) return;
  if (!state.panes.length) return CSS.highlights.clear();
  if (!found.all.length && !CSS.highlights.get("found")?.size && !CSS.highlights.get("found-now")?.size) return;
  const marks = new Highlight(), now = new Highlight(), { trace, near } = state.panes[state.active], starts = foundStarts();
  for (const section of near) {
    for (const row of section.rows) {
      const { start, stop } = trace.rows[row.index];
      for (let i = Math.max(0, lastUpTo(starts, start)); starts[i] < stop; i += 1) {
        addRange(i === found.at ? now : marks, row.pieces, found.all[i]);
      }
    }
  }
  CSS.highlights.set("found", marks);
  CSS.highlights.set("found-now", now);
}

function addRange(highlight, pieces, [from, to]) {
  for (const [start, stop, node] of pieces) {
    if (stop <= from || start >= to) continue;
    const range = new Range();
    if (node.nodeType === Node.TEXT_NODE) {
      range.setStart(node, Math.max(0, from - start));
      range.setEnd(node, Math.min(stop, to) - start);
    } else range.selectNodeContents(node);
    highlight.add(range);
  }
}

// --- the table of traces -----------------------------------------------------------------------------------------

const COLUMNS = [
  ["id", "trace", ""], ["strip", "path", "", "unsafe, reflecting and refusing steps, from the first to the last"],
  ["status", "thought", ""], ["tokens", "tokens", "number"], ["steps", "steps", "number"],
  ["reflect", "reflecting", "number", "steps"], ["unsafe", "unsafe", "number", "steps that carry a marker of exploration"],
  ["entropy", "entropy", "number", "mean over the completion's tokens, nats"],
  ["high", "high-entropy", "number", "tokens above the page's threshold"],
  ["thinking", "thinking", "", "the judge's verdict"], ["answer", "answer", "", "the judge's verdict"], ["full", "all", "", "the judge's verdict"],
];
const BESIDE = ["strip", "steps", "reflect", "unsafe", "entropy", "thinking", "answer"];  // two runs leave less room
const cellOf = (row, key) => row?.[key] ?? row?.verdicts[key] ?? null;

// Order and filter of the table, kept while a trace is read: [ and ] follow them.
const table = { sorted: "", up: true, query: "", order: page.rows.map((_, i) => i), scroll: 0 };

function overview() {
  const rows = page.rows.map((row, i) => ({ row, other: page.beside[i], i }));
  const used = (list) => ([key]) => list.some((row) => cellOf(row, key) !== null);
  const first = COLUMNS.filter(used(page.rows)).filter(([key]) => !page.names[1] || key === "id" || BESIDE.includes(key));
  const columns = first.map((column) => ({ column, of: (r) => r.row, side: 0 }));
  const second = COLUMNS.filter(([key]) => BESIDE.includes(key)).filter(used(page.beside));
  columns.push(...second.map((column) => ({ column, of: (r) => r.other, side: 1 })));
  const body = el("tbody"), heads = columns.map((column) => headCell(column, () => sortBy(column)));
  const caption = el("caption", { class: "sr" }, `traces of ${page.names.filter(Boolean).map(visible).join(" and ")}`);
  const whole = el("table", {}, caption, el("thead", {}, el("tr", {}, ...heads)), body);
  const classes = page.names[1] ? "overview pairs" : "overview";
  const node = el("div", { class: classes, tabindex: 0, role: "region", "aria-label": "table of traces" }, el("p", {}, aboutRows()), whole);
  const nameOf = ({ column, side }) => `${column[0]} ${side}`;
  function sortBy(column) {
    table.up = table.sorted === nameOf(column) ? !table.up : column.column[2] !== "number";
    table.sorted = nameOf(column);
    fill();
    drawStrips();
  }
  function fill() {
    const by = columns.find((column) => nameOf(column) === table.sorted);
    const value = (r) => by.column[0] === "strip" ? by.of(r)?.unsafe ?? null : cellOf(by.of(r), by.column[0]);
    if (by) rows.sort((a, b) => compare(value(a), value(b), table.up) || a.i - b.i);
    heads.forEach((head, i) => head.setAttribute("aria-sort", columns[i] !== by ? "none" : table.up ? "ascending" : "descending"));
    body.replaceChildren(...rows.map((r) => traceRow(r, columns)));
    filterRows(body);
  }
  fill();
  return node;
}

/** Unknown values come last, whichever way the table is sorted. */
function compare(a, b, up) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return up ? order : -order;
}

function headCell({ column: [, name, kind, title], side }, onclick) {
  const classes = [kind, side && "beside"].filter(Boolean).join(" ");
  const label = side ? `${name}: ${visible(page.names[1])}` : name;
  const button = el("button", { onclick, title: [label, title].filter(Boolean).join(", "), "aria-label": label }, name);
  return el("th", { class: classes, scope: "col", "aria-sort": "none" }, button);
}

function traceRow(r, columns) {
  return el("tr", { "data-trace": r.i }, ...columns.map(({ column: [key, , kind], of, side }) => {
    const row = of(r), value = cellOf(row, key), bad = key === "unsafe" ? value > 0 : /^(unsafe|contr)/.test(value ?? "");
    const cell = el("td", { class: [kind, side && "beside", bad && "marked"].filter(Boolean).join(" ") });
    if (key === "id") cell.append(el("a", { href: `#${r.i}` }, visible(value)), el("span", { class: "asked" }, visible(row.prompt)));
    else if (key === "strip" && row) cell.append(el("canvas", { class: "strip", role: "img", "data-strip": value, "aria-label": spoken(row) }));
    else cell.append(value === null ? "" : key === "entropy" ? value.toFixed(3) : typeof value === "number" ? value.toLocaleString("en") : visible(value));
    return cell;
  }));
}

const spoken = ({ steps, reflect, unsafe }) => `${steps} steps, ${reflect} reflecting, ${unsafe} unsafe`;

function aboutRows() {
  const { rows, total, names, high } = page, some = rows.length < total ? `${rows.length} of ${total.toLocaleString("en")} traces` : count(rows.length, "trace");
  const beside = names[1] ? ` of ${visible(names[0])}, with ${visible(names[1])} on the same prompts (shaded columns)` : "";
  const threshold = high === MOST ? "" : ` A token is of high entropy above ${(high * page.natsStep).toFixed(3)} nats: the top fifth of this page's tokens.`;
  return `${some}${beside}. Click a heading to sort, a trace to read it; press ? for the keys.${threshold}`;
}

function drawStrips() {
  for (const canvas of document.querySelectorAll("canvas.strip")) {
    const { pen, width, height } = brush(canvas), cells = canvas.dataset.strip, cell = width / cells.length;
    pen.fillStyle = colour("line");
    pen.fillRect(0, height / 2 - 0.5, width, 1);
    [...cells].forEach((mark, i) => {  // told apart by place and size too: unsafe full, reflecting above, refusing below
      const shape = { u: ["unsafe", 0, 1], r: ["reflect", 0.1, 0.4], s: ["safe", 0.5, 0.4] }[mark];
      if (!shape) return;
      pen.fillStyle = colour(shape[0]);
      pen.fillRect(i * cell, shape[1] * height, Math.max(1.5, cell - 0.5), shape[2] * height);
    });
  }
}

/** Hides the rows that the search does not find. */
function filterRows(body = document.querySelector(".overview tbody")) {
  const wanted = table.query.toLowerCase();
  table.order = [];
  for (const row of body?.rows ?? []) {
    const { id, prompt } = page.rows[row.dataset.trace];
    row.hidden = !`${id} ${prompt}`.toLowerCase().includes(wanted);
    if (!row.hidden) table.order.push(Number(row.dataset.trace));
  }
}

// --- the page ----------------------------------------------------------------------------------------------------

const KEYS = [
  ["j  k", "next, previous step"], ["r  R", "next, previous reflecting step"], ["u  U", "next, previous unsafe step"],
  ["h  H", "next, previous high-entropy token"], ["→  ←", "next, previous token, with its numbers"],
  ["/", "search; Enter and Shift+Enter go on"], ["n  N", "next, previous match"], ["v", "show or hide the unsafe text of the current step"],
  ["b", "blur all unsafe text, or none"], ["s", "shade tokens by the next quantity"], ["[  ] or ,  .", "previous, next trace, in the order of the table"],
  ["x", "the other pane"], ["o", "all traces"], ["t", "theme: system, light, dark"], ["?", "this help"],
];

function legend() {
  const line = (name, text) => el("tr", {}, el("td", {}, name), el("td", {}, text));
  const kinds = page.kinds.map((kind, i) => el("span", { class: i < page.nReflective ? "turn" : null }, `${i < page.nReflective ? "↺ " : ""}${kind} ${CODES[kind] ?? ""}`));
  return el("dialog", { id: "help", "aria-label": "keys and signs" },
    el("form", { method: "dialog" }, el("button", {}, "close")), el("h2", {}, "Keys"), el("table", {}, ...KEYS.map(([keys, text]) => line(el("kbd", {}, keys), text))),
    el("h2", {}, "Signs"), el("table", {},
      line(el("span", { class: "turn" }, "↺ kind"), "what the step does; ↺: it reflects"),
      line(el("span", { class: "mark bad" }, "marker"), "the step explores something unsafe"),
      line(el("span", { class: "mark good" }, "refusal intent"), "it decides not to help"),
      line(el("span", { class: "mark note" }, "marker"), "it notices a risk, or wavers"),
      line("map", "left: the quantity; middle: reflection; right: unsafe (wide) and refusal (narrow)"),
      line("shade", "of a token: the quantity chosen above, by the bounds below the text"),
      line("curves", "solid: the quantity, mean of each line; dashed: the self-jailbreak score of each step"),
      line(el("span", { class: "glyph" }, "RLO"), "a character that cannot be seen, or that reorders text")),
    el("h2", {}, "Kinds, and their codes on narrow screens"), el("p", {}, ...kinds.flatMap((kind) => [kind, " · "]).slice(0, -1)));
}

function bar() {
  const field = el("input", { id: "query", type: "search", placeholder: "search  /", "aria-label": "search", autocomplete: "off", spellcheck: "false",
    oninput: () => search(field.value),
    onkeydown: (event) => {
      if (event.key === "Enter") nextFound(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") { field.value = ""; search(""); field.blur(); }
      event.stopPropagation();
    } });
  const button = (id, text, onclick, title) => el("button", { id, onclick, title }, text);
  const shades = el("select", { id: "shade", "aria-label": "shade tokens by", onchange: () => { setShade(shades.value); toText(); } });
  return el("header", { class: "bar" }, el("h1", { id: "title" }),
    button("all", "All traces", () => go(-1), "o"), button("previous", "‹", () => goBy(-1), "previous trace, ["),
    button("next", "›", () => goBy(1), "next trace, ]"), el("span", { class: "find" }, field, el("output", { id: "found" })),
    shades, button("veil", "Blur unsafe", toggleVeil, "b"), button("theme", "Theme", nextTheme, "t"), button("keys", "?", openHelp, "keys and signs"));
}

const openHelp = () => document.getElementById("help").showModal();

function build() {
  document.body.append(bar(), el("main", { id: "main" }),
    el("footer", { class: "foot" }, el("output", { id: "said", "aria-live": "polite" }), el("span", { id: "scale", class: "scale" })),
    legend(), el("div", { id: "tip", class: "tip", role: "tooltip", hidden: true }));
  addEventListener("hashchange", () => location.hash !== state.shown && route());
  document.addEventListener("click", followLink);
  addEventListener("keydown", onKey);
  addEventListener("resize", () => { hideTip(); drawStrips(); });
  addEventListener("beforeprint", () => printing(true));
  addEventListener("afterprint", () => printing(false));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  route();
  document.documentElement.dataset.ready = "true";
}

/** A link within the page: the page of a frame in a notebook has no address of its own to resolve it by. */
function followLink(event) {
  const link = event.target.closest?.("a[href^='#']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  visit(link.getAttribute("href"));
}

/** Paper is light, and shows every section. */
function printing(on) {
  const { dataset } = document.documentElement;
  state.printing = on;
  if (on) state.theme = dataset.theme ?? "";
  dataset.theme = on ? "light" : state.theme;
  repaint();
  for (const pane of state.panes) {
    if (on) pane.trace.sections.forEach((section) => pane.construct(section));
    else pane.rebuild();
  }
}

/** The hash says what is shown: nothing is the table, `#3` the fourth trace, `#3s12` its step 12, `#3s12b` step 12 of the second pane. */
function route() {
  state.shown = location.hash;
  const [, index, step, beside] = location.hash.match(/^#(\d+)(?:s(\d+)(b?))?$/) ?? [null, page.rows.length === 1 ? "0" : null];
  const number = index === null || !page.rows[index] ? -1 : Number(index);
  if (number !== state.index || !state.panes.length) openTrace(number);
  if (step && state.panes.length) {
    const pane = state.panes[beside ? state.panes.length - 1 : 0], row = pane.trace.rows.findIndex((r) => r.step === Number(step));
    if (row >= 0) pane.reveal(row);
  }
}

/** Goes there at once: `hashchange` fires after the next key, and not at all if the address stays the same. */
function visit(hash) {
  location.hash = hash;
  route();
}

function go(index) {
  if (index >= page.rows.length || (index < 0 && page.rows.length === 1)) return;
  if (page.rows.length > 1) visit(index < 0 ? "" : `#${index}`);
}

/** The next or previous trace in the order of the table. */
function goBy(direction) {
  const at = table.order.indexOf(state.index), next = table.order[at + direction];
  if (state.index >= 0 && next !== undefined) go(next);
}

/** Puts the focus where keys scroll and read. */
function toText() {
  const pane = state.panes[state.active];
  (pane?.rowElement(pane.current) ?? pane?.scroller ?? document.querySelector(".overview"))?.focus({ preventScroll: true });
}

function openTrace(index) {
  const before = state.index, old = document.querySelector(".overview");
  if (old) table.scroll = old.scrollTop;
  state.panes.forEach((pane) => pane.close());
  state.index = index;
  state.active = 0;
  const datas = index < 0 ? [] : [read(`a${index}`), read(`b${index}`)].map((data, i) => [data, page.names[i], i]);
  state.panes = datas.filter(([data]) => data).map(([data, name], i) => new Pane(data, page.names[1] ? name : "", i));
  setShades();
  const two = index >= 0 && page.names[1], main = document.getElementById("main");
  const missing = two && state.panes.length < 2 ? el("p", { class: "none" }, `no trace of this prompt in ${visible(page.names[1])}`) : null;
  if (index < 0) main.replaceChildren(overview());
  else main.replaceChildren(el("div", { class: two ? "reader two" : "reader" }, ...state.panes.map((pane) => pane.el), ...(missing ? [missing] : [])));
  document.getElementById("title").replaceChildren(visible(page.title), el("small", {}, index < 0 ? "" : `trace ${index + 1} of ${page.rows.length}`));
  const [name, single] = [index < 0 ? "" : page.rows[index].id, page.rows.length === 1];
  document.title = [...new Set([name, page.title])].filter(Boolean).map(visible).join(" · ") + " · cotlens";
  const at = table.order.indexOf(index);
  for (const [id, off] of [["all", single || index < 0], ["previous", at < 1], ["next", at < 0 || at + 1 >= table.order.length]]) {
    document.getElementById(id).hidden = off;
  }
  document.getElementById("veil").hidden = index < 0;
  document.getElementById("query").value = index < 0 ? table.query : "";
  search(document.getElementById("query").value);
  say("press ? for keys and signs");
  hideTip();
  repaint();
  activate(0);
  if (before === index || !document.documentElement.dataset.ready) return;  // the page was opened just now
  toText();
  if (index >= 0) return;
  document.querySelector(".overview").scrollTop = table.scroll;
  document.querySelector(`[data-trace="${before}"] a`)?.focus({ preventScroll: true });
}

function activate(number) {
  const changed = state.active !== number;
  if (changed) hideTip();
  state.active = number;
  state.panes.forEach((pane, i) => pane.el.classList.toggle("active", i === number));
  if (changed && state.query) search(state.query);
}

/** Offers the quantities that the panes have numbers for. */
function setShades() {
  const has = (name) => state.panes.some(({ trace }) => trace.tokens?.values[name]);
  const names = Object.keys(SHADES).filter(has), select = document.getElementById("shade");
  select.replaceChildren(...names.map((name) => el("option", { value: name }, `shade: ${SHADES[name].name}`)));
  select.hidden = !names.length;
  if (names.length) setShade(names.includes(state.shade) ? state.shade : names[0]);
  else document.getElementById("scale").replaceChildren();
}

function setShade(name) {
  state.shade = name;
  document.getElementById("shade").value = name;
  const { bounds, unit } = SHADES[name], scale = document.getElementById("scale");
  scale.replaceChildren(`${SHADES[name].name}${unit && `, ${unit}`}, from `, ...bounds.map((bound, i) => el("span", { class: `s${i + 1}` }, bound.toLocaleString("en"))));
  for (const pane of state.panes) {
    pane.rebuild();
    pane.axis.replaceChildren(...pane.axisText());
    for (const section of pane.trace.sections) section.lines = null;
  }
}

function nextShade() {
  const options = [...document.getElementById("shade").options].map((option) => option.value);
  if (!options.length) return;
  setShade(options[(options.indexOf(state.shade) + 1) % options.length]);
  say(`shaded by ${SHADES[state.shade].name}`);
}

function toggleVeil() {
  state.veil = !state.veil;
  state.panes.forEach((pane) => { pane.lifted.clear(); pane.rebuild(); });
  repaint();
  say(state.veil ? "unsafe text is blurred" : "unsafe text is shown");
}

function nextTheme() {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches, { dataset } = document.documentElement;
  const themes = ["", ...(isDark ? ["light", "dark"] : ["dark", "light"])];  // the first step is one that is seen
  dataset.theme = themes[(themes.indexOf(dataset.theme ?? "") + 1) % 3];
  repaint();
  say(`theme: ${dataset.theme || "as the system"}`);
}

function repaint() {
  palette.clear();
  document.getElementById("veil").setAttribute("aria-pressed", String(state.veil));
  drawStrips();
  state.panes.forEach((pane) => { pane.drawMap(); pane.draw(); });
}

const inPane = (act) => () => state.panes[state.active] && act(state.panes[state.active]);
const ACTIONS = {
  j: inPane((pane) => pane.jump("step", 1)), k: inPane((pane) => pane.jump("step", -1)),
  r: inPane((pane) => pane.jump("reflect", 1)), R: inPane((pane) => pane.jump("reflect", -1)),
  u: inPane((pane) => pane.jump("unsafe", 1)), U: inPane((pane) => pane.jump("unsafe", -1)),
  h: inPane((pane) => pane.jump("high", 1)), H: inPane((pane) => pane.jump("high", -1)),
  ArrowRight: inPane((pane) => pane.stepToken(1)), ArrowLeft: inPane((pane) => pane.stepToken(-1)),
  n: () => nextFound(1), N: () => nextFound(-1), v: inPane((pane) => pane.lift()),
  b: toggleVeil, s: nextShade, t: nextTheme, o: () => go(-1), "?": openHelp,
  "[": () => goBy(-1), "]": () => goBy(1), ",": () => goBy(-1), ".": () => goBy(1),
  x: () => { if (state.panes.length > 1) { activate(1 - state.active); state.panes[state.active].scroller.focus(); } },
  "/": () => document.getElementById("query").focus(), Escape: hideTip,
};

const SCROLLS = new Set(["PageDown", "PageUp", "Home", "End", " ", "ArrowUp", "ArrowDown"]);

function onKey(event) {
  const third = event.getModifierState?.("AltGraph") || (event.altKey && "[]".includes(event.key));  // as brackets are typed
  if ((!third && (event.ctrlKey || event.altKey)) || event.metaKey || document.getElementById("help").open) return;
  if (event.target.matches?.("input, select, textarea")) return;
  const act = ACTIONS[event.key], isArrow = event.key.startsWith("Arrow");
  if (!act) return SCROLLS.has(event.key) && hideTip();
  if (isArrow && (event.shiftKey || !state.panes.length)) return;
  event.preventDefault();
  act();
}

build();
