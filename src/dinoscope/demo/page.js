// Runs in the page's head, before Gradio. page.py gives it `dinoscope`: the forced language or null, and Spanish for
// English words of Gradio.

// A forced language also holds for what Gradio translates by the browser's language.
if (dinoscope.language) {
  Object.defineProperty(navigator, "language", {get: () => dinoscope.language});
  Object.defineProperty(navigator, "languages", {get: () => [dinoscope.language]});
}

// Gradio gives each choice of a question a name of its own: browsers would not go from one to the next by the arrows, and
// would read out "1 of 1".
new MutationObserver(() => document.querySelectorAll("fieldset").forEach((question) => {
  const choices = [...question.querySelectorAll("input[type=radio]")];
  choices.filter((each) => each.name !== choices[0].name).forEach((each) => { each.name = choices[0].name; });
})).observe(document.documentElement, {subtree: true, childList: true});

// Some of Gradio's words stand in its scripts in English alone (tips on buttons, the place in the queue, what is read
// out to those who do not see the page). They are exchanged whenever Gradio writes them.
(() => {
  if (!navigator.language.toLowerCase().startsWith("es")) return;
  const escape = (text) => text.replace(/[.+?^${}()|[\]\\]/g, "\\$&");
  const rules = Object.entries(dinoscope.words).map(([from, to]) =>
    [new RegExp("^(\\s*)" + escape(from).replaceAll("*", "(.*?)") + "(\\s*)$"), to.split("*")]);
  const translate = (text) => {
    for (const [pattern, parts] of rules) {
      const match = pattern.exec(text);
      if (match) return match[1] + parts.map((part, n) => part + (n + 1 < parts.length ? match[n + 2] : "")).join("")
        + match[match.length - 1];
    }
    return text;
  };
  const isOurs = (node) => node.parentElement && !node.parentElement.closest(".prose, textarea, style, script");
  const fix = (node) => {
    if (node.nodeType === Node.TEXT_NODE) {
      const text = translate(node.data);
      if (text !== node.data && isOurs(node)) node.data = text;
      return;
    }
    if (node.nodeType !== Node.ELEMENT_NODE) return;
    for (const name of ["title", "aria-label"]) {
      const before = node.getAttribute(name), after = before && translate(before);
      if (after !== before) node.setAttribute(name, after);
    }
    node.childNodes.forEach(fix);
  };
  new MutationObserver((changes) => changes.forEach((change) => {
    change.type === "childList" ? change.addedNodes.forEach(fix) : fix(change.target);
  })).observe(document.documentElement, {
    subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["title", "aria-label"],
  });
})();
