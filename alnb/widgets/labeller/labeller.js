// One image at a time, labelled by keys. Answers go to the kernel, which sends the next image once the answer is on disk.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const LIMIT = 5000; // milliseconds; a kernel that takes longer is busy or was restarted
  let waiting = null;
  const send = (message) => {
    model.send(message);
    waiting ??= setTimeout(() => {
      problem.textContent = "The kernel does not answer: it is busy with another cell, or it was restarted. After a restart, run this cell again. "
        + "Every answer that was counted is on disk.";
    }, LIMIT);
  };
  const answered = () => { clearTimeout(waiting); waiting = null; drawTexts(); };
  const picture = element("img", { class: "alnb-image", alt: "" });
  const guess = element("div", { class: "alnb-guess" });
  const status = element("div", { class: "alnb-status", role: "status", "aria-live": "polite" });
  const problem = element("div", { class: "alnb-problem", role: "alert" });
  const news = element("ul", { class: "alnb-news" });
  const estimate = element("div", { class: "alnb-estimate" });
  const classes = element("div", { class: "alnb-classes", role: "group", "aria-label": "classes" });
  const action = (key, name, title) =>
    element("button", { type: "button", title, "data-action": name, onclick: () => act(name) }, element("kbd", {}, key), ` ${name}`);
  const actions = element(
    "div", { class: "alnb-actions", role: "group", "aria-label": "actions" },
    action("u", "undo", "take back the last answer"), action("s", "skip", "ask for this image at the end of the batch"),
    action("n", "not sure", "nobody can tell what this image shows"), action("g", "guess", "show or hide the model's guess; seeing it may bias you"),
    element("button", { type: "button", title: "write the labels so far to a table in the folder of labels", onclick: () => act("write CSV") }, "write CSV"),
  );
  const name = element("input", { type: "text", "aria-label": "name of a new class", placeholder: "name of a new class" });
  const add = element("button", { type: "submit" }, "add class");
  const form = element(
    "form", { class: "alnb-add", onsubmit: (event) => { event.preventDefault(); send({ add: name.value }); } },
    name, add, element("span", {}, "Esc: back to the image"),
  );
  const root = element(
    "div", { class: "alnb-labeller", tabindex: "0", role: "application", "data-lm-suppress-shortcuts": "true",
      "aria-label": "Label the image: press the key of a class, u to undo, s to skip, n for not sure, g for the model's guess" },
    element("div", { class: "alnb-stage" }, picture, guess), element("div", { class: "alnb-side" }, status, problem, classes, actions, form, estimate, news),
  );

  const act = (what) => { send({ action: what, image: model.get("shown") }); root.focus(); };
  const label = (index) => { send({ label: index, image: model.get("shown") }); root.focus(); };
  const ACTIONS = { u: "undo", s: "skip", n: "not sure", g: "guess" };

  root.addEventListener("keydown", (event) => {
    event.stopPropagation(); // JupyterLab would add and delete cells
    if (event.target === name) {
      if (event.key === "Escape") root.focus();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const key = event.key.toLowerCase(), index = model.get("class_keys").indexOf(key);
    if (index >= 0) label(index);
    else if (key in ACTIONS) act(ACTIONS[key]);
    else if (model.get("free_keys").includes(key)) send({ free: key });
    else return;
    event.preventDefault();
  });

  let url = null;
  const drawImage = () => {
    const bytes = model.get("image");
    if (url) URL.revokeObjectURL(url);
    url = bytes && bytes.byteLength ? URL.createObjectURL(new Blob([bytes])) : null;
    if (url) picture.src = url;
    else picture.removeAttribute("src");
    picture.alt = picture.title = url ? model.get("caption") : "";
    picture.hidden = !url;
    root.dataset.shown = model.get("shown");
  };
  const drawClasses = () => {
    const counts = model.get("counts");
    classes.replaceChildren(...model.get("classes").map((text, k) =>
      element("button", { type: "button", "data-class": text, onclick: () => label(k) }, element("kbd", {}, model.get("class_keys")[k]), ` ${text} `,
        element("span", { class: "alnb-count" }, String(counts[k] ?? 0)))));
  };
  const drawTexts = () => {
    status.textContent = model.get("status");
    problem.textContent = model.get("problem");
    guess.textContent = model.get("guess");
    estimate.textContent = model.get("estimate");
    news.replaceChildren(...model.get("news").map((line) => element("li", {}, line)));
    root.classList.toggle("alnb-busy", model.get("busy"));
    for (const button of [...classes.children, ...actions.children]) button.disabled = model.get("busy") || model.get("closed");
    form.hidden = model.get("closed");
    add.disabled = model.get("busy"); // the name stays in the field, and Enter does nothing
  };
  const clearName = () => { // a refused name stays, so that it can be corrected
    if (model.get("classes").includes(name.value.trim())) name.value = "";
  };
  model.on("change:image change:shown change:caption", drawImage);
  model.on("change:classes change:counts change:class_keys", () => { drawClasses(); drawTexts(); });
  model.on("change:classes", clearName);
  model.on("change:received", answered);
  model.on("change:status change:problem change:guess change:estimate change:news change:busy change:closed", drawTexts);
  drawImage();
  drawClasses();
  drawTexts();
  el.append(root);
  return () => {
    clearTimeout(waiting);
    if (url) URL.revokeObjectURL(url);
  };
}

export default { render };
