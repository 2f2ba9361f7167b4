// The image under the pointer of a scatter plot. The browser holds all pixels of a small pool; for a large pool it asks the kernel.
const SETTLED = 800; // milliseconds after which a plot has finished drawing

// jupyter-scatter draws every plot on one canvas of the window's size and copies it. Without a GPU this takes most of the time that a
// pointer or a slider waits. A canvas of the plot's size takes less than half of it.
function fit() {
  const renderer = window.jupyterScatter?.renderer, draw = renderer?.render;
  if (!draw || renderer.alnbFits) return;
  renderer.alnbFits = true;
  renderer.render = (points, plot) => {
    const { canvas } = renderer, ratio = window.devicePixelRatio;
    if (canvas.width !== plot.width || canvas.height !== plot.height) {
      renderer.resize((plot.width + 0.5) / ratio, (plot.height + 0.5) / ratio); // it multiplies and rounds down to the plot's size
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

  const cache = new Map(); // RGB pixels by image
  const draw = (image, label) => {
    const [height, width] = model.get("size"), pixels = cache.get(image);
    canvas.hidden = !pixels;
    if (!pixels) return;
    const data = new ImageData(width, height);
    for (let k = 0; k < width * height; k++) {
      data.data.set(pixels.subarray(3 * k, 3 * k + 3), 4 * k);
      data.data[4 * k + 3] = 255;
    }
    [canvas.width, canvas.height] = [width, height];
    canvas.style.imageRendering = Math.max(width, height) < 96 ? "pixelated" : "auto";
    canvas.getContext("2d").putImageData(data, 0, 0);
    canvas.setAttribute("aria-label", label);
  };
  const show = () => {
    const image = model.get("image");
    root.dataset.image = image;
    if (image < 0) {
      text.textContent = "Point at an image or type its number. To select images, press the lasso button and draw.";
      return;
    }
    const cycle = model.get("queried")[image], target = model.get("classes")[model.get("targets")[image]];
    const label = `image ${image}, class ${target}, ${cycle === undefined ? "not queried yet" : `queried in cycle ${cycle}`}`;
    text.textContent = label;
    if (!cache.has(image)) model.send({ image });
    draw(image, label);
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
    const all = new Uint8Array(buffer, byteOffset, byteLength); // the buffer may hold the whole message
    message.images.forEach((image, k) => cache.set(image, all.subarray(k * each, (k + 1) * each)));
    if (cache.has(model.get("image"))) show();
  };
  // A plot that gets new points while it still draws the old ones, as when it opens, drops the new ones. So draw once more when it is idle.
  let timer = null;
  const redraw = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      fit();
      plot.off("change:points", redraw);
      plot.trigger("change:points");
      plot.on("change:points", redraw);
    }, SETTLED);
  };
  plot.on("change:points", redraw);
  redraw();
  model.on("change:image", show);
  model.on("change:queried", show);
  model.on("msg:custom", take);
  plot.on("change:hovering", point);
  model.send({ image: null }); // all images, if the pool is small
  show();
  return () => {
    clearTimeout(timer);
    plot.off("change:points", redraw);
    plot.off("change:hovering", point);
    for (const [name, callback] of [["change:image", show], ["change:queried", show], ["msg:custom", take]]) model.off(name, callback);
  };
}

export default { render };
