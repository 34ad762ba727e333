// The viewer's second part: a pane, which shows one trace in sections that are built when they come near.

// --- a pane: one trace -------------------------------------------------------------------------------------------

class Pane {
  constructor(data, name, number) {
    this.trace = prepare(data);
    this.name = name;
    this.number = number;
    this.near = new Set();
    this.built = [];
    this.lifted = new Set();
    this.current = -1;
    this.token = -1;
    this.build();
  }

  build() {
    const { trace } = this, { id, status } = trace.data;
    this.scroller = el("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": `text of ${visible(id)}` });
    this.curve = el("canvas", { class: "curve", "aria-hidden": "true" });
    this.axis = el("div", { class: "axis", "aria-hidden": "true" });
    this.mapCanvas = el("canvas", { role: "img" });
    this.window = el("div", { class: "window" });
    this.map = el("div", { class: "map" });
    this.map.append(this.mapCanvas, this.window);
    const heads = { prompt: "Prompt", think: `Thinking · ${status}`, answer: "Answer" }, seen = new Set();
    trace.sections.forEach((section, i) => {
      if (heads[section.part] && !seen.has(section.part)) {
        this.scroller.append(el("h3", { class: "part" }, heads[section.part]));
        seen.add(section.part);
      }
      section.el = el("div", { class: "section", "data-section": i });
      this.flatten(section);
      this.scroller.append(section.el);
    });
    const body = el("div", { class: "body" }, this.scroller, this.curve, this.axis, this.map);
    this.el = el("section", { class: "pane", "aria-label": visible(`${this.name} ${id}`) }, this.head(), body);
    this.listen();
  }

  /** The heading: which trace this is, and in one line what was found in it. */
  head() {
    const { data, steps, tokens } = this.trace;
    const n = (test) => steps.filter(test).length, unsafe = n((s) => s.state > 0), reflect = n((s) => s.reflects);
    const sum = el("p", { class: "sum" });
    const say = (text, kind = null) => sum.append(kind ? el("span", { class: kind }, text) : text);
    if (tokens) say(`${count(tokens.starts.length, "token")}, `);
    say(`${count(steps.length, "step")}: `);
    say(`${reflect.toLocaleString("en")} reflecting`, reflect ? "turn" : null);
    say(", ");
    say(`${unsafe.toLocaleString("en")} unsafe`, unsafe ? "bad" : null);
    if (tokens?.high.length) say(`, ${count(tokens.high.length, "high-entropy token")}`);
    say(` · thought ${data.status}`);
    for (const [part, words] of Object.entries(data.verdicts).sort().reverse()) {
      const kind = /^safe/.test(words) ? "good" : /^(unsafe|contr)/.test(words) ? "bad" : null;
      say(" · ");
      sum.append(el("span", { class: "whole" }, `${part} `, el("span", { class: kind }, visible(words))));
    }
    const facts = data.facts.map(([name, value]) => `${name} ${visible(value)}`).join(" · ");
    const title = el("h2", {}, (this.name ? visible(this.name) + " · " : "") + visible(data.id));
    return el("header", { class: "head" }, title, sum, el("p", { class: "facts" }, facts));
  }

  listen() {
    this.observer = new IntersectionObserver((entries) => this.onNear(entries), { root: this.scroller, rootMargin: "120% 0px" });
    for (const { el: node } of this.trace.sections) this.observer.observe(node);
    this.scroller.addEventListener("scroll", () => this.draw(), { passive: true });
    for (const kind of ["wheel", "touchmove"]) this.scroller.addEventListener(kind, hideTip, { passive: true });
    this.el.addEventListener("pointerdown", () => activate(this.number));
    this.el.addEventListener("focusin", () => activate(this.number));
    this.scroller.addEventListener("click", (event) => this.onClick(event));
    this.scroller.addEventListener("pointerover", (event) => this.onHover(event));
    this.scroller.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hideTip());
    const go = (event) => {
      if (event.buttons || event.type === "pointerdown") this.goTo(event.offsetY / this.map.clientHeight);
    };
    this.map.addEventListener("pointerdown", go);
    this.map.addEventListener("pointermove", go);
    this.sizes = new ResizeObserver(() => this.resized());
    this.sizes.observe(this.scroller);
  }

  close() {
    this.observer.disconnect();
    this.sizes.disconnect();
  }

  // Sections far from the window hold their bare text, so that the page is small and the browser's search finds it.
  flatten(section) {
    const { rows, text } = this.trace, first = rows[section.first], last = rows[section.stop - 1];
    section.built = false;
    section.rows = [];
    section.el.classList.remove("built");
    const own = rows.slice(section.first, section.stop), show = (row) => visible(text.slice(row.start, row.stop));
    if (!own.some((row) => this.isVeiled(row))) section.el.textContent = visible(text.slice(first.start, last.stop));
    else section.el.replaceChildren(...own.map((row) => this.isVeiled(row) ? el("span", { class: "hid", "aria-hidden": "true" }, show(row)) : show(row)));
    const wide = Math.max(20, (this.lineUnits ?? 90));
    let lines = 0;
    for (let i = section.first; i < section.stop; i += 1) lines += Math.ceil((rows[i].stop - rows[i].start) / wide);
    section.el.style.containIntrinsicSize = `auto none auto ${lines * 25}px`;
  }

  construct(section) {
    if (section.built) return;
    section.built = true;
    section.lines = null;
    section.el.classList.add("built");
    section.rows = [];
    for (let i = section.first; i < section.stop; i += 1) section.rows.push(this.rowOf(i));
    section.el.replaceChildren(...section.rows.map((row) => row.el));
    this.built.push(section);
    while (this.built.length > KEPT && !state.printing) {
      const old = this.built.shift();
      if (this.near.has(old)) this.built.push(old);
      else this.flatten(old);
      if (this.near.size >= KEPT) break;
    }
  }

  rebuild() {
    const held = this.el.contains(document.activeElement) && document.activeElement.closest("[data-row]");
    hideTip();
    for (const section of this.built.splice(0)) {
      if (this.near.has(section)) {
        section.built = false;
        this.construct(section);
      } else this.flatten(section);
    }
    for (const section of this.trace.sections) if (!section.built) this.flatten(section);
    if (held) this.rowElement(Number(held.dataset.row))?.focus({ preventScroll: true });
    this.drawMap();
    this.draw();
  }

  isVeiled(row) {
    if (!state.veil || this.lifted.has(row.part + row.step)) return false;
    return row.step >= 0 ? this.trace.steps[row.step].state > 0 : row.part === "answer" && this.trace.answerUnsafe;
  }

  rowOf(index) {
    const row = this.trace.rows[index], step = this.trace.steps[row.step], veiled = this.isVeiled(row), pieces = [];
    const text = el("div", { class: "text", dir: "auto", "aria-hidden": veiled ? "true" : null });
    const lead = el("span", { class: "lead" });  // line breaks before the first word: kept, but not shown as empty lines
    for (const [start, stop, token] of tokensIn(this.trace, row)) {
      const breaks = start === row.start ? this.trace.text.slice(start, stop).match(/^\n*/)[0].length : 0;
      if (breaks) {
        appendText(lead, this.trace.text.slice(start, start + breaks), start, pieces);
        text.append(lead);
      }
      let into = text;
      if (token >= 0 && start >= this.trace.base) {
        const [own] = strongest(this.trace, token), shade = level(valueOf(this.trace, state.shade, own));
        into = el("span", { class: shade ? `tok s${shade}` : "tok", "data-token": own });
        text.append(into);
      }
      appendText(into, this.trace.text.slice(start + breaks, stop), start + breaks, pieces);
    }
    const lift = veiled && row.first ? el("button", { class: "lift", title: "show this text (v)" }, "show unsafe text") : null;
    const classes = ["row", row.part, step?.state > 0 && "unsafe", veiled && "veiled", index === this.current && "current"];
    const label = step ? describe(row.step, step) : row.part;
    const attributes = { class: classes.filter(Boolean).join(" "), "data-row": index, tabindex: -1, role: "group", "aria-label": label };
    return { el: el("div", attributes, this.rail(row, step), text, lift), pieces, index };
  }

  rail(row, step) {
    const rail = el("div", { class: "rail" });
    if (step && row.first) {
      const kind = el("span", { class: step.reflects ? "kind turn" : "kind", title: `${step.kind || "kind unknown"}` });
      kind.append(el("span", { class: "long" }, step.kind), el("span", { class: "short" }, CODES[step.kind] ?? ""));
      rail.append(kind, el("a", { href: `#${state.index}s${row.step}${this.number ? "b" : ""}`, tabindex: -1 }, String(row.step)));
      for (const name of step.markers) {
        const kindOf = page.unsafe[page.markers.indexOf(name)] ? "bad" : name === "refusal_intent" ? "good" : "note";
        rail.append(el("span", { class: `mark ${kindOf}`, title: plain(name) }, el("span", { class: "long" }, plain(name))));
      }
    }
    return rail;
  }

  onNear(entries) {
    for (const { target, isIntersecting } of entries) {
      const section = this.trace.sections[target.dataset.section];
      if (isIntersecting) {
        this.near.add(section);
        this.construct(section);
      } else this.near.delete(section);
    }
    paintFound();
    this.draw();
  }

  onClick(event) {
    const node = event.target.closest("[data-row]"), veiled = node?.classList.contains("veiled");
    if (!node || (!veiled && !getSelection().isCollapsed)) return;
    this.setCurrent(Number(node.dataset.row));
    if (veiled) this.lift();
    else this.onHover(event);  // a finger does not hover
  }

  onHover(event) {
    const token = event.target.closest?.(".tok");
    if (token && !token.closest(".veiled")) showTip(this.trace, Number(token.dataset.token), token);
    else hideTip();
  }

  lift() {
    const row = this.trace.rows[this.current];
    if (!row) return;
    const key = row.part + row.step;
    if (!this.lifted.delete(key)) this.lifted.add(key);
    this.rebuild();
    say(this.lifted.has(key) ? "text shown" : "text hidden");
    this.rowElement(this.current)?.focus({ preventScroll: true });
  }

  // --- the current place ---

  sectionOf(index) {
    return this.trace.sections[lastUpTo(this.trace.sectionStarts, index)];
  }

  rowElement(index) {
    const section = this.sectionOf(index);
    return section?.rows[index - section.first]?.el;
  }

  setCurrent(index) {
    this.rowElement(this.current)?.classList.remove("current");
    this.current = index;
    this.rowElement(index)?.classList.add("current");
  }

  reveal(index, unit = -1) {
    if (!this.trace.rows.length) return;
    hideTip();
    this.construct(this.sectionOf(index));
    this.setCurrent(index);
    const node = this.rowElement(index);
    const show = () => {
      if (!node.isConnected) return;
      node.scrollIntoView({ block: node.clientHeight > this.scroller.clientHeight ? "start" : "center" });
      if (unit >= 0) this.bringIntoView(index, unit);
    };
    show();
    requestAnimationFrame(show);  // the sections around it have their true height only now
    node.focus({ preventScroll: true });
  }

  revealUnit(unit) {
    this.reveal(lastUpTo(this.trace.rowStarts, unit), unit);
  }

  /** Scrolls on where the character lies outside the window, as it may in a row of many lines. */
  bringIntoView(index, unit) {
    const section = this.sectionOf(index), pieces = section.rows[index - section.first]?.pieces ?? [];
    const piece = pieces.find(([start, stop]) => start <= unit && unit < stop);
    if (!piece) return;
    const range = new Range();
    range.selectNode(piece[2]);
    if (piece[2].nodeType === Node.TEXT_NODE) {
      range.setStart(piece[2], unit - piece[0]);
      range.setEnd(piece[2], unit - piece[0] + 1);
    }
    const place = range.getBoundingClientRect(), box = this.scroller.getBoundingClientRect();
    if (place.top < box.top || place.bottom > box.bottom) this.scroller.scrollTop += place.top - (box.top + box.height / 3);
  }

  isHiddenToken(token) {
    const { rows, rowStarts, tokens, text } = this.trace;
    return this.isVeiled(rows[lastUpTo(rowStarts, Math.min(tokens.starts[token], text.length - 1))]);
  }

  sayToken(token, more = "") {
    return say((this.isHiddenToken(token) ? `token ${token}, hidden: v shows it` : tokenLine(this.trace, token)) + more);
  }

  goTo(part) {
    const { rowStarts, text } = this.trace, unit = Math.min(0.9999, Math.max(0, part)) * text.length;
    const index = lastUpTo(rowStarts, unit);
    if (index < 0) return;
    this.construct(this.sectionOf(index));
    this.rowElement(index).scrollIntoView({ block: "center" });
  }

  /** The row in the upper third of the window: where a jump starts if none is current or it is out of sight. */
  here() {
    const box = this.scroller.getBoundingClientRect();
    const own = this.rowElement(this.current)?.getBoundingClientRect();
    if (own && own.bottom > box.top && own.top < box.bottom) return this.current;
    return this.visibleRows().find(({ bottom }) => bottom > box.top)?.index ?? 0;
  }

  visibleRows() {
    const found = [];
    for (const section of this.trace.sections) {
      if (!this.near.has(section)) continue;
      for (const row of section.rows) {
        const { top, bottom } = row.el.getBoundingClientRect();
        found.push({ row, index: row.index, top, bottom });
      }
    }
    return found;
  }

  jump(what, direction) {
    const { rows, steps, tokens } = this.trace, here = this.here();
    if (!rows.length) return say("this trace is empty");
    if (what === "high") return this.jumpToken(tokens?.high ?? [], direction, "high-entropy token");
    const test = { step: () => true, reflect: (s) => s.reflects, unsafe: (s) => s.state > 0 }[what];
    const targets = rows.flatMap((row, i) => (row.step >= 0 && row.first && test(steps[row.step]) ? [i] : []));
    const at = direction > 0 ? targets.findIndex((i) => i > here || (i === here && i !== this.current)) : targets.findLastIndex((i) => i < here);
    const name = { step: "step", reflect: "reflecting step", unsafe: "unsafe step" }[what];
    if (at < 0) return say(targets.length ? `no ${name} ${direction > 0 ? "below" : "above"}, of ${targets.length}` : `no ${name} in this trace`);
    this.reveal(targets[at]);
    const { step } = rows[targets[at]];
    return say(`${describe(step, steps[step])} · ${at + 1} of ${count(targets.length, name)}`);
  }

  jumpToken(targets, direction, name) {
    const { rowStarts, tokens } = this.trace, here = this.here(), hereUnit = rowStarts[here];
    const now = this.token >= 0 && lastUpTo(rowStarts, tokens.places[this.token]) === here;
    const after = (i) => (now ? i > this.token : tokens.places[i] >= hereUnit);
    const at = direction > 0 ? targets.findIndex(after) : targets.findLastIndex((i) => (now ? i < this.token : tokens.places[i] < hereUnit));
    if (at < 0) return say(targets.length ? `no ${name} ${direction > 0 ? "below" : "above"}` : `no ${name} in this trace`);
    this.showToken(targets[at]);
    return this.sayToken(targets[at], ` · ${at + 1} of ${count(targets.length, name)}`);
  }

  /** Moves by one token, for the eyes and the keyboard alike. */
  stepToken(direction) {
    const { tokens, rows } = this.trace;
    if (!tokens || !rows.length) return say("this trace has no scored tokens");
    const from = this.token >= 0 ? this.token + direction : lastUpTo(tokens.starts, rows[this.here()].start);
    this.showToken(Math.max(0, Math.min(tokens.starts.length - 1, from)));
    return this.sayToken(this.token);
  }

  showToken(token) {
    this.token = token;
    this.el.querySelector(".now")?.classList.remove("now");
    this.revealUnit(Math.min(this.trace.tokens.places[token], this.trace.text.length - 1));
    requestAnimationFrame(() => requestAnimationFrame(() => {
      if (this.token !== token || !this.el.isConnected) return undefined;  // another was asked for meanwhile
      const [own] = strongest(this.trace, token);
      const node = this.el.querySelector(`[data-token="${own}"]`) ?? this.el.querySelector(`[data-token="${token}"]`);
      if (!node || node.closest(".veiled")) return hideTip();
      node.classList.add("now");
      return showTip(this.trace, token, node);
    }));
  }

  // --- curves and minimap ---

  /** A new width moves everything: the current row is kept in sight. */
  resized() {
    const box = this.scroller.getBoundingClientRect(), own = this.inSight && this.rowElement(this.current);
    if (own && (own.getBoundingClientRect().top > box.bottom || own.getBoundingClientRect().bottom < box.top)) own.scrollIntoView({ block: "center" });
    const text = this.scroller.clientWidth - parseFloat(getComputedStyle(this.scroller).paddingRight) - 130;
    this.lineUnits = Math.min(100, text / 7.4);
    for (const section of this.trace.sections) section.lines = null;
    this.axis.replaceChildren(...this.axisText());
    this.drawMap();
    this.draw();
  }

  axisText() {
    const { name, unit, bounds } = SHADES[state.shade], most = bounds.at(-1).toLocaleString("en");
    const first = this.trace.tokens ? `${name}, mean of a line, to ${most} ${unit}` : "probability of reflection, to 1";
    const quantity = this.trace.tokens ? name : "no scores";
    this.map.title = `the whole trace: ${quantity} | reflection | unsafe; click to go there`;
    this.mapCanvas.setAttribute("aria-label", `minimap from top to bottom: ${quantity}, reflection, unsafe steps`);
    return [el("i", {}, first), el("i", { class: "u" }, "self-jailbreak score, to 1")];
  }

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.drawCurve();
    });
  }

  /** Per line of text, its height in the section and the mean value of its tokens, each counted once; measured once. */
  linesOf(section) {
    const lines = [];
    for (const { el: node, index } of section.rows) {
      const row = this.trace.rows[index], step = this.trace.steps[row.step];
      const line = { y: node.offsetTop + node.offsetHeight / 2, value: this.trace.tokens ? NaN : step?.pReflect ?? NaN };
      const sums = new Map();
      for (const token of this.trace.tokens ? node.querySelectorAll(".tok") : []) {
        const own = Number(token.dataset.token);
        if (this.trace.tokens.places[own] < row.start) continue;  // it belongs to the row before
        const value = valueOf(this.trace, state.shade, own);
        const y = node.offsetTop + token.offsetTop + 10, sum = sums.get(y) ?? [0, 0];
        if (!Number.isNaN(value)) sums.set(y, [sum[0] + value, sum[1] + 1]);
      }
      for (const [y, [sum, n]] of sums) lines.push({ y, value: share(sum / n) });
      if (!sums.size) lines.push(line);
      Object.assign(lines.at(-1), { step, top: node.offsetTop, bottom: node.offsetTop + node.offsetHeight });
    }
    return lines;
  }

  drawCurve() {
    const { pen, width } = brush(this.curve), box = this.scroller.getBoundingClientRect(), { height } = box;
    let seen = [Infinity, 0];
    const risks = [], points = [], x = (part) => 4 + part * (width - 8);
    for (const section of this.trace.sections) {
      if (!this.near.has(section) || !section.built) continue;
      section.lines ??= this.linesOf(section);
      const top = section.el.getBoundingClientRect().top - box.top;
      for (const line of section.lines) {
        const y = top + line.y;
        if (line.step) risks.push([top + line.top, top + line.bottom, line.step]);
        if (!Number.isNaN(line.value)) points.push([x(line.value), y]);
      }
      if (top < height && top + section.el.clientHeight > 0) seen = this.widen(seen, section, top, height);
    }
    const current = this.rowElement(this.current)?.getBoundingClientRect();
    this.inSight = Boolean(current && current.bottom > box.top && current.top < box.bottom);
    pen.fillStyle = colour("line");
    pen.fillRect(x(0), 0, 1, height);
    pen.fillRect(x(1), 0, 1, height);
    drawValues(pen, points, x(0), colour(this.trace.tokens ? "value" : "reflect"));
    drawRisks(pen, risks, x);
    this.window.style.top = `${(seen[0] / this.trace.text.length) * 100}%`;
    this.window.style.height = `${Math.max(0, (seen[1] - seen[0]) / this.trace.text.length) * 100}%`;
  }

  /** The units in the window, as far as this section knows: by its share that is in sight. */
  widen([from, to], section, top, height) {
    const { rows } = this.trace, start = rows[section.first].start, length = rows[section.stop - 1].stop - start;
    const tall = section.el.clientHeight || 1, part = (y) => start + length * Math.min(1, Math.max(0, y / tall));
    return [Math.min(from, part(-top)), Math.max(to, part(height - top))];
  }

  drawMap() {
    const { pen, width, height } = brush(this.mapCanvas), { text, steps, tokens, base } = this.trace;
    const y = (unit) => (unit / text.length) * height, lane = width / 3;
    pen.fillStyle = colour("line");
    pen.fillRect(0, y(base), width, 1);
    if (this.trace.answer[1] > this.trace.answer[0]) pen.fillRect(0, y(this.trace.answer[0]), width, 1);
    if (tokens) this.drawShades(pen, lane, height);
    for (const step of steps) {
      const top = y(step.start), tall = Math.max(1.5, y(step.stop) - top);
      if (step.reflects) { pen.fillStyle = colour("reflect"); pen.fillRect(lane + 2, top, lane - 4, tall); }
      if (step.state) {
        pen.fillStyle = colour(step.state > 0 ? "unsafe" : "safe");
        pen.fillRect(2 * lane + (step.state > 0 ? 1 : lane / 2), top, step.state > 0 ? lane - 2 : lane / 2 - 2, tall);
      }
    }
  }

  drawShades(pen, lane, height) {
    const { tokens, text } = this.trace, sums = new Float64Array(Math.ceil(height / 2) + 1), ns = sums.slice();
    for (let i = 0; i < tokens.starts.length; i += 1) {
      const value = valueOf(this.trace, state.shade, i), bin = Math.floor(((tokens.places[i] / text.length) * height) / 2);
      if (!Number.isNaN(value)) { sums[bin] += value; ns[bin] += 1; }
    }
    sums.forEach((sum, bin) => {
      const shade = ns[bin] ? level(sum / ns[bin]) : 0;
      if (shade) { pen.fillStyle = colour(`shade-${shade}`); pen.fillRect(1, bin * 2, lane - 2, 2); }
    });
  }
}

function drawValues(pen, points, zero, ink) {
  if (!points.length) return;
  pen.beginPath();
  for (const point of points) pen.lineTo(...point);
  pen.strokeStyle = pen.fillStyle = ink;
  pen.lineWidth = 1.6;
  pen.stroke();
  pen.lineTo(zero, points.at(-1)[1]);
  pen.lineTo(zero, points[0][1]);
  pen.globalAlpha = 0.18;
  pen.fill();
  pen.globalAlpha = 1;
}

/** The self-jailbreak score of each step, dashed, so that it differs from the other curve without its colour. */
function drawRisks(pen, risks, x) {
  pen.strokeStyle = colour("unsafe");
  pen.lineWidth = 1.6;
  pen.setLineDash([4, 2]);
  pen.beginPath();
  for (const [top, bottom, step] of risks) {
    if (step.pJailbreak === null) continue;
    pen.lineTo(x(step.pJailbreak), top);
    pen.lineTo(x(step.pJailbreak), bottom);
  }
  pen.stroke();
}

function describe(number, step) {
  const words = [`step ${number}`, step.kind || "kind unknown", step.reflects && "reflects", step.state > 0 && "unsafe"];
  return [...words.filter(Boolean), ...step.markers.map(plain)].join(", ");
}

// --- details of a token ------------------------------------------------------------------------------------------

function tokenText(trace, token) {
  const { starts } = trace.tokens, text = trace.text.slice(starts[token], starts[group(trace, token)[1]] ?? trace.text.length);
  return visible(text.slice(0, 60)).replaceAll("\n", "↵") + (text.length > 60 ? "…" : "");
}

function tokenLine(trace, token) {
  const values = Object.keys(SHADES).filter((name) => trace.tokens.values[name]);
  const words = alternatives(trace, token).map(([word, chance]) => `${word} ${chance}`).join(", ");
  const numbers = values.map((name) => `${SHADES[name].name} ${shown(trace, name, token)}`).join(", ");
  return `token ${token} “${tokenText(trace, token)}”: ${numbers}${words && `; likeliest: ${words}`}`;
}

function showTip(trace, token, node) {
  const box = node.getClientRects()[0];
  if (!box) return;
  const tip = document.getElementById("tip"), [, n] = strongest(trace, token), table = el("table");
  for (const name of Object.keys(SHADES)) {
    if (trace.tokens.values[name]) table.append(el("tr", {}, el("th", { scope: "row" }, SHADES[name].name), el("td", {}, shown(trace, name, token))));
  }
  for (const [word, surprise, chosen] of alternatives(trace, token)) {
    const cells = [el("td", {}, el("code", {}, word)), el("td", {}, surprise)];
    table.append(el("tr", { class: chosen ? "chosen" : null }, ...cells));
  }
  const same = n > 1 ? el("div", {}, `one of ${n} tokens that make up this character`) : null;
  tip.replaceChildren(el("div", {}, el("code", {}, tokenText(trace, token)), ` · token ${token}`), ...(same ? [same] : []), table);
  tip.hidden = false;
  const { offsetWidth: width, offsetHeight: height } = tip;
  const below = box.bottom + 8 + height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - height - 8)}px`;
}

/** The likeliest words with their probability; a word that occurs nowhere in the page is shown as its id. */
function alternatives(trace, token) {
  const { top } = trace.tokens;
  if (!top) return [];
  return Array.from({ length: top.k }, (_, j) => {
    const code = top.surprise[token * top.k + j], word = top.words[top.index[token * top.k + j]];
    const name = typeof word === "string" ? visible(word).replaceAll("\n", "↵") : word === undefined ? "(another)" : `id ${word}`;
    const p = 100 * Math.exp(-code * page.natsStep);
    return [name, code === UNKNOWN ? "" : `${p.toFixed(p < 10 ? 2 : 1)} %`, name === tokenText(trace, token)];
  });
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
