// Renders rows of a picture, a few at a time, beside the page.

import { renderRows } from "./network.js";

self.onmessage = ({ data: { job, network, stages, grid, firstRow, lastRow } }) => {
  const pixels = renderRows(network, stages, grid, firstRow, lastRow);
  self.postMessage({ job, firstRow, lastRow, pixels }, [pixels.buffer]);
};
