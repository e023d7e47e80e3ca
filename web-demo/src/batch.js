// Records as JavaScript sees them: a view over columns that were copied out of
// WebAssembly once for a whole batch. Text is decoded when it is asked for.

// A mark at the beginning of a text is part of it.
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Bytes of variable length, one entry for each record. */
export class Column {
  #ends;
  #bytes;
  #nulls;
  #skip;

  /** Entries from number `skip` on; a 1 in `nulls` (least significant bit first) is a null. */
  constructor(ends, bytes, nulls, skip) {
    this.#ends = ends;
    this.#bytes = bytes;
    this.#nulls = nulls;
    this.#skip = skip;
  }

  /** The bytes of an entry; null where it is null or the column is absent. */
  entry(row) {
    const at = row + this.#skip;
    if (at >= this.#ends.length || (this.#nulls && (this.#nulls[at >> 3] >> (at & 7)) & 1)) return null;
    return this.#bytes.subarray(at === 0 ? 0 : this.#ends[at - 1], this.#ends[at]);
  }
}

export class Batch {
  #offsets;
  #timestamps;
  #keys;
  #values;
  #headers;

  constructor(topic, partition, offsets, timestamps, keys, values, headers) {
    this.topic = topic;
    this.partition = partition;
    this.#offsets = offsets;
    this.#timestamps = timestamps;
    this.#keys = keys;
    this.#values = values;
    this.#headers = headers;
  }

  get length() {
    return this.#offsets.length;
  }

  offset(row) {
    return this.#offsets[row];
  }

  timestamp(row) {
    return this.#timestamps[row];
  }

  keyBytes(row) {
    return this.#keys.entry(row);
  }

  key(row) {
    return decoded(this.#keys.entry(row));
  }

  valueBytes(row) {
    return this.#values.entry(row);
  }

  value(row) {
    return decoded(this.#values.entry(row));
  }

  json(row, options) {
    const text = this.value(row);
    if (text === null) return null;
    return options?.bigint ? parsedWithBigInts(text) : JSON.parse(text);
  }

  /** The layout is that of the batch on the wire: a count, then names and values with their lengths. */
  headers(row) {
    const bytes = this.#headers.entry(row);
    if (!bytes || bytes.length === 0) return [];
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const found = [];
    let at = 2;
    for (let left = view.getUint16(0, true); left > 0; left--) {
      const name = at + 2;
      const value = name + view.getUint16(at, true) + 4;
      const length = view.getUint32(value - 4, true);
      const isNull = length === 0xffffffff;
      at = isNull ? value : value + length;
      found.push([utf8.decode(bytes.subarray(name, value - 4)), isNull ? null : bytes.subarray(value, at)]);
    }
    return found;
  }

  record(row) {
    return new BatchRecord(this, row);
  }

  *[Symbol.iterator]() {
    for (let row = 0; row < this.length; row++) yield this.record(row);
  }
}

class BatchRecord {
  #batch;
  #row;

  constructor(batch, row) {
    this.#batch = batch;
    this.#row = row;
  }

  get offset() {
    return this.#batch.offset(this.#row);
  }

  get timestamp() {
    return this.#batch.timestamp(this.#row);
  }

  get key() {
    return this.#batch.key(this.#row);
  }

  get value() {
    return this.#batch.value(this.#row);
  }

  get headers() {
    return this.#batch.headers(this.#row);
  }

  json(options) {
    return this.#batch.json(this.#row, options);
  }
}

/** Texts, which may hold digits, and numbers with their fraction and exponent. */
const textsAndNumbers = /"(?:[^"\\]|\\.)*"|-?\d+(\.\d+)?([eE][+-]?\d+)?/g;

/** What a text begins with that stands for a whole number; by chance, so that no value begins with it. */
const mark = `bigint ${crypto.getRandomValues(new Uint32Array(4)).join("-")} `;

/** Not every browser shows a reviver how a number was written, so the large ones go through as marked texts. */
function parsedWithBigInts(text) {
  const plain = JSON.parse(text);
  if (!/\d{16}/.test(text)) return plain;
  const marked = text.replace(textsAndNumbers, (found, fraction, exponent) => {
    const isWhole = found[0] !== '"' && fraction === undefined && exponent === undefined;
    return isWhole && !Number.isSafeInteger(Number(found)) ? JSON.stringify(mark + found) : found;
  });
  return JSON.parse(marked, (_, value) =>
    typeof value === "string" && value.startsWith(mark) ? BigInt(value.slice(mark.length)) : value,
  );
}

function decoded(bytes) {
  return bytes === null ? null : utf8.decode(bytes);
}
