// One topic, from its first record on: its events, and the proof by offsets
// that none is missing and none came twice.
//
// The offsets of a topic are dense, so each partition is checked by one number:
// the offset that has to come next.

const RETRY_MS = 2000;

export class Feed {
  /** Partition number → { first, next, records, missing, repeated }. */
  partitions = new Map();
  /** Why there is nothing to see, or null: { code, message }. */
  trouble = null;

  #client;
  #onEvents;
  #onChange;

  constructor(client, topic, onEvents, onChange) {
    this.topic = topic;
    this.#client = client;
    this.#onEvents = onEvents;
    this.#onChange = onChange;
    this.#subscribe();
  }

  /** A sum over the partitions, of `records`, `missing` or `repeated`. */
  total(what) {
    let sum = 0;
    for (const partition of this.partitions.values()) sum += partition[what];
    return sum;
  }

  async #subscribe() {
    try {
      const from = "earliest";
      await this.#client.subscribe(
        { topic: this.topic, from },
        (batch) => this.#receive(batch),
        (event) => this.#hear(event),
      );
      this.trouble = null;
    } catch (error) {
      this.#again(error);
    }
    this.#onChange();
  }

  /** The topic may not be there yet, or not any more: ask until it is. */
  #again(error) {
    this.trouble = error;
    setTimeout(() => this.#subscribe(), RETRY_MS);
  }

  #receive(batch) {
    const partition = this.#partition(batch.partition, batch.offset(0));
    const events = [];
    for (let row = 0; row < batch.length; row++) {
      const offset = batch.offset(row);
      if (offset < partition.next) {
        partition.repeated++;
        continue;
      }
      partition.missing += offset - partition.next;
      partition.next = offset + 1;
      partition.records++;
      const event = parsed(batch.value(row));
      if (event) events.push(event);
    }
    this.#onEvents(this.topic, events);
  }

  #hear(event) {
    if (event.type === "subscribed") {
      for (const { partition, offset } of event.positions) this.#partition(partition, offset);
    } else if (event.type === "gap") {
      const partition = this.#partition(event.partition, event.expected);
      partition.missing += Math.max(0, event.next - event.expected);
      partition.next = event.next;
    } else if (event.type === "ended" && event.partition === undefined) {
      // Another topic of this name would begin anew.
      this.partitions.clear();
      this.#again(event.error);
    } else if (event.type === "ended") {
      this.trouble = event.error;
    }
    this.#onChange();
  }

  #partition(number, offset) {
    let partition = this.partitions.get(number);
    if (!partition) {
      partition = { first: offset, next: offset, records: 0, missing: 0, repeated: 0 };
      this.partitions.set(number, partition);
    }
    return partition;
  }
}

/** The event in a record's value; null for what is not one. */
function parsed(text) {
  try {
    const event = JSON.parse(text);
    return event !== null && typeof event === "object" && Number.isFinite(event.time) ? event : null;
  } catch {
    return null;
  }
}
