// What only the browser knows: whether it can draw with WebGL (without it the scatter plot would stay blank, and say nothing), and which
// button had the focus when it was switched off: it has it again once it is on, so that one steps from cycle to cycle by keyboard.
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  model.set("webgl", canvas.getContext("webgl2") || canvas.getContext("webgl") ? "yes" : "no");
  model.save_changes();
  el.style.display = "none";

  let last = null;
  const on = new MutationObserver(() => {
    if (!last.disabled && document.activeElement === document.body) last.focus({ preventScroll: true });
  });
  const focused = ({ target }) => {
    on.disconnect();
    last = el.closest(".alnb-explorer")?.contains(target) ? target : null;
    if (last) on.observe(last, { attributes: true, attributeFilter: ["disabled"] });
  };
  document.addEventListener("focusin", focused);
  return () => {
    on.disconnect();
    document.removeEventListener("focusin", focused);
  };
}

export default { render };
