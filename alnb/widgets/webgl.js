// Whether this browser can draw with WebGL: without it the scatter plot would stay blank, and say nothing.
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  model.set("webgl", canvas.getContext("webgl2") || canvas.getContext("webgl") ? "yes" : "no");
  model.save_changes();
  el.style.display = "none";
}

export default { render };
