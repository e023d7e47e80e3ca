#!/usr/bin/env python3
"""Shows that SPEC.md is enough: a small codec written from that page alone, in
plain Python, against the golden files. Run it from anywhere, without arguments."""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "golden"
TIME = 1_700_000_000_000


# Section 2: bincode.


def varint(n):
    if n < 251:
        return bytes([n])
    for marker, code, limit in ((0xFB, "<H", 1 << 16), (0xFC, "<I", 1 << 32), (0xFD, "<Q", 1 << 64)):
        if n < limit:
            return bytes([marker]) + struct.pack(code, n)
    raise ValueError(n)


def signed(n):
    return varint(2 * n if n >= 0 else -2 * n - 1)


def text(s):
    return varint(len(s.encode())) + s.encode()


def listed(items):
    return varint(len(items)) + b"".join(items)


def struct_of(*fields):
    return varint(sum(map(len, fields))) + b"".join(fields)


def optional(encoded):
    return b"\0" if encoded is None else b"\1" + encoded


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if self.at + n > len(self.data):
            raise ValueError("the message ends too soon")
        self.at += n
        return self.data[self.at - n : self.at]

    def varint(self):
        first = self.take(1)[0]
        if first < 251:
            return first
        code = {0xFB: "<H", 0xFC: "<I", 0xFD: "<Q"}[first]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def bool(self):
        return {0: False, 1: True}[self.take(1)[0]]

    def bytes(self):
        return self.take(self.varint())

    def text(self):
        return self.bytes().decode()

    def struct(self):
        """The fields of a struct, of which those at the end may not be known here."""
        return Reader(self.bytes())

    def more(self):
        """Whether a field that was added later is there."""
        return self.at < len(self.data)

    def optional(self, read):
        return read() if self.bool() else None

    def listed(self, read):
        return [read() for _ in range(self.varint())]


# Section 5: the batch.

TABLE = []
for byte in range(256):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    TABLE.append(byte)


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def column(entries):
    ends, end = b"", 0
    for entry in entries:
        end += len(entry or b"")
        ends += struct.pack("<I", end)
    return ends + b"".join(entry or b"" for entry in entries)


def nulls(entries):
    bits = bytearray((len(entries) + 7) // 8)
    for i, entry in enumerate(entries):
        bits[i // 8] |= (entry is None) << (i % 8)
    return bytes(bits)


def blob(headers):
    if not headers:
        return b""
    parts = [struct.pack("<H", len(headers))]
    for name, value in headers:
        length = 0xFFFFFFFF if value is None else len(value)
        parts.append(struct.pack("<H", len(name)) + name + struct.pack("<I", length) + (value or b""))
    return b"".join(parts)


def encode_batch(records, producer=(0, 0, 0)):
    """Records are (timestamp, key, value, headers), without holes; not compressed."""
    times, keys, values, headers = zip(*records)
    low, high = min(times), max(times)
    columns, body = 0, b""
    if high - low >= 1 << 32:
        columns, body = 2, struct.pack(f"<{len(times)}q", *times)
    elif low != high:
        columns, body = 1, struct.pack(f"<{len(times)}I", *(time - low for time in times))
    if any(key is not None for key in keys):
        columns |= 8
        if None in keys:
            columns |= 16
            body += nulls(keys)
        body += column(keys)
    if None in values:
        columns |= 32
        body += nulls(values)
    body += column(values)
    if any(headers):
        columns |= 64
        body += column([blob(each) for each in headers])
    (identity, epoch, sequence), n = producer, len(records)
    covered = struct.pack("<BBHHHIIQIIqq", 1, 0, epoch, columns, 0, n, n, identity, sequence, len(body), low, high) + body
    return struct.pack("<QII", 0, 16 + len(covered), crc32c(covered)) + covered


def decode_batch(data):
    """The header's fields and the records as (offset, timestamp, key, value, headers)."""
    base, length, crc = struct.unpack_from("<QII", data)
    fields = struct.unpack_from("<BBHHHIIQIIqq", data, 16)
    version, compression, epoch, columns, attributes, n, span, identity, sequence, raw, low, high = fields
    assert length == len(data) and version in (1, 2) and attributes < 8
    assert crc == crc32c(data[16:] if version == 1 else data[16:68])
    header = {"base": base, "span": span, "count": n, "compression": compression, "producer": (identity, epoch, sequence)}
    header["append time"] = attributes & 1
    if version == 2:
        return header, decode_kafka(header, data[64:])
    if compression:
        return header, None
    body = Reader(data[64:])
    assert raw == len(body.data)
    unpack = lambda code: struct.unpack(f"<{n}{code}", body.take(n * struct.calcsize(code)))
    times = [lambda: (low,) * n, lambda: tuple(low + t for t in unpack("I")), lambda: unpack("q")][columns & 3]()
    if attributes & 1:
        times = (low,) * n
    offsets = unpack("I") if columns & 4 else range(n)

    def entries(has_nulls):
        bits = body.take((n + 7) // 8) if has_nulls else bytes(n)
        ends = (0,) + unpack("I")
        data = body.take(ends[-1])
        return [None if bits[i // 8] >> i % 8 & 1 else data[ends[i] : ends[i + 1]] for i in range(n)]

    keys = entries(columns & 16) if columns & 8 else [None] * n
    values = entries(columns & 32)
    headers = [read_headers(each) for each in entries(False)] if columns & 64 else [[]] * n
    assert body.at == raw and (min(times), max(times)) == (low, high)
    return header, list(zip((base + offset for offset in offsets), times, keys, values, headers))


def read_headers(data):
    if not data:
        return []
    reader = Reader(data)
    number = lambda code: struct.unpack(code, reader.take(struct.calcsize(code)))[0]
    value = lambda length: None if length == 0xFFFFFFFF else reader.take(length)
    headers = [(reader.take(number("<H")), value(number("<I"))) for _ in range(number("<H"))]
    assert reader.at == len(data)
    return headers


def decode_kafka(header, body):
    """The records of a body of Kafka's that is not compressed, from Kafka's own page."""
    crc, attributes, last, base_time, _, identity, epoch, sequence, n = struct.unpack_from(">IhiqqqhiI", body)
    assert crc == crc32c(body[4:]) and attributes == 0 and (n, last + 1) == (header["count"], header["span"])
    assert (identity, epoch, sequence) == header["producer"]
    reader, records = Reader(body[44:]), []

    def varint():
        number, shift = 0, 0
        while True:
            byte = reader.take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (number >> 1) ^ -(number & 1)
            shift += 7

    entry = lambda: None if (length := varint()) == -1 else reader.take(length)
    for _ in range(n):
        end = varint() + reader.at
        reader.take(1)
        time, offset, key, value = base_time + varint(), header["base"] + varint(), entry(), entry()
        records.append((offset, time, key, value, [(entry(), entry()) for _ in range(varint())]))
        assert reader.at == end
    assert reader.at == len(reader.data)
    return records


def cut(data):
    while data:
        length = struct.unpack_from("<I", data, 8)[0]
        yield decode_batch(data[:length])
        data = data[length:]


# Section 7: a frame of the broker, as far as a reader needs it.


def decode_server(data):
    message = Reader(data)
    number, fields = message.varint(), message.struct()
    assert not message.more(), "bytes are left behind the frame"
    if number == 1:
        frame = {"id": fields.optional(fields.varint)}
        error = fields.struct()
        frame |= {"number": error.varint(), "message": error.text(), "retryable": error.more() and error.bool()}
        return {"error": frame}
    if number == 2:
        names = ("stream", "partition", "epoch", "next")
        return {name: fields.varint() for name in names} | {"batches": list(cut(fields.bytes()))}
    if number in (3, 4):
        names = ("stream", "partition", "epoch") + (("expected", "next") if number == 3 else ("next",))
        return {name: fields.varint() for name in names}
    raise NotImplementedError(number)


# The checks.


def same(name, encoded):
    expected = (GOLDEN / f"{name}.bin").read_bytes()
    assert encoded == expected, f"{name}:\n{encoded.hex()} was encoded,\n{expected.hex()} is in the file"
    print(f"{name} encodes as its golden file")


def check_encoding():
    plain = encode_batch([(TIME, b"k1", b"one", []), (TIME + 5, b"k2", b"two", [])], (7, 1, 40))
    null = encode_batch(
        [(TIME, None, b"no key", []), (TIME, b"", b"", []), (TIME, b"k", None, []), (TIME, b"\xff\0", b"\xfe", [])]
    )
    headers = encode_batch(
        [(TIME, None, b"none", []), (TIME, None, b"two", [(b"trace", b"a1"), (b"trace", b"\xff")])]
    )
    same("batch-plain", plain)
    same("batch-nulls", null)
    same("batch-headers", headers)
    null_header = encode_batch([(TIME, None, b"v", [(b"null", None), (b"empty", b"")])])
    same("batch-null-header", null_header)
    produce = lambda batch: struct_of(text("quakes"), optional(varint(1)), varint(len(batch)), batch)
    same("client-produce", varint(5) + varint(3) + produce(plain))
    same("client-produce-nulls", varint(7) + varint(3) + produce(null))
    same("client-produce-headers", varint(8) + varint(3) + produce(headers))
    same("client-produce-null_header", varint(26) + varint(3) + produce(null_header))
    same("client-hello", varint(1) + varint(0) + struct_of(text("example 1.0"), listed([text("deliver"), text("gap")])))
    same("client-ping", varint(2) + varint(1) + struct_of())
    filters = struct_of(text("json-filter"), listed([text("where") + text("mag >= 4.5")]))
    subscribe = lambda start, resume, filters: varint(4) + struct_of(text("quakes"), listed([]), start, resume, optional(filters))
    same("client-subscribe-time", varint(12) + subscribe(varint(3) + signed(TIME), listed([]), filters))
    position = lambda partition, offset, epoch: struct_of(varint(partition), varint(offset), varint(epoch))
    resume = listed([position(0, 102, 1), position(1, 300, 1)])
    same("client-subscribe-resume", varint(13) + subscribe(varint(0), resume, None))
    cursor = struct_of(text("raw"), varint(0), varint(17), optional(None), varint(0))
    same("client-commit", varint(16) + varint(7) + struct_of(listed([produce(plain)]), optional(text("workers")), listed([cursor])))
    settings = struct_of(varint(0), optional(None), optional(None), varint(0), optional(varint(3600000)), optional(None), varint(0))
    same("client-create_topic-default", varint(20) + varint(9) + struct_of(text("raw"), varint(1), settings))


def check_decoding():
    deliver = decode_server((GOLDEN / "server-deliver.bin").read_bytes())
    records = [record for _, records in deliver.pop("batches") for record in records]
    shown = json.loads((GOLDEN / "server-deliver.json").read_text())["deliver"]
    assert deliver == {name: shown[name] for name in deliver}
    assert [(r["offset"], r["timestamp"], r["value"].encode()) for r in shown["records"]] == [
        (offset, time, value) for offset, time, _, value, _ in records
    ]
    for name in ("gap", "progress"):
        frame = decode_server((GOLDEN / f"server-{name}.bin").read_bytes())
        assert frame == json.loads((GOLDEN / f"server-{name}.json").read_text())[name], name
    header, records = decode_batch((GOLDEN / "batch-sparse.bin").read_bytes())
    assert (header["base"], header["span"], [record[0] for record in records]) == (100, 10, [102, 107])
    plain = [(0, TIME, b"k1", b"one", []), (1, TIME + 5, b"k2", b"two", [])]
    assert decode_batch((GOLDEN / "batch-kafka.bin").read_bytes())[1] == plain
    appended = [(offset, TIME + 60_000, *rest) for offset, _, *rest in plain]
    assert decode_batch((GOLDEN / "batch-append-time.bin").read_bytes())[1] == appended
    for path in sorted(GOLDEN.glob("batch-*.bin")):
        decode_batch(path.read_bytes())
    print("deliver, gap, progress and all batches decode as their golden files say")


def check_errors():
    paths = sorted(GOLDEN.glob("server-error-*.bin"))
    for path in paths:
        error = decode_server(path.read_bytes())["error"]
        shown = json.loads(path.with_suffix(".json").read_text())["error"]
        shown.pop("code")
        assert error == {"id": None} | shown, path.stem
    print(f"{len(paths)} errors decode as their golden files say")


def check_growth():
    """Section 4: frames of the broker as other releases write them."""
    read = lambda name: (GOLDEN / "growth" / f"{name}.bin").read_bytes()
    newer, older = "newer-server-error-true", "older-server-error-rebalancing"
    assert decode_server(read(newer))["error"]["retryable"] is True
    assert decode_server(read(older))["error"]["retryable"] is False
    assert decode_server(read("newer-server-deliver"))["next"] == 8
    try:
        decode_server(read("newer-server-frame"))
    except NotImplementedError as unknown:
        assert unknown.args == (99,)
    print("frames of newer and older brokers are understood")


if __name__ == "__main__":
    check_encoding()
    check_decoding()
    check_errors()
    check_growth()
