// Building and finding elements. Text only ever becomes text: nothing here parses HTML.

const find = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** An element of a drawing. */
function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const code = (text) => element("code", {}, text);

/** A link for an address of the web, and text for anything else that a file may hold. */
function reference(text) {
  if (!/^https:\/\//.test(text)) return text;
  return element("a", { href: text, rel: "noopener noreferrer" }, text);
}

/** A list of terms; rows without a description are left out. */
function terms(rows) {
  const list = element("dl");
  for (const [term, ...description] of rows) {
    if (description.some((part) => part)) {
      list.append(element("dt", {}, term), element("dd", {}, ...description));
    }
  }
  return list;
}

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
}

const thousands = (number) => number.toLocaleString("en");

/** Compare versions and other names as people do: 2025.3.9 comes before 2025.3.10. */
const natural = new Intl.Collator("en", { numeric: true }).compare;

/** Whether a text has all words of the search, in any case. */
const hasWords = (text, words) => words.every((word) => text.includes(word));
