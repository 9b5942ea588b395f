// The view of the pairs around the map: the pair in words, the outcomes, the first failures.

class PairView {
  /** `changed` is called where another choice of pairs is wanted than that of the search. */
  constructor(data, changed) {
    this.changed = changed;
    this.pairs = new Pairs(data);
    this.pressed = null;
    this.texts = data.verdicts.map((verdict) => `${failure(verdict)} ${verdict.at}`.toLowerCase());
    find("pair-date").textContent = data.date;
    this.map = new PairMap(find("map"), this.pairs, (cell, chosen) => this.moved(cell, chosen));
    this.makeForm();
    this.makeLists();
  }

  makeForm() {
    const fill = (select, releases) =>
      fillSelect(select, releases.map((release, place) => [String(place), release.version]).reverse());
    fill(find("pick-unsloth"), this.pairs.unsloth);
    fill(find("pick-zoo"), this.pairs.zoos);
    find("pair-form").addEventListener("change", () =>
      this.map.choose([Number(find("pick-unsloth").value), Number(find("pick-zoo").value)]));
  }

  makeLists() {
    const kinds = new Map(Object.keys(KINDS).map((kind) => [kind, { kind, label: KINDS[kind], all: 0, admitted: 0 }]));
    const failures = new Map();
    for (const [, , pair] of this.pairs.cells()) {
      count(kinds, pair.kind, pair, pair.kind);
      if (pair.verdict) count(failures, failure(pair.verdict), pair, failure(pair.verdict));
    }
    const wantsKind = (group) => (pair) => pair.kind === group.kind;
    const wantsFailure = (group) => (pair) => pair.verdict !== null && failure(pair.verdict) === group.label;
    find("legend").replaceChildren(...[...kinds.values()].filter((group) => group.all).map((group) => this.picker(group, wantsKind(group), group.label)));
    const ordered = [...failures.values()].sort((one, other) => other.all - one.all);
    find("reasons").replaceChildren(...ordered.map((group) => this.picker(group, wantsFailure(group), code(group.label))));
  }

  /** A button that fades all pairs but those of a group, until it is pressed again. */
  picker(group, wants, label) {
    const button = element("button", { class: "pick", "aria-pressed": "false" },
      element("span", { class: `swatch ${group.kind}` }), element("span", {}, label),
      element("span", { class: "count" }, thousands(group.all)), element("span", { class: "count" }, thousands(group.admitted)));
    button.addEventListener("click", () => {
      const press = this.pressed?.button !== button;
      this.pressed?.button.setAttribute("aria-pressed", "false");
      this.pressed = press ? { button, wants } : null;
      button.setAttribute("aria-pressed", String(press));
      this.changed();
    });
    return element("li", {}, button);
  }

  /** Fade what the search or a pressed button leaves out; return how many pairs stay. */
  show(words) {
    return this.map.highlight(this.wants(words));
  }

  wants(words) {
    const says = words.map((word) => ({
      unsloth: this.pairs.unsloth.map((release) => release.version.startsWith(word)),
      zoo: this.pairs.zoos.map((release) => release.version.startsWith(word)),
      verdict: this.texts.map((text) => text.includes(word)),
    }));
    return (pair, column, row) =>
      (!this.pressed || this.pressed.wants(pair)) &&
      says.every((said) => said.unsloth[column] || said.zoo[row] || (pair.number >= 0 && said.verdict[pair.number]));
  }

  moved([column, row], chosen) {
    const pair = this.pairs.at(column, row);
    const card = find("pair");
    // Only what was chosen is read out: a pointer passes over dozens of pairs a second.
    card.setAttribute("aria-live", chosen ? "polite" : "off");
    card.className = `card ${pair.kind}`;
    card.replaceChildren(element("h3", {}, `unsloth ${pair.unsloth.version} with zoo ${pair.zoo.version}`), pairTerms(pair));
    if (!chosen) return;
    find("pick-unsloth").value = String(column);
    find("pick-zoo").value = String(row);
    history.replaceState(null, "", `#pairs/${pair.unsloth.version}/${pair.zoo.version}`);
  }

  /** Choose the pair of two versions, if there is one. */
  open(unsloth, zoo) {
    const place = (releases, version) => releases.findIndex((release) => release.version === version);
    const cell = [place(this.pairs.unsloth, unsloth), place(this.pairs.zoos, zoo)];
    this.map.choose(cell.includes(-1) ? this.map.chosen : cell);
  }
}

function count(groups, name, pair, label) {
  if (!groups.has(name)) groups.set(name, { kind: pair.kind, label, all: 0, admitted: 0 });
  const group = groups.get(name);
  group.all += 1;
  group.admitted += pair.admitted ? 1 : 0;
}

const failure = (verdict) => `${verdict.exception}: ${verdict.name}`;

function pairTerms({ unsloth, zoo, verdict, kind, admitted }) {
  return terms([
    ["verdict", KINDS[kind]],
    ...(verdict ? [["first failure", code(failure(verdict))], ["why", verdict.why], ["taken at", code(verdict.at)]] : []),
    ["declared", `${rangeText("unsloth", unsloth, "unsloth_zoo")}; ${rangeText("the zoo", zoo, "unsloth")}: ${admitted ? "admitted" : "not admitted"}`],
    ["look again", code(`grpoenv check unsloth==${unsloth.version} unsloth_zoo==${zoo.version} --no-deps`)],
  ]);
}

function rangeText(who, release, other) {
  return release.needs === null ? `${who} names no ${other}` : `${who} takes ${other}${release.needs || " of any version"}`;
}
