// The page as a whole: views, search, theme and address.

const content = JSON.parse(find("data").textContent);
const VIEWS = ["stacks", "pairs", "timelines", "breaks"];
const THEMES = ["auto", "light", "dark"];

const stackTable = new StackTable(content.stacks, content.levels);
const pairView = content.pairs ? new PairView(content.pairs, search) : null;
const timeLines = new TimeLines(content, pairView?.pairs);
const breakRows = content.breaks.map((row) => ({ text: breakText(row), article: breakArticle(row) }));

function breakText(row) {
  return JSON.stringify(Object.values(row)).toLowerCase();
}

function breakArticle(row) {
  const when = Object.entries(row.when).map(([name, range]) => name + rangeInOrder(range)).join(", ");
  const seen = row.evidence.map((one) => `${one.date}, ${one.machine}: ${one.command}${one.note ? ` (${one.note})` : ""}`);
  return element("article", {}, element("h3", {}, row.id), terms([
    ["where", code(when)],
    ["what", row.summary],
    ["happens", code(row.symptom)],
    ["class", row.class],
    ["symbol", row.symbol ? code(row.symbol) : ""],
    ["reported", row.reference ? reference(row.reference) : ""],
    ...seen.map((text) => ["seen", text]),
  ]));
}

/** A range with its lower end first. */
function rangeInOrder(range) {
  return range.split(",").sort().reverse().join(",");
}

function showBreaks(words) {
  const chosen = breakRows.filter((row) => hasWords(row.text, words));
  find("break-rows").replaceChildren(...chosen.map((row) => row.article));
  return chosen.length;
}

function search() {
  const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const counts = { stacks: stackTable.show(words), pairs: pairView?.show(words) ?? 0, timelines: timeLines.show(words), breaks: showBreaks(words) };
  for (const view of VIEWS) tab(view).querySelector("b").textContent = thousands(counts[view]);
  if (words.length) find("status").textContent = `${counts.stacks} stacks, ${counts.pairs} pairs, ${counts.timelines} releases, ${counts.breaks} breaks`;
}

const tab = (view) => find(`tab-${view}`);

function showView(view) {
  for (const each of VIEWS) {
    find(`view-${each}`).hidden = each !== view;
    tab(each).setAttribute("aria-selected", String(each === view));
    tab(each).tabIndex = each === view ? 0 : -1;
  }
}

/** Show what the address names: one of the views, or #pairs/UNSLOTH/ZOO. */
function follow() {
  const [view, unsloth, zoo] = decodeURIComponent(location.hash.slice(1)).split("/");
  showView(VIEWS.includes(view) ? view : VIEWS[0]);
  if (view === "pairs" && pairView) pairView.open(unsloth, zoo);
}

function go(view) {
  location.hash = view;
  tab(view).focus();
}

for (const view of VIEWS) {
  tab(view).addEventListener("click", () => go(view));
  tab(view).addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) go(VIEWS[(VIEWS.indexOf(view) + step + VIEWS.length) % VIEWS.length]);
  });
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");

/** The theme is the system's until one is asked for; it is kept where the browser lets a page. */
function showTheme(theme) {
  document.documentElement.dataset.theme = theme === "auto" ? (systemDark.matches ? "dark" : "light") : theme;
  find("theme").dataset.theme = theme;
  find("theme").textContent = { auto: "◐ auto", light: "○ light", dark: "● dark" }[theme];
  find("theme").setAttribute("aria-label", `Theme: ${theme}`);
  pairView?.map.paint();
}

function keptTheme() {
  try { return localStorage.getItem("grpoenv-theme"); } catch { return null; }
}

function keepTheme(theme) {
  try { localStorage.setItem("grpoenv-theme", theme); } catch { /* a page of the file system may not */ }
}

find("theme").addEventListener("click", () => {
  const theme = THEMES[(THEMES.indexOf(find("theme").dataset.theme) + 1) % THEMES.length];
  keepTheme(theme);
  showTheme(theme);
});
systemDark.addEventListener("change", () => showTheme(find("theme").dataset.theme));

find("search").addEventListener("input", search);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  event.preventDefault();
  find("search").focus();
});
addEventListener("hashchange", follow);

tab("pairs").hidden = !pairView;
find("made").textContent = `Made by grpoenv ${content.grpoenv}; the page loads nothing and sends nothing.`;
showTheme(THEMES.includes(keptTheme()) ? keptTheme() : "auto");
search();
follow();
