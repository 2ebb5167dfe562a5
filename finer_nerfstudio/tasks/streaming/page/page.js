// Reads a stream as it arrives and shows what it is worth so far.

import { StreamReader } from "./stream.js";

const LARGEST_SIDE = 1024;
// Smaller pictures are decoded at whole multiples of their size up to this: a network has no pixels of its own.
const COMFORTABLE_SIDE = 512;
const ROWS_AT_ONCE = 8;
const element = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const address = asked.get("stream") ?? "stream.finer";
// The original, where it lies beside the stream. Of another stream that one names, nothing is known.
const original = asked.has("stream") ? null : "original.png";
// What a quality is called, its digits, and its unit.
const QUANTITIES = new Map([
  ["psnr", ["PSNR", 2, " dB"]],
  ["ssim", ["SSIM", 3, ""]],
  ["lpips", ["LPIPS", 3, ""]],
  ["iou", ["IoU", 4, ""]],
]);

let reader, received, controller, pictures, following;

class Renderer {
  constructor() {
    const count = Math.max(1, Math.min(8, navigator.hardwareConcurrency || 1));
    this.job = 0;
    this.workers = Array.from({ length: count }, () => new Worker("worker.js", { type: "module" }));
  }

  stop() {
    this.job++;
    this.overtaken?.();
  }

  // Draws with the first `count` stages, rows as they are done; a later call puts an end to this one.
  render(reader, count, grid, drawRows) {
    this.stop();
    const job = this.job;
    const network = reader.header.networks[0];
    const stages = reader.stages.slice(0, count).map((stage) => stage[0]);
    let nextRow = 0, missing = grid.rows;
    return new Promise((resolve, reject) => {
      this.overtaken = () => resolve(false);
      const assign = (worker) => {
        if (nextRow >= grid.rows) return;
        const firstRow = nextRow;
        nextRow = Math.min(grid.rows, nextRow + ROWS_AT_ONCE);
        worker.postMessage({ job, network, stages, grid, firstRow, lastRow: nextRow });
      };
      for (const worker of this.workers) {
        worker.onerror = (event) => reject(new Error(event.message));
        worker.onmessage = ({ data }) => {
          // Rows of a picture that has been overtaken meanwhile are of no use.
          if (data.job !== job) return;
          drawRows(data.firstRow, data.lastRow, data.pixels);
          missing -= data.lastRow - data.firstRow;
          if (missing === 0) resolve(true);
          assign(worker);
        };
        assign(worker);
      }
    });
  }
}

const renderer = new Renderer();

function say(sentence) {
  element("status").textContent = sentence;
}

function gridOf(header) {
  const { height, width } = header.signal;
  const longer = Math.max(height, width);
  const enlarged = asked.has("native") ? 1 : Math.max(1, Math.floor(COMFORTABLE_SIDE / longer));
  const scale = Math.min(enlarged, LARGEST_SIDE / longer);
  return { height, width, rows: Math.max(1, Math.round(height * scale)), columns: Math.max(1, Math.round(width * scale)) };
}

function showBytes() {
  const header = reader.header;
  const total = header ? bytesUpTo(header.stages.length - 1) : 0;
  element("bytes").textContent = header ? `${received.toLocaleString("en")} of ${total.toLocaleString("en")} bytes` : `${received} bytes`;
  element("progress").max = total || 1;
  element("progress").value = received;
}

function qualityText(name, value) {
  const [heading, digits, unit] = QUANTITIES.get(name) ?? [name.replaceAll("_", " "), null, ""];
  return `${heading} ${digits === null ? value.toPrecision(4) : value.toFixed(digits)}${unit}`;
}

function bytesUpTo(index) {
  return reader.header.stages.slice(0, index + 1).reduce((sum, stage) => sum + stage.bytes, reader.headerBytes);
}

function showTable() {
  const body = element("stages");
  body.replaceChildren();
  reader.header.stages.forEach((stage, index) => {
    const row = body.insertRow();
    row.className = index < reader.stages.length ? "here" : "";
    const quality = Object.entries(stage.quality).map(([name, value]) => qualityText(name, value)).join(", ");
    const bytes = bytesUpTo(index).toLocaleString("en");
    for (const text of [index, stage.widths.join(" "), bytes, stage.precision, quality]) row.insertCell().textContent = text;
  });
}

async function show(index) {
  const canvas = element("picture");
  const grid = gridOf(reader.header);
  if (canvas.width !== grid.columns || canvas.height !== grid.rows) {
    canvas.width = grid.columns;
    canvas.height = grid.rows;
  }
  const context = canvas.getContext("2d");
  element("shown").textContent = `stage ${index}`;
  element("stage").value = index;
  const { psnr } = reader.header.stages[index].quality;
  const parts = [`stage ${index}`, `${bytesUpTo(index).toLocaleString("en")} bytes`];
  if (psnr !== undefined) parts.push(qualityText("psnr", psnr));
  element("caption").textContent = parts.join(", ");
  if (!pictures[index]) {
    const picture = new ImageData(grid.columns, grid.rows);
    const current = reader;
    const isWhole = await renderer.render(reader, index + 1, grid, (firstRow, lastRow, pixels) => {
      picture.data.set(pixels, 4 * firstRow * grid.columns);
      context.putImageData(picture, 0, 0, 0, firstRow, grid.columns, lastRow - firstRow);
    });
    if (!isWhole || current !== reader) return;
    pictures[index] = picture;
  }
  context.putImageData(pictures[index], 0, 0);
  document.body.dataset.shown = index;
}

// Puts the original beside the picture, if there is one and it has the picture's shape.
function compare(header) {
  if (original === null) return;
  const { columns, rows } = gridOf(header), { height, width } = header.signal;
  const pictures = element("pictures"), picture = element("original");
  const showOriginal = (isShown) => {
    if (header !== reader.header) return;
    element("truth").hidden = element("caption").hidden = !isShown;
    pictures.classList.toggle("compared", isShown);
  };
  picture.onload = () => {
    pictures.style.setProperty("--columns", `${columns}px`);
    pictures.style.setProperty("--shape", `${columns} / ${rows}`);
    // Its pixels are what there is of it: larger ones, and nothing made up between them.
    picture.style.imageRendering = picture.naturalWidth < columns ? "pixelated" : "auto";
    const shorter = Math.min(height, width, picture.naturalHeight, picture.naturalWidth);
    // A smaller copy has a whole number of pixels too.
    showOriginal(Math.abs((picture.naturalWidth * height) / (picture.naturalHeight * width) - 1) <= 1 / shorter);
  };
  picture.onerror = () => showOriginal(false);
  // What arrives of the stream comes first.
  picture.fetchPriority = "low";
  picture.src = original;
}

// Stages are drawn one after the other, but a stage that a newer one has overtaken is not waited for.
function arrived() {
  const count = reader.stages.length;
  element("stage").max = Math.max(0, count - 1);
  element("stage").disabled = count < 2;
  document.body.dataset.stages = count;
  showTable();
  if (count && following) show(count - 1).catch(failed);
}

function failed(error) {
  say(error.message);
  document.body.dataset.ended = "true";
}

// Hands on at most `kilobytes` per second; 0 for whatever comes.
async function* throttled(stream, signal) {
  const source = stream.getReader();
  for (;;) {
    const { done, value } = await source.read();
    if (done) return;
    for (let start = 0; start < value.length;) {
      const kilobytes = Number(element("speed").value);
      const size = kilobytes ? Math.max(1, Math.round(kilobytes * 50)) : value.length - start;
      yield value.subarray(start, start + size);
      start += size;
      if (kilobytes) await new Promise((resolve) => setTimeout(resolve, 50));
      if (signal.aborted) return;
    }
  }
}

async function load() {
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  reader = new StreamReader();
  received = 0;
  pictures = [];
  following = true;
  renderer.stop();
  delete document.body.dataset.shown;
  delete document.body.dataset.ended;
  say("connecting");
  try {
    const answer = await fetch(address, { signal });
    if (!answer.ok) throw new Error(`${address}: the server answers ${answer.status}`);
    say("receiving");
    for await (const portion of throttled(answer.body, signal)) {
      received += portion.length;
      const isNew = reader.header === null;
      const count = reader.feed(portion);
      if (isNew && reader.header) {
        if (reader.header.task !== "image") throw new Error("this stream is no image: decode it with finer stream");
        compare(reader.header);
        showTable();
      }
      showBytes();
      if (count) arrived();
      if (reader.damage) throw new Error(`${reader.damage}; what came before is shown`);
    }
    if (signal.aborted) return;
    const isWhole = reader.header && reader.stages.length === reader.header.stages.length;
    say(isWhole ? "complete" : `the connection ended after ${reader.stages.length} stages`);
  } catch (error) {
    if (signal.aborted) return;
    say(reader.stages.length ? `${error.message}; ${reader.stages.length} stages have arrived` : error.message);
  }
  document.body.dataset.ended = "true";
}

element("stage").addEventListener("input", (event) => {
  const index = Number(event.target.value);
  following = index === reader.stages.length - 1;
  show(index).catch(failed);
});
element("again").addEventListener("click", load);
if (new URLSearchParams(location.search).has("speed")) element("speed").value = new URLSearchParams(location.search).get("speed");
load();
