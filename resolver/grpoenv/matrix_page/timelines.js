// A line for each package: its releases in order, what is known of each, and the breaks across them.

const BAR = 34, CELL = 12, LINE = 17, AXIS = 18, MARGIN = 76;

const VERDICTS = {
  linked: "linked: nothing is missing",
  import: "importing fails",
  run: "imports, and the default GRPO run fails",
  conflict: "uv finds no set of versions",
  unclear: "cannot be told",
};

/** A release with all that the page knows of it. */
class ReleaseFacts {
  constructor(name, version, history, content) {
    this.name = name;
    this.version = version;
    this.history = history;
    this.stacks = content.stacks.filter((stack) => stack.versions[name] === version);
    const reached = this.stacks.flatMap((stack) => stack.targets.map((target) => content.levels.indexOf(target.level)));
    this.level = content.levels[Math.max(...reached)] ?? null;
    this.breaks = [];
    this.partners = { admitted: 0, failing: 0, reasons: new Map() };
  }

  /** Count one pair that the declared ranges admit. */
  count(pair) {
    this.partners.admitted += 1;
    if (!pair.verdict) return;
    this.partners.failing += 1;
    const reason = failure(pair.verdict);
    this.partners.reasons.set(reason, (this.partners.reasons.get(reason) ?? 0) + 1);
  }

  /** What the line NAME==VERSION gives, as of its own day, days in between, and today. */
  get outcomes() {
    if (!this.history) return [];
    const { day, tried, today } = this.history;
    const named = [["as of its day", day], ...tried.map((outcome) => [outcome.also ? `with ${outcome.also}` : "as of", outcome]), ["today", today]];
    return named.filter(([, outcome]) => outcome);
  }

  get text() {
    const said = this.breaks.map((row) => `${row.id} ${row.summary} ${row.symptom}`);
    const stacks = this.stacks.map((stack) => stack.id);
    const outcomes = this.outcomes.map(([, outcome]) => `${outcome.verdict} ${outcomeFailure(outcome)}`);
    return [`${this.name} ${this.version} ${this.name}==${this.version}`, ...stacks, ...outcomes, ...said, ...this.partners.reasons.keys()].join("\n").toLowerCase();
  }

  terms() {
    const { admitted, failing, reasons } = this.partners;
    const other = this.name === "unsloth" ? "zoo" : "unsloth";
    return terms([
      ["uploaded", this.history ? `${this.history.uploaded}${this.history.yanked ? ", yanked" : ""}` : ""],
      ...this.outcomes.map(([term, outcome]) => [`${term}, ${outcome.as_of}`, ...outcomeWords(outcome)]),
      ["stacks", this.stacks.map((stack) => stack.id).join(", ") || "none"],
      ["strongest evidence", this.level ? chip(this.level, this.level) : ""],
      ["pairs", admitted ? `${failing} of ${admitted} releases of ${other} that the declared ranges admit fail` : ""],
      ...[...reasons].map(([reason, count]) => [`${count} ×`, code(reason)]),
      ...this.breaks.map((row) => [`break ${row.id}`, row.summary, ": ", code(row.symptom)]),
    ]);
  }
}

function outcomeFailure(outcome) {
  return outcome.symbol ? `${outcome.exception}: ${outcome.symbol}` : outcome.reason;
}

function outcomeWords(outcome) {
  const chosen = SHOWN.filter((name) => outcome.versions[name]).map((name) => `${name} ${outcome.versions[name]}`);
  const place = [outcome.culprit, outcome.at].filter(Boolean).join(", ");
  return [
    VERDICTS[outcome.verdict], outcomeFailure(outcome) ? ": " : "", outcome.symbol ? code(outcomeFailure(outcome)) : outcome.reason,
    place ? ` (${place})` : "", chosen.length ? `; with ${chosen.join(", ")}` : "",
  ];
}

class TimeLine {
  /** `moved` is called with this line and the facts of the release that is to be shown. */
  constructor(data, content, moved) {
    this.name = data.package;
    this.releases = data.releases.map((version, place) => new ReleaseFacts(data.package, version, data.history[place], content));
    this.breaks = data.breaks.map(([place, runs]) => ({ row: content.breaks[place], holds: unrolled(runs) }))
      .filter(({ holds }) => holds.includes(1));
    for (const { row, holds } of this.breaks) {
      this.releases.forEach((release, place) => holds[place] && release.breaks.push(row));
    }
    this.moved = moved;
    this.chosen = this.releases.length - 1;
    this.active = false;
    this.step = 0; // until there is room to draw in
    this.kept = null;
    this.picture = shape("svg", { tabindex: 0, role: "application", "aria-roledescription": "time line", "aria-label": `Releases of ${this.name}`, "aria-describedby": "line-keys release" });
    this.picture.addEventListener("keydown", (event) => this.key(event));
    this.picture.addEventListener("focus", () => this.choose(this.chosen));
    this.picture.addEventListener("pointermove", (event) => this.point(event));
    this.picture.addEventListener("click", (event) => this.point(event));
    const title = element("h3", {}, this.name, " ", element("small", {}, `${this.releases.length} releases`));
    this.section = element("div", { class: "line" }, title, this.picture);
    new ResizeObserver(() => this.draw()).observe(this.section);
  }

  /** Fade the releases that do not have all words; return how many have. */
  show(words) {
    this.texts ??= this.releases.map((release) => release.text);
    this.kept = this.texts.map((text) => hasWords(text, words));
    this.section.hidden = !this.kept.includes(true);
    this.draw();
    return this.kept.filter(Boolean).length;
  }

  draw() {
    const width = this.section.clientWidth;
    if (!width) return;
    this.step = Math.min(24, (width - MARGIN) / this.releases.length);
    const rows = this.rows();
    const below = rows.reduce((sum, row) => sum + row.height + 3, 0);
    const height = below + LINE * this.breaks.length + AXIS;
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("height", height);
    this.picture.replaceChildren(
      ...rows.map((row) => shape("text", { x: 0, y: row.y + 10 }, row.name)),
      ...this.releases.map((release, place) => this.column(release, place, rows)),
      ...this.breaks.flatMap((found, line) => this.breakLine(found, below + 2 + LINE * line, width)),
      ...this.axis(height - 5, width));
    this.drawChosen();
  }

  /** The rows of cells that there is something to show in, from the top. */
  rows() {
    const rows = [
      { name: "pairs", height: BAR, has: (release) => release.partners.admitted > 0, draw: pairBar },
      { name: "its day", height: CELL, has: (release) => release.history?.day, draw: outcomeCell((history) => history.day) },
      { name: "today", height: CELL, has: (release) => release.history?.today, draw: outcomeCell((history) => history.today) },
      { name: "evidence", height: CELL, has: (release) => release.level, draw: evidenceCell },
    ].filter((row) => this.releases.some(row.has));
    let y = 0;
    for (const row of rows) {
      row.y = y;
      y += row.height + 3;
    }
    return rows;
  }

  column(release, place, rows) {
    const box = { x: this.left(place), width: Math.max(1, this.step - 1) };
    return shape("g", { class: this.kept?.[place] === false ? "faded" : "" },
      ...rows.flatMap((row) => row.draw(release, { ...box, y: row.y, height: row.height })));
  }

  left(place) {
    return MARGIN + place * this.step;
  }

  breakLine({ row, holds }, y, width) {
    const first = holds.indexOf(1);
    const bars = holds.flatMap((held, place) =>
      held ? [shape("rect", { x: this.left(place), y, width: this.step, height: LINE - 5, class: "break" })] : []);
    const late = this.left(first) > width / 2;
    const x = late ? this.left(first) - 6 : this.left(holds.lastIndexOf(1) + 1) + 6;
    return [...bars, shape("text", { x, y: y + 10, "text-anchor": late ? "end" : "start" }, row.id)];
  }

  axis(y, width) {
    const marks = [];
    let free = 0;
    this.releases.forEach((release, place) => {
      const x = this.left(place);
      if (x < free || x > width - 40) return;
      marks.push(shape("text", { x, y }, release.version));
      free = x + 90;
    });
    return marks;
  }

  drawChosen() {
    this.pointer?.remove();
    if (!this.active || !this.step) return;
    const x = this.left(this.chosen + 0.5);
    this.pointer = shape("line", { x1: x, x2: x, y1: 0, y2: Number(this.picture.getAttribute("height")) - AXIS, class: "pointer" });
    this.picture.append(this.pointer);
  }

  choose(place) {
    this.chosen = clamp(place, this.releases.length - 1);
    this.moved(this, this.releases[this.chosen]);
  }

  /** Mark the chosen release where this is the line that the card is about. */
  mark(active) {
    this.active = active;
    this.drawChosen();
  }

  point(event) {
    const place = Math.floor((event.clientX - this.picture.getBoundingClientRect().left - MARGIN) / this.step);
    if (place >= 0 && place < this.releases.length && (place !== this.chosen || event.type === "click")) this.choose(place);
  }

  key(event) {
    const step = event.shiftKey ? 10 : 1;
    const target = { ArrowLeft: this.chosen - step, ArrowRight: this.chosen + step, Home: 0, End: this.releases.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.choose(target);
  }
}

/** How many of the pairs that the declared ranges admit fail, as a bar that fills up from below. */
function pairBar(release, box) {
  const { admitted, failing } = release.partners;
  if (!admitted) return [];
  const failed = failing ? Math.max(2, (box.height * failing) / admitted) : 0;
  const bar = { ...box, y: box.y + box.height - failed, height: failed };
  return [shape("rect", { ...box, class: "fits" }), shape("rect", { ...bar, class: "fails" })];
}

function outcomeCell(choose) {
  return (release, box) => {
    const outcome = release.history ? choose(release.history) : null;
    return [shape("rect", { ...box, class: `cell outcome ${outcome?.verdict ?? "untested"}` })];
  };
}

function evidenceCell(release, box) {
  return [shape("rect", { ...box, class: `cell ${release.level ?? "untested"}` })];
}

class TimeLines {
  constructor(content, pairs) {
    this.lines = content.timelines.map((data) => new TimeLine(data, content, (line, release) => this.moved(line, release)));
    if (pairs) this.countPairs(pairs);
    this.explain();
    find("lines").replaceChildren(...this.lines.map((line) => line.section));
    this.lines[0]?.choose(this.lines[0].chosen);
  }

  /** Say what the colours of the outcomes mean that there are. */
  explain() {
    const outcomes = this.lines.flatMap((line) => line.releases).flatMap((release) => release.outcomes);
    const verdicts = new Set(outcomes.map(([, outcome]) => outcome.verdict));
    const swatch = (verdict) => shape("svg", { width: CELL, height: CELL, "aria-hidden": "true" },
      shape("rect", { width: CELL, height: CELL, class: `cell outcome ${verdict}` }));
    find("outcomes").replaceChildren(...Object.keys(VERDICTS).filter((verdict) => verdicts.has(verdict))
      .map((verdict) => element("li", {}, swatch(verdict), VERDICTS[verdict])));
  }

  moved(line, release) {
    for (const each of this.lines) each.mark(each === line);
    find("release").replaceChildren(element("h3", {}, `${release.name} ${release.version}`), release.terms());
  }

  countPairs(pairs) {
    const facts = (name) => new Map(this.lines.find((line) => line.name === name).releases.map((release) => [release.version, release]));
    const [unsloth, zoos] = [facts("unsloth"), facts("unsloth-zoo")];
    for (const [, , pair] of pairs.cells()) {
      if (!pair.admitted) continue;
      unsloth.get(pair.unsloth.version).count(pair);
      zoos.get(pair.zoo.version).count(pair);
    }
  }

  show(words) {
    return this.lines.reduce((sum, line) => sum + line.show(words), 0);
  }
}
