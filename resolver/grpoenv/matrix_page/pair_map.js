// The heat map on its canvas: a column for each unsloth, a row for each zoo, the newest at the top.

const KINDS = {
  works: "neither lacks what an import or a default GRPO run takes from it",
  zoo: "import fails: the zoo lacks what unsloth takes",
  unsloth: "import fails: unsloth lacks what the zoo takes",
  run: "imports, and the default GRPO run fails",
  may: "imports; whether the default GRPO run fails, depends on other packages",
};

/** Only a verdict on the default run says whether it is certain. */
function kindOf(verdict) {
  if (verdict === null) return "works";
  if (verdict.certain !== undefined) return verdict.certain ? "run" : "may";
  return verdict.lacks === "unsloth" ? "unsloth" : "zoo";
}

/** The verdicts on all pairs, by the places of their releases. */
class Pairs {
  constructor(data) {
    this.unsloth = data.unsloth;
    this.zoos = data.zoos;
    this.verdicts = data.verdicts;
    this.numbers = data.rows.map(unrolled);
    this.admitted = data.admitted.map(unrolled);
  }

  at(column, row) {
    const number = this.numbers[column][row];
    const verdict = number < 0 ? null : this.verdicts[number];
    return { unsloth: this.unsloth[column], zoo: this.zoos[row], verdict, number, kind: kindOf(verdict), admitted: this.admitted[column][row] === 1 };
  }

  *cells() {
    for (let column = 0; column < this.unsloth.length; column++) {
      for (let row = 0; row < this.zoos.length; row++) yield [column, row, this.at(column, row)];
    }
  }
}

const unrolled = (runs) => runs.flatMap(([value, count]) => Array(count).fill(value));

const LEFT = 82, BOTTOM = 42, FADED = 0.13;

class PairMap {
  /** `moved` is called with the pair to be shown, and whether the user chose it or only points at it. */
  constructor(canvas, pairs, moved) {
    this.canvas = canvas;
    this.pairs = pairs;
    this.moved = moved;
    this.chosen = [pairs.unsloth.length - 1, pairs.zoos.length - 1];
    this.pointed = null;
    this.wanted = () => true;
    this.picture = document.createElement("canvas");
    this.picture.width = pairs.unsloth.length;
    this.picture.height = pairs.zoos.length;
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("pointermove", (event) => this.point(this.cellUnder(event)));
    canvas.addEventListener("pointerleave", () => this.point(null));
    canvas.addEventListener("click", (event) => this.choose(this.cellUnder(event)));
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
  }

  /** Fade every pair but those that `wanted` holds for; return how many there are. */
  highlight(wanted) {
    this.wanted = wanted;
    return this.paint();
  }

  choose(cell) {
    if (!cell) return;
    this.chosen = cell;
    this.pointed = null;
    this.moved(cell, true);
    this.draw();
  }

  point(cell) {
    if (String(cell) === String(this.pointed)) return;
    this.pointed = cell;
    this.moved(cell ?? this.chosen, false);
    this.draw();
  }

  key(event) {
    const [column, row] = this.chosen;
    const step = event.shiftKey ? 10 : 1;
    const last = this.pairs.unsloth.length - 1;
    const moves = {
      ArrowLeft: [column - step, row], ArrowRight: [column + step, row],
      ArrowUp: [column, row + step], ArrowDown: [column, row - step],
      PageUp: [column, row + 10], PageDown: [column, row - 10],
      Home: [0, row], End: [last, row], n: this.nextChange(column, row),
    };
    const target = moves[event.key];
    if (!target || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.choose([clamp(target[0], last), clamp(target[1], this.pairs.zoos.length - 1)]);
  }

  /** The next newer zoo with another verdict, after the newest the oldest. */
  nextChange(column, row) {
    const numbers = this.pairs.numbers[column];
    const next = numbers.findIndex((number, place) => place > row && number !== numbers[row]);
    return [column, next < 0 ? 0 : next];
  }

  /** Paint the picture of one dot for each pair, in the colours of the theme; as highlight. */
  paint() {
    const brush = this.picture.getContext("2d");
    const colours = themeColours();
    let kept = 0;
    brush.clearRect(0, 0, this.picture.width, this.picture.height);
    for (const [column, row, pair] of this.pairs.cells()) {
      const wanted = this.wanted(pair, column, row);
      kept += wanted ? 1 : 0;
      brush.globalAlpha = wanted ? 1 : FADED;
      brush.fillStyle = colours[pair.admitted ? pair.kind : `${pair.kind}-faint`];
      brush.fillRect(column, this.pairs.zoos.length - 1 - row, 1, 1);
    }
    this.draw();
    return kept;
  }

  draw() {
    const { canvas, pairs } = this;
    const width = canvas.clientWidth;
    if (!width) return;
    this.cell = (width - LEFT) / pairs.unsloth.length;
    const height = this.cell * pairs.zoos.length + BOTTOM;
    const dots = window.devicePixelRatio;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    canvas.style.height = `${height}px`;
    const brush = canvas.getContext("2d");
    brush.scale(dots, dots);
    brush.imageSmoothingEnabled = false;
    brush.drawImage(this.picture, LEFT, 0, this.cell * pairs.unsloth.length, height - BOTTOM);
    brush.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    this.drawAxes(brush, height - BOTTOM);
    this.drawTitles(brush, height - BOTTOM);
    this.drawCross(brush, this.pointed ?? this.chosen, height - BOTTOM);
  }

  drawAxes(brush, bottom) {
    brush.fillStyle = themeColours().soft;
    let free = LEFT - 20;
    for (const [place, label] of months(this.pairs.unsloth)) {
      const x = LEFT + (place + 0.5) * this.cell;
      if (x - 22 < free) continue;
      brush.fillText(label, x - 4, bottom + 16);
      free = x + 44;
    }
    free = bottom + 20;
    for (const [place, label] of months(this.pairs.zoos)) {
      const y = bottom - (place + 0.5) * this.cell;
      if (y + 6 > free) continue;
      brush.fillText(label, 22, y + 4);
      free = y - 10;
    }
  }

  drawTitles(brush, bottom) {
    brush.fillText("unsloth →", LEFT, bottom + 36);
    brush.save();
    brush.rotate(-Math.PI / 2);
    brush.fillText("unsloth_zoo →", -bottom, 10);
    brush.restore();
  }

  drawCross(brush, [column, row], bottom) {
    const colours = themeColours();
    const x = LEFT + (column + 0.5) * this.cell;
    const y = bottom - (row + 0.5) * this.cell;
    brush.strokeStyle = brush.fillStyle = colours.mark;
    brush.globalAlpha = 0.55;
    brush.lineWidth = 1;
    brush.beginPath();
    brush.moveTo(x, 0); brush.lineTo(x, bottom);
    brush.moveTo(LEFT, y); brush.lineTo(brush.canvas.clientWidth, y);
    brush.stroke();
    brush.globalAlpha = 1;
    brush.lineWidth = 2;
    const half = Math.max(4, this.cell / 2 + 2);
    brush.strokeRect(x - half, y - half, 2 * half, 2 * half);
    this.drawLabel(brush, this.pairs.zoos[row].version, 14, clamp(y - 8, bottom - 17), colours);
    const text = this.pairs.unsloth[column].version;
    const wide = brush.measureText(text).width + 8;
    this.drawLabel(brush, text, clamp(x - wide / 2, brush.canvas.clientWidth - wide), bottom + 4, colours);
  }

  drawLabel(brush, text, x, y, colours) {
    brush.fillStyle = colours.mark;
    brush.fillRect(x, y, brush.measureText(text).width + 8, 17);
    brush.fillStyle = colours.paper;
    brush.fillText(text, x + 4, y + 12);
  }

  cellUnder(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - LEFT) / this.cell);
    const fromTop = Math.floor((event.clientY - box.top) / this.cell);
    const row = this.pairs.zoos.length - 1 - fromTop;
    const inside = column >= 0 && column < this.pairs.unsloth.length && row >= 0 && row < this.pairs.zoos.length;
    return inside ? [column, row] : null;
  }
}

const clamp = (number, most) => Math.min(Math.max(number, 0), most);

/** Where each month begins, with its name: releases are called YEAR.MONTH.NUMBER. */
function months(releases) {
  const month = (release) => release.version.split(".").slice(0, 2).join(".");
  return releases.map((release, place) => [place, month(release)])
    .filter(([place, name]) => place === 0 || month(releases[place - 1]) !== name);
}

function themeColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["paper", "soft", "mark", ...Object.keys(KINDS).flatMap((kind) => [kind, `${kind}-faint`])];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
