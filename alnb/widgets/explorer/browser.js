// Two things that only the browser knows. Can it draw with WebGL? (Without it the scatter plot stays blank without an error.) And which
// button had the focus when it was switched off? It gets the focus back once it is on, so that one can step by keyboard.
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  model.set("webgl", canvas.getContext("webgl2") || canvas.getContext("webgl") ? "yes" : "no");
  model.save_changes();
  el.style.display = "none";

  let last = null;
  const observer = new MutationObserver(() => {
    if (!last.disabled && document.activeElement === document.body) last.focus({ preventScroll: true });
  });
  const focused = ({ target }) => {
    observer.disconnect();
    last = el.closest(".alnb-explorer")?.contains(target) ? target : null;
    if (last) observer.observe(last, { attributes: true, attributeFilter: ["disabled"] });
  };
  document.addEventListener("focusin", focused);
  return () => {
    observer.disconnect();
    document.removeEventListener("focusin", focused);
  };
}

export default { render };
