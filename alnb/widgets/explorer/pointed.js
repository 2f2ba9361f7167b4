// The image under a scatter plot's pointer. The browser holds the pixels of a small pool, and asks the kernel for those of a large one.
const SETTLED = 800; // milliseconds after which a plot surely draws no more

// jupyter-scatter draws every plot on one canvas of the window's size, and copies it. Without a GPU that takes most of the time that a
// pointer or a slider waits for; on a canvas of the plot's own size it takes less than half.
function fit() {
  const renderer = window.jupyterScatter?.renderer, draw = renderer?.render;
  if (!draw || renderer.alnbFits) return;
  renderer.alnbFits = true;
  renderer.render = (points, plot) => {
    const { canvas } = renderer, ratio = window.devicePixelRatio;
    if (canvas.width !== plot.width || canvas.height !== plot.height) {
      renderer.resize((plot.width + 0.5) / ratio, (plot.height + 0.5) / ratio); // what it multiplies and rounds down is the plot's size
      renderer.refresh();
    }
    draw(points, plot);
  };
}

async function render({ model, el }) {
  const root = document.createElement("div"), canvas = document.createElement("canvas"), text = document.createElement("span");
  root.className = "alnb-pointed";
  root.style.cssText = "display:flex;align-items:center;gap:8px;min-height:104px;line-height:1.3";
  canvas.style.cssText = "width:96px;height:96px;object-fit:contain;flex:none";
  canvas.setAttribute("role", "img");
  canvas.hidden = true;
  root.append(canvas, text);
  el.append(root);

  const held = new Map(); // pixels by image, RGB
  const draw = (image, told) => {
    const [height, width] = model.get("size"), pixels = held.get(image);
    canvas.hidden = !pixels;
    if (!pixels) return;
    const drawn = new ImageData(width, height);
    for (let k = 0; k < width * height; k++) {
      drawn.data.set(pixels.subarray(3 * k, 3 * k + 3), 4 * k);
      drawn.data[4 * k + 3] = 255;
    }
    [canvas.width, canvas.height] = [width, height];
    canvas.style.imageRendering = Math.max(width, height) < 96 ? "pixelated" : "auto";
    canvas.getContext("2d").putImageData(drawn, 0, 0);
    canvas.setAttribute("aria-label", told);
  };
  const tell = () => {
    const image = model.get("image");
    root.dataset.image = image;
    if (image < 0) {
      text.textContent = "Point at an image, or give its number; press the lasso, and draw, to select some.";
      return;
    }
    const cycle = model.get("asked")[image], target = model.get("classes")[model.get("targets")[image]];
    const told = `image ${image}, class ${target}, ${cycle === undefined ? "not asked for yet" : `asked for in cycle ${cycle}`}`;
    text.textContent = told;
    if (!held.has(image)) model.send({ image });
    draw(image, told);
  };

  const plot = await model.widget_manager.get_model(model.get("plot").slice("IPY_MODEL_".length));
  const point = () => {
    const image = plot.get("hovering");
    if (typeof image !== "number" || image < 0 || image === model.get("image")) return;
    model.set("image", image);
    model.save_changes();
  };
  const take = (message, buffers) => {
    const each = 3 * model.get("size")[0] * model.get("size")[1], { buffer, byteOffset, byteLength } = buffers[0];
    const all = new Uint8Array(buffer, byteOffset, byteLength); // a part of the whole message, perhaps
    message.images.forEach((image, k) => held.set(image, all.subarray(k * each, (k + 1) * each)));
    if (held.has(model.get("image"))) tell();
  };
  // A plot that is given other points while it still draws the ones before, as when it opens, drops them: draw them again once it rests.
  let rest = null;
  const again = () => {
    clearTimeout(rest);
    rest = setTimeout(() => {
      fit();
      plot.off("change:points", again);
      plot.trigger("change:points");
      plot.on("change:points", again);
    }, SETTLED);
  };
  plot.on("change:points", again);
  again();
  model.on("change:image", tell);
  model.on("change:asked", tell);
  model.on("msg:custom", take);
  plot.on("change:hovering", point);
  model.send({ image: null }); // all, of a small pool
  tell();
  return () => {
    clearTimeout(rest);
    plot.off("change:points", again);
    plot.off("change:hovering", point);
    for (const [name, callback] of [["change:image", tell], ["change:asked", tell], ["msg:custom", take]]) model.off(name, callback);
  };
}

export default { render };
