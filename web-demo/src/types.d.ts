/** Where a subscription begins. A time is in milliseconds since 1970 UTC. */
export type Start = "earliest" | "latest" | { offset: number } | { time: number };

export interface SubscribeOptions {
  topic: string;
  /** Where to begin; the default is "latest". */
  from?: Start;
  /** Which partitions; by default all, and those that are added later. */
  partitions?: number[];
  /** Where to go on in partitions that were read before; `from` holds for the others. */
  resume?: Position[];
  /** Name or digest of a plugin that lets only some records through. */
  filter?: string;
  /** The filter's parameters. */
  params?: Record<string, string>;
}

export interface JsonOptions {
  /**
   * Whole numbers beyond `Number.MAX_SAFE_INTEGER` (2^53 - 1), either way, become a `bigint`, to the last digit. Not
   * those that are written with a point or an exponent.
   */
  bigint?: boolean;
}

/** Records of one partition, in order. Iterates over its records. */
export interface Batch extends Iterable<BatchRecord> {
  readonly topic: string;
  readonly partition: number;
  /** How many records; at least one. */
  readonly length: number;
  offset(row: number): number;
  /** Milliseconds since 1970 UTC; rounded beyond 2^53, which no date is. */
  timestamp(row: number): number;
  /** As text; null if the record has no key. */
  key(row: number): string | null;
  keyBytes(row: number): Uint8Array | null;
  /** As text; null is a tombstone. */
  value(row: number): string | null;
  valueBytes(row: number): Uint8Array | null;
  /**
   * The value read as `JSON.parse` does; throws where it is not JSON; null for a tombstone. **Numbers become
   * JavaScript's own, so whole ones beyond 2^53 - 1 (64-bit ids, nanoseconds) are rounded**, unless `bigint` is asked
   * for. `value` has the text as it is.
   */
  json(row: number, options?: JsonOptions): unknown;
  headers(row: number): [name: string, value: Uint8Array | null][];
  record(row: number): BatchRecord;
}

/** One record of a batch; what is not asked for is not decoded. */
export interface BatchRecord {
  readonly offset: number;
  readonly timestamp: number;
  readonly key: string | null;
  readonly value: string | null;
  readonly headers: [name: string, value: Uint8Array | null][];
  /** As `Batch.json`: rounds whole numbers beyond 2^53 - 1 unless `bigint` is asked for. */
  json(options?: JsonOptions): unknown;
}

/** Where a subscription stands in a partition. */
export interface Position {
  partition: number;
  /** The next offset. */
  offset: number;
  epoch: number;
}

export type SubscriptionEvent =
  /** It stands, for the first time or after a lost connection. */
  | { type: "subscribed"; positions: Position[] }
  /**
   * Records from `expected` up to `next` will never come (retention or damage). With a `next` that is not higher, the
   * broker lost history, nobody knows from where: reading begins anew at `next`, and records may come again.
   */
  | { type: "gap"; partition: number; expected: number; next: number }
  /** The broker does not take it up now; it will be asked again. */
  | { type: "delayed"; error: EddyError }
  /** The filter left out everything up to `next`. */
  | { type: "progress"; partition: number; next: number }
  /** Nothing more comes: of one partition, or of all if none is named. */
  | { type: "ended"; partition?: number; error: EddyError };

export type ConnectionState =
  | { state: "connecting" }
  | { state: "connected"; server: string }
  /** The connection was lost or could not be opened; subscriptions and produces wait. */
  | { state: "reconnecting"; retryInMs: number; reason?: string }
  | { state: "closed"; reason?: string };

/** What promises are rejected with. */
export interface EddyError extends Error {
  /** Stable, such as "unknown_topic". */
  code: string;
  /**
   * Whether the same call may succeed later without anybody changing anything. Not with "connection_lost": the call may
   * have been carried out.
   */
  retryable: boolean;
  /** Of a produce: whether records of the call may be in the log all the same. */
  maybeAppended?: boolean;
}

export interface NewRecord {
  key?: string | Uint8Array | null;
  value?: string | Uint8Array | null;
  headers?: Record<string, string | Uint8Array | null>;
  /** Milliseconds since 1970 UTC; the default is now. */
  timestamp?: number;
}

export interface ProduceOptions {
  /** By default a record's key decides, as Kafka's default partitioner does. */
  partition?: number;
}

/** Where records of a call went that travelled together; many may take several of these for one partition. */
export interface Produced {
  partition: number;
  /** Of the first; absent for a repeat that the broker remembers only as such. */
  offset: number | null;
  count: number;
  duplicate: boolean;
}

export interface TopicInfo {
  topic: string;
  durability: "disk" | "memory";
  retention_ms: number | null;
  retention_bytes: number | null;
  partitions: PartitionInfo[];
}

export interface PartitionInfo {
  partition: number;
  epoch: number;
  /** The oldest offset. */
  start: number;
  /** The offset that the next record will get. */
  end: number;
  /** What it takes on disk. */
  bytes: number;
  /** Why it serves nothing; absent while it serves. */
  stopped?: string;
}
