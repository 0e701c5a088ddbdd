// Labels of a slice, read back from pictures in which each has its own full colour.

// The colours of labels repeat after 20 of them, so one picture tells at most 20 apart.
const TOLD_APART = 20;

export class Labels {
  /**
   * Returns the labels, null where this browser does not give back the pixels that it was given: some add noise to
   * them against tracking.
   * @param {string} base Path of the slice.
   * @param {object[]} labels Of the result.
   * @param {function} fetchPicture Path to `ImageBitmap`.
   */
  static async read(base, labels, fetchPicture) {
    const bare = pixels(await fetchPicture(`${base}?overlay=0`));
    const values = new Int32Array(bare.width * bare.height);
    for (let start = 0; start < labels.length; start += TOLD_APART) {
      const part = labels.slice(start, start + TOLD_APART);
      const drawn = pixels(await fetchPicture(`${base}?overlay=1&labels=${part.map((label) => label.value).join(",")}`));
      const known = new Map(part.map((label) => [parseInt(label.colour.slice(1), 16), label.value]));
      for (let pixel = 0; pixel < values.length; pixel++) {
        const at = pixel * 4;
        const colour = colourAt(drawn.data, at);
        if (colour === colourAt(bare.data, at)) continue;
        if (!known.has(colour)) return null;
        values[pixel] = known.get(colour);
      }
    }
    return new Labels(bare.width, bare.height, values);
  }

  constructor(width, height, values) {
    Object.assign(this, { width, height, values });
  }

  valueAt(column, row) {
    return this.values[row * this.width + column];
  }

  /** Returns the labels as a canvas of the slice's own pixels. */
  picture(look) {
    const canvas = document.createElement("canvas");
    canvas.width = this.width;
    canvas.height = this.height;
    const found = new ImageData(this.width, this.height);
    const colours = new Map([...look].filter(([, label]) => label.visible).map(([value, label]) => [value, [1, 3, 5].map((at) => parseInt(label.colour.slice(at, at + 2), 16)).concat(Math.round(label.opacity * 255))]));
    for (let pixel = 0; pixel < this.values.length; pixel++) {
      const colour = this.values[pixel] ? colours.get(this.values[pixel]) : null;
      if (colour) found.data.set(colour, pixel * 4);
    }
    canvas.getContext("2d").putImageData(found, 0, 0);
    return canvas;
  }
}

function colourAt(data, at) {
  return (data[at] << 16) | (data[at + 1] << 8) | data[at + 2];
}

function pixels(picture) {
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(picture, 0, 0);
  return pen.getImageData(0, 0, picture.width, picture.height);
}
