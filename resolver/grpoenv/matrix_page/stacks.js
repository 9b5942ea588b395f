// The table of stacks: which Pythons have evidence of which level, and all that is known of a row.

const SHOWN = ["unsloth", "unsloth-zoo", "trl", "torch", "transformers"];

class StackTable {
  constructor(stacks, levels) {
    this.levels = levels;
    this.rows = stacks.map((stack) => ({ stack, text: stackText(stack) }));
    this.columns = [
      { name: "stack", key: (row) => row.stack.id },
      { name: "as of", key: (row) => row.stack.as_of },
      ...levels.map((level) => ({ name: level, level })),
      ...SHOWN.map((name) => ({ name, key: (row) => row.stack.versions[name] ?? "" })),
    ];
    this.sorted = null;
    this.words = [];
    this.makeFilters();
    this.makeHead();
  }

  makeFilters() {
    const all = ["", "all"];
    const stacks = this.rows.map((row) => row.stack);
    const named = (names) => [all, ...[...new Set(names)].sort(natural).map((name) => [name, name])];
    fillSelect(find("runtime"), named(stacks.map((stack) => stack.runtime)));
    fillSelect(find("python"), named(stacks.flatMap((stack) => stack.targets.map((target) => target.python))));
    fillSelect(find("level"), this.levels.map((level) => [level, level]));
    for (const id of ["runtime", "python", "level", "images"]) {
      find(id).addEventListener("change", () => this.show(this.words));
    }
  }

  makeHead() {
    this.heads = this.columns.map((column) =>
      element("th", { scope: "col" }, element("button", { onclick: () => this.sortBy(column) }, column.name)));
    find("stack-head").replaceChildren(element("tr", {}, ...this.heads));
  }

  sortBy(column) {
    const descending = this.sorted?.column === column && !this.sorted.descending;
    this.sorted = { column, descending };
    this.heads.forEach((head, index) => {
      if (this.columns[index] !== column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    });
    this.show(this.words);
  }

  /** Show the rows that have all words and meet the filters; return how many there are. */
  show(words) {
    this.words = words;
    const chosen = this.rows.filter((row) => hasWords(row.text, words) && this.meets(row.stack));
    if (this.sorted) this.sort(chosen);
    find("stack-rows").replaceChildren(...chosen.flatMap((row) => this.lines(row)));
    find("stack-count").textContent = `${chosen.length} of ${this.rows.length} stacks`;
    return chosen.length;
  }

  meets(stack) {
    const [runtime, python, level] = ["runtime", "python", "level"].map((id) => find(id).value);
    if (runtime && stack.runtime !== runtime) return false;
    if (find("images").checked && !stack.image) return false;
    const least = this.levels.indexOf(level);
    return stack.targets.some((target) =>
      (!python || target.python === python) && this.levels.indexOf(target.level) >= least);
  }

  sort(rows) {
    const { column, descending } = this.sorted;
    const key = column.key ?? ((row) => reached(row.stack, column.level).length);
    const compare = column.key ? natural : (one, other) => one - other;
    rows.sort((one, other) => (descending ? -1 : 1) * compare(key(one), key(other)));
  }

  /** The line of a row, made once, and below it the details where they are open. */
  lines(row) {
    row.line ??= this.line(row);
    return row.details ? [row.line, row.details] : [row.line];
  }

  line(row) {
    const { stack } = row;
    const opener = element("button", { class: "opener", "aria-expanded": "false" }, stack.id);
    opener.addEventListener("click", () => this.toggle(row, opener));
    return element("tr", {},
      element("th", { scope: "row", title: stack.summary }, opener),
      element("td", {}, stack.as_of),
      ...this.levels.map((level) => element("td", { class: "reached" }, ...chips(reached(stack, level), level), ...chips(missed(stack, level), "failed"))),
      ...SHOWN.map((name) => element("td", { class: "version" }, stack.versions[name] ?? "")));
  }

  toggle(row, opener) {
    const open = !row.details;
    opener.setAttribute("aria-expanded", String(open));
    row.details?.remove();
    row.details = open ? this.details(row.stack) : null;
    if (open) row.line.after(row.details);
  }

  details(stack) {
    const cell = element("td", { colspan: String(this.columns.length) }, stackDetails(stack));
    return element("tr", { class: "details" }, cell);
  }
}

const chip = (text, level) => element("span", { class: `chip ${level}` }, text);

/** What distinguishes a platform, nothing for the usual Linux on x86_64. */
function platformName(target) {
  if (target.platform.includes("windows")) return "Windows";
  const machine = target.platform.split("-")[0];
  return machine === "x86_64" ? "" : machine;
}

const targetName = (target) => `${target.python} ${platformName(target)}`.trim();

/** Labels for targets: one for each Python of the usual platform, one for each other platform. */
function targetNames(targets) {
  const others = new Map();
  for (const target of targets) {
    const name = platformName(target);
    if (name) others.set(name, [...(others.get(name) ?? []), target.python]);
  }
  const usual = targets.filter((target) => !platformName(target)).map((target) => target.python);
  return [...usual, ...[...others].map(([name, pythons]) => `${name} ${pythons.join(" ")}`)];
}

const chips = (targets, look) => targetNames(targets).map((name) => chip(name, look));

const reached = (stack, level) => stack.targets.filter((target) => target.evidence.some((row) => row.level === level));

/** The targets that were run for a level and did not reach it. */
const missed = (stack, level) => stack.targets.filter((target) => target.failures.some((row) => row.level === level));

function stackText(stack) {
  const { id, runtime, summary, image, as_of: day, requires, versions, additions, targets } = stack;
  const evidence = targets.flatMap((target) => [
    ...target.evidence.map((row) => `${row.level} ${row.machine} ${row.note}`), ...target.failures.map((row) => `${row.step} ${row.error}`)]);
  const named = Object.entries(versions).map(([name, version]) => `${name} ${version} ${name}==${version}`);
  const added = additions.map((row) => `${row.package} ${row.reason}`);
  return [id, runtime, summary, image, day, ...requires, ...named, ...added, ...evidence].join("\n").toLowerCase();
}

function stackDetails(stack) {
  const versions = Object.entries(stack.versions).map(([name, version]) => `${name} ${version}`).join(", ");
  const runs = stack.targets.flatMap((target) => [...target.evidence, ...target.failures].map((row) => [targetName(target), ...run(row)]));
  return terms([
    ["what", stack.summary],
    ["image", stack.image ? `${stack.image}, keeps ${stack.keeps.join(", ")}` : ""],
    ["requires", ...(stack.requires.length ? [code(stack.requires.join(" "))] : [])],
    ["versions", versions],
    ...stack.additions.map((row) => ["addition", `${row.package}: ${row.reason}`]),
    ...runs,
    ["install", code(`grpoenv install --stack ${stack.id}`)],
  ]);
}

/** A recorded run in words, one that failed with the first step that did. */
function run(row) {
  const failed = row.error !== undefined;
  const took = [row.seconds ? `${row.seconds} s` : "", row.memory_mib ? `${thousands(row.memory_mib)} MiB` : ""].filter(Boolean).join(", ");
  return [
    chip(failed ? `not ${row.level}` : row.level, failed ? "failed" : row.level), ` ${row.date}, grpoenv ${row.grpoenv}, ${row.machine}: `, code(row.command),
    took ? ` in ${took}` : "", row.note ? ` (${row.note})` : "", failed ? `; ${row.step} fails: ` : "", failed ? code(row.error) : "",
  ];
}
