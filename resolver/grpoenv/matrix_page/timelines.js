// A line for each package: its releases in order, what is known of each, and the breaks across them.

const BAR = 34, CELL = 10, LINE = 17, AXIS = 18;

/** A release with all that the page knows of it. */
class ReleaseFacts {
  constructor(name, version, content) {
    this.name = name;
    this.version = version;
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

  get text() {
    const said = this.breaks.map((row) => `${row.id} ${row.summary} ${row.symptom}`);
    const stacks = this.stacks.map((stack) => stack.id);
    return [`${this.name} ${this.version} ${this.name}==${this.version}`, ...stacks, ...said, ...this.partners.reasons.keys()].join("\n").toLowerCase();
  }

  terms() {
    const { admitted, failing, reasons } = this.partners;
    const other = this.name === "unsloth" ? "zoo" : "unsloth";
    return terms([
      ["stacks", this.stacks.map((stack) => stack.id).join(", ") || "none"],
      ["strongest evidence", this.level ? chip(this.level, this.level) : ""],
      ["pairs", admitted ? `${failing} of ${admitted} releases of ${other} that the declared ranges admit fail at import` : ""],
      ...[...reasons].map(([reason, count]) => [`${count} ×`, code(reason)]),
      ...this.breaks.map((row) => [`break ${row.id}`, row.summary, ": ", code(row.symptom)]),
    ]);
  }
}

class TimeLine {
  /** `moved` is called with this line and the facts of the release that is to be shown. */
  constructor(data, content, moved) {
    this.name = data.package;
    this.releases = data.releases.map((version) => new ReleaseFacts(data.package, version, content));
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
    this.step = Math.min(24, width / this.releases.length);
    const bars = this.releases.some((release) => release.partners.admitted) ? BAR + 4 : 0;
    const height = bars + CELL + 4 + LINE * this.breaks.length + AXIS;
    this.picture.setAttribute("width", width);
    this.picture.setAttribute("height", height);
    this.picture.replaceChildren(
      ...this.releases.map((release, place) => this.column(release, place, bars)),
      ...this.breaks.flatMap((found, line) => this.breakLine(found, bars + CELL + 6 + LINE * line, width)),
      ...this.axis(height - 5, width));
    this.drawChosen();
  }

  column(release, place, bars) {
    const box = { x: place * this.step, width: Math.max(1, this.step - 1) };
    const { admitted, failing } = release.partners;
    const failed = admitted ? Math.max(failing ? 2 : 0, (BAR * failing) / admitted) : 0;
    return shape("g", { class: this.kept?.[place] === false ? "faded" : "" },
      admitted ? shape("rect", { ...box, y: 0, height: BAR, class: "fits" }) : "",
      failed ? shape("rect", { ...box, y: BAR - failed, height: failed, class: "fails" }) : "",
      shape("rect", { ...box, y: bars, height: CELL, class: `cell ${release.level ?? "untested"}` }));
  }

  breakLine({ row, holds }, y, width) {
    const first = holds.indexOf(1);
    const bars = holds.flatMap((held, place) =>
      held ? [shape("rect", { x: place * this.step, y, width: this.step, height: LINE - 5, class: "break" })] : []);
    const late = first * this.step > width / 2;
    const x = late ? first * this.step - 6 : (holds.lastIndexOf(1) + 1) * this.step + 6;
    return [...bars, shape("text", { x, y: y + 10, "text-anchor": late ? "end" : "start" }, row.id)];
  }

  axis(y, width) {
    const marks = [];
    let free = 0;
    this.releases.forEach((release, place) => {
      const x = place * this.step;
      if (x < free || x > width - 40) return;
      marks.push(shape("text", { x, y }, release.version));
      free = x + 90;
    });
    return marks;
  }

  drawChosen() {
    this.pointer?.remove();
    if (!this.active || !this.step) return;
    const x = (this.chosen + 0.5) * this.step;
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
    const place = Math.floor((event.clientX - this.picture.getBoundingClientRect().left) / this.step);
    if (place < this.releases.length && (place !== this.chosen || event.type === "click")) this.choose(place);
  }

  key(event) {
    const step = event.shiftKey ? 10 : 1;
    const target = { ArrowLeft: this.chosen - step, ArrowRight: this.chosen + step, Home: 0, End: this.releases.length - 1 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.choose(target);
  }
}

class TimeLines {
  constructor(content, pairs) {
    this.lines = content.timelines.map((data) => new TimeLine(data, content, (line, release) => this.moved(line, release)));
    if (pairs) this.countPairs(pairs);
    find("lines").replaceChildren(...this.lines.map((line) => line.section));
    this.lines[0]?.choose(this.lines[0].chosen);
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
